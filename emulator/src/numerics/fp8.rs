//! The eight-bit formats: `e4m3`, which has no infinity, and `e5m2`, the upper half of an `f16`.

use super::half::{narrow_f16, widen_f16};

/// Rounds to the nearest `e4m3`; beyond the largest, 448, to that; NaN becomes 0x7f.
#[inline(always)]
pub(crate) fn narrow_e4m3(value: f32) -> u8 {
    narrow::<20, 7>(value, 448.0)
}

/// Rounds to the nearest `e5m2`; beyond the largest, 57344, to that; NaN becomes 0x7f.
#[inline(always)]
pub(crate) fn narrow_e5m2(value: f32) -> u8 {
    narrow::<21, 15>(value, 57344.0)
}

/// To a format that lacks `DROP` of the fraction's bits and has this exponent bias.
#[inline(always)]
fn narrow<const DROP: u32, const BIAS: u32>(value: f32, largest: f32) -> u8 {
    let sign = value.to_bits() >> 24 & 0x80;
    let magnitude = value.abs();
    let bounded = if magnitude < largest {
        magnitude
    } else {
        largest
    };
    let bits = bounded.to_bits();
    let odd = bits >> DROP & 1;
    let just_under_half = (1 << (DROP - 1)) - 1;
    let rebased = bits.wrapping_sub(((127 - BIAS) << 23) - just_under_half);
    let normal = rebased.wrapping_add(odd) >> DROP;
    // A power of two so large that its last place is the format's smallest number.
    let place = f32::from_bits((128 + DROP - BIAS) << 23);
    let small = (bounded + place).to_bits().wrapping_sub(place.to_bits());
    let is_small = (bits as i32) < ((128 - BIAS) << 23) as i32;
    let result = if is_small { small } else { normal } | sign;
    (if value.is_nan() { 0x7f } else { result }) as u8
}

/// The value as an `f16`: exact.
#[inline(always)]
pub(crate) fn e4m3_to_f16(code: u8) -> u16 {
    let magnitude = u32::from(code & 0x7f);
    let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    let half = narrow_f16(value);
    if magnitude == 0x7f {
        half
    } else {
        half | u16::from(code & 0x80) << 8
    }
}

/// The value as an `f16`: exact.
#[inline(always)]
pub(crate) fn e5m2_to_f16(code: u8) -> u16 {
    narrow_f16(widen_f16(u16::from(code) << 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a code by the definition of the format.
    fn value(code: u8, fraction: i32, bias: i32) -> f64 {
        let magnitude = i32::from(code & 0x7f);
        let (exponent, digits) = (magnitude >> fraction, magnitude & ((1 << fraction) - 1));
        let hidden = if exponent == 0 { 0 } else { 1 << fraction };
        let value = f64::from(digits | hidden) * 2f64.powi(exponent.max(1) - bias - fraction);
        if code & 0x80 != 0 { -value } else { value }
    }

    fn e4m3(code: u8) -> f64 {
        if code & 0x7f == 0x7f {
            f64::NAN
        } else {
            value(code, 3, 7)
        }
    }

    fn e5m2(code: u8) -> f64 {
        match code & 0x7f {
            0x7c => f64::INFINITY.copysign(value(code, 2, 15)),
            0x7d..=0x7f => f64::NAN,
            _ => value(code, 2, 15),
        }
    }

    #[test]
    fn every_code_widens() {
        for code in 0..=255u8 {
            for (half, exact) in [
                (e4m3_to_f16(code), e4m3(code)),
                (e5m2_to_f16(code), e5m2(code)),
            ] {
                let wide = f64::from(widen_f16(half));
                assert!(
                    wide.to_bits() == exact.to_bits()
                        || wide.is_nan() && exact.is_nan() && half == 0x7fff
                );
            }
        }
    }

    /// The finite code nearest to `x`, ties to the even code, found by looking at all of them.
    fn nearest(x: f64, largest: u8, value: fn(u8) -> f64) -> u8 {
        let best = (0..=largest)
            .min_by(|&a, &b| {
                let distance = |code| (value(code) - x.abs()).abs();
                distance(a)
                    .total_cmp(&distance(b))
                    .then((a & 1).cmp(&(b & 1)))
            })
            .expect("codes");
        best | if x.is_sign_negative() { 0x80 } else { 0 }
    }

    #[test]
    fn every_half_narrows() {
        for bits in 0..=u16::MAX {
            let x = widen_f16(bits);
            let (a, b) = (narrow_e4m3(x), narrow_e5m2(x));
            if x.is_nan() {
                assert_eq!((a, b), (0x7f, 0x7f));
            } else {
                assert_eq!(a, nearest(x.clamp(-448.0, 448.0).into(), 0x7e, e4m3), "{x}");
                assert_eq!(
                    b,
                    nearest(x.clamp(-57344.0, 57344.0).into(), 0x7b, e5m2),
                    "{x}"
                );
            }
        }
    }

    #[test]
    fn beside_the_ties() {
        for code in 0..0x7eu8 {
            let tie = ((e4m3(code) + e4m3(code + 1)) / 2.0) as f32;
            assert_eq!(narrow_e4m3(tie.next_down()), code);
            assert_eq!(narrow_e4m3(tie.next_up()), code + 1);
            assert_eq!(narrow_e4m3(tie), code + (code & 1));
        }
        assert_eq!(narrow_e4m3(f32::INFINITY), 0x7e);
        assert_eq!(narrow_e5m2(f32::NEG_INFINITY), 0xfb);
    }
}
