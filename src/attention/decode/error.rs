//! Everything that can be wrong with a decode.

use crate::attention::prefill::PrefillError;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::{OperandError, TensorError};
use crate::kv::KvError;

/// Why a decode was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No kernel computes with this element type.
    #[error("no decode kernel for elements of type {got}: there are {expected:?}")]
    UnsupportedDtype {
        /// The types that there are kernels for.
        expected: Vec<&'static str>,
        /// The type asked for.
        got: DType,
    },
    /// No kernel has these head dimensions.
    #[error(
        "no decode kernel for heads of {} elements for keys and {} for values: \
         expected multiples of {unit}, at most {} and {}", got.0, got.1, expected.0, expected.1
    )]
    UnsupportedHeadDim {
        /// What dimensions are multiples of: 16 bytes of a cache in 8 bits, 8 elements else.
        unit: usize,
        /// The largest dimensions of keys and of values that there is a kernel for.
        expected: (usize, usize),
        /// The dimensions asked for.
        got: (usize, usize),
    },
    /// Keys that are not in pages.
    #[error("decode reads keys from pages; the problem has ragged ones")]
    Ragged,
    /// A cache in 8 bits, and bits that depend on nothing but the sequence.
    #[error("no batch-invariant decode kernel for a cache in {got}: there are some for 16 bits")]
    InvariantCache {
        /// The format asked for.
        got: &'static str,
    },
    /// A launch of no blocks, or of more than one can have.
    #[error("blocks: expected 1 to {expected}, got {got}")]
    Blocks {
        /// The most blocks.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// More rows, 16 pairs of query token and head to each, than work can be counted for.
    #[error("row blocks of all sequences: expected at most {expected}, got {got}")]
    RowBlocks {
        /// The most row blocks.
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
    /// Something that can be wrong with the scales of a cache.
    #[error(transparent)]
    Cache(Box<KvError>),
    /// Something that can be wrong with any attention.
    #[error(transparent)]
    Attention(#[from] PrefillError),
}

impl From<KvError> for DecodeError {
    fn from(error: KvError) -> Self {
        DecodeError::Cache(Box::new(error))
    }
}

impl From<OperandError> for DecodeError {
    fn from(error: OperandError) -> Self {
        DecodeError::Attention(error.into())
    }
}

impl From<DeviceError> for DecodeError {
    fn from(error: DeviceError) -> Self {
        DecodeError::Attention(error.into())
    }
}

impl From<TensorError> for DecodeError {
    fn from(error: TensorError) -> Self {
        DecodeError::Attention(error.into())
    }
}
