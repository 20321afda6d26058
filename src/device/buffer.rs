//! Device memory of our own.

use std::fmt;
use std::marker::PhantomData;

use super::backend::Allocation;
use super::{DeviceError, Stream};
use crate::dtype::Element;
use crate::error::TensorError;
use crate::tensor::{Place, Region, RegionMut, Tensor, TensorMut};

/// `len` elements of device memory, freed in the order of the stream that made them.
///
/// A buffer works on every backend. Memory that another crate owns needs none: see [`Region`].
///
/// `Send` and `Sync`: all access from the host goes through its stream.
pub struct Buffer<T: Element> {
    allocation: Box<dyn Allocation>,
    stream: Stream,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(super) fn new(stream: &Stream, len: usize) -> Result<Self, DeviceError> {
        let too_large = DeviceError::TooLarge {
            len,
            size: size_of::<T>(),
        };
        // A driver refuses to allocate nothing; an empty buffer still has an address of its own.
        let Some(bytes) = len
            .checked_mul(size_of::<T>())
            .filter(|&b| b <= isize::MAX as usize)
        else {
            return Err(too_large);
        };
        Ok(Buffer {
            allocation: stream.queue().alloc(bytes.max(16))?,
            stream: stream.clone(),
            len,
            element: PhantomData,
        })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stream that the memory belongs to.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies the whole buffer from `source`, which may be reused on return.
    ///
    /// # Errors
    /// [`DeviceError::Length`] unless the lengths agree, or what the driver reports.
    pub fn upload(&mut self, source: &[T]) -> Result<(), DeviceError> {
        self.same_length(source.len())?;
        self.allocation.upload(bytemuck::cast_slice(source))
    }

    /// Copies the whole buffer to `target` once everything enqueued on its stream is done.
    ///
    /// # Errors
    /// [`DeviceError::Length`] unless the lengths agree, or what the driver reports, which may be
    /// the failure of an earlier launch.
    pub fn download_into(&self, target: &mut [T]) -> Result<(), DeviceError> {
        self.same_length(target.len())?;
        self.allocation.download(bytemuck::cast_slice_mut(target))
    }

    /// The contents, as [`Buffer::download_into`] gives them.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn download(&self) -> Result<Vec<T>, DeviceError> {
        let mut target = vec![T::zeroed(); self.len];
        self.download_into(&mut target)?;
        Ok(target)
    }

    /// Enqueues zeroing of the whole buffer.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn zero(&mut self) -> Result<(), DeviceError> {
        self.allocation.zero(self.len * size_of::<T>())
    }

    /// The memory, to be read.
    pub fn region(&self) -> Region<'_> {
        Region::vouched(
            self.allocation.address(),
            self.len as u64,
            T::DTYPE,
            self.place(),
        )
    }

    /// The memory, to be written.
    pub fn region_mut(&mut self) -> RegionMut<'_> {
        RegionMut::vouched(
            self.allocation.address(),
            self.len as u64,
            T::DTYPE,
            self.place(),
        )
    }

    /// A row-major tensor over the first elements.
    ///
    /// # Errors
    /// As for [`Region::tensor`].
    pub fn tensor<const R: usize>(&self, shape: [usize; R]) -> Result<Tensor<'_, R>, TensorError> {
        self.region().tensor(shape)
    }

    /// A row-major tensor over the first elements, to be written.
    ///
    /// # Errors
    /// As for [`RegionMut::tensor`].
    pub fn tensor_mut<const R: usize>(
        &mut self,
        shape: [usize; R],
    ) -> Result<TensorMut<'_, R>, TensorError> {
        self.region_mut().tensor(shape)
    }

    fn place(&self) -> Place {
        Place {
            device: self.stream.device().id(),
            stream: self.stream.id(),
        }
    }

    fn same_length(&self, got: usize) -> Result<(), DeviceError> {
        if got == self.len {
            Ok(())
        } else {
            Err(DeviceError::Length {
                expected: self.len,
                got,
            })
        }
    }
}

/// All elements as one axis.
impl<'a, T: Element> From<&'a Buffer<T>> for Tensor<'a, 1> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.region().whole() // allocations are aligned for every type
    }
}

/// All elements as one axis, to be written.
impl<'a, T: Element> From<&'a mut Buffer<T>> for TensorMut<'a, 1> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.region_mut().whole() // likewise
    }
}

impl<T: Element> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buffer<{}>({} at {:#x})",
            T::DTYPE,
            self.len,
            self.allocation.address()
        )
    }
}
