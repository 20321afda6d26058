//! Comparison and selection.
use super::*;
use crate::numerics::half::{widen_bf16, widen_f16};

type Holds = fn(std::cmp::Ordering) -> bool;

const INTEGER_ORDERS: [(&str, Holds); 6] = [
    ("eq", |o| o.is_eq()),
    ("ne", |o| o.is_ne()),
    ("lt", |o| o.is_lt()),
    ("le", |o| o.is_le()),
    ("gt", |o| o.is_gt()),
    ("ge", |o| o.is_ge()),
];

#[test]
fn integers() {
    for (ty, bits, is_signed) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        let r = register(bits);
        let sources = pairs(&corners(bits), &corners(bits));
        let order = |s: &[u64]| {
            if is_signed {
                signed(s[0], bits).cmp(&signed(s[1], bits))
            } else {
                s[0].cmp(&s[1])
            }
        };
        for (name, holds) in INTEGER_ORDERS {
            let expected = |s: &[u64]| u64::from(holds(order(s)));
            check(
                &format!("setp.{name}.{ty} %p0, {r}1, {r}2;"),
                &sources,
                expected,
            );
            check(
                &format!("set.{name}.u32.{ty} %r9, {r}1, {r}2;"),
                &sources,
                |s| expected(s) * 0xffff_ffff,
            );
            check(
                &format!("set.{name}.f32.{ty} %r9, {r}1, {r}2;"),
                &sources,
                |s| expected(s) * 0x3f80_0000,
            );
        }
        if !is_signed {
            for (name, like) in [("lo", 2), ("ls", 3), ("hi", 4), ("hs", 5)] {
                let holds = INTEGER_ORDERS[like].1;
                check(
                    &format!("setp.{name}.{ty} %p0, {r}1, {r}2;"),
                    &sources,
                    |s| holds(order(s)).into(),
                );
            }
        }
    }
    assert!(!accepts("setp.lo.s32 %p0, %r1, %r2;"));
    assert!(!accepts("setp.lt.b32 %p0, %r1, %r2;"));
    assert!(!accepts("setp.equ.s32 %p0, %r1, %r2;"));
    check(
        "setp.ne.b64 %p0, %rd1, %rd2;",
        &pairs(&corners(64), &corners(64)),
        |s| (s[0] != s[1]).into(),
    );
}

/// All comparisons of floats by what holds between the operands; `None` is unordered.
fn holds(name: &str, order: Option<std::cmp::Ordering>) -> bool {
    match (name, order) {
        ("num", order) => order.is_some(),
        ("nan", order) => order.is_none(),
        ("equ" | "neu" | "ltu" | "leu" | "gtu" | "geu", None) => true,
        (_, None) => false,
        (name, Some(order)) => {
            let base = &name[..2];
            let (_, holds) = INTEGER_ORDERS
                .iter()
                .find(|(known, _)| *known == base)
                .expect("an order");
            holds(order)
        }
    }
}

const FLOAT_ORDERS: [&str; 14] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

#[test]
fn floats() {
    let values = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        1e-40,
        -1e-40,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let raw: Vec<u64> = values.iter().map(|x| x.to_bits().into()).collect();
    let sources = pairs(&raw, &raw);
    let float = |x: u64| f32::from_bits(x as u32);
    let flushed = |x: u64| {
        if float(x).is_subnormal() {
            0.0
        } else {
            float(x)
        }
    };
    let raw: Vec<u64> = values.iter().map(|x| f64::from(*x).to_bits()).collect();
    let wide = pairs(&raw, &raw);
    let raw: Vec<u64> = [
        0, 0x8000, 0x3c00, 0xbc00, 1, 0x8001, 0x400, 0x7c00, 0xfc00, 0x7e00, 0xffff,
    ]
    .to_vec();
    let halves = pairs(&raw, &raw);
    for name in FLOAT_ORDERS {
        check(&format!("setp.{name}.f32 %p0, %r1, %r2;"), &sources, |s| {
            holds(name, float(s[0]).partial_cmp(&float(s[1]))).into()
        });
        check(
            &format!("setp.{name}.ftz.f32 %p0, %r1, %r2;"),
            &sources,
            |s| holds(name, flushed(s[0]).partial_cmp(&flushed(s[1]))).into(),
        );
        check(
            &format!("set.{name}.ftz.s32.f32 %r0, %r1, %r2;"),
            &sources,
            |s| u64::from(holds(name, flushed(s[0]).partial_cmp(&flushed(s[1])))) * 0xffff_ffff,
        );
        check(&format!("setp.{name}.f64 %p0, %rd1, %rd2;"), &wide, |s| {
            holds(
                name,
                f64::from_bits(s[0]).partial_cmp(&f64::from_bits(s[1])),
            )
            .into()
        });
        check(
            &format!("set.{name}.f32.f64 %r0, %rd1, %rd2;"),
            &wide,
            |s| {
                let holds = holds(
                    name,
                    f64::from_bits(s[0]).partial_cmp(&f64::from_bits(s[1])),
                );
                u64::from(holds) * 0x3f80_0000
            },
        );
        let f16 = |s: &[u64]| widen_f16(s[0] as u16).partial_cmp(&widen_f16(s[1] as u16));
        check(&format!("setp.{name}.f16 %p0, %rs1, %rs2;"), &halves, |s| {
            holds(name, f16(s)).into()
        });
        check(
            &format!("set.{name}.f16.f16 %rs0, %rs1, %rs2;"),
            &halves,
            |s| u64::from(holds(name, f16(s))) * 0x3c00,
        );
        let bf16 = |s: &[u64]| widen_bf16(s[0] as u16).partial_cmp(&widen_bf16(s[1] as u16));
        check(
            &format!("setp.{name}.bf16 %p0, %rs1, %rs2;"),
            &halves,
            |s| holds(name, bf16(s)).into(),
        );
    }
}

#[test]
fn pairs_of_halves_have_a_result_each() {
    let both = run(
        "setp.lt.f16x2 %p0|%p1, %r2, %r3;",
        &[vec![0x3c00_0000], vec![0x0000_3c00]],
    );
    assert_eq!((both[0][0], both[1][0]), (1, 0));
    assert_eq!(
        once(
            "set.lt.f16x2.f16x2 %r0, %r1, %r2;",
            &[0x3c00_0000, 0x0000_3c00]
        ),
        0x3c00
    );
    assert_eq!(
        once(
            "set.gt.u32.f16x2 %r0, %r1, %r2;",
            &[0x3c00_0000, 0x0000_3c00]
        ),
        0xffff_0000
    );
    assert_eq!(once("setp.eq.ftz.f16 %p0, %rs1, %rs2;", &[1, 0x8000]), 1);
    assert!(!accepts("setp.lt.f16 %p0|%p1, %rs2, %rs3;"));
}

#[test]
fn combined_with_a_predicate() {
    let values = triples(&[1, 2], &[1, 2], &[0, 1, 1, 0]);
    let columns = vec![
        [values[0].clone(), values[0].clone()].concat(),
        [values[1].clone(), values[1].clone()].concat(),
        vec![0, 0, 0, 0, 1, 1, 1, 1],
    ];
    for (operation, combine) in [
        ("and", (|a, b| a & b) as fn(bool, bool) -> bool),
        ("or", |a, b| a | b),
        ("xor", |a, b| a ^ b),
    ] {
        for (sign, flip) in [("", false), ("!", true)] {
            let text = format!("setp.lt.{operation}.u32 %p0|%p1, %r2, %r3, {sign}%p4;");
            let results = run(&text, &columns);
            for row in 0..8 {
                let (holds, c) = (
                    columns[0][row] < columns[1][row],
                    (columns[2][row] == 1) != flip,
                );
                assert_eq!(results[0][row], u64::from(combine(holds, c)), "{text}");
                assert_eq!(results[1][row], u64::from(combine(!holds, c)), "{text}");
            }
            let text = format!("set.ge.{operation}.s32.u32 %r0, %r2, %r3, {sign}%p4;");
            check(&text, &columns, |s| {
                u64::from(combine(s[0] >= s[1], (s[2] == 1) != flip)) * 0xffff_ffff
            });
        }
    }
    assert!(!accepts("setp.lt.and.u32 %p0, %r2, %r3;"));
    assert!(!accepts("setp.lt.u32 %p0, %r2, %r3, %p4;"));
}

#[test]
fn selection() {
    for (ty, bits) in [
        ("b16", 16),
        ("u32", 32),
        ("f32", 32),
        ("b64", 64),
        ("f64", 64),
    ] {
        let r = register(bits);
        let columns = vec![vec![7, 7], vec![9, 9], vec![0, 1]];
        check(
            &format!("selp.{ty} {r}0, {r}1, {r}2, %p3;"),
            &columns,
            |s| if s[2] == 1 { 7 } else { 9 },
        );
        check(
            &format!("selp.{ty} {r}0, {r}1, {r}2, !%p3;"),
            &columns,
            |s| if s[2] == 1 { 9 } else { 7 },
        );
        let values = [0, 1, u32::MAX, 0x8000_0000, 0x7fff_ffff];
        let columns = vec![
            vec![7; 5],
            vec![9; 5],
            values.iter().map(|x| u64::from(*x)).collect(),
        ];
        check(
            &format!("slct.{ty}.s32 {r}0, {r}1, {r}2, %r13;"),
            &columns,
            |s| {
                if s[2] as i32 >= 0 { 7 } else { 9 }
            },
        );
        let values = [0.0f32, -0.0, -1e-40, 1.0, -1.0, f32::NAN];
        let columns = vec![
            vec![7; 6],
            vec![9; 6],
            values.iter().map(|x| x.to_bits().into()).collect(),
        ];
        check(
            &format!("slct.{ty}.f32 {r}0, {r}1, {r}2, %r13;"),
            &columns,
            |s| {
                if f32::from_bits(s[2] as u32) >= 0.0 {
                    7
                } else {
                    9
                }
            },
        );
        check(
            &format!("slct.ftz.{ty}.f32 {r}0, {r}1, {r}2, %r13;"),
            &columns,
            |s| {
                if f32::from_bits(s[2] as u32) >= -1e-39 {
                    7
                } else {
                    9
                }
            },
        );
    }
}

#[test]
fn moves_and_parts() {
    assert_eq!(
        once("mov.b64 %rd0, {%r1, %r2};", &[0x1111_2222, 0x3333_4444]),
        0x3333_4444_1111_2222
    );
    assert_eq!(
        once("mov.b64 %rd0, {%rs1, %rs2, %rs3, %rs4};", &[1, 2, 3, 4]),
        0x0004_0003_0002_0001
    );
    assert_eq!(
        once("mov.b32 %r0, {%rs1, %rs2};", &[0xaaaa, 0xbbbb]),
        0xbbbb_aaaa
    );
    let parts = run(
        "mov.b64 {%rs0, %rs1, %rs2, %rs3}, %rd4;",
        &[vec![0x0004_0003_0002_0001]],
    );
    assert_eq!(parts.concat(), [1, 2, 3, 4]);
    let parts = run("mov.b64 {_, %r1}, %rd4;", &[vec![0x3333_4444_1111_2222]]);
    assert_eq!(parts.concat(), [0x3333_4444]);
    let parts = run("mov.b32 {%rs0, %rs1}, %r4;", &[vec![0xbbbb_aaaa]]);
    assert_eq!(parts.concat(), [0xaaaa, 0xbbbb]);
    assert_eq!(once("mov.pred %p0, !%p1;", &[0]), 1);
    assert_eq!(
        once("mov.f64 %rd0, 0dBFF8000000000000;", &[]),
        (-1.5f64).to_bits()
    );
    assert_eq!(once("mov.f32 %r0, 1.5;", &[]), u64::from(1.5f32.to_bits()));
    assert_eq!(once("mov.s16 %rs0, -2;", &[]), 0xfffe);
}
