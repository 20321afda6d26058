//! What is to be computed.

use super::DecodeError;
use super::select::{self, Choice};
use crate::attention::prefill::{HeadShape, PrefillProblem, SoftCap, Window};
use crate::dtype::DType;
use crate::kv::Format;

/// A decode to be planned: what it computes, and for how many sequences.
///
/// What is computed is what a prefill from pages computes. Every option can be combined with every
/// other.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeProblem {
    attention: PrefillProblem,
    format: Format,
    blocks: Option<usize>,
    invariant: Option<usize>,
}

impl DecodeProblem {
    /// Causal attention of one query for each of `batch` sequences, whose keys lie in pages of
    /// `page_size`; scale `1 / √dim`, and no option.
    pub fn new(dtype: DType, heads: HeadShape, batch: usize, page_size: usize) -> Self {
        DecodeProblem::of(
            PrefillProblem::new(dtype, heads, batch, 1)
                .paged(page_size)
                .causal(true),
        )
    }

    /// The same as this prefill, whose keys must be in pages.
    pub fn of(attention: PrefillProblem) -> Self {
        DecodeProblem {
            attention,
            format: Format::Same,
            blocks: None,
            invariant: None,
        }
    }

    /// What is computed, as the references take it.
    pub fn attention(&self) -> &PrefillProblem {
        &self.attention
    }

    /// How keys and values are stored.
    pub fn cache_format(&self) -> Format {
        self.format
    }

    /// With keys and values stored so.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// With sequences of at most so many queries.
    #[must_use]
    pub fn max_queries(mut self, queries: usize) -> Self {
        self.attention.max_seqlen_q = queries;
        self
    }

    /// With [`PrefillProblem::v_dim`] set.
    #[must_use]
    pub fn v_dim(mut self, v_dim: usize) -> Self {
        self.attention.v_dim = v_dim;
        self
    }

    /// With [`PrefillProblem::causal`] set. One query alone sees every key either way.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.attention.causal = causal;
        self
    }

    /// With [`PrefillProblem::window`] set.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.attention.window = window;
        self
    }

    /// With [`PrefillProblem::scale`] set.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.attention.scale = scale;
        self
    }

    /// With [`PrefillProblem::softcap`] set.
    #[must_use]
    pub fn softcap(mut self, softcap: impl Into<Option<SoftCap>>) -> Self {
        self.attention.softcap = softcap.into();
        self
    }

    /// With [`PrefillProblem::alibi`] set.
    #[must_use]
    pub fn alibi(mut self, alibi: bool) -> Self {
        self.attention.alibi = alibi;
        self
    }

    /// With [`PrefillProblem::sinks`] set.
    #[must_use]
    pub fn sinks(mut self, sinks: bool) -> Self {
        self.attention.sinks = sinks;
        self
    }

    /// With [`PrefillProblem::mask`] set: trees of queries, say.
    #[must_use]
    pub fn mask(mut self, mask: bool) -> Self {
        self.attention.mask = mask;
        self
    }

    /// With [`PrefillProblem::lse`] set.
    #[must_use]
    pub fn lse(mut self, lse: bool) -> Self {
        self.attention.lse = lse;
        self
    }

    /// With the work cut into this many shares, of equal size, one for each block; `None`: as many
    /// blocks as the device holds, at most two on a multiprocessor.
    ///
    /// The bits of a result depend on this, and on all lengths of the batch, unless they are to be
    /// [batch-invariant](DecodeProblem::batch_invariant).
    #[must_use]
    pub fn blocks(mut self, blocks: impl Into<Option<usize>>) -> Self {
        self.blocks = blocks.into();
        self
    }

    /// The number of blocks asked for.
    pub fn wanted_blocks(&self) -> Option<usize> {
        self.blocks
    }

    /// With results whose bits depend on nothing but their sequence, none of which has more keys than
    /// `max_keys`; `None`: that may depend on the batch.
    ///
    /// They do not depend on what else is in the batch, on the device, on
    /// [`DecodeProblem::blocks`] or on how many queries come at once: a prompt that is read as a whole,
    /// in chunks or token by token gives the same bits, as long as dtype, head dimensions and options
    /// are the same and no value is NaN or infinite. What it costs is said
    /// [above](super#batch-invariance). A sequence with more keys is reported as
    /// [`Offence::SeqLensK`](crate::Offence::SeqLensK) and treated as one without any.
    #[must_use]
    pub fn batch_invariant(mut self, max_keys: impl Into<Option<usize>>) -> Self {
        self.invariant = max_keys.into();
        self
    }

    /// The most keys of a sequence, if results are batch-invariant.
    pub fn invariant_keys(&self) -> Option<usize> {
        self.invariant
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// Needs no device and allocates nothing on one. A device may still be too old or too small,
    /// which [`DecodePlan::new`](super::DecodePlan::new) says.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedDtype`], [`DecodeError::UnsupportedHeadDim`],
    /// [`DecodeError::Ragged`], [`DecodeError::InvariantCache`], [`DecodeError::Blocks`],
    /// [`DecodeError::RowBlocks`]; or, as [`DecodeError::Attention`], what
    /// [`PrefillProblem::supports`] refuses.
    pub fn supports(&self) -> Result<(), DecodeError> {
        self.select().map(drop)
    }

    /// The entries that compute this, and their constants.
    pub(super) fn select(&self) -> Result<Choice, DecodeError> {
        select::select(self)
    }
}
