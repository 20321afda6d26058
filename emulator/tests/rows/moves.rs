//! Moves of every type, and between a register and its parts.

use super::{input, lanes};

const BYTES: &str = ".reg .b8 %b<20>;";

/// What 32 lanes have in `%d19` after this.
fn check(body: &str, expected: impl Fn(&[u8]) -> u64) {
    let body = format!("{body} st.global.b64 [%d1], %d19;");
    for (lane, got) in lanes(&body).iter().enumerate() {
        let own = &input()[64 * lane..64 * lane + 64];
        let got = u64::from_le_bytes(got[..8].try_into().unwrap());
        assert_eq!(got, expected(own), "lane {lane}: {body}");
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[test]
fn forms_of_moves_between_registers() {
    for (types, register, bits) in [
        (&["b16", "u16", "s16"][..], "%h", 16),
        (&["b32", "u32", "s32", "f32"][..], "%r", 32),
        (&["b64", "u64", "s64", "f64"][..], "%d", 64),
    ] {
        for ty in types {
            let widen = match bits {
                64 => format!("mov.b64 %d19, {register}11;"),
                _ => format!("cvt.u64.u{bits} %d19, {register}11;"),
            };
            let body = format!(
                "ld.global.b{bits} {register}10, [%d2]; mov.{ty} {register}11, {register}10; {widen}"
            );
            check(&body, |own| number(&own[..bits / 8]));
        }
    }
}

#[test]
fn forms_of_moves_of_parts() {
    for (whole, part, register, of, count) in [
        ("b32", "%h", "%r10", 16, 2),
        ("b64", "%r", "%d10", 32, 2),
        ("b64", "%h", "%d10", 16, 4),
        ("b16", "%b", "%h10", 8, 2),
        ("b32", "%b", "%r10", 8, 4),
    ] {
        let parts: Vec<String> = (0..count).map(|n| format!("{part}{}", 10 + n)).collect();
        let list = parts.join(", ");
        let bits = of * count;
        let widen = match bits {
            64 => format!("mov.b64 %d19, {register};"),
            _ => format!("cvt.u64.u{bits} %d19, {register};"),
        };
        let loads: String = (0..count)
            .map(|n| format!("ld.global.b{of} {}, [%d2+{}];", parts[n], 8 * n))
            .collect();
        let body = format!("{BYTES} {loads} mov.{whole} {register}, {{{list}}}; {widen}");
        check(&body, |own| {
            (0..count).rev().fold(0, |all, n| {
                (all << (of - 1) << 1) | number(&own[8 * n..8 * n + of / 8])
            })
        });
        for n in 0..count {
            let body = format!(
                "{BYTES} ld.global.b{bits} {register}, [%d2]; mov.{whole} {{{list}}}, {register}; cvt.u64.u{of} %d19, {};",
                parts[n]
            );
            check(&body, |own| number(&own[n * of / 8..(n + 1) * of / 8]));
        }
    }
}
