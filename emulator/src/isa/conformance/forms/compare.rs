//! Comparison and selection.
use std::cmp::Ordering;

use super::super::super::compare;
use super::float::{Format, flushed, ordering};
use super::integer::{cut, one, value};
use super::{Form, Model, sweep};
use crate::ast::Type::{self, *};

#[test]
fn forms_of_comparisons() {
    sweep(compare::ROWS, rule);
}

const ORDERS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

/// Whether a comparison holds for what two values are to each other; `None` is unordered.
fn holds(name: &str, order: Option<Ordering>) -> bool {
    let Some(order) = order else {
        return matches!(name, "nan" | "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu");
    };
    match name {
        "eq" | "equ" => order.is_eq(),
        "ne" | "neu" => order.is_ne(),
        "lt" | "ltu" | "lo" => order.is_lt(),
        "le" | "leu" | "ls" => order.is_le(),
        "gt" | "gtu" | "hi" => order.is_gt(),
        "ge" | "geu" | "hs" => order.is_ge(),
        name => name == "num",
    }
}

/// Whether a type has this comparison.
fn exists(name: &str, ty: Type) -> bool {
    match name {
        "eq" | "ne" => true,
        "lt" | "le" | "gt" | "ge" => !matches!(ty, B16 | B32 | B64),
        "lo" | "ls" | "hi" | "hs" => matches!(ty, U16 | U32 | U64),
        _ => Format::of(ty).is_some() || half_of(ty).is_some(),
    }
}

/// The type of both halves of a pair.
fn half_of(ty: Type) -> Option<Type> {
    match ty {
        F16x2 => Some(F16),
        BF16x2 => Some(BF16),
        _ => None,
    }
}

fn rule(form: &Form) -> Option<Model> {
    match form.opcode {
        "selp" => one(|s| if s[2] != 0 { s[0] } else { s[1] }),
        "slct" => slct(form),
        _ => comparison(form),
    }
}

/// The first where the third is at least zero, which NaN is not.
fn slct(form: &Form) -> Option<Model> {
    let (is_float, ftz) = (form.types[1] == F32, form.has("ftz"));
    if ftz && !is_float {
        return None;
    }
    one(move |s| {
        let at_least_zero = if is_float {
            let c = if ftz {
                flushed(s[2], Format::F32)
            } else {
                s[2]
            };
            f32::from_bits(c as u32) >= 0.0
        } else {
            value(s[2], S32) >= 0
        };
        if at_least_zero { s[0] } else { s[1] }
    })
}

/// `set` and `setp`.
fn comparison(form: &Form) -> Option<Model> {
    let ty = *form.types.last()?;
    let name = form.among(&ORDERS)?;
    let (operation, ftz) = (form.among(&["and", "or", "xor"]), form.has("ftz"));
    let has_predicate = form.sources().len() == 3;
    let flushes = matches!(ty, F16 | F16x2 | F32);
    if !exists(name, ty) || operation.is_some() != has_predicate || ftz && !flushes {
        return None;
    }
    let pair = half_of(ty);
    let compared = move |a: u64, b: u64| match Format::of(pair.unwrap_or(ty)) {
        Some(format) => {
            let [a, b] = [a, b].map(|x| if ftz { flushed(x, format) } else { x });
            holds(name, ordering(a, b, format))
        }
        None => holds(name, Some(value(a, ty).cmp(&value(b, ty)))),
    };
    let combined = move |holds: bool, s: &[u64]| match operation {
        None => holds,
        Some("and") => holds & (s[2] != 0),
        Some("or") => holds | (s[2] != 0),
        Some(_) => holds ^ (s[2] != 0),
    };
    // What holds for the lower and for the upper half of a pair.
    let both = move |s: &[u64]| {
        let half = |shift: u32| compared(s[0] >> shift & 0xffff, s[1] >> shift & 0xffff);
        [half(0), half(16)].map(|holds| combined(holds, s))
    };
    if form.opcode == "setp" {
        let count = form.destinations().len();
        return Some(Box::new(move |s| {
            let results = match pair {
                Some(_) => both(s),
                None => [true, false].map(|as_is| combined(compared(s[0], s[1]) == as_is, s)),
            };
            results[..count]
                .iter()
                .map(|holds| u64::from(*holds))
                .collect()
        }));
    }
    let to = form.types[0];
    let fits = match (to, pair) {
        (F16x2 | BF16x2, _) => to == ty,
        (U16 | S16, _) => matches!(ty, F16 | BF16),
        (U32 | S32, _) => true,
        (BF16, _) => to == ty,
        (_, pair) => pair.is_none(),
    };
    if !fits {
        return None;
    }
    let truth = match to {
        F32 => 0x3f80_0000,
        F16 | F16x2 => 0x3c00,
        BF16 | BF16x2 => 0x3f80,
        _ => cut(-1, to.bits()),
    };
    if pair.is_some() {
        return one(move |s| {
            let truth = truth & 0xffff;
            let [low, high] = both(s).map(|holds| u64::from(holds) * truth);
            low | high << 16
        });
    }
    one(move |s| u64::from(combined(compared(s[0], s[1]), s)) * truth)
}
