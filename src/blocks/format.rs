//! The formats: what a block's bytes mean.

use super::layout::Scales;

/// A type of quantised tensors of GGUF files. Rows of a column, along K, come in blocks; a value is
/// `s·q`, or `s·q + b`.
///
/// | type | rows and bytes of a block | code `q` | scale `s` | offset `b` | packed as |
/// |---|---|---|---|---|---|
/// | `Q4_0` | 32, 18 | 4 bits, less 8 | `f16` of 32 rows | | 4 bits |
/// | `Q4_1` | 32, 20 | 4 bits | `f16` of 32 rows | `f16` | 4 bits |
/// | `Q5_0` | 32, 22 | 5 bits, less 16 | `f16` of 32 rows | | 8 bits |
/// | `Q5_1` | 32, 24 | 5 bits | `f16` of 32 rows | `f16` | 8 bits |
/// | `Q8_0` | 32, 34 | 8 bits, signed | `f16` of 32 rows | | 8 bits |
/// | `Q4_K` | 256, 144 | 4 bits | `f16` × 6 bits, of 32 rows | −`f16` × 6 bits | 4 bits |
/// | `Q5_K` | 256, 176 | 5 bits | `f16` × 6 bits, of 32 rows | −`f16` × 6 bits | 8 bits |
/// | `Q6_K` | 256, 210 | 6 bits, less 32 | `f16` × 8 bits signed, of 16 rows | | 8 bits |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the table above")]
#[allow(non_camel_case_types, reason = "the names that everybody knows")]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl std::fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Rows that [`BlockFormat::part`] reads at a time.
pub(super) const PART: usize = 32;

/// A scale of one level, or the parts of one of two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// Those of 32 rows, as packed: not yet less what [`BlockFormat::zero`] says.
    pub codes: [u8; PART],
    /// `f16`: of the scale and of the offset.
    pub halves: [u16; 2],
    /// The lower level. With groups of 16 rows: of both groups; else of the scale and the offset.
    pub bytes: [u8; 2],
}

impl BlockFormat {
    /// All of them.
    pub const ALL: [BlockFormat; 8] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q4_K,
        BlockFormat::Q5_K,
        BlockFormat::Q6_K,
    ];

    /// Rows of a block.
    pub const fn rows(self) -> usize {
        match self {
            BlockFormat::Q4_K | BlockFormat::Q5_K | BlockFormat::Q6_K => 256,
            _ => 32,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            BlockFormat::Q4_0 => 18,
            BlockFormat::Q4_1 => 20,
            BlockFormat::Q5_0 => 22,
            BlockFormat::Q5_1 => 24,
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q4_K => 144,
            BlockFormat::Q5_K => 176,
            BlockFormat::Q6_K => 210,
        }
    }

    /// Bits of a packed code.
    pub const fn bits(self) -> usize {
        match self {
            BlockFormat::Q4_0 | BlockFormat::Q4_1 | BlockFormat::Q4_K => 4,
            _ => 8,
        }
    }

    /// What a group of rows has beside its codes.
    pub const fn scales(self) -> Scales {
        match self {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => Scales::Halves,
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => Scales::HalvesAndOffsets,
            BlockFormat::Q4_K | BlockFormat::Q5_K => Scales::BytesAndOffsets,
            BlockFormat::Q6_K => Scales::Bytes,
        }
    }

    /// The packed code that stands for zero. For codes of 8 bits always 128.
    pub const fn zero(self) -> u8 {
        match self {
            BlockFormat::Q4_0 => 8,
            BlockFormat::Q4_1 | BlockFormat::Q4_K => 0,
            _ => 128,
        }
    }

    /// The `part`-th 32 rows of a block.
    pub(super) fn part(self, block: &[u8], part: usize) -> Part {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        // Codes of 8 bits are stored with 128 added, less what the format subtracts.
        let codes = |code: &dyn Fn(usize) -> u8| std::array::from_fn(code);
        // Low halves of 16 bytes are rows 0 to 15, high halves 16 to 31.
        let nibble = |first: usize, i: usize| block[first + i % 16] >> (i / 16 * 4) & 15;
        let fifth = |first: usize, i: usize| (block[first + i / 8] >> (i % 8) & 1) << 4;
        let mut read = Part {
            halves: [half(0), 0],
            ..Part::default()
        };
        match self {
            BlockFormat::Q4_0 => read.codes = codes(&|i| nibble(2, i)),
            BlockFormat::Q4_1 => {
                read.halves[1] = half(2);
                read.codes = codes(&|i| nibble(4, i));
            }
            BlockFormat::Q5_0 => {
                read.codes = codes(&|i| (128u8 - 16) + (nibble(6, i) | fifth(2, i)));
            }
            BlockFormat::Q5_1 => {
                read.halves[1] = half(2);
                read.codes = codes(&|i| 128 + (nibble(8, i) | fifth(4, i)));
            }
            BlockFormat::Q8_0 => read.codes = codes(&|i| block[2 + i] ^ 128),
            BlockFormat::Q4_K | BlockFormat::Q5_K => {
                // Less the offset.
                read.halves[1] = half(2) ^ 0x8000;
                read.bytes = six_bits(&block[4..16], part);
                // 64 rows share 32 bytes: the first 32 rows have the low halves.
                let quants = if self == BlockFormat::Q4_K { 16 } else { 48 };
                let low = |i: usize| block[quants + part / 2 * 32 + i] >> (part % 2 * 4) & 15;
                read.codes = match self {
                    BlockFormat::Q4_K => codes(&low),
                    _ => codes(&|i| 128 + (low(i) | (block[16 + i] >> part & 1) << 4)),
                };
            }
            BlockFormat::Q6_K => {
                read.halves[0] = half(208);
                read.bytes = [block[192 + 2 * part], block[193 + 2 * part]];
                // 128 rows share 64 bytes of low halves and 32 of high pairs.
                let (upper, quarter) = (part / 4, part % 4);
                let low =
                    |i: usize| block[64 * upper + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                let high = |i: usize| (block[128 + 32 * upper + i] >> (2 * quarter) & 3) << 4;
                read.codes = codes(&|i| (128u8 - 32) + (low(i) | high(i)));
            }
        }
        read
    }
}

/// The scale and the offset of a part, of eight each in twelve bytes: four times six bits of each,
/// whose upper two bits belong to those of the other four.
fn six_bits(packed: &[u8], part: usize) -> [u8; 2] {
    match part {
        0..4 => [packed[part] & 63, packed[part + 4] & 63],
        _ => {
            let low = packed[part + 4];
            let upper = |byte: u8| byte >> 6 << 4;
            [
                low & 15 | upper(packed[part - 4]),
                low >> 4 | upper(packed[part]),
            ]
        }
    }
}
