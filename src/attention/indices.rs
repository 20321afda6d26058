//! Lengths, offsets and page ids in device memory, as every attention kernel takes them.

use super::CuSeqLens;
use super::prefill::{PageTable, PrefillError, PrefillParams};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::Operand;
use crate::tensor::Tensor;

/// No sequence of pages has more keys than this, so that positions stay within 32 bits.
pub(super) const MOST_KEYS: usize = 1 << 30;

/// Checks what is used on a stream. Values are left to the kernels.
#[derive(Clone, Copy)]
pub(super) struct Indices<'a>(pub &'a Stream);

/// Where page ids are.
#[derive(Clone, Copy, Default)]
pub(super) struct PageIds {
    table: u64,
    indptr: u64,
    stride: i64,
    len: i32,
}

impl PageIds {
    pub fn fill(self, params: &mut PrefillParams, page_size: usize) {
        params.page_table = self.table;
        params.page_indptr = self.indptr;
        params.page_table_stride = self.stride;
        params.page_table_len = self.len;
        // Lengths above this are out of range.
        let held = (self.len as usize).saturating_mul(page_size);
        params.total_k = held.min(MOST_KEYS) as i32;
    }
}

impl Indices<'_> {
    /// Address of indices that the kernel checks.
    pub fn vector(
        self,
        name: &'static str,
        tensor: &Tensor<'_, 1>,
        shape: [usize; 1],
    ) -> Result<u64, OperandError> {
        index_type(Operand { name, tensor })?;
        vector(self.0, name, tensor, tensor.dtype(), shape)
    }

    /// Address of offsets that begin and end each of `batch` sequences within `rows` rows.
    pub fn offsets(
        self,
        name: &'static str,
        offsets: &CuSeqLens<'_>,
        batch: usize,
        rows: usize,
    ) -> Result<u64, PrefillError> {
        let tensor = match offsets {
            CuSeqLens::Checked(checked) if checked.end() > rows => {
                let (expected, got) = (rows, checked.end());
                return Err(PrefillError::SeqEnd {
                    tensor: name,
                    expected,
                    got,
                });
            }
            CuSeqLens::Checked(checked) => checked.tensor()?,
            CuSeqLens::Device(tensor) => *tensor,
        };
        let address = self.vector(name, &tensor, tensor.shape())?;
        let (expected, got) = (batch, tensor.shape()[0].saturating_sub(1));
        if expected != got || tensor.is_empty() {
            return Err(PrefillError::Batch {
                tensor: name,
                expected,
                got,
            });
        }
        Ok(address)
    }

    /// The page ids of `batch` sequences.
    pub fn page_table(self, pages: &PageTable<'_>, batch: usize) -> Result<PageIds, OperandError> {
        match pages {
            PageTable::Rows(tensor) => {
                let name = "page table";
                let operand = Operand { name, tensor };
                index_type(operand)?;
                operand.shape([batch, tensor.shape()[1]])?;
                operand.place(self.0)?;
                Ok(PageIds {
                    stride: operand.strides()?[0],
                    len: operand.count(1)?,
                    table: tensor.address(),
                    indptr: 0,
                })
            }
            PageTable::Csr { indptr, pages } => {
                let (name, tensor) = ("pages", pages);
                Ok(PageIds {
                    stride: 0,
                    len: Operand { name, tensor }.count(0)?,
                    table: self.vector(name, pages, pages.shape())?,
                    indptr: self.vector("indptr", indptr, [batch + 1])?,
                })
            }
        }
    }
}

/// Indices are `u32` or `i32`: the kernels compare bits.
fn index_type<const R: usize>(operand: Operand<'_, '_, R>) -> Result<(), OperandError> {
    match operand.tensor.dtype() {
        DType::U32 => Ok(()),
        _ => operand.dtype(DType::I32),
    }
}

/// Address of a vector.
pub(super) fn vector(
    stream: &Stream,
    name: &'static str,
    tensor: &Tensor<'_, 1>,
    dtype: DType,
    shape: [usize; 1],
) -> Result<u64, OperandError> {
    let operand = Operand { name, tensor };
    operand.dtype(dtype)?;
    operand.shape(shape)?;
    operand.place(stream)?;
    operand.strides()?;
    Ok(tensor.address())
}
