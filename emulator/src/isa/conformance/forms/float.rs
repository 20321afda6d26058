//! Floats of every width, by LLVM's software floating point.
use std::cmp::Ordering;

use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, Round};

use super::super::super::{float, half};
use super::convert::narrowed;
use super::integer::one;
use super::{ANYTHING, Form, Model, sweep};
use crate::ast::Type;

#[test]
fn forms_of_floats() {
    sweep(float::ROWS, rule);
}

#[test]
fn forms_of_halves() {
    sweep(half::ROWS, rule);
}

/// A format of floats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    F16,
    BF16,
    F32,
    F64,
}

impl Format {
    pub(super) fn of(ty: Type) -> Option<Format> {
        match ty {
            Type::F16 => Some(Format::F16),
            Type::BF16 => Some(Format::BF16),
            Type::F32 => Some(Format::F32),
            Type::F64 => Some(Format::F64),
            _ => None,
        }
    }

    pub(super) fn sign(self) -> u64 {
        match self {
            Format::F16 | Format::BF16 => 1 << 15,
            Format::F32 => 1 << 31,
            Format::F64 => 1 << 63,
        }
    }

    /// The bits of positive infinity.
    pub(super) fn infinity(self) -> u64 {
        match self {
            Format::F16 => 0x7c00,
            Format::BF16 => 0x7f80,
            Format::F32 => 0x7f80_0000,
            Format::F64 => 0x7ff0_0000_0000_0000,
        }
    }

    /// The least normal number.
    fn normal(self) -> u64 {
        self.infinity() & !(self.infinity() << 1)
    }

    /// The NaN that instructions return.
    pub(super) fn nan(self) -> u64 {
        match self {
            Format::F64 => 0xfff8_0000_0000_0000,
            _ => self.sign() - 1,
        }
    }

    pub(super) fn one(self) -> u64 {
        from_integer(1, self, Round::TowardZero)
    }

    pub(super) fn is_nan(self, raw: u64) -> bool {
        raw & !self.sign() > self.infinity()
    }
}

/// Calls a function with the format's type.
macro_rules! of_format {
    ($format:expr, $F:ident => $e:expr) => {
        match $format {
            Format::F16 => {
                type $F = Half;
                $e
            }
            Format::BF16 => {
                type $F = BFloat;
                $e
            }
            Format::F32 => {
                type $F = Single;
                $e
            }
            Format::F64 => {
                type $F = Double;
                $e
            }
        }
    };
}
pub(super) use of_format;

/// A subnormal number as zero of its sign.
pub(super) fn flushed(raw: u64, format: Format) -> u64 {
    if raw & !format.sign() < format.normal() {
        raw & format.sign()
    } else {
        raw
    }
}

/// Limited to 0..=1; NaN and -0 are +0.
pub(super) fn saturated(raw: u64, format: Format) -> u64 {
    if raw & format.sign() != 0 || format.is_nan(raw) {
        0
    } else {
        raw.min(format.one())
    }
}

pub(super) fn ordering(a: u64, b: u64, format: Format) -> Option<Ordering> {
    of_format!(format, F => F::from_bits(a.into()).partial_cmp(&F::from_bits(b.into())))
}

/// An integer as a float.
pub(super) fn from_integer(value: i128, format: Format, round: Round) -> u64 {
    of_format!(format, F => F::from_i128_r(value, round).value.to_bits() as u64)
}

/// The rounding among a form's modifiers, to nearest if there is none.
pub(super) fn rounding(form: &Form) -> Round {
    match form.among(&["rz", "rzi", "rm", "rmi", "rp", "rpi"]) {
        Some("rz" | "rzi") => Round::TowardZero,
        Some("rm" | "rmi") => Round::TowardNegative,
        Some("rp" | "rpi") => Round::TowardPositive,
        _ => Round::NearestTiesToEven,
    }
}

/// One rounded operation, on bits.
fn operate<F: Float>(opcode: &str, s: &[u64], round: Round) -> u64 {
    let x = |k: usize| F::from_bits(s[k].into());
    let result = match opcode {
        "add" => x(0).add_r(x(1), round),
        "sub" => x(0).sub_r(x(1), round),
        "mul" => x(0).mul_r(x(1), round),
        "div" => x(0).div_r(x(1), round),
        "rcp" => F::from_u128(1).value.div_r(x(0), round),
        _ => x(0).mul_add_r(x(1), x(2), round),
    };
    result.value.to_bits() as u64
}

/// The root of an integer with twice the bits, and one bit more that says whether that is exact.
fn square_root(raw: u64, format: Format, round: Round) -> u64 {
    if raw & !format.sign() == 0 || raw >= format.infinity() {
        let is_root = raw & !format.sign() == 0 || raw == format.infinity();
        return if is_root { raw } else { format.nan() };
    }
    let place = format.normal().trailing_zeros();
    let (field, fraction) = (raw >> place, raw & (format.normal() - 1));
    let mantissa = u128::from(fraction | if field == 0 { 0 } else { format.normal() });
    let bias = (format.infinity() >> place) as i32 / 2;
    let exponent = field.max(1) as i32 - bias - place as i32;
    let shift = mantissa.leading_zeros() as i32 - 8;
    let shift = shift - ((exponent - shift) & 1);
    let scaled = mantissa << shift;
    let root = scaled.isqrt();
    let wide = root << 1 | u128::from(root * root != scaled);
    let by = (exponent - shift) / 2 - 1;
    of_format!(format, F => F::from_u128_r(wide, round).value.scalbn(by).to_bits() as u64)
}

fn rule(form: &Form) -> Option<Model> {
    let ty = form.types[0];
    if let Some(half) = [(Type::F16x2, Type::F16), (Type::BF16x2, Type::BF16)]
        .iter()
        .find_map(|(pair, half)| (*pair == ty).then_some(*half))
    {
        let mut single = form.clone();
        single.types[0] = half;
        let model = rule(&single)?;
        return one(move |s| {
            let half = |shift: u32| {
                let halves: Vec<u64> = s.iter().map(|x| x >> shift & 0xffff).collect();
                model(&halves)[0]
            };
            half(0) | half(16) << 16
        });
    }
    let format = Format::of(ty)?;
    let (ftz, sat, relu) = (form.has("ftz"), form.has("sat"), form.has("relu"));
    let flush = move |raw: u64| if ftz { flushed(raw, format) } else { raw };
    let sign = format.sign();
    match form.opcode {
        "neg" => one(move |s| flush(s[0]) ^ sign),
        "abs" => one(move |s| flush(s[0]) & !sign),
        "copysign" => one(move |s| s[1] & !sign | s[0] & sign),
        "testp" => property(form, format),
        "min" | "max" => extreme(form, format),
        "div" if form.has("approx") || form.has("full") => quotient(form),
        opcode => {
            let round = rounding(form);
            one(move |s| {
                let s: Vec<u64> = s.iter().map(|x| flush(*x)).collect();
                let result = match opcode {
                    "sqrt" => square_root(s[0], format, round),
                    _ => of_format!(format, F => operate::<F>(opcode, &s, round)),
                };
                let result = if format.is_nan(result) {
                    format.nan()
                } else {
                    flush(result)
                };
                match (sat, relu && !format.is_nan(result) && result & sign != 0) {
                    (true, _) => saturated(result, format),
                    (_, true) => 0,
                    _ => result,
                }
            })
        }
    }
}

/// `testp`: zeros are normal.
fn property(form: &Form, format: Format) -> Option<Model> {
    let name = form.among(&[
        "finite",
        "infinite",
        "number",
        "notanumber",
        "normal",
        "subnormal",
    ])?;
    one(move |s| {
        let magnitude = s[0] & !format.sign();
        let (finite, nan) = (magnitude < format.infinity(), format.is_nan(s[0]));
        let subnormal = magnitude != 0 && magnitude < format.normal();
        u64::from(match name {
            "finite" => finite,
            "infinite" => magnitude == format.infinity(),
            "number" => !nan,
            "notanumber" => nan,
            "normal" => finite && !subnormal,
            _ => subnormal,
        })
    })
}

/// `min` and `max`: -0 is less than +0; NaN loses, unless `.NaN`.
fn extreme(form: &Form, format: Format) -> Option<Model> {
    let (ftz, nan_wins, abs) = (form.has("ftz"), form.has("NaN"), form.has("abs"));
    if abs != form.has("xorsign") {
        return None;
    }
    let is_max = form.opcode == "max";
    one(move |s| {
        let [a, b] = [s[0], s[1]].map(|x| if ftz { flushed(x, format) } else { x });
        let sign = if abs { (a ^ b) & format.sign() } else { 0 };
        let keep = if abs { format.sign() - 1 } else { u64::MAX };
        let (a, b) = (a & keep, b & keep);
        // In order of value: the negative ones from below, away from zero downwards.
        let rank = |x: u64| match x & format.sign() {
            0 => i128::from(x),
            _ => -1 - i128::from(x & !format.sign()),
        };
        match (format.is_nan(a), format.is_nan(b)) {
            (true, true) => format.nan(),
            (true, false) | (false, true) if nan_wins => format.nan(),
            (true, false) => b | sign,
            (false, true) => a | sign,
            _ if (rank(a) < rank(b)) == is_max => b | sign,
            _ => a | sign,
        }
    })
}

/// `div.approx` and `div.full`: the former is a product with the reciprocal, which it has for divisors
/// up to 2^126.
fn quotient(form: &Form) -> Option<Model> {
    let (ftz, full) = (form.has("ftz"), form.has("full"));
    one(move |s| {
        let flush = |raw: u64| if ftz { flushed(raw, Format::F32) } else { raw };
        let [a, b] = [s[0], s[1]].map(|raw| f64::from(f32::from_bits(flush(raw) as u32)));
        let exact = narrowed(a / b, Format::F32, Round::NearestTiesToEven);
        if full || b == 0.0 || !b.is_finite() || a.is_nan() {
            return flush(exact);
        }
        match b.abs() {
            size if size < f64::from(f32::MIN_POSITIVE) => ANYTHING,
            size if size <= 2f64.powi(126) => flush(exact),
            _ if a.is_infinite() => Format::F32.nan(),
            _ => exact & Format::F32.sign(),
        }
    })
}
