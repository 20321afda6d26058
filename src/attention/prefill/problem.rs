//! What is to be computed.

use super::PrefillError;
use crate::catalog::{self, Entry};
use crate::dtype::DType;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadShape {
    /// Query heads.
    pub query: usize,
    /// Key and value heads, each shared by `query / kv` neighbouring query heads.
    pub kv: usize,
    /// Elements per head.
    pub dim: usize,
}

/// A prefill to be planned: what it computes, and for how many sequences of what length.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PrefillProblem {
    /// The type of queries, keys, values and output.
    pub dtype: DType,
    /// Heads and their dimension.
    pub heads: HeadShape,
    /// The number of sequences.
    pub batch: usize,
    /// No sequence has more queries than this.
    pub max_seqlen_q: usize,
    /// Whether queries see only the keys up to their own position; see the module.
    pub causal: bool,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Whether the log-sum-exp of each query's scores is wanted.
    pub lse: bool,
}

impl PrefillProblem {
    /// Full attention with scale `1 / √dim`, without log-sum-exp.
    pub fn new(dtype: DType, heads: HeadShape, batch: usize, max_seqlen_q: usize) -> Self {
        let scale = (1.0 / (heads.dim as f64).sqrt()) as f32;
        PrefillProblem {
            dtype,
            heads,
            batch,
            max_seqlen_q,
            causal: false,
            scale,
            lse: false,
        }
    }

    /// With [`PrefillProblem::causal`] set.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// With [`PrefillProblem::scale`] set.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
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
    /// [`PrefillError::Heads`], [`PrefillError::Scale`], [`PrefillError::Limit`].
    pub fn supports(&self) -> Result<(), PrefillError> {
        self.select().map(drop)
    }

    /// The entry that computes this.
    pub(crate) fn select(&self) -> Result<Selection, PrefillError> {
        let HeadShape { query, kv, dim } = self.heads;
        let entries = || {
            catalog::ENTRIES
                .iter()
                .filter(|entry| entry.kernel == "prefill" && entry.variant == "lean")
        };
        let mut dtypes: Vec<&str> = entries().map(|entry| entry.dtype).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        if !dtypes.contains(&self.dtype.name()) {
            return Err(PrefillError::UnsupportedDtype {
                expected: dtypes,
                got: self.dtype,
            });
        }
        let fitting = || entries().filter(|entry| entry.dtype == self.dtype.name());
        let Some(entry) = fitting().find(|entry| entry.head_dim as usize == dim) else {
            let mut expected: Vec<_> = fitting().map(|entry| entry.head_dim as usize).collect();
            expected.sort_unstable();
            return Err(PrefillError::UnsupportedHeadDim { expected, got: dim });
        };
        if kv == 0 || query == 0 || !query.is_multiple_of(kv) {
            return Err(PrefillError::Heads { got: self.heads });
        }
        let scale_log2 = self.scale * std::f32::consts::LOG2_E;
        if !(self.scale > 0.0 && scale_log2 > 0.0 && scale_log2.is_finite()) {
            return Err(PrefillError::Scale { got: self.scale });
        }
        limit("query heads", query, MAX_GRID_YZ)?;
        limit("sequences", self.batch, MAX_GRID_YZ)?;
        limit("queries per sequence", self.max_seqlen_q, i32::MAX as usize)?;
        Ok(Selection { entry, scale_log2 })
    }
}

/// The largest second and third dimension of a grid.
const MAX_GRID_YZ: usize = 65_535;

fn limit(what: &'static str, got: usize, expected: usize) -> Result<(), PrefillError> {
    if got <= expected {
        return Ok(());
    }
    Err(PrefillError::Limit {
        what,
        expected,
        got,
    })
}

/// A supported problem's kernel and derived constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub entry: &'static Entry,
    pub scale_log2: f32,
}
