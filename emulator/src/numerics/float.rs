//! `f32` and `f64` as PTX has them: flushing, saturation, NaNs, and directed rounding.

use super::{NAN32, Rounding, soft};

/// With `FTZ`, replaces a subnormal number by zero of its sign.
#[inline(always)]
pub(crate) fn flush<const FTZ: bool>(value: f32) -> f32 {
    let bits = value.to_bits();
    let is_small = bits & 0x7f80_0000 == 0;
    f32::from_bits(if FTZ && is_small {
        bits & 0x8000_0000
    } else {
        bits
    })
}

/// Makes any NaN the one that instructions return.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> f32 {
    // By bits: to the optimiser, any NaN of a floating operation is as good as another.
    let bits = value.to_bits();
    let is_nan = (bits & 0x7fff_ffff) as i32 > 0x7f80_0000;
    f32::from_bits(if is_nan { NAN32 } else { bits })
}

/// Limits to 0..=1; NaN and -0 become +0.
#[inline(always)]
pub(crate) fn saturate(value: f32) -> f32 {
    let low = if value > 0.0 { value } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}

/// What happens to a result: flush, then saturate or make its NaN canonical.
#[inline(always)]
pub(crate) fn finish<const FTZ: bool, const SAT: bool>(value: f32) -> f32 {
    let value = flush::<FTZ>(value);
    if SAT {
        saturate(value)
    } else {
        canonical(value)
    }
}

/// `finish` by values.
#[inline(always)]
pub(crate) fn finish_with(value: f32, ftz: bool, sat: bool) -> f32 {
    let value = if ftz { flush::<true>(value) } else { value };
    if sat {
        saturate(value)
    } else {
        canonical(value)
    }
}

/// The lesser or (`MAX`) greater; a number rather than NaN unless `NAN`; -0 is less than +0.
#[inline(always)]
pub(crate) fn extreme<const MAX: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let first = if MAX { a > b } else { a < b };
    let unequal = if first { a } else { b };
    // Equal numbers differ at most in the sign of a zero.
    let merged = if MAX {
        a.to_bits() & b.to_bits()
    } else {
        a.to_bits() | b.to_bits()
    };
    let number = if a == b {
        f32::from_bits(merged)
    } else {
        unequal
    };
    let with_a = if NAN { f32::from_bits(NAN32) } else { b };
    let with_b = if NAN { f32::from_bits(NAN32) } else { a };
    let one_nan = if b.is_nan() { with_b } else { number };
    canonical(if a.is_nan() { with_a } else { one_nan })
}

/// [`extreme`] for `f64`, whose NaNs keep their bits.
#[inline(always)]
pub(crate) fn extreme64<const MAX: bool>(a: f64, b: f64) -> f64 {
    let first = if MAX { a > b } else { a < b };
    let unequal = if first { a } else { b };
    let merged = if MAX {
        a.to_bits() & b.to_bits()
    } else {
        a.to_bits() | b.to_bits()
    };
    let number = if a == b {
        f64::from_bits(merged)
    } else {
        unequal
    };
    let one_nan = if b.is_nan() { a } else { number };
    if a.is_nan() { b } else { one_nan }
}

/// `value + lost` as `f32`, where `lost` is what the computation of `value` rounded off.
#[inline(always)]
fn narrow_directed(value: f64, lost: f64, rounding: Rounding) -> f32 {
    // Round to odd first: no later rounding then sees a tie or an exact result by mistake.
    let bits = value.to_bits();
    // NaN where the sum is infinite, which is exact.
    let inexact = lost.abs() > 0.0;
    let towards_zero = (lost < 0.0) != (value < 0.0);
    let moved = if towards_zero {
        bits.wrapping_sub(1)
    } else {
        bits | 1
    };
    let odd = f64::from_bits(if inexact && bits & 1 == 0 {
        moved
    } else {
        bits
    });
    let near = odd as f32;
    let back = f64::from(near);
    let step = match rounding {
        Rounding::Zero => back.abs() > odd.abs(),
        Rounding::Down => back > odd,
        Rounding::Up => back < odd,
        Rounding::Nearest | Rounding::Away => false,
    };
    let towards_zero = (near > 0.0) == (back > odd);
    let bits = near.to_bits();
    let stepped = if near == 0.0 {
        u32::from(rounding == Rounding::Down) << 31 | 1
    } else if towards_zero {
        bits.wrapping_sub(1)
    } else {
        bits.wrapping_add(1)
    };
    f32::from_bits(if step { stepped } else { bits })
}

/// `a × b + c` in a rounding known at run time.
#[inline(always)]
pub(crate) fn fma_directed(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let sum = product + c;
    let other = sum - product;
    let lost = (product - (sum - other)) + (c - other);
    let both_positive_zeros = product.to_bits() | c.to_bits() == 0;
    if sum == 0.0 && rounding == Rounding::Down && !both_positive_zeros {
        return -0.0;
    }
    narrow_directed(sum, lost, rounding)
}

/// `a × b` in a rounding known at run time.
#[inline(always)]
pub(crate) fn mul_directed(a: f32, b: f32, rounding: Rounding) -> f32 {
    narrow_directed(f64::from(a) * f64::from(b), 0.0, rounding)
}

/// `a ÷ b` in a rounding known at run time.
#[inline(always)]
pub(crate) fn div_directed(a: f32, b: f32, rounding: Rounding) -> f32 {
    f32::from_bits(soft::div(a.into(), b.into(), soft::F32, rounding) as u32)
}

/// The square root in a rounding known at run time.
#[inline(always)]
pub(crate) fn sqrt_directed(a: f32, rounding: Rounding) -> f32 {
    f32::from_bits(soft::sqrt(a.into(), soft::F32, rounding) as u32)
}

/// Rounds to an integer, in the format.
#[inline(always)]
pub(crate) fn integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest | Rounding::Away => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::Rounding::{Down, Nearest, Up, Zero};

    fn bits(value: f32) -> u32 {
        value.to_bits()
    }

    #[test]
    fn flushing_keeps_the_sign() {
        assert_eq!(bits(flush::<true>(-1e-40)), 0x8000_0000);
        assert_eq!(bits(flush::<true>(f32::MIN_POSITIVE)), 0x0080_0000);
        assert_eq!(flush::<false>(1e-40), 1e-40);
    }

    #[test]
    fn saturation() {
        for (value, expected) in [
            (f32::NAN, 0.0),
            (-0.0, 0.0),
            (-3.0, 0.0),
            (0.25, 0.25),
            (7.0, 1.0),
            (f32::INFINITY, 1.0),
        ] {
            assert_eq!(bits(saturate(value)), bits(expected), "{value}");
        }
    }

    #[test]
    fn extremes() {
        let max = extreme::<true, false>;
        let min = extreme::<false, false>;
        assert_eq!((bits(max(-0.0, 0.0)), bits(max(0.0, -0.0))), (0, 0));
        assert_eq!(
            (bits(min(-0.0, 0.0)), bits(min(0.0, -0.0))),
            (1 << 31, 1 << 31)
        );
        assert_eq!((max(f32::NAN, 1.0), min(1.0, f32::NAN)), (1.0, 1.0));
        assert_eq!(bits(max(f32::NAN, -f32::NAN)), NAN32);
        assert_eq!(bits(extreme::<true, true>(f32::NAN, 1.0)), NAN32);
        assert_eq!(bits(extreme::<false, true>(1.0, f32::NAN)), NAN32);
        assert_eq!(
            (max(2.0, 3.0), max(3.0, 2.0), min(-2.0, 3.0)),
            (3.0, 3.0, -2.0)
        );
        assert_eq!(extreme64::<true>(f64::NAN, 1.0), 1.0);
        assert_eq!(extreme64::<false>(0.0, -0.0).to_bits(), 1 << 63);
    }

    #[test]
    fn directed_operations_agree_with_the_exact_rule() {
        let mut state = 11u64;
        for i in 0..400_000 {
            let mut next = || {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let bits = (state >> 32) as u32;
                // Exponents near one another every other time, and all small at times.
                f32::from_bits(match i % 4 {
                    0 => bits,
                    1 => bits & 0x81ff_ffff,
                    _ => bits & 0x83ff_ffff | 0x3c00_0000,
                })
            };
            let (a, b, mut c) = (next(), next(), next());
            if i % 16 == 3 {
                c = -a * b;
            }
            for rounding in [Nearest, Zero, Down, Up] {
                let exact = |bits: u64| f32::from_bits(bits as u32);
                let same = |x: f32, y: f32| bits(canonical(x)) == bits(canonical(y));
                let (x, y, z) = (f64::from(a), f64::from(b), f64::from(c));
                let fused = exact(soft::fma(x, y, z, soft::F32, rounding));
                assert!(
                    same(fma_directed(a, b, c, rounding), fused),
                    "{a:e} {b:e} {c:e} {rounding:?}"
                );
                let zero = if (a < 0.0) != (b < 0.0) { -0.0 } else { 0.0 };
                let product = exact(soft::fma(x, y, zero, soft::F32, rounding));
                assert!(
                    same(mul_directed(a, b, rounding), product),
                    "{a:e} {b:e} {rounding:?}"
                );
            }
        }
    }

    #[test]
    fn exact_zeros_take_the_sign_of_the_rounding() {
        for (a, b, c) in [
            (1.0, 2.0, -2.0),
            (0.0, 1.0, -0.0),
            (-0.0, 1.0, 0.0),
            (-0.0, 1.0, -0.0),
            (0.0, 1.0, 0.0),
        ] {
            for rounding in [Nearest, Zero, Down, Up] {
                let exact = soft::fma(a.into(), b.into(), c.into(), soft::F32, rounding) as u32;
                assert_eq!(
                    bits(fma_directed(a, b, c, rounding)),
                    exact,
                    "{a} {b} {c} {rounding:?}"
                );
            }
        }
    }
}
