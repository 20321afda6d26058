//! Multi-head latent attention of new tokens over a cache, as DeepSeek-V2 and V3 have it.
//!
//! In absorbed form every head attends to the same keys: a latent `c` of 512 elements, which is the
//! value too, and a rotary key `r` of 64.
//!
//! `S[i,h,j] = scale · (q_latent[i,h]·c[j] + q_rope[i,h]·r[j])`,
//! `O[i,h] = Σ_j softmax_j(S[i,h,j]) · c[j]`, `LSE[h,i] = ln Σ_j exp(S[i,h,j])`, with `j` over the
//! tokens of query `i`'s own sequence.
//!
//! Queries come multiplied by the up-projection of keys, and the result is yet to be multiplied by
//! that of values: `q_latent = q_nope · W_uk`, `y = O · W_uv`. New tokens are stored in the cache
//! first, by [`MlaAppendPlan`](crate::kv::MlaAppendPlan).
//!
//! # Shapes
//! `q`: `[total_q, heads, 576]`, or [the two parts](MlaQueries::Split) `[.., 512]` and `[.., 64]`;
//! cache: `[pages, page_size, 576]`, or [two pools](crate::kv::MlaCache::Split); `out`: `[total_q,
//! heads, 512]`; `lse`: `[heads, total_q]` as `f32`, natural logarithm. Any number of heads, any
//! page size. The innermost axis is contiguous; every other stride, and the address of the first
//! element, is a multiple of 16 bytes, and may be padded.
//!
//! Without `seqlens_q` each of the `batch` sequences has `total_q / batch` queries. Query `i` of `n`
//! has the position `p = i + (tokens - n)`, and in causal attention sees the tokens up to `p`.
//! Windows, soft-caps, ALiBi, sinks and masks there are none: no model with latents has them.
//!
//! A query with nothing to attend to gives `O = 0` and `LSE = -∞`. Bad rows, and numbers in device
//! memory that cannot be used, are treated as by [`prefill`](super::prefill).
//!
//! # How work is shared out
//! As in [`decode`](super::decode): the blocks cut all work into equal shares by themselves, from
//! the lengths in device memory, and a second kernel adds up what several of them did a part of, in
//! the order of the tokens. A replayed graph is right with other lengths, and the same call gives
//! the same bits, always. The cache is read once for each 64 pairs of query token and head, or for
//! each 16 where there are no more, or where a device has too little shared memory.
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::attention::{mla::*, prefill::PageTable};
//! use infer_kernels::kv::MlaCache;
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! // Two sequences, with 5 and 20 tokens on pages of 16, and one query each.
//! let problem = MlaProblem::new(DType::BF16, 16, 2, 16).blocks(3);
//! let plan = MlaPlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let q = stream.upload(&vec![bf16::ONE; 2 * 16 * 576])?;
//! let pool = stream.upload(&vec![bf16::ONE; 3 * 16 * 576])?;
//! let (table, lens) = (stream.upload(&[2, 0, 0, 1])?, stream.upload(&[5, 20])?);
//! let mut out = stream.alloc::<bf16>(2 * 16 * 512)?;
//! let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
//! let status = StatusWord::new(&stream)?;
//! plan.run(&stream, MlaArgs {
//!     q: MlaQueries::Joined(q.tensor([2, 16, 576])?),
//!     cache: MlaCache::Joined(pool.tensor([3, 16, 576])?),
//!     pages: PageTable::Rows(table.tensor([2, 2])?),
//!     seqlens_k: lens.tensor([2])?,
//!     out: out.tensor_mut([2, 16, 512])?,
//!     lse: None,
//!     seqlens_q: None,
//!     workspace: workspace.tensor_mut([plan.workspace_elements()])?,
//!     status: &status,
//! })?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![bf16::ONE; 2 * 16 * 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! DeepSeek-V2, Flash-Decoding; `cuda/attention/mla.cuh`, docs/mla.md. The same arguments on the
//! CPU, in f64: [`reference::mla`](crate::reference::mla).

mod args;
mod bind;
mod error;
mod params;
mod plan;
mod problem;

pub use args::{MlaArgs, MlaQueries};
pub(crate) use bind::{Bound, BoundLaunch};
pub use error::MlaError;
#[doc(hidden)]
pub use params::MlaParams;
pub use plan::MlaPlan;
pub use problem::MlaProblem;
