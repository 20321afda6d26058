//! Prefill attention: all queries of a ragged batch at once, FlashAttention style.
//!
//! `O[i,h] = Σ_j P[i,h,j] · V[j,g]`, `P[i,h,·] = softmax_j(S[i,h,j])`, `S = scale · Q[i,h]·K[j,g]`,
//! `LSE[h,i] = ln Σ_j exp(S[i,h,j])`, with kv head `g = h / (query heads / kv heads)` and `j` over the
//! keys of query `i`'s own sequence.
//!
//! # Shapes
//! `q`: `[total_q, heads.query, dim]`; `out`: `[total_q, heads.query, v_dim]`; `lse`:
//! `[heads.query, total_q]` as `f32`, natural logarithm. `k`, `v`: `[total_k, heads.kv, dim]` and
//! `[.., v_dim]`, or [in pages](Kv::Paged). Sequence `b` owns the rows `offsets[b]..offsets[b + 1]`.
//! Head dimensions are multiples of 8 up to 256. The innermost axis is contiguous; every other
//! stride, and the address of the first element, is a multiple of 16 bytes, and may be padded, or
//! zero.
//!
//! # Options
//! Each can be combined with every other. Query `i` of `n` has the position `p = i + (keys - n)`: the
//! last query is aligned with the last key.
//!
//! | option | in the problem | at run | what it does |
//! |---|---|---|---|
//! | causal | [`causal`](PrefillProblem::causal) | | sees keys `j <= p` |
//! | window | [`window`](PrefillProblem::window) | | sees keys `p - left <= j <= p + right` |
//! | mask | [`mask`](PrefillProblem::mask) | [`Mask`] | sees keys whose bit is set |
//! | soft-cap | [`softcap`](PrefillProblem::softcap) | | `S = cap · tanh(scale · QK / cap)` |
//! | ALiBi | [`alibi`](PrefillProblem::alibi) | slopes | `S -= slope[h] · abs(p - j)`, after the soft-cap |
//! | sinks | [`sinks`](PrefillProblem::sinks) | sinks | one more score, `sink[h]`, without a value |
//! | values of another size | [`v_dim`](PrefillProblem::v_dim) | | |
//! | pages | [`paged`](PrefillProblem::paged) | [`Kv::Paged`] | keys and values from a cache |
//! | log-sum-exp | [`lse`](PrefillProblem::lse) | `lse` | is written too |
//!
//! A sink counts in `O` and in `LSE`. Who splits keys over several calls, to merge them by their
//! log-sum-exps, gives the sinks to one of them.
//!
//! # Special rows
//! A query with nothing to attend to, because there are no keys, all are masked, or all scores are
//! `-∞`, gives `O = 0` and `LSE = -∞`, or `LSE = sink`. A NaN score gives NaN. Rows that belong to no
//! sequence are not written.
//!
//! What no query of a sequence may attend to has no effect, whatever memory holds there. Where some
//! may and others not, NaN or infinity in a value row can reach queries of the same tile that see a
//! key of its tile but not this one.
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
//! let (k, v) = (kv.tensor([8, 1, 64])?, kv.tensor([8, 1, 64])?);
//! let seqlens = (&lens).into();
//! plan.run(&stream, PrefillArgs::new(
//!     q.tensor([8, 4, 64])?,
//!     Kv::Ragged { k, v, seqlens },
//!     out.tensor_mut([8, 4, 64])?,
//!     seqlens,
//!     &status,
//! ))?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![bf16::ONE; 8 * 4 * 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! FlashAttention-2; `cuda/attention/prefill.cuh`, docs/attention.md. The same arguments on the CPU,
//! in f64: [`reference::attention`](crate::reference::attention).

mod args;
mod bind;
mod error;
mod options;
mod params;
mod plan;
mod problem;
mod select;

pub use args::{Kv, Mask, PageTable, PrefillArgs};
pub(crate) use bind::Bound;
pub(in crate::attention) use bind::{Operands, apart_from_inputs, same_device, within_reach};
pub use error::PrefillError;
pub use options::{SoftCap, Window};
#[doc(hidden)]
pub use params::PrefillParams;
pub use plan::PrefillPlan;
pub use problem::{HeadShape, KvLayout, PrefillProblem};
pub(in crate::attention) use select::{Selection, has_options};
