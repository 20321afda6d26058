//! The approximate functions, computed in `f64` and rounded once: far within the bounds that the
//! ISA states for each, and the same on every host.

use super::float::canonical;

/// 1.5 × 2^52: adding it to a small number leaves its nearest integer in the low bits.
const MAGIC: f64 = 6755399441055744.0;

/// ln(2)^k / k! for k from 8 down to 0: the series of 2^x.
const EXP2: [f64; 9] = [
    1.321548679014431e-6,
    1.5252733804059841e-5,
    1.540353039338161e-4,
    1.3333558146428443e-3,
    9.618129107628477e-3,
    5.550410866482158e-2,
    2.402265069591007e-1,
    std::f64::consts::LN_2,
    1.0,
];

/// 2^x.
#[inline(always)]
pub(crate) fn ex2(x: f32) -> f32 {
    // Beyond these bounds the result is zero or infinite in any case.
    let wide = f64::from(x);
    let above = if wide > -200.0 { wide } else { -200.0 };
    let bounded = if above < 200.0 { above } else { 200.0 };
    let shifted = bounded + MAGIC;
    let fraction = bounded - (shifted - MAGIC);
    let mut series = EXP2[0];
    let mut k = 1;
    while k < EXP2.len() {
        series = series.mul_add(fraction, EXP2[k]);
        k += 1;
    }
    let scaled = f64::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 52));
    let result = scaled as f32;
    if x.is_nan() { canonical(x) } else { result }
}

/// 2/ln(2) / k for odd k from 13 down to 1: the series of log2((1+s)/(1-s)).
const LOG2: [f64; 7] = [
    0.22195308321368667,
    0.2623081892525388,
    0.3205988979753252,
    0.4121985831111324,
    0.5770780163555853,
    0.9617966939259756,
    2.8853900817779268,
];

/// log2(x).
#[inline(always)]
pub(crate) fn lg2(x: f32) -> f32 {
    let bits = f64::from(x).to_bits();
    // Split off the exponent such that the rest lies around 1.
    let exponent = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd) & 0xfff0_0000_0000_0000;
    let rest = f64::from_bits(bits.wrapping_sub(exponent));
    let exponent = f64::from_bits(
        MAGIC
            .to_bits()
            .wrapping_add(((exponent as i64) >> 52) as u64),
    );
    let s = (rest - 1.0) / (rest + 1.0);
    let square = s * s;
    let mut series = LOG2[0];
    let mut k = 1;
    while k < LOG2.len() {
        series = series.mul_add(square, LOG2[k]);
        k += 1;
    }
    let result = series.mul_add(s, exponent - MAGIC) as f32;
    let at_end = if x == 0.0 { f32::NEG_INFINITY } else { x };
    let result = if x == 0.0 || x == f32::INFINITY {
        at_end
    } else {
        result
    };
    canonical(if x >= 0.0 { result } else { f32::NAN })
}

/// sin(x).
#[inline(always)]
pub(crate) fn sin(x: f32) -> f32 {
    canonical(f64::from(x).sin() as f32)
}

/// cos(x).
#[inline(always)]
pub(crate) fn cos(x: f32) -> f32 {
    canonical(f64::from(x).cos() as f32)
}

/// tanh(x).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    canonical(f64::from(x).tanh() as f32)
}

/// 1/x.
#[inline(always)]
pub(crate) fn rcp(x: f32) -> f32 {
    canonical((1.0 / f64::from(x)) as f32)
}

/// The square root.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// 1/sqrt(x).
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    canonical((1.0 / f64::from(x).sqrt()) as f32)
}

/// a/b as `div.approx` has it: zero where |b| is above 2^126, since 1/b is then subnormal.
#[inline(always)]
pub(crate) fn div(a: f32, b: f32) -> f32 {
    let magnitude = b.to_bits() & 0x7fff_ffff;
    let is_large = (magnitude as i32) > 0x7e80_0000 && (magnitude as i32) < 0x7f80_0000;
    let reciprocal_zero = f32::from_bits(b.to_bits() & 0x8000_0000);
    canonical(if is_large {
        a * reciprocal_zero
    } else {
        div_full(a, b)
    })
}

/// a/b over the whole range.
#[inline(always)]
pub(crate) fn div_full(a: f32, b: f32) -> f32 {
    canonical(a / b)
}

/// Upper half of 1/x, as `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` return it: the lower half
/// of the operand is not looked at, that of the result is zero, and subnormals are zeros.
pub(crate) fn coarse64(x: f64, function: fn(f64) -> f64) -> f64 {
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    let flush = |x: f64| {
        if x.is_subnormal() {
            0f64.copysign(x)
        } else {
            x
        }
    };
    let result = flush(function(flush(f64::from_bits(x.to_bits() & UPPER))));
    if result.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    f64::from_bits(result.to_bits() & UPPER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_floats(step: u32) -> impl Iterator<Item = f32> {
        (0..u32::MAX / step).map(move |i| f32::from_bits(i * step))
    }

    /// Error in units of the last place of the result.
    fn ulps(result: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if rounded.is_infinite() || rounded.is_nan() {
            return if canonical(result).to_bits() == canonical(rounded).to_bits() {
                0.0
            } else {
                9.0
            };
        }
        let place = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
        (f64::from(result) - exact).abs() / place
    }

    #[test]
    fn within_a_little_more_than_half_a_place() {
        for x in all_floats(9973) {
            let wide = f64::from(x);
            assert!(ulps(ex2(x), wide.exp2()) < 0.505, "ex2 {x:e}");
            assert!(ulps(lg2(x), wide.log2()) < 0.505, "lg2 {x:e}");
            assert!(ulps(rcp(x), 1.0 / wide) < 0.505, "rcp {x:e}");
            assert!(ulps(rsqrt(x), 1.0 / wide.sqrt()) < 0.505, "rsqrt {x:e}");
            assert!(ulps(tanh(x), wide.tanh()) < 0.505, "tanh {x:e}");
        }
        for i in 0..100_000 {
            let x = 1.0 + (i - 50_000) as f32 * 6e-8;
            assert!(ulps(lg2(x), f64::from(x).log2()) < 0.505, "lg2 {x:e}");
            let x = (i - 50_000) as f32 * 3e-3;
            assert!(ulps(ex2(x), f64::from(x).exp2()) < 0.505, "ex2 {x:e}");
        }
    }

    #[test]
    fn corners() {
        let bits = |x: f32| x.to_bits();
        let inf = f32::INFINITY;
        for (x, y) in [
            (-inf, 0.0),
            (-0.0, 1.0),
            (0.0, 1.0),
            (inf, inf),
            (1e-40, 1.0),
            (-150.0, 0.0),
            (-149.0, 1e-45),
        ] {
            assert_eq!(bits(ex2(x)), bits(y), "ex2 {x}");
        }
        for (x, y) in [
            (0.0, -inf),
            (-0.0, -inf),
            (inf, inf),
            (1.0, 0.0),
            (0.5, -1.0),
            (8.0, 3.0),
        ] {
            assert_eq!(bits(lg2(x)), bits(y), "lg2 {x}");
        }
        for (x, y) in [
            (0.0, inf),
            (-0.0, -inf),
            (inf, 0.0),
            (-inf, -0.0),
            (2.0, 0.5),
        ] {
            assert_eq!(bits(rcp(x)), bits(y), "rcp {x}");
        }
        for (x, y) in [(0.0, inf), (-0.0, -inf), (inf, 0.0), (4.0, 0.5)] {
            assert_eq!(bits(rsqrt(x)), bits(y), "rsqrt {x}");
        }
        for (x, y) in [(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0)] {
            assert_eq!(bits(tanh(x)), bits(y), "tanh {x}");
        }
        assert_eq!((bits(sin(-0.0)), bits(cos(0.0))), (1 << 31, bits(1.0)));
        for nan in [
            ex2(f32::NAN),
            lg2(-1.0),
            lg2(-f32::NAN),
            rcp(f32::NAN),
            rsqrt(-1.0),
            sqrt(-1.0),
            sin(inf),
            cos(-inf),
            tanh(f32::NAN),
            div(0.0, 0.0),
            div(inf, 3e38),
        ] {
            assert_eq!(bits(nan), 0x7fff_ffff);
        }
        assert_eq!(bits(sqrt(-0.0)), 1 << 31);
    }

    #[test]
    fn division_gives_up_beyond_its_range() {
        assert_eq!(div(1e38, 2f32.powi(126)), 1e38 / 2f32.powi(126));
        assert_eq!(div(1e38, 2f32.powi(126).next_up()).to_bits(), 0);
        assert_eq!(div(-1e38, 3e38).to_bits(), 1 << 31);
        assert_eq!(div(1.0, f32::INFINITY), 0.0);
        assert_eq!(div_full(1e38, 2e38), 0.5);
    }

    #[test]
    fn coarse_functions_of_f64() {
        assert_eq!(coarse64(4.0, |x| 1.0 / x), 0.25);
        assert_eq!(coarse64(5e-324, |x| 1.0 / x), f64::INFINITY);
        assert_eq!(coarse64(3.0, |x| 1.0 / x).to_bits() as u32, 0);
        assert_eq!(
            coarse64(f64::NAN, |x| 1.0 / x).to_bits(),
            0x7fff_ffff_0000_0000
        );
    }
}
