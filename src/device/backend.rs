//! What a backend must offer. Three implement it: `cudarc`, `cust` and `emulated`.
//!
//! The traits are small because operations never see them: they go through
//! [`Stream`](super::Stream) and [`Buffer`](super::Buffer), and the one unsafe call in here, a
//! launch, is reached only through [`launch`](super::launch).

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::DeviceError;
use crate::catalog::Entry;
use crate::tensor::StreamId;

/// A device: loads kernels and makes streams.
pub(super) trait Backend: Send + Sync + Debug {
    /// Loads one entry and sets the attributes it is launched with.
    fn load(&self, entry: &'static Entry) -> Result<Arc<dyn LoadedKernel>, DeviceError>;
    /// A stream of its own.
    fn new_stream(&self) -> Result<Arc<dyn Queue>, DeviceError>;
    /// A stream that belongs to somebody else.
    ///
    /// # Safety
    /// `raw` is a stream of this device and outlives what is returned.
    unsafe fn foreign_stream(&self, raw: *mut std::ffi::c_void) -> Arc<dyn Queue>;
    /// The emulator, if this is one.
    #[cfg(feature = "emulator")]
    fn emulated(&self) -> Option<&super::emulated::Emulated> {
        None
    }
    /// The concrete backend, for adapters.
    #[cfg_attr(not(feature = "cudarc"), expect(dead_code))]
    fn as_any(&self) -> &dyn Any;
}

/// A kernel that is ready to be launched on the device that loaded it.
pub(super) trait LoadedKernel: Any + Send + Sync + Debug {
    /// How many of its blocks one multiprocessor holds, if the driver says.
    fn blocks_per_sm(&self) -> Option<u32>;
}

/// A stream: work in order.
pub(super) trait Queue: Any + Send + Sync + Debug {
    /// The stream that memory made here is bound to; `None` if it may be used on any.
    fn id(&self) -> Option<StreamId>;
    /// At least `bytes` bytes, aligned to 256, contents unspecified.
    fn alloc(&self, bytes: usize) -> Result<Box<dyn Allocation>, DeviceError>;
    /// Waits until all work enqueued so far is done.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// Whether work is being recorded into a graph instead of being enqueued.
    fn is_capturing(&self) -> Result<bool, DeviceError>;
    /// Enqueues a kernel: no allocation, no synchronisation, no event.
    ///
    /// # Safety
    /// `kernel` was loaded by the device of this stream, `params` holds its parameters as its PTX
    /// declares them, and every address in them stays valid, in stream order, for what the kernel
    /// does with it.
    unsafe fn launch(
        &self,
        kernel: &dyn LoadedKernel,
        shape: LaunchShape,
        params: &[u8],
    ) -> Result<(), DeviceError>;
}

/// Device memory, freed in stream order when dropped.
pub(super) trait Allocation: Send + Sync + Debug {
    /// The device address.
    fn address(&self) -> u64;
    /// Copies to the start of the memory; the source may be reused on return.
    fn upload(&mut self, source: &[u8]) -> Result<(), DeviceError>;
    /// Copies from the start of the memory once everything enqueued before is done.
    fn download(&self, target: &mut [u8]) -> Result<(), DeviceError>;
    /// Enqueues zeroing of the first bytes.
    fn zero(&mut self, bytes: usize) -> Result<(), DeviceError>;
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchShape {
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}
