//! Codes that are floating-point numbers of four bits: MXFP4 and NVFP4.

use super::{length, multiple, product};
use crate::int4::codebook_weight::Part;
use crate::int4::{BlockScales, Codebook, CodebookWeight, MatrixScale, PackError, pack};

/// Rows of a block of MXFP4.
pub const MXFP4_ROWS: usize = 32;
/// Rows of a block of NVFP4.
pub const NVFP4_ROWS: usize = 16;
/// Bytes of a block of MXFP4 in a GGUF file.
pub const MXFP4_BYTES: usize = 17;

/// A matrix of MXFP4, as gpt-oss has for each of its experts (`blocks`, `scales`) and
/// compressed-tensors in format `mxfp4-pack-quantized` (`weight_packed`, `weight_scale`). The value is
/// `2^(scale - 127)·q`, with `q` of type e2m1.
#[derive(Clone, Copy, Debug)]
pub struct Mxfp4<'a> {
    /// Rows of the packed type: inputs; a multiple of 32.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// `[n, k / 2]`, or `[n, k / 32, 16]`: the first of two codes in the lower half.
    pub blocks: &'a [u8],
    /// `[n, k / 32]`.
    pub scales: &'a [u8],
}

impl Mxfp4<'_> {
    /// The matrix in the packed type.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Scale`] for a scale of 255, [`PackError::Limit`].
    pub fn pack(&self) -> Result<CodebookWeight, PackError> {
        let Mxfp4 { k, n, .. } = *self;
        multiple("k", MXFP4_ROWS, k)?;
        let groups = k / MXFP4_ROWS;
        length("blocks", product([n, k / 2]), self.blocks.len())?;
        length("scales", product([n, groups]), self.scales.len())?;
        let octets = |i: usize, column: usize| octet(self.blocks, column * (k / 8) + i);
        let scale = |group: usize, column: usize| self.scales[column * groups + group];
        e2m1(k, n, MXFP4_ROWS)?.pack(octets, scale, BlockScales::E8m0)
    }
}

/// A tensor of GGUF's type MXFP4. A block is an exponent and 16 bytes, of which byte `i` holds code `i`
/// in its low and code `i + 16` in its high half. The value is `2^(exponent - 127)·q`, with `q` of type
/// e2m1.
#[derive(Clone, Copy, Debug)]
pub struct GgmlMxfp4<'a> {
    /// Rows of the packed type: inputs, the tensor's innermost axis; a multiple of 32.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// `[n, k / 32]` blocks.
    pub blocks: &'a [u8],
}

impl GgmlMxfp4<'_> {
    /// The tensor in the packed type.
    ///
    /// # Errors
    /// As for [`Mxfp4::pack`].
    pub fn pack(&self) -> Result<CodebookWeight, PackError> {
        let GgmlMxfp4 { k, n, blocks } = *self;
        multiple("k", MXFP4_ROWS, k)?;
        let groups = k / MXFP4_ROWS;
        let bytes = product([product([n, groups]), MXFP4_BYTES]);
        length("bytes of blocks", bytes, blocks.len())?;
        let block = |group: usize, column: usize| {
            &blocks[(column * groups + group) * MXFP4_BYTES..][..MXFP4_BYTES]
        };
        let octets = |i: usize, column: usize| {
            let first = i % 4 * 8; // Of the block's codes.
            let bytes = &block(i / 4, column)[1 + first % 16..][..8];
            bytes.iter().enumerate().fold(0, |word, (i, &byte)| {
                word | u32::from(byte >> (first / 16 * 4) & 15) << (4 * i)
            })
        };
        let scale = |group: usize, column: usize| block(group, column)[0];
        e2m1(k, n, MXFP4_ROWS)?.pack(octets, scale, BlockScales::E8m0)
    }
}

/// A layer of NVFP4, as ModelOpt has it, or compressed-tensors in format `nvfp4-pack-quantized`. The
/// value is `s·q`, with `q` of type e2m1 and `s` a group's scale times, or over, that of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Nvfp4<'a> {
    /// Rows of the packed type: inputs; a multiple of 16.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// `[n, k / 2]`: the first of two codes in the lower half.
    pub weight: &'a [u8],
    /// `[n, k / 16]`, of type e4m3, row by row: not in the order that Blackwell's tensor cores take.
    pub weight_scale: &'a [u8],
    /// ModelOpt's `weight_scale_2`, or compressed-tensors' `weight_global_scale`.
    pub matrix_scale: MatrixScale,
}

impl Nvfp4<'_> {
    /// The layer in the packed type.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Scale`] where a group's scale and that of the matrix make no finite number,
    /// [`PackError::Limit`].
    pub fn pack(&self) -> Result<CodebookWeight, PackError> {
        let Nvfp4 { k, n, .. } = *self;
        multiple("k", NVFP4_ROWS, k)?;
        let groups = k / NVFP4_ROWS;
        length("weight", product([n, k / 2]), self.weight.len())?;
        length(
            "weight_scale",
            product([n, groups]),
            self.weight_scale.len(),
        )?;
        let octets = |i: usize, column: usize| octet(self.weight, column * (k / 8) + i);
        let scale = |group: usize, column: usize| self.weight_scale[column * groups + group];
        let matrix = self.matrix_scale;
        let wrap = |bits| BlockScales::E4m3 { bits, matrix };
        e2m1(k, n, NVFP4_ROWS)?.pack(octets, scale, wrap)
    }
}

fn e2m1(k: usize, n: usize, rows: usize) -> Result<Part, PackError> {
    Ok(Part {
        extent: pack::extent(k, n, Some(rows))?,
        codebook: Codebook::E2m1,
    })
}

/// Eight codes of four bytes, the first in the lowest bits.
fn octet(bytes: &[u8], i: usize) -> u32 {
    let bytes = &bytes[4 * i..][..4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
