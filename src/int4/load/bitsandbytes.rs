//! bitsandbytes: tables of normal quantiles or small floats, and scales that are quantized themselves.

use super::{length, multiple, product};
use crate::int4::codebook_weight::Part;
use crate::int4::{BlockScales, Codebook, CodebookWeight, PackError, pack};

/// Scales that share a scale, where they are quantized themselves.
pub const NESTED_BLOCK: usize = 256;
/// Numbers that a quantized scale can be, before it is scaled.
pub const NESTED_CODES: usize = 256;

/// Which table codes are places in; `quant_type` in a checkpoint's `quant_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BnbType {
    /// `"nf4"`.
    Nf4,
    /// `"fp4"`.
    Fp4,
}

/// The largest magnitude of each block, by which its values are scaled.
#[derive(Clone, Copy, Debug)]
pub enum Absmax<'a> {
    /// `absmax`, `[n, k / blocksize]`.
    Plain(&'a [f32]),
    /// Quantized to eight bits (double quantization): `nested_quant_map[absmax]·nested_absmax +
    /// nested_offset`, rounded to `f32` twice.
    Nested {
        /// `absmax`, `[n, k / blocksize]`.
        absmax: &'a [u8],
        /// `nested_quant_map`, `[256]`.
        quant_map: &'a [f32],
        /// `nested_absmax`: one for 256 of `absmax`, in the order of memory.
        nested_absmax: &'a [f32],
        /// `nested_offset` in `quant_state`.
        offset: f32,
    },
}

/// A layer as bitsandbytes stores it, in four bits. The value is `absmax·table[q]`.
#[derive(Clone, Copy, Debug)]
pub struct BitsAndBytes<'a> {
    /// Rows of the packed type: inputs; a multiple of `blocksize`. The format has blocks that go on
    /// from one output to the next as well, which are refused.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// Which table.
    pub quant_type: BnbType,
    /// `blocksize` in `quant_state`: 64, unless asked for otherwise.
    pub blocksize: usize,
    /// `weight`, `[n, k / 2]`, whatever shape it is stored with: the first of two codes in the upper
    /// half.
    pub weight: &'a [u8],
    /// Scales.
    pub absmax: Absmax<'a>,
}

impl BitsAndBytes<'_> {
    /// The layer in the packed type.
    ///
    /// # Errors
    /// [`PackError::Group`] for blocks of other than 16, 32, or a multiple of 64 codes;
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Scale`], [`PackError::Limit`].
    pub fn pack(&self) -> Result<CodebookWeight, PackError> {
        let BitsAndBytes {
            k, n, blocksize, ..
        } = *self;
        let extent = pack::extent(k, n, Some(blocksize))?;
        multiple("k", blocksize, k)?;
        multiple("k", 8, k)?;
        let groups = k / blocksize;
        length("weight", product([n, k / 2]), self.weight.len())?;
        let blocks = product([n, groups]);
        match self.absmax {
            Absmax::Plain(absmax) => length("absmax", blocks, absmax.len())?,
            Absmax::Nested {
                absmax,
                quant_map,
                nested_absmax,
                ..
            } => {
                length("absmax", blocks, absmax.len())?;
                length("nested_quant_map", NESTED_CODES, quant_map.len())?;
                let nested = blocks.div_ceil(NESTED_BLOCK);
                length("nested_absmax", nested, nested_absmax.len())?;
            }
        }
        let octets = |i: usize, column: usize| {
            let bytes = &self.weight[4 * (column * (k / 8) + i)..][..4];
            let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            (word & 0x0f0f_0f0f) << 4 | word >> 4 & 0x0f0f_0f0f
        };
        let scale = |group: usize, column: usize| {
            let block = column * groups + group;
            match self.absmax {
                Absmax::Plain(absmax) => absmax[block],
                Absmax::Nested {
                    absmax,
                    quant_map,
                    nested_absmax,
                    offset,
                } => {
                    let code = quant_map[usize::from(absmax[block])];
                    code * nested_absmax[block / NESTED_BLOCK] + offset
                }
            }
        };
        let codebook = match self.quant_type {
            BnbType::Nf4 => Codebook::Nf4,
            BnbType::Fp4 => Codebook::Fp4,
        };
        Part { extent, codebook }.pack(octets, scale, BlockScales::F32)
    }
}
