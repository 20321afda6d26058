//! What the operations check alike: entries, and operands one by one.

use super::ElementwiseError;
use super::error::one_of;
use crate::catalog::{self, Entry};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::{Apart, Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Elements that a thread takes at a time.
pub(super) const CHUNK: usize = 8;
/// The most of anything that is counted in 32 bits.
pub(super) const MOST: usize = i32::MAX as usize;
/// The longest row of what has no limit of its own: the chunk that its end lies in is counted too.
pub(super) const MOST_DIM: usize = MOST - CHUNK;
/// The types that kernels are compiled for.
pub(super) const HALVES: [DType; 2] = [DType::BF16, DType::F16];

/// The entry of a family for elements of a type.
pub(super) fn entry(
    kernel: &'static str,
    dtype: DType,
) -> Result<&'static Entry, ElementwiseError> {
    one_of("elements", dtype, &HALVES)?;
    let mut entries = catalog::ENTRIES.iter();
    let found = entries.find(|entry| entry.kernel == kernel && entry.dtype == dtype.name());
    Ok(found.expect("every family has an entry for each of these types"))
}

/// Rows that are read, and rows that are written.
#[derive(Debug)]
pub enum Rows<'a, const R: usize> {
    /// The result takes their place.
    InPlace(TensorMut<'a, R>),
    /// The result goes elsewhere.
    To {
        /// What is read.
        x: Tensor<'a, R>,
        /// What is written.
        y: TensorMut<'a, R>,
    },
}

impl<const R: usize> Rows<'_, R> {
    /// The shape of what is read.
    pub(super) fn shape(&self) -> [usize; R] {
        match self {
            Rows::InPlace(rows) => rows.as_ref().shape(),
            Rows::To { x, .. } => x.shape(),
        }
    }
}

/// Checked operands, as a kernel takes them. Made only by the `bind` of a plan.
pub(crate) struct Bound<'a, P> {
    pub kernel: &'a Kernel,
    pub stream: &'a Stream,
    pub shape: LaunchShape,
    pub params: P,
}

impl<'a, P> Bound<'a, P> {
    /// So many blocks, which the plan's limits keep within a grid's first dimension.
    pub fn new(kernel: &'a Kernel, stream: &'a Stream, blocks: usize, params: P) -> Self {
        let entry = kernel.entry();
        Bound {
            kernel,
            stream,
            shape: LaunchShape {
                grid: [blocks as u32, 1, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params,
        }
    }
}

/// Address and strides of an operand.
pub(super) type Place<const R: usize> = (u64, [i64; R]);

/// The operands of a call, checked one by one.
pub(super) struct Check<'s, 't> {
    stream: &'s Stream,
    apart: Apart<'t>,
}

impl<'s, 't> Check<'s, 't> {
    pub fn new(kernel: &Kernel, stream: &'s Stream) -> Result<Self, OperandError> {
        let (expected, got) = (kernel.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            });
        }
        Ok(Check {
            stream,
            apart: Apart::default(),
        })
    }

    /// Rows at multiples of 16 bytes that are read.
    pub fn read<const R: usize>(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, R>,
        dtype: DType,
        shape: [usize; R],
    ) -> Result<Place<R>, OperandError> {
        let operand = Operand { name, tensor };
        let place = self.rows(operand, dtype, shape)?;
        self.apart.read(operand);
        Ok(place)
    }

    /// The same wherever they begin.
    pub fn read_anywhere<const R: usize>(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, R>,
        dtype: DType,
        shape: [usize; R],
    ) -> Result<Place<R>, OperandError> {
        let operand = Operand { name, tensor };
        operand.dtype(dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let strides = operand.strides()?;
        self.apart.read(operand);
        Ok((tensor.address(), strides))
    }

    /// Rows without gaps that are read.
    pub fn read_dense(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, 2>,
        dtype: DType,
        shape: [usize; 2],
    ) -> Result<u64, OperandError> {
        let (address, [got, _]) = self.read_anywhere(name, tensor, dtype, shape)?;
        let expected = shape[1] as i64;
        if shape[0] > 1 && got != expected {
            return Err(OperandError::Stride {
                tensor: name,
                axis: 0,
                expected,
                got,
            });
        }
        Ok(address)
    }

    /// Numbers one behind the other that are written.
    pub fn written_anywhere(
        &mut self,
        name: &'static str,
        tensor: &'t TensorMut<'_, 1>,
        dtype: DType,
        shape: [usize; 1],
    ) -> Result<u64, OperandError> {
        let tensor = tensor.as_ref();
        let operand = Operand {
            name,
            tensor: &tensor,
        };
        operand.dtype(dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        operand.strides()?;
        self.apart.written(operand);
        Ok(tensor.address())
    }

    /// Rows at multiples of 16 bytes that are written, perhaps after being read.
    pub fn written<const R: usize>(
        &mut self,
        name: &'static str,
        tensor: &'t TensorMut<'_, R>,
        dtype: DType,
        shape: [usize; R],
    ) -> Result<Place<R>, OperandError> {
        let tensor = tensor.as_ref();
        let operand = Operand {
            name,
            tensor: &tensor,
        };
        let place = self.rows(operand, dtype, shape)?;
        self.apart.written(operand);
        Ok(place)
    }

    /// What is read, and what is written.
    pub fn both<const R: usize>(
        &mut self,
        rows: &'t Rows<'_, R>,
        dtype: DType,
        shape: [usize; R],
    ) -> Result<[Place<R>; 2], OperandError> {
        match rows {
            Rows::InPlace(rows) => Ok([self.written("x", rows, dtype, shape)?; 2]),
            Rows::To { x, y } => Ok([
                self.read("x", x, dtype, shape)?,
                self.written("y", y, dtype, shape)?,
            ]),
        }
    }

    fn rows<const R: usize>(
        &self,
        operand: Operand<'_, '_, R>,
        dtype: DType,
        shape: [usize; R],
    ) -> Result<Place<R>, OperandError> {
        operand.dtype(dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        Ok((operand.tensor.address(), operand.aligned_strides()?))
    }

    /// The status word's address.
    pub fn status(&self, status: &StatusWord) -> Result<u64, OperandError> {
        same_place("status", status.place(), self.stream)?;
        Ok(status.address())
    }

    /// What is written shares no memory with anything else.
    pub fn finish(self) -> Result<(), OperandError> {
        self.apart.check()
    }
}

/// An operand is given exactly if it is planned.
pub(super) fn unless_planned(
    tensor: &'static str,
    expected: bool,
    got: bool,
) -> Result<(), ElementwiseError> {
    if expected == got {
        return Ok(());
    }
    Err(ElementwiseError::Option {
        tensor,
        expected,
        got,
    })
}
