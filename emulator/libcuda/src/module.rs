//! Modules and their functions.

use std::collections::BTreeMap;
use std::ffi::CString;

use ptx_emulator::KernelInfo;
use ptx_emulator::mutate::Handover;

use crate::driver::{Handle, Session, known};
use crate::error::{Error, Result};
use crate::memory::Home;

/// Shared memory that a block has without asking for more, in bytes.
pub const SHARED_DEFAULT: u32 = 48 << 10;

/// A loaded PTX text.
pub struct Module {
    pub context: Handle,
    module: ptx_emulator::Module,
    /// Addresses of its variables.
    variables: Vec<u64>,
    /// Functions that have been asked for, by name.
    functions: BTreeMap<String, Handle>,
    version: (u32, u32),
}

/// A function of a module.
pub struct Function {
    pub context: Handle,
    pub module: Handle,
    pub kernel: ptx_emulator::Kernel,
    pub info: KernelInfo,
    /// Its name, as C wants it.
    pub c_name: CString,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared: u32,
    /// Attributes without an effect here, by number.
    pub attributes: BTreeMap<u32, i32>,
    /// `.version` of its PTX.
    pub version: (u32, u32),
}

/// PTX version and the CUDA release (13000 for 13.0) whose driver is the first to take it.
const RELEASES: &[((u32, u32), u32)] = &[
    ((6, 0), 9000),
    ((6, 1), 9010),
    ((6, 2), 9020),
    ((6, 3), 10_000),
    ((6, 4), 10_010),
    ((6, 5), 10_020),
    ((7, 0), 11_000),
    ((7, 1), 11_010),
    ((7, 2), 11_020),
    ((7, 3), 11_030),
    ((7, 4), 11_040),
    ((7, 5), 11_050),
    ((7, 6), 11_060),
    ((7, 7), 11_070),
    ((7, 8), 11_080),
    ((8, 0), 12_000),
    ((8, 1), 12_010),
    ((8, 2), 12_020),
    ((8, 3), 12_030),
    ((8, 4), 12_040),
    ((8, 5), 12_050),
    ((8, 6), 12_070),
    ((8, 7), 12_080),
    ((8, 8), 12_090),
    ((9, 0), 13_000),
    ((9, 1), 13_010),
];

/// What an image is, as its first bytes tell.
#[derive(Debug, PartialEq)]
pub enum Image {
    Ptx,
    Cubin,
    Fatbin,
}

impl Image {
    pub fn of(start: &[u8]) -> Image {
        const FATBIN: [[u8; 4]; 2] = [0xba55_ed50_u32.to_le_bytes(), 0x4662_43b1_u32.to_le_bytes()];
        if start.starts_with(b"\x7fELF") {
            Image::Cubin
        } else if FATBIN.iter().any(|magic| start.starts_with(magic)) {
            Image::Fatbin
        } else {
            Image::Ptx
        }
    }
}

/// Why a module was not loaded: what the call returns, and what the compiler's log says.
pub struct Refusal {
    pub error: Error,
    pub log: String,
}

impl Session {
    /// Loads an image that is a text.
    pub fn load(&mut self, context: Handle, image: &[u8]) -> std::result::Result<Handle, Refusal> {
        let refusal = |error: Error, log: String| Refusal { error, log };
        match Image::of(image) {
            Image::Ptx => (),
            kind => {
                let log = format!(
                    "the image is a {}, which is machine code: the emulator runs PTX",
                    if kind == Image::Cubin {
                        "cubin"
                    } else {
                        "fatbin"
                    }
                );
                return Err(refusal(Error::NO_BINARY_FOR_GPU, log));
            }
        }
        if !self.settings.jit {
            let log = "CUDA_DISABLE_PTX_JIT is set".to_string();
            return Err(refusal(Error::JIT_COMPILATION_DISABLED, log));
        }
        let text = std::str::from_utf8(image)
            .map_err(|error| refusal(Error::INVALID_PTX, format!("PTX is ASCII: {error}")))?;
        let handover =
            Handover::get().map_err(|error| refusal(Error::FILE_NOT_FOUND, error.to_string()))?;
        let text = handover.map_or(text, |handover| handover.replace(text));
        let parsed = ptx_emulator::parse::parse(text)
            .map_err(|error| refusal(Error::INVALID_PTX, error.to_string()))?;
        let needs = RELEASES
            .iter()
            .find(|(version, _)| *version >= parsed.version);
        if needs.is_none_or(|(_, release)| *release > self.settings.driver_version) {
            let release = self.settings.driver_version;
            let log = format!(
                "PTX .version {}.{} is newer than the driver of CUDA {}.{}",
                parsed.version.0,
                parsed.version.1,
                release / 1000,
                release % 1000 / 10
            );
            return Err(refusal(Error::UNSUPPORTED_PTX_VERSION, log));
        }
        let device = self
            .contexts
            .get(&context)
            .map_or(0, |context| context.device);
        let module = self.devices[device].emulator.load(text);
        let module = module.map_err(|error| refusal(Error::INVALID_PTX, error.to_string()))?;
        let mut variables = Vec::new();
        for variable in &parsed.variables {
            if let Some((address, size)) = module.symbol(&variable.name) {
                self.enter(context, address, size, Home::Variable, 0);
                variables.push(address);
            }
        }
        let handle = self.handle();
        let module = Module {
            context,
            module,
            variables,
            functions: BTreeMap::new(),
            version: parsed.version,
        };
        self.modules.insert(handle, module);
        Ok(handle)
    }

    /// Unloads a module once nothing that was enqueued can use it any more.
    pub fn unload(&mut self, handle: Handle) -> Result {
        let context = known(&self.modules, handle)?.context;
        self.finish_context(context)?;
        if let Some(module) = self.modules.remove(&handle) {
            for address in module.variables {
                self.release(address);
            }
        }
        self.functions
            .retain(|_, function| function.module != handle);
        Ok(())
    }

    /// A function of a module.
    pub fn function(&mut self, handle: Handle, name: &str) -> Result<Handle> {
        let module = known(&self.modules, handle)?;
        if let Some(&function) = module.functions.get(name) {
            return Ok(function);
        }
        if !module.module.kernels().any(|kernel| kernel == name) {
            return Err(Error::NOT_FOUND);
        }
        let kernel = module.module.kernel(name).map_err(|error| {
            crate::say(&format!("{name} cannot be run: {error}"));
            Error::NOT_SUPPORTED
        })?;
        let info = kernel.info();
        let function = Function {
            context: module.context,
            module: handle,
            kernel,
            max_dynamic_shared: SHARED_DEFAULT.saturating_sub(info.static_shared),
            c_name: CString::new(info.name.as_str()).unwrap_or_default(),
            info,
            attributes: BTreeMap::new(),
            version: module.version,
        };
        let function_handle = self.handle();
        self.functions.insert(function_handle, function);
        if let Some(module) = self.modules.get_mut(&handle) {
            module.functions.insert(name.to_string(), function_handle);
        }
        Ok(function_handle)
    }

    /// Address and size of a variable of a module.
    pub fn variable(&self, module: Handle, name: &str) -> Result<(u64, u64)> {
        let module = known(&self.modules, module)?;
        module.module.symbol(name).ok_or(Error::NOT_FOUND)
    }

    /// Names of a module's functions.
    pub fn function_names(&self, module: Handle) -> Result<Vec<String>> {
        let module = known(&self.modules, module)?;
        Ok(module.module.kernels().map(str::to_string).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_apart() {
        assert_eq!(Image::of(b"\x7fELF\x02"), Image::Cubin);
        assert_eq!(Image::of(&[0x50, 0xed, 0x55, 0xba, 1]), Image::Fatbin);
        assert_eq!(Image::of(&[0xb1, 0x43, 0x62, 0x46]), Image::Fatbin);
        assert_eq!(Image::of(b".version 7.0"), Image::Ptx);
        assert_eq!(Image::of(b""), Image::Ptx);
    }
}
