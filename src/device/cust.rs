//! GPUs through the crate `cust`, and its memory as operands.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;
use cust::context::{Context, CurrentContext};
use cust::device::Device as CustDevice;
use cust::error::CudaError;
use cust::memory::{CopyDestination, DeviceBuffer, DeviceCopy, DeviceSlice};
use cust::stream::{Stream as CustStream, StreamFlags};

use super::backend::{Allocation, Backend, LaunchShape, LoadedKernel, Queue};
use super::driver::{DriverKernel, UNSUPPORTED_PTX_VERSION, driver_calls};
use super::{BackendKind, Device, DeviceError, Limits, Stream, probe};
use crate::catalog::Entry;
use crate::dtype::DType;
use crate::tensor::{DeviceId, DeviceKey, Place, Region, RegionMut, StreamId};

driver_calls!(cust::sys);

pub(super) fn open(ordinal: usize) -> Result<Device, DeviceError> {
    let count = probe::driver()?.devices;
    let missing = DeviceError::Ordinal {
        got: ordinal,
        count,
    };
    if ordinal >= count {
        return Err(missing);
    }
    cust::init(cust::CudaFlags::empty()).map_err(told("cuInit"))?;
    let device = CustDevice::get_device(u32::try_from(ordinal).map_err(|_| missing)?)
        .map_err(told("cuDeviceGet"))?;
    let name = device.name().map_err(told("cuDeviceGetName"))?;
    let limits = limits(device.as_raw())?;
    let context = Arc::new(Context::new(device).map_err(told("cuDevicePrimaryCtxRetain"))?);
    let main = new_stream(&context)?;
    Ok(Device::new(
        Box::new(Cust {
            context: context.clone(),
        }),
        Arc::new(CustQueue {
            stream: main,
            context: context.clone(),
        }),
        BackendKind::Cust,
        DeviceId(DeviceKey::Context(context.as_raw() as usize)),
        name,
        limits,
    ))
}

fn new_stream(context: &Context) -> Result<Handle, DeviceError> {
    CurrentContext::set_current(context).map_err(told("cuCtxSetCurrent"))?;
    // Ordered with the default stream, on which cust makes its blocking copies.
    let stream = CustStream::new(StreamFlags::DEFAULT, None).map_err(told("cuStreamCreate"))?;
    Ok(Handle::Owned(Arc::new(stream)))
}

fn told(call: &'static str) -> impl Fn(CudaError) -> DeviceError {
    move |error| DeviceError::Driver {
        call,
        code: error as u32,
        name: format!("{error:?}"),
        message: error.to_string(),
    }
}

/// A stream of cust's, or somebody's handle.
#[derive(Clone, Debug)]
enum Handle {
    Owned(Arc<CustStream>),
    Foreign(usize),
}

impl Handle {
    fn raw(&self) -> sys::CUstream {
        match self {
            Handle::Owned(stream) => stream.as_inner(),
            Handle::Foreign(raw) => *raw as sys::CUstream,
        }
    }
}

#[derive(Debug)]
struct Cust {
    context: Arc<Context>,
}

impl Backend for Cust {
    fn load(&self, entry: &'static Entry) -> Result<Arc<dyn LoadedKernel>, DeviceError> {
        CurrentContext::set_current(&*self.context).map_err(told("cuCtxSetCurrent"))?;
        let context = self.context.clone();
        Ok(Arc::new(load(entry, |module| {
            Box::new(Module {
                module: module as usize,
                context,
            })
        })?))
    }

    fn new_stream(&self) -> Result<Arc<dyn Queue>, DeviceError> {
        let stream = new_stream(&self.context)?;
        Ok(Arc::new(CustQueue {
            stream,
            context: self.context.clone(),
        }))
    }

    unsafe fn foreign_stream(&self, raw: *mut c_void) -> Arc<dyn Queue> {
        let stream = Handle::Foreign(raw as usize);
        Arc::new(CustQueue {
            stream,
            context: self.context.clone(),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A loaded module; unloaded once no kernel of it can be running.
struct Module {
    module: usize,
    context: Arc<Context>,
}

impl Drop for Module {
    fn drop(&mut self) {
        let idle = CurrentContext::set_current(&*self.context)
            .and_then(|()| CurrentContext::synchronize())
            .map_err(told("cuCtxSynchronize"));
        let unloaded = idle.and_then(|()| {
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

#[derive(Clone, Debug)]
struct CustQueue {
    stream: Handle,
    context: Arc<Context>,
}

impl CustQueue {
    fn make_current(&self) -> Result<(), DeviceError> {
        CurrentContext::set_current(&*self.context).map_err(told("cuCtxSetCurrent"))
    }
}

impl Queue for CustQueue {
    fn id(&self) -> Option<StreamId> {
        Some(StreamId(self.stream.raw() as usize))
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Allocation>, DeviceError> {
        self.make_current()?;
        // SAFETY: Bytes that are not initialised are still bytes, for the device; the host reads
        // them only through `Buffer`, which zeroes or uploads first.
        let memory = unsafe { DeviceBuffer::<u8>::uninitialized(bytes) };
        let memory = memory.map_err(|error| DeviceError::OutOfMemory {
            bytes,
            reason: format!("{error:?}"),
        })?;
        Ok(Box::new(CustMemory {
            memory: Some(memory),
            queue: self.clone(),
        }))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.make_current()?;
        // SAFETY: The stream belongs to the context and is alive.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream.raw())
        })
    }

    fn is_capturing(&self) -> Result<bool, DeviceError> {
        self.make_current()?;
        // SAFETY: A stream of the context that was just made current.
        unsafe { is_capturing(self.stream.raw()) }
    }

    unsafe fn launch(
        &self,
        kernel: &dyn LoadedKernel,
        shape: LaunchShape,
        params: &[u8],
    ) -> Result<(), DeviceError> {
        self.make_current()?;
        // SAFETY: A stream of the context that was just made current; the rest is passed on.
        unsafe { launch(self.stream.raw(), kernel, shape, params) }
    }
}

#[derive(Debug)]
struct CustMemory {
    /// `None` only while it is being dropped.
    memory: Option<DeviceBuffer<u8>>,
    queue: CustQueue,
}

impl Drop for CustMemory {
    fn drop(&mut self) {
        // Frees in the stream's order by waiting for it: cust has no other free that is safe.
        let freed = self
            .queue
            .synchronize()
            .and_then(|()| match self.memory.take() {
                Some(memory) => DeviceBuffer::drop(memory).map_err(|(error, memory)| {
                    std::mem::forget(memory);
                    told("cuMemFree")(error)
                }),
                None => Ok(()),
            });
        if let Err(error) = freed {
            log::error!("device memory could not be freed: {error}");
            std::mem::forget(self.memory.take());
        }
    }
}

impl CustMemory {
    fn raw(&self) -> sys::CUdeviceptr {
        self.memory
            .as_ref()
            .map_or(0, |memory| memory.as_device_ptr().as_raw())
    }
}

impl Allocation for CustMemory {
    fn address(&self) -> u64 {
        self.raw()
    }

    fn upload(&mut self, source: &[u8]) -> Result<(), DeviceError> {
        self.queue.synchronize()?;
        match &mut self.memory {
            Some(memory) if !source.is_empty() => memory
                .index(..source.len())
                .copy_from(source)
                .map_err(told("cuMemcpyHtoD")),
            _ => Ok(()),
        }
    }

    fn download(&self, target: &mut [u8]) -> Result<(), DeviceError> {
        self.queue.synchronize()?;
        match &self.memory {
            Some(memory) if !target.is_empty() => memory
                .index(..target.len())
                .copy_to(target)
                .map_err(told("cuMemcpyDtoH")),
            _ => Ok(()),
        }
    }

    fn zero(&mut self, bytes: usize) -> Result<(), DeviceError> {
        self.queue.make_current()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: `bytes` is at most what was allocated; the memory is freed after this stream.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(self.raw(), 0, bytes, self.queue.stream.raw())
        })
    }
}

/// A cust buffer handed over to a stream, so that it can be used in safe operations.
///
/// cust lets a buffer be freed in the order of any stream, even while another one uses it. Owned
/// here, it is freed in the order of its own. It reads as cust's slice.
pub struct CustBuffer<T: DeviceCopy + Pod> {
    buffer: Option<DeviceBuffer<T>>,
    stream: Stream,
    dtype: DType,
}

impl<T: DeviceCopy + Pod> CustBuffer<T> {
    /// The memory, to be read.
    pub fn region(&self) -> Region<'_> {
        Region::vouched(self.address(), self.elements(), self.dtype, self.place())
    }

    /// The memory, to be written.
    pub fn region_mut(&mut self) -> RegionMut<'_> {
        RegionMut::vouched(self.address(), self.elements(), self.dtype, self.place())
    }

    /// Waits for the stream and gives the buffer back.
    ///
    /// # Errors
    /// What the driver reports; the buffer is then leaked, as it may still be in use.
    pub fn into_inner(mut self) -> Result<DeviceBuffer<T>, DeviceError> {
        self.stream.synchronize()?;
        self.buffer.take().ok_or(DeviceError::Length {
            expected: 1,
            got: 0,
        })
    }

    fn address(&self) -> u64 {
        self.buffer
            .as_ref()
            .map_or(0, |buffer| buffer.as_device_ptr().as_raw())
    }

    fn elements(&self) -> u64 {
        (self.len() * size_of::<T>() / self.dtype.size()) as u64
    }

    fn place(&self) -> Place {
        Place {
            device: self.stream.device().id(),
            stream: self.stream.id(),
        }
    }
}

impl<T: DeviceCopy + Pod> Deref for CustBuffer<T> {
    type Target = DeviceSlice<T>;
    fn deref(&self) -> &DeviceSlice<T> {
        match &self.buffer {
            Some(buffer) => buffer,
            None => unreachable!("taken only by into_inner and drop, which consume it"),
        }
    }
}

impl<T: DeviceCopy + Pod> Drop for CustBuffer<T> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take()
            && let Err(error) = self.stream.synchronize()
        {
            log::error!("a buffer that may be in use is leaked: {error}");
            std::mem::forget(buffer);
        }
    }
}

impl<T: DeviceCopy + Pod> fmt::Debug for CustBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CustBuffer<{}>({} at {:#x})",
            self.dtype,
            self.elements(),
            self.address()
        )
    }
}

/// Using what a program already has of cust.
impl Stream {
    /// The stream as cust knows it, if this device is used through cust and cust made it.
    pub fn as_cust(&self) -> Option<&CustStream> {
        let queue: &dyn Any = self.queue();
        match queue.downcast_ref::<CustQueue>() {
            Some(CustQueue {
                stream: Handle::Owned(stream),
                ..
            }) => Some(stream),
            _ => None,
        }
    }

    /// Takes over a cust buffer, as elements of `dtype`: cust has no type for 16-bit floats of the
    /// `half` in use here, so such buffers usually hold `u16`.
    ///
    /// # Errors
    /// [`DeviceError::WrongDevice`] unless the buffer was allocated in this device's context;
    /// [`DeviceError::Length`] unless it is a whole number of elements.
    pub fn cust<T: DeviceCopy + Pod>(
        &self,
        buffer: DeviceBuffer<T>,
        dtype: DType,
    ) -> Result<CustBuffer<T>, DeviceError> {
        let bytes = buffer.len() * size_of::<T>();
        let whole = bytes / dtype.size() * dtype.size();
        if whole != bytes {
            return Err(DeviceError::Length {
                expected: whole,
                got: bytes,
            });
        }
        if bytes > 0 {
            let mut context: sys::CUcontext = std::ptr::null_mut();
            // SAFETY: The attribute is a context handle, written to a local of that type.
            check("cuPointerGetAttribute", unsafe {
                sys::cuPointerGetAttribute(
                    (&raw mut context).cast(),
                    sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_CONTEXT,
                    buffer.as_device_ptr().as_raw(),
                )
            })?;
            let got = DeviceId(DeviceKey::Context(context as usize));
            if got != self.device().id() {
                return Err(DeviceError::WrongDevice {
                    expected: self.device().id(),
                    got,
                });
            }
        }
        Ok(CustBuffer {
            buffer: Some(buffer),
            stream: self.clone(),
            dtype,
        })
    }
}
