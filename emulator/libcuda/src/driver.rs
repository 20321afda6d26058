//! The state of the driver: one value behind one lock.
//!
//! Handles are numbers that are never used twice, looked up in tables, so that a wrong one is an
//! error and nothing worse. A [`Session`] holds the lock for the duration of a call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use ptx_emulator::{Config, Emulator, Gpu};

use crate::capture::Capture;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::graph::{Exec, Graph};
use crate::memory::{Allocation, Pool};
use crate::module::{Function, Module};
use crate::settings::Settings;
use crate::stream::Stream;

/// A handle as C sees it: an opaque pointer.
pub type Handle = usize;

/// Distance between the addresses of two devices.
const DEVICE_SPAN: u64 = 1 << 40;

/// A device.
pub struct Device {
    pub emulator: Emulator,
    pub gpu: Gpu,
    /// The primary context while it exists.
    pub primary: Option<Handle>,
    /// How often the primary context has been retained.
    pub retained: u32,
    pub primary_flags: u32,
    pub default_pool: Handle,
    pub pool: Handle,
}

/// All there is.
pub struct State {
    pub settings: Settings,
    pub devices: Vec<Device>,
    pub contexts: BTreeMap<Handle, Context>,
    pub streams: BTreeMap<Handle, Stream>,
    pub events: BTreeMap<Handle, Event>,
    pub modules: BTreeMap<Handle, Module>,
    pub functions: BTreeMap<Handle, Function>,
    /// By address.
    pub allocations: BTreeMap<u64, Allocation>,
    pub pools: BTreeMap<Handle, Pool>,
    pub captures: BTreeMap<Handle, Capture>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub execs: BTreeMap<Handle, Exec>,
    next: Handle,
    random: u64,
}

impl State {
    fn new(settings: Settings) -> State {
        let mut state = State {
            random: settings.config.seed,
            devices: Vec::new(),
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            allocations: BTreeMap::new(),
            pools: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            execs: BTreeMap::new(),
            // Looks like an address, and is none that a program could have.
            next: 0x0c0d_a000_0000,
            settings,
        };
        for (ordinal, gpu) in state.settings.gpus.clone().into_iter().enumerate() {
            let config = Config {
                gpu: gpu.clone(),
                ..state.settings.config.clone()
            };
            let pool = state.handle();
            state.pools.insert(pool, Pool::new(ordinal, true));
            state.devices.push(Device {
                emulator: Emulator::with_addresses(config, ordinal as u64 * DEVICE_SPAN),
                gpu,
                primary: None,
                retained: 0,
                primary_flags: 0,
                default_pool: pool,
                pool,
            });
        }
        state
    }

    /// A number that no handle has had.
    pub fn handle(&mut self) -> Handle {
        self.next += 0x10;
        self.next
    }

    /// A number below `below`, drawn from the seed.
    pub fn draw(&mut self, below: usize) -> usize {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    /// The device of an ordinal.
    pub fn device(&self, ordinal: i32) -> Result<&Device> {
        let index = usize::try_from(ordinal).map_err(|_| Error::INVALID_DEVICE)?;
        self.devices.get(index).ok_or(Error::INVALID_DEVICE)
    }

    pub fn device_mut(&mut self, ordinal: i32) -> Result<&mut Device> {
        let index = usize::try_from(ordinal).map_err(|_| Error::INVALID_DEVICE)?;
        self.devices.get_mut(index).ok_or(Error::INVALID_DEVICE)
    }
}

/// What is looked up by a handle that the program gives.
pub fn known<T>(table: &BTreeMap<Handle, T>, handle: Handle) -> Result<&T> {
    table.get(&handle).ok_or(Error::INVALID_HANDLE)
}

/// As [`known`], to be changed.
pub fn known_mut<T>(table: &mut BTreeMap<Handle, T>, handle: Handle) -> Result<&mut T> {
    table.get_mut(&handle).ok_or(Error::INVALID_HANDLE)
}

static STATE: OnceLock<std::result::Result<Mutex<State>, String>> = OnceLock::new();
static PROGRESS: Condvar = Condvar::new();

thread_local! {
    /// The thread's contexts, the current one last.
    pub static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// Whether a function of the program's runs in a stream, which must not call the driver.
    pub static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Reads the environment and makes the devices, the first time.
pub fn initialise() -> Result {
    let state = STATE.get_or_init(|| {
        let settings = Settings::read(|name| std::env::var(name).ok())?;
        Ok(Mutex::new(State::new(settings)))
    });
    match state {
        Ok(state) => {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match state.devices.is_empty() {
                true => Err(Error::NO_DEVICE),
                false => Ok(()),
            }
        }
        Err(message) => {
            crate::say(message);
            Err(Error::INVALID_VALUE)
        }
    }
}

/// Tells a call and what came of it, if that is wanted.
pub fn trace(name: &str, result: Result) {
    let level = match STATE.get() {
        Some(Ok(state)) => match state.try_lock() {
            Ok(state) => state.settings.trace,
            Err(_) => 0,
        },
        _ => 0,
    };
    match result {
        Err(error) if level > 0 && error != Error::NOT_READY => {
            crate::say(&format!("{name}: {error}"));
        }
        _ if level > 1 => crate::say(name),
        _ => (),
    }
}

/// The driver, for the duration of a call.
pub struct Session {
    guard: Option<MutexGuard<'static, State>>,
}

impl Session {
    /// Waits for its turn.
    ///
    /// # Errors
    /// `NOT_INITIALIZED` before `cuInit`; `NOT_PERMITTED` in a function that a stream calls.
    pub fn open() -> Result<Session> {
        if IN_CALLBACK.get() {
            return Err(Error::NOT_PERMITTED);
        }
        match STATE.get() {
            Some(Ok(state)) => Ok(Session {
                guard: Some(state.lock().unwrap_or_else(PoisonError::into_inner)),
            }),
            _ => Err(Error::NOT_INITIALIZED),
        }
    }

    /// Runs something that may wait for other threads, which may call the driver.
    pub fn unlocked(&mut self, function: impl FnOnce()) {
        self.guard = None;
        function();
        if let Some(Ok(state)) = STATE.get() {
            self.guard = Some(state.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Session::announce();
    }

    /// Wakes those that [`Session::wait`].
    pub fn announce() {
        PROGRESS.notify_all();
    }

    /// Waits until another thread has got on.
    pub fn wait(&mut self) {
        if let Some(guard) = self.guard.take() {
            let guard = PROGRESS.wait(guard);
            self.guard = Some(guard.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Deref for Session {
    type Target = State;
    fn deref(&self) -> &State {
        match &self.guard {
            Some(state) => state,
            None => unreachable!("only unlocked and wait give it away, and both take it back"),
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut State {
        match &mut self.guard {
            Some(state) => state,
            None => unreachable!("only unlocked and wait give it away, and both take it back"),
        }
    }
}
