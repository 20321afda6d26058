//! A file, its tensors and its metadata.

use std::fmt;
use std::io::Cursor;
use std::ops::Range;

use gguf_rs_lib::format::types::GGUFTensorType;
use gguf_rs_lib::reader::GGUFFileReader;
use half::{bf16, f16};

use super::GgufError;
use super::metadata::{MetadataValue, Value, brief};
use crate::blocks::{BlockFormat, BlockWeight};
use crate::dtype::DType;

/// A GGUF file, over bytes that the caller keeps.
#[derive(Debug)]
pub struct GgufFile<'a> {
    bytes: &'a [u8],
    reader: GGUFFileReader<Cursor<&'a [u8]>>,
    /// Where each tensor lies in `bytes`.
    ranges: Vec<Range<usize>>,
}

/// A tensor of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GgufTensor<'f> {
    /// Its name.
    pub name: &'f str,
    /// What its bytes mean.
    pub dtype: TensorType,
    /// Sizes, the innermost first, as the file has them. A linear layer's are `[k, n]`: inputs, outputs.
    pub dims: &'f [u64],
    /// Its elements.
    pub bytes: &'f [u8],
}

/// What a tensor's bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorType {
    /// Numbers: `f32`, `f16` or `bf16`.
    Float(DType),
    /// Blocks that [`BlockWeight`] holds.
    Blocks(BlockFormat),
    /// Something that nothing here can use.
    Other(OtherType),
}

/// A type of tensors that GGUF has and nothing here can use. Prints its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OtherType(GGUFTensorType);

impl fmt::Debug for OtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorType::Float(dtype) => dtype.fmt(f),
            TensorType::Blocks(format) => format.fmt(f),
            TensorType::Other(other) => write!(f, "{other:?}"),
        }
    }
}

impl From<GGUFTensorType> for TensorType {
    fn from(stored: GGUFTensorType) -> Self {
        match stored {
            GGUFTensorType::F32 => TensorType::Float(DType::F32),
            GGUFTensorType::F16 => TensorType::Float(DType::F16),
            GGUFTensorType::BF16 => TensorType::Float(DType::BF16),
            GGUFTensorType::Q4_0 => TensorType::Blocks(BlockFormat::Q4_0),
            GGUFTensorType::Q4_1 => TensorType::Blocks(BlockFormat::Q4_1),
            GGUFTensorType::Q5_0 => TensorType::Blocks(BlockFormat::Q5_0),
            GGUFTensorType::Q5_1 => TensorType::Blocks(BlockFormat::Q5_1),
            GGUFTensorType::Q8_0 => TensorType::Blocks(BlockFormat::Q8_0),
            GGUFTensorType::Q4_K => TensorType::Blocks(BlockFormat::Q4_K),
            GGUFTensorType::Q5_K => TensorType::Blocks(BlockFormat::Q5_K),
            GGUFTensorType::Q6_K => TensorType::Blocks(BlockFormat::Q6_K),
            other => TensorType::Other(OtherType(other)),
        }
    }
}

impl<'a> GgufFile<'a> {
    /// Reads what stands in front of the tensors, and checks that they lie within the file, apart
    /// from each other. Their bytes are not looked at.
    ///
    /// # Errors
    /// [`GgufError::Magic`], [`GgufError::Version`], [`GgufError::Truncated`]; [`GgufError::Corrupt`]
    /// for everything else that contradicts itself or the format, such as types that it does not
    /// have, names that come twice, or metadata beyond 256 MiB.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let reader = GGUFFileReader::new(Cursor::new(bytes))?;
        let first = reader.tensor_data_offset();
        let mut ranges = Vec::new();
        for tensor in reader.tensor_infos() {
            let size = tensor.checked_expected_data_size()?;
            let start = first.checked_add(tensor.data_offset());
            let end = start.and_then(|start| start.checked_add(size));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(GgufError::Truncated);
            };
            if end > bytes.len() as u64 {
                return Err(GgufError::Truncated);
            }
            ranges.push(start as usize..end as usize); // Both fit, as the length does.
        }
        Ok(GgufFile {
            bytes,
            reader,
            ranges,
        })
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = GgufTensor<'_>> {
        let infos = self.reader.tensor_infos().iter().zip(&self.ranges);
        infos.map(|(info, range)| GgufTensor {
            name: info.name(),
            dtype: info.tensor_type().into(),
            dims: info.shape().dims(),
            bytes: &self.bytes[range.clone()],
        })
    }

    /// The tensor of a name.
    ///
    /// # Errors
    /// [`GgufError::Missing`].
    pub fn tensor(&self, name: &str) -> Result<GgufTensor<'_>, GgufError> {
        let found = self.tensors().find(|tensor| tensor.name == name);
        found.ok_or_else(|| GgufError::Missing {
            what: "tensor",
            name: name.to_owned(),
        })
    }

    /// A matrix of blocks `[k, n]`, packed for [`blocks`](crate::blocks): `k` inputs, `n` outputs.
    ///
    /// # Errors
    /// [`GgufError::Missing`]; [`GgufError::Type`] for numbers, and for blocks that
    /// [`BlockFormat`] does not have, such as `IQ4_NL`; [`GgufError::Shape`]; [`GgufError::Pack`]
    /// for a scale that is NaN or infinite.
    pub fn blocks(&self, name: &str, k: usize, n: usize) -> Result<BlockWeight, GgufError> {
        let tensor = self.tensor(name)?;
        let TensorType::Blocks(format) = tensor.dtype else {
            return Err(GgufError::Type {
                tensor: name.to_owned(),
                expected: "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K",
                got: tensor.dtype,
            });
        };
        tensor.check_shape(&[k, n])?;
        BlockWeight::pack(format, k, n, tensor.bytes).map_err(|source| GgufError::Pack {
            tensor: name.to_owned(),
            source,
        })
    }

    /// A tensor of numbers, of the shape `dims` with the innermost first. Exact.
    ///
    /// # Errors
    /// [`GgufError::Missing`]; [`GgufError::Type`] for other types than `f32`, `f16` and `bf16`;
    /// [`GgufError::Shape`].
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, GgufError> {
        let tensor = self.tensor(name)?;
        let size = match tensor.dtype {
            TensorType::Float(dtype) => dtype.size(),
            got => {
                return Err(GgufError::Type {
                    tensor: name.to_owned(),
                    expected: "f32, f16 or bf16",
                    got,
                });
            }
        };
        tensor.check_shape(dims)?;
        let elements = tensor.bytes.chunks_exact(size).map(|bytes| match *bytes {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b] if tensor.dtype == TensorType::Float(DType::F16) => {
                f16::from_le_bytes([a, b]).to_f32()
            }
            _ => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        });
        Ok(elements.collect())
    }

    /// The keys of the metadata, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.reader.metadata().keys().map(String::as_str)
    }

    /// A value of the metadata.
    ///
    /// # Errors
    /// [`GgufError::Missing`]; [`GgufError::Value`] for one of another type, or out of its range.
    pub fn get<'f, T: MetadataValue<'f>>(&'f self, key: &str) -> Result<T, GgufError> {
        self.find(key)?.ok_or_else(|| GgufError::Missing {
            what: "key",
            name: key.to_owned(),
        })
    }

    /// A value of the metadata that a file need not have.
    ///
    /// # Errors
    /// [`GgufError::Value`] for one of another type, or out of its range.
    pub fn find<'f, T: MetadataValue<'f>>(&'f self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.reader.metadata().get(key) else {
            return Ok(None);
        };
        let read = T::read(Value(value)).ok_or_else(|| GgufError::Value {
            key: key.to_owned(),
            expected: T::WHAT,
            got: brief(value),
        });
        read.map(Some)
    }
}

impl GgufTensor<'_> {
    fn check_shape(&self, dims: &[usize]) -> Result<(), GgufError> {
        let expected: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
        if self.dims == expected {
            return Ok(());
        }
        Err(GgufError::Shape {
            tensor: self.name.to_owned(),
            expected,
            got: self.dims.to_vec(),
        })
    }
}
