//! AWQ: codes and zero points packed along N, in an order of its own.

use super::{Scale, groups, length, multiple, pack_zero_points, product};
use crate::int4::pack::Octets;
use crate::int4::{Int4Weight, PackError};

/// A layer as AWQ checkpoints (`version: "gemm"`) have it. An `int32` holds eight neighbouring
/// columns: from the lowest bits on columns 0, 2, 4, 6, 1, 3, 5, 7. The value is
/// `scale·(q - zero)`.
#[derive(Clone, Copy, Debug)]
pub struct Awq<'a, S> {
    /// Rows: inputs.
    pub k: usize,
    /// Columns: outputs; a multiple of 8.
    pub n: usize,
    /// Rows of a group; `None` for -1, whole columns.
    pub group: Option<usize>,
    /// `[k, n / 8]`.
    pub qweight: &'a [i32],
    /// `[groups, n / 8]`.
    pub qzeros: &'a [i32],
    /// `[groups, n]`.
    pub scales: &'a [S],
}

/// In which nibble of a word each of its eight columns is.
const NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl<S: Scale> Awq<'_, S> {
    /// The layer in the packed type.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Group`], [`PackError::Scale`], [`PackError::Limit`].
    pub fn pack(&self) -> Result<Int4Weight, PackError> {
        let Awq { k, n, .. } = *self;
        let (groups, _) = groups(k, self.group)?;
        multiple("n", 8, n)?;
        let words = n / 8;
        length("qweight", product([k, words]), self.qweight.len())?;
        length("qzeros", product([groups, words]), self.qzeros.len())?;
        length("scales", product([groups, n]), self.scales.len())?;
        let octets = Rows {
            words: self.qweight,
            of_row: words,
        };
        let zero = |group: usize, column: usize| {
            let word = self.qzeros[group * words + column / 8] as u32;
            (word >> (4 * NIBBLE[column % 8]) & 15) as u8
        };
        let scale = |group: usize, column: usize| self.scales[group * n + column];
        pack_zero_points(k, n, self.group, Vec::new(), octets, scale, zero)
    }
}

/// Codes `[k, n]`, eight columns in each word.
struct Rows<'a> {
    words: &'a [i32],
    of_row: usize,
}

impl Octets for Rows<'_> {
    fn octet(&self, i: usize, column: usize) -> u32 {
        self.octets(i, column / 8 * 8)[column % 8]
    }

    fn octets(&self, i: usize, column: usize) -> [u32; 8] {
        let rows = self.words.chunks(self.of_row).skip(8 * i);
        let mut words = [0; 8];
        for (word, row) in words.iter_mut().zip(rows) {
            *word = row[column / 8] as u32;
        }
        let columns = transpose(words);
        NIBBLE.map(|nibble| columns[nibble])
    }
}

/// Nibble `i` of word `j` becomes nibble `j` of word `i`.
fn transpose(mut words: [u32; 8]) -> [u32; 8] {
    // Ever larger blocks change places across the diagonal.
    for (distance, mask) in [(1, 0x0f0f_0f0f), (2, 0x00ff_00ff), (4, 0x0000_ffff)] {
        for i in (0..8).filter(|i| i & distance == 0) {
            let swap = (words[i] >> (4 * distance) ^ words[i + distance]) & mask;
            words[i] ^= swap << (4 * distance);
            words[i + distance] ^= swap;
        }
    }
    words
}
