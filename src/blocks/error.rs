//! Everything that can be wrong with a product of blocks.

use super::BlockFormat;
use crate::device::DeviceError;
use crate::error::{OperandError, TensorError};
use crate::gemm::GemmError;
use crate::int4::PackError;

/// Why a product with weights in blocks was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A shape that the format cannot have.
    #[error(transparent)]
    Shape(#[from] PackError),
    /// Weights of another format than planned.
    #[error("{tensor}: the plan is for {expected}, the weights are {got}")]
    Format {
        /// Which weights.
        tensor: &'static str,
        /// The planned format.
        expected: BlockFormat,
        /// The weights' format.
        got: BlockFormat,
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

impl From<GemmError> for BlockError {
    fn from(error: GemmError) -> Self {
        match error {
            GemmError::Operand(error) => BlockError::Operand(error),
            GemmError::Device(error) => BlockError::Device(error),
            error => BlockError::Product(error),
        }
    }
}
