//! Stream capture: recording work into a graph instead of doing it.
//!
//! A call that capture forbids is refused and invalidates the capture: what is recorded later is
//! refused too, and ending the capture gives no graph.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::stream::Order;
use crate::work::Work;

/// How far a capture, or a thread, guards against calls that capture cannot record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mode {
    /// Against those of any thread.
    Global = 0,
    /// Against those of the own thread.
    ThreadLocal = 1,
    /// Not at all.
    Relaxed = 2,
}

impl Mode {
    pub fn of(value: u32) -> Result<Mode> {
        match value {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Error::INVALID_VALUE),
        }
    }
}

thread_local! {
    /// The thread's own mode, as `cuThreadExchangeStreamCaptureMode` sets it.
    pub static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture in progress.
pub struct Capture {
    pub context: Handle,
    /// The stream where it began, and must end.
    pub origin: Handle,
    pub mode: Mode,
    thread: ThreadId,
    pub graph: Handle,
    /// Of each stream that takes part: the nodes that its next one comes after.
    pub ends: BTreeMap<Handle, Vec<Handle>>,
    /// Whether a forbidden call has spoilt it.
    pub invalid: bool,
}

impl Session {
    pub fn begin_capture(&mut self, stream: Handle, mode: Mode) -> Result {
        let own = &self.streams[&stream];
        let context = own.context;
        if own.order == Order::Legacy {
            return Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        }
        if let Some(capture) = own.capture {
            return Err(self.invalidate(capture, Error::ILLEGAL_STATE));
        }
        let graph = self.handle();
        self.graphs.insert(graph, Graph::default());
        let handle = self.handle();
        let capture = Capture {
            context,
            origin: stream,
            mode,
            thread: thread::current().id(),
            graph,
            ends: BTreeMap::from([(stream, Vec::new())]),
            invalid: false,
        };
        self.captures.insert(handle, capture);
        self.set_capture(stream, Some(handle));
        Ok(())
    }

    /// Ends the capture that began in this stream.
    ///
    /// # Errors
    /// Why there is no graph. The streams have left the capture nevertheless, unless it was not
    /// this stream's or this thread's to end.
    pub fn end_capture(&mut self, stream: Handle) -> Result<Handle> {
        let Some(handle) = self.streams[&stream].capture else {
            return Err(Error::ILLEGAL_STATE);
        };
        let capture = &self.captures[&handle];
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            return Err(self.invalidate(handle, Error::STREAM_CAPTURE_UNMATCHED));
        }
        let Some(capture) = self.captures.remove(&handle) else {
            return Err(Error::ILLEGAL_STATE);
        };
        for &member in capture.ends.keys() {
            self.set_capture(member, None);
        }
        let graph = &self.graphs[&capture.graph];
        let joined = graph.up_to(&capture.ends[&stream]);
        let unjoined = graph.nodes.keys().any(|node| !joined.contains(node));
        let error = match (capture.invalid, unjoined) {
            (true, _) => Error::STREAM_CAPTURE_INVALIDATED,
            (_, true) => Error::STREAM_CAPTURE_UNJOINED,
            _ => return Ok(capture.graph),
        };
        self.graphs.remove(&capture.graph);
        Err(error)
    }

    /// Records work of a capturing stream.
    pub fn record(&mut self, stream: Handle, work: Work) -> Result {
        let Some(capture) = self.streams[&stream].capture else {
            return Err(Error::ILLEGAL_STATE);
        };
        self.valid(capture)?;
        let after = self.captures[&capture].ends[&stream].clone();
        let graph = self.captures[&capture].graph;
        let node = self.handle();
        if let Some(graph) = self.graphs.get_mut(&graph) {
            graph.nodes.insert(node, Node { work, after });
        }
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.ends.insert(stream, vec![node]);
        }
        Ok(())
    }

    /// Lets a stream take part, or wait within the capture.
    pub fn join(&mut self, capture: Handle, stream: Handle, behind: &[Handle]) -> Result {
        self.valid(capture)?;
        let own = &self.streams[&stream];
        if own.order == Order::Legacy {
            return Err(self.invalidate(capture, Error::STREAM_CAPTURE_IMPLICIT));
        }
        if let Some(other) = own.capture
            && other != capture
        {
            self.invalidate(other, Error::STREAM_CAPTURE_MERGE);
            return Err(self.invalidate(capture, Error::STREAM_CAPTURE_MERGE));
        }
        self.set_capture(stream, Some(capture));
        if let Some(capture) = self.captures.get_mut(&capture) {
            let ends = capture.ends.entry(stream).or_default();
            ends.extend(
                behind
                    .iter()
                    .filter(|node| !ends.contains(node))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        Ok(())
    }

    /// Refuses what a capture that was invalidated can no longer do.
    pub fn valid(&self, capture: Handle) -> Result {
        match self.captures.get(&capture) {
            Some(capture) if !capture.invalid => Ok(()),
            _ => Err(Error::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Invalidates a capture because of a forbidden call, which gets `error`.
    pub fn invalidate(&mut self, capture: Handle, error: Error) -> Error {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
        error
    }

    /// Refuses to wait for a stream, or to ask after it, while it captures.
    pub fn refuse_captured(&mut self, stream: Handle) -> Result {
        match self.streams[&stream].capture {
            Some(capture) => Err(self.invalidate(capture, Error::STREAM_CAPTURE_UNSUPPORTED)),
            None => self.refuse_implicit(stream),
        }
    }

    /// Refuses use of the legacy stream while a stream that it is ordered with captures.
    pub fn refuse_implicit(&mut self, stream: Handle) -> Result {
        match self.implicit(stream) {
            Some(capture) => Err(self.invalidate(capture, Error::STREAM_CAPTURE_IMPLICIT)),
            None => Ok(()),
        }
    }

    /// The capture that use of a stream would have to become part of, if it is the legacy one.
    pub fn implicit(&self, stream: Handle) -> Option<Handle> {
        let own = &self.streams[&stream];
        if own.order != Order::Legacy {
            return None;
        }
        self.streams.values().find_map(|stream| {
            let related = stream.context == own.context && stream.order == Order::Blocking;
            stream.capture.filter(|_| related)
        })
    }

    /// Refuses to wait for a context while one of its streams captures.
    pub fn refuse_captures_of(&mut self, context: Handle) -> Result {
        let captures = self.captures.iter();
        let captured = captures.filter(|(_, capture)| capture.context == context);
        let captured: Vec<Handle> = captured.map(|(&handle, _)| handle).collect();
        if captured.is_empty() {
            return Ok(());
        }
        for capture in captured {
            self.invalidate(capture, Error::STREAM_CAPTURE_UNSUPPORTED);
        }
        Err(Error::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses a call that capture cannot record and that may wait, such as allocating: the modes of
    /// the captures and of the thread decide.
    pub fn refuse_unsafe(&mut self) -> Result {
        let (thread, mode) = (thread::current().id(), THREAD_MODE.get());
        let guards = |capture: &Capture| match mode {
            Mode::Relaxed => false,
            _ if capture.thread == thread => capture.mode != Mode::Relaxed,
            Mode::ThreadLocal => false,
            Mode::Global => capture.mode == Mode::Global,
        };
        let mut refused = false;
        for capture in self.captures.values_mut().filter(|capture| guards(capture)) {
            capture.invalid = true;
            refused = true;
        }
        match refused {
            true => Err(Error::STREAM_CAPTURE_UNSUPPORTED),
            false => Ok(()),
        }
    }

    fn set_capture(&mut self, stream: Handle, capture: Option<Handle>) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = capture;
        }
    }
}
