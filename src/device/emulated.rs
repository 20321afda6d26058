//! No GPU: kernels run on the crate `ptx-emulator`, and are checked while they do.

use std::any::Any;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ptx_emulator::mutate::Handover;
use ptx_emulator::{Config, Emulator, LaunchConfig, LaunchStats};

use super::backend::{Allocation, Backend, LaunchShape, LoadedKernel, Queue};
use super::{BackendKind, Device, DeviceError, Limits};
use crate::catalog::Entry;
use crate::tensor::{DeviceId, DeviceKey, StreamId};

pub(super) fn open(config: Config) -> Device {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let id = DeviceId(DeviceKey::Emulator(OPENED.fetch_add(1, Ordering::Relaxed)));
    let gpu = config.gpu.clone();
    let emulated = Emulated {
        emulator: Emulator::new(config),
        last: Arc::default(),
        all: Arc::default(),
    };
    let limits = Limits {
        compute_capability: gpu.compute_capability,
        multiprocessors: gpu.sms,
        shared_per_block: gpu.shared_per_block,
        shared_per_multiprocessor: gpu.shared_per_sm,
        threads_per_multiprocessor: gpu.threads_per_sm,
    };
    Device::new(
        Box::new(emulated.clone()),
        Arc::new(emulated),
        BackendKind::Emulator,
        id,
        gpu.name.into(),
        limits,
    )
}

/// An emulated device, which is also its only stream: work is done when it is enqueued.
#[derive(Clone)]
pub(super) struct Emulated {
    emulator: Emulator,
    last: Arc<Mutex<Option<LaunchStats>>>,
    /// Launches while somebody wants all of them.
    all: Arc<Mutex<Option<Vec<LaunchStats>>>>,
}

impl std::fmt::Debug for Emulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Emulated({:?})", self.emulator.config())
    }
}

impl Emulated {
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// What the latest launch did.
    pub fn last_launch(&self) -> Option<LaunchStats> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What every launch does from here to [`Emulated::recorded`].
    pub fn record(&self) {
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = Some(vec![]);
    }

    /// What every launch did since [`Emulated::record`].
    pub fn recorded(&self) -> Vec<LaunchStats> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.take().unwrap_or_default()
    }
}

impl Backend for Emulated {
    fn load(&self, entry: &'static Entry) -> Result<Arc<dyn LoadedKernel>, DeviceError> {
        let failed = |message: String| DeviceError::Load {
            entry: entry.name,
            message,
        };
        // Tests of tests: `ptxrun mutate` may want another text to be loaded.
        let handover = Handover::get().map_err(|error| failed(error.to_string()))?;
        let ptx = handover.map_or(entry.ptx, |handover| handover.replace(entry.ptx));
        let module = self
            .emulator
            .load(ptx)
            .map_err(|error| failed(error.to_string()))?;
        let kernel = module
            .kernel(entry.name)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(EmulatedKernel {
            kernel,
            entry: entry.name,
        }))
    }

    fn new_stream(&self) -> Result<Arc<dyn Queue>, DeviceError> {
        Ok(Arc::new(self.clone()))
    }

    unsafe fn foreign_stream(&self, _: *mut c_void) -> Arc<dyn Queue> {
        Arc::new(self.clone())
    }

    fn emulated(&self) -> Option<&Emulated> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct EmulatedKernel {
    kernel: ptx_emulator::Kernel,
    entry: &'static str,
}

impl std::fmt::Debug for EmulatedKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmulatedKernel({})", self.entry)
    }
}

impl LoadedKernel for EmulatedKernel {
    fn blocks_per_sm(&self) -> Option<u32> {
        None
    }
}

impl Queue for Emulated {
    fn id(&self) -> Option<StreamId> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Allocation>, DeviceError> {
        let address =
            self.emulator
                .alloc(bytes as u64)
                .map_err(|error| DeviceError::OutOfMemory {
                    bytes,
                    reason: error.to_string(),
                })?;
        Ok(Box::new(EmulatedMemory {
            emulator: self.emulator.clone(),
            address,
        }))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn is_capturing(&self) -> Result<bool, DeviceError> {
        Ok(false)
    }

    unsafe fn launch(
        &self,
        kernel: &dyn LoadedKernel,
        shape: LaunchShape,
        params: &[u8],
    ) -> Result<(), DeviceError> {
        let kernel: &dyn Any = kernel;
        let Some(EmulatedKernel { kernel, entry }) = kernel.downcast_ref() else {
            return Err(DeviceError::Load {
                entry: "kernel",
                message: "the kernel was loaded by another backend".into(),
            });
        };
        let config = LaunchConfig {
            grid: shape.grid,
            block: [shape.threads, 1, 1],
            dynamic_smem: shape.shared_bytes,
        };
        let stats = self
            .emulator
            .launch(kernel, &config, &[params])
            .map_err(|source| DeviceError::Emulator { entry, source })?;
        if let Ok(Some(handover)) = Handover::get()
            && let Err(error) = handover.record(kernel, &stats)
        {
            log::error!("lines that were executed: {error}");
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = all.as_mut() {
            all.push(stats.clone());
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats);
        Ok(())
    }
}

struct EmulatedMemory {
    emulator: Emulator,
    address: u64,
}

impl std::fmt::Debug for EmulatedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmulatedMemory({:#x})", self.address)
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        if let Err(error) = self.emulator.free(self.address) {
            log::error!("emulated memory could not be freed: {error}");
        }
    }
}

impl EmulatedMemory {
    fn failed(call: &'static str, error: impl std::fmt::Display) -> DeviceError {
        DeviceError::Driver {
            call,
            code: 0,
            name: "emulator".into(),
            message: error.to_string(),
        }
    }
}

impl Allocation for EmulatedMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn upload(&mut self, source: &[u8]) -> Result<(), DeviceError> {
        self.emulator
            .write(self.address, source)
            .map_err(|e| Self::failed("write", e))
    }

    fn download(&self, target: &mut [u8]) -> Result<(), DeviceError> {
        self.emulator
            .read(self.address, target)
            .map_err(|e| Self::failed("read", e))
    }

    fn zero(&mut self, bytes: usize) -> Result<(), DeviceError> {
        self.emulator
            .fill(self.address, 0, bytes as u64)
            .map_err(|e| Self::failed("fill", e))
    }
}
