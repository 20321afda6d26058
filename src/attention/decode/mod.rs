//! Decode attention: one or a few queries for each sequence, and many keys in pages.
//!
//! It computes what [`prefill`](super::prefill) computes from pages, with the same options and the
//! same treatment of special rows and of numbers in device memory that cannot be used, but for
//! batches where reading keys is the work. The query heads that share a kv head, and a sequence's
//! queries, share each read of it: keys and values are read once if queries times query heads for
//! each kv head are at most 16, once more for each further 16.
//!
//! # Shapes
//! `q`: `[total_q, heads.query, dim]`; `out`: `[total_q, heads.query, v_dim]`; `lse`:
//! `[heads.query, total_q]` as `f32`, natural logarithm; keys and values [in pages](super::prefill::Kv::Paged).
//! Without `seqlens_q` each of the `batch` sequences has `total_q / batch` queries: `[batch, heads,
//! dim]` for one each. Query `i` of `n` has the position `i + (keys - n)`: the new keys are appended
//! first.
//!
//! # Caches in 8 bits
//! Keys and values may be stored as [`Format`](crate::kv::Format) says, as
//! [`kv`](crate::kv) appends them: [`DecodeProblem::format`], [`DecodeArgs::scales`]. They are read as
//! they are and dequantised in registers; queries and output are f16 or bf16. Head dimensions are
//! multiples of 16 then. Every option can be combined with every format.
//!
//! # How work is shared out
//! All work of a launch is laid out in a line, by sequence, kv head and key, and cut into equal
//! pieces, one for each block. The blocks compute the cuts themselves, from the lengths in device
//! memory: a graph that is replayed with other lengths is right, and balanced, too. What several
//! blocks did a part of is added up by a second kernel, in the order of the keys. No sum is made by
//! atomics: the same call gives the same bits, always.
//!
//! # Batch invariance
//! [`DecodeProblem::batch_invariant`] asks for results whose bits depend on nothing but their sequence:
//! keys are cut at multiples of 512, whatever else there is, each piece is attended to from an empty
//! state, and the states are added up from the first to the last. There are entries of their own for
//! it, with every option and for any number of queries, so that a prompt and the tokens behind it go
//! through the same ones; [`MixedProblem::batch_invariant`] takes both in one launch. It costs
//! workspace that grows with the longest sequence, a sum of states for each 512 keys, and for prompts
//! keys that are read again for each 16 rows: docs/decode.md has the figures.
//!
//! [`MixedProblem::batch_invariant`]: super::mixed::MixedProblem::batch_invariant
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::attention::decode::*;
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let heads = HeadShape { query: 4, kv: 1, dim: 64 };
//! // Two sequences, with 5 and 20 keys on pages of 16, and one query each.
//! let problem = DecodeProblem::new(DType::BF16, heads, 2, 16).blocks(3);
//! let plan = DecodePlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let q = stream.upload(&vec![bf16::ONE; 2 * 4 * 64])?;
//! let pool = stream.upload(&vec![bf16::ONE; 3 * 16 * 64])?;
//! let (table, lens) = (stream.upload(&[2, 0, 0, 1])?, stream.upload(&[5, 20])?);
//! let mut out = stream.alloc::<bf16>(2 * 4 * 64)?;
//! let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
//! let status = StatusWord::new(&stream)?;
//! let (pages, table) = (pool.tensor([3, 16, 1, 64])?, PageTable::Rows(table.tensor([2, 2])?));
//! plan.run(&stream, DecodeArgs::new(
//!     q.tensor([2, 4, 64])?,
//!     Kv::paged(pages, pages, table, &lens),
//!     out.tensor_mut([2, 4, 64])?,
//!     &mut workspace,
//!     &status,
//! ))?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![bf16::ONE; 2 * 4 * 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! Flash-Decoding, Stream-K; `cuda/attention/decode.cuh`, docs/decode.md. The same arguments on the
//! CPU, in f64: [`reference::attention`](crate::reference::attention), with
//! [`DecodeProblem::attention`].

mod args;
mod bind;
mod error;
mod params;
mod plan;
mod problem;
mod segments;
mod select;

pub use super::prefill::{HeadShape, Kv, Mask, PageTable, SoftCap, Window};
pub use args::DecodeArgs;
pub(crate) use bind::{Bound, BoundLaunch};
pub use error::DecodeError;
#[doc(hidden)]
pub use params::{DecodeParams, InvariantParams, QuantisedDecodeParams};
pub use plan::DecodePlan;
pub use problem::DecodeProblem;
