//! The packed type.

use std::ops::Range;

use half::{bf16, f16};

use super::PackError;
use super::layout::Extent;
use super::pack::{self, Source};
use crate::dtype::DType;

/// What a code `q` of four bits stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codes {
    /// `s·(q - 8)`.
    Symmetric,
    /// `s·(q - z)`, with a zero point `z` of four bits for each group.
    ZeroPoints,
}

impl std::fmt::Display for Codes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Codes::Symmetric => "symmetric",
            Codes::ZeroPoints => "with zero points",
        })
    }
}

/// A matrix `[k, n]` of 4-bit codes with a scale, and maybe a zero point, for each group of rows of
/// a column. Columns are a layer's outputs.
///
/// The layout is that of [`layout`](super::layout): made for kernels, the same for every source.
/// Nothing in it is rounded. Scales are finite; whoever holds one need not check again.
#[derive(Clone, Debug, PartialEq)]
pub struct Int4Weight {
    pub(super) extent: Extent,
    pub(super) meaning: Codes,
    pub(super) scale_dtype: DType,
    pub(super) codes: Vec<u32>,
    /// Bits of `scale_dtype`.
    pub(super) scales: Vec<u16>,
    /// Empty if symmetric.
    pub(super) zeros: Vec<u32>,
    /// Packed row `i` is row `order[i]`; empty if they are in order.
    pub(super) order: Vec<u32>,
}

impl Int4Weight {
    /// Rows: a layer's inputs.
    pub fn k(&self) -> usize {
        self.extent.k
    }

    /// Columns: a layer's outputs.
    pub fn n(&self) -> usize {
        self.extent.n
    }

    /// Rows of a column that share a scale. A whole column is one group of the padded rows.
    pub fn group(&self) -> usize {
        self.extent.group
    }

    /// Sizes, and where things lie.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// What codes stand for.
    pub fn meaning(&self) -> Codes {
        self.meaning
    }

    /// The type of scales: `f16` or `bf16`.
    pub fn scale_dtype(&self) -> DType {
        self.scale_dtype
    }

    /// Codes, in the packed layout.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Scales as bits of their type, in the packed layout.
    pub fn scale_bits(&self) -> &[u16] {
        &self.scales
    }

    /// Zero points in the packed layout; empty if symmetric.
    pub fn zeros(&self) -> &[u32] {
        &self.zeros
    }

    /// Which row each packed row is, if they are not in order.
    pub fn order(&self) -> Option<&[u32]> {
        (!self.order.is_empty()).then_some(&self.order)
    }

    /// Bytes of codes, scales and zero points.
    pub fn bytes(&self) -> usize {
        4 * self.codes.len() + 2 * self.scales.len() + 4 * self.zeros.len()
    }

    /// The code in a packed row, which may be padding, and a column, which may too.
    fn code(&self, row: usize, column: usize) -> u8 {
        let (word, shift) = self.extent.code_at(row, column);
        (self.codes[word] >> shift & 15) as u8
    }

    /// The zero point of a group and a column.
    pub fn zero(&self, group: usize, column: usize) -> u8 {
        match self.meaning {
            Codes::Symmetric => 8,
            Codes::ZeroPoints => {
                let (word, shift) = self.extent.zero_at(group, column);
                (self.zeros[word] >> shift & 15) as u8
            }
        }
    }

    /// The scale of a group and a column.
    pub fn scale(&self, group: usize, column: usize) -> f32 {
        self.scale_of(self.scales[self.extent.scale_at(group, column)])
    }

    fn scale_of(&self, bits: u16) -> f32 {
        match self.scale_dtype {
            DType::F16 => f16::from_bits(bits).to_f32(),
            _ => bf16::from_bits(bits).to_f32(),
        }
    }

    /// Which row a packed row is.
    fn row(&self, packed: usize) -> usize {
        self.order.get(packed).map_or(packed, |&row| row as usize)
    }

    /// Calls `each(row, packed row, column)` for every element that is not padding.
    fn visit(&self, mut each: impl FnMut(usize, usize, usize)) {
        for packed in 0..self.k() {
            let row = self.row(packed);
            for column in 0..self.n() {
                each(row, packed, column);
            }
        }
    }

    /// The codes `[k, n]`, row by row, in the order of the source's rows.
    pub fn unpack(&self) -> Vec<u8> {
        let mut all = vec![0; self.k() * self.n()];
        self.visit(|row, packed, column| {
            all[row * self.n() + column] = self.code(packed, column);
        });
        all
    }

    /// The weights `[k, n]`, row by row, in the order of the source's rows. Exact: a scale times an
    /// integer of five bits has no more bits than an `f32`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.k() * self.n()];
        self.visit(|row, packed, column| {
            let group = packed / self.group();
            let units = i16::from(self.code(packed, column)) - i16::from(self.zero(group, column));
            all[row * self.n() + column] = self.scale(group, column) * f32::from(units);
        });
        all
    }

    /// The same weights with scales of another type, rounded to nearest.
    ///
    /// # Errors
    /// [`PackError::ScaleRange`] for a scale that the type cannot hold, [`PackError::ScaleType`]
    /// for a type that scales cannot have.
    pub fn with_scales(mut self, dtype: DType) -> Result<Self, PackError> {
        let round: fn(f32) -> u16 = match dtype {
            DType::F16 => |scale| f16::from_f32(scale).to_bits(),
            DType::BF16 => |scale| bf16::from_f32(scale).to_bits(),
            got => return Err(PackError::ScaleType { got }),
        };
        if dtype == self.scale_dtype {
            return Ok(self);
        }
        let old: Vec<f32> = self
            .scales
            .iter()
            .map(|&bits| self.scale_of(bits))
            .collect();
        self.scale_dtype = dtype;
        self.scales = old.iter().map(|&scale| round(scale)).collect();
        for group in 0..self.extent.groups() {
            for column in 0..self.n() {
                if !self.scale(group, column).is_finite() {
                    return Err(PackError::ScaleRange {
                        expected: dtype,
                        group,
                        column,
                        got: old[self.extent.scale_at(group, column)],
                    });
                }
            }
        }
        Ok(self)
    }

    /// Some of the columns: a layer's outputs divided among devices.
    ///
    /// # Errors
    /// [`PackError::Range`].
    pub fn columns(&self, range: Range<usize>) -> Result<Self, PackError> {
        pack::check_range("columns", self.n(), &range)?;
        self.cut(0..self.k(), range)
    }

    /// Some of the rows: a layer's inputs divided among devices.
    ///
    /// # Errors
    /// [`PackError::Range`]; [`PackError::CutGroup`] for an end within a group, unless columns are
    /// one group each; [`PackError::CutPermuted`] for weights in the order of activations.
    pub fn rows(&self, range: Range<usize>) -> Result<Self, PackError> {
        pack::check_range("rows", self.k(), &range)?;
        if range == (0..self.k()) {
            return Ok(self.clone());
        }
        if self.order().is_some() {
            return Err(PackError::CutPermuted { got: range });
        }
        pack::check_groups(self.extent, &range)?;
        self.cut(range, 0..self.n())
    }

    /// Rows from the start of a group, or all.
    fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Self, PackError> {
        let group = match self.extent.groups() {
            1 => None,
            _ => Some(self.group()),
        };
        let source = Source {
            k: rows.len(),
            n: columns.len(),
            group,
            meaning: self.meaning,
            scale_dtype: self.scale_dtype,
            order: self.order.clone(),
        };
        let first_group = rows.start / self.group();
        pack::pack(
            source,
            |i: usize, column: usize| {
                let column = columns.start + column;
                pack::octet(self.extent, &self.codes, rows.start, i, column)
            },
            |group, column| {
                self.scales[self
                    .extent
                    .scale_at(first_group + group, columns.start + column)]
            },
            |group, column| self.zero(first_group + group, columns.start + column),
        )
    }
}
