//! Runs CUDA's PTX on a CPU and reports what the hardware would silently get wrong.
#![deny(unsafe_code)]
// A lane's number indexes several registers at once, and masks of lanes.
#![allow(clippy::needless_range_loop)]
pub mod ast;
mod bind;
mod counters;
mod device;
mod gpu;
mod isa;
pub mod lex;
mod machine;
mod memory;
mod numerics;
pub mod parse;
mod simd;
mod tensor;
mod types;
mod violation;
mod warp;

pub use bind::{LoadError, Parameter};
pub use counters::LaunchStats;
pub use device::{
    Checks, Config, ConfigError, Emulator, Kernel, KernelInfo, LaunchConfig, LaunchError, MmaMode,
    Module,
};
pub use gpu::Gpu;
pub use isa::{Class, InstructionInfo, instructions};
pub use memory::MemoryError;
pub use violation::{Access, EmulatorError, Kind, Space, Violation};
