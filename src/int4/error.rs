//! Everything that can be wrong with 4-bit weights, and with products of them.

use std::ops::Range;

use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::{OperandError, TensorError};
use crate::gemm::GemmError;

/// Why weights could not be packed, loaded, quantized or cut.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A group size that the format does not have.
    #[error("groups of {got} rows: expected 16, 32, a multiple of 64, or the whole column")]
    Group {
        /// The size asked for.
        got: usize,
    },
    /// A source of another length than its shape calls for.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which of the sources.
        what: &'static str,
        /// What the shape calls for.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// A shape that the source's own format cannot have.
    #[error("{what} = {got} is not a multiple of {expected}")]
    Multiple {
        /// Which size.
        what: &'static str,
        /// What it must be a multiple of.
        expected: usize,
        /// The size given.
        got: usize,
    },
    /// More of something than the kernels can address.
    #[error("{what}: expected at most {expected}, got {got}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The most there can be.
        expected: usize,
        /// What was asked for.
        got: usize,
    },
    /// A scale that is NaN or infinite.
    #[error("the scale of group {group}, column {column} is {got}, expected a finite number")]
    Scale {
        /// Which group of rows.
        group: usize,
        /// Which column.
        column: usize,
        /// The scale.
        got: f32,
    },
    /// An element to be quantized is NaN or infinite.
    #[error("the element in row {row}, column {column} is {got}, expected a finite number")]
    Element {
        /// Its row, along K.
        row: usize,
        /// Its column, along N.
        column: usize,
        /// The element.
        got: f32,
    },
    /// A finite scale that the other type can only hold as infinity.
    #[error("the scale {got} of group {group}, column {column} is beyond the range of {expected}")]
    ScaleRange {
        /// The type asked for.
        expected: DType,
        /// Which group of rows.
        group: usize,
        /// Which column.
        column: usize,
        /// The scale.
        got: f32,
    },
    /// Scales of a type other than `f16` and `bf16`.
    #[error("scales of type {got}: expected f16 or bf16")]
    ScaleType {
        /// The type asked for.
        got: DType,
    },
    /// A row's group does not exist.
    #[error("g_idx of row {row}: expected less than {expected} groups, got {got}")]
    GroupIndex {
        /// Which row.
        row: usize,
        /// How many groups there are.
        expected: usize,
        /// The group given.
        got: i32,
    },
    /// A group has another number of rows than its size says.
    #[error("g_idx gives group {group} {got} rows, expected {expected}")]
    GroupRows {
        /// Which group.
        group: usize,
        /// The rows that it should have.
        expected: usize,
        /// The rows that it has.
        got: usize,
    },
    /// A range that leaves the weights.
    #[error("{what} {got:?} are not within 0..{expected}")]
    Range {
        /// Rows or columns.
        what: &'static str,
        /// How many there are.
        expected: usize,
        /// The range asked for.
        got: Range<usize>,
    },
    /// A cut along K through the middle of a group.
    #[error("rows {got:?} cut a group: both ends must be multiples of {expected}, or the last row")]
    CutGroup {
        /// Rows of a group.
        expected: usize,
        /// The range asked for.
        got: Range<usize>,
    },
    /// A cut along K of weights whose rows are in the order of activations: a group's rows come
    /// from all over K.
    #[error("rows {got:?}: weights with permuted rows cannot be cut along K")]
    CutPermuted {
        /// The range asked for.
        got: Range<usize>,
    },
}

/// Why a product with 4-bit weights was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Int4Error {
    /// Groups that no weights have.
    #[error("groups of {got} rows: expected 16, 32, or a multiple of 64")]
    UnsupportedGroup {
        /// The size asked for.
        got: usize,
    },
    /// Zero points were planned and not given, or the other way round.
    #[error(
        "{tensor}: the plan {}, the call {}",
        if *expected { "has zero points" } else { "has no zero points" },
        if *got { "has some" } else { "has none" }
    )]
    Zeros {
        /// Of which weights.
        tensor: &'static str,
        /// Whether codes have zero points.
        expected: bool,
        /// Whether some were given.
        got: bool,
    },
    /// Rows of the weights are in another order than columns of `x`, so that sums would be of the
    /// wrong pairs.
    #[error(
        "{tensor}: the plan says that x {} the weights' order, and the weights {}; see Int4Weight::order",
        if *expected { "is in" } else { "is not in" },
        if *got { "have one" } else { "have none" }
    )]
    Order {
        /// Of which weights.
        tensor: &'static str,
        /// Whether the plan is for columns in the weights' order.
        expected: bool,
        /// Whether the weights have one.
        got: bool,
    },
    /// What any matrix product can be refused for.
    #[error(transparent)]
    Product(GemmError),
    /// Something is wrong with an operand.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// A tensor could not be formed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device refused, or the launch failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl From<GemmError> for Int4Error {
    fn from(error: GemmError) -> Self {
        match error {
            GemmError::Operand(error) => Int4Error::Operand(error),
            GemmError::Device(error) => Int4Error::Device(error),
            error => Int4Error::Product(error),
        }
    }
}
