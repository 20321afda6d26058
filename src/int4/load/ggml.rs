//! GGUF's Q4_0: blocks of 32 codes with a scale.

use half::f16;

use super::{length, multiple, pack_zero_points, product};
use crate::int4::{Int4Weight, PackError};

/// Rows of a block of Q4_0.
pub const Q4_0_ROWS: usize = 32;
/// Bytes of a block of Q4_0.
pub const Q4_0_BYTES: usize = 18;

/// A tensor of GGUF's type Q4_0. A block is an `f16` scale and 16 bytes, of which byte `i` holds code
/// `i` in its low and code `i + 16` in its high half. The value is `scale·(q - 8)`.
#[derive(Clone, Copy, Debug)]
pub struct Q4_0<'a> {
    /// Rows of the packed type: inputs, the tensor's innermost axis; a multiple of 32.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// `[n, k / 32]` blocks.
    pub blocks: &'a [u8],
}

impl Q4_0<'_> {
    /// The tensor in the packed type.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Scale`], [`PackError::Limit`].
    pub fn pack(&self) -> Result<Int4Weight, PackError> {
        let Q4_0 { k, n, blocks } = *self;
        multiple("k", Q4_0_ROWS, k)?;
        let groups = k / Q4_0_ROWS;
        let bytes = product([product([n, groups]), Q4_0_BYTES]);
        length("bytes of blocks", bytes, blocks.len())?;
        let block = |group: usize, column: usize| {
            &blocks[(column * groups + group) * Q4_0_BYTES..][..Q4_0_BYTES]
        };
        let octet = |octet: usize, column: usize| {
            let first = octet % 4 * 8; // Of the block's codes.
            let bytes = &block(octet / 4, column)[2 + first % 16..][..8];
            bytes.iter().enumerate().fold(0, |word, (i, &byte)| {
                word | u32::from(byte >> (first / 16 * 4) & 15) << (4 * i)
            })
        };
        let scale = |group: usize, column: usize| {
            let block = block(group, column);
            f16::from_le_bytes([block[0], block[1]])
        };
        pack_zero_points(k, n, Some(Q4_0_ROWS), Vec::new(), octet, scale, |_, _| 8)
    }
}
