//! The proof that operands fit a plan.

use super::{DecodeArgs, DecodeError, DecodeParams, DecodePlan};
use crate::attention::prefill::{Operands, PrefillError, apart_from_inputs, same_device};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::operand::Operand;

/// Checked operands, as the kernels take them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    plan: &'a DecodePlan,
    stream: &'a Stream,
    params: DecodeParams,
}

/// One of the launches of checked operands.
pub(crate) struct BoundLaunch<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: &'b DecodeParams,
}

impl Bound<'_> {
    /// Attention, each block its share.
    pub fn shares(&self) -> BoundLaunch<'_> {
        BoundLaunch {
            kernel: self.plan.kernel(),
            stream: self.stream,
            shape: self.plan.shape(),
            params: &self.params,
        }
    }

    /// The sum of what several blocks did a part of, unless one does everything.
    pub fn merge(&self) -> Option<BoundLaunch<'_>> {
        Some(BoundLaunch {
            kernel: self.plan.merge()?,
            stream: self.stream,
            shape: self.plan.merge_shape(),
            params: &self.params,
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
        let attention = operands.bind(problem, stream, plan.params(), true)?;

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
        let tensor = operands.out.as_ref();
        let name = "out";
        let out = Operand {
            name,
            tensor: &tensor,
        };
        workspace.apart_from(out)?;
        if let Some(lse) = &operands.lse {
            let tensor = lse.as_ref();
            let name = "lse";
            workspace.apart_from(Operand {
                name,
                tensor: &tensor,
            })?;
        }
        Ok(Bound {
            plan,
            stream,
            params: DecodeParams {
                attention,
                partials,
                splits: partials.wrapping_add(4 * plan.partial_elements() as u64),
                q_len,
                partial_dim: plan.kernel().entry().v_dim as i32,
            },
        })
    }
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
