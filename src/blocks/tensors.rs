//! Packed blocks on a device.

use super::{BlockFormat, BlockWeight};
use crate::device::{Buffer, DeviceError, Stream};
use crate::tensor::Tensor;

/// Packed blocks in device memory that anybody owns: what [`BlockPlan::run`](super::BlockPlan::run)
/// takes. Lengths are those of the weights' [`Extent`](super::layout::Extent); whatever the memory
/// holds, a kernel reads nothing else.
#[derive(Clone, Copy, Debug)]
pub struct BlockTensors<'a> {
    /// `[code_words]` of `u32`.
    pub codes: Tensor<'a, 1>,
    /// `[scale_words]` of `u32`.
    pub scales: Tensor<'a, 1>,
    /// What codes and scales mean.
    pub format: BlockFormat,
}

/// Packed blocks on a device.
#[derive(Debug)]
pub struct BlockBuffers {
    codes: Buffer<u32>,
    scales: Buffer<u32>,
    format: BlockFormat,
}

impl BlockWeight {
    /// Copies codes and scales to the device.
    ///
    /// # Errors
    /// As for [`Stream::alloc`].
    pub fn upload(&self, stream: &Stream) -> Result<BlockBuffers, DeviceError> {
        Ok(BlockBuffers {
            codes: stream.upload(self.codes())?,
            scales: stream.upload(self.scales())?,
            format: self.format(),
        })
    }
}

impl BlockBuffers {
    /// The tensors that a product takes.
    pub fn tensors(&self) -> BlockTensors<'_> {
        fn whole(buffer: &Buffer<u32>) -> Tensor<'_, 1> {
            let tensor = buffer.tensor([buffer.len()]);
            tensor.expect("a buffer holds as many elements as it has")
        }
        BlockTensors {
            codes: whole(&self.codes),
            scales: whole(&self.scales),
            format: self.format,
        }
    }
}
