//! Everything that can be wrong with latent attention.

use crate::attention::prefill::PrefillError;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::{OperandError, TensorError};

/// Why latent attention was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlaError {
    /// No kernel computes with this element type.
    #[error("no MLA kernel for elements of type {got}: there are {expected:?}")]
    UnsupportedDtype {
        /// The types that there are kernels for.
        expected: Vec<&'static str>,
        /// The type asked for.
        got: DType,
    },
    /// No kernel has these dimensions.
    #[error(
        "no MLA kernel for latents of {} and rotary keys of {} elements: there is one for {} and {}",
        got.0, got.1, expected.0, expected.1
    )]
    UnsupportedDims {
        /// The dimensions of latents and rotary keys that there is a kernel for.
        expected: (usize, usize),
        /// The dimensions asked for.
        got: (usize, usize),
    },
    /// No query heads, or more than a row can be told apart by.
    #[error("query heads: expected 1 to {expected}, got {got}")]
    Heads {
        /// The most query heads.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// No kernel has items of so many rows.
    #[error("no MLA kernel with items of {got} rows: there are {expected:?}")]
    UnsupportedRows {
        /// The numbers of rows that there are kernels for.
        expected: Vec<usize>,
        /// The number asked for.
        got: usize,
    },
    /// A launch of no blocks, or of more than one can have.
    #[error("blocks: expected 1 to {expected}, got {got}")]
    Blocks {
        /// The most blocks.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// More rows, pairs of query token and head, than work can be counted for.
    #[error("rows of all sequences: expected at most {expected}, got {got}")]
    TooManyRows {
        /// The most rows.
        expected: u128,
        /// How many the problem has.
        got: u128,
    },
    /// Queries without offsets that cannot be shared out evenly among the sequences.
    #[error("q: expected a multiple of {expected} rows, as many for each sequence, got {got}")]
    Rows {
        /// The sequences.
        expected: usize,
        /// The rows of `q`.
        got: usize,
    },
    /// Too little workspace.
    #[error("workspace: expected at least {expected} elements, got {got}")]
    Workspace {
        /// What the plan needs.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// Something that can be wrong with any attention.
    #[error(transparent)]
    Attention(#[from] PrefillError),
}

impl From<OperandError> for MlaError {
    fn from(error: OperandError) -> Self {
        MlaError::Attention(error.into())
    }
}

impl From<DeviceError> for MlaError {
    fn from(error: DeviceError) -> Self {
        MlaError::Attention(error.into())
    }
}

impl From<TensorError> for MlaError {
    fn from(error: TensorError) -> Self {
        MlaError::Attention(error.into())
    }
}
