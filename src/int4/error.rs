//! Everything that can be wrong with 4-bit weights on the host.

use std::ops::Range;

use crate::dtype::DType;

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
