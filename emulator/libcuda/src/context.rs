//! Contexts: what belongs together, and fails together.

use std::collections::{BTreeMap, HashMap};
use std::thread::ThreadId;

use crate::driver::{CURRENT, Handle, Session, State};
use crate::error::{Error, Result};
use crate::stream::Order;

/// A context.
pub struct Context {
    /// Ordinal.
    pub device: usize,
    pub primary: bool,
    pub flags: u32,
    /// What went wrong in it; every later call says so again.
    pub failed: Option<Error>,
    /// The legacy default stream.
    pub legacy: Handle,
    /// Default streams of threads.
    pub per_thread: HashMap<ThreadId, Handle>,
    /// Limits that have been set, by number.
    pub limits: BTreeMap<u32, usize>,
    pub cache_config: u32,
    pub shared_config: u32,
}

impl State {
    /// The current context, if it is usable.
    pub fn current(&self) -> Result<Handle> {
        let handle = self.current_even_if_failed()?;
        match self.contexts[&handle].failed {
            Some(error) => Err(error),
            None => Ok(handle),
        }
    }

    /// The current context.
    pub fn current_even_if_failed(&self) -> Result<Handle> {
        let current = CURRENT.with_borrow(|contexts| contexts.last().copied());
        match current {
            Some(handle) if self.contexts.contains_key(&handle) => Ok(handle),
            Some(_) => Err(Error::CONTEXT_IS_DESTROYED),
            None => Err(Error::INVALID_CONTEXT),
        }
    }

    /// A context that the program names.
    pub fn context(&self, handle: Handle) -> Result<&Context> {
        self.contexts.get(&handle).ok_or(Error::INVALID_CONTEXT)
    }

    /// A context that the program names, or, for null, the current one.
    pub fn context_or_current(&self, handle: Handle) -> Result<Handle> {
        match handle {
            0 => self.current(),
            handle => self.context(handle).map(|_| handle),
        }
    }

    pub fn context_mut(&mut self, handle: Handle) -> Result<&mut Context> {
        self.contexts.get_mut(&handle).ok_or(Error::INVALID_CONTEXT)
    }

    /// Why nothing more can be done in a context, if so.
    pub fn failure(&self, context: Handle) -> Result {
        match self
            .contexts
            .get(&context)
            .and_then(|context| context.failed)
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Ordinal of the current context's device.
    pub fn current_device(&self) -> Result<usize> {
        Ok(self.contexts[&self.current()?].device)
    }

    pub fn new_context(&mut self, device: usize, primary: bool, flags: u32) -> Handle {
        let handle = self.handle();
        let legacy = self.new_stream(handle, Order::Legacy, 0, 0);
        let context = Context {
            device,
            primary,
            flags,
            failed: None,
            legacy,
            per_thread: HashMap::new(),
            limits: BTreeMap::new(),
            cache_config: 0,
            shared_config: 0,
        };
        self.contexts.insert(handle, context);
        handle
    }

    /// The primary context of a device, made if there is none.
    pub fn primary(&mut self, ordinal: i32) -> Result<Handle> {
        let device = self.device(ordinal)?;
        if let Some(context) = device.primary {
            return Ok(context);
        }
        let context = self.new_context(ordinal as usize, true, device.primary_flags);
        self.device_mut(ordinal)?.primary = Some(context);
        Ok(context)
    }
}

impl Session {
    /// Ends a context with all that belongs to it.
    pub fn destroy_context(&mut self, handle: Handle) -> Result {
        self.context(handle)?;
        // What it still had to do is done; whether that failed concerns nobody any more.
        let _ = self.finish_context(handle);
        let device = self.context(handle)?.device;
        self.modules.retain(|_, module| module.context != handle);
        self.functions
            .retain(|_, function| function.context != handle);
        self.streams.retain(|_, stream| stream.context != handle);
        self.events.retain(|_, event| event.context != handle);
        self.captures.retain(|_, capture| capture.context != handle);
        let lost = self.allocations.values();
        let lost: Vec<u64> = lost
            .filter(|allocation| allocation.context == handle)
            .map(|allocation| allocation.base)
            .collect();
        for base in lost {
            self.release(base);
        }
        self.contexts.remove(&handle);
        if self.devices[device].primary == Some(handle) {
            self.devices[device].primary = None;
        }
        Ok(())
    }
}
