//! Prefill over caches that prefill's own kernels do not read: in 8 bits, or split by `x`.
//!
//! Keys and values of the batch are [gathered](crate::kv::GatherPlan) out of the cache into the type of the queries, then
//! [prefill](super::prefill) reads them from there. For a chunk of many queries the copy is a small part of
//! the work; sequences of one or a few queries [decode](super::decode) from the cache as it is.
//!
//! # Shapes
//! Those of [`prefill`](super::prefill); the cache as in [`kv::Cache`](crate::kv::Cache). `k` and `v` of
//! [`GatheredArgs`] are the caller's, `[tokens, heads.kv, dim]` and `[.., v_dim]`, with room for the keys of the whole batch;
//! one pair serves every layer.
//!
//! # Rounding
//! `scale · stored` is rounded to the type of the queries once. Of a cache that stores that type, nothing is.
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::attention::prefill::{HeadShape, PageTable, PrefillProblem};
//! use infer_kernels::attention::{SeqLens, gathered::*};
//! use infer_kernels::kv::{Cache, Format, Scales};
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let heads = HeadShape { query: 4, kv: 1, dim: 64 };
//! // The last 5 queries of a sequence with 20 keys on two pages, every element stored as 4 · 0.25.
//! let (lens_q, lens_k) = (SeqLens::from_lengths(&stream, &[5])?, SeqLens::from_lengths(&stream, &[20])?);
//! let attention = PrefillProblem::new(DType::BF16, heads, 1, 5).causal(true);
//! let plan = GatheredPlan::new(&device, &attention, Format::Int8)?;
//! println!("{plan}");
//!
//! let q = stream.upload(&vec![bf16::ONE; 5 * 4 * 64])?;
//! let (pool, table) = (stream.upload(&vec![4i8; 3 * 16 * 64])?, stream.upload(&[2, 0])?);
//! let scale = stream.upload(&[0.25f32])?;
//! let (mut k, mut v) = (stream.alloc::<bf16>(20 * 64)?, stream.alloc::<bf16>(20 * 64)?);
//! let mut out = stream.alloc::<bf16>(5 * 4 * 64)?;
//! let status = StatusWord::new(&stream)?;
//! let pages = pool.tensor([3, 16, 1, 64])?;
//! plan.run(&stream, GatheredArgs {
//!     q: q.tensor([5, 4, 64])?,
//!     cache: Cache::Rows { k: pages, v: pages },
//!     pages: PageTable::Rows(table.tensor([1, 2])?),
//!     scales: Some(Scales { k: scale.tensor([1])?, v: scale.tensor([1])? }),
//!     seqlens_q: (&lens_q).into(),
//!     seqlens_k: (&lens_k).into(),
//!     k: k.tensor_mut([20, 1, 64])?,
//!     v: v.tensor_mut([20, 1, 64])?,
//!     out: out.tensor_mut([5, 4, 64])?,
//!     lse: None,
//!     alibi: None,
//!     sinks: None,
//!     mask: None,
//!     status: &status,
//! })?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![bf16::ONE; 5 * 4 * 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use super::CuSeqLens;
use super::prefill::{
    Kv, KvLayout, Mask, PageTable, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use crate::device::{Device, Stream};
use crate::error::OperandError;
use crate::kv::{Cache, Format, GatherArgs, GatherPlan, GatherProblem, KvError, Scales};
use crate::operand::{Apart, Operand};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Why a prefill over gathered keys was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatheredError {
    /// Something wrong with the cache, its pages, or where its rows go.
    #[error("keys and values of the cache: {0}")]
    Gather(#[from] KvError),
    /// Something wrong with the attention over them.
    #[error(transparent)]
    Prefill(#[from] PrefillError),
}

impl From<OperandError> for GatheredError {
    fn from(error: OperandError) -> Self {
        GatheredError::Gather(error.into())
    }
}

/// Operands of [`GatheredPlan::run`].
#[derive(Debug)]
pub struct GatheredArgs<'a> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: Tensor<'a, 3>,
    /// Where keys and values are.
    pub cache: Cache<'a>,
    /// The pages of each sequence.
    pub pages: PageTable<'a>,
    /// Scales of a cache in 8 bits, exactly if it is one.
    pub scales: Option<Scales<'a>>,
    /// Where the queries of each sequence are.
    pub seqlens_q: CuSeqLens<'a>,
    /// Which rows of `k` and `v` the keys of each sequence get, and so how many it has.
    pub seqlens_k: CuSeqLens<'a>,
    /// Room for keys, `[tokens, heads.kv, dim]`: overwritten.
    pub k: TensorMut<'a, 3>,
    /// Room for values, `[tokens, heads.kv, v_dim]`: overwritten.
    pub v: TensorMut<'a, 3>,
    /// The result, `[total_q, heads.query, v_dim]`.
    pub out: TensorMut<'a, 3>,
    /// The log-sum-exp, `[heads.query, total_q]` as `f32`.
    pub lse: Option<TensorMut<'a, 2>>,
    /// The slope of each query head, `[heads.query]` as `f32`.
    pub alibi: Option<Tensor<'a, 1>>,
    /// The sink of each query head, `[heads.query]` as `f32`.
    pub sinks: Option<Tensor<'a, 1>>,
    /// Which keys each query may see.
    pub mask: Option<Mask<'a>>,
    /// Where the kernels report what they cannot use.
    pub status: &'a StatusWord,
}

/// Two kernels chosen and loaded. Prints what it will launch.
///
/// It holds no operands: it serves every layer and step of its shape.
#[derive(Clone, Debug)]
pub struct GatheredPlan {
    gather: GatherPlan,
    prefill: PrefillPlan,
}

impl GatheredPlan {
    /// Whether there are kernels for this on any device; if not, the reason. Where `attention` has
    /// its keys does not matter: they come from the cache.
    ///
    /// # Errors
    /// What [`PrefillProblem::supports`] or [`GatherProblem::supports`] refuses.
    pub fn supports(attention: &PrefillProblem, format: Format) -> Result<(), GatheredError> {
        let (gather, prefill) = Self::parts(attention, format);
        prefill.supports()?;
        Ok(gather.supports()?)
    }

    /// Chooses the kernels and loads them, if they are not yet. `format`: how the cache stores elements.
    ///
    /// # Errors
    /// What [`GatheredPlan::supports`] refuses, or that the device cannot run a kernel.
    pub fn new(
        device: &Device,
        attention: &PrefillProblem,
        format: Format,
    ) -> Result<Self, GatheredError> {
        let (gather, prefill) = Self::parts(attention, format);
        Ok(GatheredPlan {
            prefill: PrefillPlan::new(device, &prefill)?,
            gather: GatherPlan::new(device, &gather)?,
        })
    }

    fn parts(attention: &PrefillProblem, format: Format) -> (GatherProblem, PrefillProblem) {
        let mut prefill = attention.clone();
        prefill.kv = KvLayout::Ragged;
        let heads = prefill.heads;
        let gather = GatherProblem::new(prefill.dtype, heads.kv, heads.dim)
            .v_dim(prefill.v_dim)
            .format(format);
        (gather, prefill)
    }

    /// The plan that takes keys and values out of the cache.
    pub fn gather(&self) -> &GatherPlan {
        &self.gather
    }

    /// The plan that reads them.
    pub fn prefill(&self) -> &PrefillPlan {
        &self.prefill
    }

    /// Checks every operand, then enqueues both kernels on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// A key without a page, as its sequence has too few or the page id is out of range, becomes zeros and
    /// is reported in the status word; [`Kv::Paged`] would leave it out.
    ///
    /// # Errors
    /// What [`GatherPlan::run`] and [`PrefillPlan::run`] refuse, or that `k` or `v` shares memory with what is
    /// read behind them; then nothing is enqueued.
    pub fn run(&self, stream: &Stream, mut args: GatheredArgs<'_>) -> Result<(), GatheredError> {
        args.check_apart()?;
        self.gather.bind(stream, &args.gather())?;
        self.prefill.bind(stream, args.prefill())?;
        self.gather.run(stream, args.gather())?;
        Ok(self.prefill.run(stream, args.prefill())?)
    }
}

impl GatheredArgs<'_> {
    /// Keys and values are written before these are read.
    fn check_apart(&self) -> Result<(), OperandError> {
        fn operand<'t, 'a, const R: usize>(
            name: &'static str,
            tensor: &'t Tensor<'a, R>,
        ) -> Operand<'t, 'a, R> {
            Operand { name, tensor }
        }
        let (k, v) = (self.k.as_ref(), self.v.as_ref());
        let mut apart = Apart::default();
        apart.written(operand("k", &k));
        apart.written(operand("v", &v));
        apart.read(operand("q", &self.q));
        if let CuSeqLens::Device(offsets) = &self.seqlens_q {
            apart.read(operand("seqlens_q", offsets));
        }
        for (name, tensor) in [("alibi", &self.alibi), ("sinks", &self.sinks)] {
            if let Some(tensor) = tensor {
                apart.read(operand(name, tensor));
            }
        }
        if let Some(Mask { bits, offsets }) = &self.mask {
            apart.read(operand("mask", bits));
            apart.read(operand("mask offsets", offsets));
        }
        apart.check()
    }

    fn gather(&mut self) -> GatherArgs<'_> {
        GatherArgs {
            cache: self.cache,
            pages: self.pages,
            seqlens: self.seqlens_k,
            k: self.k.reborrow(),
            v: self.v.reborrow(),
            scales: self.scales,
            status: self.status,
        }
    }

    fn prefill(&mut self) -> PrefillArgs<'_> {
        PrefillArgs {
            q: self.q,
            kv: Kv::Ragged {
                k: self.k.as_ref(),
                v: self.v.as_ref(),
                seqlens: self.seqlens_k,
            },
            out: self.out.reborrow(),
            lse: self.lse.as_mut().map(TensorMut::reborrow),
            seqlens_q: self.seqlens_q,
            alibi: self.alibi,
            sinks: self.sinks,
            mask: self.mask,
            status: self.status,
        }
    }
}

impl fmt::Display for GatheredPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.gather, self.prefill)
    }
}
