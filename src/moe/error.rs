//! Everything that can be wrong with a mixture of experts.

use std::ops::{Range, RangeInclusive};

use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::OperandError;

/// Why a stage of a mixture of experts, or the whole layer, was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoeError {
    /// No kernel reads elements of this type there.
    #[error("{what}: expected one of {expected:?}, got {got}")]
    UnsupportedDtype {
        /// Of what.
        what: &'static str,
        /// The types that there are kernels for.
        expected: &'static [DType],
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
    /// Rows have whole chunks of 16 bytes.
    #[error("{what} = {got} is not a multiple of {expected}")]
    Multiple {
        /// Of what.
        what: &'static str,
        /// The multiple needed.
        expected: usize,
        /// What was asked for.
        got: usize,
    },
    /// Groups have equally many experts.
    #[error("{got} groups do not divide {expected} experts")]
    Groups {
        /// The experts.
        expected: usize,
        /// The groups asked for.
        got: usize,
    },
    /// The best groups have fewer experts than a token needs.
    #[error("groups to choose from have {got} experts, a token goes to {expected}")]
    GroupChoice {
        /// `top_k`.
        expected: usize,
        /// Experts in the groups that are chosen from.
        got: usize,
    },
    /// A bias for a choice that has no scores.
    #[error("a choice by logits, before the softmax, takes no bias")]
    ChoiceBias,
    /// The scale of the weights is not a finite number.
    #[error("scale: expected a finite number, got {got}")]
    Scale {
        /// The scale asked for.
        got: f32,
    },
    /// The experts of this device are not among all.
    #[error("experts on this device: expected a range within 0..{expected}, got {got:?}")]
    Local {
        /// How many there are.
        expected: usize,
        /// The range asked for.
        got: Range<usize>,
    },
    /// An activation that multiplies gate and up, of a product that has no up.
    #[error("the clamped SwiGLU takes a gated product")]
    NotGated,
    /// No kernel has this tile.
    #[error("no grouped GEMM with {got} rows in a tile: there are {expected:?}")]
    UnsupportedTile {
        /// The rows of the tiles that there are kernels for.
        expected: Vec<usize>,
        /// Those asked for.
        got: usize,
    },
    /// Splits of K are added up by the combination, which takes plain products in `f32`.
    #[error("splits of K: a product with gate, activation or 16-bit result has 1, got {got}")]
    Splits {
        /// The number asked for.
        got: usize,
    },
    /// More tokens than planned.
    #[error("{tensor}: expected at most {expected} tokens as planned, got {got}")]
    Tokens {
        /// Which operand.
        tensor: &'static str,
        /// The planned maximum.
        expected: usize,
        /// The tokens given.
        got: usize,
    },
    /// An operand was planned and not given, or the other way round.
    #[error(
        "{tensor}: {} by the plan, {} in the call",
        if *expected { "needed" } else { "not used" },
        if *got { "given" } else { "not given" }
    )]
    Optional {
        /// Which operand.
        tensor: &'static str,
        /// Whether the plan needs it.
        expected: bool,
        /// Whether the call has it.
        got: bool,
    },
    /// Two operands that the kernel walks together do not lie alike.
    #[error("{tensor}: expected strides {expected:?} as {other} has, got {got:?}")]
    Strides {
        /// Which operand.
        tensor: &'static str,
        /// The one it must follow.
        other: &'static str,
        /// The other's strides.
        expected: Vec<i64>,
        /// The strides it has.
        got: Vec<i64>,
    },
    /// The workspace is too small.
    #[error("workspace: expected at least {expected} elements, got {got}")]
    Workspace {
        /// What the plan needs.
        expected: usize,
        /// What was given.
        got: usize,
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
) -> Result<(), MoeError> {
    if expected.contains(&got) {
        return Ok(());
    }
    Err(MoeError::Count {
        what,
        expected,
        got,
    })
}
