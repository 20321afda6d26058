//! Events: points in streams that have a name.

use std::time::Instant;

use crate::driver::{Handle, Session, known, known_mut};
use crate::error::{Error, Result};
use crate::stream::Point;
use crate::work::Work;

/// `CU_EVENT_DISABLE_TIMING`.
pub const DISABLE_TIMING: u32 = 2;

/// An event.
pub struct Event {
    pub context: Handle,
    pub flags: u32,
    pub recorded: Recorded,
    /// When the latest record was reached.
    pub reached: Option<Instant>,
}

/// Where an event was last recorded.
#[derive(Clone, PartialEq)]
pub enum Recorded {
    Nowhere,
    At(Point),
    /// In a capture, behind these nodes.
    Captured {
        capture: Handle,
        behind: Vec<Handle>,
    },
}

impl Session {
    pub fn new_event(&mut self, context: Handle, flags: u32) -> Handle {
        let handle = self.handle();
        let event = Event {
            context,
            flags,
            recorded: Recorded::Nowhere,
            reached: None,
        };
        self.events.insert(handle, event);
        handle
    }

    /// Records an event at the end of a stream.
    pub fn record_event(&mut self, event: Handle, stream: Handle) -> Result {
        if known(&self.events, event)?.context != self.streams[&stream].context {
            return Err(Error::INVALID_HANDLE);
        }
        if let Some(capture) = self.streams[&stream].capture {
            self.valid(capture)?;
            let behind = self.captures[&capture].ends[&stream].clone();
            known_mut(&mut self.events, event)?.recorded = Recorded::Captured { capture, behind };
            return Ok(());
        }
        let (_, last) = self.end_of(stream);
        let point = (stream, last + 1);
        let place = known_mut(&mut self.events, event)?;
        place.recorded = Recorded::At(point);
        place.reached = None;
        self.submit(stream, Work::Record { event, point })
    }

    /// Lets a stream wait for an event.
    pub fn wait_event(&mut self, stream: Handle, event: Handle) -> Result {
        let recorded = known(&self.events, event)?.recorded.clone();
        let capture = self.streams[&stream].capture;
        match (recorded, capture) {
            (Recorded::Captured { capture, behind }, _) if self.captures.contains_key(&capture) => {
                self.join(capture, stream, &behind)
            }
            (_, Some(capture)) => Err(self.invalidate(capture, Error::STREAM_CAPTURE_ISOLATION)),
            (Recorded::At(point), None) => self.submit_after(stream, Work::Nothing, vec![point]),
            _ => Ok(()),
        }
    }

    /// Whether what an event stands for has been done, after giving it a chance.
    pub fn event_done(&mut self, event: Handle) -> Result<bool> {
        let (context, recorded) = self.outside_capture(event)?;
        let Recorded::At(point) = recorded else {
            return Ok(true);
        };
        self.poll();
        self.failure(context)?;
        Ok(self.is_done(point))
    }

    /// Waits for an event.
    pub fn finish_event(&mut self, event: Handle) -> Result {
        let (context, recorded) = self.outside_capture(event)?;
        if let Recorded::At(point) = recorded {
            self.finish(point)?;
        }
        self.failure(context)
    }

    /// Context and place of an event that does not belong to a capture in progress.
    fn outside_capture(&mut self, event: Handle) -> Result<(Handle, Recorded)> {
        let event = known(&self.events, event)?;
        let (context, recorded) = (event.context, event.recorded.clone());
        self.failure(context)?;
        match recorded {
            Recorded::Captured { capture, .. } if self.captures.contains_key(&capture) => {
                Err(self.invalidate(capture, Error::CAPTURED_EVENT))
            }
            recorded => Ok((context, recorded)),
        }
    }

    /// Milliseconds of the host's clock between two events: how long the emulator took, which says
    /// nothing about a GPU.
    pub fn elapsed(&mut self, start: Handle, end: Handle) -> Result<f32> {
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([start, end]) {
            let event = known(&self.events, handle)?;
            let Recorded::At(point) = event.recorded else {
                return Err(Error::INVALID_HANDLE);
            };
            if event.flags & DISABLE_TIMING != 0 {
                return Err(Error::INVALID_HANDLE);
            }
            self.failure(event.context)?;
            if !self.is_done(point) {
                return Err(Error::NOT_READY);
            }
            *time = event.reached;
        }
        let [Some(start), Some(end)] = times else {
            return Err(Error::NOT_READY);
        };
        crate::say_once("times between events are those of the emulation, not of a GPU");
        let forward = end.saturating_duration_since(start).as_secs_f64();
        let backward = start.saturating_duration_since(end).as_secs_f64();
        Ok(((forward - backward) * 1e3) as f32)
    }
}
