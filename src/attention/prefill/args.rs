//! Operands of a prefill, and the proof that they fit the plan.

use super::{PrefillError, PrefillParams, PrefillPlan, PrefillProblem};
use crate::attention::CuSeqLens;
use crate::device::Stream;
use crate::device::launch::LaunchShape;
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::{Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`PrefillPlan::run`]; shapes are given in [the module](super).
#[derive(Debug)]
pub struct PrefillArgs<'a> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: Tensor<'a, 3>,
    /// Keys, `[total_k, heads.kv, dim]`.
    pub k: Tensor<'a, 3>,
    /// Values, `[total_k, heads.kv, dim]`.
    pub v: Tensor<'a, 3>,
    /// The result, `[total_q, heads.query, dim]`.
    pub out: TensorMut<'a, 3>,
    /// The log-sum-exp, `[heads.query, total_q]`, exactly if the plan computes it.
    pub lse: Option<TensorMut<'a, 2>>,
    /// Where the queries of each sequence are.
    pub seqlens_q: CuSeqLens<'a>,
    /// Where the keys of each sequence are.
    pub seqlens_k: CuSeqLens<'a>,
    /// Where the kernel reports bad offsets.
    pub status: &'a StatusWord,
}

/// Checked operands, as the kernel takes them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    pub plan: &'a PrefillPlan,
    pub stream: &'a Stream,
    pub shape: LaunchShape,
    pub params: PrefillParams,
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a PrefillPlan,
        stream: &'a Stream,
        args: PrefillArgs<'a>,
    ) -> Result<Self, PrefillError> {
        let PrefillProblem { dtype, heads, .. } = *plan.problem();
        let (expected, got) = (plan.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }

        let out = args.out.as_ref();
        let q = Operand {
            name: "q",
            tensor: &args.q,
        };
        let k = Operand {
            name: "k",
            tensor: &args.k,
        };
        let v = Operand {
            name: "v",
            tensor: &args.v,
        };
        let out = Operand {
            name: "out",
            tensor: &out,
        };
        let (rows_q, rows_k) = (args.q.shape()[0], args.k.shape()[0]);
        let row = |operand: Operand<'_, '_, 3>, shape| {
            operand.dtype(dtype)?;
            operand.shape(shape)?;
            operand.place(stream)?;
            let [token, head, _] = operand.aligned_strides()?;
            Ok::<_, OperandError>((operand.tensor.address(), token, head))
        };
        let (q_base, q_stride_token, q_stride_head) = row(q, [rows_q, heads.query, heads.dim])?;
        let (k_base, k_stride_token, k_stride_head) = row(k, [rows_k, heads.kv, heads.dim])?;
        let (v_base, v_stride_token, v_stride_head) = row(v, [rows_k, heads.kv, heads.dim])?;
        let (out_base, out_stride_token, out_stride_head) =
            row(out, [rows_q, heads.query, heads.dim])?;
        let (total_q, total_k) = (q.count(0)?, k.count(0)?);

        let offsets_q = Offsets::new("seqlens_q", args.seqlens_q, plan, stream, rows_q)?;
        let offsets_k = Offsets::new("seqlens_k", args.seqlens_k, plan, stream, rows_k)?;
        offsets_q.at_most(plan.problem().max_seqlen_q)?;
        same_place("status", args.status.place(), stream)?;

        let lse = args.lse.as_ref().map(TensorMut::as_ref);
        let (lse_base, lse_stride_head) = match (plan.problem().lse, &lse) {
            (true, Some(tensor)) => {
                let lse = Operand {
                    name: "lse",
                    tensor,
                };
                lse.dtype(DType::F32)?;
                lse.shape([heads.query, rows_q])?;
                lse.place(stream)?;
                let [head, _] = lse.strides()?;
                for (other, tensor) in [("q", q), ("k", k), ("v", v)] {
                    lse.apart_from(Operand {
                        name: other,
                        tensor: tensor.tensor,
                    })?;
                }
                lse.apart_from(offsets_q.operand())?;
                lse.apart_from(offsets_k.operand())?;
                out.apart_from(lse)?;
                (tensor.address(), head)
            }
            (false, None) => (0, 0),
            (expected, given) => {
                return Err(PrefillError::Lse {
                    expected,
                    got: given.is_some(),
                });
            }
        };
        for other in [q, k, v] {
            out.apart_from(other)?;
        }
        out.apart_from(offsets_q.operand())?;
        out.apart_from(offsets_k.operand())?;

        Ok(Bound {
            plan,
            stream,
            shape: plan.shape,
            params: PrefillParams {
                q: q_base,
                k: k_base,
                v: v_base,
                out: out_base,
                lse: lse_base,
                cu_seqlens_q: offsets_q.tensor.address(),
                cu_seqlens_k: offsets_k.tensor.address(),
                status: args.status.address(),
                q_stride_token,
                q_stride_head,
                k_stride_token,
                k_stride_head,
                v_stride_token,
                v_stride_head,
                out_stride_token,
                out_stride_head,
                lse_stride_head,
                // Sizes are in range by the limits that the plan checked.
                batch: plan.problem().batch as i32,
                num_heads: heads.query as i32,
                num_kv_heads: heads.kv as i32,
                max_seqlen_q: plan.problem().max_seqlen_q as i32,
                total_q,
                total_k,
                causal: i32::from(plan.problem().causal),
                scale_log2: plan.scale_log2,
                page_size: 1,
                page_reciprocal: u32::MAX,
                head_dim: heads.dim as i32,
                v_dim: heads.dim as i32,
                window_left: -1,
                window_right: -1,
                // No pages, slopes, sinks, mask or soft-cap.
                ..PrefillParams::default()
            },
        })
    }
}

/// The offsets of one side, on the device.
struct Offsets<'a> {
    name: &'static str,
    tensor: Tensor<'a, 1>,
    checked: Option<usize>,
}

impl<'a> Offsets<'a> {
    fn new(
        name: &'static str,
        offsets: CuSeqLens<'a>,
        plan: &PrefillPlan,
        stream: &Stream,
        rows: usize,
    ) -> Result<Self, PrefillError> {
        let (tensor, checked) = match offsets {
            CuSeqLens::Checked(checked) => {
                if checked.end() > rows {
                    let (expected, got) = (rows, checked.end());
                    return Err(PrefillError::SeqEnd {
                        tensor: name,
                        expected,
                        got,
                    });
                }
                (checked.tensor()?, Some(checked.max_len()))
            }
            CuSeqLens::Device(tensor) => (tensor, None),
        };
        let this = Offsets {
            name,
            tensor,
            checked,
        };
        let operand = this.operand();
        if tensor.dtype() != DType::U32 {
            operand.dtype(DType::I32)?;
        }
        operand.place(stream)?;
        operand.strides()?;
        let (expected, got) = (plan.problem().batch, tensor.shape()[0].saturating_sub(1));
        if expected != got || tensor.is_empty() {
            return Err(PrefillError::Batch {
                tensor: name,
                expected,
                got,
            });
        }
        Ok(this)
    }

    fn at_most(&self, expected: usize) -> Result<(), PrefillError> {
        match self.checked {
            Some(got) if got > expected => Err(PrefillError::SeqLen {
                tensor: self.name,
                expected,
                got,
            }),
            _ => Ok(()),
        }
    }

    fn operand(&self) -> Operand<'_, 'a, 1> {
        Operand {
            name: self.name,
            tensor: &self.tensor,
        }
    }
}
