//! Operands without a framework: a [`Region`] of device memory and a [`Tensor`] laid over it.
//!
//! A [`Region`] says that some bytes on a device are alive for `'a` and hold elements of one
//! type. It comes from a [`Buffer`](crate::Buffer), from an adapter for another crate's memory,
//! or, with a promise, from [`Region::from_raw_parts`]. A [`Tensor`] gives it a shape and 64-bit
//! strides; whether every element lies inside the region is checked once, when the tensor is
//! made, and no view of a tensor can leave what the tensor covers.
//!
//! Nothing here touches the device: these are addresses and numbers.

mod layout;

use std::marker::PhantomData;
use std::ops::Range;

pub(crate) use layout::{Extent, Layout, Overflow};

use crate::dtype::DType;
use crate::error::TensorError;

/// Which device memory belongs to.
///
/// For a real GPU it is the driver's context, so that memory of cudarc, of cust and of any other
/// crate that uses the device's primary context is recognised as being on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(pub(crate) DeviceKey);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DeviceKey {
    #[cfg_attr(not(any(feature = "cudarc", feature = "cust")), allow(dead_code))]
    Context(usize),
    #[cfg_attr(not(feature = "emulator"), allow(dead_code))]
    Emulator(u64),
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            DeviceKey::Context(context) => write!(f, "CUDA context {context:#x}"),
            DeviceKey::Emulator(number) => write!(f, "emulator {number}"),
        }
    }
}

/// The driver's handle of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub(crate) usize);

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {:#x}", self.0)
    }
}

/// Where memory lives, and on which stream its release is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: DeviceId,
    /// The stream that frees the memory, which is then the only one that may use it; `None` when
    /// freeing waits for the whole device, or when somebody has promised to order it.
    pub stream: Option<StreamId>,
}

/// Device memory that is alive for `'a` and may be read.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    address: u64,
    len: u64,
    dtype: DType,
    place: Place,
    alive: PhantomData<&'a [u8]>,
}

/// Device memory that is alive for `'a` and may be written by its one holder.
#[derive(Debug)]
pub struct RegionMut<'a> {
    region: Region<'a>,
    exclusive: PhantomData<&'a mut [u8]>,
}

impl<'a> Region<'a> {
    /// The caller, all of them in `device/`, vouches for the memory.
    pub(crate) fn vouched(address: u64, len: u64, dtype: DType, place: Place) -> Self {
        Region {
            address,
            len,
            dtype,
            place,
            alive: PhantomData,
        }
    }

    /// All of it as one axis. The caller, all of them in `device/`, vouches that it is aligned.
    pub(crate) fn whole(self) -> Tensor<'a, 1> {
        Tensor {
            address: self.address,
            dtype: self.dtype,
            layout: Layout {
                shape: [self.len as usize],
                strides: [1],
            },
            place: self.place,
            alive: PhantomData,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the memory lives.
    pub fn place(&self) -> Place {
        self.place
    }

    /// A row-major tensor over the first elements.
    ///
    /// # Errors
    /// [`TensorError::OutOfBounds`] when the region is shorter than the shape,
    /// [`TensorError::Overflow`] when the shape has more elements than can be addressed,
    /// [`TensorError::Misaligned`] when the region does not start at a multiple of the element size.
    pub fn tensor<const R: usize>(self, shape: [usize; R]) -> Result<Tensor<'a, R>, TensorError> {
        let layout = Layout::contiguous(shape).ok_or(TensorError::Overflow {
            shape: shape.into(),
            strides: vec![],
        })?;
        self.lay(0, layout)
    }

    /// A tensor whose element `[0, .., 0]` is element `offset` of the region, with `strides` in
    /// elements. A stride may be zero or negative.
    ///
    /// # Errors
    /// As for [`Region::tensor`].
    pub fn strided<const R: usize>(
        self,
        offset: usize,
        shape: [usize; R],
        strides: [i64; R],
    ) -> Result<Tensor<'a, R>, TensorError> {
        self.lay(offset, Layout { shape, strides })
    }

    fn lay<const R: usize>(
        self,
        offset: usize,
        layout: Layout<R>,
    ) -> Result<Tensor<'a, R>, TensorError> {
        let overflow = || TensorError::Overflow {
            shape: layout.shape.into(),
            strides: layout.strides.into(),
        };
        let size = self.dtype.size() as u64;
        if !self.address.is_multiple_of(size) {
            return Err(TensorError::Misaligned {
                address: self.address,
                needed: self.dtype.size(),
            });
        }
        let origin = offset as u64;
        // An empty tensor touches nothing, yet its origin must be an address in the region or
        // just behind it: the kernels compute addresses from it.
        let extent = layout.extent().map_err(|Overflow| overflow())?;
        let (first, last) = match extent {
            Some(Extent { low, high }) => (
                i128::from(origin) + i128::from(low),
                i128::from(origin) + i128::from(high),
            ),
            None => (i128::from(origin), i128::from(origin) - 1),
        };
        if first < 0 || last >= i128::from(self.len) || origin > self.len {
            return Err(TensorError::OutOfBounds {
                first,
                last,
                len: self.len,
            });
        }
        let address = size
            .checked_mul(origin)
            .and_then(|bytes| self.address.checked_add(bytes))
            .ok_or_else(overflow)?;
        Ok(Tensor {
            address,
            dtype: self.dtype,
            layout,
            place: self.place,
            alive: PhantomData,
        })
    }
}

impl<'a> RegionMut<'a> {
    /// The caller, all of them in `device/`, vouches for the memory and that no one else uses it.
    pub(crate) fn vouched(address: u64, len: u64, dtype: DType, place: Place) -> Self {
        RegionMut {
            region: Region::vouched(address, len, dtype, place),
            exclusive: PhantomData,
        }
    }

    /// All of it as one axis; as [`Region::whole`].
    pub(crate) fn whole(self) -> TensorMut<'a, 1> {
        TensorMut {
            tensor: self.region.whole(),
            exclusive: PhantomData,
        }
    }

    /// A row-major tensor over the first elements.
    ///
    /// # Errors
    /// As for [`Region::tensor`].
    pub fn tensor<const R: usize>(
        self,
        shape: [usize; R],
    ) -> Result<TensorMut<'a, R>, TensorError> {
        Ok(TensorMut {
            tensor: self.region.tensor(shape)?,
            exclusive: PhantomData,
        })
    }

    /// A tensor with its own offset and strides, in elements.
    ///
    /// # Errors
    /// As for [`Region::tensor`], and [`TensorError::SelfOverlap`] when two indices would meet in
    /// one element, since concurrent writes to it would have no defined result.
    pub fn strided<const R: usize>(
        self,
        offset: usize,
        shape: [usize; R],
        strides: [i64; R],
    ) -> Result<TensorMut<'a, R>, TensorError> {
        let tensor = self.region.strided(offset, shape, strides)?;
        if !tensor.layout.is_injective() {
            return Err(TensorError::SelfOverlap {
                shape: shape.into(),
                strides: strides.into(),
            });
        }
        Ok(TensorMut {
            tensor,
            exclusive: PhantomData,
        })
    }
}

/// An operand that is read: device memory with a shape of `R` axes and 64-bit strides.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a, const R: usize> {
    address: u64,
    dtype: DType,
    layout: Layout<R>,
    place: Place,
    alive: PhantomData<&'a [u8]>,
}

impl<'a, const R: usize> Tensor<'a, R> {
    /// The device address of element `[0, .., 0]`.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of indices of each axis.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    /// The step of each axis, in elements.
    pub fn strides(&self) -> [i64; R] {
        self.layout.strides
    }

    /// Where the memory lives.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// The part with indices `range` of one axis.
    ///
    /// # Errors
    /// [`TensorError::Range`] when the axis does not have these indices.
    pub fn narrow(mut self, axis: usize, range: Range<usize>) -> Result<Self, TensorError> {
        let size = self.layout.shape.get(axis).copied().unwrap_or(0);
        if axis >= R || range.start > range.end || range.end > size {
            let Range { start, end } = range;
            return Err(TensorError::Range {
                axis,
                size,
                start,
                end,
            });
        }
        if range.start < size {
            // In range of the region, as the element that it names exists unless another axis is
            // empty; then nothing is ever read and the origin may stay.
            let steps = self.layout.strides[axis].checked_mul(range.start as i64);
            let bytes = steps.and_then(|steps| steps.checked_mul(self.dtype.size() as i64));
            let moved = bytes.and_then(|bytes| self.address.checked_add_signed(bytes));
            if !self.layout.is_empty() {
                self.address = moved.ok_or(TensorError::Overflow {
                    shape: self.layout.shape.into(),
                    strides: self.layout.strides.into(),
                })?;
            }
        }
        self.layout.shape[axis] = range.end - range.start;
        Ok(self)
    }

    /// The part with one index of an axis, which the result does not have: `S` is `R - 1`.
    ///
    /// # Errors
    /// [`TensorError::Range`] when the axis does not have this index.
    pub fn select<const S: usize>(
        self,
        axis: usize,
        index: usize,
    ) -> Result<Tensor<'a, S>, TensorError> {
        const { assert!(S + 1 == R, "one axis less") };
        let one = self.narrow(axis, index..index.saturating_add(1))?;
        let from = |i: usize| if i < axis { i } else { i + 1 };
        Ok(Tensor {
            address: one.address,
            dtype: one.dtype,
            layout: Layout {
                shape: std::array::from_fn(|i| one.layout.shape[from(i)]),
                strides: std::array::from_fn(|i| one.layout.strides[from(i)]),
            },
            place: one.place,
            alive: PhantomData,
        })
    }

    /// The same elements with the axes in another order: axis `i` of the result is `order[i]`.
    ///
    /// # Errors
    /// [`TensorError::Permutation`] unless `order` names each axis once.
    pub fn permute(mut self, order: [usize; R]) -> Result<Self, TensorError> {
        let mut seen = [false; R];
        let named_once = |&axis: &usize| axis < R && !std::mem::replace(&mut seen[axis], true);
        if !order.iter().all(named_once) {
            return Err(TensorError::Permutation {
                order: order.into(),
                rank: R,
            });
        }
        self.layout = Layout {
            shape: order.map(|axis| self.layout.shape[axis]),
            strides: order.map(|axis| self.layout.strides[axis]),
        };
        Ok(self)
    }

    /// The same with further axes of one index in front: for lists of operands of any rank.
    pub(crate) fn widened<const S: usize>(&self) -> Tensor<'a, S> {
        const { assert!(S >= R, "no axis is dropped") };
        let of = |i: usize| i.checked_sub(S - R);
        Tensor {
            address: self.address,
            dtype: self.dtype,
            layout: Layout {
                shape: std::array::from_fn(|i| of(i).map_or(1, |i| self.layout.shape[i])),
                strides: std::array::from_fn(|i| of(i).map_or(0, |i| self.layout.strides[i])),
            },
            place: self.place,
            alive: PhantomData,
        }
    }

    /// The bytes from the first to the last element touched; `None` when there are none.
    pub(crate) fn span(&self) -> Option<Range<u128>> {
        let Extent { low, high } = self.layout.extent().ok()??;
        let size = self.dtype.size() as i128;
        let at = |element: i64| (i128::from(self.address) + i128::from(element) * size) as u128;
        Some(at(low)..at(high) + size as u128)
    }

    /// Whether a byte of `self` may be a byte of `other`.
    ///
    /// Exact for operands whose spans are apart, and for operands that share one row pitch and
    /// keep to different columns of it (slices of a fused matrix); everything else that lies
    /// interleaved counts as overlapping.
    pub(crate) fn may_overlap<const S: usize>(&self, other: &Tensor<'_, S>) -> bool {
        let (Some(a), Some(b)) = (self.span(), other.span()) else {
            return false;
        };
        if self.place.device != other.place.device || a.end <= b.start || b.end <= a.start {
            return false;
        }
        match (self.columns(), other.columns()) {
            (Some((pitch_a, width_a)), Some((pitch_b, width_b))) if pitch_a == pitch_b => {
                let pitch = pitch_a;
                // Where b's columns begin within a's rows, and whether they end before a's begin
                // again.
                let apart = (b.start % pitch + pitch - a.start % pitch) % pitch;
                apart < width_a || apart + width_b > pitch
            }
            _ => true,
        }
    }

    /// Row pitch in bytes, and the bytes of a row that are touched.
    fn columns(&self) -> Option<(u128, u128)> {
        let pitch = self.layout.pitch()?;
        let mut row = self.layout;
        for (len, stride) in row.shape.iter_mut().zip(&row.strides) {
            if stride.unsigned_abs() == pitch {
                *len = 1;
            }
        }
        let Extent { low, high } = row.extent().ok()??;
        let size = self.dtype.size() as u128;
        let width = (i128::from(high) - i128::from(low) + 1) as u128;
        Some((u128::from(pitch) * size, width * size))
    }
}

/// An operand that is written: no other operand in use shares memory with it, and no two of its
/// indices meet.
#[derive(Debug)]
pub struct TensorMut<'a, const R: usize> {
    tensor: Tensor<'a, R>,
    exclusive: PhantomData<&'a mut [u8]>,
}

impl<'a, const R: usize> TensorMut<'a, R> {
    /// What can be asked of it: address, shape, strides, type, place.
    pub fn as_ref(&self) -> Tensor<'_, R> {
        self.tensor
    }

    /// A shorter borrow of the same operand.
    pub fn reborrow(&mut self) -> TensorMut<'_, R> {
        TensorMut {
            tensor: self.tensor,
            exclusive: PhantomData,
        }
    }

    /// The part with indices `range` of one axis.
    ///
    /// # Errors
    /// As for [`Tensor::narrow`].
    pub fn narrow(self, axis: usize, range: Range<usize>) -> Result<Self, TensorError> {
        Ok(TensorMut {
            tensor: self.tensor.narrow(axis, range)?,
            exclusive: PhantomData,
        })
    }

    /// The same elements with the axes in another order.
    ///
    /// # Errors
    /// As for [`Tensor::permute`].
    pub fn permute(self, order: [usize; R]) -> Result<Self, TensorError> {
        Ok(TensorMut {
            tensor: self.tensor.permute(order)?,
            exclusive: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests;
