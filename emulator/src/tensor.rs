//! How tensor cores add up: not as a chain of roundings, but in one step.
//!
//! All products and the accumulator are aligned to the largest exponent among them and cut off (not
//! rounded) below a fixed number of fraction bits; these are summed exactly, and the sum is rounded
//! once: cut off to `f32`, or to the nearest `f16`. A product's exponent is the sum of its factors'
//! exponents, without normalisation, and zero has the exponent -126, so that the product of zero
//! and a large number can push small terms out. The rule, the numbers of bits and the NaN are those
//! that MMA-Sim (arXiv 2511.10909) found by measurement; the vendor does not document them.

use crate::numerics::soft::{self, Exact};
use crate::numerics::{NAN32, Rounding};

/// Fraction bits of the significands here: as many as any format of factors has.
const FACTOR_BITS: i32 = 10;
/// Exponent that a zero has.
const ZERO_EXPONENT: i32 = -126;
/// The longest row of A.
const LONGEST: usize = 32;

/// What becomes of an exact sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Cut off to `f32` of this many fraction bits.
    Float { fraction: u32 },
    /// Rounded to the nearest `f16`.
    Half,
}

/// How a generation multiplies matrices of certain types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Fraction bits kept of each term.
    pub bits: i32,
    /// Products that are summed at once.
    pub block: usize,
    /// The least exponents of normal numbers in the formats of A, B and C.
    pub least: [i32; 3],
    pub output: Output,
}

/// A finite number as `significand * 2^(exponent - bits)`.
#[derive(Clone, Copy)]
struct Parts {
    significand: i32,
    exponent: i32,
}

/// Takes apart a number whose format has `bits` fraction bits and this least exponent.
#[inline(always)]
fn split(value: f32, bits: i32, least: i32) -> Parts {
    let raw = value.to_bits();
    let field = (raw >> 23 & 0xff) as i32;
    let hidden = if field == 0 { 0 } else { 1 << 23 };
    let fraction = (raw & 0x7f_ffff | hidden) as i32;
    let stored = field.max(1) - 127;
    let exponent = stored.max(least);
    let magnitude = fraction >> (23 - bits + (exponent - stored)).clamp(0, 31);
    Parts {
        significand: if raw >> 31 != 0 {
            -magnitude
        } else {
            magnitude
        },
        exponent: if fraction == 0 {
            ZERO_EXPONENT
        } else {
            exponent
        },
    }
}

/// C += A * B for 8 rows of A, row-major, and as many rows of B as A has columns (at most 32).
#[inline(always)]
pub(crate) fn multiply(rule: &Rule, a: &[f32], b: &[[f32; 8]], c: &mut [f32; 64]) {
    let depth = b.len().min(LONGEST);
    let mut columns = [[[0i32; 8]; 2]; LONGEST];
    for (column, row) in columns.iter_mut().zip(b) {
        for n in 0..8 {
            let parts = split(row[n], FACTOR_BITS, rule.least[1]);
            (column[0][n], column[1][n]) = (parts.significand, parts.exponent);
        }
    }
    for (row, sums) in a.chunks_exact(depth).zip(c.chunks_exact_mut(8)) {
        for first in (0..depth).step_by(rule.block) {
            let range = first..(first + rule.block).min(depth);
            let mut terms = [Parts {
                significand: 0,
                exponent: 0,
            }; LONGEST];
            for k in range.clone() {
                terms[k] = split(row[k], FACTOR_BITS, rule.least[0]);
            }
            let (total, largest) =
                aligned(rule, &terms[range.clone()], &columns[range.clone()], sums);
            let finite = row[range.clone()].iter().all(|a| a.is_finite());
            for n in 0..8 {
                let pairs = || {
                    row[range.clone()]
                        .iter()
                        .zip(&b[range.clone()])
                        .map(|(a, b)| (*a, b[n]))
                };
                let special =
                    !finite || !sums[n].is_finite() || pairs().any(|(_, b)| !b.is_finite());
                sums[n] = if special {
                    specials(pairs(), sums[n])
                } else {
                    // Exact: the sum has at most 34 bits.
                    finish(
                        rule.output,
                        total[n] as f64 * power_of_two(largest[n] - rule.bits),
                    )
                };
            }
        }
    }
}

/// The sums of the terms of 8 columns, cut off at `rule.bits` below the largest exponents, and these.
#[inline(always)]
fn aligned(
    rule: &Rule,
    row: &[Parts],
    columns: &[[[i32; 8]; 2]],
    c: &[f32],
) -> ([i64; 8], [i32; 8]) {
    let mut start = [Parts {
        significand: 0,
        exponent: 0,
    }; 8];
    let mut largest = [0; 8];
    for n in 0..8 {
        start[n] = split(c[n], 23, rule.least[2]);
        largest[n] = start[n].exponent;
    }
    for (a, [_, exponents]) in row.iter().zip(columns) {
        for n in 0..8 {
            largest[n] = largest[n].max(a.exponent + exponents[n]);
        }
    }
    let (up, down) = shifts(rule.bits - 23);
    let mut total = [0; 8];
    for n in 0..8 {
        total[n] = i64::from(cut(
            start[n].significand,
            up,
            down + largest[n] - start[n].exponent,
        ));
    }
    let (up, down) = shifts(rule.bits - 2 * FACTOR_BITS);
    for (a, [significands, exponents]) in row.iter().zip(columns) {
        for n in 0..8 {
            let product = a.significand * significands[n];
            let below = largest[n] - (a.exponent + exponents[n]);
            total[n] += i64::from(cut(product, up, down + below));
        }
    }
    (total, largest)
}

/// A shift to the left as one to the left and one to the right.
#[inline(always)]
fn shifts(left: i32) -> (i32, i32) {
    (left.max(0), (-left).max(0))
}

/// Shifts the magnitude to the left and then to the right.
#[inline(always)]
fn cut(value: i32, up: i32, down: i32) -> i32 {
    let magnitude = (value.unsigned_abs() << up) >> down.min(31);
    if value < 0 {
        -(magnitude as i32)
    } else {
        magnitude as i32
    }
}

/// The sum where there are infinities or NaNs: finite values have no say.
#[cold]
fn specials(pairs: impl Iterator<Item = (f32, f32)>, c: f32) -> f32 {
    let products = pairs.filter(|(a, b)| !a.is_finite() || !b.is_finite());
    let start = if c.is_finite() { 0.0 } else { c };
    let sum = products.fold(start, |sum, (a, b)| sum + a * b);
    if sum.is_nan() {
        f32::from_bits(NAN32)
    } else {
        sum
    }
}

/// Rounds an exact sum; one that vanishes is positive.
#[inline(always)]
fn finish(output: Output, value: f64) -> f32 {
    match output {
        Output::Float { fraction } => truncate(value, fraction),
        Output::Half => {
            let bits = Exact::from_f64(value).round(soft::F16, Rounding::Nearest) as u16;
            let rounded = half::f16::from_bits(bits).to_f32();
            if rounded == 0.0 { 0.0 } else { rounded }
        }
    }
}

/// Exact for all exponents that occur here.
#[inline(always)]
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent.clamp(-1022, 1023) + 1023) as u64) << 52)
}

/// To `f32` with this many fraction bits (less for subnormal numbers), towards zero; from 2^128 on
/// to infinity.
#[inline(always)]
fn truncate(value: f64, fraction: u32) -> f32 {
    let raw = value.to_bits();
    let sign = (raw >> 32) as u32 & 0x8000_0000;
    let exponent = (raw >> 52 & 0x7ff) as i32 - 1023;
    let magnitude = if exponent > 127 {
        return f32::from_bits(0x7f80_0000 | sign);
    } else if exponent >= -126 {
        ((exponent + 127) as u32) << 23 | (raw >> 29) as u32 & 0x7f_ffff
    } else {
        // In units of the smallest number.
        (value.abs() * power_of_two(149)) as u32
    };
    let magnitude = magnitude >> (23 - fraction) << (23 - fraction);
    f32::from_bits(if magnitude == 0 { 0 } else { sign | magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sum of products of halves, of which there are no more than 8.
    fn sum(pairs: &[(f32, f32)], c: f32, bits: i32) -> f32 {
        let rule = Rule {
            bits,
            block: 8,
            least: [-14, -14, -126],
            output: Output::Float { fraction: 23 },
        };
        let mut a = [0.0; 64];
        let mut b = [[0.0; 8]; 8];
        for (k, pair) in pairs.iter().enumerate() {
            (a[k], b[k][0]) = *pair;
        }
        let mut sums = [0.0; 64];
        sums[0] = c;
        multiply(&rule, &a, &b, &mut sums);
        sums[0]
    }

    #[test]
    fn exact_sums_are_exact() {
        assert_eq!(sum(&[(1.5, 2.0), (-0.5, 4.0)], 0.25, 24), 1.25);
        assert_eq!(sum(&[], -3.5, 24), -3.5);
        assert_eq!(sum(&[(0.0, 5.0)], 0.0, 24).to_bits(), 0);
        assert_eq!(sum(&[(-0.0, 5.0)], -0.0, 24).to_bits(), 0);
    }

    #[test]
    fn what_lies_below_the_kept_bits_is_cut_off() {
        // 1 + 2^-24 is a tie for rounding, and kept with 24 bits until the result is cut to f32.
        let tiny = 2f32.powi(-12);
        assert_eq!(sum(&[(tiny, tiny)], 1.0, 24), 1.0);
        let two = [(tiny, tiny), (tiny, tiny)];
        assert_eq!(sum(&two, 1.0, 24), 1.0 + 2f32.powi(-23));
        // With 23 bits (Volta), each is cut off before they could add up.
        assert_eq!(sum(&two, 1.0, 23), 1.0);
        // Towards zero for both signs.
        assert_eq!(sum(&[(-1.5 * tiny, tiny)], -1.0, 24), -1.0);
    }

    #[test]
    fn large_terms_that_cancel_take_small_ones_with_them() {
        let terms = [(4096.0, 8192.0), (-4096.0, 8192.0), (0.5, 1.0)];
        assert_eq!(sum(&terms, 0.0, 24), 0.0);
    }

    #[test]
    fn a_product_with_zero_has_an_exponent_too() {
        // 0 * 2^15 counts as 2^-111: next to it, 24 bits reach down to 2^-135.
        let small = 2f32.powi(-136);
        assert_eq!(sum(&[(0.0, 1.0)], small, 24), small);
        assert_eq!(sum(&[(0.0, 32768.0)], small, 24), 0.0);
    }

    #[test]
    fn overflow_is_infinite_only_from_the_next_power_of_two() {
        assert_eq!(truncate(f64::from(f32::MAX) * 1.000_000_01, 23), f32::MAX);
        assert_eq!(truncate(2f64.powi(128), 23), f32::INFINITY);
        assert_eq!(truncate(-(2f64.powi(128)), 23), f32::NEG_INFINITY);
        assert_eq!(truncate(-(2f64.powi(-150)), 23).to_bits(), 0);
        assert_eq!(truncate(1.0 + 2f64.powi(-14), 13), 1.0);
    }

    #[test]
    fn specials_are_specials() {
        let infinity = f32::INFINITY;
        assert_eq!(sum(&[(infinity, 1.0)], 1.0, 24), infinity);
        let both = [(infinity, 1.0), (infinity, -1.0)];
        assert_eq!(sum(&both, 1.0, 24).to_bits(), NAN32);
        assert_eq!(sum(&[(infinity, 0.0)], 1.0, 24).to_bits(), NAN32);
        assert_eq!(sum(&[(1.0, 1.0)], -infinity, 24), -infinity);
        assert_eq!(sum(&[(f32::NAN, 1.0)], 1.0, 24).to_bits(), NAN32);
    }
}
