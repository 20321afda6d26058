//! Limits of real devices.

/// A GPU model, with the limits that its driver enforces and the figures that counters are held
/// against. Sources: the tables of compute capabilities in the CUDA programming guide, and the
/// vendor's data sheets.
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
    /// Threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks of a multiprocessor.
    pub blocks_per_sm: u32,
    /// Device memory, in bytes.
    pub memory: u64,
    /// Boost clock, in MHz.
    pub clock_mhz: u32,
    /// Bandwidth of device memory, in GB/s.
    pub bandwidth: f64,
    /// L2 cache, in bytes.
    pub l2: u64,
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

macro_rules! gpus {
    ($($(#[$doc:meta])* $id:ident: $name:literal, $cc:expr, $sms:literal SMs, $block:literal / $sm:literal KiB,
       $threads:literal threads, $blocks:literal blocks, $memory:literal GiB, $clock:literal MHz,
       $bandwidth:literal GBps, $l2:literal MiB;)+) => {
        impl Gpu {
            $($(#[$doc])* pub const $id: Gpu = Gpu {
                name: $name, compute_capability: $cc, sms: $sms, shared_per_block: $block << 10,
                shared_per_sm: $sm << 10, threads_per_sm: $threads, blocks_per_sm: $blocks,
                memory: $memory << 30, clock_mhz: $clock, bandwidth: $bandwidth, l2: $l2 << 20,
            };)+

            /// Every model.
            pub const ALL: &'static [Gpu] = &[$(Gpu::$id),+];
        }
    };
}

gpus! {
    /// NVIDIA A100 80GB SXM.
    A100: "A100", (8, 0), 108 SMs, 163 / 164 KiB, 2048 threads, 32 blocks, 80 GiB, 1410 MHz, 2039.0 GBps, 40 MiB;
    /// NVIDIA T4.
    T4: "T4", (7, 5), 40 SMs, 64 / 64 KiB, 1024 threads, 16 blocks, 16 GiB, 1590 MHz, 320.0 GBps, 4 MiB;
    /// NVIDIA A10.
    A10: "A10", (8, 6), 72 SMs, 99 / 100 KiB, 1536 threads, 16 blocks, 24 GiB, 1695 MHz, 600.0 GBps, 6 MiB;
    /// NVIDIA L4.
    L4: "L4", (8, 9), 58 SMs, 99 / 100 KiB, 1536 threads, 24 blocks, 24 GiB, 2040 MHz, 300.0 GBps, 48 MiB;
    /// NVIDIA GeForce RTX 3090.
    RTX_3090: "RTX 3090", (8, 6), 82 SMs, 99 / 100 KiB, 1536 threads, 16 blocks, 24 GiB, 1695 MHz, 936.0 GBps, 6 MiB;
    /// NVIDIA GeForce RTX 4090.
    RTX_4090: "RTX 4090", (8, 9), 128 SMs, 99 / 100 KiB, 1536 threads, 24 blocks, 24 GiB, 2520 MHz, 1008.0 GBps, 72 MiB;
    /// NVIDIA GeForce RTX 5090.
    RTX_5090: "RTX 5090", (12, 0), 170 SMs, 99 / 100 KiB, 1536 threads, 24 blocks, 32 GiB, 2407 MHz, 1792.0 GBps, 96 MiB;
    /// NVIDIA H100 80GB SXM.
    H100: "H100", (9, 0), 132 SMs, 227 / 228 KiB, 2048 threads, 32 blocks, 80 GiB, 1980 MHz, 3350.0 GBps, 50 MiB;
    /// NVIDIA H200 SXM.
    H200: "H200", (9, 0), 132 SMs, 227 / 228 KiB, 2048 threads, 32 blocks, 141 GiB, 1980 MHz, 4800.0 GBps, 50 MiB;
    /// NVIDIA B200 SXM.
    B200: "B200", (10, 0), 148 SMs, 227 / 228 KiB, 2048 threads, 32 blocks, 180 GiB, 1965 MHz, 7700.0 GBps, 126 MiB;
}

impl Gpu {
    /// The `sm_` number: 80 for compute capability 8.0.
    pub fn sm(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu::A100
    }
}
