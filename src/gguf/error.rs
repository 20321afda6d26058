//! Everything that can be wrong with a GGUF file.

use std::io::ErrorKind;

use gguf_rs_lib::GGUFError;

use super::TensorType;
use crate::blocks::PackError;

/// Why a GGUF file, or something in it, was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The bytes do not begin as a GGUF file does.
    #[error("not a GGUF file: it begins with {got:#010x}, expected {expected:#010x}")]
    Magic {
        /// What a file begins with, as a little-endian number.
        expected: u32,
        /// What these bytes begin with.
        got: u32,
    },
    /// A version of the format that cannot be read.
    #[error("version {got} of GGUF, expected 3")]
    Version {
        /// The file's version. A file for big-endian machines has a huge one.
        got: u32,
    },
    /// The file ends before what it announces.
    #[error("the file ends too early")]
    Truncated,
    /// Something in the file contradicts itself, the format or its limits.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What, in the words of the reader.
        what: String,
    },
    /// No tensor, or no key of the metadata, of this name.
    #[error("the file has no {what} {name:?}")]
    Missing {
        /// `tensor` or `key`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A value of the metadata is of another type, or out of the range of the one asked for.
    #[error("{key}: expected {expected}, got {got}")]
    Value {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file has, shortened.
        got: String,
    },
    /// A tensor of a type that cannot be used this way.
    #[error("{tensor}: expected {expected}, got {got}")]
    Type {
        /// The tensor.
        tensor: String,
        /// The types that can be used.
        expected: &'static str,
        /// The tensor's type.
        got: TensorType,
    },
    /// A tensor of another shape than asked for.
    #[error("{tensor}: expected {expected:?}, got {got:?}, the innermost first")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The sizes asked for.
        expected: Vec<u64>,
        /// The tensor's sizes.
        got: Vec<u64>,
    },
    /// A tensor whose blocks could not be packed: a scale that is NaN or infinite.
    #[error("{tensor}: {source}")]
    Pack {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        source: PackError,
    },
}

impl From<GGUFError> for GgufError {
    fn from(error: GGUFError) -> Self {
        match error {
            GGUFError::InvalidMagic { expected, found } => GgufError::Magic {
                expected,
                got: found,
            },
            GGUFError::UnsupportedVersion(got) => GgufError::Version { got },
            GGUFError::UnexpectedEof => GgufError::Truncated,
            GGUFError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
                GgufError::Truncated
            }
            error => GgufError::Corrupt {
                what: error.to_string(),
            },
        }
    }
}
