//! Integer arithmetic.
use super::*;
use crate::{LaunchError, Violation};

/// `u16` .. `s64`: width and signedness.
const TYPES: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("u32", 32, false),
    ("u64", 64, false),
    ("s16", 16, true),
    ("s32", 32, true),
    ("s64", 64, true),
];

fn value(raw: u64, bits: u32, is_signed: bool) -> i128 {
    if is_signed {
        signed(raw, bits)
    } else {
        i128::from(raw)
    }
}

fn cut(value: i128, bits: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - bits))
}

/// Checks an operation of two sources on all types.
fn binary(opcode: &str, types: &[(&str, u32, bool)], op: fn(i128, i128, u32) -> i128) {
    for &(ty, bits, is_signed) in types {
        let r = register(bits);
        let samples = corners(bits);
        let v = |raw| value(raw, bits, is_signed);
        let text = format!("{opcode}.{ty} {r}0, {r}1, {r}2;");
        check(&text, &pairs(&samples, &samples), |s| {
            cut(op(v(s[0]), v(s[1]), bits), bits)
        });
    }
}

#[test]
fn sums_products_and_extremes() {
    binary("add", &TYPES, |a, b, _| a + b);
    binary("sub", &TYPES, |a, b, _| a - b);
    binary("mul.lo", &TYPES, |a, b, _| a.wrapping_mul(b));
    binary("min", &TYPES, |a, b, _| a.min(b));
    binary("max", &TYPES, |a, b, _| a.max(b));
    let narrow = [TYPES[0], TYPES[1], TYPES[3], TYPES[4], TYPES[5]];
    binary("mul.hi", &narrow, |a, b, bits| (a * b) >> bits);
    binary("mul.hi", &[TYPES[2]], |a, b, _| {
        ((a as u128 * b as u128) >> 64) as i128
    });
}

#[test]
fn saturation_is_of_s32_only() {
    let clamp = |x: i128| x.clamp(i32::MIN.into(), i32::MAX.into());
    binary("add.sat", &[TYPES[4]], |a, b, _| {
        (a + b).clamp(i32::MIN.into(), i32::MAX.into())
    });
    binary("sub.sat", &[TYPES[4]], |a, b, _| {
        (a - b).clamp(i32::MIN.into(), i32::MAX.into())
    });
    let samples = corners(32);
    check(
        "mad.hi.sat.s32 %r0, %r1, %r2, %r3;",
        &triples(&samples, &samples, &samples),
        |s| {
            let [a, b, c] = [s[0], s[1], s[2]].map(|x| signed(x, 32));
            cut(clamp(((a * b) >> 32) + c), 32)
        },
    );
    assert!(!accepts("add.sat.u32 %r0, %r1, %r2;"));
    assert!(!accepts("mad.lo.sat.s32 %r0, %r1, %r2, %r3;"));
}

#[test]
fn multiply_adds() {
    for (ty, bits, is_signed) in TYPES {
        let r = register(bits);
        let samples = corners(bits);
        let sources = triples(&samples, &samples, &samples);
        let v = |raw| value(raw, bits, is_signed);
        check(
            &format!("mad.lo.{ty} {r}0, {r}1, {r}2, {r}3;"),
            &sources,
            |s| cut(v(s[0]).wrapping_mul(v(s[1])).wrapping_add(v(s[2])), bits),
        );
        check(
            &format!("sad.{ty} {r}0, {r}1, {r}2, {r}3;"),
            &sources,
            |s| cut((v(s[0]) - v(s[1])).abs() + v(s[2]), bits),
        );
        if bits < 64 {
            let w = register(2 * bits);
            check(
                &format!("mul.wide.{ty} {w}0, {r}1, {r}2;"),
                &sources[..2],
                |s| cut(v(s[0]) * v(s[1]), 2 * bits),
            );
            check(
                &format!("mad.wide.{ty} {w}0, {r}1, {r}2, {w}3;"),
                &sources,
                |s| {
                    cut(
                        v(s[0]) * v(s[1]) + value(s[2], 2 * bits, is_signed),
                        2 * bits,
                    )
                },
            );
            check(
                &format!("mad.hi.{ty} {r}0, {r}1, {r}2, {r}3;"),
                &sources,
                |s| cut(((v(s[0]) * v(s[1])) >> bits) + v(s[2]), bits),
            );
        }
    }
}

#[test]
fn products_of_24_bits() {
    let samples = corners(32);
    let sources = triples(&samples, &samples, &samples);
    for (ty, is_signed) in [("u32", false), ("s32", true)] {
        let low = |raw: u64| {
            if is_signed {
                signed(raw, 24)
            } else {
                i128::from(raw & 0xff_ffff)
            }
        };
        for (part, shift) in [("lo", 0), ("hi", 16)] {
            check(
                &format!("mul24.{part}.{ty} %r0, %r1, %r2;"),
                &sources[..2],
                |s| cut((low(s[0]) * low(s[1])) >> shift, 32),
            );
            check(
                &format!("mad24.{part}.{ty} %r0, %r1, %r2, %r3;"),
                &sources,
                |s| cut(((low(s[0]) * low(s[1])) >> shift) + i128::from(s[2]), 32),
            );
        }
    }
    check("mad24.hi.sat.s32 %r0, %r1, %r2, %r3;", &sources, |s| {
        let sum = ((signed(s[0], 24) * signed(s[1], 24)) >> 16) + signed(s[2], 32);
        cut(sum.clamp(i32::MIN.into(), i32::MAX.into()), 32)
    });
}

#[test]
fn quotients_and_remainders() {
    for (ty, bits, is_signed) in TYPES {
        let r = register(bits);
        let samples = corners(bits);
        let divisors: Vec<u64> = samples.iter().copied().filter(|d| *d != 0).collect();
        let v = |raw| value(raw, bits, is_signed);
        let sources = pairs(&samples, &divisors);
        check(&format!("div.{ty} {r}0, {r}1, {r}2;"), &sources, |s| {
            cut(v(s[0]) / v(s[1]), bits)
        });
        check(&format!("rem.{ty} {r}0, {r}1, {r}2;"), &sources, |s| {
            cut(v(s[0]) % v(s[1]), bits)
        });
        let error = try_run(
            &format!("div.{ty} {r}0, {r}1, {r}2;"),
            &[vec![1, 1], vec![1, 0]],
        );
        let Err(LaunchError::Violation(violation)) = error else {
            panic!("no violation")
        };
        let violation: Violation = *violation;
        assert!(
            violation.to_string().contains("division by zero"),
            "{violation}"
        );
    }
}

#[test]
fn negation_and_magnitude() {
    for (ty, bits, _) in &TYPES[3..] {
        let r = register(*bits);
        let samples = vec![corners(*bits)];
        check(&format!("neg.{ty} {r}0, {r}1;"), &samples, |s| {
            cut(-signed(s[0], *bits), *bits)
        });
        check(&format!("abs.{ty} {r}0, {r}1;"), &samples, |s| {
            cut(signed(s[0], *bits).abs(), *bits)
        });
    }
}

#[test]
fn dot_products() {
    let samples = corners(32);
    let sources = triples(&samples, &samples, &samples);
    for (a, a_signed) in [("u32", false), ("s32", true)] {
        for (b, b_signed) in [("u32", false), ("s32", true)] {
            let part = |raw: u64, k: u32, bits: u32, is_signed: bool| {
                let raw = raw >> (k * bits) & ((1 << bits) - 1);
                if is_signed {
                    signed(raw, bits)
                } else {
                    i128::from(raw)
                }
            };
            check(
                &format!("dp4a.{a}.{b} %r0, %r1, %r2, %r3;"),
                &sources,
                |s| {
                    let products =
                        (0..4).map(|k| part(s[0], k, 8, a_signed) * part(s[1], k, 8, b_signed));
                    cut(products.sum::<i128>() + i128::from(s[2]), 32)
                },
            );
            for (mode, first) in [("lo", 0), ("hi", 2)] {
                check(
                    &format!("dp2a.{mode}.{a}.{b} %r0, %r1, %r2, %r3;"),
                    &sources,
                    |s| {
                        let products = (0..2).map(|k| {
                            part(s[0], k, 16, a_signed) * part(s[1], first + k, 8, b_signed)
                        });
                        cut(products.sum::<i128>() + i128::from(s[2]), 32)
                    },
                );
            }
        }
    }
}

#[test]
fn carries_make_wider_words() {
    let samples = corners(64);
    let sources = pairs(&samples, &samples);
    let halves = |column: &Vec<u64>| -> [Vec<u64>; 2] {
        [
            column.iter().map(|x| x & 0xffff_ffff).collect(),
            column.iter().map(|x| x >> 32).collect(),
        ]
    };
    let [a0, a1] = halves(&sources[0]);
    let [b0, b1] = halves(&sources[1]);
    let words = [a0, b0, a1, b1];
    let whole = |columns: &[Vec<u64>], row: usize| columns[0][row] | columns[1][row] << 32;
    let sums = run("add.cc.u32 %r0, %r2, %r3; addc.u32 %r1, %r4, %r5;", &words);
    let differences = run("sub.cc.s32 %r0, %r2, %r3; subc.s32 %r1, %r4, %r5;", &words);
    let rows = || sources[0].iter().zip(&sources[1]).enumerate();
    for (row, (&a, &b)) in rows() {
        assert_eq!(whole(&sums, row), a.wrapping_add(b));
        assert_eq!(whole(&differences, row), a.wrapping_sub(b));
    }
    // 64 × 64 bits from the product's halves, and a carry out of 64 bits caught by addc.
    let product = run(
        "mad.lo.cc.u64 %rd0, %rd3, %rd4, %rd3; madc.hi.cc.u64 %rd1, %rd3, %rd4, %rd4; addc.u64 %rd2, 0, 0;",
        &sources,
    );
    for (row, (&a, &b)) in rows() {
        let (a, b) = (u128::from(a), u128::from(b));
        let (sum, over) = (a * b + a).overflowing_add(b << 64);
        assert_eq!(
            u128::from(product[0][row]) | u128::from(product[1][row]) << 64,
            sum
        );
        assert_eq!(product[2][row], u64::from(over));
    }
}
