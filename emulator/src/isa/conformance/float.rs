//! `f32` and `f64` arithmetic and the approximate functions.
use super::*;
use crate::numerics::{Rounding, soft};

const ROUNDINGS: [(&str, Rounding); 4] = [
    ("rn", Rounding::Nearest),
    ("rz", Rounding::Zero),
    ("rm", Rounding::Down),
    ("rp", Rounding::Up),
];

/// Corners of `f32`, and numbers near one another.
fn samples() -> Vec<u64> {
    let mut values: Vec<f32> = vec![
        0.0,
        1.0,
        1.5,
        3.0,
        1e-40,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        1e-30,
        1e30,
        1.0f32.next_up(),
        1.0f32.next_down(),
        16_777_217.0,
        0.1,
        0.7,
        2f32.powi(-75),
        1e-45,
    ];
    values.extend(values.clone().iter().map(|x| -x));
    values.iter().map(|x| x.to_bits().into()).collect()
}

fn float(raw: u64) -> f32 {
    f32::from_bits(raw as u32)
}

fn flushed(raw: u64) -> u64 {
    if float(raw).is_subnormal() {
        raw & 0x8000_0000
    } else {
        raw
    }
}

fn saturated(raw: u64) -> u64 {
    let x = float(raw);
    if x > 0.0 {
        x.min(1.0).to_bits().into()
    } else {
        0
    }
}

/// Checks all roundings, `.ftz` and `.sat` (where there is one) against the exact rule.
fn arithmetic(
    opcode: &str,
    sources: &[Vec<u64>],
    has_sat: bool,
    exact: fn(&[f64], Rounding) -> u64,
) {
    let registers = ["%r1", "%r2", "%r3"][..sources.len()].join(", ");
    for (token, rounding) in ROUNDINGS {
        for ftz in [false, true] {
            for sat in [false, true] {
                if sat && !has_sat {
                    continue;
                }
                let (f, s) = (if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" });
                check(
                    &format!("{opcode}.{token}{f}{s}.f32 %r0, {registers};"),
                    sources,
                    |row| {
                        let input =
                            |raw: &u64| f64::from(float(if ftz { flushed(*raw) } else { *raw }));
                        let inputs: Vec<f64> = row.iter().map(input).collect();
                        let result = exact(&inputs, rounding);
                        let result = if ftz { flushed(result) } else { result };
                        if sat { saturated(result) } else { result }
                    },
                );
            }
        }
    }
}

/// The zero that leaves a product's sign alone.
fn zero_of(a: f64, b: f64) -> f64 {
    if a.is_sign_negative() != b.is_sign_negative() {
        -0.0
    } else {
        0.0
    }
}

#[test]
fn f32_arithmetic_in_every_rounding() {
    let all = samples();
    let two = pairs(&all, &all);
    let three = triples(&all, &all, &all);
    arithmetic("add", &two, true, |s, r| {
        soft::fma(s[0], 1.0, s[1], soft::F32, r)
    });
    arithmetic("sub", &two, true, |s, r| {
        soft::fma(s[0], 1.0, -s[1], soft::F32, r)
    });
    arithmetic("mul", &two, true, |s, r| {
        soft::fma(s[0], s[1], zero_of(s[0], s[1]), soft::F32, r)
    });
    arithmetic("fma", &three, true, |s, r| {
        soft::fma(s[0], s[1], s[2], soft::F32, r)
    });
    arithmetic("mad", &three, true, |s, r| {
        soft::fma(s[0], s[1], s[2], soft::F32, r)
    });
    arithmetic("div", &two, false, |s, r| {
        soft::div(s[0], s[1], soft::F32, r)
    });
    arithmetic("rcp", &two[..1], false, |s, r| {
        soft::div(1.0, s[0], soft::F32, r)
    });
    arithmetic("sqrt", &two[..1], false, |s, r| {
        soft::sqrt(s[0], soft::F32, r)
    });
}

#[test]
fn nan_is_canonical_and_never_contracted() {
    assert_eq!(
        once("add.f32 %r0, %r1, %r2;", &[0x7f80_0001, 0]),
        0x7fff_ffff
    );
    assert_eq!(
        once("mul.f32 %r0, %r1, %r2;", &[0x7f80_0000, 0]),
        0x7fff_ffff
    );
    let text = "mul.f32 %r0, %r2, %r3; add.f32 %r0, %r0, %r4;";
    let (a, c) = (1.0f32.next_up(), -1.0f32);
    let bits = |x: f32| u64::from(x.to_bits());
    assert_eq!(once(text, &[bits(a), bits(a), bits(c)]), bits(a * a - 1.0));
    assert_eq!(
        once(
            "fma.rn.f32 %r0, %r1, %r2, %r3;",
            &[bits(a), bits(a), bits(c)]
        ),
        bits(a.mul_add(a, c))
    );
}

#[test]
fn f64_arithmetic_in_every_rounding() {
    let all: Vec<u64> = [
        0.0,
        1.0,
        3.0,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        0.1,
        1e-200,
        1e200,
    ]
    .iter()
    .flat_map(|x: &f64| [x.to_bits(), (-x).to_bits()])
    .collect();
    let two = pairs(&all, &all);
    let three = triples(&all, &all, &all);
    let f = f64::from_bits;
    for (token, r) in ROUNDINGS {
        let check = |opcode: &str, sources: &[Vec<u64>], exact: &dyn Fn(&[u64]) -> u64| {
            let registers = ["%rd1", "%rd2", "%rd3"][..sources.len()].join(", ");
            check(
                &format!("{opcode}.{token}.f64 %rd0, {registers};"),
                sources,
                exact,
            );
        };
        check("add", &two, &|s| {
            soft::fma(f(s[0]), 1.0, f(s[1]), soft::F64, r)
        });
        check("sub", &two, &|s| {
            soft::fma(f(s[0]), 1.0, -f(s[1]), soft::F64, r)
        });
        check("mul", &two, &|s| {
            soft::fma(f(s[0]), f(s[1]), zero_of(f(s[0]), f(s[1])), soft::F64, r)
        });
        check("fma", &three, &|s| {
            soft::fma(f(s[0]), f(s[1]), f(s[2]), soft::F64, r)
        });
        check("div", &two, &|s| soft::div(f(s[0]), f(s[1]), soft::F64, r));
        check("rcp", &two[..1], &|s| soft::div(1.0, f(s[0]), soft::F64, r));
        check("sqrt", &two[..1], &|s| soft::sqrt(f(s[0]), soft::F64, r));
    }
    let nan = 0x7ff0_0000_dead_beef;
    assert_eq!(
        once("add.f64 %rd0, %rd1, %rd2;", &[0, nan]),
        nan | 1 << 51,
        "payloads stay"
    );
}

#[test]
fn extremes() {
    let all = samples();
    let sources = pairs(&all, &all);
    for (opcode, max) in [("min", false), ("max", true)] {
        for (mods, ftz, nan, abs) in [
            ("", false, false, false),
            (".ftz", true, false, false),
            (".NaN", false, true, false),
            (".ftz.NaN", true, true, false),
            (".xorsign.abs", false, false, true),
            (".ftz.NaN.xorsign.abs", true, true, true),
        ] {
            check(
                &format!("{opcode}{mods}.f32 %r0, %r1, %r2;"),
                &sources,
                |s| {
                    let [mut a, mut b] = [s[0], s[1]].map(|x| if ftz { flushed(x) } else { x });
                    let sign = if abs { (a ^ b) & 0x8000_0000 } else { 0 };
                    if abs {
                        (a, b) = (a & 0x7fff_ffff, b & 0x7fff_ffff);
                    }
                    // As integers in order of value, -0 below +0.
                    let key = |x: u64| {
                        if x >> 31 != 0 {
                            !(x as i64)
                        } else {
                            x as i64 | 1 << 40
                        }
                    };
                    match (float(a).is_nan(), float(b).is_nan()) {
                        (true, true) => 0x7fff_ffff,
                        (true, _) | (_, true) if nan => 0x7fff_ffff,
                        (true, false) => b | sign,
                        (false, true) => a | sign,
                        _ if (key(a) < key(b)) == max => b | sign,
                        _ => a | sign,
                    }
                },
            );
        }
    }
    assert_eq!(once("max.f64 %rd0, %rd1, %rd2;", &[1 << 63, 0]), 0);
    assert_eq!(
        once("min.f64 %rd0, %rd1, %rd2;", &[f64::NAN.to_bits(), 0]),
        0
    );
    assert!(!accepts("min.abs.f32 %r0, %r1, %r2;"));
}

#[test]
fn signs_and_classes() {
    let all = vec![samples()];
    check("neg.f32 %r0, %r1;", &all, |s| s[0] ^ 0x8000_0000);
    check("neg.ftz.f32 %r0, %r1;", &all, |s| {
        flushed(s[0]) ^ 0x8000_0000
    });
    check("abs.f32 %r0, %r1;", &all, |s| s[0] & 0x7fff_ffff);
    let two = pairs(&all[0], &all[0]);
    check("copysign.f32 %r0, %r1, %r2;", &two, |s| {
        s[1] & 0x7fff_ffff | s[0] & 0x8000_0000
    });
    type Test = fn(f32) -> bool;
    let tests: [(&str, Test); 6] = [
        ("finite", |x| x.is_finite()),
        ("infinite", |x| x.is_infinite()),
        ("number", |x| !x.is_nan()),
        ("notanumber", |x| x.is_nan()),
        ("normal", |x| x.is_normal() || x == 0.0),
        ("subnormal", |x| x.is_subnormal()),
    ];
    for (name, holds) in tests {
        check(&format!("testp.{name}.f32 %p0, %r1;"), &all, |s| {
            holds(float(s[0])).into()
        });
    }
    assert_eq!(once("testp.subnormal.f64 %p0, %rd1;", &[1]), 1);
    assert_eq!(once("abs.f64 %rd0, %rd1;", &[1 << 63 | 5]), 5);
}

#[test]
fn approximations_stay_within_the_bounds_of_the_isa() {
    let all: Vec<u64> = (0..200_000u64)
        .map(|k| k * 21_474 % (1 << 32))
        .chain(samples())
        .collect();
    let columns = vec![all];
    type Function = fn(f64) -> f64;
    let cases: [(&str, Function, f64); 7] = [
        ("ex2", |x| x.exp2(), 2f64.powi(-22)),
        ("lg2", |x| x.log2(), 2f64.powi(-22)),
        ("rcp", |x| 1.0 / x, 2f64.powi(-23)),
        ("rsqrt", |x| 1.0 / x.sqrt(), 2f64.powf(-22.9)),
        ("sqrt", |x| x.sqrt(), 2f64.powi(-23)),
        ("sin", |x| x.sin(), 2f64.powf(-20.5)),
        ("cos", |x| x.cos(), 2f64.powf(-20.5)),
    ];
    for (opcode, function, bound) in cases {
        for ftz in ["", ".ftz"] {
            let results = run(&format!("{opcode}.approx{ftz}.f32 %r0, %r1;"), &columns);
            for (raw, result) in columns[0].iter().zip(&results[0]) {
                let input = if ftz.is_empty() { *raw } else { flushed(*raw) };
                let exact = function(float(input).into());
                let near = float(*result);
                if exact.is_nan() {
                    assert_eq!(*result, 0x7fff_ffff, "{opcode}{ftz} {raw:#x}");
                } else if (exact as f32).is_infinite() || exact == 0.0 {
                    assert_eq!(
                        *result as u32,
                        (exact as f32).to_bits(),
                        "{opcode}{ftz} {raw:#x}"
                    );
                } else if !ftz.is_empty() && exact.abs() < f64::from(f32::MIN_POSITIVE) * 0.999 {
                    assert_eq!(result & 0x7fff_ffff, 0, "{opcode}{ftz} {raw:#x}");
                } else if exact.abs() > f64::from(f32::MIN_POSITIVE) * 1.001 {
                    let error = (f64::from(near) - exact).abs() / exact.abs();
                    assert!(
                        error <= bound,
                        "{opcode}{ftz} {raw:#x}: {near:e} for {exact:e}"
                    );
                }
            }
        }
    }
    check("tanh.approx.f32 %r0, %r1;", &columns, |s| {
        let exact = f64::from(float(s[0])).tanh() as f32;
        if exact.is_nan() {
            0x7fff_ffff
        } else {
            exact.to_bits().into()
        }
    });
}

#[test]
fn approximate_division() {
    let bits = |x: f32| u64::from(x.to_bits());
    for (a, b, approx, full) in [
        (1.0, 3.0, 1.0 / 3.0, 1.0 / 3.0),
        (1.0, 2f32.powi(127), 0.0, 2f32.powi(-127)),
        (f32::INFINITY, 2f32.powi(127), f32::NAN, f32::INFINITY),
        (1.0, 0.0, f32::INFINITY, f32::INFINITY),
        (-1.0, f32::INFINITY, -0.0, -0.0),
    ] {
        let canonical = |x: f32| if x.is_nan() { 0x7fff_ffff } else { bits(x) };
        assert_eq!(
            once("div.approx.f32 %r0, %r1, %r2;", &[bits(a), bits(b)]),
            canonical(approx)
        );
        assert_eq!(
            once("div.full.f32 %r0, %r1, %r2;", &[bits(a), bits(b)]),
            canonical(full)
        );
    }
    assert_eq!(
        once(
            "div.full.ftz.f32 %r0, %r1, %r2;",
            &[bits(1.0), bits(2f32.powi(127))]
        ),
        0
    );
    assert_eq!(
        once("rcp.approx.ftz.f64 %rd0, %rd1;", &[4f64.to_bits()]),
        0.25f64.to_bits()
    );
    assert_eq!(
        once("rsqrt.approx.f64 %rd0, %rd1;", &[4f64.to_bits()]),
        0.5f64.to_bits()
    );
}
