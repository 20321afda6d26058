//! Operands of a decode.

use crate::attention::CuSeqLens;
use crate::attention::prefill::{Kv, Mask};
use crate::kv::Scales;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`DecodePlan::run`](super::DecodePlan::run); shapes are given in
/// [the module](super). What the plan's options need is given exactly if they are planned.
#[derive(Debug)]
pub struct DecodeArgs<'a> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: Tensor<'a, 3>,
    /// Keys and values in pages, in memory of a type that holds the plan's format; which of them belong to each sequence, and how many there are, the
    /// new ones among them.
    pub kv: Kv<'a>,
    /// The result, `[total_q, heads.query, v_dim]`.
    pub out: TensorMut<'a, 3>,
    /// The log-sum-exp, `[heads.query, total_q]` as `f32`.
    pub lse: Option<TensorMut<'a, 2>>,
    /// Where the queries of each sequence are. `None`: as many for each, one sequence's behind the
    /// other's.
    pub seqlens_q: Option<CuSeqLens<'a>>,
    /// The slope of each query head, `[heads.query]` as `f32`.
    pub alibi: Option<Tensor<'a, 1>>,
    /// The sink of each query head, `[heads.query]` as `f32`: a score as it is after scale and
    /// soft-cap.
    pub sinks: Option<Tensor<'a, 1>>,
    /// Which keys each query may see.
    pub mask: Option<Mask<'a>>,
    /// Scales of a cache in 8 bits, for each kv head or for all; any numbers. Read by the kernel.
    pub scales: Option<Scales<'a>>,
    /// At least [`DecodePlan::workspace_elements`](super::DecodePlan::workspace_elements) of `f32`,
    /// the first at a multiple of 16 bytes; its contents do not matter.
    pub workspace: TensorMut<'a, 1>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

impl<'a> DecodeArgs<'a> {
    /// As many queries for each sequence, and no operands of options.
    pub fn new(
        q: Tensor<'a, 3>,
        kv: Kv<'a>,
        out: TensorMut<'a, 3>,
        workspace: impl Into<TensorMut<'a, 1>>,
        status: &'a StatusWord,
    ) -> Self {
        DecodeArgs {
            q,
            kv,
            out,
            lse: None,
            seqlens_q: None,
            alibi: None,
            sinks: None,
            mask: None,
            scales: None,
            workspace: workspace.into(),
            status,
        }
    }
}
