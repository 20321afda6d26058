//! The proof that operands fit a plan.

use super::{MlaArgs, MlaError, MlaParams, MlaPlan, MlaQueries};
use crate::attention::CuSeqLens;
use crate::attention::decode::DecodeParams;
use crate::attention::indices::Indices;
use crate::attention::prefill::{
    PageTable, PrefillError, PrefillParams, same_device, within_reach,
};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::kv::MlaCache;
use crate::operand::{Apart, Operand, same_place};
use crate::tensor::Tensor;

/// Checked operands, as the kernels take them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    plan: &'a MlaPlan,
    stream: &'a Stream,
    params: MlaParams,
}

/// One of the launches of checked operands.
pub(crate) struct BoundLaunch<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: &'b MlaParams,
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
        plan: &'a MlaPlan,
        stream: &'a Stream,
        args: MlaArgs<'a>,
    ) -> Result<Self, MlaError> {
        same_device(plan.device(), stream)?;
        let mut binder = Binder {
            plan,
            stream,
            apart: Apart::default(),
            params: MlaParams {
                decode: DecodeParams {
                    attention: plan.problem().params(),
                    partial_dim: plan.problem().latent_dim as i32,
                    ..DecodeParams::default()
                },
                ..MlaParams::default()
            },
        };
        let rows = binder.queries(&args)?;
        binder.cache(&args)?;
        binder.outputs(&args, rows)?;
        same_place("status", args.status.place(), stream)?;
        binder.params.decode.attention.status = args.status.address();
        Ok(Bound {
            plan,
            stream,
            params: binder.params,
        })
    }
}

/// A latent part and a rotary part, of the same rows or not.
type Parts<'a> = [(&'static str, Tensor<'a, 3>); 2];

/// Checks operands one after the other and notes what the kernel needs of each.
struct Binder<'a, 't> {
    plan: &'a MlaPlan,
    stream: &'a Stream,
    apart: Apart<'t>,
    params: MlaParams,
}

impl<'t> Binder<'_, 't> {
    fn attention(&mut self) -> &mut PrefillParams {
        &mut self.params.decode.attention
    }

    /// Queries and where they begin; how many rows there are.
    fn queries(&mut self, args: &'t MlaArgs<'_>) -> Result<usize, MlaError> {
        let problem = self.plan.problem();
        let heads = problem.heads;
        let (rows, parts) = match &args.q {
            MlaQueries::Joined(q) => (q.shape()[0], self.halves("q", q, [q.shape()[0], heads])?),
            MlaQueries::Split { latent, rope } => (
                latent.shape()[0],
                [("latent queries", *latent), ("rotary queries", *rope)],
            ),
        };
        let [(address, [token, head]), (rope, [rope_token, rope_head])] =
            self.parts(parts, [rows, heads])?;
        let (name, tensor) = (parts[0].0, &parts[0].1);
        let total = Operand { name, tensor }.count(0)?;
        self.params.q_rope = rope;
        self.params.q_rope_stride_token = rope_token;
        self.params.q_rope_stride_head = rope_head;
        let attention = self.attention();
        (attention.q, attention.total_q) = (address, total);
        (attention.q_stride_token, attention.q_stride_head) = (token, head);

        let (tensor, expected) = ("seqlens_q", problem.max_queries);
        let Some(seqlens_q) = &args.seqlens_q else {
            self.params.decode.q_len = even_queries(self.plan, rows)?;
            return Ok(rows);
        };
        self.attention().cu_seqlens_q =
            Indices(self.stream).offsets(tensor, seqlens_q, problem.batch, rows)?;
        match seqlens_q {
            CuSeqLens::Checked(checked) => {
                let got = checked.max_len();
                if got > expected {
                    return Err(PrefillError::SeqLen {
                        tensor,
                        expected,
                        got,
                    }
                    .into());
                }
                let name = tensor;
                let tensor = &checked.tensor()?;
                self.apart.read(Operand { name, tensor });
            }
            CuSeqLens::Device(offsets) => {
                let (name, tensor) = (tensor, offsets);
                self.apart.read(Operand { name, tensor });
            }
        }
        Ok(rows)
    }

    fn cache(&mut self, args: &'t MlaArgs<'_>) -> Result<(), MlaError> {
        let (batch, page_size) = (self.plan.problem().batch, self.plan.problem().page_size);
        let (pages, parts) = match &args.cache {
            MlaCache::Joined(cache) => {
                let pages = cache.shape()[0];
                (pages, self.halves("cache", cache, [pages, page_size])?)
            }
            MlaCache::Split { latent, rope } => (
                latent.shape()[0],
                [("latent cache", *latent), ("rope cache", *rope)],
            ),
        };
        for (name, tensor) in &parts {
            within_reach(Operand { name, tensor })?;
        }
        let [(k, [k_page, k_token]), (v, [v_page, v_token])] =
            self.parts(parts, [pages, page_size])?;
        let (name, tensor) = (parts[0].0, &parts[0].1);
        let num_pages = Operand { name, tensor }.count(0)?;
        let attention = self.attention();
        (attention.k, attention.v, attention.num_pages) = (k, v, num_pages);
        (attention.k_stride_page, attention.k_stride_token) = (k_page, k_token);
        (attention.v_stride_page, attention.v_stride_token) = (v_page, v_token);

        let indices = Indices(self.stream);
        let (name, tensor) = ("seqlens_k", &args.seqlens_k);
        self.attention().seqlens_k = indices.vector(name, tensor, [batch])?;
        self.apart.read(Operand { name, tensor });
        indices
            .page_table(&args.pages, batch)?
            .fill(self.attention(), page_size);
        match &args.pages {
            PageTable::Rows(tensor) => {
                let name = "page table";
                self.apart.read(Operand { name, tensor });
            }
            PageTable::Csr { indptr, pages } => {
                for (name, tensor) in [("indptr", indptr), ("pages", pages)] {
                    self.apart.read(Operand { name, tensor });
                }
            }
        }
        Ok(())
    }

    fn outputs(&mut self, args: &'t MlaArgs<'_>, rows: usize) -> Result<(), MlaError> {
        let problem = self.plan.problem();
        let (heads, stream) = (problem.heads, self.stream);
        let (name, tensor) = ("out", args.out.as_ref());
        let out = Operand {
            name,
            tensor: &tensor,
        };
        let (address, [token, head]) = rows_of(
            out,
            problem.dtype,
            [rows, heads, problem.latent_dim],
            stream,
        )?;
        self.apart.written(out);
        let attention = self.attention();
        attention.out = address;
        (attention.out_stride_token, attention.out_stride_head) = (token, head);

        let (expected, got) = (problem.lse, args.lse.is_some());
        if expected != got {
            return Err(PrefillError::Lse { expected, got }.into());
        }
        if let Some(lse) = &args.lse {
            let (name, tensor) = ("lse", lse.as_ref());
            let lse = Operand {
                name,
                tensor: &tensor,
            };
            lse.dtype(DType::F32)?;
            lse.shape([heads, rows])?;
            lse.place(stream)?;
            self.attention().lse_stride_head = lse.strides()?[0];
            self.attention().lse = tensor.address();
            self.apart.written(lse);
        }

        let (name, tensor) = ("workspace", args.workspace.as_ref());
        let workspace = Operand {
            name,
            tensor: &tensor,
        };
        workspace.dtype(DType::F32)?;
        workspace.place(stream)?;
        workspace.aligned_strides()?;
        let (expected, got) = (self.plan.workspace_elements(), tensor.shape()[0]);
        if got < expected {
            return Err(MlaError::Workspace { expected, got });
        }
        self.params.decode.partials = tensor.address();
        let behind = 4 * self.plan.partial_elements() as u64;
        self.params.decode.splits = tensor.address().wrapping_add(behind);
        self.apart.written(workspace);
        Ok(self.apart.check()?)
    }

    /// The two parts of a tensor whose rows have both.
    fn halves(
        &self,
        name: &'static str,
        tensor: &Tensor<'t, 3>,
        [outer, inner]: [usize; 2],
    ) -> Result<Parts<'t>, MlaError> {
        let problem = self.plan.problem();
        let (latent, both) = (problem.latent_dim, problem.latent_dim + problem.rope_dim);
        Operand { name, tensor }.shape([outer, inner, both])?;
        Ok([
            (name, tensor.narrow(2, 0..latent)?),
            (name, tensor.narrow(2, latent..both)?),
        ])
    }

    /// Address and strides of each part, of so many rows.
    fn parts(
        &mut self,
        parts: Parts<'t>,
        [outer, inner]: [usize; 2],
    ) -> Result<[(u64, [i64; 2]); 2], MlaError> {
        let problem = self.plan.problem();
        let dims = [problem.latent_dim, problem.rope_dim];
        let mut bound = [(0, [0; 2]); 2];
        for (((name, tensor), dim), to) in parts.iter().zip(dims).zip(&mut bound) {
            let operand = Operand { name, tensor };
            *to = rows_of(operand, problem.dtype, [outer, inner, dim], self.stream)?;
            self.apart.read(operand);
        }
        Ok(bound)
    }
}

/// Address and strides of rows at multiples of 16 bytes.
fn rows_of(
    operand: Operand<'_, '_, 3>,
    dtype: DType,
    shape: [usize; 3],
    stream: &Stream,
) -> Result<(u64, [i64; 2]), MlaError> {
    operand.dtype(dtype)?;
    operand.shape(shape)?;
    operand.place(stream)?;
    let [outer, inner, _] = operand.aligned_strides()?;
    Ok((operand.tensor.address(), [outer, inner]))
}

/// The queries of each sequence, if they are as many for each and no more than planned.
fn even_queries(plan: &MlaPlan, rows: usize) -> Result<i32, MlaError> {
    let (expected, got) = (plan.problem().batch, rows);
    let q_len = match got.checked_div(expected) {
        Some(q_len) if q_len * expected == got => q_len,
        None if got == 0 => 0,
        _ => return Err(MlaError::Rows { expected, got }),
    };
    let (tensor, expected, got) = ("q", plan.problem().max_queries, q_len);
    if got > expected {
        return Err(PrefillError::SeqLen {
            tensor,
            expected,
            got,
        }
        .into());
    }
    Ok(q_len as i32) // No more than planned, which was limited.
}
