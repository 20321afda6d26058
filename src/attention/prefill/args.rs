//! Operands of a prefill.

use crate::attention::CuSeqLens;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`PrefillPlan::run`](super::PrefillPlan::run); shapes are given in
/// [the module](super). What the plan's options need is given exactly if they are planned.
///
/// Operands are borrowed until the launch is enqueued, and freed behind it in the order of the
/// stream: memory that is gone cannot be handed over.
/// ```compile_fail,E0505
/// # use infer_kernels::Stream;
/// # fn f(stream: &Stream) -> Result<(), Box<dyn std::error::Error>> {
/// let slopes = stream.upload(&[0.5f32; 4])?;
/// let alibi = slopes.tensor([4])?;
/// drop(slopes);
/// println!("{:#x}", alibi.address());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PrefillArgs<'a> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: Tensor<'a, 3>,
    /// Keys and values, and which of them belong to each sequence.
    pub kv: Kv<'a>,
    /// The result, `[total_q, heads.query, v_dim]`.
    pub out: TensorMut<'a, 3>,
    /// The log-sum-exp, `[heads.query, total_q]` as `f32`.
    pub lse: Option<TensorMut<'a, 2>>,
    /// Where the queries of each sequence are.
    pub seqlens_q: CuSeqLens<'a>,
    /// The slope of each query head, `[heads.query]` as `f32`.
    pub alibi: Option<Tensor<'a, 1>>,
    /// The sink of each query head, `[heads.query]` as `f32`: a score as it is after scale and
    /// soft-cap.
    pub sinks: Option<Tensor<'a, 1>>,
    /// Which keys each query may see.
    pub mask: Option<Mask<'a>>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

impl<'a> PrefillArgs<'a> {
    /// Operands without those of options.
    pub fn new(
        q: Tensor<'a, 3>,
        kv: Kv<'a>,
        out: TensorMut<'a, 3>,
        seqlens_q: impl Into<CuSeqLens<'a>>,
        status: &'a StatusWord,
    ) -> Self {
        PrefillArgs {
            q,
            kv,
            out,
            lse: None,
            seqlens_q: seqlens_q.into(),
            alibi: None,
            sinks: None,
            mask: None,
            status,
        }
    }

    /// With [`PrefillArgs::lse`] set.
    #[must_use]
    pub fn lse(mut self, lse: TensorMut<'a, 2>) -> Self {
        self.lse = Some(lse);
        self
    }

    /// With [`PrefillArgs::alibi`] set.
    #[must_use]
    pub fn alibi(mut self, slopes: Tensor<'a, 1>) -> Self {
        self.alibi = Some(slopes);
        self
    }

    /// With [`PrefillArgs::sinks`] set.
    #[must_use]
    pub fn sinks(mut self, sinks: Tensor<'a, 1>) -> Self {
        self.sinks = Some(sinks);
        self
    }

    /// With [`PrefillArgs::mask`] set.
    #[must_use]
    pub fn mask(mut self, mask: Mask<'a>) -> Self {
        self.mask = Some(mask);
        self
    }
}

/// Keys and values.
#[derive(Clone, Copy, Debug)]
pub enum Kv<'a> {
    /// Sequence after sequence in one tensor each.
    Ragged {
        /// Keys, `[total_k, heads.kv, dim]`.
        k: Tensor<'a, 3>,
        /// Values, `[total_k, heads.kv, v_dim]`.
        v: Tensor<'a, 3>,
        /// Where the keys of each sequence are.
        seqlens: CuSeqLens<'a>,
    },
    /// In pages of a cache.
    ///
    /// Key `j` of a sequence is row `j % page_size` of the page that the sequence's entry
    /// `j / page_size` names. A cache of another layout is viewed in this one by its strides:
    /// [`Tensor::permute`] turns `[pages, heads.kv, page_size, dim]` (HND) into it, and
    /// [`Region::strided`](crate::Region::strided) takes either half of a combined
    /// `[pages, 2, page_size, heads.kv, dim]`.
    Paged {
        /// Pages of keys, `[pages, page_size, heads.kv, dim]`.
        k: Tensor<'a, 4>,
        /// Pages of values, `[pages, page_size, heads.kv, v_dim]`.
        v: Tensor<'a, 4>,
        /// Which pages each sequence has.
        pages: PageTable<'a>,
        /// The number of keys of each sequence, `[batch]` as `i32` or `u32`. It may be less than
        /// the sequence's pages hold.
        seqlens: Tensor<'a, 1>,
    },
}

impl<'a> Kv<'a> {
    /// [`Kv::Ragged`].
    pub fn ragged(k: Tensor<'a, 3>, v: Tensor<'a, 3>, seqlens: impl Into<CuSeqLens<'a>>) -> Self {
        let seqlens = seqlens.into();
        Kv::Ragged { k, v, seqlens }
    }

    /// [`Kv::Paged`].
    pub fn paged(
        k: Tensor<'a, 4>,
        v: Tensor<'a, 4>,
        pages: PageTable<'a>,
        seqlens: impl Into<Tensor<'a, 1>>,
    ) -> Self {
        Kv::Paged {
            k,
            v,
            pages,
            seqlens: seqlens.into(),
        }
    }
}

/// The pages of each sequence, as `u32` or `i32` indices into the pools.
///
/// Entries behind the last page that a sequence's length needs are never looked at, whatever they
/// hold.
#[derive(Clone, Copy, Debug)]
pub enum PageTable<'a> {
    /// A row for each sequence, `[batch, most pages of a sequence]`.
    Rows(Tensor<'a, 2>),
    /// The pages of all sequences one after the other.
    Csr {
        /// Sequence `b` has the entries `indptr[b]..indptr[b + 1]`: `[batch + 1]` as `i32` or
        /// `u32`.
        indptr: Tensor<'a, 1>,
        /// `[entries]`.
        pages: Tensor<'a, 1>,
    },
}

/// Which keys each query may see, beside what causality and window say.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The bits of all sequences, `[bytes]` as `u8`. Whether query `i` of a sequence may see its key
    /// `j` of `n` is bit `i * n + j` of its part, counted from the lowest bit of the first byte.
    pub bits: Tensor<'a, 1>,
    /// Where each sequence's part begins, in bytes, and where the last one ends: `[batch + 1]` as
    /// `i32` or `u32`.
    pub offsets: Tensor<'a, 1>,
}
