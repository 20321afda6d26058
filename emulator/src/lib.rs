//! Runs CUDA's PTX on a CPU and reports what the hardware would silently get wrong.
//!
//! ```
//! use ptx_emulator::{Config, Emulator, LaunchConfig, LaunchError};
//!
//! let ptx = "
//!     .version 7.0
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry double(.param .u64 data) {
//!         .reg .b64 %rd<4>; .reg .b32 %r<3>;
//!         ld.param.u64 %rd1, [data];
//!         mov.u32 %r1, %tid.x;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         ld.global.u32 %r2, [%rd3];
//!         add.u32 %r2, %r2, %r2;
//!         st.global.u32 [%rd3], %r2;
//!         ret;
//!     }";
//! let device = Emulator::new(Config::default());
//! let data = device.alloc(8)?;
//! device.write(data, &[3, 0, 0, 0, 4, 0, 0, 0])?;
//! let kernel = device.load(ptx)?.kernel("double")?;
//! let launch = |threads| LaunchConfig { grid: [1; 3], block: [threads, 1, 1], dynamic_smem: 0 };
//!
//! device.launch(&kernel, &launch(2), &[&data.to_le_bytes()])?;
//! let mut out = [0; 8];
//! device.read(data, &mut out)?;
//! assert_eq!(out, [6, 0, 0, 0, 8, 0, 0, 0]);
//!
//! // A third thread reads behind the allocation.
//! match device.launch(&kernel, &launch(3), &[&data.to_le_bytes()]) {
//!     Err(LaunchError::Violation(violation)) => assert_eq!((violation.line, violation.lanes), (11, 0b100)),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Violation`] is the program's fault and says where and by whom; an [`EmulatorError`] is this
//! crate's. What cannot be run is refused when it is loaded, by a [`LoadError`] with line and token.
//! Every choice that the hardware leaves open, such as the order of warps, is drawn from
//! [`Config::seed`], and everything that comes out depends on that alone.
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
pub mod mutate;
mod numerics;
pub mod parse;
mod report;
mod simd;
mod tensor;
mod types;
mod variables;
mod violation;
mod warning;
mod warp;

pub use bind::{LoadError, Parameter};
pub use counters::{AllocationTraffic, Counts, LaunchStats, LineStats, SourceStats, Traffic};
pub use device::{
    Checks, Config, ConfigError, Emulator, Kernel, KernelInfo, LaunchConfig, LaunchError, MmaMode,
    Module,
};
pub use gpu::{BlockResources, Dram, Gpu, Occupancy, Rates, Resource, TensorRates};
pub use isa::{Class, InstructionInfo, instructions};
pub use memory::MemoryError;
pub use report::{Bound, Energy, EnergyPart, Pipe, Report, si};
pub use violation::{Access, EmulatorError, Kind, OtherAccess, Space, Violation};
pub use warning::{Warning, WarningKind};

/// Random programs, for the fuzzer in `fuzz/`.
#[cfg(fuzzing)]
pub use isa::generate;

/// Rows that are wrong on purpose, for `cargo xtask rows`.
#[cfg(ptx_mutation)]
pub use isa::mutation;

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
