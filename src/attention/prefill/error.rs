//! Everything that can be wrong with a prefill.

use super::{HeadShape, KvLayout};
use crate::attention::SeqLensError;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::{OperandError, TensorError};

/// Why a prefill was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefillError {
    /// No kernel computes with this element type.
    #[error("no prefill kernel for elements of type {got}: there are {expected:?}")]
    UnsupportedDtype {
        /// The types that there are kernels for.
        expected: Vec<&'static str>,
        /// The type asked for.
        got: DType,
    },
    /// No kernel has these head dimensions.
    #[error(
        "no prefill kernel for heads of {} elements for keys and {} for values: \
         expected multiples of 8, at most {} and {}", got.0, got.1, expected.0, expected.1
    )]
    UnsupportedHeadDim {
        /// The largest dimensions of keys and of values that there is a kernel for.
        expected: (usize, usize),
        /// The dimensions asked for.
        got: (usize, usize),
    },
    /// Query heads cannot be shared out evenly among kv heads.
    #[error(
        "{} query heads are not a positive multiple of {} kv heads", got.query, got.kv
    )]
    Heads {
        /// The head counts asked for.
        got: HeadShape,
    },
    /// A softmax scale that is not a positive finite number, or whose product with log2(e) is not.
    #[error("softmax scale: expected a positive finite number, got {got}")]
    Scale {
        /// The scale asked for.
        got: f32,
    },
    /// A soft-cap that is not a positive finite number, or whose products with the constants of
    /// the kernel are not.
    #[error("soft-cap: expected a positive finite number, got {got}; to have none, plan none")]
    SoftCap {
        /// The cap asked for.
        got: f32,
    },
    /// Pages without keys.
    #[error("keys on a page: expected at least {expected}, got {got}")]
    PageSize {
        /// The least number of keys on a page.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// More of something than one launch can have.
    #[error("{what}: expected at most {expected}, got {got}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The most that one launch can have.
        expected: usize,
        /// What was asked for.
        got: usize,
    },
    /// A batch of another size than planned.
    #[error("{tensor}: expected {expected} sequences as planned, got {got}")]
    Batch {
        /// Which operand.
        tensor: &'static str,
        /// The planned number of sequences.
        expected: usize,
        /// The number given.
        got: usize,
    },
    /// A sequence with more queries than planned.
    #[error("{tensor}: expected sequences of at most {expected} queries as planned, got {got}")]
    SeqLen {
        /// Which operand.
        tensor: &'static str,
        /// The planned maximum.
        expected: usize,
        /// The longest sequence.
        got: usize,
    },
    /// Sequences reach beyond the last row of the operands.
    #[error("{tensor}: expected sequences within {expected} rows, got {got}")]
    SeqEnd {
        /// Which operand.
        tensor: &'static str,
        /// The rows that the operands have.
        expected: usize,
        /// The row behind the last sequence.
        got: usize,
    },
    /// The log-sum-exp was planned and no tensor given for it, or the other way round.
    #[error(
        "lse: the plan {}, the call {}",
        if *expected { "computes it" } else { "does not compute it" },
        if *got { "has a tensor for it" } else { "has none" }
    )]
    Lse {
        /// Whether the plan computes it.
        expected: bool,
        /// Whether the call has a tensor for it.
        got: bool,
    },
    /// The operand of an option was given without being planned, or the other way round.
    #[error(
        "{tensor}: the plan {}, the call {}",
        if *expected { "uses it" } else { "does not use it" },
        if *got { "has a tensor for it" } else { "has none" }
    )]
    Option {
        /// Which operand.
        tensor: &'static str,
        /// Whether the plan uses it.
        expected: bool,
        /// Whether the call has a tensor for it.
        got: bool,
    },
    /// Keys and values of another form than planned.
    #[error("kv: planned {expected}, got {got}")]
    KvLayout {
        /// The planned form.
        expected: KvLayout,
        /// What was given.
        got: &'static str,
    },
    /// Keys or values that span more memory than kernels address when they look them up.
    #[error("{tensor}: expected rows within {expected} bytes, got {got}")]
    PoolSize {
        /// Which operand.
        tensor: &'static str,
        /// The most that kernels address.
        expected: u128,
        /// The bytes from the first to the last element.
        got: u128,
    },
    /// Something is wrong with an operand.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// A tensor could not be formed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Offsets do not describe a ragged batch.
    #[error(transparent)]
    SeqLens(#[from] SeqLensError),
    /// The device refused, or the launch failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl PrefillError {
    /// An option's operand is given exactly if the option is planned.
    pub(crate) fn unless_planned(
        tensor: &'static str,
        expected: bool,
        got: bool,
    ) -> Result<(), PrefillError> {
        if expected == got {
            return Ok(());
        }
        Err(PrefillError::Option {
            tensor,
            expected,
            got,
        })
    }
}
