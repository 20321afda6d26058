//! Exact arithmetic by integers, rounded once to any format: slow and plainly right.

use super::Rounding;

/// A binary floating-point format with subnormals and infinities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Stored bits of the significand.
    pub fraction: u32,
    /// Bits of the exponent.
    pub exponent: u32,
    /// The NaN that operations return.
    pub nan: u64,
}

/// `.f16`
pub(crate) const F16: Format = Format {
    fraction: 10,
    exponent: 5,
    nan: 0x7fff,
};
/// `.bf16`
pub(crate) const BF16: Format = Format {
    fraction: 7,
    exponent: 8,
    nan: 0x7fff,
};
/// `.f32`
pub(crate) const F32: Format = Format {
    fraction: 23,
    exponent: 8,
    nan: 0x7fff_ffff,
};
/// `.f64`
pub(crate) const F64: Format = Format {
    fraction: 52,
    exponent: 11,
    nan: 0xfff8_0000_0000_0000,
};

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// Bits of positive infinity.
    pub(crate) fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.fraction + self.exponent)
    }
}

/// `(-1)^negative × mantissa × 2^exponent`, not necessarily normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

impl Exact {
    /// A finite `f64`.
    pub(crate) fn from_f64(value: f64) -> Exact {
        let bits = value.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let hidden = if field == 0 { 0 } else { 1 << 52 };
        Exact {
            negative: bits >> 63 != 0,
            mantissa: u128::from(fraction | hidden),
            exponent: field.max(1) - 1075,
        }
    }

    /// An integer.
    pub(crate) fn from_integer(value: i128) -> Exact {
        Exact {
            negative: value < 0,
            mantissa: value.unsigned_abs(),
            exponent: 0,
        }
    }

    /// The product of two values of at most 53 bits.
    fn times(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            mantissa: self.mantissa * other.mantissa,
            exponent: self.exponent + other.exponent,
        }
    }

    /// Moves the highest bit to bit 125; bits are only ever shifted out at the bottom of values
    /// wider than that, which there are none.
    fn normalised(self) -> Exact {
        if self.mantissa == 0 {
            return self;
        }
        let shift = self.mantissa.leading_zeros() as i32 - 2;
        let mantissa = if shift >= 0 {
            self.mantissa << shift
        } else {
            jam(self.mantissa, -shift as u32)
        };
        Exact {
            mantissa,
            exponent: self.exponent - shift,
            ..self
        }
    }

    /// The sum of values of at most 106 bits: exact but for a last bit that stands for all that
    /// was shifted out, far below where any format rounds.
    fn plus(self, other: Exact) -> Exact {
        if self.mantissa == 0 {
            return other;
        }
        if other.mantissa == 0 {
            return self;
        }
        let (a, b) = (self.normalised(), other.normalised());
        let (big, small) = if a.exponent >= b.exponent {
            (a, b)
        } else {
            (b, a)
        };
        let small_mantissa = jam(small.mantissa, (big.exponent - small.exponent) as u32);
        if big.negative == small.negative {
            return Exact {
                mantissa: big.mantissa + small_mantissa,
                ..big
            };
        }
        if big.mantissa >= small_mantissa {
            Exact {
                mantissa: big.mantissa - small_mantissa,
                ..big
            }
        } else {
            let mantissa = small_mantissa - big.mantissa;
            Exact {
                negative: small.negative,
                mantissa,
                exponent: big.exponent,
            }
        }
    }

    /// The quotient of two values of at most 53 bits, with a last bit for the remainder.
    fn over(self, other: Exact) -> Exact {
        // As wide as it goes, so that the quotient has at least 73 bits.
        let shift = self.mantissa.leading_zeros().min(127) as i32 - 1;
        let numerator = self.mantissa << shift;
        let sticky = u128::from(!numerator.is_multiple_of(other.mantissa));
        Exact {
            negative: self.negative != other.negative,
            mantissa: (numerator / other.mantissa) | sticky,
            exponent: self.exponent - shift - other.exponent,
        }
    }

    /// The square root of a value of at most 53 bits, with a last bit for the remainder.
    fn root(self) -> Exact {
        let widest = self.mantissa.leading_zeros().min(127) as i32 - 1;
        // What is left is an even exponent.
        let shift = widest - (self.exponent - widest).rem_euclid(2);
        let radicand = self.mantissa << shift;
        let root = radicand.isqrt();
        let sticky = u128::from(root * root != radicand);
        Exact {
            negative: self.negative,
            mantissa: root | sticky,
            exponent: (self.exponent - shift) / 2,
        }
    }

    /// Rounds to `format`; zero keeps the sign.
    pub(crate) fn round(self, format: Format, rounding: Rounding) -> u64 {
        let sign = format.sign(self.negative);
        if self.mantissa == 0 {
            return sign;
        }
        let top = self.exponent + 127 - self.mantissa.leading_zeros() as i32;
        // Exponent of the last bit of the smallest numbers, and of this one.
        let least = 1 - format.bias() - format.fraction as i32;
        let last = (top - format.fraction as i32).max(least);
        let shift = last - self.exponent;
        let significand = if shift <= 0 {
            (self.mantissa << -shift) as u64
        } else {
            shift_rounded(self.mantissa, shift as u32, self.negative, rounding)
        };
        // A significand that grew by a bit carries into the exponent by itself.
        let bits = (((last - least) as u64) << format.fraction) + significand;
        if bits < format.infinity() {
            return sign | bits;
        }
        let to_infinity = match rounding {
            Rounding::Nearest | Rounding::Away => true,
            Rounding::Zero => false,
            Rounding::Down => self.negative,
            Rounding::Up => !self.negative,
        };
        sign | (format.infinity() - u64::from(!to_infinity))
    }

    /// Rounds to an integer, as far as 127 bits hold it (saturating).
    #[cfg(test)]
    pub(crate) fn to_integer(self, rounding: Rounding) -> i128 {
        let magnitude = if self.exponent >= 0 {
            let fits = self.mantissa == 0
                || (self.exponent as u32) < self.mantissa.leading_zeros().saturating_sub(1);
            if fits {
                (self.mantissa << self.exponent) as i128
            } else {
                i128::MAX
            }
        } else {
            let shift = self.exponent.unsigned_abs();
            shift_rounded128(self.mantissa, shift, self.negative, rounding) as i128
        };
        if self.negative { -magnitude } else { magnitude }
    }
}

/// Shifts right; the last bit is set if any bit was lost.
fn jam(mantissa: u128, shift: u32) -> u128 {
    if shift >= 128 {
        return u128::from(mantissa != 0);
    }
    let kept = mantissa >> shift;
    kept | u128::from(kept << shift != mantissa)
}

fn shift_rounded(mantissa: u128, shift: u32, negative: bool, rounding: Rounding) -> u64 {
    shift_rounded128(mantissa, shift, negative, rounding) as u64
}

/// Shifts right by `shift > 0`, rounding what is lost.
fn shift_rounded128(mantissa: u128, shift: u32, negative: bool, rounding: Rounding) -> u128 {
    let kept = mantissa.checked_shr(shift).unwrap_or(0);
    let half = 1u128.checked_shl(shift - 1).unwrap_or(0);
    // Beyond 128 bits all is less than half.
    let lost = if shift > 128 {
        u128::from(mantissa != 0)
    } else {
        mantissa & ((half - 1) | half)
    };
    let half = if shift > 128 { 2 } else { half };
    let up = match rounding {
        Rounding::Nearest => lost > half || lost == half && kept & 1 != 0,
        Rounding::Away => lost >= half,
        Rounding::Zero => false,
        Rounding::Down => lost != 0 && negative,
        Rounding::Up => lost != 0 && !negative,
    };
    kept + u128::from(up)
}

/// A result that is not finite, or NaN, in `format`.
fn special(value: f64, format: Format) -> u64 {
    if value.is_nan() {
        format.nan
    } else {
        format.sign(value.is_sign_negative()) | format.infinity()
    }
}

/// `a × b + c`, rounded once.
pub(crate) fn fma(a: f64, b: f64, c: f64, format: Format, rounding: Rounding) -> u64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        // Which it is depends on signs only; products must not overflow on the way.
        return special(magnitude_one(a) * magnitude_one(b) + c, format);
    }
    let product = Exact::from_f64(a).times(Exact::from_f64(b));
    let addend = Exact::from_f64(c);
    let sum = product.plus(addend);
    if sum.mantissa == 0 {
        let negative = if product.negative == addend.negative {
            product.negative
        } else {
            rounding == Rounding::Down
        };
        return format.sign(negative);
    }
    sum.round(format, rounding)
}

/// `a ÷ b`, rounded once.
pub(crate) fn div(a: f64, b: f64, format: Format, rounding: Rounding) -> u64 {
    if !(a.is_finite() && b.is_finite()) || b == 0.0 {
        let quotient = a / b;
        if quotient == 0.0 {
            return format.sign(quotient.is_sign_negative());
        }
        return special(quotient, format);
    }
    Exact::from_f64(a)
        .over(Exact::from_f64(b))
        .round(format, rounding)
}

/// The square root, rounded once.
pub(crate) fn sqrt(a: f64, format: Format, rounding: Rounding) -> u64 {
    if !(a.is_finite() && a >= 0.0) {
        return special(a.sqrt(), format);
    }
    Exact::from_f64(a).root().round(format, rounding)
}

/// A conversion, rounded once.
pub(crate) fn convert(a: f64, format: Format, rounding: Rounding) -> u64 {
    if a.is_finite() {
        Exact::from_f64(a).round(format, rounding)
    } else {
        special(a, format)
    }
}

/// -1, 0 or 1 for finite numbers; others unchanged.
fn magnitude_one(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        x
    } else {
        x.signum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::Rounding::{Away, Down, Nearest, Up, Zero};

    /// A few hundred awkward numbers: around powers of two, subnormal, huge.
    fn samples() -> Vec<f64> {
        let mut samples = vec![0.0, f64::INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE];
        let mut state = 1u64;
        for i in 0..40 {
            let base = 2f64.powi(i * 13 % 300 - 150);
            samples.extend([base, base.next_up(), base.next_down(), base * 3.0]);
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            samples.push(f64::from_bits(state));
            samples.push(f64::from_bits(state >> 12));
        }
        let negative: Vec<f64> = samples.iter().map(|x| -x).collect();
        samples.extend(negative);
        samples
    }

    fn same(soft: u64, host: f64) {
        let soft = f64::from_bits(soft);
        assert!(
            soft.to_bits() == host.to_bits() || soft.is_nan() && host.is_nan(),
            "{soft} {host}"
        );
    }

    #[test]
    fn agrees_with_the_host_to_nearest() {
        let samples = samples();
        for &a in &samples {
            same(sqrt(a, F64, Nearest), a.sqrt());
            let narrow = f32::from_bits(convert(a, F32, Nearest) as u32);
            assert!(narrow.to_bits() == (a as f32).to_bits() || a.is_nan() && narrow.is_nan());
            for &b in &samples {
                same(
                    fma(
                        a,
                        b,
                        if a.is_sign_negative() != b.is_sign_negative() {
                            -0.0
                        } else {
                            0.0
                        },
                        F64,
                        Nearest,
                    ),
                    a * b,
                );
                same(fma(a, 1.0, b, F64, Nearest), a + b);
                same(div(a, b, F64, Nearest), a / b);
            }
        }
        for (i, &a) in samples.iter().enumerate() {
            for &b in samples.iter().skip(i % 3).step_by(3) {
                for &c in samples.iter().skip(i % 5).step_by(5) {
                    same(fma(a, b, c, F64, Nearest), a.mul_add(b, c));
                }
                same(
                    fma(a, b, (-a * b).next_up(), F64, Nearest),
                    a.mul_add(b, (-a * b).next_up()),
                );
            }
        }
    }

    #[test]
    fn directed_results_enclose_the_nearest() {
        let samples = samples();
        for &a in samples.iter().filter(|a| a.is_finite()) {
            for &b in samples.iter().filter(|b| b.is_finite()) {
                let [down, up, zero, near] =
                    [Down, Up, Zero, Nearest].map(|r| f64::from_bits(fma(a, 1.0, b, F64, r)));
                assert!(down <= near && near <= up, "{a} + {b}");
                assert!(down == up || down.next_up() == up, "{a} + {b}");
                assert_eq!(
                    zero,
                    if near < 0.0 || up <= 0.0 && down < 0.0 {
                        up
                    } else {
                        down
                    },
                    "{a} + {b}"
                );
            }
        }
    }

    #[test]
    fn ties_and_limits_of_f16() {
        let f16 = |x, r| convert(x, F16, r);
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(
            [Nearest, Away, Zero, Down, Up].map(|r| f16(tie, r)),
            [0x3c00, 0x3c01, 0x3c00, 0x3c00, 0x3c01]
        );
        assert_eq!(
            [Nearest, Away, Zero, Down, Up].map(|r| f16(-tie, r)),
            [0xbc00, 0xbc01, 0xbc00, 0xbc01, 0xbc00]
        );
        assert_eq!(
            [Nearest, Away, Zero, Down, Up].map(|r| f16(65520.0, r)),
            [0x7c00, 0x7c00, 0x7bff, 0x7bff, 0x7c00]
        );
        assert_eq!(
            [Nearest, Zero, Down, Up].map(|r| f16(1e-30, r)),
            [0, 0, 0, 1]
        );
        assert_eq!(
            [Nearest, Zero, Down, Up].map(|r| f16(-1e-30, r)),
            [0x8000, 0x8000, 0x8001, 0x8000]
        );
        assert_eq!(
            f16(2f64.powi(-25), Nearest),
            0,
            "half of the least, to even"
        );
        assert_eq!(f16(1.5 * 2f64.powi(-24), Nearest), 2);
        assert_eq!(
            f16(2f64.powi(-14).next_down(), Nearest),
            0x0400,
            "rounds up to normal"
        );
        assert_eq!(f16(f64::NAN, Nearest), 0x7fff);
        assert_eq!(f16(f64::NEG_INFINITY, Zero), 0xfc00);
    }

    #[test]
    fn zeros_have_the_sign_of_the_rounding() {
        assert_eq!(fma(1.0, 1.0, -1.0, F32, Nearest), 0);
        assert_eq!(fma(1.0, 1.0, -1.0, F32, Down), 0x8000_0000);
        assert_eq!(fma(-0.0, 1.0, -0.0, F32, Up), 0x8000_0000);
        assert_eq!(div(1.0, f64::NEG_INFINITY, F32, Nearest), 0x8000_0000);
        assert_eq!(fma(f64::INFINITY, 0.0, 1.0, F32, Nearest), 0x7fff_ffff);
        assert_eq!(
            fma(1e300, 1e300, f64::NEG_INFINITY, F64, Nearest),
            f64::NEG_INFINITY.to_bits()
        );
    }

    #[test]
    fn integers() {
        let int = |x, r| Exact::from_f64(x).to_integer(r);
        assert_eq!(
            [Nearest, Zero, Down, Up].map(|r| int(-2.5, r)),
            [-2, -2, -3, -2]
        );
        assert_eq!([Nearest, Zero, Down, Up].map(|r| int(3.5, r)), [4, 3, 3, 4]);
        assert_eq!(int(1e300, Nearest), i128::MAX);
        assert_eq!(int(-1e300, Nearest), -i128::MAX);
        let wide = 2f64.powi(60) + 2f64.powi(10);
        assert_eq!(int(wide, Zero), (1 << 60) + (1 << 10));
        assert_eq!([Nearest, Up].map(|r| int(5e-324, r)), [0, 1]);
        let big = Exact::from_integer(i128::from(u64::MAX));
        assert_eq!(
            [Nearest, Zero].map(|r| big.round(F32, r)),
            [0x5f80_0000, 0x5f7f_ffff]
        );
    }
}
