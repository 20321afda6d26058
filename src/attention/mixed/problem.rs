//! What is to be computed.

use super::MixedError;
use crate::attention::decode::DecodeProblem;
use crate::attention::prefill::PrefillProblem;

/// A mixed batch to be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedProblem {
    attention: PrefillProblem,
    decodes: usize,
    max_queries: usize,
    blocks: Option<usize>,
    invariant: Option<usize>,
}

impl MixedProblem {
    /// `attention` for the whole batch, of which the first `decodes` sequences have one query each.
    pub fn new(attention: PrefillProblem, decodes: usize) -> Self {
        MixedProblem {
            attention,
            decodes,
            max_queries: 1,
            blocks: None,
            invariant: None,
        }
    }

    /// With at most so many queries in each sequence that decodes: drafts to be verified.
    #[must_use]
    pub fn max_queries(mut self, queries: usize) -> Self {
        self.max_queries = queries;
        self
    }

    /// With [`DecodeProblem::blocks`] set for those that decode.
    #[must_use]
    pub fn blocks(mut self, blocks: impl Into<Option<usize>>) -> Self {
        self.blocks = blocks.into();
        self
    }

    /// With [`DecodeProblem::batch_invariant`] set for all sequences, which are one part then: the
    /// bits of a sequence's results do not depend on whether it decodes or prefills, either.
    #[must_use]
    pub fn batch_invariant(mut self, max_keys: impl Into<Option<usize>>) -> Self {
        self.invariant = max_keys.into();
        self
    }

    /// The most keys of a sequence, if results are batch-invariant.
    pub fn invariant_keys(&self) -> Option<usize> {
        self.invariant
    }

    /// What is computed for the whole batch, as the references take it.
    pub fn attention(&self) -> &PrefillProblem {
        &self.attention
    }

    /// How many sequences decode: the first ones.
    pub fn decodes(&self) -> usize {
        self.decodes
    }

    /// Whether there are kernels for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`MixedError::Decodes`], or what either part refuses.
    pub fn supports(&self) -> Result<(), MixedError> {
        let (decode, prefill) = self.parts()?;
        if let Some(decode) = decode {
            decode.supports()?;
        }
        if let Some(prefill) = prefill {
            prefill.supports()?;
        }
        Ok(())
    }

    /// The most queries of a sequence that decodes, and of one that does not; 0 if there is none.
    pub(super) fn most_queries(&self) -> [usize; 2] {
        let of = |sequences: usize, most| if sequences > 0 { most } else { 0 };
        let prefills = self.attention.batch.saturating_sub(self.decodes);
        [
            of(self.decodes, self.max_queries),
            of(prefills, self.attention.max_seqlen_q),
        ]
    }

    /// The sequences that the decode kernels take: the first ones, or all.
    pub(super) fn by_decode(&self) -> usize {
        match self.invariant {
            None => self.decodes,
            Some(_) => self.attention.batch,
        }
    }

    /// The problems of the sequences that the decode kernels take and of the others. A part without
    /// sequences is none, unless it would be the only one.
    pub(super) fn parts(
        &self,
    ) -> Result<(Option<DecodeProblem>, Option<PrefillProblem>), MixedError> {
        let (batch, decodes) = (self.attention.batch, self.decodes);
        let Some(prefills) = batch.checked_sub(decodes) else {
            return Err(MixedError::Decodes {
                expected: batch,
                got: decodes,
            });
        };
        let part = |batch, max_seqlen_q| PrefillProblem {
            batch,
            max_seqlen_q,
            ..self.attention.clone()
        };
        if self.invariant.is_some() {
            let [decodes, prefills] = self.most_queries();
            let whole = DecodeProblem::of(part(batch, decodes.max(prefills)));
            let whole = whole.blocks(self.blocks).batch_invariant(self.invariant);
            return Ok((Some(whole), None));
        }
        let decode = (decodes > 0).then(|| {
            let part = part(decodes, self.max_queries);
            DecodeProblem::of(part).blocks(self.blocks)
        });
        let prefill =
            (prefills > 0 || decodes == 0).then(|| part(prefills, self.attention.max_seqlen_q));
        Ok((decode, prefill))
    }
}
