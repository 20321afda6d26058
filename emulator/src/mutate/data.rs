//! Changes of what is computed, loaded and stored.

use super::site::{Site, integer};
use super::{Changes, Kind};
use crate::lex;

pub(super) fn changes(site: &Site<'_>, all: &mut Changes) {
    for operand in 0..site.operand_count() {
        address(site, operand, all);
        constant(site, operand, all);
        fragment(site, operand, all);
    }
    match site.op() {
        "cvt" if site.ty() == "f32" && site.operand_count() == 3 => {
            all.push(Kind::Fragment, site.swapped(1, 2));
        }
        "ldmatrix" => match site.with("trans", "") {
            Some(plain) => all.push(Kind::Fragment, plain),
            None => all.push(Kind::Fragment, site.with("shared", "trans.shared")),
        },
        _ => {}
    }
    rounding(site, all);
    types(site, all);
    arithmetic(site, all);
    copy(site, all);
    deletion(site, all);
    cache(site, all);
}

/// Bytes of one access of an operand.
fn access_bytes(site: &Site<'_>, operand: usize) -> i128 {
    match site.op() {
        "cp" if !site.has("mbarrier") => site.integer(2).unwrap_or(16),
        "ldmatrix" | "stmatrix" => 16,
        _ => {
            let digits = site.ty().trim_start_matches(char::is_alphabetic);
            // `f16x2` is 32 bits wide.
            let bits: i128 = match digits.split_once('x') {
                Some((bits, n)) => bits.parse().unwrap_or(16) * n.parse().unwrap_or(1),
                None => digits.parse().unwrap_or(32),
            };
            let elements = (0..site.operand_count()).filter(|n| *n != operand);
            let elements = elements.map(|n| site.elements(n)).max().unwrap_or(0);
            bits / 8 * elements.max(1) as i128
        }
    }
}

/// `[base+offset]`, one access further or less far.
fn address(site: &Site<'_>, operand: usize, all: &mut Changes) {
    let tokens = site.tokens(operand);
    let [open, inner @ .., close] = tokens else {
        return;
    };
    if (open.text, close.text) != ("[", "]") || inner.iter().any(|token| token.text == ",") {
        return;
    }
    let plus = inner
        .iter()
        .position(|token| matches!(token.text, "+" | "-"));
    let (base, offset) = inner.split_at(plus.unwrap_or(inner.len()));
    let offset = match offset {
        [] => Some(0),
        [plus, offset @ ..] if plus.text == "+" => integer(offset),
        offset => integer(offset),
    };
    let Some(offset) = offset.filter(|_| base.first().is_some_and(|t| t.kind == lex::Kind::Word))
    else {
        return;
    };
    let base: String = base.iter().map(|token| token.text).collect();
    let size = access_bytes(site, operand);
    let parameter = site.has("param");
    let mut to = |offset: i128| {
        let text = match offset {
            0 => format!("[{base}]"),
            _ => format!("[{base}+{offset}]"),
        };
        all.push(Kind::Address, site.with_operand(operand, &text));
    };
    // A parameter has an end that is known when it is loaded.
    if !parameter {
        to(offset + size);
    }
    if !parameter || offset >= size {
        to(offset - size);
    }
}

/// Opcodes whose constants name barriers, groups, lanes or sizes, and have their own changes.
const NO_CONSTANTS: &[&str] = &[
    "bar",
    "barrier",
    "cp",
    "shfl",
    "vote",
    "match",
    "redux",
    "fence",
    "membar",
    "activemask",
    "call",
    "prefetch",
    "pmevent",
    "nanosleep",
    "trap",
    "brkpt",
    "createpolicy",
    "mma",
    "ldmatrix",
];

/// Constants one off; floating ones twice as big.
fn constant(site: &Site<'_>, operand: usize, all: &mut Changes) {
    if NO_CONSTANTS.contains(&site.op()) {
        return;
    }
    if let Some(value) = site.integer(operand) {
        let bits: u32 = site
            .ty()
            .trim_start_matches(char::is_alphabetic)
            .parse()
            .unwrap_or(32);
        let full = [
            (1i128 << bits.min(64)) - 1,
            (1i128 << (bits.min(64) - 1)) - 1,
        ];
        if !full.contains(&value) {
            all.push(
                Kind::Constant,
                site.with_operand(operand, &(value + 1).to_string()),
            );
        }
        if value != 0 {
            all.push(
                Kind::Constant,
                site.with_operand(operand, &(value - 1).to_string()),
            );
        }
        return;
    }
    let [token] = site.tokens(operand) else {
        return;
    };
    let digits = token.text.get(2..).unwrap_or("");
    let other = match token.text.get(..2) {
        Some("0f" | "0F") => u32::from_str_radix(digits, 16)
            .ok()
            .map(|bits| format!("0f{:08X}", other_f32(bits))),
        Some("0d" | "0D") => u64::from_str_radix(digits, 16)
            .ok()
            .map(|bits| format!("0d{:016X}", other_f64(bits))),
        _ => None,
    };
    all.push(
        Kind::Constant,
        other.map(|text| site.with_operand(operand, &text)),
    );
}

/// Twice as big; one instead of zero, the biggest number instead of infinity, infinity instead of NaN.
fn other_f32(bits: u32) -> u32 {
    match f32::from_bits(bits) {
        0.0 => 1f32.to_bits() | bits,
        value if value.is_infinite() => bits - 1,
        value if value.is_nan() => f32::INFINITY.to_bits(),
        value => (2.0 * value).to_bits(),
    }
}

fn other_f64(bits: u64) -> u64 {
    match f64::from_bits(bits) {
        0.0 => 1f64.to_bits() | bits,
        value if value.is_infinite() => bits - 1,
        value if value.is_nan() => f64::INFINITY.to_bits(),
        value => (2.0 * value).to_bits(),
    }
}

/// Elements of a vector in each other's place: neighbours, and the two halves.
fn fragment(site: &Site<'_>, operand: usize, all: &mut Changes) {
    let elements = site.elements(operand);
    for first in (0..elements).step_by(2) {
        all.push(
            Kind::Fragment,
            site.elements_swapped(operand, first, first + 1),
        );
    }
    if elements > 2 {
        all.push(
            Kind::Fragment,
            site.elements_swapped(operand, 0, elements / 2),
        );
    }
}

fn rounding(site: &Site<'_>, all: &mut Changes) {
    const OTHER: &[(&str, &str)] = &[
        ("rn", "rz"),
        ("rz", "rn"),
        ("rm", "rz"),
        ("rp", "rz"),
        ("rni", "rzi"),
        ("rzi", "rni"),
        ("rmi", "rzi"),
        ("rpi", "rzi"),
    ];
    all.push(Kind::Rounding, site.with_one(OTHER));
    all.push(Kind::Rounding, site.with("sat", ""));
}

/// A type of this name, read with or without a sign.
fn other_sign(ty: &str) -> Option<String> {
    let bits = ty.get(1..)?;
    bits.parse::<u32>().ok()?;
    match ty.as_bytes()[0] {
        b's' => Some(format!("u{bits}")),
        b'u' => Some(format!("s{bits}")),
        _ => None,
    }
}

fn types(site: &Site<'_>, all: &mut Changes) {
    let modifiers: Vec<&str> = site.modifiers().collect();
    let Some(last) = modifiers.len().checked_sub(1) else {
        return;
    };
    let wide = site.has("wide") || site.has("hi");
    let matters = match site.op() {
        "shr" | "min" | "max" | "div" | "rem" | "bfe" => true,
        "mul" | "mad" => wide,
        "setp" | "set" => !site.has("eq") && !site.has("ne"),
        // Sub-words, as long as the register is wider: `ld` of words has no sign.
        "ld" => matches!(modifiers[last], "s8" | "u8" | "s16" | "u16"),
        _ => false,
    };
    if matters && let Some(other) = other_sign(modifiers[last]) {
        all.push(Kind::Type, site.with_nth(last, &other));
    }
    if site.op() == "cvt" && last > 0 {
        conversion(site, modifiers[last - 1], modifiers[last], last, all);
    }
    if site.op() == "mma" {
        all.push(Kind::Type, site.with_each("bf16", "f16"));
        // The types of A and B are the third and second from the end.
        if last >= 2 && modifiers[last - 1] == "f16" && modifiers[last] == "f32" {
            let a = site.with_nth(last - 2, "bf16");
            all.push(
                Kind::Type,
                Site::new(&a).map(|site| site.with_nth(last - 1, "bf16")),
            );
        }
    }
}

/// The source of a widening is read with the other sign, a number goes to or from the other sign.
fn conversion(site: &Site<'_>, to: &str, from: &str, last: usize, all: &mut Changes) {
    let bits = |ty: &str| ty.get(1..).and_then(|bits| bits.parse::<u32>().ok());
    match (other_sign(to), other_sign(from)) {
        (Some(_), Some(from_other)) if bits(to) > bits(from) => {
            all.push(Kind::Type, site.with_nth(last, &from_other));
        }
        (None, Some(from_other)) => all.push(Kind::Type, site.with_nth(last, &from_other)),
        (Some(to_other), None) => all.push(Kind::Type, site.with_nth(last - 1, &to_other)),
        _ => {}
    }
    all.push(
        Kind::Type,
        site.with_one(&[("bf16x2", "f16x2"), ("f16x2", "bf16x2")]),
    );
}

fn arithmetic(site: &Site<'_>, all: &mut Changes) {
    let ty = site.ty();
    let carries = site.has("cc");
    let kind = Kind::Arithmetic;
    match site.op() {
        "add" if !carries && !ty.starts_with("bf16") => all.push(kind, site.with_op("sub")),
        "sub" if !carries => {
            if !ty.starts_with("bf16") {
                all.push(kind, site.with_op("add"));
            }
            all.push(kind, site.swapped(1, 2));
        }
        "div" | "rem" => all.push(kind, site.swapped(1, 2)),
        "mul" if matches!(ty, "f32" | "f64") => all.push(kind, site.with_op("add")),
        "mul" => all.push(kind, site.with("hi", "lo")),
        "max" => all.push(kind, site.with_op("min")),
        "min" => all.push(kind, site.with_op("max")),
        "and" | "xor" if ty != "pred" => all.push(kind, site.with_op("or")),
        "or" if ty != "pred" => all.push(kind, site.with_op("and")),
        "not" if ty != "pred" => all.push(kind, site.with_op("mov")),
        "neg" | "abs" => {
            // `mov` has no modifiers besides its type.
            let sizes = ["f32", "f64", "s32", "s64", "s16"];
            let plain = sizes.contains(&ty) && site.modifiers().count() <= 2;
            let moved = site
                .with("ftz", "")
                .unwrap_or_else(|| site.text.to_string());
            let moved = Site::new(&moved).map(|site| site.with_op("mov"));
            all.push(kind, moved.filter(|_| plain));
        }
        "mad" if !carries => all.push(kind, site.without_last("mul")),
        "fma" if !ty.starts_with("bf16") => all.push(kind, site.without_last("mul")),
        "shf" => all.push(kind, site.with_one(&[("l", "r"), ("r", "l")])),
        "atom" | "red" => {
            let sums = [
                ("min", "max"),
                ("max", "min"),
                ("and", "or"),
                ("or", "and"),
                ("xor", "or"),
                ("inc", "dec"),
                ("dec", "inc"),
            ];
            all.push(kind, site.with_one(&sums));
            if matches!(ty, "u32" | "s32" | "u64" | "s64") {
                all.push(kind, site.with("add", "max"));
            }
        }
        _ => {}
    }
}

/// `cp.async [to], [from], size, from-size`.
fn copy(site: &Site<'_>, all: &mut Changes) {
    if site.op() != "cp" || site.operand_count() < 3 || site.has("bulk") {
        return;
    }
    let size = site.operand(2);
    // Behind the sizes may be a policy of the cache.
    let policy = usize::from(site.ty() == "L2::cache_hint" || site.has("L2::cache_hint"));
    if site.operand_count() - policy == 4 {
        all.push(Kind::Copy, site.with_operand(3, size));
    }
    let half = if site.has("ca") {
        site.integer(2).filter(|size| *size > 4)
    } else {
        None
    };
    all.push(
        Kind::Copy,
        half.map(|size| site.with_operand(2, &(size / 2).to_string())),
    );
}

/// What does not change what is computed, or has been left out as another kind already.
const NOT_DELETED: &[&str] = &[
    "bar",
    "barrier",
    "fence",
    "membar",
    "bra",
    "brx",
    "ret",
    "exit",
    "trap",
    "brkpt",
    "call",
    "nanosleep",
    "prefetch",
    "prefetchu",
    "discard",
    "applypriority",
    "createpolicy",
    "pmevent",
    "griddepcontrol",
];

fn deletion(site: &Site<'_>, all: &mut Changes) {
    match site.op() {
        "st" | "red" | "stmatrix" => all.delete(Kind::Store),
        // An arrival is a part of a barrier, and has been left out there.
        "mbarrier" if site.modifiers().any(|m| m.starts_with("arrive")) => {}
        "cp" if site.operand_count() >= 3 => all.delete(Kind::Store),
        "cp" => {}
        op if NOT_DELETED.contains(&op) => {}
        _ => all.delete(Kind::Deletion),
    }
}

fn cache(site: &Site<'_>, all: &mut Changes) {
    match site.op() {
        "prefetch" | "prefetchu" | "discard" | "applypriority" => return all.delete(Kind::Cache),
        "ld" | "st" | "cp" | "atom" | "red" => {}
        _ => return,
    }
    if site.op() == "ld" {
        const OTHER: &[(&str, &str)] = &[
            ("ca", "cg"),
            ("cg", "ca"),
            ("cs", "cg"),
            ("lu", "cg"),
            ("nc", ""),
        ];
        all.push(Kind::Cache, site.with_one(OTHER));
    } else if site.op() == "st" {
        all.push(
            Kind::Cache,
            site.with_one(&[("wb", "cg"), ("cg", "wb"), ("cs", "cg")]),
        );
    } else if site.op() == "cp" && site.has("cg") {
        all.push(Kind::Cache, site.with("cg", "ca"));
    }
    let hint = site
        .modifiers()
        .position(|m| m != "L2::cache_hint" && (m.starts_with("L2::") || m.starts_with("L1::")));
    all.push(Kind::Cache, hint.map(|n| site.with_nth(n, "")));
}
