//! Integers, bits, logic and selection, in `i128`.
use super::super::super::{bits, integer, logic};
use super::{Form, Model, Operand, sweep};
use crate::ast::Type;

#[test]
fn forms_of_integers() {
    sweep(integer::ROWS, rule);
}

#[test]
fn forms_of_bits() {
    sweep(bits::ROWS, rule);
}

#[test]
fn forms_of_logic() {
    sweep(logic::ROWS, rule);
}

/// The value of the low bits of a register as one of an integer type.
pub(super) fn value(raw: u64, ty: Type) -> i128 {
    let bits = ty.bits();
    let low = i128::from(raw & u64::MAX >> (64 - bits));
    if is_signed(ty) && low >> (bits - 1) != 0 {
        low - (1 << bits)
    } else {
        low
    }
}

pub(super) fn is_signed(ty: Type) -> bool {
    matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

/// The low bits of a number.
pub(super) fn cut(value: i128, bits: u32) -> u64 {
    value as u64 & u64::MAX >> (64 - bits)
}

/// Least and greatest value of an integer type.
pub(super) fn range(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if is_signed(ty) {
        (-1 << (bits - 1), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// A model with one destination.
pub(super) fn one(model: impl Fn(&[u64]) -> u64 + 'static) -> Option<Model> {
    Some(Box::new(move |sources| vec![model(sources)]))
}

/// A function of integers of the form's first type.
fn of_values(form: &Form, op: impl Fn(&[i128]) -> i128 + 'static) -> Option<Model> {
    let types: Vec<Type> = form.sources().iter().map(|(ty, _)| *ty).collect();
    let bits = form.destinations()[0].1;
    let saturates = form.has("sat");
    let ty = form.types[0];
    one(move |sources| {
        let values: Vec<i128> = sources
            .iter()
            .zip(&types)
            .map(|(raw, ty)| value(*raw, *ty))
            .collect();
        let (least, most) = range(ty);
        let result = op(&values);
        cut(
            if saturates {
                result.clamp(least, most)
            } else {
                result
            },
            bits,
        )
    })
}

/// The product of two words: 256 bits would be too many for one, 128 are enough for its halves.
fn product(a: i128, b: i128, bits: u32, part: Option<&str>) -> i128 {
    match part {
        Some("hi") if a >= 0 && b >= 0 => ((a as u128 * b as u128) >> bits) as i128,
        Some("hi") => (a * b) >> bits,
        Some("lo") => a.wrapping_mul(b) & ((1 << bits) - 1),
        _ => a * b,
    }
}

fn rule(form: &Form) -> Option<Model> {
    if form.operands.contains(&Operand::CarryIn) {
        return carrying(form);
    }
    let (ty, part) = (form.types[0], form.among(&["lo", "hi", "wide"]));
    let bits = if ty == Type::Pred { 1 } else { ty.bits() };
    let sat = form.has("sat");
    let is_s32 = ty == Type::S32;
    match form.opcode {
        "add" if !sat || is_s32 => of_values(form, |s| s[0] + s[1]),
        "sub" if !sat || is_s32 => of_values(form, |s| s[0] - s[1]),
        "mul" => of_values(form, move |s| product(s[0], s[1], bits, part)),
        "mad" if !sat || is_s32 && part == Some("hi") => {
            of_values(form, move |s| product(s[0], s[1], bits, part) + s[2])
        }
        "mul24" => of_values(form, move |s| product24(s, ty, part)),
        "mad24" if !sat || is_s32 && part == Some("hi") => {
            of_values(form, move |s| product24(s, ty, part) + s[2])
        }
        "sad" => of_values(form, |s| (s[0] - s[1]).abs() + s[2]),
        "div" => of_values(form, |s| s[0] / s[1]),
        "rem" => of_values(form, |s| s[0] % s[1]),
        "abs" => of_values(form, |s| s[0].abs()),
        "neg" => of_values(form, |s| -s[0]),
        "min" => of_values(form, |s| s[0].min(s[1])),
        "max" => of_values(form, |s| s[0].max(s[1])),
        "dp4a" => dot(form, 4, 8, 0),
        "dp2a" => dot(form, 2, 16, if part == Some("hi") { 2 } else { 0 }),
        "and" => one(|s| s[0] & s[1]),
        "or" => one(|s| s[0] | s[1]),
        "xor" => one(|s| s[0] ^ s[1]),
        "not" => one(move |s| cut(!i128::from(s[0]), bits)),
        "cnot" => one(|s| u64::from(s[0] == 0)),
        "lop3" => lop3(form),
        "prmt" => permute(form),
        "popc" => one(|s| s[0].count_ones().into()),
        "clz" => one(move |s| (s[0].leading_zeros() - (64 - bits)).into()),
        "brev" => one(move |s| s[0].reverse_bits() >> (64 - bits)),
        "bfind" => find(form),
        "fns" => one(|s| nth_set(s[0], s[1], value(s[2], Type::S32))),
        "bfe" => one(move |s| field(s[0], s[1], s[2], ty)),
        "bfi" => one(move |s| {
            let (position, length) = (s[2] & 255, s[3] & 255);
            (0..bits.into()).fold(0, |d, k| {
                let inside = k >= position && k < position + length;
                let bit = if inside {
                    s[0] >> (k - position)
                } else {
                    s[1] >> k
                };
                d | (bit & 1) << k
            })
        }),
        "bmsk" => {
            let wrap = form.has("wrap");
            one(move |s| {
                let amount = |x: u64| if wrap { x & 31 } else { x.min(32) };
                cut(((1i128 << amount(s[1])) - 1) << amount(s[0]), 32)
            })
        }
        "szext" => {
            let wrap = form.has("wrap");
            one(move |s| match if wrap { s[1] & 31 } else { s[1].min(32) } {
                0 => 0,
                n => {
                    let low = s[0] & ((1 << n) - 1);
                    let negative = is_signed(ty) && low >> (n - 1) != 0;
                    cut(i128::from(low) - if negative { 1 << n } else { 0 }, 32)
                }
            })
        }
        "shl" => one(move |s| cut(i128::from(s[0]) << s[1].min(64), bits)),
        "shr" => of_values(form, |s| s[0] >> s[1].min(64)),
        "shf" => {
            let (wrap, left) = (form.has("wrap"), form.has("l"));
            one(move |s| {
                let both = i128::from(s[1]) << 32 | i128::from(s[0]);
                let by = if wrap { s[2] & 31 } else { s[2].min(32) };
                cut(if left { both << by >> 32 } else { both >> by }, 32)
            })
        }
        _ => None,
    }
}

/// The product of 24-bit numbers, or its bits from 16 on.
fn product24(s: &[i128], ty: Type, part: Option<&str>) -> i128 {
    let low = |x: i128| {
        let low = x & 0xff_ffff;
        if is_signed(ty) && low >> 23 != 0 {
            low - (1 << 24)
        } else {
            low
        }
    };
    (low(s[0]) * low(s[1])) >> if part == Some("hi") { 16 } else { 0 }
}

/// Sums of products of parts, the second's bytes from `first`.
fn dot(form: &Form, count: u32, bits: u32, first: u32) -> Option<Model> {
    let (a, b) = (form.types[0], form.types[1]);
    let part = |raw: u64, at: u32, bits: u32, ty: Type| {
        let low = i128::from(raw >> at & ((1 << bits) - 1));
        if is_signed(ty) && low >> (bits - 1) != 0 {
            low - (1 << bits)
        } else {
            low
        }
    };
    one(move |s| {
        let product = |k| part(s[0], k * bits, bits, a) * part(s[1], (first + k) * 8, 8, b);
        cut((0..count).map(product).sum::<i128>() + i128::from(s[2]), 32)
    })
}

/// Sums and differences with a carry or a borrow in, if the form reads it, and out.
fn carrying(form: &Form) -> Option<Model> {
    let (ty, part) = (form.types[0], form.among(&["lo", "hi"]));
    let bits = ty.bits();
    let (reads, writes) = (form.opcode.ends_with('c'), form.has("cc"));
    let (subtracts, multiplies) = (form.opcode.starts_with('s'), form.opcode.starts_with('m'));
    Some(Box::new(move |s| {
        let before = i128::from(s[s.len() - 1]);
        let carry = if reads { before } else { 0 };
        let raw = |k: usize| i128::from(s[k]);
        let (first, second) = if multiplies {
            let product = product(value(s[0], ty), value(s[1], ty), bits, part);
            (i128::from(cut(product, bits)), raw(2))
        } else {
            (raw(0), raw(1))
        };
        let result = if subtracts {
            first - second - carry
        } else {
            first + second + carry
        };
        let out = i128::from(result < 0 || result >> bits != 0);
        vec![
            cut(result, bits),
            (if writes { out } else { before }) as u64,
        ]
    }))
}

/// A table of three inputs, and with `.or` or `.and` whether a bit of the result is set besides.
fn lop3(form: &Form) -> Option<Model> {
    let constant = form.operands.iter().find_map(|operand| match operand {
        Operand::Constant(value) => Some(*value as u64),
        _ => None,
    });
    let table = constant.filter(|table| *table < 256)?;
    let operation = form.among(&["or", "and"]);
    Some(Box::new(move |s| {
        let d = (0..32).fold(0, |d, k| {
            let bit = |x: u64| x >> k & 1;
            d | (table >> (bit(s[0]) << 2 | bit(s[1]) << 1 | bit(s[2])) & 1) << k
        });
        let any = u64::from(d != 0);
        match operation {
            Some("or") => vec![d, any | s[3]],
            Some(_) => vec![d, any & s[3]],
            None => vec![d],
        }
    }))
}

/// Bytes of two words by a selector, or by a mode and the selector's two lowest bits.
fn permute(form: &Form) -> Option<Model> {
    let mode = form.among(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    one(move |s| {
        let byte = |k: u64| (s[1] << 32 | s[0]) >> (8 * (k & 7)) & 0xff;
        let by = s[2] & 3;
        (0..4).fold(0, |d, k| {
            let byte = match mode {
                None => {
                    let selector = s[2] >> (4 * k) & 15;
                    let byte = byte(selector);
                    match selector & 8 {
                        0 => byte,
                        _ => (byte >> 7) * 0xff,
                    }
                }
                Some("f4e") => byte(by + k),
                Some("b4e") => byte((8 + by - k) % 8),
                Some("rc8") => byte(by),
                Some("ecl") => byte(k.max(by)),
                Some("ecr") => byte(k.min(by)),
                Some(_) => byte(k % 2 + 2 * (by % 2)),
            };
            d | byte << (8 * k)
        })
    })
}

/// The highest bit that differs from the sign, from below or (`.shiftamt`) from above.
fn find(form: &Form) -> Option<Model> {
    let (ty, from_above) = (form.types[0], form.has("shiftamt"));
    one(move |s| {
        let number = value(s[0], ty);
        let magnitude = if number < 0 { !number } else { number };
        match magnitude {
            0 => 0xffff_ffff,
            x if from_above => u64::from(ty.bits() - 1 - x.ilog2()),
            x => x.ilog2().into(),
        }
    })
}

/// The n-th set bit at or beyond a base, upwards or downwards.
fn nth_set(mask: u64, base: u64, n: i128) -> u64 {
    let base = base & 31;
    let set = |k: &u64| mask >> k & 1 != 0;
    let found = match n {
        0 => Some(base).filter(set),
        n if n > 0 => (base..32).filter(set).nth((n - 1).min(99) as usize),
        n => (0..=base).rev().filter(set).nth((-n - 1).min(99) as usize),
    };
    found.unwrap_or(0xffff_ffff)
}

/// A field, filled up with its sign.
fn field(a: u64, position: u64, length: u64, ty: Type) -> u64 {
    let bits = u64::from(ty.bits());
    let (position, length) = (position & 255, length & 255);
    let bit = |k: u64| a >> k & 1;
    let sign = match is_signed(ty) && length != 0 {
        true => bit((position + length - 1).min(bits - 1)),
        false => 0,
    };
    (0..bits).fold(0, |d, k| {
        let inside = k < length && position + k < bits;
        d | (if inside { bit(position + k) } else { sign }) << k
    })
}
