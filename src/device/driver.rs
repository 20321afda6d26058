//! The driver's calls that both GPU backends make, written once.
//!
//! cudarc and cust bind the same C functions under the same names but with types of their own, so
//! the text is shared as a macro and instantiated with the bindings of each.

use std::any::Any;

use super::backend::LoadedKernel;

/// A kernel loaded through either binding. Both use the primary context of a device, so a kernel
/// of one can be launched on a stream of the other.
pub(super) struct DriverKernel {
    /// The `CUfunction`.
    pub function: usize,
    /// Blocks per multiprocessor, as the driver computes it from registers and shared memory.
    pub blocks_per_sm: u32,
    /// Unloads the module when dropped.
    pub _module: Box<dyn Any + Send + Sync>,
}

impl LoadedKernel for DriverKernel {
    fn blocks_per_sm(&self) -> Option<u32> {
        Some(self.blocks_per_sm)
    }
}

impl std::fmt::Debug for DriverKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DriverKernel {
            function,
            blocks_per_sm,
            ..
        } = self;
        write!(
            f,
            "DriverKernel({function:#x}, {blocks_per_sm} blocks per multiprocessor)"
        )
    }
}

/// Defines `check`, `load`, `launch`, `is_capturing`, `context_of` and `limits` over the bindings
/// at `$sys`.
macro_rules! driver_calls {
    ($sys:path) => {
        use $sys as sys;

        /// Turns a result into the driver's own words.
        fn check(call: &'static str, result: sys::CUresult) -> Result<(), DeviceError> {
            if result == sys::CUresult::CUDA_SUCCESS {
                return Ok(());
            }
            let text = |get: unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult| {
                let mut text = std::ptr::null();
                // SAFETY: Both functions write a pointer to a static string, or null.
                unsafe {
                    get(result, &mut text);
                    if text.is_null() {
                        return String::from("unknown");
                    }
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
            };
            // Wrapped, since a binding's functions need not have the same ABI or be safe to name.
            unsafe fn name(r: sys::CUresult, out: *mut *const c_char) -> sys::CUresult {
                // SAFETY: `out` is valid for a write.
                unsafe { sys::cuGetErrorName(r, out) }
            }
            unsafe fn message(r: sys::CUresult, out: *mut *const c_char) -> sys::CUresult {
                // SAFETY: `out` is valid for a write.
                unsafe { sys::cuGetErrorString(r, out) }
            }
            Err(DeviceError::Driver {
                call,
                code: result as u32,
                name: text(name),
                message: text(message),
            })
        }

        /// Loads an entry's PTX and allows it the shared memory that it needs.
        ///
        /// The context must be current. `unloader` wraps the module and unloads it when dropped.
        fn load(
            entry: &'static Entry,
            unloader: impl FnOnce(sys::CUmodule) -> Box<dyn Any + Send + Sync>,
        ) -> Result<DriverKernel, DeviceError> {
            let message = |message: String| DeviceError::Load {
                entry: entry.name,
                message,
            };
            let text = CString::new(entry.ptx).map_err(|error| message(error.to_string()))?;
            let name = CString::new(entry.name).map_err(|error| message(error.to_string()))?;

            let mut log = vec![0u8; 16 << 10];
            let mut options = [
                sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
                sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            ];
            let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
            let mut module = std::ptr::null_mut();
            // SAFETY: The image is a C string; the options have the values that they call for, and
            // the log buffer outlives the call.
            let result = unsafe {
                sys::cuModuleLoadDataEx(
                    &mut module,
                    text.as_ptr().cast(),
                    options.len() as _,
                    options.as_mut_ptr(),
                    values.as_mut_ptr(),
                )
            };
            if result as u32 == UNSUPPORTED_PTX_VERSION {
                let release = probe::driver()?.release;
                return Err(probe::too_new(entry.name, entry.ptx_version, release));
            }
            check("cuModuleLoadDataEx", result).map_err(|error| {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]);
                message(format!("{error}; {}", log.trim()))
            })?;
            let guard = unloader(module);

            let mut function = std::ptr::null_mut();
            // SAFETY: The module was just loaded and is kept by `guard`.
            check("cuModuleGetFunction", unsafe {
                sys::cuModuleGetFunction(&mut function, module, name.as_ptr())
            })?;
            let shared = i32::try_from(entry.smem_bytes).unwrap_or(i32::MAX);
            // SAFETY: The function belongs to the module, which `guard` keeps.
            check("cuFuncSetAttribute", unsafe {
                sys::cuFuncSetAttribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared,
                )
            })?;
            let mut blocks = 0;
            // SAFETY: As above; the result goes to a local.
            check("cuOccupancyMaxActiveBlocksPerMultiprocessor", unsafe {
                sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    &mut blocks,
                    function,
                    entry.threads as _,
                    entry.smem_bytes as usize,
                )
            })?;
            Ok(DriverKernel {
                function: function as usize,
                blocks_per_sm: u32::try_from(blocks).unwrap_or(0),
                _module: guard,
            })
        }

        /// Enqueues a kernel with one parameter, passed by value.
        ///
        /// # Safety
        /// As for [`Queue::launch`]; `stream` is a stream of the current context.
        unsafe fn launch(
            stream: sys::CUstream,
            kernel: &dyn LoadedKernel,
            shape: LaunchShape,
            params: &[u8],
        ) -> Result<(), DeviceError> {
            let kernel: &dyn Any = kernel;
            let Some(kernel) = kernel.downcast_ref::<DriverKernel>() else {
                return Err(DeviceError::Driver {
                    call: "cuLaunchKernel",
                    code: 0,
                    name: "foreign kernel".into(),
                    message: "the kernel was loaded by another backend".into(),
                });
            };
            let [x, y, z] = shape.grid;
            let mut pointers = [params.as_ptr().cast_mut().cast::<c_void>()];
            // SAFETY: The function's module is alive as long as `kernel`. The driver copies the
            // parameter, as many bytes as the PTX declares, before it returns; the caller vouches
            // for that size and for the addresses.
            check("cuLaunchKernel", unsafe {
                sys::cuLaunchKernel(
                    kernel.function as sys::CUfunction,
                    x,
                    y,
                    z,
                    shape.threads,
                    1,
                    1,
                    shape.shared_bytes,
                    stream,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            })
        }

        /// Whether the stream is recording a graph.
        ///
        /// # Safety
        /// `stream` is a stream of the current context, or null.
        unsafe fn is_capturing(stream: sys::CUstream) -> Result<bool, DeviceError> {
            let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            // SAFETY: The caller's promise; the answer goes to a local.
            check("cuStreamIsCapturing", unsafe {
                sys::cuStreamIsCapturing(stream, &mut status)
            })?;
            Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
        }

        /// What plans need to know of a device.
        fn limits(device: sys::CUdevice) -> Result<Limits, DeviceError> {
            use sys::CUdevice_attribute_enum as Attribute;
            let ask = |attribute: Attribute| {
                let mut value = 0;
                // SAFETY: The answer goes to a local.
                check("cuDeviceGetAttribute", unsafe {
                    sys::cuDeviceGetAttribute(&mut value, attribute, device)
                })?;
                Ok::<_, DeviceError>(u32::try_from(value).unwrap_or(0))
            };
            Ok(Limits {
                compute_capability: (
                    ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                    ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                ),
                multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                shared_per_block: ask(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                )?,
                shared_per_multiprocessor: ask(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                )?,
                threads_per_multiprocessor: ask(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                )?,
            })
        }
    };
}
pub(super) use driver_calls;

/// `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`.
pub(super) const UNSUPPORTED_PTX_VERSION: u32 = 222;
