//! What can go wrong between the host and a device.

use super::BackendKind;

/// A failure of a device, of its driver, or of finding one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No CUDA driver could be loaded.
    #[error("no CUDA driver on this machine: {reason}")]
    NoDriver {
        /// What the system said about each library tried.
        reason: String,
    },
    /// There is a driver, but it has no device to offer.
    #[error("the CUDA driver offers no device: {reason}")]
    NoDevice {
        /// What the driver said.
        reason: String,
    },
    /// The device asked for does not exist.
    #[error("device {got} does not exist: the driver has {count}")]
    Ordinal {
        /// The ordinal asked for.
        got: usize,
        /// How many devices there are.
        count: usize,
    },
    /// A backend was asked for that this build does not contain.
    #[error("this build has no {backend} backend: enable the feature `{backend}`")]
    NotBuilt {
        /// The backend.
        backend: BackendKind,
    },
    /// A device was asked for by a name that means nothing.
    #[error("`{got}` names no device: use auto, gpu, emulator, cudarc[:ordinal] or cust[:ordinal]")]
    Name {
        /// The name.
        got: String,
    },
    /// A call of the driver failed.
    #[error("{call} failed: {name} ({code}): {message}")]
    Driver {
        /// The function of the driver's interface.
        call: &'static str,
        /// The driver's number for the error.
        code: u32,
        /// The driver's name for it.
        name: String,
        /// The driver's description.
        message: String,
    },
    /// The driver is older than the PTX it was given.
    #[error(
        "{entry} is PTX {}.{}, which needs the driver of CUDA {}.{} or later; this is the driver \
         of CUDA {}.{}, which takes PTX up to {}.{}",
        ptx.0, ptx.1, needs.0, needs.1, driver.0, driver.1, accepts.0, accepts.1
    )]
    PtxTooNew {
        /// The entry that was to be loaded.
        entry: &'static str,
        /// The version of its PTX.
        ptx: (u32, u32),
        /// The first CUDA release whose driver takes that version.
        needs: (u32, u32),
        /// The release that the driver here belongs to.
        driver: (u32, u32),
        /// The newest PTX that it takes.
        accepts: (u32, u32),
    },
    /// The kernel could not be loaded.
    #[error("{entry} could not be loaded: {message}")]
    Load {
        /// The entry that was to be loaded.
        entry: &'static str,
        /// What the driver, its compiler or the emulator said.
        message: String,
    },
    /// The device does not have what the kernel needs.
    #[error("{entry} needs {resource} {needed}; {device} has {available}")]
    Unfit {
        /// The entry.
        entry: &'static str,
        /// What there is too little of.
        resource: &'static str,
        /// How much the entry needs.
        needed: u32,
        /// How much the device has.
        available: u32,
        /// The device.
        device: String,
    },
    /// There is not that much memory.
    #[error("{bytes} bytes of device memory are not to be had: {reason}")]
    OutOfMemory {
        /// How much was asked for.
        bytes: usize,
        /// What the driver said.
        reason: String,
    },
    /// A buffer of this many elements does not fit the address space.
    #[error("{len} elements of {size} bytes do not fit the address space")]
    TooLarge {
        /// The number of elements.
        len: usize,
        /// The size of one.
        size: usize,
    },
    /// A copy between host and device has different lengths on the two sides.
    #[error("the buffer has {expected} elements, the host slice {got}")]
    Length {
        /// Elements on the device.
        expected: usize,
        /// Elements on the host.
        got: usize,
    },
    /// Memory or a stream belongs to another device than the one it is used with.
    #[error("belongs to {got}, used with {expected}")]
    WrongDevice {
        /// The device it was used with.
        expected: crate::DeviceId,
        /// The device it belongs to.
        got: crate::DeviceId,
    },
    /// Memory is freed in the order of another stream than the one it is used on.
    #[error("belongs to {got}, used on {expected}: freeing it would not wait for this stream")]
    WrongStream {
        /// The stream it was used on.
        expected: crate::StreamId,
        /// The stream it belongs to.
        got: crate::StreamId,
    },
    /// The per-thread default stream, which is another stream on every thread.
    #[error("the per-thread default stream is another stream on every thread: use one of its own")]
    PerThreadStream,
    /// The stream is recording a graph, which would keep addresses beyond the borrows of `run`.
    #[error("the stream is capturing a graph: use the `run_captured` of the operation")]
    Capturing,
    /// The program broke a rule that the emulator checks, or asked for what it lacks.
    #[cfg(feature = "emulator")]
    #[error("emulated launch of {entry} failed")]
    Emulator {
        /// The entry that was launched.
        entry: &'static str,
        /// What happened, and where.
        #[source]
        source: ptx_emulator::LaunchError,
    },
}
