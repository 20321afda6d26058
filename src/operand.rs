//! The checks that every operation makes on its operands, with the operand's name in the error.

use crate::device::Stream;
use crate::dtype::DType;
use crate::error::OperandError;
use crate::tensor::{Place, Tensor};

/// The alignment contract: bases and rows start at multiples of this many bytes.
pub(crate) const ALIGNMENT: usize = 16;

/// A tensor and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'t, 'a, const R: usize> {
    pub name: &'static str,
    pub tensor: &'t Tensor<'a, R>,
}

impl<const R: usize> Operand<'_, '_, R> {
    pub fn dtype(&self, expected: DType) -> Result<(), OperandError> {
        let got = self.tensor.dtype();
        if got == expected {
            return Ok(());
        }
        Err(OperandError::Dtype {
            tensor: self.name,
            expected,
            got,
        })
    }

    pub fn shape(&self, expected: [usize; R]) -> Result<(), OperandError> {
        let got = self.tensor.shape();
        if got == expected {
            return Ok(());
        }
        Err(OperandError::Shape {
            tensor: self.name,
            expected: expected.into(),
            got: got.into(),
        })
    }

    /// At most `expected` indices along `axis`, as a 32-bit count.
    pub fn count(&self, axis: usize) -> Result<i32, OperandError> {
        let got = self.tensor.shape()[axis];
        let expected = i32::MAX as usize;
        i32::try_from(got).map_err(|_| OperandError::TooLong {
            tensor: self.name,
            axis,
            expected,
            got,
        })
    }

    pub fn place(&self, stream: &Stream) -> Result<(), OperandError> {
        same_place(self.name, self.tensor.place(), stream)
    }

    /// The strides to hand to a kernel: the innermost one 1, the others not negative. A stride
    /// that is never stepped, as the axis has one index or the tensor none, becomes 0.
    pub fn strides(&self) -> Result<[i64; R], OperandError> {
        let (shape, mut strides) = (self.tensor.shape(), self.tensor.strides());
        let tensor = self.name;
        for (axis, stride) in strides.iter_mut().enumerate() {
            let got = *stride;
            if shape[axis] <= 1 || self.tensor.is_empty() {
                *stride = 0;
            } else if axis == R - 1 && got != 1 {
                return Err(OperandError::Stride {
                    tensor,
                    axis,
                    expected: 1,
                    got,
                });
            } else if got < 0 {
                return Err(OperandError::NegativeStride {
                    tensor,
                    axis,
                    expected: 0,
                    got,
                });
            }
        }
        Ok(strides)
    }

    /// As [`Operand::strides`], with any stride along the innermost axis too.
    pub fn any_strides(&self) -> Result<[i64; R], OperandError> {
        let (shape, mut strides) = (self.tensor.shape(), self.tensor.strides());
        for (axis, stride) in strides.iter_mut().enumerate() {
            let got = *stride;
            if shape[axis] <= 1 || self.tensor.is_empty() {
                *stride = 0;
            } else if got < 0 {
                return Err(OperandError::NegativeStride {
                    tensor: self.name,
                    axis,
                    expected: 0,
                    got,
                });
            }
        }
        Ok(strides)
    }

    /// As [`Operand::strides`], with the base and every row at multiples of 16 bytes.
    pub fn aligned_strides(&self) -> Result<[i64; R], OperandError> {
        let strides = self.strides()?;
        let unit = (ALIGNMENT / self.tensor.dtype().size()) as i64;
        for (axis, &got) in strides[..R - 1].iter().enumerate() {
            if got % unit != 0 {
                let expected = (got / unit).saturating_add(1).saturating_mul(unit);
                return Err(OperandError::RowAlignment {
                    tensor: self.name,
                    axis,
                    expected,
                    got,
                });
            }
        }
        let got = self.tensor.address();
        if !self.tensor.is_empty() && !got.is_multiple_of(ALIGNMENT as u64) {
            let expected = ALIGNMENT as u64;
            return Err(OperandError::BaseAlignment {
                tensor: self.name,
                expected,
                got,
            });
        }
        Ok(strides)
    }

    /// `self`, which is written, shares no memory with `other`.
    pub fn apart_from<const S: usize>(
        &self,
        other: Operand<'_, '_, S>,
    ) -> Result<(), OperandError> {
        if !self.tensor.may_overlap(other.tensor) {
            return Ok(());
        }
        Err(OperandError::Overlap {
            tensor: self.name,
            other: other.name,
            expected: other.tensor.span().unwrap_or(0..0),
            got: self.tensor.span().unwrap_or(0..0),
        })
    }
}

/// Operands of one call: what is written shares no memory with anything else.
#[derive(Default)]
pub(crate) struct Apart<'a> {
    read: Vec<(&'static str, Tensor<'a, 5>)>,
    written: Vec<(&'static str, Tensor<'a, 5>)>,
}

impl<'a> Apart<'a> {
    pub fn read<const R: usize>(&mut self, operand: Operand<'_, 'a, R>) {
        self.read.push((operand.name, operand.tensor.widened()));
    }

    pub fn written<const R: usize>(&mut self, operand: Operand<'_, 'a, R>) {
        self.written.push((operand.name, operand.tensor.widened()));
    }

    pub fn check(&self) -> Result<(), OperandError> {
        let operand = |(name, tensor): &'_ (&'static str, Tensor<'a, 5>)| (*name, *tensor);
        for (at, written) in self.written.iter().map(operand).enumerate() {
            let others = self.written[..at].iter().chain(&self.read);
            for (name, tensor) in others.map(operand) {
                Operand {
                    name: written.0,
                    tensor: &written.1,
                }
                .apart_from(Operand {
                    name,
                    tensor: &tensor,
                })?;
            }
        }
        Ok(())
    }
}

/// Memory at `place` can be used on `stream`, and will be freed after what is enqueued there.
pub(crate) fn same_place(
    tensor: &'static str,
    place: Place,
    stream: &Stream,
) -> Result<(), OperandError> {
    let expected = stream.device().id();
    if place.device != expected {
        return Err(OperandError::Device {
            tensor,
            expected,
            got: place.device,
        });
    }
    match (place.stream, stream.id()) {
        (Some(got), Some(expected)) if got != expected => Err(OperandError::Stream {
            tensor,
            expected,
            got,
        }),
        _ => Ok(()),
    }
}
