//! `f16` and `bf16` arithmetic.
use super::*;
use crate::numerics::Rounding::Nearest;
use crate::numerics::half::{widen_bf16, widen_f16};
use crate::numerics::soft;

/// Halves of every exponent, both signs, and the corners.
fn samples() -> Vec<u64> {
    let spread = (0..=u16::MAX).step_by(1367);
    let corners = [
        0, 1, 0x3ff, 0x400, 0x3bff, 0x3c00, 0x3c01, 0x7bff, 0x7c00, 0x7e00, 0x7f80, 0x3f80,
    ];
    spread
        .chain(corners)
        .chain(corners.map(|c| c | 0x8000))
        .map(u64::from)
        .collect()
}

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    format: soft::Format,
    widen: fn(u16) -> f32,
}

const F16: Kind = Kind {
    name: "f16",
    format: soft::F16,
    widen: widen_f16,
};
const BF16: Kind = Kind {
    name: "bf16",
    format: soft::BF16,
    widen: widen_bf16,
};

fn flush(raw: u64) -> u64 {
    if raw & 0x7c00 == 0 { raw & 0x8000 } else { raw }
}

/// Checks an operation on single halves, and on pairs with the operands' rows swapped above.
fn arithmetic(
    kind: Kind,
    opcode: &str,
    mods: &str,
    sources: &[Vec<u64>],
    exact: fn(&[f64], soft::Format) -> u64,
) {
    let (ftz, sat, relu) = (
        mods.contains("ftz"),
        mods.contains("sat"),
        mods.contains("relu"),
    );
    let expected = |row: &[u64]| {
        let input =
            |raw: &u64| f64::from((kind.widen)(if ftz { flush(*raw) } else { *raw } as u16));
        let inputs: Vec<f64> = row.iter().map(input).collect();
        let mut result = exact(&inputs, kind.format);
        if sat {
            let value = (kind.widen)(result as u16);
            let limited = if value > 0.0 { value.min(1.0) } else { 0.0 };
            result = soft::convert(limited.into(), kind.format, Nearest);
        }
        if relu && result & 0x8000 != 0 {
            result = 0;
        }
        if ftz { flush(result) } else { result }
    };
    let name = kind.name;
    let singles = ["%rs1", "%rs2", "%rs3"][..sources.len()].join(", ");
    check(
        &format!("{opcode}{mods}.{name} %rs0, {singles};"),
        sources,
        expected,
    );
    let rows = sources[0].len();
    let packed: Vec<Vec<u64>> = sources
        .iter()
        .map(|column| {
            (0..rows)
                .map(|row| column[row] | column[rows - 1 - row] << 16)
                .collect()
        })
        .collect();
    let words = ["%r1", "%r2", "%r3"][..sources.len()].join(", ");
    check(
        &format!("{opcode}{mods}.{name}x2 %r0, {words};"),
        &packed,
        |row| {
            let half =
                |shift: u32| expected(&row.iter().map(|x| x >> shift & 0xffff).collect::<Vec<_>>());
            half(0) | half(16) << 16
        },
    );
}

fn zero_of(a: f64, b: f64) -> f64 {
    if a.is_sign_negative() != b.is_sign_negative() {
        -0.0
    } else {
        0.0
    }
}

#[test]
fn sums_and_products() {
    let all = samples();
    let two = pairs(&all, &all);
    let three = triples(&all, &all, &all);
    for mods in ["", ".rn", ".ftz", ".sat", ".ftz.sat"] {
        arithmetic(F16, "add", mods, &two, |s, f| {
            soft::fma(s[0], 1.0, s[1], f, Nearest)
        });
        arithmetic(F16, "sub", mods, &two, |s, f| {
            soft::fma(s[0], 1.0, -s[1], f, Nearest)
        });
        arithmetic(F16, "mul", mods, &two, |s, f| {
            soft::fma(s[0], s[1], zero_of(s[0], s[1]), f, Nearest)
        });
    }
    for mods in [
        ".rn",
        ".rn.ftz",
        ".rn.sat",
        ".rn.ftz.sat",
        ".rn.relu",
        ".rn.ftz.relu",
    ] {
        arithmetic(F16, "fma", mods, &three, |s, f| {
            soft::fma(s[0], s[1], s[2], f, Nearest)
        });
    }
    arithmetic(BF16, "add", "", &two, |s, f| {
        soft::fma(s[0], 1.0, s[1], f, Nearest)
    });
    arithmetic(BF16, "sub", ".rn", &two, |s, f| {
        soft::fma(s[0], 1.0, -s[1], f, Nearest)
    });
    arithmetic(BF16, "mul", "", &two, |s, f| {
        soft::fma(s[0], s[1], zero_of(s[0], s[1]), f, Nearest)
    });
    for mods in [".rn", ".rn.relu"] {
        arithmetic(BF16, "fma", mods, &three, |s, f| {
            soft::fma(s[0], s[1], s[2], f, Nearest)
        });
    }
}

#[test]
fn signs() {
    let all = vec![samples()];
    check("neg.f16 %rs0, %rs1;", &all, |s| s[0] ^ 0x8000);
    check("neg.ftz.f16 %rs0, %rs1;", &all, |s| flush(s[0]) ^ 0x8000);
    check("abs.bf16 %rs0, %rs1;", &all, |s| s[0] & 0x7fff);
    assert_eq!(once("neg.bf16x2 %r0, %r1;", &[0x3f80_bf80]), 0xbf80_3f80);
    assert_eq!(once("abs.ftz.f16x2 %r0, %r1;", &[0x8001_bc00]), 0x0000_3c00);
}

#[test]
fn extremes() {
    let all = samples();
    let sources = pairs(&all, &all);
    for kind in [F16, BF16] {
        for (opcode, max) in [("min", false), ("max", true)] {
            for mods in ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs", ".ftz"] {
                let (nan, abs, ftz) = (
                    mods.contains("NaN"),
                    mods.contains("abs"),
                    mods.contains("ftz"),
                );
                if ftz && kind.name == "bf16" {
                    continue;
                }
                let text = format!("{opcode}{mods}.{} %rs0, %rs1, %rs2;", kind.name);
                check(&text, &sources, |s| {
                    let [a, b] = [s[0], s[1]].map(|x| if ftz { flush(x) } else { x });
                    let keep = if abs { 0x7fff } else { 0xffff };
                    let sign = if abs { (a ^ b) & 0x8000 } else { 0 };
                    let (x, y) = (a & keep, b & keep);
                    let is_nan = |x: u64| (kind.widen)(x as u16).is_nan();
                    let key = |x: u64| {
                        if x >> 15 != 0 {
                            !(x as i64)
                        } else {
                            x as i64 | 1 << 40
                        }
                    };
                    match (is_nan(x), is_nan(y)) {
                        (true, true) => 0x7fff,
                        (true, _) | (_, true) if nan => 0x7fff,
                        (true, false) => y | sign,
                        (false, true) => x | sign,
                        _ if (key(x) < key(y)) == max => y | sign,
                        _ => x | sign,
                    }
                });
            }
        }
    }
    assert_eq!(
        once("max.bf16x2 %r0, %r1, %r2;", &[0x3f80_bf80, 0x4000_7fc0]),
        0x4000_bf80
    );
}

#[test]
fn approximations_are_off_by_a_place_at_most() {
    let all = vec![(0..0x1_0000u64).collect::<Vec<_>>()];
    let flush_bf16 = |raw: u64| if raw & 0x7f80 == 0 { raw & 0x8000 } else { raw };
    type Function = fn(f64) -> f64;
    let cases: [(&str, Kind, Function, bool); 4] = [
        ("ex2.approx.f16", F16, |x| x.exp2(), false),
        ("tanh.approx.f16", F16, |x| x.tanh(), false),
        ("tanh.approx.bf16", BF16, |x| x.tanh(), false),
        ("ex2.approx.ftz.bf16", BF16, |x| x.exp2(), true),
    ];
    for (opcode, kind, function, ftz) in cases {
        let results = run(&format!("{opcode} %rs0, %rs1;"), &all);
        for (raw, result) in all[0].iter().zip(&results[0]) {
            let input = if ftz { flush_bf16(*raw) } else { *raw };
            let exact = function(f64::from((kind.widen)(input as u16)));
            let rounded = soft::convert(exact, kind.format, Nearest);
            let rounded = if ftz { flush_bf16(rounded) } else { rounded };
            let is_special = exact.is_nan() || exact == 0.0 || exact.is_infinite();
            let bound = if is_special { 0 } else { 1 };
            assert!(
                result.abs_diff(rounded) <= bound,
                "{opcode} {raw:#x}: {result:#x} {rounded:#x}"
            );
        }
    }
    assert_eq!(
        once("ex2.approx.f16x2 %r0, %r1;", &[0x3c00_0000]),
        0x4000_3c00
    );
}
