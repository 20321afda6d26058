//! Operands of latent attention.

use crate::attention::CuSeqLens;
use crate::attention::prefill::PageTable;
use crate::kv::MlaCache;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Queries in absorbed form.
#[derive(Clone, Copy, Debug)]
pub enum MlaQueries<'a> {
    /// Both parts in one row, the latent first: `[total_q, heads, latent_dim + rope_dim]`.
    Joined(Tensor<'a, 3>),
    /// A tensor for each.
    Split {
        /// Queries times the up-projection of keys, `[total_q, heads, latent_dim]`.
        latent: Tensor<'a, 3>,
        /// Rotated queries, `[total_q, heads, rope_dim]`.
        rope: Tensor<'a, 3>,
    },
}

/// Operands of [`MlaPlan::run`](super::MlaPlan::run); shapes are given in [the module](super).
#[derive(Debug)]
pub struct MlaArgs<'a> {
    /// Queries.
    pub q: MlaQueries<'a>,
    /// Latents and rotary keys of all tokens, the new ones among them.
    pub cache: MlaCache<'a>,
    /// Which pages each sequence has.
    pub pages: PageTable<'a>,
    /// The number of tokens of each sequence, the new ones among them: `[batch]` as `i32` or `u32`.
    /// It may be less than the sequence's pages hold.
    pub seqlens_k: Tensor<'a, 1>,
    /// The result, `[total_q, heads, latent_dim]`.
    pub out: TensorMut<'a, 3>,
    /// The log-sum-exp, `[heads, total_q]` as `f32`.
    pub lse: Option<TensorMut<'a, 2>>,
    /// Where the queries of each sequence are. `None`: as many for each, one sequence's behind the
    /// other's.
    pub seqlens_q: Option<CuSeqLens<'a>>,
    /// At least [`MlaPlan::workspace_elements`](super::MlaPlan::workspace_elements) of `f32`, the
    /// first at a multiple of 16 bytes; its contents do not matter.
    pub workspace: TensorMut<'a, 1>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}
