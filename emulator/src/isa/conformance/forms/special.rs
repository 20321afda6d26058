//! Approximate functions, by those of `f64`: [`agree`](super::agree) knows how near is near.
use rustc_apfloat::Round;

use super::super::super::special;
use super::convert::narrowed;
use super::float::{Format, flushed};
use super::integer::one;
use super::{Form, Model, sweep};
use crate::ast::Type::*;
use crate::numerics::half::{widen_bf16, widen_f16};

#[test]
fn forms_of_approximations() {
    sweep(special::ROWS, rule);
}

/// Results less than this are compared as if they were as large: the bound is an absolute one.
pub(super) fn least(form: &Form) -> f64 {
    match form.opcode {
        "sin" | "cos" | "lg2" => 1.0,
        _ => 0.0,
    }
}

fn rule(form: &Form) -> Option<Model> {
    let function: fn(f64) -> f64 = match form.opcode {
        "ex2" => f64::exp2,
        "lg2" => f64::log2,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tanh" => f64::tanh,
        "rcp" => |x| 1.0 / x,
        "sqrt" => f64::sqrt,
        _ => |x| 1.0 / x.sqrt(),
    };
    let ftz = form.has("ftz");
    let half = move |raw: u64, format: Format| {
        let raw = if ftz {
            flushed(raw & 0xffff, format)
        } else {
            raw & 0xffff
        };
        let x = match format {
            Format::F16 => widen_f16(raw as u16),
            _ => widen_bf16(raw as u16),
        };
        let result = narrowed(function(x.into()), format, Round::NearestTiesToEven);
        if ftz { flushed(result, format) } else { result }
    };
    match form.types[0] {
        F16 => one(move |s| half(s[0], Format::F16)),
        BF16 => one(move |s| half(s[0], Format::BF16)),
        F16x2 => one(move |s| half(s[0], Format::F16) | half(s[0] >> 16, Format::F16) << 16),
        BF16x2 => one(move |s| half(s[0], Format::BF16) | half(s[0] >> 16, Format::BF16) << 16),
        F32 => one(move |s| {
            let flush = |raw: u64| if ftz { flushed(raw, Format::F32) } else { raw };
            let x = f64::from(f32::from_bits(flush(s[0]) as u32));
            flush(narrowed(function(x), Format::F32, Round::NearestTiesToEven))
        }),
        // The upper half of the result from the upper half of the operand, both flushed.
        _ if ftz => one(move |s| {
            let x = f64::from_bits(flushed(s[0] & !0xffff_ffff, Format::F64));
            flushed(function(x).to_bits(), Format::F64) & !0xffff_ffff
        }),
        _ => one(move |s| function(f64::from_bits(s[0])).to_bits()),
    }
}
