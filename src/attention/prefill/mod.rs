//! Prefill attention: all queries of a ragged batch at once, FlashAttention style.
//!
//! `O[i,h] = Σ_j P[i,h,j] · V[j,g]`, `P[i,h,·] = softmax_j(scale · Q[i,h]·K[j,g])`,
//! `LSE[h,i] = ln Σ_j exp(scale · Q[i,h]·K[j,g])`, with kv head `g = h / (query heads / kv heads)`
//! and `j` over the keys of query `i`'s own sequence.
//!
//! # Shapes
//! `q`, `out`: `[total_q, heads.query, heads.dim]`; `k`, `v`: `[total_k, heads.kv, heads.dim]`;
//! `lse`: `[heads.query, total_q]` as `f32`, natural logarithm. Sequence `b` owns the rows
//! `offsets[b]..offsets[b + 1]`. The innermost axis is contiguous; every other stride, and the
//! address of the first element, is a multiple of 16 bytes, and may be padded, or zero.
//!
//! # Options
//! Causal: query `i` of `n` sees the keys `j <= i + (keys - n)`, so that the last query sees every
//! key. With fewer keys than queries the first queries see none.
//!
//! # Special rows
//! A query with nothing to attend to, because there are no keys, all are masked, or all scores are
//! `-∞`, gives `O = 0` and `LSE = -∞`. A NaN score gives NaN. Rows that belong to no sequence are
//! not written. NaN in a value row reaches every query of the same tile that sees a key of its
//! tile, masked or not.
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::attention::{SeqLens, prefill::*};
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let heads = HeadShape { query: 4, kv: 1, dim: 64 };
//! let lens = SeqLens::from_lengths(&stream, &[3, 5])?;
//! let problem = PrefillProblem::new(DType::BF16, heads, lens.batch(), lens.max_len()).causal(true);
//! let plan = PrefillPlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let q = stream.upload(&vec![bf16::ONE; 8 * 4 * 64])?;
//! let kv = stream.upload(&vec![bf16::ONE; 8 * 64])?;
//! let mut out = stream.alloc::<bf16>(8 * 4 * 64)?;
//! let status = StatusWord::new(&stream)?;
//! plan.run(&stream, PrefillArgs {
//!     q: q.tensor([8, 4, 64])?,
//!     k: kv.tensor([8, 1, 64])?,
//!     v: kv.tensor([8, 1, 64])?,
//!     out: out.tensor_mut([8, 4, 64])?,
//!     lse: None,
//!     seqlens_q: (&lens).into(),
//!     seqlens_k: (&lens).into(),
//!     status: &status,
//! })?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![bf16::ONE; 8 * 4 * 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! FlashAttention-2; `cuda/attention/prefill.cuh`. The same arguments on the CPU, in f64:
//! [`reference::attention`](crate::reference::attention).

mod args;
mod error;
mod params;
mod plan;
mod problem;

pub(crate) use args::Bound;
pub use args::PrefillArgs;
pub use error::PrefillError;
#[doc(hidden)]
pub use params::PrefillParams;
pub use plan::PrefillPlan;
pub use problem::{HeadShape, PrefillProblem};
