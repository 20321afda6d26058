//! The proof that operands fit a problem.

use super::{
    Kv, KvLayout, Mask, PageTable, PrefillArgs, PrefillError, PrefillParams, PrefillPlan,
    PrefillProblem,
};
use crate::attention::CuSeqLens;
use crate::attention::indices::{Indices, vector};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::kv::Format;
use crate::operand::{ALIGNMENT, Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

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
        let operands = Operands {
            q: args.q,
            kv: args.kv,
            out: args.out,
            lse: args.lse,
            seqlens_q: Some(args.seqlens_q),
            alibi: args.alibi,
            sinks: args.sinks,
            mask: args.mask,
            status: args.status,
        };
        // Where keys may have options, they are looked up as pages are.
        let looks_up = plan.kernel().entry().variant == "full";
        same_device(plan.device(), stream)?;
        Ok(Bound {
            plan,
            stream,
            shape: plan.shape,
            params: operands.bind(
                plan.problem(),
                Format::Same,
                stream,
                plan.params(),
                looks_up,
            )?,
        })
    }
}

/// The stream is one of the plan's device.
pub(in crate::attention) fn same_device(
    device: &Device,
    stream: &Stream,
) -> Result<(), OperandError> {
    let (expected, got) = (device.id(), stream.device().id());
    if expected == got {
        return Ok(());
    }
    let tensor = "stream";
    Err(OperandError::Device {
        tensor,
        expected,
        got,
    })
}

/// Operands of attention, whichever kernel computes it.
pub(in crate::attention) struct Operands<'a> {
    pub q: Tensor<'a, 3>,
    pub kv: Kv<'a>,
    pub out: TensorMut<'a, 3>,
    pub lse: Option<TensorMut<'a, 2>>,
    /// `None`: as many queries in each sequence, which the caller checks.
    pub seqlens_q: Option<CuSeqLens<'a>>,
    pub alibi: Option<Tensor<'a, 1>>,
    pub sinks: Option<Tensor<'a, 1>>,
    pub mask: Option<Mask<'a>>,
    pub status: &'a StatusWord,
}

impl Operands<'_> {
    /// Checks every operand and adds it to `params`. `format`: of keys and values in pages.
    /// `looks_up`: whether ragged keys are looked up.
    pub fn bind(
        &self,
        problem: &PrefillProblem,
        format: Format,
        stream: &Stream,
        params: PrefillParams,
        looks_up: bool,
    ) -> Result<PrefillParams, PrefillError> {
        let mut binder = Binder {
            problem,
            format,
            stream,
            params,
            looks_up,
        };
        binder.queries(self)?;
        binder.keys_and_values(&self.kv)?;
        binder.options(self)?;
        binder.outputs(self)?;
        same_place("status", self.status.place(), stream)?;
        binder.params.status = self.status.address();
        Ok(binder.params)
    }
}

/// How many bytes of keys or values the kernels address where they look rows up: 2^32 chunks of 16.
const REACH: u128 = (1 << 32) * ALIGNMENT as u128;

/// The operand's rows can be addressed by what the kernels look up.
pub(in crate::attention) fn within_reach<const R: usize>(
    operand: Operand<'_, '_, R>,
) -> Result<(), PrefillError> {
    let expected = REACH;
    let got = operand
        .tensor
        .span()
        .map_or(0, |span| span.end - span.start);
    if got <= expected {
        return Ok(());
    }
    Err(PrefillError::PoolSize {
        tensor: operand.name,
        expected,
        got,
    })
}

/// Checks operands one after the other and notes what the kernel needs of each.
struct Binder<'a> {
    problem: &'a PrefillProblem,
    format: Format,
    stream: &'a Stream,
    params: PrefillParams,
    looks_up: bool,
}

impl Binder<'_> {
    fn indices(&self) -> Indices<'_> {
        Indices(self.stream)
    }

    fn queries(&mut self, args: &Operands<'_>) -> Result<(), PrefillError> {
        let Operands { q, seqlens_q, .. } = args;
        let heads = self.problem.heads;
        let rows = q.shape()[0];
        let (strides, total) = self.rows("q", q, [rows, heads.query, heads.dim])?;
        self.params.q = q.address();
        [self.params.q_stride_token, self.params.q_stride_head] = strides;
        self.params.total_q = total;
        let Some(seqlens_q) = seqlens_q else {
            return Ok(());
        };
        let batch = self.problem.batch;
        self.params.cu_seqlens_q = (self.indices()).offsets("seqlens_q", seqlens_q, batch, rows)?;
        let expected = self.problem.max_seqlen_q;
        match seqlens_q {
            CuSeqLens::Checked(checked) if checked.max_len() > expected => {
                Err(PrefillError::SeqLen {
                    tensor: "seqlens_q",
                    expected,
                    got: checked.max_len(),
                })
            }
            _ => Ok(()),
        }
    }

    fn keys_and_values(&mut self, kv: &Kv<'_>) -> Result<(), PrefillError> {
        match (self.problem.kv, kv) {
            (KvLayout::Ragged, Kv::Ragged { k, v, seqlens }) => self.ragged(k, v, seqlens),
            (
                KvLayout::Paged { page_size },
                Kv::Paged {
                    k,
                    v,
                    pages,
                    seqlens,
                },
            ) => {
                self.pools(k, v, page_size)?;
                let batch = self.problem.batch;
                let indices = self.indices();
                let pages = indices.page_table(pages, batch)?;
                self.params.seqlens_k = indices.vector("seqlens_k", seqlens, [batch])?;
                pages.fill(&mut self.params, page_size);
                Ok(())
            }
            (expected, got) => Err(PrefillError::KvLayout {
                expected,
                got: match got {
                    Kv::Ragged { .. } => "ragged keys",
                    Kv::Paged { .. } => "pages of keys",
                },
            }),
        }
    }

    fn ragged(
        &mut self,
        k: &Tensor<'_, 3>,
        v: &Tensor<'_, 3>,
        seqlens: &CuSeqLens<'_>,
    ) -> Result<(), PrefillError> {
        let problem = self.problem;
        let (heads, v_dim) = (problem.heads, problem.v_dim);
        let rows = k.shape()[0];
        let (k_strides, total) = self.rows("k", k, [rows, heads.kv, heads.dim])?;
        let (v_strides, _) = self.rows("v", v, [rows, heads.kv, v_dim])?;
        if self.looks_up {
            for (name, tensor) in [("k", k), ("v", v)] {
                within_reach(Operand { name, tensor })?;
            }
        }
        let params = &mut self.params;
        (params.k, params.v, params.total_k) = (k.address(), v.address(), total);
        [params.k_stride_token, params.k_stride_head] = k_strides;
        [params.v_stride_token, params.v_stride_head] = v_strides;
        self.params.cu_seqlens_k =
            (self.indices()).offsets("seqlens_k", seqlens, problem.batch, rows)?;
        Ok(())
    }

    fn pools(
        &mut self,
        k: &Tensor<'_, 4>,
        v: &Tensor<'_, 4>,
        page_size: usize,
    ) -> Result<(), PrefillError> {
        let problem = self.problem;
        let (heads, v_dim) = (problem.heads, problem.v_dim);
        let pages = k.shape()[0];
        let k_strides = self.pool("k", k, [pages, page_size, heads.kv, heads.dim])?;
        let v_strides = self.pool("v", v, [pages, page_size, heads.kv, v_dim])?;
        let name = "k";
        let params = &mut self.params;
        params.num_pages = Operand { name, tensor: k }.count(0)?;
        (params.k, params.v) = (k.address(), v.address());
        [
            params.k_stride_page,
            params.k_stride_token,
            params.k_stride_head,
        ] = k_strides;
        [
            params.v_stride_page,
            params.v_stride_token,
            params.v_stride_head,
        ] = v_strides;
        Ok(())
    }

    fn pool(
        &self,
        name: &'static str,
        tensor: &Tensor<'_, 4>,
        shape: [usize; 4],
    ) -> Result<[i64; 3], PrefillError> {
        let operand = Operand { name, tensor };
        let dtypes = self.format.dtypes(self.problem.dtype);
        if !dtypes.contains(&tensor.dtype()) {
            operand.dtype(dtypes[0])?;
        }
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let [page, slot, head, _] = operand.aligned_strides()?;
        within_reach(operand)?;
        Ok([page, slot, head])
    }

    fn options(&mut self, args: &Operands<'_>) -> Result<(), PrefillError> {
        let problem = self.problem;
        let (batch, heads) = (problem.batch, problem.heads.query);
        PrefillError::unless_planned("alibi", problem.alibi, args.alibi.is_some())?;
        PrefillError::unless_planned("sinks", problem.sinks, args.sinks.is_some())?;
        PrefillError::unless_planned("mask", problem.mask, args.mask.is_some())?;
        if let Some(slopes) = &args.alibi {
            self.params.alibi_slopes = vector(self.stream, "alibi", slopes, DType::F32, [heads])?;
        }
        if let Some(sinks) = &args.sinks {
            self.params.sinks = vector(self.stream, "sinks", sinks, DType::F32, [heads])?;
        }
        if let Some(Mask { bits, offsets }) = &args.mask {
            self.params.mask = vector(self.stream, "mask bits", bits, DType::U8, bits.shape())?;
            self.params.mask_bytes = bits.shape()[0] as i64;
            self.params.mask_offsets =
                self.indices()
                    .vector("mask offsets", offsets, [batch + 1])?;
        }
        Ok(())
    }

    fn outputs(&mut self, args: &Operands<'_>) -> Result<(), PrefillError> {
        let problem = self.problem;
        let rows = self.params.total_q as usize;
        let tensor = args.out.as_ref();
        let heads = problem.heads.query;
        let (strides, _) = self.rows("out", &tensor, [rows, heads, problem.v_dim])?;
        self.params.out = tensor.address();
        [self.params.out_stride_token, self.params.out_stride_head] = strides;
        let out = Operand {
            name: "out",
            tensor: &tensor,
        };
        if problem.lse != args.lse.is_some() {
            return Err(PrefillError::Lse {
                expected: problem.lse,
                got: args.lse.is_some(),
            });
        }
        if let Some(lse) = &args.lse {
            let tensor = lse.as_ref();
            let lse = Operand {
                name: "lse",
                tensor: &tensor,
            };
            lse.dtype(DType::F32)?;
            lse.shape([heads, rows])?;
            lse.place(self.stream)?;
            self.params.lse = tensor.address();
            self.params.lse_stride_head = lse.strides()?[0];
            apart_from_inputs(lse, args)?;
            out.apart_from(lse)?;
        }
        apart_from_inputs(out, args)
    }

    /// Strides of tokens and heads, and the number of tokens.
    fn rows(
        &self,
        name: &'static str,
        tensor: &Tensor<'_, 3>,
        shape: [usize; 3],
    ) -> Result<([i64; 2], i32), OperandError> {
        let operand = Operand { name, tensor };
        operand.dtype(self.problem.dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let [token, head, _] = operand.aligned_strides()?;
        Ok(([token, head], operand.count(0)?))
    }
}

/// `written` shares no memory with anything that the launch reads.
pub(in crate::attention) fn apart_from_inputs<const R: usize>(
    written: Operand<'_, '_, R>,
    args: &Operands<'_>,
) -> Result<(), PrefillError> {
    fn operand<'t, 'a, const S: usize>(
        name: &'static str,
        tensor: &'t Tensor<'a, S>,
    ) -> Operand<'t, 'a, S> {
        Operand { name, tensor }
    }
    let from_vector = |name, tensor: &Tensor<'_, 1>| written.apart_from(operand(name, tensor));
    let from_offsets = |name, offsets: &CuSeqLens<'_>| match offsets {
        CuSeqLens::Checked(checked) => Ok(from_vector(name, &checked.tensor()?)?),
        CuSeqLens::Device(tensor) => Ok::<_, PrefillError>(from_vector(name, tensor)?),
    };
    written.apart_from(operand("q", &args.q))?;
    match &args.kv {
        Kv::Ragged { k, v, seqlens } => {
            written.apart_from(operand("k", k))?;
            written.apart_from(operand("v", v))?;
            from_offsets("seqlens_k", seqlens)?;
        }
        Kv::Paged {
            k,
            v,
            pages,
            seqlens,
        } => {
            written.apart_from(operand("k", k))?;
            written.apart_from(operand("v", v))?;
            match pages {
                PageTable::Rows(table) => written.apart_from(operand("page table", table))?,
                PageTable::Csr { indptr, pages } => {
                    from_vector("indptr", indptr)?;
                    from_vector("pages", pages)?;
                }
            }
            from_vector("seqlens_k", seqlens)?;
        }
    }
    if let Some(seqlens_q) = &args.seqlens_q {
        from_offsets("seqlens_q", seqlens_q)?;
    }
    for (name, tensor) in [("alibi", &args.alibi), ("sinks", &args.sinks)] {
        if let Some(tensor) = tensor {
            from_vector(name, tensor)?;
        }
    }
    if let Some(Mask { bits, offsets }) = &args.mask {
        from_vector("mask bits", bits)?;
        from_vector("mask offsets", offsets)?;
    }
    Ok(())
}
