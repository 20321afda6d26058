//! Devices, streams and device memory: one interface over cudarc, cust and the emulator.
//!
//! ```
//! use infer_kernels::Device;
//!
//! let device = Device::auto()?;             // a GPU if there is one, else the emulator
//! println!("running on {device}");          // says which
//! let mut buffer = device.stream().alloc::<f32>(3)?;
//! buffer.upload(&[1.0, 2.0, 3.0])?;
//! assert_eq!(buffer.download()?, [1.0, 2.0, 3.0]);
//! # Ok::<(), infer_kernels::DeviceError>(())
//! ```
//!
//! # Streams own memory
//! Memory is freed in the order of the stream that allocated it. An operation that `run`s on
//! another stream would not be waited for, so operands of another stream are refused; this is
//! what lets `run` be safe without recording an event. Move data between streams with a copy, or
//! take the responsibility with [`Region::from_raw_parts`](crate::Region::from_raw_parts).
//!
//! All the unsafe code of the crate is in this module. What each launch needs to be sound, and
//! why it has it, is listed in `launch.rs`.

mod backend;
mod buffer;
mod captured;
mod error;
mod foreign;
pub(crate) mod launch;

#[cfg(feature = "cudarc")]
mod cudarc;
#[cfg(feature = "cust")]
mod cust;
#[cfg(any(feature = "cudarc", feature = "cust"))]
mod driver;
#[cfg(feature = "emulator")]
mod emulated;
#[cfg(any(feature = "cudarc", feature = "cust"))]
mod probe;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub use buffer::Buffer;
pub use error::DeviceError;

#[cfg(feature = "cudarc")]
pub use cudarc::{CudarcRegion, CudarcRegionMut};
#[cfg(feature = "cust")]
pub use cust::CustBuffer;

use crate::catalog::Entry;
use crate::dtype::Element;
use crate::tensor::{DeviceId, StreamId};
use backend::{Backend, LoadedKernel, Queue};

/// What runs the kernels of a [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// A GPU, through the crate `cudarc`.
    Cudarc,
    /// A GPU, through the crate `cust`.
    Cust,
    /// No GPU: the crate `ptx-emulator` interprets the kernels, and checks them.
    Emulator,
}

impl BackendKind {
    /// Whether kernels run on a real GPU.
    pub fn is_gpu(self) -> bool {
        self != BackendKind::Emulator
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BackendKind::Cudarc => "cudarc",
            BackendKind::Cust => "cust",
            BackendKind::Emulator => "emulator",
        })
    }
}

/// What a device can hold, as far as plans depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Major and minor: `(8, 0)` for A100.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may ask for, in bytes.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: u32,
    /// Threads that a multiprocessor holds at once.
    pub threads_per_multiprocessor: u32,
}

/// A device, and the kernels loaded on it. Cloning gives another handle of the same device.
///
/// Several devices can be used in one process, and each from any thread.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Box<dyn Backend>,
    kind: BackendKind,
    id: DeviceId,
    name: String,
    limits: Limits,
    main: Arc<dyn Queue>,
    kernels: Mutex<HashMap<&'static str, Arc<dyn LoadedKernel>>>,
}

impl Device {
    /// The first GPU that a backend of this build can reach; without one, the emulator.
    ///
    /// Logs which it is, as a warning when it is the emulator. See [`Device::require_gpu`] for
    /// programs that must not be served by an emulator.
    ///
    /// # Errors
    /// Why no GPU can be used, in a build without the `emulator` feature.
    pub fn auto() -> Result<Device, DeviceError> {
        match Device::require_gpu() {
            Ok(device) => Ok(device),
            #[cfg(feature = "emulator")]
            Err(reason) => {
                let device = Device::emulator(ptx_emulator::Config::default());
                log::warn!("{reason}; kernels will run on {device}");
                Ok(device)
            }
            #[cfg(not(feature = "emulator"))]
            Err(reason) => Err(reason),
        }
    }

    /// The first GPU that a backend of this build can reach.
    ///
    /// # Errors
    /// Why there is none.
    pub fn require_gpu() -> Result<Device, DeviceError> {
        let reason = match Device::cudarc(0) {
            Err(DeviceError::NotBuilt { .. }) => Device::cust(0),
            other => other,
        };
        if let Ok(device) = &reason {
            log::info!("kernels will run on {device}");
        }
        reason
    }

    /// The device that a word names: `auto`, `gpu`, `emulator`, `cudarc`, `cust`, the last two
    /// optionally with an ordinal: `cudarc:1`.
    ///
    /// # Errors
    /// [`DeviceError::Name`] for any other word, or why that device cannot be used.
    pub fn named(name: &str) -> Result<Device, DeviceError> {
        let (backend, ordinal) = match name.split_once(':') {
            Some((backend, ordinal)) => (backend, ordinal.parse().ok()),
            None => (name, Some(0)),
        };
        match (backend, ordinal) {
            ("cudarc", Some(ordinal)) => Device::cudarc(ordinal),
            ("cust", Some(ordinal)) => Device::cust(ordinal),
            _ => match name {
                "auto" => Device::auto(),
                "gpu" => Device::require_gpu(),
                "emulator" => {
                    #[cfg(feature = "emulator")]
                    return Ok(Device::emulator(ptx_emulator::Config::default()));
                    #[cfg(not(feature = "emulator"))]
                    return Err(DeviceError::NotBuilt {
                        backend: BackendKind::Emulator,
                    });
                }
                _ => Err(DeviceError::Name { got: name.into() }),
            },
        }
    }

    /// A GPU by ordinal, through cudarc: its primary context and its default stream.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::NoDevice`], [`DeviceError::Ordinal`],
    /// [`DeviceError::NotBuilt`] without the feature, or what the driver reports.
    pub fn cudarc(ordinal: usize) -> Result<Device, DeviceError> {
        #[cfg(feature = "cudarc")]
        return cudarc::open(ordinal);
        #[cfg(not(feature = "cudarc"))]
        {
            let _ = ordinal;
            Err(DeviceError::NotBuilt {
                backend: BackendKind::Cudarc,
            })
        }
    }

    /// A GPU by ordinal, through cust: its primary context and a new stream.
    ///
    /// # Errors
    /// As for [`Device::cudarc`].
    pub fn cust(ordinal: usize) -> Result<Device, DeviceError> {
        #[cfg(feature = "cust")]
        return cust::open(ordinal);
        #[cfg(not(feature = "cust"))]
        {
            let _ = ordinal;
            Err(DeviceError::NotBuilt {
                backend: BackendKind::Cust,
            })
        }
    }

    /// An emulated GPU; each call makes a device of its own.
    #[cfg(feature = "emulator")]
    pub fn emulator(config: ptx_emulator::Config) -> Device {
        emulated::open(config)
    }

    /// What runs the kernels.
    pub fn kind(&self) -> BackendKind {
        self.0.kind
    }

    /// The device's name: `NVIDIA A100-SXM4-80GB`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The identity that operands are checked against.
    pub fn id(&self) -> DeviceId {
        self.0.id
    }

    /// What the device can hold.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The device's main stream.
    pub fn stream(&self) -> Stream {
        self.with_queue(self.0.main.clone())
    }

    /// A further stream, ordered only in itself.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new_stream(&self) -> Result<Stream, DeviceError> {
        Ok(self.with_queue(self.0.backend.new_stream()?))
    }

    /// The emulator itself, to load other kernels or look into memory; `None` on a GPU.
    #[cfg(feature = "emulator")]
    pub fn as_emulator(&self) -> Option<&ptx_emulator::Emulator> {
        self.0.backend.emulated().map(emulated::Emulated::emulator)
    }

    /// What the latest launch on an emulator did; `None` on a GPU, and before the first launch.
    ///
    /// Counts are those of the work, such as bytes and tensor operations, never a time.
    #[cfg(feature = "emulator")]
    pub fn last_launch(&self) -> Option<ptx_emulator::LaunchStats> {
        self.0
            .backend
            .emulated()
            .and_then(emulated::Emulated::last_launch)
    }

    /// Runs `work`, and says what every launch on an emulator did meanwhile, in their order; on a GPU
    /// nothing. One caller at a time: another one would begin anew.
    ///
    /// For operations that launch several kernels, and for whole models.
    #[cfg(feature = "emulator")]
    pub fn launches<R>(&self, work: impl FnOnce() -> R) -> (R, Vec<ptx_emulator::LaunchStats>) {
        let Some(emulated) = self.0.backend.emulated() else {
            return (work(), vec![]);
        };
        emulated.record();
        let result = work();
        (result, emulated.recorded())
    }

    #[cfg_attr(
        not(any(feature = "cudarc", feature = "cust", feature = "emulator")),
        expect(dead_code, reason = "without a backend no device can be made")
    )]
    fn new(
        backend: Box<dyn Backend>,
        main: Arc<dyn Queue>,
        kind: BackendKind,
        id: DeviceId,
        name: String,
        limits: Limits,
    ) -> Device {
        let kernels = Mutex::default();
        Device(Arc::new(Inner {
            backend,
            kind,
            id,
            name,
            limits,
            main,
            kernels,
        }))
    }

    fn with_queue(&self, queue: Arc<dyn Queue>) -> Stream {
        Stream {
            device: self.clone(),
            queue,
        }
    }

    /// The entry, loaded when it is first asked for.
    pub(crate) fn kernel(&self, entry: &'static Entry) -> Result<Kernel, DeviceError> {
        let unfit = |resource, needed, available| DeviceError::Unfit {
            entry: entry.name,
            resource,
            needed,
            available,
            device: self.name().into(),
        };
        let limits = self.limits();
        let (major, minor) = limits.compute_capability;
        if 10 * major + minor < entry.target {
            return Err(unfit(
                "compute capability",
                entry.target,
                10 * major + minor,
            ));
        }
        if limits.shared_per_block < entry.smem_bytes {
            let available = limits.shared_per_block;
            return Err(unfit(
                "bytes of shared memory per block",
                entry.smem_bytes,
                available,
            ));
        }
        let mut kernels = self
            .0
            .kernels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let loaded = match kernels.get(entry.name) {
            Some(loaded) => loaded.clone(),
            None => {
                let loaded = self.0.backend.load(entry)?;
                kernels.insert(entry.name, loaded.clone());
                loaded
            }
        };
        Ok(Kernel {
            entry,
            loaded,
            device: self.clone(),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.0.limits.compute_capability;
        match self.0.kind {
            BackendKind::Emulator => write!(f, "an emulated {} (sm_{major}{minor})", self.0.name),
            kind => write!(f, "{} (sm_{major}{minor}, through {kind})", self.0.name),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("kind", &self.0.kind)
            .field("name", &self.0.name)
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

/// A queue of work on a device: what is enqueued first is done first.
///
/// Cloning gives another handle of the same stream.
#[derive(Clone)]
pub struct Stream {
    device: Device,
    queue: Arc<dyn Queue>,
}

impl Stream {
    /// The device that does the work.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The driver's handle, which memory of this stream is bound to; `None` on the emulator,
    /// where work is done when it is enqueued and memory may be used on any stream.
    pub fn id(&self) -> Option<StreamId> {
        self.queue.id()
    }

    /// Memory for `len` elements, zeroed.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::TooLarge`].
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = Buffer::new(self, len)?;
        buffer.zero()?;
        Ok(buffer)
    }

    /// A copy of `source` on the device.
    ///
    /// # Errors
    /// As for [`Stream::alloc`], or what the driver reports.
    pub fn upload<T: Element>(&self, source: &[T]) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = Buffer::new(self, source.len())?;
        buffer.upload(source)?;
        Ok(buffer)
    }

    /// Waits until all work enqueued so far is done.
    ///
    /// # Errors
    /// What the driver reports, which may be the failure of an earlier launch.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.queue.synchronize()
    }

    fn queue(&self) -> &dyn Queue {
        &*self.queue
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("device", &self.device)
            .field("id", &self.id())
            .finish()
    }
}

/// An entry of the catalog, loaded on a device.
#[derive(Clone)]
pub(crate) struct Kernel {
    entry: &'static Entry,
    loaded: Arc<dyn LoadedKernel>,
    device: Device,
}

impl Kernel {
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Blocks that one multiprocessor holds: the driver's answer, else what shared memory and
    /// threads allow.
    pub fn blocks_per_multiprocessor(&self) -> u32 {
        self.loaded.blocks_per_sm().unwrap_or_else(|| {
            let limits = self.device.limits();
            // Each resident block costs a kibibyte of shared memory beyond its own.
            let by_shared = limits.shared_per_multiprocessor / (self.entry.smem_bytes + 1024);
            let by_threads = limits.threads_per_multiprocessor / self.entry.threads.max(1);
            by_shared.min(by_threads)
        })
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({} on {})", self.entry.name, self.device)
    }
}
