//! The packed type.

use half::f16;

use super::PackError;
use super::format::{BlockFormat, PART, Part};
use super::layout::{Extent, Scales, UNIT, UNIT_WORDS};

/// A matrix `[k, n]` of blocks. Columns are a layer's outputs.
///
/// The layout is that of [`layout`](super::layout): made for kernels. Nothing in it is rounded, and
/// scales are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeight {
    format: BlockFormat,
    extent: Extent,
    codes: Vec<u32>,
    scales: Vec<u32>,
}

/// The most of `k` and `n`, as for other matrix products.
const MOST: usize = i32::MAX as usize - 1024;
/// The most words of codes: byte addresses within them are far below 2⁶³.
const MOST_WORDS: u128 = 1 << 40;

impl BlockWeight {
    /// Packs a tensor of a GGUF file, on all processors.
    ///
    /// `k` is its innermost axis, `n` the other; `blocks` are its bytes, `[n, k / rows]` blocks.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit the format or
    /// each other, [`PackError::Limit`]; [`PackError::Scale`] for a scale or an offset that is no
    /// finite number, with the group of 32 rows that it is first needed for.
    pub fn pack(format: BlockFormat, k: usize, n: usize, blocks: &[u8]) -> Result<Self, PackError> {
        let extent = extent(format, k, n)?;
        let of_column = k / format.rows();
        let expected = n.saturating_mul(of_column).saturating_mul(format.bytes());
        let got = blocks.len();
        if got != expected {
            return Err(PackError::Length {
                what: "bytes of blocks",
                expected,
                got,
            });
        }
        let source = Source {
            format,
            extent,
            of_column,
            blocks,
        };
        let mut weight = BlockWeight {
            format,
            extent,
            codes: vec![0; extent.code_words()],
            scales: vec![0; extent.scale_words()],
        };
        match extent.code_words() {
            0 => Ok(weight),
            _ => source.pack(&mut weight).map(|()| weight),
        }
    }

    /// What it was packed from.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Rows: a layer's inputs.
    pub fn k(&self) -> usize {
        self.extent.k
    }

    /// Columns: a layer's outputs.
    pub fn n(&self) -> usize {
        self.extent.n
    }

    /// Sizes, and where things lie.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Codes, in the packed layout.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Scales and offsets, in the packed layout.
    pub fn scales(&self) -> &[u32] {
        &self.scales
    }

    /// Bytes of codes, scales and offsets.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.len() + self.scales.len())
    }

    /// The code of a row and a column: `q`.
    pub fn code(&self, row: usize, column: usize) -> i16 {
        let (word, shift) = self.extent.code_at(row, column);
        let mask = (1 << self.extent.bits) - 1;
        (self.codes[word] >> shift & mask) as i16 - i16::from(self.format.zero())
    }

    fn half(&self, at: usize) -> f32 {
        f16::from_bits((self.scales[at / 2] >> (at % 2 * 16)) as u16).to_f32()
    }

    fn byte(&self, at: usize) -> u8 {
        (self.scales[at / 4] >> (at % 4 * 8)) as u8
    }

    /// The scale of a row's group in a column: `s`. Exact.
    pub fn scale(&self, row: usize, column: usize) -> f32 {
        let at = self.extent.scale_at(row, column);
        match (self.extent.scales, self.extent.super_at(row, column)) {
            (Scales::Bytes, Some(upper)) => {
                self.half(upper) * f32::from(self.byte(at).wrapping_sub(128) as i8)
            }
            (_, Some(upper)) => self.half(upper) * f32::from(self.byte(at)),
            (_, None) => self.half(at),
        }
    }

    /// The offset of a row's group in a column: `b`, or zero where the format has none. Exact.
    pub fn offset(&self, row: usize, column: usize) -> f32 {
        let Some(at) = self.extent.offset_at(row, column) else {
            return 0.0;
        };
        match self.extent.super_at(row, column) {
            Some(upper) => self.half(upper + 4) * f32::from(self.byte(at)),
            None => self.half(at),
        }
    }

    /// The weights `[k, n]`, row by row, as the format defines them in `f32`: `s·q` is exact, adding
    /// `b` rounds once.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.k() * self.n());
        for row in 0..self.k() {
            all.extend((0..self.n()).map(|column| {
                let product = self.scale(row, column) * f32::from(self.code(row, column));
                match self.extent.scales.has_offsets() {
                    true => product + self.offset(row, column),
                    false => product, // Whose zero has a sign.
                }
            }));
        }
        all
    }
}

pub(super) fn extent(format: BlockFormat, k: usize, n: usize) -> Result<Extent, PackError> {
    for (what, got) in [("rows", k), ("columns", n)] {
        if got > MOST {
            return Err(PackError::Limit {
                what,
                expected: MOST,
                got,
            });
        }
    }
    if !k.is_multiple_of(format.rows()) {
        return Err(PackError::Multiple {
            what: "k",
            expected: format.rows(),
            got: k,
        });
    }
    let (bits, scales) = (format.bits(), format.scales());
    let extent = Extent { k, n, bits, scales };
    let words = extent.padded_k() as u128 * extent.padded_n() as u128 * bits as u128 / 32;
    if words > MOST_WORDS {
        return Err(PackError::Limit {
            what: "words of codes",
            expected: MOST_WORDS as usize,
            got: usize::try_from(words).unwrap_or(usize::MAX),
        });
    }
    Ok(extent)
}

/// Blocks whose length is right.
struct Source<'a> {
    format: BlockFormat,
    extent: Extent,
    /// Blocks of a column.
    of_column: usize,
    blocks: &'a [u8],
}

impl Source<'_> {
    /// Strips of 32 columns, shared by all processors.
    fn pack(&self, weight: &mut BlockWeight) -> Result<(), PackError> {
        let strips = self.extent.strip_units();
        let (code_words, scale_words) = (weight.codes.len() / strips, weight.scales.len() / strips);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // A thread costs as much as packing a few kilobytes.
        let each = strips.div_ceil(threads).max((1 << 14) / code_words).max(1);
        let shares = (weight.codes.chunks_mut(each * code_words))
            .zip(weight.scales.chunks_mut(each * scale_words));
        let pack_share = |first: usize, (codes, scales): (&mut [u32], &mut [u32])| {
            let strips = codes
                .chunks_mut(code_words)
                .zip(scales.chunks_mut(scale_words));
            for (i, (codes, scales)) in strips.enumerate() {
                self.pack_strip((first + i) * UNIT, codes, scales)?;
            }
            Ok(())
        };
        let mut results = vec![Ok(()); strips.div_ceil(each)];
        std::thread::scope(|scope| {
            let mut shares = results.iter_mut().zip(shares).enumerate();
            let own = shares.next(); // For this thread.
            for (i, (result, share)) in shares {
                let pack_share = &pack_share;
                scope.spawn(move || *result = pack_share(i * each, share));
            }
            if let Some((_, (result, share))) = own {
                *result = pack_share(0, share);
            }
        });
        results.into_iter().collect() // The first error.
    }

    /// 32 columns from `first` on, of which some may not exist.
    fn pack_strip(
        &self,
        first: usize,
        codes: &mut [u32],
        scales: &mut [u32],
    ) -> Result<(), PackError> {
        let Extent { k, n, .. } = self.extent;
        let (rows, bytes) = (self.format.rows(), self.format.bytes());
        let nothing = Part {
            codes: [self.format.zero(); PART],
            ..Part::default()
        };
        for column in 0..UNIT {
            for part in 0..self.extent.padded_k() / PART {
                let row = PART * part;
                if first + column >= n || row >= k {
                    self.put_codes(codes, row, column, &nothing);
                    continue;
                }
                let block = (first + column) * self.of_column + row / rows;
                let block = &self.blocks[block * bytes..][..bytes];
                let read = self.format.part(block, row % rows / PART);
                for bits in read.halves {
                    let got = f16::from_bits(bits).to_f32();
                    if !got.is_finite() {
                        return Err(PackError::Scale {
                            group: part,
                            column: first + column,
                            got,
                        });
                    }
                }
                self.put_codes(codes, row, column, &read);
                self.put_scales(scales, row, column, &read);
            }
        }
        Ok(())
    }

    fn put_codes(&self, words: &mut [u32], row: usize, column: usize, part: &Part) {
        for (step, codes) in part.codes.chunks(16).enumerate() {
            let row = row + 16 * step;
            // Four lanes' words: each has two neighbouring rows, and those eight further.
            let (first, shift) = self.extent.code_at(row, column);
            let bits = self.extent.bits as u32;
            for lane in 0..4 {
                let at = |row: usize| u32::from(codes[2 * lane + row]);
                let word = at(0) | at(8) << bits | at(1) << 16 | at(9) << (16 + bits);
                words[first + 4 * lane] |= word << shift;
            }
        }
    }

    fn put_scales(&self, words: &mut [u32], row: usize, column: usize, part: &Part) {
        let extent = self.extent;
        let mut half = |at: usize, bits: u16| words[at / 2] |= u32::from(bits) << (at % 2 * 16);
        let [scale, offset] = part.halves;
        if let Some(at) = extent.super_at(row, column) {
            if row.is_multiple_of(self.format.rows()) {
                half(at, scale);
                if extent.scales.has_offsets() {
                    half(at + 4, offset);
                }
            }
        } else {
            half(extent.scale_at(row, column), scale);
            if let Some(at) = extent.offset_at(row, column) {
                half(at, offset);
            }
            return;
        }
        let mut byte = |at: usize, bits: u8| words[at / 4] |= u32::from(bits) << (at % 4 * 8);
        let [first, second] = part.bytes;
        match extent.offset_at(row, column) {
            Some(at) => {
                byte(extent.scale_at(row, column), first);
                byte(at, second);
            }
            None => {
                byte(extent.scale_at(row, column), first ^ 128);
                byte(extent.scale_at(row + 16, column), second ^ 128);
            }
        }
    }
}

// Words of a unit are what `put_codes` steps over.
const _: () = assert!(UNIT_WORDS == 32 * 4);
