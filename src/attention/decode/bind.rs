//! The proof that operands fit a plan.

use super::{
    DecodeArgs, DecodeError, DecodeParams, DecodePlan, InvariantParams, QuantisedDecodeParams,
};
use crate::attention::prefill::{Operands, PrefillError, apart_from_inputs, same_device};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::kv::{Contents, Format, Scales};
use crate::operand::{Apart, Operand};
use crate::tensor::{Tensor, TensorMut};

/// Checked operands, as the kernels take them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    plan: &'a DecodePlan,
    stream: &'a Stream,
    params: Params,
}

/// What the entries of a kind take.
enum Params {
    Plain(DecodeParams),
    Quantised(QuantisedDecodeParams),
    Invariant(InvariantParams),
}

/// One of the launches of checked operands.
pub(crate) struct BoundLaunch<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    /// As the kernel's entry declares them.
    pub params: &'b [u8],
}

impl Bound<'_> {
    /// Attention, each block its share.
    pub fn shares(&self) -> BoundLaunch<'_> {
        BoundLaunch {
            kernel: self.plan.kernel(),
            stream: self.stream,
            shape: self.plan.shape(),
            params: match &self.params {
                Params::Plain(params) => bytemuck::bytes_of(params),
                Params::Quantised(params) => bytemuck::bytes_of(params),
                Params::Invariant(params) => bytemuck::bytes_of(params),
            },
        }
    }

    /// The sum of what several blocks did a part of, unless one does everything.
    pub fn merge(&self) -> Option<BoundLaunch<'_>> {
        Some(BoundLaunch {
            kernel: self.plan.merge()?,
            stream: self.stream,
            shape: self.plan.merge_shape(),
            params: match &self.params {
                Params::Plain(params) => bytemuck::bytes_of(params),
                Params::Quantised(params) => bytemuck::bytes_of(&params.decode),
                Params::Invariant(params) => bytemuck::bytes_of(params),
            },
        })
    }
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a DecodePlan,
        stream: &'a Stream,
        args: DecodeArgs<'a>,
    ) -> Result<Self, DecodeError> {
        same_device(plan.device(), stream)?;
        let problem = plan.problem().attention();
        let q_len = match args.seqlens_q {
            Some(_) => 0,
            None => even_queries(plan, args.q.shape()[0])?,
        };
        let operands = Operands {
            q: args.q,
            kv: args.kv,
            out: args.out,
            lse: args.lse,
            seqlens_q: args.seqlens_q,
            alibi: args.alibi,
            sinks: args.sinks,
            mask: args.mask,
            status: args.status,
        };
        let format = plan.problem().cache_format();
        let mut attention = operands.bind(problem, format, stream, plan.params(), true)?;
        if let Some(most) = plan.problem().invariant_keys() {
            // As many as there is room for the results of.
            attention.total_k = attention.total_k.min(most.try_into().unwrap_or(i32::MAX));
        }
        let contents = Contents {
            dtype: problem.dtype,
            format,
            heads: problem.heads.kv,
            dims: [problem.heads.dim, problem.v_dim],
        };
        let [k_scales, v_scales] = Scales::of(args.scales.as_ref(), stream, contents)?;

        let tensor = args.workspace.as_ref();
        let workspace = Operand {
            name: "workspace",
            tensor: &tensor,
        };
        workspace.dtype(DType::F32)?;
        workspace.place(stream)?;
        workspace.aligned_strides()?;
        let (expected, got) = (plan.workspace_elements(), tensor.shape()[0]);
        if got < expected {
            return Err(DecodeError::Workspace { expected, got });
        }
        let partials = tensor.address();
        apart_from_inputs(workspace, &operands)?;
        let out = operands.out.as_ref();
        let lse = operands.lse.as_ref().map(TensorMut::as_ref);
        written_apart(workspace, &out, lse.as_ref(), args.scales.as_ref())?;
        let splits = partials.wrapping_add(4 * plan.partial_elements() as u64);
        let decode = DecodeParams {
            attention,
            partials,
            splits,
            q_len,
            partial_dim: plan.kernel().entry().v_dim as i32,
        };
        let params = if plan.problem().invariant_keys().is_some() {
            Params::Invariant(InvariantParams {
                decode: DecodeParams {
                    splits: 0,
                    ..decode
                },
                splits,
                places: plan.places() as i32, // At most one for each 512 keys.
                pad: 0,
            })
        } else if format == Format::Same {
            Params::Plain(decode)
        } else {
            Params::Quantised(QuantisedDecodeParams {
                decode,
                k_scales: k_scales.0,
                v_scales: v_scales.0,
                k_scales_stride: k_scales.1,
                v_scales_stride: v_scales.1,
                is_bf16: i32::from(problem.dtype == DType::BF16),
                pad: 0,
            })
        };
        Ok(Bound {
            plan,
            stream,
            params,
        })
    }
}

/// What is written shares no memory with the scales, nor the workspace with the results.
fn written_apart(
    workspace: Operand<'_, '_, 1>,
    out: &Tensor<'_, 3>,
    lse: Option<&Tensor<'_, 2>>,
    scales: Option<&Scales<'_>>,
) -> Result<(), OperandError> {
    let mut apart = Apart::default();
    if let Some(Scales { k, v }) = scales {
        for (name, tensor) in [("k scales", k), ("v scales", v)] {
            apart.read(Operand { name, tensor });
        }
    }
    let (name, tensor) = ("out", out);
    apart.written(Operand { name, tensor });
    if let Some(tensor) = lse {
        let name = "lse";
        apart.written(Operand { name, tensor });
    }
    apart.written(workspace);
    apart.check()
}

/// The queries of each sequence, if they are as many for each and no more than planned.
fn even_queries(plan: &DecodePlan, rows: usize) -> Result<i32, DecodeError> {
    let problem = plan.problem().attention();
    let (expected, got) = (problem.batch, rows);
    let q_len = match got.checked_div(expected) {
        Some(q_len) if q_len * expected == got => q_len,
        None if got == 0 => 0,
        _ => return Err(DecodeError::Rows { expected, got }),
    };
    let (tensor, expected, got) = ("q", problem.max_seqlen_q, q_len);
    if got > expected {
        return Err(PrefillError::SeqLen {
            tensor,
            expected,
            got,
        }
        .into());
    }
    Ok(q_len as i32) // No more than planned, which `select` limited.
}
