//! Packing, on all processors.

use std::ops::Range;

use half::{bf16, f16};

use super::layout::{DEPTH, Extent, UNIT, UNIT_WORDS};
use super::{Codes, Int4Weight, PackError};
use crate::dtype::DType;

/// What is packed, but for the elements themselves.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub k: usize,
    pub n: usize,
    /// `None`: whole columns.
    pub group: Option<usize>,
    pub meaning: Codes,
    pub scale_dtype: DType,
    /// Which row each packed row is; empty if they are in order.
    pub order: Vec<u32>,
}

/// The most of `k` and `n`, as for other matrix products.
const MOST: usize = i32::MAX as usize - 1024;
/// The most words of codes: byte addresses within them are far below 2⁶³.
const MOST_WORDS: usize = 1 << 40;

impl Source {
    pub fn extent(&self) -> Result<Extent, PackError> {
        extent(self.k, self.n, self.group)
    }
}

/// Sizes, if there can be such; a `group` of `None` is a whole column.
pub(super) fn extent(k: usize, n: usize, group: Option<usize>) -> Result<Extent, PackError> {
    for (what, got) in [("rows", k), ("columns", n)] {
        limit(what, got, MOST)?;
    }
    let whole = k.next_multiple_of(DEPTH).max(DEPTH);
    let group = match group {
        None => whole,
        Some(got) if got == 16 || got == 32 || got > 0 && got.is_multiple_of(DEPTH) => {
            got.min(whole)
        }
        // All rows, of which there happen to be so many.
        Some(got) if got > 0 && got == k => whole,
        Some(got) => return Err(PackError::Group { got }),
    };
    let extent = Extent { k, n, group };
    let words = (extent.padded_k() as u128 / 8) * extent.padded_n() as u128;
    limit(
        "words of codes",
        usize::try_from(words).unwrap_or(usize::MAX),
        MOST_WORDS,
    )?;
    Ok(extent)
}

fn limit(what: &'static str, got: usize, expected: usize) -> Result<(), PackError> {
    if got <= expected {
        return Ok(());
    }
    Err(PackError::Limit {
        what,
        expected,
        got,
    })
}

/// The codes of a matrix, eight rows at a time.
pub(super) trait Octets: Sync {
    /// Those of packed rows `8i` to `8i + 7` of a column, the first in bits 0 to 3; those of rows
    /// that do not exist do not matter.
    fn octet(&self, i: usize, column: usize) -> u32;

    /// The same for eight neighbouring columns, all of which exist.
    fn octets(&self, i: usize, column: usize) -> [u32; 8] {
        std::array::from_fn(|more| self.octet(i, column + more))
    }
}

impl<F: Fn(usize, usize) -> u32 + Sync> Octets for F {
    fn octet(&self, i: usize, column: usize) -> u32 {
        self(i, column)
    }
}

/// Packs a matrix.
///
/// `scale(group, column)`: bits of the type. `zero(group, column)`: asked for only where there are
/// zero points.
pub(super) fn pack(
    source: Source,
    octets: impl Octets,
    scale: impl Fn(usize, usize) -> u16,
    zero: impl Fn(usize, usize) -> u8,
) -> Result<Int4Weight, PackError> {
    let extent = source.extent()?;
    let mut weight = Int4Weight {
        extent,
        meaning: source.meaning,
        scale_dtype: source.scale_dtype,
        codes: Vec::new(),
        scales: vec![0; extent.scales()],
        zeros: Vec::new(),
        order: source.order,
    };
    let existing = extent.existing_groups();
    for group in 0..existing {
        for column in 0..extent.n {
            let bits = scale(group, column);
            let got = match weight.scale_dtype {
                DType::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            };
            if !got.is_finite() {
                return Err(PackError::Scale { group, column, got });
            }
            weight.scales[extent.scale_at(group, column)] = bits;
        }
    }
    if weight.meaning == Codes::ZeroPoints {
        weight.zeros = vec![0; extent.zero_words()];
        for group in 0..existing {
            for column in 0..extent.n {
                let (word, shift) = extent.zero_at(group, column);
                weight.zeros[word] |= u32::from(zero(group, column) & 15) << shift;
            }
        }
    }
    weight.codes = codes(extent, &octets, &|group, column| weight.zero(group, column));
    Ok(weight)
}

/// The units of all columns, 32 columns at a time, on all processors. `nothing`: the code that stands
/// for zero in a group and a column.
pub(super) fn codes(
    extent: Extent,
    octets: &impl Octets,
    nothing: &(impl Fn(usize, usize) -> u8 + Sync),
) -> Vec<u32> {
    let mut all = vec![0; extent.code_words()];
    let strip = (extent.padded_k() / UNIT * UNIT_WORDS).max(1);
    let strips = all.len() / strip;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // A thread costs as much as packing a few kilobytes.
    let each = strips.div_ceil(threads).max((1 << 14) / strip).max(1);
    let pack_strips = |first: usize, words: &mut [u32]| {
        for (i, words) in words.chunks_mut(strip).enumerate() {
            for (unit, words) in words.chunks_mut(UNIT_WORDS).enumerate() {
                pack_unit(extent, octets, nothing, [unit, (first + i) * UNIT], words);
            }
        }
    };
    std::thread::scope(|scope| {
        let mut parts = all.chunks_mut(each * strip).enumerate();
        let own = parts.next(); // For this thread.
        for (i, words) in parts {
            let pack_strips = &pack_strips;
            scope.spawn(move || pack_strips(i * each, words));
        }
        if let Some((_, words)) = own {
            pack_strips(0, words);
        }
    });
    all
}

/// One unit: 32 rows from `32·unit` and 32 columns from `first`.
fn pack_unit(
    extent: Extent,
    octets: &impl Octets,
    nothing: &impl Fn(usize, usize) -> u8,
    [unit, first]: [usize; 2],
    words: &mut [u32],
) {
    let Extent { k, n, .. } = extent;
    let is_whole = UNIT * unit + UNIT <= k && first + UNIT <= n;
    for word in 0..4 {
        let (row, column) = (4 * unit + word / 2 * 2, first + word % 2 * 16);
        // The octets of the word's four pairs: two of rows by two of columns.
        let pairs: [[u32; 8]; 4] = std::array::from_fn(|pair| {
            let (row, column) = (row + pair % 2, column + pair / 2 * 8);
            match is_whole {
                true => octets.octets(row, column),
                false => {
                    std::array::from_fn(|g| padded(extent, octets, nothing, [row, column + g]))
                }
            }
        });
        for g in 0..8 {
            let lanes = interleave(pairs.map(|octets| octets[g]));
            for (t, packed) in lanes.into_iter().enumerate() {
                words[(4 * g + t) * 4 + word] = packed;
            }
        }
    }
}

/// The words of four lanes, of the octets of four pairs: lane `t` has rows `2t` and `2t + 1`.
fn interleave(octets: [u32; 4]) -> [u32; 4] {
    const EVEN: u32 = 0x0f0f_0f0f; // Rows.
    let [a, b, c, d] = octets;
    // Byte `t` of each becomes one of lane `t`.
    let bytes = [
        a & EVEN | (b & EVEN) << 4,
        c & EVEN | (d & EVEN) << 4,
        a >> 4 & EVEN | b & !EVEN,
        c >> 4 & EVEN | d & !EVEN,
    ];
    std::array::from_fn(|t| {
        let byte = |i: usize| (bytes[i] >> (8 * t) & 0xff) << (8 * i);
        byte(0) | byte(1) | byte(2) | byte(3)
    })
}

/// The octet with codes that stand for zero where no rows or columns exist.
fn padded(
    extent: Extent,
    octets: &impl Octets,
    nothing: &impl Fn(usize, usize) -> u8,
    [row, column]: [usize; 2],
) -> u32 {
    let Extent { k, n, group } = extent;
    if 8 * row + 8 <= k && column < n {
        return octets.octet(row, column);
    }
    let nothing = u32::from(nothing(8 * row / group, column)) * 0x1111_1111;
    if 8 * row >= k || column >= n {
        return nothing;
    }
    let exist = (1 << (4 * (k - 8 * row))) - 1;
    octets.octet(row, column) & exist | nothing & !exist
}

/// Whether there are such rows or columns.
pub(super) fn check_range(
    what: &'static str,
    expected: usize,
    range: &Range<usize>,
) -> Result<(), PackError> {
    match range.start <= range.end && range.end <= expected {
        true => Ok(()),
        false => Err(PackError::Range {
            what,
            expected,
            got: range.clone(),
        }),
    }
}

/// Whether rows begin and end with groups. A whole column's may be cut anywhere.
pub(super) fn check_groups(extent: Extent, range: &Range<usize>) -> Result<(), PackError> {
    let whole = |row: usize| row.is_multiple_of(extent.group) || row == extent.k;
    match extent.groups() <= 1 || whole(range.start) && whole(range.end) {
        true => Ok(()),
        false => Err(PackError::CutGroup {
            expected: extent.group,
            got: range.clone(),
        }),
    }
}

/// The octet `i` of a column, of packed codes from row `first` on; rows beyond padding repeat the
/// last.
pub(super) fn octet(extent: Extent, codes: &[u32], first: usize, i: usize, column: usize) -> u32 {
    (0..8).fold(0, |octet, more| {
        let row = (first + 8 * i + more).min(extent.padded_k() - 1);
        let (word, shift) = extent.code_at(row, column);
        octet | (codes[word] >> shift & 15) << (4 * more)
    })
}
