//! `f16` and `bf16`: both are computed in `f32` and rounded once.
//!
//! Sums and products of halves round the same through `f32` as directly, since `f32` has more
//! than twice their precision and two bits. A fused multiply-add does not: [`fma_f16`] rounds its
//! intermediate to odd, and [`fma_bf16`] looks for the results where it matters.

use super::NAN16;

/// An `f16`'s value: exact.
#[inline(always)]
pub(crate) fn widen_f16(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    // 2^112 moves the exponent's bias; subnormal halves become normal on the way.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let top = if magnitude >= 0x7c00 << 13 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(scaled | top | u32::from(half & 0x8000) << 16)
}

/// A `bf16`'s value: exact.
#[inline(always)]
pub(crate) fn widen_bf16(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// Rounds to the nearest `f16`; NaN becomes 0x7fff.
#[inline(always)]
pub(crate) fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // To the 13 bits that go, add just under half, and one more if the last that stays is odd.
    let odd = magnitude >> 13 & 1;
    let normal = magnitude
        .wrapping_sub(0x3800_0000 - 0xfff)
        .wrapping_add(odd)
        >> 13;
    // Adding 0.5 leaves the multiples of 2^-24 in the low bits, rounded by the adder.
    let small = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    // Compared as signed numbers, which the vector units can.
    let as_signed = magnitude as i32;
    let finite = if as_signed < 0x3880_0000 {
        small
    } else {
        normal
    };
    let bounded = if as_signed >= 0x4780_0000 {
        0x7c00
    } else {
        finite
    };
    let result = if as_signed > 0x7f80_0000 {
        u32::from(NAN16)
    } else {
        bounded | sign
    };
    result as u16
}

/// Rounds to the nearest `bf16`; NaN becomes 0x7fff.
#[inline(always)]
pub(crate) fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let is_nan = (bits & 0x7fff_ffff) as i32 > 0x7f80_0000;
    (if is_nan { u32::from(NAN16) } else { rounded }) as u16
}

/// `a × b + c` of halves, in `f32` rounded to odd, which [`narrow_f16`] then rounds as if it were
/// exact. The product of two halves is exact in `f32`.
#[inline(always)]
pub(crate) fn fma_f16(a: f32, b: f32, c: f32) -> f32 {
    let product = a * b;
    let sum = product + c;
    // What the addition lost, exactly (Knuth's two-sum).
    let other = sum - product;
    let lost = (product - (sum - other)) + (c - other);
    let bits = sum.to_bits();
    // NaN where the sum is infinite, which is exact.
    let inexact = lost.abs() > 0.0;
    let towards_zero = (lost < 0.0) != (sum < 0.0);
    let moved = if towards_zero {
        bits.wrapping_sub(1)
    } else {
        bits | 1
    };
    f32::from_bits(if inexact && bits & 1 == 0 {
        moved
    } else {
        bits
    })
}

/// Whether `a × b + c` rounded to `f32` is half-way between two `bf16`, so that whatever that
/// rounding lost decides where it goes.
#[inline(always)]
pub(crate) fn is_bf16_tie(sum: f32) -> bool {
    sum.to_bits() & 0xffff == 0x8000
}

/// `a × b + c` of `bf16`, such that [`narrow_bf16`] rounds it right.
#[inline(always)]
pub(crate) fn fma_bf16(a: f32, b: f32, c: f32) -> f32 {
    let sum = a.mul_add(b, c);
    if is_bf16_tie(sum) {
        settle_bf16_tie(a, b, c, sum)
    } else {
        sum
    }
}

/// Moves a tie off its place if the exact result is not there.
#[cold]
pub(crate) fn settle_bf16_tie(a: f32, b: f32, c: f32, sum: f32) -> f32 {
    // The product is exact in f64, and the difference has the right sign: if the two are far
    // apart, the larger decides; if they are near, it is exact.
    let product = f64::from(a) * f64::from(b);
    let (c, sum64) = (f64::from(c), f64::from(sum));
    let lost = if product.abs() > c.abs() {
        (product - sum64) + c
    } else {
        (c - sum64) + product
    };
    let bits = sum.to_bits();
    let towards_zero = (lost < 0.0) != (sum < 0.0);
    if lost == 0.0 || lost.is_nan() {
        sum
    } else {
        f32::from_bits(if towards_zero { bits - 1 } else { bits + 1 })
    }
}

/// Replaces a subnormal `f16` by zero of its sign.
#[inline(always)]
pub(crate) fn flush_f16(half: u16) -> u16 {
    if half & 0x7c00 == 0 {
        half & 0x8000
    } else {
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::{Rounding::Nearest, soft};

    /// Halves with their neighbours in every exponent, and a sprinkling of others.
    fn samples(step: usize) -> Vec<u16> {
        (0..=u16::MAX)
            .filter(|h| (*h as usize).is_multiple_of(step) || (h & 0x3ff) < 3)
            .collect()
    }

    #[test]
    fn every_half_widens_and_comes_back() {
        for bits in 0..=u16::MAX {
            let oracle = half::f16::from_bits(bits).to_f32();
            let wide = widen_f16(bits);
            assert!(wide.to_bits() == oracle.to_bits() || wide.is_nan() && oracle.is_nan());
            let back = if wide.is_nan() { NAN16 } else { bits };
            assert_eq!(narrow_f16(wide), back);
            let wide = widen_bf16(bits);
            assert_eq!(narrow_bf16(wide), if wide.is_nan() { NAN16 } else { bits });
        }
    }

    #[test]
    fn narrowing_agrees_with_the_exact_rule() {
        let mut state = 7u32;
        let around_ties = (0..=u16::MAX).flat_map(|half| {
            let tie = (u32::from(half) << 13 | 0x1000).wrapping_add(0x3600_0000);
            [
                tie - 1,
                tie,
                tie + 1,
                u32::from(half) << 16 | 0x8000,
                u32::from(half) << 16 | 0x8001,
            ]
        });
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state
        });
        for bits in around_ties.chain(random.take(500_000)) {
            let value = f32::from_bits(bits);
            let exact = |format| soft::convert(f64::from(value), format, Nearest) as u16;
            assert_eq!(narrow_f16(value), exact(soft::F16), "{bits:#x}");
            assert_eq!(narrow_bf16(value), exact(soft::BF16), "{bits:#x}");
        }
    }

    #[test]
    fn sums_and_products_round_once() {
        for &a in &samples(521) {
            for &b in &samples(389) {
                let (x, y) = (widen_f16(a), widen_f16(b));
                let exact = |b: f32, c: f32| {
                    soft::fma(x.into(), b.into(), c.into(), soft::F16, Nearest) as u16
                };
                assert_eq!(narrow_f16(x + y), exact(1.0, y), "{a:#x} + {b:#x}");
                let zero = if x.is_sign_negative() != y.is_sign_negative() {
                    -0.0
                } else {
                    0.0
                };
                assert_eq!(narrow_f16(x * y), exact(y, zero), "{a:#x} * {b:#x}");
            }
        }
    }

    #[test]
    fn fused_multiply_adds_round_once() {
        let mut state = 3u64;
        for i in 0..2_000_000 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let mut h = [
                (state >> 48) as u16,
                (state >> 32) as u16,
                (state >> 16) as u16,
            ];
            if i % 2 == 0 {
                // Exponents near one another, where halves of the last place meet.
                h = h.map(|h| h & 0x8fff | 0x3000);
            }
            let [a, b, c] = h.map(widen_f16);
            let exact = soft::fma(a.into(), b.into(), c.into(), soft::F16, Nearest) as u16;
            assert_eq!(narrow_f16(fma_f16(a, b, c)), exact, "{h:x?}");
            let [a, b, c] = h.map(widen_bf16);
            let exact = soft::fma(a.into(), b.into(), c.into(), soft::BF16, Nearest) as u16;
            assert_eq!(narrow_bf16(fma_bf16(a, b, c)), exact, "{h:x?}");
        }
    }

    #[test]
    fn a_tie_of_bf16_is_settled_by_what_f32_cannot_hold() {
        // 1.0078125 × 1.0078125 has 15 bits; its tail makes a tie at bf16's last place likely.
        let (a, b) = (widen_bf16(0x3f80), widen_bf16(0x3f81));
        for c in [0x0001u16, 0x8001, 0x2000, 0xa000] {
            for scale in [0x3c00u16, 0x3b80] {
                let c = widen_bf16(c);
                let s = widen_bf16(scale);
                let exact =
                    soft::fma((a + s).into(), b.into(), c.into(), soft::BF16, Nearest) as u16;
                assert_eq!(narrow_bf16(fma_bf16(a + s, b, c)), exact);
            }
        }
    }
}
