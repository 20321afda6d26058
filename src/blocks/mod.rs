//! Weights in the block formats of GGUF files, each in its own precision, and products with them.
//!
//! [`BlockWeight`] holds a tensor of any [`BlockFormat`]: codes of 4 or 8 bits, with the scales, and
//! offsets, that the format has for each 16 or 32 rows. It is packed from a tensor's bytes, gives
//! back the exact numbers that the format defines, and lies in memory as [`layout`] says.
//!
//! [`BlockPlan`] computes `y = act(x·W + bias) + residual`, or gated
//! `y = act(x·W + bias) · (x·W_up + bias_up) + residual`, with such weights.
//!
//! # Shapes
//! `x`: `[m, k]`, rows at multiples of 16 bytes; `bias`, `bias_up`: `[n]`; `residual`, `y`: `[m, n]`.
//! All of type `f16` or `bf16`, whatever the format, but for `y`, which may be `f32`.
//!
//! # Numerics
//! Weights are never rounded. Codes are exact operands of tensor operations; a group's sum of `q·x`
//! is made in f32, as is that of `x` where the format has offsets; both are multiplied by the scale
//! and the offset, which are exact, in f32. What follows is computed in f32 and rounded once. No sum
//! is made by atomics: the same call gives the same bits, always, and a row's bits do not depend on
//! the others. With offsets, an infinite `x` makes its row NaN.
//!
//! # Source
//! `cuda/blocks/`. The same arguments on the CPU, in f64:
//! [`reference::blocks`](crate::reference::blocks).
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::blocks::{BlockArgs, BlockFormat, BlockPlan, BlockProblem, BlockWeight};
//! use infer_kernels::{DType, Device};
//!
//! // 40 columns of one block each: a scale of 1/4, then 32 codes.
//! let (n, k) = (40, 32);
//! let block: Vec<u8> = [0x00, 0x34].into_iter().chain(1..33).collect();
//! let w = BlockWeight::pack(BlockFormat::Q8_0, k, n, &block.repeat(n))?;
//! assert_eq!(w.dequantize()[5 * n], 1.5); // [k, n]
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let plan = BlockPlan::new(&device, &BlockProblem::of(&w, DType::BF16, 3))?;
//! println!("{plan}");
//! let w = w.upload(&stream)?;
//! let x = stream.upload(&vec![bf16::ONE; 3 * k])?;
//! let mut y = stream.alloc::<bf16>(3 * n)?;
//! plan.run(&stream, BlockArgs::new(x.tensor([3, k])?, w.tensors(), y.tensor_mut([3, n])?))?;
//! assert_eq!(y.download()?[0].to_f32(), 132.0); // (1 + 2 + … + 32) / 4
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod args;
mod error;
mod format;
pub mod layout;
mod params;
mod plan;
mod problem;
mod tensors;
mod weight;

pub use crate::int4::PackError;
pub use args::BlockArgs;
pub(crate) use args::BoundBlocks;
pub use error::BlockError;
pub use format::BlockFormat;
#[doc(hidden)]
pub use params::BlockParams;
pub use plan::BlockPlan;
pub use problem::BlockProblem;
pub use tensors::{BlockBuffers, BlockTensors};
pub use weight::BlockWeight;
