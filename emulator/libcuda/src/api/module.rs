//! Modules, functions, variables.

use std::ffi::c_char;

use crate::abi::{In, Out, Text, exports};
use crate::driver::{Handle, Session, known, known_mut};
use crate::error::{Error, Result};
use crate::host;
use crate::module::Image;

/// Options of the compiler by number, as in `CUjit_option`: those with an effect here.
mod option {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG: u32 = 3;
    pub const INFO_LOG_SIZE: u32 = 4;
    pub const ERROR_LOG: u32 = 5;
    pub const ERROR_LOG_SIZE: u32 = 6;
}

exports! {
    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        let image = std::fs::read(path.get()?).map_err(|_| Error::FILE_NOT_FOUND)?;
        load(module, &image, Options::default())
    }

    fn cuModuleLoadData(module: Out<Handle>, image: In<u8>) {
        load(module, &image_of(image)?, Options::default())
    }

    fn cuModuleLoadDataEx(module: Out<Handle>, image: In<u8>, count: u32, options: In<u32>, values: Out<usize>) {
        let options = Options::read(count, options, values)?;
        load(module, &image_of(image)?, options)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: In<u8>) {
        load(module, &image_of(image)?, Options::default())
    }

    fn cuModuleUnload(module: Handle) {
        let mut driver = Session::open()?;
        driver.refuse_unsafe()?;
        driver.unload(module)
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        Session::open()?;
        // CU_MODULE_LAZY_LOADING: a function is bound when it is asked for.
        mode.set(2)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        let mut driver = Session::open()?;
        let found = driver.function(module, &name.get()?)?;
        function.set(found)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        count.set(Session::open()?.function_names(module)?.len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: u32, module: Handle) {
        let mut driver = Session::open()?;
        for (index, name) in driver.function_names(module)?.iter().take(count as usize).enumerate() {
            let function = driver.function(module, name)?;
            functions.put_at(index, function);
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let (base, size) = Session::open()?.variable(module, &name.get()?)?;
        address.put(base);
        bytes.put(size as usize);
        Ok(())
    }

    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) {
        let driver = Session::open()?;
        value.set(get_attribute(&driver, attribute, function)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) {
        let mut driver = Session::open()?;
        set_attribute(&mut driver, attribute, value, function)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        let driver = Session::open()?;
        known(&driver.functions, function)?;
        if config > 3 { Err(Error::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        let driver = Session::open()?;
        known(&driver.functions, function)?;
        if config > 2 { Err(Error::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        let driver = Session::open()?;
        module.set(known(&driver.functions, function)?.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: Handle) {
        let mut driver = Session::open()?;
        name.set(known_mut(&mut driver.functions, function)?.c_name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
        let driver = Session::open()?;
        let params = &known(&driver.functions, function)?.info.params;
        let param = params.get(index).ok_or(Error::INVALID_VALUE)?;
        offset.put(param.offset as usize);
        size.put(param.size as usize);
        Ok(())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        let driver = Session::open()?;
        known(&driver.functions, function)?;
        state.set(1)
    }

    fn cuFuncLoad(function: Handle) {
        let driver = Session::open()?;
        known(&driver.functions, function).map(|_| ())
    }
}

/// Attributes of functions by number, as in `CUfunction_attribute`.
pub fn get_attribute(driver: &Session, attribute: u32, function: Handle) -> Result<i32> {
    let (function, gpu) = driver.function_and_gpu(function)?;
    let info = &function.info;
    Ok(match attribute {
        0 => info.max_threads.unwrap_or(1024).min(1024) as i32,
        1 => info.static_shared as i32,
        // Constant memory is the module's; registers are unknown without an assembler.
        2 => 0,
        3 => info.local_bytes as i32,
        4 => 0,
        5 => (function.version.0 * 10 + function.version.1) as i32,
        6 => gpu.sm() as i32,
        7 => 0,
        8 => function.max_dynamic_shared as i32,
        9 => function.attributes.get(&9).copied().unwrap_or(-1),
        10..=15 => function.attributes.get(&attribute).copied().unwrap_or(0),
        _ => return Err(Error::INVALID_VALUE),
    })
}

pub fn set_attribute(driver: &mut Session, attribute: u32, value: i32, function: Handle) -> Result {
    let (known, gpu) = driver.function_and_gpu(function)?;
    let most = gpu
        .shared_per_block
        .saturating_sub(known.info.static_shared);
    let function = known_mut(&mut driver.functions, function)?;
    match attribute {
        8 => {
            let bytes = u32::try_from(value).map_err(|_| Error::INVALID_VALUE)?;
            if bytes > most {
                crate::say(&format!(
                    "{} cannot have {bytes} bytes of dynamic shared memory, at most {most}",
                    function.info.name
                ));
                return Err(Error::INVALID_VALUE);
            }
            function.max_dynamic_shared = bytes;
        }
        9 if (-1..=100).contains(&value) => {
            function.attributes.insert(9, value);
        }
        14 | 15 => {
            function.attributes.insert(attribute, value);
        }
        _ => return Err(Error::INVALID_VALUE),
    }
    Ok(())
}

/// A buffer for a log and what is known of it.
#[derive(Default)]
struct Log {
    buffer: usize,
    room: usize,
    /// Index of the option that has the size, where the size used goes.
    size_at: Option<usize>,
}

/// Options of a compilation.
#[derive(Default)]
pub struct Options {
    info: Log,
    error: Log,
    time_at: Option<usize>,
    values: Option<Out<usize>>,
}

impl Options {
    /// The options with an effect; the others tune a compiler that does not run here.
    pub fn read(count: u32, names: In<u32>, values: Out<usize>) -> Result<Options> {
        let mut options = Options::default();
        let inputs: In<usize> = values.as_in();
        for index in 0..count as usize {
            let value = inputs.at(index)?;
            match names.at(index)? {
                option::WALL_TIME => options.time_at = Some(index),
                option::INFO_LOG => options.info.buffer = value,
                option::INFO_LOG_SIZE => {
                    options.info.room = value as u32 as usize;
                    options.info.size_at = Some(index);
                }
                option::ERROR_LOG => options.error.buffer = value,
                option::ERROR_LOG_SIZE => {
                    options.error.room = value as u32 as usize;
                    options.error.size_at = Some(index);
                }
                _ => (),
            }
        }
        options.values = (count > 0).then_some(values);
        Ok(options)
    }

    /// Writes the logs.
    fn report(&self, error: &str) {
        for (log, text) in [(&self.info, ""), (&self.error, error)] {
            if log.buffer == 0 || log.room == 0 {
                continue;
            }
            let used = text.len().min(log.room - 1);
            let mut bytes = text.as_bytes()[..used].to_vec();
            bytes.push(0);
            host::write(log.buffer, &bytes);
            if let (Some(values), Some(index)) = (self.values, log.size_at) {
                values.put_at(index, bytes.len());
            }
        }
        if let (Some(values), Some(index)) = (self.values, self.time_at) {
            values.put_at(index, 0);
        }
    }
}

/// An image in memory: a text ends with a zero byte, and of machine code the start is enough to
/// refuse it.
pub fn image_of(image: In<u8>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let byte = image.at(bytes.len())?;
        if byte == 0 {
            return Ok(bytes);
        }
        bytes.push(byte);
        if bytes.len() == 4 && Image::of(&bytes) != Image::Ptx {
            return Ok(bytes);
        }
    }
}

/// Loads an image into the current context.
pub fn load(module: Out<Handle>, image: &[u8], options: Options) -> Result {
    let mut driver = Session::open()?;
    let context = driver.current()?;
    driver.refuse_unsafe()?;
    let image = image.strip_suffix(&[0]).unwrap_or(image);
    match driver.load(context, image) {
        Ok(handle) => {
            options.report("");
            module.set(handle)
        }
        Err(refusal) => {
            crate::say(&format!("a module was refused: {}", refusal.log));
            options.report(&refusal.log);
            Err(refusal.error)
        }
    }
}
