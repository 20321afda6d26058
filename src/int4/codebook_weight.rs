//! Weights whose codes are places in a table.

use std::ops::Range;

use super::codebook::{e4m3, e8m0};
use super::layout::Extent;
use super::pack::{self, Octets};
use super::{Codebook, PackError};

/// Scales of groups, as their format stores them, in the packed layout.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BlockScales {
    /// Powers of two, `2^(bits - 127)`: MXFP4.
    E8m0(Vec<u8>),
    /// Numbers of eight bits, and one for the matrix: NVFP4.
    E4m3 {
        /// A sign, four bits of exponent, three of mantissa.
        bits: Vec<u8>,
        /// What all of them are scaled by.
        matrix: MatrixScale,
    },
    /// Numbers of 32 bits: bitsandbytes.
    F32(Vec<f32>),
}

/// The scale of a whole matrix. Checkpoints have it either way, and their reciprocals are not each
/// other's exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MatrixScale {
    /// Groups' scales are multiplied by it: ModelOpt's `weight_scale_2`.
    Times(f32),
    /// Groups' scales are divided by it: compressed-tensors' `weight_global_scale`.
    Over(f32),
}

/// A matrix `[k, n]` of which a value is `s·codebook[q]`: a code of four bits, and a scale for each
/// group of rows of a column. Columns are a layer's outputs.
///
/// Codes and scales lie where those of [`Int4Weight`](super::Int4Weight) do: see
/// [`layout`](super::layout). Nothing is rounded; scales are finite.
///
/// ```
/// use infer_kernels::int4::load::Mxfp4;
///
/// // One output of 32 inputs: 6.0 and -0.5 in turn, times a quarter.
/// let layer = Mxfp4 { k: 32, n: 1, blocks: &[0x97; 16], scales: &[125] };
/// let packed = layer.pack()?;
/// assert_eq!(packed.dequantize()[..4], [1.5, -0.125, 1.5, -0.125]);
/// # Ok::<(), infer_kernels::int4::PackError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CodebookWeight {
    extent: Extent,
    codebook: Codebook,
    codes: Vec<u32>,
    scales: BlockScales,
}

impl CodebookWeight {
    /// Rows: a layer's inputs.
    pub fn k(&self) -> usize {
        self.extent.k
    }

    /// Columns: a layer's outputs.
    pub fn n(&self) -> usize {
        self.extent.n
    }

    /// Rows of a column that share a scale.
    pub fn group(&self) -> usize {
        self.extent.group
    }

    /// Sizes, and where things lie.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// What codes stand for.
    pub fn codebook(&self) -> Codebook {
        self.codebook
    }

    /// Codes, in the packed layout.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Scales, in the packed layout.
    pub fn scales(&self) -> &BlockScales {
        &self.scales
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            BlockScales::E8m0(bits) => bits.len(),
            BlockScales::E4m3 { bits, .. } => bits.len() + 4,
            BlockScales::F32(scales) => 4 * scales.len(),
        };
        4 * self.codes.len() + scales
    }

    /// The scale of a group and a column. That of NVFP4 is a product, or a quotient, rounded to `f32`
    /// once, as its own code has it.
    pub fn scale(&self, group: usize, column: usize) -> f32 {
        let at = self.extent.scale_at(group, column);
        match &self.scales {
            BlockScales::E8m0(bits) => e8m0(bits[at]),
            BlockScales::E4m3 { bits, matrix } => match matrix {
                MatrixScale::Times(matrix) => e4m3(bits[at]) * matrix,
                MatrixScale::Over(matrix) => e4m3(bits[at]) / matrix,
            },
            BlockScales::F32(scales) => scales[at],
        }
    }

    fn code(&self, row: usize, column: usize) -> u8 {
        let (word, shift) = self.extent.code_at(row, column);
        (self.codes[word] >> shift & 15) as u8
    }

    /// `of(row, column)` for the elements `[k, n]`, row by row.
    fn elements<T>(&self, of: impl Fn(usize, usize) -> T) -> Vec<T> {
        let mut all = Vec::with_capacity(self.k() * self.n());
        for row in 0..self.k() {
            all.extend((0..self.n()).map(|column| of(row, column)));
        }
        all
    }

    /// The codes `[k, n]`, row by row.
    pub fn unpack(&self) -> Vec<u8> {
        self.elements(|row, column| self.code(row, column))
    }

    /// The weights `[k, n]`, row by row: a scale times a table's number, rounded to `f32`, which is
    /// what the formats' own code computes. The product of a power of two and an e2m1 number is
    /// exact, but for those beyond the range of `f32`, which become infinite.
    pub fn dequantize(&self) -> Vec<f32> {
        let values = self.codebook.values();
        self.elements(|row, column| {
            values[usize::from(self.code(row, column))] * self.scale(row / self.group(), column)
        })
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
    /// one group each.
    pub fn rows(&self, range: Range<usize>) -> Result<Self, PackError> {
        pack::check_range("rows", self.k(), &range)?;
        pack::check_groups(self.extent, &range)?;
        self.cut(range, 0..self.n())
    }

    /// Rows from the start of a group, or all.
    fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Self, PackError> {
        let group = match self.extent.groups() {
            1 => None,
            _ => Some(self.group()),
        };
        let first = rows.start / self.group();
        let at = |group: usize, column: usize| {
            self.extent.scale_at(first + group, columns.start + column)
        };
        let octets = |i: usize, column: usize| {
            let column = columns.start + column;
            pack::octet(self.extent, &self.codes, rows.start, i, column)
        };
        let part = Part {
            extent: pack::extent(rows.len(), columns.len(), group)?,
            codebook: self.codebook,
        };
        match &self.scales {
            BlockScales::E8m0(bits) => part.pack(octets, |g, c| bits[at(g, c)], BlockScales::E8m0),
            BlockScales::E4m3 { bits, matrix } => {
                let matrix = *matrix;
                let wrap = |bits| BlockScales::E4m3 { bits, matrix };
                part.pack(octets, |g, c| bits[at(g, c)], wrap)
            }
            BlockScales::F32(scales) => {
                part.pack(octets, |g, c| scales[at(g, c)], BlockScales::F32)
            }
        }
    }
}

/// What is packed, but for the elements themselves.
pub(super) struct Part {
    pub extent: Extent,
    pub codebook: Codebook,
}

impl Part {
    /// `scale(group, column)`: of those that exist. `wrap` says what they mean.
    pub fn pack<T: Copy + Default>(
        self,
        octets: impl Octets,
        scale: impl Fn(usize, usize) -> T,
        wrap: impl FnOnce(Vec<T>) -> BlockScales,
    ) -> Result<CodebookWeight, PackError> {
        let Part { extent, codebook } = self;
        let mut scales = vec![T::default(); extent.scales()];
        let existing =
            || (0..extent.existing_groups()).flat_map(|g| (0..extent.n).map(move |c| (g, c)));
        for (group, column) in existing() {
            scales[extent.scale_at(group, column)] = scale(group, column);
        }
        let mut weight = CodebookWeight {
            extent,
            codebook,
            codes: Vec::new(),
            scales: wrap(scales),
        };
        for (group, column) in existing() {
            let got = weight.scale(group, column);
            if !got.is_finite() {
                return Err(PackError::Scale { group, column, got });
            }
        }
        weight.codes = pack::codes(extent, &octets, &|_, _| codebook.nothing());
        Ok(weight)
    }
}
