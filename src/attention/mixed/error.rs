//! Everything that can be wrong with a mixed batch.

use crate::attention::decode::DecodeError;
use crate::attention::prefill::PrefillError;
use crate::error::TensorError;

/// Why a mixed batch was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MixedError {
    /// More sequences that decode than there are sequences.
    #[error("sequences that decode: expected at most {expected}, the batch, got {got}")]
    Decodes {
        /// The sequences of the batch.
        expected: usize,
        /// How many of them were to decode.
        got: usize,
    },
    /// Something wrong with the part that decodes.
    #[error("sequences that decode: {0}")]
    Decode(#[from] DecodeError),
    /// Something wrong with the part that prefills, or with an operand of both.
    #[error(transparent)]
    Prefill(#[from] PrefillError),
}

impl From<TensorError> for MixedError {
    fn from(error: TensorError) -> Self {
        MixedError::Prefill(error.into())
    }
}
