//! How many blocks fit on a multiprocessor, by threads, blocks and shared memory.
//!
//! Registers do not count: PTX has none that a machine would have, and no assembler runs here. So
//! the driver of a real device may give less.

use ptx_emulator::{BlockResources, Gpu};

use crate::driver::{Handle, Session, known};
use crate::error::Result;
use crate::launch::MAX_THREADS;
use crate::module::Function;

impl Session {
    /// A function with its device.
    pub fn function_and_gpu(&self, function: Handle) -> Result<(&Function, &Gpu)> {
        let function = known(&self.functions, function)?;
        let device = self.context(function.context)?.device;
        Ok((function, &self.devices[device].gpu))
    }
}

/// Threads that a block of the function can have.
fn most_threads(function: &Function) -> u32 {
    function
        .info
        .max_threads
        .unwrap_or(MAX_THREADS)
        .min(MAX_THREADS)
}

/// Blocks that a multiprocessor holds at once.
pub fn blocks(function: &Function, gpu: &Gpu, threads: u32, dynamic: usize) -> u32 {
    let allowed = function.max_dynamic_shared;
    match u32::try_from(dynamic) {
        Ok(dynamic) if threads > 0 && threads <= most_threads(function) && dynamic <= allowed => {
            let block = BlockResources {
                threads,
                registers: None,
                shared: function.info.static_shared + dynamic,
            };
            gpu.occupancy(&block).blocks
        }
        _ => 0,
    }
}

/// Dynamic shared memory that each of so many blocks can have.
pub fn dynamic_shared(function: &Function, gpu: &Gpu, blocks: u32) -> usize {
    let whole = gpu.shared_per_sm / blocks.max(1) / gpu.shared_unit * gpu.shared_unit;
    let own = whole.saturating_sub(function.info.static_shared + gpu.shared_reserved);
    own.min(function.max_dynamic_shared) as usize
}

/// The block's size, in whole warps, that keeps most threads on a multiprocessor, and the blocks
/// of all multiprocessors then.
pub fn best_block(
    function: &Function,
    gpu: &Gpu,
    limit: u32,
    dynamic: impl Fn(u32) -> usize,
) -> (u32, u32) {
    let most = most_threads(function);
    let most = if limit == 0 { most } else { most.min(limit) };
    let sizes = (1..=most.div_ceil(32)).map(|warps| (32 * warps).min(most));
    let mut best = (0, 0, 0);
    for size in sizes {
        let blocks = blocks(function, gpu, size, dynamic(size));
        if blocks * size >= best.0 {
            best = (blocks * size, size, blocks * gpu.sms);
        }
    }
    (best.1, best.2)
}
