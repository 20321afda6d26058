//! Everything that can be wrong with a matrix product.

use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::OperandError;

/// Why a matrix product was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GemmError {
    /// No kernel multiplies this element type.
    #[error("no GEMM kernel for elements of type {got}: there are {expected:?}")]
    UnsupportedDtype {
        /// The types that there are kernels for.
        expected: Vec<&'static str>,
        /// The type asked for.
        got: DType,
    },
    /// Results are of the operands' type or `f32`.
    #[error("y: expected {expected} or f32, got {got}")]
    UnsupportedOutput {
        /// The operands' type.
        expected: DType,
        /// The type asked for.
        got: DType,
    },
    /// `[k, n]` weights at multiples of 16 bytes have whole chunks of 8 columns.
    #[error("n = {got} is not a multiple of {expected}, as aligned weights [k, n] need")]
    UnalignedColumns {
        /// The multiple needed.
        expected: usize,
        /// The columns asked for.
        got: usize,
    },
    /// An activation that multiplies gate and up, of a product that has no up.
    #[error("the clamped SwiGLU takes a gated product")]
    NotGated,
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
    /// A split of K into no parts, or more than one in a batch-invariant problem.
    #[error("splits of K: expected {expected}, got {got}")]
    Splits {
        /// What would do.
        expected: &'static str,
        /// The number asked for.
        got: usize,
    },
    /// No kernel has this tile.
    #[error("no GEMM kernel with tile {got:?} for these operands: there are {expected:?}")]
    UnsupportedTile {
        /// The tiles that there are kernels for.
        expected: Vec<[usize; 2]>,
        /// The one asked for.
        got: [usize; 2],
    },
    /// More rows than planned.
    #[error("x: expected at most {expected} rows as planned, got {got}")]
    Rows {
        /// The planned maximum.
        expected: usize,
        /// The rows given.
        got: usize,
    },
    /// The up weights were planned and not given, or the other way round.
    #[error(
        "w_up: the plan {}, the call {}",
        if *expected { "is gated" } else { "is not gated" },
        if *got { "has up weights" } else { "has none" }
    )]
    Gate {
        /// Whether the plan is gated.
        expected: bool,
        /// Whether the call has up weights.
        got: bool,
    },
    /// A bias of the up product without an up product.
    #[error("bias_up: given to a product without gate")]
    BiasUp,
    /// The up weights do not lie as the gate's do.
    #[error("w_up: expected strides {expected:?} as w has, got {got:?}")]
    UpStrides {
        /// The strides of `w`.
        expected: [i64; 2],
        /// The strides of `w_up`.
        got: [i64; 2],
    },
    /// A residual in place of a result of another type.
    #[error("residual: in place needs y of type {expected}, got {got}")]
    ResidualInPlace {
        /// The operands' type.
        expected: DType,
        /// The type of `y`.
        got: DType,
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
