//! Real devices: their limits, and the figures that counters are held against.

mod models;
mod occupancy;

pub use occupancy::{BlockResources, Occupancy, Resource};

/// A GPU model, with the limits that its driver enforces and the figures that counters are held
/// against. Where they come from is said in `gpu/models.rs`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gpu {
    /// Name.
    pub name: &'static str,
    /// Compute capability: `(8, 0)`.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that a block can have at most (after opting in), in bytes.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_sm: u32,
    /// Shared memory that the system takes of every block, in bytes.
    pub shared_reserved: u32,
    /// Shared memory is given out in multiples of this, in bytes.
    pub shared_unit: u32,
    /// Registers of 32 bits of a multiprocessor.
    pub registers_per_sm: u32,
    /// Registers of a block.
    pub registers_per_block: u32,
    /// Registers of a thread.
    pub registers_per_thread: u32,
    /// Registers are given out to warps in multiples of this.
    pub register_unit: u32,
    /// Warps get their registers in groups of this many.
    pub warp_unit: u32,
    /// Threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks of a multiprocessor.
    pub blocks_per_sm: u32,
    /// Device memory, in bytes.
    pub memory: u64,
    /// Technology of device memory.
    pub dram: Dram,
    /// Highest clock, in MHz.
    pub clock_mhz: u32,
    /// Bandwidth of device memory, in GB/s.
    pub bandwidth: f64,
    /// L2 cache, in bytes.
    pub l2: u64,
    /// What the L2 cache can deliver, in bytes per clock.
    pub l2_bytes_per_clock: u32,
    /// What a multiprocessor can do in a clock.
    pub rates: Rates,
    /// The same of its tensor cores.
    pub tensor: TensorRates,
    /// Power that the board is built for, in watts.
    pub board_watts: f64,
    /// Process that the chip is made in, in nanometres as its maker names it.
    pub process_nm: u32,
}

/// Lanes of warp instructions that a multiprocessor takes up in a clock, by execution unit. Where
/// that depends on the instruction, it is the highest, so that times made of it are lower bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// Instructions of all kinds: its schedulers issue one each.
    pub issue: u32,
    /// Integer and logic.
    pub int: u32,
    /// `f32`.
    pub f32: u32,
    /// `f64`.
    pub f64: u32,
    /// `f16` and `bf16`, each lane a pair.
    pub half2: u32,
    /// Conversions.
    pub convert: u32,
    /// Approximate functions.
    pub special: u32,
    /// Shuffles and other exchanges within a warp.
    pub warp: u32,
    /// Loads, stores and atomics of every space.
    pub memory: u32,
    /// Bytes of shared memory.
    pub shared_bytes: u32,
}

/// Multiply-adds of dense tensor operations that a multiprocessor does in a clock, by type; 0 where
/// it has no unit for them. They are the rates of the architecture's widest instruction: `mma.sync`
/// does not reach them on compute capability 9.0 and 10.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorRates {
    /// `f16`, accumulated in `f16`.
    pub f16_in_f16: u32,
    /// `f16` and `bf16`, accumulated in `f32`.
    pub f16_in_f32: u32,
    /// `tf32`.
    pub tf32: u32,
    /// `f64`.
    pub f64: u32,
    /// 8-bit integers.
    pub int8: u32,
    /// 4-bit integers.
    pub int4: u32,
    /// `e4m3` and `e5m2`, accumulated in `f32`.
    pub fp8: u32,
}

/// Technology of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dram {
    /// Stacks beside the chip.
    Hbm2,
    /// Stacks beside the chip.
    Hbm2e,
    /// Stacks beside the chip.
    Hbm3,
    /// Stacks beside the chip.
    Hbm3e,
    /// Chips around.
    Gddr6,
    /// Chips around.
    Gddr6x,
    /// Chips around.
    Gddr7,
}

impl Dram {
    /// Whether it is made of stacks beside the chip, with short wires.
    pub fn stacked(self) -> bool {
        matches!(self, Dram::Hbm2 | Dram::Hbm2e | Dram::Hbm3 | Dram::Hbm3e)
    }
}

/// Shared memory that a block has without opting in, in bytes.
pub(crate) const SHARED_DEFAULT: u32 = 48 << 10;
/// Threads of a block.
pub(crate) const THREADS_PER_BLOCK: u64 = 1024;
/// Extent of a block.
pub(crate) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Extent of a grid.
pub(crate) const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65535, 65535];
/// Bytes of parameters that a kernel can have on every architecture and driver.
pub(crate) const PARAMETER_BYTES: u64 = 4096;

impl Gpu {
    /// The `sm_` number: 80 for compute capability 8.0.
    pub fn sm(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }

    /// Warps of a multiprocessor.
    pub fn warps_per_sm(&self) -> u32 {
        self.threads_per_sm / 32
    }

    /// Clocks in a second.
    pub fn clock_hz(&self) -> f64 {
        f64::from(self.clock_mhz) * 1e6
    }
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu::A100
    }
}
