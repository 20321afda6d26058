//! Everything that can be wrong with an elementwise operation.

use std::ops::RangeInclusive;

use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::OperandError;

/// Why an elementwise operation was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElementwiseError {
    /// No kernel computes with elements of this type there.
    #[error("{what}: expected one of {expected:?}, got {got}")]
    UnsupportedDtype {
        /// Of what.
        what: &'static str,
        /// The types that there are kernels for.
        expected: Vec<DType>,
        /// The type asked for.
        got: DType,
    },
    /// Too few or too many of something.
    #[error("{what}: expected {} to {}, got {got}", .expected.start(), .expected.end())]
    Count {
        /// Of what.
        what: &'static str,
        /// What would do.
        expected: RangeInclusive<usize>,
        /// What was asked for.
        got: usize,
    },
    /// A chunk of 16 bytes has one scale.
    #[error("elements of a scale: expected a multiple of {expected}, got {got}")]
    Group {
        /// Elements of a chunk.
        expected: usize,
        /// The group asked for.
        got: usize,
    },
    /// The norm divides by the root of a mean and this.
    #[error("eps of the norm: expected a finite number, not negative, got {got}")]
    Eps {
        /// The one asked for.
        got: f32,
    },
    /// The factor is not a finite number.
    #[error("factor: expected a finite number, got {got}")]
    Factor {
        /// The one asked for.
        got: f32,
    },
    /// An activation that multiplies gate and up, of an operation that has no up.
    #[error("the clamped SwiGLU takes a gate")]
    NotGated,
    /// An operand was planned and not given, or the other way round.
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
    /// Something is wrong with an operand.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// The device refused, or the launch failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// `got` is within `expected`.
pub(super) fn count(
    what: &'static str,
    got: usize,
    expected: RangeInclusive<usize>,
) -> Result<(), ElementwiseError> {
    if expected.contains(&got) {
        return Ok(());
    }
    Err(ElementwiseError::Count {
        what,
        expected,
        got,
    })
}

/// A number to multiply by.
pub(super) fn finite(got: f32) -> Result<(), ElementwiseError> {
    if got.is_finite() {
        return Ok(());
    }
    Err(ElementwiseError::Factor { got })
}

/// One of the types that there are kernels for.
pub(super) fn one_of(
    what: &'static str,
    got: DType,
    expected: &[DType],
) -> Result<(), ElementwiseError> {
    if expected.contains(&got) {
        return Ok(());
    }
    Err(ElementwiseError::UnsupportedDtype {
        what,
        expected: expected.to_vec(),
        got,
    })
}
