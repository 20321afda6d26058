//! What streams and graphs do.

use std::sync::Arc;
use std::time::Instant;

use ptx_emulator::mutate::Handover;
use ptx_emulator::{Emulator, Kind, LaunchConfig, LaunchError, MemoryError};

use crate::abi::{self, HostFn, StreamCallback};
use crate::driver::{Handle, IN_CALLBACK, Session};
use crate::error::{Error, Result};
use crate::event::Recorded;
use crate::graph::Graph;
use crate::host;
use crate::stream::Point;

/// A piece of work.
#[derive(Clone)]
pub enum Work {
    /// None: a point to wait for.
    Nothing,
    Launch(Arc<Launch>),
    Copy(Copy),
    Fill(Fill),
    /// A function of the program's.
    Call {
        function: HostFn,
        data: usize,
    },
    /// The same, told the stream and its state.
    CallBack {
        function: StreamCallback,
        stream: usize,
        data: usize,
    },
    Record {
        event: Handle,
        point: Point,
    },
    Free(u64),
    Graph(Arc<Graph>),
}

/// A kernel with all that it needs.
pub struct Launch {
    pub function: Handle,
    pub kernel: ptx_emulator::Kernel,
    pub device: usize,
    pub config: LaunchConfig,
    pub params: Vec<Vec<u8>>,
}

/// One side of a copy.
#[derive(Clone, Debug)]
pub enum Side {
    /// An address in a device's memory.
    Device(u64),
    /// An address in the program's memory.
    Host(usize),
    /// What was in the program's memory when the copy was asked for.
    Kept(Arc<[u8]>),
}

/// Rows of bytes from here to there.
#[derive(Clone, Debug)]
pub struct Copy {
    pub to: Side,
    pub from: Side,
    /// Bytes of a row.
    pub width: usize,
    pub rows: usize,
    /// Distances between rows.
    pub to_pitch: usize,
    pub from_pitch: usize,
}

/// Rows of equal elements.
#[derive(Clone, Debug)]
pub struct Fill {
    pub to: u64,
    /// The element's bytes: 1, 2 or 4 of them.
    pub value: [u8; 4],
    pub size: usize,
    /// Elements of a row.
    pub width: usize,
    pub rows: usize,
    pub pitch: usize,
}

impl Work {
    /// Calls the function that this is about, if it is about one, as one that must not call the
    /// driver.
    pub fn call(&self) {
        let before = IN_CALLBACK.replace(true);
        match *self {
            Work::Call { function, data } => abi::call(function, data),
            Work::CallBack {
                function,
                stream,
                data,
            } => abi::call_back(function, stream, 0, data),
            _ => (),
        }
        IN_CALLBACK.set(before);
    }
}

impl Copy {
    /// One row.
    pub fn plain(to: Side, from: Side, bytes: usize) -> Copy {
        Copy {
            to,
            from,
            width: bytes,
            rows: 1,
            to_pitch: bytes,
            from_pitch: bytes,
        }
    }
}

impl Session {
    /// Does a piece of work in a context.
    ///
    /// # Errors
    /// What is now wrong with the context.
    pub fn execute(&mut self, context: Handle, work: &Work) -> Result {
        match work {
            Work::Nothing => Ok(()),
            Work::Launch(launch) => self.run_kernel(launch),
            Work::Copy(copy) => self.copy(copy),
            Work::Fill(fill) => self.fill(fill),
            Work::Call { .. } | Work::CallBack { .. } => {
                self.unlocked(|| work.call());
                Ok(())
            }
            Work::Record { event, point } => {
                if let Some(event) = self.events.get_mut(event)
                    && event.recorded == Recorded::At(*point)
                {
                    event.reached = Some(Instant::now());
                }
                Ok(())
            }
            Work::Free(address) => {
                self.release(*address);
                Ok(())
            }
            Work::Graph(graph) => self.run_graph(context, graph),
        }
    }

    fn run_kernel(&mut self, launch: &Launch) -> Result {
        let emulator = self.devices[launch.device].emulator.clone();
        let before = self.lend_host_memory(&emulator)?;
        let params: Vec<&[u8]> = launch.params.iter().map(Vec::as_slice).collect();
        let result = emulator.launch(&launch.kernel, &launch.config, &params);
        take_back_host_memory(&emulator, &before)?;
        match result {
            Ok(stats) => {
                for warning in &stats.warnings {
                    crate::say_once(&warning.to_string());
                }
                if let Ok(Some(handover)) = Handover::get()
                    && let Err(error) = handover.record(&launch.kernel, &stats)
                {
                    crate::say(&format!("lines that were executed: {error}"));
                }
                Ok(())
            }
            Err(LaunchError::Violation(violation)) => {
                let error = code_of(&violation.kind);
                crate::say(&format!("{violation}\n   => {error}"));
                Err(error)
            }
            Err(other) => {
                crate::say(&other.to_string());
                Err(match other {
                    LaunchError::Config(_) => Error::INVALID_VALUE,
                    _ => Error::UNKNOWN,
                })
            }
        }
    }

    /// Gives a device what is in page-locked and managed memory, which it may use; what that was.
    fn lend_host_memory(&self, emulator: &Emulator) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut lent = Vec::new();
        for allocation in self.allocations.values().filter(|a| a.is_on_host()) {
            let bytes = host::copy_of(allocation.base as usize, allocation.size as usize);
            emulator.write(allocation.base, &bytes).map_err(lost)?;
            lent.push((allocation.base, bytes));
        }
        Ok(lent)
    }

    fn copy(&mut self, copy: &Copy) -> Result {
        let whole = copy.to_pitch == copy.width && copy.from_pitch == copy.width;
        let (rows, width) = match whole {
            true => (1, copy.width * copy.rows),
            false => (copy.rows, copy.width),
        };
        for row in 0..rows {
            let to = row * copy.to_pitch;
            let from = row * copy.from_pitch;
            self.copy_row(copy, to, from, width)?;
        }
        Ok(())
    }

    fn copy_row(&mut self, copy: &Copy, to: usize, from: usize, width: usize) -> Result {
        let bytes = match (&copy.from, &copy.to) {
            (Side::Device(source), Side::Device(target)) => {
                let (source, target) = (source + from as u64, target + to as u64);
                let devices = (self.device_of(source)?, self.device_of(target)?);
                if devices.0 == devices.1 {
                    let emulator = &self.devices[devices.0].emulator;
                    return emulator.copy(target, source, width as u64).map_err(lost);
                }
                self.read(source, width)?
            }
            (Side::Device(source), _) => self.read(source + from as u64, width)?,
            (Side::Host(source), _) => host::copy_of(source + from, width),
            (Side::Kept(bytes), _) => match bytes.get(from..from + width) {
                Some(bytes) => bytes.to_vec(),
                None => return Err(Error::UNKNOWN),
            },
        };
        match copy.to {
            Side::Device(target) => self.write(target + to as u64, &bytes),
            Side::Host(target) => {
                host::write(target + to, &bytes);
                Ok(())
            }
            Side::Kept(_) => Err(Error::UNKNOWN),
        }
    }

    fn read(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let emulator = &self.devices[self.device_of(address)?].emulator;
        emulator.read(address, &mut bytes).map_err(lost)?;
        Ok(bytes)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result {
        let emulator = &self.devices[self.device_of(address)?].emulator;
        emulator.write(address, bytes).map_err(lost)
    }

    fn fill(&mut self, fill: &Fill) -> Result {
        let on_host = self.allocation_at(fill.to).is_some_and(|a| a.is_on_host());
        let bytes = fill.width * fill.size;
        let uniform = fill.value[..fill.size]
            .iter()
            .all(|&byte| byte == fill.value[0]);
        for row in 0..fill.rows {
            let to = fill.to + (row * fill.pitch) as u64;
            if on_host {
                host::write(to as usize, &fill.value[..fill.size].repeat(fill.width));
            } else if uniform {
                let emulator = &self.devices[self.device_of(to)?].emulator;
                emulator
                    .fill(to, fill.value[0], bytes as u64)
                    .map_err(lost)?;
            } else {
                self.write(to, &fill.value[..fill.size].repeat(fill.width))?;
            }
        }
        Ok(())
    }
}

/// Memory went away between a call, which checked it, and the work.
fn lost(error: MemoryError) -> Error {
    crate::say(&error.to_string());
    Error::ILLEGAL_ADDRESS
}

/// Gives the program what a kernel wrote to page-locked and managed memory, and no other byte,
/// since the program may use them meanwhile.
fn take_back_host_memory(emulator: &Emulator, before: &[(u64, Vec<u8>)]) -> Result {
    for (address, before) in before {
        let mut after = vec![0; before.len()];
        emulator.read(*address, &mut after).map_err(lost)?;
        let mut at = 0;
        while at < after.len() {
            if after[at] == before[at] {
                at += 1;
                continue;
            }
            let run = after[at..].iter().zip(&before[at..]);
            let len = run.take_while(|(after, before)| after != before).count();
            host::write(*address as usize + at, &after[at..at + len]);
            at += len;
        }
    }
    Ok(())
}

/// What a GPU reports for a broken rule. What it would not notice ends the launch here all the
/// same, as a failure that it does not explain.
fn code_of(kind: &Kind) -> Error {
    match kind {
        Kind::OutOfBounds { .. } | Kind::UseAfterFree { .. } | Kind::ReadOnly { .. } => {
            Error::ILLEGAL_ADDRESS
        }
        Kind::Misaligned { .. } => Error::MISALIGNED_ADDRESS,
        Kind::WrongSpace { .. } => Error::INVALID_ADDRESS_SPACE,
        Kind::Assert(_) => Error::ASSERT,
        Kind::Budget(_) | Kind::Deadlock { .. } | Kind::NotResident { .. } => Error::LAUNCH_TIMEOUT,
        _ => Error::LAUNCH_FAILED,
    }
}
