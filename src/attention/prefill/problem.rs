//! What is to be computed.

use std::fmt;

use super::select::{self, Selection};
use super::{PrefillError, SoftCap, Window};
use crate::dtype::DType;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadShape {
    /// Query heads.
    pub query: usize,
    /// Key and value heads, each shared by `query / kv` neighbouring query heads.
    pub kv: usize,
    /// Elements of a query's or key's head, and of a value's unless
    /// [`PrefillProblem::v_dim`] says otherwise.
    pub dim: usize,
}

/// Where keys and values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvLayout {
    /// The rows of each sequence follow one another: [`Kv::Ragged`](super::Kv::Ragged).
    #[default]
    Ragged,
    /// In pages of a pool, found through a table: [`Kv::Paged`](super::Kv::Paged).
    Paged {
        /// Keys on a page: any number from 1.
        page_size: usize,
    },
}

impl fmt::Display for KvLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvLayout::Ragged => f.write_str("ragged keys"),
            KvLayout::Paged { page_size } => write!(f, "pages of {page_size} keys"),
        }
    }
}

/// A prefill to be planned: what it computes, and for how many sequences of what length.
///
/// Every option can be combined with every other.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PrefillProblem {
    /// The type of queries, keys, values and output.
    pub dtype: DType,
    /// Heads and their dimension.
    pub heads: HeadShape,
    /// Elements of a value's and of an output's head.
    pub v_dim: usize,
    /// The number of sequences.
    pub batch: usize,
    /// No sequence has more queries than this.
    pub max_seqlen_q: usize,
    /// Where keys and values come from.
    pub kv: KvLayout,
    /// Whether queries see only the keys up to their own position; see the module.
    pub causal: bool,
    /// How far from its own position a query sees.
    pub window: Window,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Bends scores so that none exceeds a cap.
    pub softcap: Option<SoftCap>,
    /// Whether each head has a slope by which scores fall with distance.
    pub alibi: bool,
    /// Whether each head has a sink: a score that takes weight and gives nothing.
    pub sinks: bool,
    /// Whether each sequence has a mask of its own.
    pub mask: bool,
    /// Whether the log-sum-exp of each query's scores is wanted.
    pub lse: bool,
}

impl PrefillProblem {
    /// Full attention over ragged keys with scale `1 / √dim`, and no option.
    pub fn new(dtype: DType, heads: HeadShape, batch: usize, max_seqlen_q: usize) -> Self {
        let scale = (1.0 / (heads.dim as f64).sqrt()) as f32;
        PrefillProblem {
            dtype,
            heads,
            v_dim: heads.dim,
            batch,
            max_seqlen_q,
            kv: KvLayout::Ragged,
            causal: false,
            window: Window::ALL,
            scale,
            softcap: None,
            alibi: false,
            sinks: false,
            mask: false,
            lse: false,
        }
    }

    /// With [`PrefillProblem::v_dim`] set.
    #[must_use]
    pub fn v_dim(mut self, v_dim: usize) -> Self {
        self.v_dim = v_dim;
        self
    }

    /// With keys and values in pages of `page_size` keys.
    #[must_use]
    pub fn paged(mut self, page_size: usize) -> Self {
        self.kv = KvLayout::Paged { page_size };
        self
    }

    /// With [`PrefillProblem::causal`] set.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// With [`PrefillProblem::window`] set.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// With [`PrefillProblem::scale`] set.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// With [`PrefillProblem::softcap`] set.
    #[must_use]
    pub fn softcap(mut self, softcap: impl Into<Option<SoftCap>>) -> Self {
        self.softcap = softcap.into();
        self
    }

    /// With [`PrefillProblem::alibi`] set.
    #[must_use]
    pub fn alibi(mut self, alibi: bool) -> Self {
        self.alibi = alibi;
        self
    }

    /// With [`PrefillProblem::sinks`] set.
    #[must_use]
    pub fn sinks(mut self, sinks: bool) -> Self {
        self.sinks = sinks;
        self
    }

    /// With [`PrefillProblem::mask`] set.
    #[must_use]
    pub fn mask(mut self, mask: bool) -> Self {
        self.mask = mask;
        self
    }

    /// With [`PrefillProblem::lse`] set.
    #[must_use]
    pub fn lse(mut self, lse: bool) -> Self {
        self.lse = lse;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// Needs no device and allocates nothing on one. A device may still be too old or too small,
    /// which [`PrefillPlan::new`](super::PrefillPlan::new) says.
    ///
    /// # Errors
    /// [`PrefillError::UnsupportedDtype`], [`PrefillError::UnsupportedHeadDim`],
    /// [`PrefillError::Heads`], [`PrefillError::Scale`], [`PrefillError::SoftCap`],
    /// [`PrefillError::PageSize`], [`PrefillError::Limit`].
    pub fn supports(&self) -> Result<(), PrefillError> {
        self.select().map(drop)
    }

    /// The entry that computes this, and its constants.
    pub(crate) fn select(&self) -> Result<Selection, PrefillError> {
        select::select(self)
    }
}
