//! Launches: what the driver checks before it enqueues a kernel.

use std::sync::Arc;

use ptx_emulator::LaunchConfig;

use crate::driver::{Handle, Session, State, known};
use crate::error::{Error, Result};
use crate::host;
use crate::module::Function;
use crate::work::{Launch, Work};

/// Threads of a block at most.
pub const MAX_THREADS: u32 = 1024;
/// Extents of a block at most.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Extents of a grid at most.
pub const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];

/// Shape of a launch as the program gives it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

/// Marks of the list that may hold a launch's parameters.
const PARAM_END: usize = 0;
const PARAM_BUFFER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

impl State {
    /// Refuses what the driver refuses.
    pub fn check_shape(&self, function: &Function, shape: Shape) -> Result {
        let within = |extents: [u32; 3], limits: [u32; 3]| {
            let mut pairs = extents.iter().zip(limits);
            pairs.all(|(&extent, limit)| extent > 0 && extent <= limit)
        };
        let refuse = |why: String| {
            crate::say(&format!("launch of {} refused: {why}", function.info.name));
            Err(Error::INVALID_VALUE)
        };
        let Shape {
            grid,
            block,
            shared,
        } = shape;
        let threads: u64 = block.iter().map(|&extent| u64::from(extent)).product();
        let most = function
            .info
            .max_threads
            .unwrap_or(MAX_THREADS)
            .min(MAX_THREADS);
        if !within(grid, MAX_GRID) {
            return refuse(format!("grid {grid:?}, extents from 1 to {MAX_GRID:?}"));
        }
        if !within(block, MAX_BLOCK) || threads > u64::from(most) {
            return refuse(format!(
                "block {block:?}, extents from 1 to {MAX_BLOCK:?}, at most {most} threads"
            ));
        }
        if function
            .info
            .required_block
            .is_some_and(|required| required != block)
        {
            let required = function.info.required_block;
            return refuse(format!("block {block:?}, the kernel requires {required:?}"));
        }
        if shared > function.max_dynamic_shared {
            return refuse(format!(
                "{shared} bytes of dynamic shared memory, its attribute allows {}",
                function.max_dynamic_shared
            ));
        }
        Ok(())
    }
}

impl Session {
    /// A launch, checked, with its parameters copied from where the program has them: `params`
    /// points to a pointer for each, or `extra` to a list that has them in one buffer.
    pub fn prepare(
        &self,
        function: Handle,
        shape: Shape,
        params: usize,
        extra: usize,
    ) -> Result<Launch> {
        let known = known(&self.functions, function)?;
        self.check_shape(known, shape)?;
        let declared = &known.info.params;
        let mut values = Vec::with_capacity(declared.len());
        if params != 0 {
            for (index, param) in declared.iter().enumerate() {
                let place = word(params + index * size_of::<usize>());
                if place == 0 {
                    return Err(Error::INVALID_VALUE);
                }
                values.push(host::copy_of(place, param.size as usize));
            }
        } else if extra != 0 {
            let buffer = packed(extra)?;
            for param in declared {
                let range = param.offset as usize..(param.offset + param.size) as usize;
                values.push(buffer.get(range).ok_or(Error::INVALID_VALUE)?.to_vec());
            }
        } else if !declared.is_empty() {
            return Err(Error::INVALID_VALUE);
        }
        Ok(Launch {
            function,
            kernel: known.kernel.clone(),
            device: self.context(known.context)?.device,
            config: LaunchConfig {
                grid: shape.grid,
                block: shape.block,
                dynamic_smem: shape.shared,
            },
            params: values,
        })
    }

    /// Enqueues a kernel.
    pub fn launch(
        &mut self,
        function: Handle,
        shape: Shape,
        stream: Handle,
        params: usize,
        extra: usize,
    ) -> Result {
        let stream = self.stream(stream)?;
        if known(&self.functions, function)?.context != self.streams[&stream].context {
            return Err(Error::INVALID_HANDLE);
        }
        let launch = self.prepare(function, shape, params, extra)?;
        self.submit(stream, Work::Launch(Arc::new(launch)))
    }
}

/// A word of the program's memory.
fn word(address: usize) -> usize {
    let mut bytes = [0; size_of::<usize>()];
    host::read(address, &mut bytes);
    usize::from_ne_bytes(bytes)
}

/// The buffer that an `extra` list names.
fn packed(extra: usize) -> Result<Vec<u8>> {
    let (mut buffer, mut size) = (None, None);
    let mut at = extra;
    loop {
        let value = word(at + size_of::<usize>());
        match word(at) {
            PARAM_END => break,
            PARAM_BUFFER => buffer = Some(value),
            PARAM_BUFFER_SIZE if value != 0 => size = Some(word(value)),
            _ => return Err(Error::INVALID_VALUE),
        }
        at += 2 * size_of::<usize>();
    }
    match (buffer, size) {
        (Some(buffer), Some(size)) if buffer != 0 => Ok(host::copy_of(buffer, size)),
        _ => Err(Error::INVALID_VALUE),
    }
}
