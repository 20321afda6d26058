//! Everything that can be wrong with an operation on a cache.

use crate::device::DeviceError;
use crate::dtype::DType;
use crate::error::{OperandError, TensorError};

/// Why an operation on a cache was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// No kernel computes with this element type.
    #[error("no {kernel} kernel for elements of type {got}: there are {expected:?}")]
    UnsupportedDtype {
        /// Which family of kernels.
        kernel: &'static str,
        /// The types that there are kernels for.
        expected: Vec<&'static str>,
        /// The type asked for.
        got: DType,
    },
    /// No kernel has this head dimension.
    #[error("{what}: expected a multiple of 8 from 8 to {expected}, got {got}")]
    UnsupportedDim {
        /// Of what.
        what: &'static str,
        /// The largest.
        expected: usize,
        /// The one asked for.
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
    /// Less of something than there has to be.
    #[error("{what}: expected at least {expected}, got {got}")]
    TooFew {
        /// Of what.
        what: &'static str,
        /// The least.
        expected: usize,
        /// What was asked for.
        got: usize,
    },
    /// Elements are rotated in pairs within a head.
    #[error("rotary dim: expected an even number from 2 to {expected}, got {got}")]
    RotaryDim {
        /// The head dimension.
        expected: usize,
        /// The one asked for.
        got: usize,
    },
    /// The norm divides by the root of a mean and this.
    #[error("eps of the norm: expected a finite number, not negative, got {got}")]
    Eps {
        /// The one asked for.
        got: f32,
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
    /// A scale for the whole tensor or one for each head, of a cache in 8 bits.
    #[error("{tensor}: expected 1 scale or {expected}, one for each head, got {got}")]
    Scales {
        /// Which operand.
        tensor: &'static str,
        /// The number of heads.
        expected: usize,
        /// The scales given.
        got: usize,
    },
    /// The elements of a cache have another type than its format.
    #[error("{tensor}: expected elements of type {expected:?}, got {got}")]
    CacheType {
        /// Which operand.
        tensor: &'static str,
        /// The types that hold this format.
        expected: Vec<DType>,
        /// The type it has.
        got: DType,
    },
    /// Keys split by x have 16 bytes in a group.
    #[error("k: expected heads of whole groups of {expected} elements, got {got}")]
    Groups {
        /// Elements of 16 bytes.
        expected: usize,
        /// The head dimension.
        got: usize,
    },
    /// The caches of a copy do not lie alike.
    #[error("pages: expected strides of {expected:?} bytes as the first caches have, got {got:?}")]
    PageStrides {
        /// Bytes from page to page of the first source and target.
        expected: [i64; 2],
        /// Those of another one.
        got: [i64; 2],
    },
    /// A page that the cache does not have.
    #[error("page: expected less than {expected}, the pages of the cache, got {got}")]
    Page {
        /// The pages of the cache.
        expected: usize,
        /// The page asked for.
        got: usize,
    },
    /// Host memory of another length than the pages that are copied.
    #[error("host memory: expected {expected} elements, as the pages have, got {got}")]
    HostLen {
        /// Elements of the pages.
        expected: usize,
        /// Elements of the slice.
        got: usize,
    },
    /// Something is wrong with an operand.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// Another number of sequences than the offsets say.
    #[error("{tensor}: expected {expected} sequences as the offsets say, got {got}")]
    Batch {
        /// Which operand.
        tensor: &'static str,
        /// The sequences that the offsets describe.
        expected: usize,
        /// The number given.
        got: usize,
    },
    /// A tensor could not be formed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device refused, or the launch failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl KvError {
    /// An option's operand is given exactly if the option is planned.
    pub(crate) fn unless_planned(
        tensor: &'static str,
        expected: bool,
        got: bool,
    ) -> Result<(), KvError> {
        if expected == got {
            return Ok(());
        }
        Err(KvError::Option {
            tensor,
            expected,
            got,
        })
    }

    /// A head dimension that a kernel has lanes for.
    pub(crate) fn unless_dim(
        what: &'static str,
        got: usize,
        expected: usize,
    ) -> Result<(), KvError> {
        if got > 0 && got <= expected && got.is_multiple_of(8) {
            return Ok(());
        }
        Err(KvError::UnsupportedDim {
            what,
            expected,
            got,
        })
    }

    /// From `least` to `most` of something.
    pub(crate) fn unless_within(
        what: &'static str,
        got: usize,
        [least, most]: [usize; 2],
    ) -> Result<(), KvError> {
        if got < least {
            return Err(KvError::TooFew {
                what,
                expected: least,
                got,
            });
        }
        if got > most {
            return Err(KvError::Limit {
                what,
                expected: most,
                got,
            });
        }
        Ok(())
    }
}
