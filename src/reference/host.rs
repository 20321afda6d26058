//! Operands in host memory.

use crate::error::TensorError;
use crate::tensor::{Extent, Layout, Overflow};

/// Host memory with a shape and strides, as [`Tensor`](crate::Tensor) is for device memory.
#[derive(Clone, Copy, Debug)]
pub struct HostTensor<'a, T, const R: usize> {
    data: &'a [T],
    offset: usize,
    layout: Layout<R>,
}

impl<'a, T: Copy, const R: usize> HostTensor<'a, T, R> {
    /// A row-major tensor over the first elements of `data`.
    ///
    /// # Errors
    /// [`TensorError::OutOfBounds`] or [`TensorError::Overflow`] when `data` is too short.
    pub fn new(data: &'a [T], shape: [usize; R]) -> Result<Self, TensorError> {
        let layout = Layout::contiguous(shape).ok_or(TensorError::Overflow {
            shape: shape.into(),
            strides: vec![],
        })?;
        Self::strided(data, 0, shape, layout.strides)
    }

    /// A tensor whose element `[0, .., 0]` is `data[offset]`, with `strides` in elements.
    ///
    /// # Errors
    /// As for [`HostTensor::new`].
    pub fn strided(
        data: &'a [T],
        offset: usize,
        shape: [usize; R],
        strides: [i64; R],
    ) -> Result<Self, TensorError> {
        let layout = Layout { shape, strides };
        let extent = layout.extent().map_err(|Overflow| TensorError::Overflow {
            shape: shape.into(),
            strides: strides.into(),
        })?;
        if let Some(Extent { low, high }) = extent {
            let first = offset as i128 + i128::from(low);
            let last = offset as i128 + i128::from(high);
            if first < 0 || last >= data.len() as i128 {
                return Err(TensorError::OutOfBounds {
                    first,
                    last,
                    len: data.len() as u64,
                });
            }
        }
        Ok(HostTensor {
            data,
            offset,
            layout,
        })
    }

    /// The number of indices of each axis.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    /// The element at `index`, if there is one.
    pub fn get(&self, index: [usize; R]) -> Option<T> {
        if index
            .iter()
            .zip(&self.layout.shape)
            .any(|(i, len)| i >= len)
        {
            return None;
        }
        // In range of `data` by the check on construction.
        let steps = index.iter().zip(&self.layout.strides);
        let at = steps.fold(self.offset as i64, |at, (&i, &stride)| {
            at + i as i64 * stride
        });
        self.data.get(at as usize).copied()
    }
}
