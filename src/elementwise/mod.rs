//! What a model needs between attention and matrix products: norms, gates, sums,
//! embeddings, and a token at the end.
//!
//! | you want to | use |
//! |---|---|
//! | normalise rows, also heads, after adding to the residual stream if wanted | [`NormPlan`] |
//! | gate, add or scale rows | [`PointwisePlan`] |
//! | look up embeddings | [`EmbedPlan`] |
//! | draw tokens, or take the most likely ones | [`SamplePlan`] |
//!
//! # Shapes
//! Rows are 16-bit numbers that begin at multiples of 16 bytes, of any length; strides between rows,
//! and between heads of a norm, are free.
//!
//! # Numerics
//! Everything is computed in f32 and rounded once; a residual sum is rounded before it is normalised,
//! so that fusing does not change a bit. The bits of a row never depend on the other rows, and
//! repeats are identical.
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::elementwise::*;
//! use infer_kernels::{DType, Device};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let plan = NormPlan::new(&device, &NormProblem::new(DType::BF16, 64, 0.0).residual(true))?;
//! println!("{plan}");
//!
//! let x = stream.upload(&vec![bf16::from_f32(1.5); 3 * 64])?;
//! let weight = stream.upload(&vec![2.0f32; 64])?;
//! let mut stream_of_model = stream.upload(&vec![bf16::from_f32(0.5); 3 * 64])?;
//! let mut y = stream.alloc::<bf16>(3 * 64)?;
//! let shape = [3, 1, 64]; // three tokens, not in heads
//! let args = NormArgs::new(x.tensor(shape)?, y.tensor_mut(shape)?)
//!     .weight(weight.tensor([64])?)
//!     .residual(stream_of_model.tensor_mut(shape)?);
//! plan.run(&stream, args)?;
//!
//! assert_eq!(stream_of_model.download()?, [bf16::from_f32(2.0); 3 * 64]);
//! assert_eq!(y.download()?, [bf16::from_f32(2.0); 3 * 64]); // 2 · 2 / √(mean 4)
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! `cuda/elementwise/`. The same on the CPU: [`reference::elementwise`](crate::reference::elementwise).

mod check;
mod embed;
mod error;
mod norm;
mod pointwise;
mod sample;

pub(crate) use check::Bound;
pub use check::Rows;
#[doc(hidden)]
pub use embed::EmbedParams;
pub use embed::{EmbedArgs, EmbedPlan, EmbedProblem, Table, TableFormat};
pub use error::ElementwiseError;
#[doc(hidden)]
pub use norm::NormParams;
pub use norm::{NormArgs, NormPlan, NormProblem, NormWeight};
#[doc(hidden)]
pub use pointwise::PointwiseParams;
pub use pointwise::{PointwiseArgs, PointwisePlan, PointwiseProblem, Second};
#[doc(hidden)]
pub use sample::SampleParams;
pub use sample::{SampleArgs, SamplePlan, SampleProblem, Sampling};
