//! Streams: work in order, done as late and in as adverse an order as the API allows.
//!
//! What is enqueued waits. A call that has to wait for work does it, and on the way some of what
//! else could be done: which stream goes next is drawn from the seed. So what a program forgets to
//! wait for is not done, or done in another order, as on a busy GPU.

use std::collections::VecDeque;
use std::thread;

use crate::abi;
use crate::driver::{Handle, Session, State, known};
use crate::error::{Error, Result};
use crate::work::Work;

/// Work that a stream holds before enqueueing more has to wait.
const MOST_PENDING: usize = 1024;

/// What a stream is ordered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The stream 0: with every blocking stream of its context.
    Legacy,
    /// With the legacy stream.
    Blocking,
    /// With none.
    NonBlocking,
}

/// A stream.
pub struct Stream {
    pub context: Handle,
    pub order: Order,
    pub priority: i32,
    pub flags: u32,
    /// Ticket of the latest work.
    pub last: u64,
    queue: VecDeque<Pending>,
    /// Whether a thread is doing the first of the queue.
    busy: bool,
    /// The capture that it takes part in.
    pub capture: Option<Handle>,
}

/// A place in a stream: all up to this ticket.
pub type Point = (Handle, u64);

struct Pending {
    ticket: u64,
    work: Work,
    /// What has to be done before.
    after: Vec<Point>,
}

impl State {
    pub fn new_stream(
        &mut self,
        context: Handle,
        order: Order,
        priority: i32,
        flags: u32,
    ) -> Handle {
        let handle = self.handle();
        let stream = Stream {
            context,
            order,
            priority,
            flags,
            last: 0,
            queue: VecDeque::new(),
            busy: false,
            capture: None,
        };
        self.streams.insert(handle, stream);
        handle
    }

    /// The stream that a handle stands for: 0, 1 and 2 are the default ones of the current context.
    pub fn stream(&mut self, handle: Handle) -> Result<Handle> {
        let per_thread = match handle {
            0 => abi::zero_is_per_thread(),
            1 => false,
            2 => true,
            handle => {
                let context = known(&self.streams, handle)?.context;
                self.failure(context)?;
                return Ok(handle);
            }
        };
        let current = self.current()?;
        let context = &self.contexts[&current];
        if !per_thread {
            return Ok(context.legacy);
        }
        let thread = thread::current().id();
        if let Some(&stream) = context.per_thread.get(&thread) {
            return Ok(stream);
        }
        let stream = self.new_stream(current, Order::Blocking, 0, 0);
        self.context_mut(current)?.per_thread.insert(thread, stream);
        Ok(stream)
    }

    /// Whether all up to a point has been done.
    pub fn is_done(&self, (stream, ticket): Point) -> bool {
        let first = self
            .streams
            .get(&stream)
            .and_then(|stream| stream.queue.front());
        first.is_none_or(|pending| pending.ticket > ticket)
    }

    /// The end of a stream as it is now.
    pub fn end_of(&self, stream: Handle) -> Point {
        (
            stream,
            self.streams.get(&stream).map_or(0, |stream| stream.last),
        )
    }

    /// What new work of a stream has to wait for in others.
    fn implied(&self, stream: Handle) -> Vec<Point> {
        let own = &self.streams[&stream];
        let other = match own.order {
            Order::Legacy => Order::Blocking,
            Order::Blocking => Order::Legacy,
            Order::NonBlocking => return Vec::new(),
        };
        let others = self.streams.iter();
        others
            .filter(|(_, stream)| stream.context == own.context && stream.order == other)
            .filter(|(_, stream)| !stream.queue.is_empty())
            .map(|(&handle, stream)| (handle, stream.last))
            .collect()
    }

    /// Streams whose next work could be done now.
    fn ready(&self) -> Vec<Handle> {
        let streams = self.streams.iter().filter(|(_, stream)| {
            let first = stream.queue.front();
            !stream.busy
                && first.is_some_and(|first| first.after.iter().all(|&point| self.is_done(point)))
        });
        streams.map(|(&handle, _)| handle).collect()
    }
}

impl Session {
    /// Enqueues work, or records it if the stream is capturing.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Result {
        self.submit_after(stream, work, Vec::new())
    }

    /// As [`Session::submit`], behind points in other streams.
    pub fn submit_after(&mut self, stream: Handle, work: Work, mut after: Vec<Point>) -> Result {
        if self.streams[&stream].capture.is_some() {
            return self.record(stream, work);
        }
        self.refuse_implicit(stream)?;
        after.extend(self.implied(stream));
        let Some(queue) = self.streams.get_mut(&stream) else {
            return Err(Error::INVALID_HANDLE);
        };
        queue.last += 1;
        let ticket = queue.last;
        queue.queue.push_back(Pending {
            ticket,
            work,
            after,
        });
        let full = queue.queue.len() > MOST_PENDING;
        if self.settings.eager {
            return self.finish((stream, ticket));
        }
        match full {
            true => self.finish((stream, ticket - MOST_PENDING as u64 / 2)),
            false => Ok(()),
        }
    }

    /// Does work until a point is reached.
    ///
    /// # Errors
    /// What has gone wrong in the stream's context, now or earlier.
    pub fn finish(&mut self, point: Point) -> Result {
        let Some(context) = self.streams.get(&point.0).map(|stream| stream.context) else {
            return Ok(());
        };
        while !self.is_done(point) {
            self.step()?;
        }
        self.failure(context)
    }

    /// Does all that streams of a context hold.
    ///
    /// # Errors
    /// As for [`Session::finish`].
    pub fn finish_context(&mut self, context: Handle) -> Result {
        let streams = self.streams.iter();
        let ends: Vec<Point> = streams
            .filter(|(_, stream)| stream.context == context)
            .map(|(&handle, stream)| (handle, stream.last))
            .collect();
        for end in ends {
            self.finish(end)?;
        }
        self.failure(context)
    }

    /// Does one piece of work, of a stream drawn from those that can go on; so polling gets on.
    pub fn poll(&mut self) {
        if !self.ready().is_empty() {
            let _ = self.step();
        }
    }

    /// Does one piece of work, or waits for another thread that does. What goes wrong is noted in
    /// the stream's context.
    fn step(&mut self) -> Result {
        let ready = self.ready();
        if ready.is_empty() {
            if self.streams.values().any(|stream| stream.busy) {
                self.wait();
                return Ok(());
            }
            crate::say("streams wait for one another in a circle");
            return Err(Error::UNKNOWN);
        }
        let drawn = ready[self.draw(ready.len())];
        let Some(stream) = self.streams.get_mut(&drawn) else {
            return Ok(());
        };
        let context = stream.context;
        let Some(work) = stream.queue.front().map(|pending| pending.work.clone()) else {
            return Ok(());
        };
        stream.busy = true;
        // What a program wants to have called may wait for the thread that is here: as in a driver,
        // it is called on another one.
        if let Work::Call { .. } | Work::CallBack { .. } = work {
            thread::spawn(move || {
                work.call();
                if let Ok(mut session) = Session::open() {
                    session.leave(drawn);
                }
                Session::announce();
            });
            return Ok(());
        }
        let result = self.execute(context, &work);
        self.leave(drawn);
        if let Err(error) = result {
            self.fail(context, error);
        }
        Ok(())
    }

    /// Notes that the first piece of a stream's work has been done.
    fn leave(&mut self, stream: Handle) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.busy = false;
            stream.queue.pop_front();
        }
    }

    /// Notes that a context is beyond use, and forgets what it still had to do.
    fn fail(&mut self, context: Handle, error: Error) {
        if let Ok(context) = self.context_mut(context) {
            context.failed.get_or_insert(error);
        }
        for stream in self.streams.values_mut() {
            if stream.context == context {
                let keep = usize::from(stream.busy);
                stream.queue.truncate(keep);
            }
        }
    }
}
