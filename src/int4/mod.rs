//! 4-bit weights: one packed type for every checkpoint format, and products with it.
//!
//! [`Int4Weight`] holds a matrix `[k, n]` of codes, with a scale and maybe a zero point for each
//! group of rows of a column. [`load`] makes it of what GPTQ, AWQ, compressed-tensors and GGUF store,
//! [`Quantizer`] of ordinary weights. It gives back the exact numbers that it stands for,
//! can be cut along either axis, and lies in memory as [`layout`] says.
//!
//! [`CodebookWeight`] is the same for formats of which a code is a place in a table: MXFP4, NVFP4, and
//! bitsandbytes' NF4 and FP4. There is no kernel for it; `dequantize` makes the ordinary weights.
//!
//! [`Int4Plan`] computes `y = act(x·W + bias) + residual`, or gated
//! `y = act(x·W + bias) · (x·W_up + bias_up) + residual`, with such weights.
//!
//! # Shapes
//! `x`: `[m, k]`, rows at multiples of 16 bytes; `bias`, `bias_up`: `[n]`; `residual`, `y`: `[m, n]`.
//! All of the scales' type, but for `y`, which may be `f32`.
//!
//! # Numerics
//! Up to 16 rows: `q - z` is exact, and a group's sum of products is scaled in f32. More rows: a
//! weight `s·(q - z)` is rounded to the type of `x`, once. Products are exact and summed in f32 by the
//! tensor cores; what follows is computed in f32 and rounded once. No sum is made by atomics: the
//! same call gives the same bits, always.
//!
//! # Source
//! `cuda/int4/`. The same arguments on the CPU, in f64: [`reference::int4`](crate::reference::int4).
//!
//! # Example
//! ```
//! use infer_kernels::DType;
//! use infer_kernels::int4::Quantizer;
//!
//! let (n, k) = (24, 256);
//! let w: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.37).sin()).collect();
//! let packed = Quantizer::new(DType::F16).quantize(&w, n, k)?;
//! assert_eq!(packed.bytes(), 32 * 256 / 2 + 2 * 32 * 2); // Columns are padded to 32.
//! let exact = packed.dequantize(); // [k, n]
//! assert!((exact[24 * 9 + 5] - w[256 * 5 + 9]).abs() < 0.08);
//!
//! use half::f16;
//! use infer_kernels::Device;
//! use infer_kernels::int4::{Int4Args, Int4Plan, Int4Problem};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let plan = Int4Plan::new(&device, &Int4Problem::of(&packed, 5))?;
//! println!("{plan}");
//! let w = packed.upload(&stream)?;
//! let x = stream.upload(&vec![f16::ONE; 5 * k])?;
//! let mut y = stream.alloc::<f16>(5 * n)?;
//! plan.run(&stream, Int4Args::new(x.tensor([5, k])?, w.tensors(), y.tensor_mut([5, n])?))?;
//! let first: f32 = (0..k).map(|row| exact[row * n]).sum();
//! assert!((y.download()?[0].to_f32() - first).abs() < 0.1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod args;
mod codebook;
mod codebook_weight;
mod error;
pub mod layout;
pub mod load;
mod pack;
mod params;
mod plan;
mod problem;
mod quantize;
pub(crate) mod stream;
mod tensors;
mod weight;

pub(crate) use args::BoundProduct;
pub use args::Int4Args;
pub use codebook::Codebook;
pub use codebook_weight::{BlockScales, CodebookWeight, MatrixScale};
pub use error::{Int4Error, PackError};
pub use load::Scale;
#[doc(hidden)]
pub use params::Int4Params;
pub use plan::Int4Plan;
pub use problem::Int4Problem;
pub use quantize::Quantizer;
pub use tensors::{Int4Buffers, Int4Tensors};
pub use weight::{Codes, Int4Weight};
