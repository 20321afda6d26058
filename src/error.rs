//! What the errors of all operations have in common.

use std::fmt;

use crate::dtype::DType;
use crate::tensor::{DeviceId, StreamId};

/// The sizes of an operand, for messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Dims(Box<[usize]>);

impl Dims {
    /// One size per axis, outermost first.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl<const R: usize> From<[usize; R]> for Dims {
    fn from(sizes: [usize; R]) -> Self {
        Dims(sizes.into())
    }
}

impl<const R: usize> PartialEq<[usize; R]> for Dims {
    fn eq(&self, other: &[usize; R]) -> bool {
        *self.0 == *other
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a tensor cannot be laid over a region of device memory, or cut out of another tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Some element would lie outside the region.
    #[error("elements {first} to {last} are outside a region of {len} elements")]
    OutOfBounds {
        /// The lowest element touched, relative to the start of the region.
        first: i128,
        /// The highest element touched.
        last: i128,
        /// How many elements the region has.
        len: u64,
    },
    /// A size, a stride or an address does not fit 64 bits.
    #[error("shape {shape} with strides {strides:?} does not fit 64-bit addresses")]
    Overflow {
        /// The shape asked for.
        shape: Dims,
        /// The strides asked for, in elements; empty for a contiguous tensor.
        strides: Vec<i64>,
    },
    /// Elements of this type must lie at multiples of their size.
    #[error("address {address:#x} is not a multiple of {needed}, the size of an element")]
    Misaligned {
        /// The address.
        address: u64,
        /// The size of an element.
        needed: usize,
    },
    /// Two indices of a tensor that is to be written meet in one element.
    #[error("shape {shape} with strides {strides:?} reaches an element by two indices")]
    SelfOverlap {
        /// The shape asked for.
        shape: Dims,
        /// The strides asked for, in elements.
        strides: Vec<i64>,
    },
    /// The range does not lie within the axis.
    #[error("range {start}..{end} is not within axis {axis} of size {size}")]
    Range {
        /// Which axis.
        axis: usize,
        /// Its size; 0 for an axis that the tensor does not have.
        size: usize,
        /// First index asked for.
        start: usize,
        /// One past the last index asked for.
        end: usize,
    },
    /// The order of axes is not a permutation.
    #[error("{order:?} does not name each of {rank} axes once")]
    Permutation {
        /// The order asked for.
        order: Vec<usize>,
        /// The number of axes.
        rank: usize,
    },
}

/// What is wrong with one operand of an operation; every operation's error type contains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperandError {
    /// The elements have another type than planned.
    #[error("{tensor}: expected elements of type {expected}, got {got}")]
    Dtype {
        /// Which operand.
        tensor: &'static str,
        /// The planned type.
        expected: DType,
        /// The type it has.
        got: DType,
    },
    /// The shape disagrees with the plan or with another operand.
    #[error("{tensor}: expected shape {expected}, got {got}")]
    Shape {
        /// Which operand.
        tensor: &'static str,
        /// The shape that the plan and the other operands call for.
        expected: Dims,
        /// The shape it has.
        got: Dims,
    },
    /// The elements of the innermost axis do not follow one another.
    #[error("{tensor}: expected stride {expected} along axis {axis}, got {got}")]
    Stride {
        /// Which operand.
        tensor: &'static str,
        /// Which axis.
        axis: usize,
        /// The stride that the kernel is written for, in elements.
        expected: i64,
        /// The stride it has.
        got: i64,
    },
    /// The operand runs backwards along an axis.
    #[error("{tensor}: expected a stride of at least {expected} along axis {axis}, got {got}")]
    NegativeStride {
        /// Which operand.
        tensor: &'static str,
        /// Which axis.
        axis: usize,
        /// The least stride allowed: zero.
        expected: i64,
        /// The stride it has.
        got: i64,
    },
    /// Rows do not start at multiples of 16 bytes.
    #[error(
        "{tensor}: stride {got} along axis {axis} is not a multiple of 16 bytes; \
         pad it to {expected} elements"
    )]
    RowAlignment {
        /// Which operand.
        tensor: &'static str,
        /// Which axis.
        axis: usize,
        /// The next larger stride that would do, in elements.
        expected: i64,
        /// The stride it has.
        got: i64,
    },
    /// The first element is not at a multiple of 16 bytes.
    #[error("{tensor}: address {got:#x} is not a multiple of {expected} bytes")]
    BaseAlignment {
        /// Which operand.
        tensor: &'static str,
        /// The alignment needed, in bytes.
        expected: u64,
        /// The address of the first element.
        got: u64,
    },
    /// An operand that is written may share memory with another one.
    #[error("{tensor} ({got:#x?}) is written and may share memory with {other} ({expected:#x?})")]
    Overlap {
        /// The operand that is written.
        tensor: &'static str,
        /// The other.
        other: &'static str,
        /// Addresses of the other, which are to be kept clear of.
        expected: std::ops::Range<u128>,
        /// Addresses of the operand that is written.
        got: std::ops::Range<u128>,
    },
    /// The operand is on another device than the plan.
    #[error("{tensor}: expected on {expected}, got on {got}")]
    Device {
        /// Which operand.
        tensor: &'static str,
        /// The plan's device.
        expected: DeviceId,
        /// The operand's.
        got: DeviceId,
    },
    /// The operand is freed in the order of another stream than the one it is used on.
    #[error("{tensor}: expected memory of {expected}, got memory of {got}")]
    Stream {
        /// Which operand.
        tensor: &'static str,
        /// The stream that `run` was given.
        expected: StreamId,
        /// The stream that the operand's memory belongs to.
        got: StreamId,
    },
    /// An axis has more indices than the kernel can count.
    #[error("{tensor}: expected at most {expected} along axis {axis}, got {got}")]
    TooLong {
        /// Which operand.
        tensor: &'static str,
        /// Which axis.
        axis: usize,
        /// The most that the kernel can count.
        expected: usize,
        /// The size it has.
        got: usize,
    },
}
