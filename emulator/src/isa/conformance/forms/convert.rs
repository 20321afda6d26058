//! `cvt` between all types.
use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use super::super::super::{convert, narrow};
use super::float::{Format, flushed, from_integer, of_format, rounding, saturated};
use super::integer::{cut, one, range, value};
use super::{Form, Model, sweep};
use crate::ast::Type::{self, *};

#[test]
fn forms_of_conversions() {
    sweep(convert::ROWS, rule);
}

#[test]
fn forms_of_narrow_conversions() {
    sweep(narrow::ROWS, rule);
}

/// A float in another format.
fn converted(raw: u64, from: Format, to: Format, round: Round) -> u64 {
    let mut loses = false;
    let bits = of_format!(from, A => {
        let x = A::from_bits(raw.into());
        of_format!(to, B => {
            let y: B = x.convert_r(round, &mut loses).value;
            y.to_bits()
        })
    });
    if from.is_nan(raw) {
        to.nan()
    } else {
        bits as u64
    }
}

/// An `f64` in another format.
pub(super) fn narrowed(value: f64, to: Format, round: Round) -> u64 {
    converted(value.to_bits(), Format::F64, to, round)
}

/// A float rounded to an integer within `i128`.
fn to_integer(raw: u64, from: Format, round: Round) -> i128 {
    let mut exact = false;
    of_format!(from, F => F::from_bits(raw.into()).to_i128_r(128, round, &mut exact).value)
}

fn rounded_to_integral(raw: u64, format: Format, round: Round) -> u64 {
    of_format!(format, F => F::from_bits(raw.into()).round_to_integral(round).value.to_bits() as u64)
}

fn is_integer(ty: Type) -> bool {
    matches!(ty, U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
}

fn rule(form: &Form) -> Option<Model> {
    let (to, from) = (form.types[0], form.types[1]);
    match (Format::of(to), Format::of(from)) {
        _ if is_integer(to) && is_integer(from) => between_integers(form),
        (None, Some(from)) if is_integer(to) => to_integers(form, from),
        (Some(to), None) if is_integer(from) => from_integers(form, to),
        _ if form.has("relu") || form.has("satfinite") => to_narrow(form),
        (Some(to), Some(from)) => between_floats(form, to, from),
        _ => to_narrow(form),
    }
}

/// The low bits of the source, extended by its sign, as those of the destination, extended by its.
fn between_integers(form: &Form) -> Option<Model> {
    let (to, from, bits) = (form.types[0], form.types[1], form.destinations()[0].1);
    let ((low, high), (least, most)) = (range(from), range(to));
    let sat = form.has("sat");
    if sat && low >= least && high <= most {
        return None;
    }
    one(move |s| {
        let x = value(s[0], from);
        let x = if sat {
            x.clamp(least, most)
        } else {
            value(cut(x, 64), to)
        };
        cut(x, bits)
    })
}

/// Clamped, with or without `.sat`. NaN is zero, or the highest bit where 64 bits are involved.
fn to_integers(form: &Form, from: Format) -> Option<Model> {
    let (to, bits, round) = (form.types[0], form.destinations()[0].1, rounding(form));
    let ftz = form.has("ftz");
    if ftz && from != Format::F32 {
        return None;
    }
    let of_nan = match from == Format::F64 || to.bits() == 64 {
        true => value(1 << (to.bits() - 1), to),
        false => 0,
    };
    one(move |s| {
        let raw = if ftz { flushed(s[0], from) } else { s[0] };
        let (least, most) = range(to);
        let x = match from.is_nan(raw) {
            true => of_nan,
            false => to_integer(raw, from, round).clamp(least, most),
        };
        cut(x, bits)
    })
}

fn from_integers(form: &Form, to: Format) -> Option<Model> {
    let (from, round) = (form.types[1], rounding(form));
    let sat = form.has("sat");
    if form.has("ftz") && to != Format::F32 {
        return None;
    }
    one(move |s| {
        let x = value(s[0], from);
        from_integer(if sat { x.clamp(0, 1) } else { x }, to, round)
    })
}

/// A rounding is needed where bits are lost, and allowed nowhere else, but for one to an integer
/// within a type.
fn between_floats(form: &Form, to: Format, from: Format) -> Option<Model> {
    let integral = form.among(&["rni", "rzi", "rmi", "rpi"]).is_some();
    let rounds = form.among(&["rn", "rz", "rm", "rp"]).is_some();
    let widens = matches!(
        (to, from),
        (Format::F64, _) | (Format::F32, Format::F16 | Format::BF16)
    );
    let fits = match to == from {
        true => !rounds,
        // The rounding of what is exact may be written for bf16 alone.
        false if form.types[..] == [F32, BF16] => !integral,
        false => rounds != widens && !integral,
    };
    let (ftz, sat, round) = (form.has("ftz"), form.has("sat"), rounding(form));
    let flushes = to == Format::F32 || from == Format::F32;
    if !fits || ftz && !flushes {
        return None;
    }
    one(move |s| {
        let mut raw = s[0];
        if ftz && from == Format::F32 {
            raw = flushed(raw, from);
        }
        if integral && !from.is_nan(raw) {
            raw = rounded_to_integral(raw, from, round);
        }
        let mut result = converted(raw, from, to, round);
        if ftz && to == Format::F32 {
            result = flushed(result, to);
        }
        if sat { saturated(result, to) } else { result }
    })
}

/// To the formats of machine learning, and from those of eight bits.
fn to_narrow(form: &Form) -> Option<Model> {
    let (to, from, round) = (form.types[0], form.types[1], rounding(form));
    let (relu, finite) = (form.has("relu"), form.has("satfinite"));
    let positive = move |raw: u64, sign: u64| if relu && raw & sign != 0 { 0 } else { raw };
    let half = move |raw: u64, format: Format| {
        let result = converted(raw, Format::F32, format, round);
        let is_infinite = result & !format.sign() == format.infinity();
        positive(result - u64::from(finite && is_infinite), format.sign())
    };
    let eighth = move |x: f64, ty: Type| positive(eight_bits(x, ty), 0x80);
    match (to, from) {
        (F16, F32) => one(move |s| half(s[0], Format::F16)),
        (BF16, F32) => one(move |s| half(s[0], Format::BF16)),
        (F16x2, F32) => one(move |s| half(s[0], Format::F16) << 16 | half(s[1], Format::F16)),
        (BF16x2, F32) => one(move |s| half(s[0], Format::BF16) << 16 | half(s[1], Format::BF16)),
        (TF32, F32) => one(move |s| tensor_float(s[0], finite)),
        (_, F32) => {
            let wide = |raw: u64| f64::from(f32::from_bits(raw as u32));
            one(move |s| eighth(wide(s[0]), to) << 8 | eighth(wide(s[1]), to))
        }
        (_, F16x2) => {
            let wide = |raw: u64| {
                let raw = converted(raw & 0xffff, Format::F16, Format::F64, Round::TowardZero);
                f64::from_bits(raw)
            };
            one(move |s| eighth(wide(s[0] >> 16), to) << 8 | eighth(wide(s[0]), to))
        }
        (F16x2, _) => one(move |s| {
            let wide = |code: u64| positive(from_eight_bits(code & 0xff, from), 0x8000);
            wide(s[0] >> 8) << 16 | wide(s[0])
        }),
        _ => None,
    }
}

/// The nearer of two neighbours with ten bits of fraction, the further one from zero at a tie.
fn tensor_float(raw: u64, finite: bool) -> u64 {
    if Format::F32.is_nan(raw) {
        return Format::F32.nan();
    }
    let sign = raw & Format::F32.sign();
    let magnitude = raw - sign;
    let below = magnitude & !0x1fff;
    let rounded = if magnitude - below < 0x1000 {
        below
    } else {
        below + 0x2000
    };
    let largest = if finite { 0x7f7f_e000 } else { 0x7f80_0000 };
    sign | rounded.min(largest)
}

/// Nearest, and within the finite numbers.
fn eight_bits(x: f64, ty: Type) -> u64 {
    let (sign, mut loses) = (u64::from(x.is_sign_negative()) << 7, false);
    let x = Double::from_bits(x.abs().to_bits().into());
    let (code, largest): (u128, u128) = match ty {
        E4M3x2 => {
            let y: Float8E4M3FN = x.convert(&mut loses).value;
            // Its overflow is a NaN.
            (if y.is_nan() { 0x7e } else { y.to_bits() }, 0x7e)
        }
        _ => {
            let y: Float8E5M2 = x.convert(&mut loses).value;
            (y.to_bits(), 0x7b)
        }
    };
    if x.is_nan() {
        0x7f
    } else {
        sign | code.min(largest) as u64
    }
}

fn from_eight_bits(code: u64, ty: Type) -> u64 {
    let mut loses = false;
    let y: Half = match ty {
        E4M3x2 => {
            Float8E4M3FN::from_bits(code.into())
                .convert(&mut loses)
                .value
        }
        _ => Float8E5M2::from_bits(code.into()).convert(&mut loses).value,
    };
    if y.is_nan() {
        Format::F16.nan()
    } else {
        y.to_bits() as u64
    }
}
