//! Packed weights on a device.

use half::{bf16, f16};

use super::layout::Extent;
use super::{Codes, Int4Weight};
use crate::device::{Buffer, DeviceError, Stream};
use crate::dtype::{DType, Element};
use crate::tensor::Tensor;

/// Packed weights in device memory that anybody owns: what [`Int4Plan::run`](super::Int4Plan::run)
/// takes. Lengths are those of the weights' [`Extent`]; whatever the memory holds, a kernel reads
/// nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Int4Tensors<'a> {
    /// `[code_words]` of `u32`.
    pub codes: Tensor<'a, 1>,
    /// `[scales]`, of the type of `x`.
    pub scales: Tensor<'a, 1>,
    /// `[zero_words]` of `u32`, exactly if codes have zero points.
    pub zeros: Option<Tensor<'a, 1>>,
    /// Whether rows are in another order than the model's: see [`Int4Problem::ordered`](super::Int4Problem::ordered).
    pub ordered: bool,
}

/// Packed weights on a device.
#[derive(Debug)]
pub struct Int4Buffers {
    extent: Extent,
    meaning: Codes,
    codes: Buffer<u32>,
    scales: Scales,
    zeros: Buffer<u32>,
    ordered: bool,
}

#[derive(Debug)]
enum Scales {
    F16(Buffer<f16>),
    Bf16(Buffer<bf16>),
}

impl Int4Weight {
    /// Copies codes, scales and zero points to the device. The order of rows, where there is one,
    /// is only noted: see [`Int4Problem::ordered`](super::Int4Problem::ordered).
    ///
    /// # Errors
    /// As for [`Stream::alloc`].
    pub fn upload(&self, stream: &Stream) -> Result<Int4Buffers, DeviceError> {
        fn scales<T>(bits: &[u16], of: fn(u16) -> T) -> Vec<T> {
            bits.iter().map(|&bits| of(bits)).collect()
        }
        let bits = self.scale_bits();
        Ok(Int4Buffers {
            extent: self.extent(),
            meaning: self.meaning(),
            codes: stream.upload(self.codes())?,
            scales: match self.scale_dtype() {
                DType::F16 => Scales::F16(stream.upload(&scales(bits, f16::from_bits))?),
                _ => Scales::Bf16(stream.upload(&scales(bits, bf16::from_bits))?),
            },
            zeros: stream.upload(self.zeros())?,
            ordered: self.order().is_some(),
        })
    }
}

impl Int4Buffers {
    /// Sizes, and where things lie.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// What codes stand for.
    pub fn meaning(&self) -> Codes {
        self.meaning
    }

    /// The tensors that a product takes.
    pub fn tensors(&self) -> Int4Tensors<'_> {
        Int4Tensors {
            codes: whole(&self.codes),
            scales: match &self.scales {
                Scales::F16(scales) => whole(scales),
                Scales::Bf16(scales) => whole(scales),
            },
            zeros: match self.meaning {
                Codes::Symmetric => None,
                Codes::ZeroPoints => Some(whole(&self.zeros)),
            },
            ordered: self.ordered,
        }
    }
}

fn whole<T: Element>(buffer: &Buffer<T>) -> Tensor<'_, 1> {
    let tensor = buffer.tensor([buffer.len()]);
    tensor.expect("a buffer holds as many elements as it has")
}
