//! GPUs through the crate `cudarc`, and its memory as operands.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceSlice, DriverError, SyncOnDrop,
};

use super::backend::{Allocation, Backend, LaunchShape, LoadedKernel, Queue};
use super::driver::{DriverKernel, UNSUPPORTED_PTX_VERSION, driver_calls};
use super::{BackendKind, Device, DeviceError, Limits, Stream, probe};
use crate::catalog::Entry;
use crate::dtype::Element;
use crate::tensor::{DeviceId, DeviceKey, Place, Region, RegionMut, StreamId};

driver_calls!(cudarc::driver::sys);

pub(super) fn open(ordinal: usize) -> Result<Device, DeviceError> {
    // cudarc panics when it finds no driver, so it is not called before one is known to be there.
    let count = probe::driver()?.devices;
    if ordinal >= count {
        return Err(DeviceError::Ordinal {
            got: ordinal,
            count,
        });
    }
    let context = CudaContext::new(ordinal).map_err(told("cuDevicePrimaryCtxRetain"))?;
    wrap(context.default_stream())
}

fn wrap(stream: Arc<CudaStream>) -> Result<Device, DeviceError> {
    let context = stream.context().clone();
    let name = context.name().map_err(told("cuDeviceGetName"))?;
    let limits = limits(context.cu_device())?;
    Ok(Device::new(
        Box::new(Cudarc {
            context: context.clone(),
        }),
        Arc::new(CudarcQueue { stream }),
        BackendKind::Cudarc,
        id(&context),
        name,
        limits,
    ))
}

fn id(context: &CudaContext) -> DeviceId {
    DeviceId(DeviceKey::Context(context.cu_ctx() as usize))
}

fn stream_id(stream: &CudaStream) -> StreamId {
    StreamId(stream.cu_stream() as usize)
}

/// Refuses the handle that stands for a different stream on every thread: memory of it could be
/// used on one and freed in the order of another.
fn one_stream(stream: &CudaStream) -> Result<(), DeviceError> {
    const PER_THREAD: usize = 2;
    if stream.cu_stream() as usize == PER_THREAD {
        return Err(DeviceError::PerThreadStream);
    }
    Ok(())
}

fn told(call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| match check(call, error.0) {
        Err(error) => error,
        Ok(()) => DeviceError::Driver {
            call,
            code: 0,
            name: "no error".into(),
            message: "cudarc reported success as an error".into(),
        },
    }
}

#[derive(Debug)]
struct Cudarc {
    context: Arc<CudaContext>,
}

impl Backend for Cudarc {
    fn load(&self, entry: &'static Entry) -> Result<Arc<dyn LoadedKernel>, DeviceError> {
        self.context
            .bind_to_thread()
            .map_err(told("cuCtxSetCurrent"))?;
        let context = self.context.clone();
        Ok(Arc::new(load(entry, |module| {
            Box::new(Module {
                module: module as usize,
                context,
            })
        })?))
    }

    fn new_stream(&self) -> Result<Arc<dyn Queue>, DeviceError> {
        let stream = self.context.new_stream().map_err(told("cuStreamCreate"))?;
        Ok(Arc::new(CudarcQueue { stream }))
    }

    unsafe fn foreign_stream(&self, raw: *mut c_void) -> Arc<dyn Queue> {
        // SAFETY: The caller promises a stream of this context that outlives the wrapper, and
        // orders the work on it, being its owner.
        let stream = unsafe { self.context.wrap_borrowed_stream(raw.cast()) };
        Arc::new(CudarcQueue { stream })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A loaded module; unloaded once no kernel of it can be running.
struct Module {
    module: usize,
    context: Arc<CudaContext>,
}

impl Drop for Module {
    fn drop(&mut self) {
        // The last handle of the device is going: wait for what was enqueued, then unload.
        let unloaded = self
            .context
            .synchronize()
            .map_err(told("cuCtxSynchronize"))
            .and_then(|()| {
                // SAFETY: Loaded in this context, which is current; nothing runs or can be launched.
                check("cuModuleUnload", unsafe {
                    sys::cuModuleUnload(self.module as sys::CUmodule)
                })
            });
        if let Err(error) = unloaded {
            log::error!("a module could not be unloaded: {error}");
        }
    }
}

#[derive(Debug)]
struct CudarcQueue {
    stream: Arc<CudaStream>,
}

impl Queue for CudarcQueue {
    fn id(&self) -> Option<StreamId> {
        Some(stream_id(&self.stream))
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Allocation>, DeviceError> {
        // SAFETY: Bytes that are not initialised are still bytes, for the device; the host reads
        // them only through `Buffer`, which zeroes or uploads first.
        let memory = unsafe { self.stream.alloc::<u8>(bytes) };
        let memory = memory.map_err(|error| DeviceError::OutOfMemory {
            bytes,
            reason: error.to_string(),
        })?;
        // Only the address is wanted: cudarc's record of uses serves its own copies, and what we
        // enqueue stays on the stream that frees the memory. Asked for here, once, since asking
        // may enqueue a wait, and `run` must not.
        let (address, recorded) = memory.as_view().view_ptr(&self.stream);
        std::mem::forget(recorded);
        Ok(Box::new(CudarcMemory { memory, address }))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.stream
            .synchronize()
            .map_err(told("cuStreamSynchronize"))
    }

    fn is_capturing(&self) -> Result<bool, DeviceError> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(told("cuCtxSetCurrent"))?;
        // SAFETY: A stream of the context that was just made current.
        unsafe { is_capturing(self.stream.cu_stream()) }
    }

    unsafe fn launch(
        &self,
        kernel: &dyn LoadedKernel,
        shape: LaunchShape,
        params: &[u8],
    ) -> Result<(), DeviceError> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(told("cuCtxSetCurrent"))?;
        // SAFETY: A stream of the context that was just made current; the rest is passed on.
        unsafe { launch(self.stream.cu_stream(), kernel, shape, params) }
    }
}

#[derive(Debug)]
struct CudarcMemory {
    memory: CudaSlice<u8>,
    address: u64,
}

impl Allocation for CudarcMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn upload(&mut self, source: &[u8]) -> Result<(), DeviceError> {
        if source.is_empty() {
            return Ok(());
        }
        let stream = self.memory.stream().clone();
        let mut target = self.memory.slice_mut(..source.len());
        stream
            .memcpy_htod(source, &mut target)
            .map_err(told("cuMemcpyHtoDAsync"))
    }

    fn download(&self, target: &mut [u8]) -> Result<(), DeviceError> {
        if target.is_empty() {
            return Ok(());
        }
        let stream = self.memory.stream();
        let source = self.memory.slice(..target.len());
        stream
            .memcpy_dtoh(&source, target)
            .map_err(told("cuMemcpyDtoHAsync"))?;
        stream.synchronize().map_err(told("cuStreamSynchronize"))
    }

    fn zero(&mut self, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.memory.stream().clone();
        let mut target = self.memory.slice_mut(..bytes);
        stream
            .memset_zeros(&mut target)
            .map_err(told("cuMemsetD8Async"))
    }
}

/// cudarc's memory, borrowed for reading on one of its streams.
///
/// Making it lets the stream wait for writes that cudarc recorded on others, and dropping it
/// records the reads, as cudarc's own copies do: keep it until `run` has returned.
#[derive(Debug)]
pub struct CudarcRegion<'a> {
    region: Region<'a>,
    _recorded: SyncOnDrop<'a>,
}

impl CudarcRegion<'_> {
    /// The memory, to lay tensors over.
    pub fn region(&self) -> Region<'_> {
        self.region
    }
}

/// cudarc's memory, borrowed for writing on one of its streams. See [`CudarcRegion`].
#[derive(Debug)]
pub struct CudarcRegionMut<'a> {
    address: u64,
    len: u64,
    place: Place,
    dtype: crate::DType,
    exclusive: PhantomData<&'a mut [u8]>,
    _recorded: SyncOnDrop<'a>,
}

impl CudarcRegionMut<'_> {
    /// The memory, to lay a tensor over.
    pub fn region_mut(&mut self) -> RegionMut<'_> {
        RegionMut::vouched(self.address, self.len, self.dtype, self.place)
    }
}

/// Using what a program already has of cudarc.
impl Device {
    /// The device of a cudarc stream, with that stream as its main one.
    ///
    /// # Errors
    /// [`DeviceError::PerThreadStream`], or what the driver reports.
    pub fn from_cudarc(stream: Arc<CudaStream>) -> Result<Device, DeviceError> {
        one_stream(&stream)?;
        wrap(stream)
    }

    /// A cudarc stream, as a stream of this device.
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] if it belongs to another context;
    /// [`DeviceError::PerThreadStream`].
    pub fn cudarc_stream(&self, stream: Arc<CudaStream>) -> Result<Stream, DeviceError> {
        one_stream(&stream)?;
        let got = id(stream.context());
        if !self.0.backend.as_any().is::<Cudarc>() || got != self.id() {
            return Err(DeviceError::WrongDevice {
                expected: self.id(),
                got,
            });
        }
        Ok(self.with_queue(Arc::new(CudarcQueue { stream })))
    }
}

/// Borrowing cudarc's memory.
impl Stream {
    /// The stream as cudarc knows it, if this device is used through cudarc.
    pub fn as_cudarc(&self) -> Option<&Arc<CudaStream>> {
        let queue: &dyn Any = self.queue();
        queue.downcast_ref().map(|CudarcQueue { stream }| stream)
    }

    /// Borrows a slice for reading: `stream.cudarc(slice.as_view())`, or part of one.
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] or [`DeviceError::WrongStream`] unless the slice was allocated
    /// on this stream: cudarc frees it in the order of that one, and of no other.
    pub fn cudarc<'a, T: Element>(
        &'a self,
        view: CudaView<'a, T>,
    ) -> Result<CudarcRegion<'a>, DeviceError> {
        let (stream, place) = self.same_cudarc(view.stream())?;
        let len = view.len() as u64;
        let (address, recorded) = view.view_ptr(stream);
        let region = Region::vouched(address, len, T::DTYPE, place);
        Ok(CudarcRegion {
            region,
            _recorded: recorded,
        })
    }

    /// Borrows a slice for writing: `stream.cudarc_mut(slice.as_view_mut())`, or part of one.
    ///
    /// # Errors
    /// As for [`Stream::cudarc`].
    pub fn cudarc_mut<'a, T: Element>(
        &'a self,
        view: CudaViewMut<'a, T>,
    ) -> Result<CudarcRegionMut<'a>, DeviceError> {
        let (stream, place) = self.same_cudarc(view.stream())?;
        let len = view.len() as u64;
        let (address, recorded) = view.view_ptr_mut(stream);
        Ok(CudarcRegionMut {
            address,
            len,
            place,
            dtype: T::DTYPE,
            exclusive: PhantomData,
            _recorded: recorded,
        })
    }

    fn same_cudarc(&self, owner: &CudaStream) -> Result<(&CudaStream, Place), DeviceError> {
        let place = Place {
            device: id(owner.context()),
            stream: Some(stream_id(owner)),
        };
        let queue: &dyn Any = self.queue();
        let Some(CudarcQueue { stream }) = queue.downcast_ref() else {
            return Err(DeviceError::WrongDevice {
                expected: self.device().id(),
                got: place.device,
            });
        };
        if id(stream.context()) != place.device {
            return Err(DeviceError::WrongDevice {
                expected: self.device().id(),
                got: place.device,
            });
        }
        if **stream != *owner {
            return Err(DeviceError::WrongStream {
                expected: stream_id(stream),
                got: stream_id(owner),
            });
        }
        Ok((stream, place))
    }
}
