//! How many blocks fit on a multiprocessor, by threads, blocks and shared memory.
//!
//! Registers do not count: PTX has none that a machine would have, and no assembler runs here. So
//! the driver of a real device may give less.

use ptx_emulator::Gpu;

use crate::driver::{Handle, Session, known};
use crate::error::Result;
use crate::module::Function;

/// Shared memory that each block costs beyond its own, in bytes, from sm_80 on.
pub const RESERVED: u32 = 1024;
/// Grain in which shared memory is given out, in bytes.
const GRAIN: u32 = 128;

impl Session {
    /// A function with its device.
    pub fn function_and_gpu(&self, function: Handle) -> Result<(&Function, &Gpu)> {
        let function = known(&self.functions, function)?;
        let device = self.context(function.context)?.device;
        Ok((function, &self.devices[device].gpu))
    }
}

fn reserved(gpu: &Gpu) -> u32 {
    if gpu.sm() >= 80 { RESERVED } else { 0 }
}

/// Blocks that a multiprocessor holds at once.
pub fn blocks(function: &Function, gpu: &Gpu, threads: u32, dynamic: usize) -> u32 {
    let most = function.info.max_threads.unwrap_or(1024).min(1024);
    if threads == 0 || threads > most || dynamic > function.max_dynamic_shared as usize {
        return 0;
    }
    let warps = threads.div_ceil(32);
    let by_warps = gpu.threads_per_sm / 32 / warps;
    let shared = function.info.static_shared + dynamic as u32 + reserved(gpu);
    let by_shared = match shared.next_multiple_of(GRAIN) {
        0 => gpu.blocks_per_sm,
        shared => gpu.shared_per_sm / shared,
    };
    by_warps.min(by_shared).min(gpu.blocks_per_sm)
}

/// Dynamic shared memory that each of so many blocks can have.
pub fn dynamic_shared(function: &Function, gpu: &Gpu, blocks: u32) -> usize {
    let whole = gpu.shared_per_sm / blocks.max(1) / GRAIN * GRAIN;
    let own = whole.saturating_sub(function.info.static_shared + reserved(gpu));
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
    let most = function.info.max_threads.unwrap_or(1024).min(1024);
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
