//! `cvt` between all types.
use super::*;
use crate::numerics::half::{widen_bf16, widen_f16};
use crate::numerics::soft::{self, Exact};
use crate::numerics::{Rounding, fp8};

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

const ROUNDINGS: [(&str, Rounding); 4] = [
    ("rn", Rounding::Nearest),
    ("rz", Rounding::Zero),
    ("rm", Rounding::Down),
    ("rp", Rounding::Up),
];

/// An integer type's value of the low bits of a register.
fn value(raw: u64, bits: u32, is_signed: bool) -> i128 {
    let low = raw & (u64::MAX >> (64 - bits));
    if is_signed {
        signed(low, bits)
    } else {
        low.into()
    }
}

fn range(bits: u32, is_signed: bool) -> (i128, i128) {
    if is_signed {
        (-1 << (bits - 1), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// A value of a type as a register of some width holds it.
fn held(value: i128, register: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - register))
}

#[test]
fn between_integers_of_all_types_and_register_widths() {
    for (from, from_bits, from_signed) in INTEGERS {
        for (to, to_bits, to_signed) in INTEGERS {
            for wide_from in [from_bits.max(16), 64] {
                for wide_to in [to_bits.max(16), 32.max(to_bits), 64] {
                    let sources = vec![corners(wide_from)];
                    let (d, a) = (register(wide_to), register(wide_from));
                    check(&format!("cvt.{to}.{from} {d}0, {a}1;"), &sources, |s| {
                        let cut = value(s[0], from_bits, from_signed) as u64;
                        held(value(cut, to_bits, to_signed), wide_to)
                    });
                }
            }
            let ((low, high), (least, most)) =
                (range(from_bits, from_signed), range(to_bits, to_signed));
            let (d, a) = (register(to_bits.max(16)), register(from_bits.max(16)));
            let text = format!("cvt.sat.{to}.{from} {d}0, {a}1;");
            if low >= least && high <= most {
                assert!(!accepts(&text), "{text}");
            } else {
                check(&text, &[corners(from_bits.max(16))], |s| {
                    held(
                        value(s[0], from_bits, from_signed).clamp(least, most),
                        to_bits.max(16),
                    )
                });
            }
        }
    }
}

/// Floats around the ends of the integer ranges and their halves.
fn floats() -> Vec<f64> {
    let mut values = vec![
        0.0,
        0.5,
        1.5,
        2.5,
        0.49999997,
        1e-40,
        1e30,
        f64::INFINITY,
        f64::NAN,
        3.7,
    ];
    for bits in [7, 8, 15, 16, 31, 32, 63, 64] {
        let end = 2f64.powi(bits);
        values.extend([
            end,
            end - 1.0,
            end - 0.5,
            end + 0.5,
            f64::from((end as f32).next_down()),
        ]);
    }
    let negative: Vec<f64> = values.iter().map(|x| -x).collect();
    values.extend(negative);
    values
}

#[test]
fn floats_to_integers() {
    for (ty, bits) in [("f16", 16), ("f32", 32), ("f64", 64)] {
        let wide = |raw: u64| match bits {
            16 => f64::from(widen_f16(raw as u16)),
            32 => f64::from(f32::from_bits(raw as u32)),
            _ => f64::from_bits(raw),
        };
        let format = [soft::F16, soft::F32, soft::F64][bits / 32];
        let sources: Vec<u64> = floats()
            .iter()
            .map(|x| soft::convert(*x, format, Rounding::Nearest))
            .collect();
        let sources = vec![sources];
        for (to, to_bits, is_signed) in INTEGERS {
            for (token, rounding) in ROUNDINGS {
                let (d, a) = (register(to_bits.max(16)), register(bits as u32));
                check(
                    &format!("cvt.{token}i.{to}.{ty} {d}0, {a}1;"),
                    &sources,
                    |s| {
                        let x = wide(s[0]);
                        let (least, most) = range(to_bits, is_signed);
                        let result = if x.is_nan() {
                            if bits == 64 || to_bits == 64 {
                                1 << (to_bits - 1)
                            } else {
                                0
                            }
                        } else if x.is_infinite() {
                            if x > 0.0 { most } else { least }
                        } else {
                            Exact::from_f64(x).to_integer(rounding).clamp(least, most)
                        };
                        held(value(result as u64, to_bits, is_signed), to_bits.max(16))
                    },
                );
            }
        }
    }
    let small = u64::from(1e-40f32.to_bits());
    assert_eq!(once("cvt.rpi.s32.f32 %r0, %r1;", &[small]), 1);
    assert_eq!(once("cvt.rpi.ftz.s32.f32 %r0, %r1;", &[small]), 0);
    assert!(
        !accepts("cvt.s32.f32 %r0, %r1;"),
        "the rounding has to be written"
    );
}

#[test]
fn integers_to_floats() {
    for (from, bits, is_signed) in INTEGERS {
        for (ty, format, width) in [
            ("f16", soft::F16, 16),
            ("bf16", soft::BF16, 16),
            ("f32", soft::F32, 32),
            ("f64", soft::F64, 64),
        ] {
            if ty == "bf16" && bits == 8 {
                continue;
            }
            for (token, rounding) in ROUNDINGS {
                let (d, a) = (register(width), register(bits.max(16)));
                let exact = |raw, limit: bool| {
                    let value = value(raw, bits, is_signed);
                    let value = if limit { value.clamp(0, 1) } else { value };
                    Exact::from_integer(value).round(format, rounding)
                };
                let sources = vec![corners(bits.max(16))];
                check(
                    &format!("cvt.{token}.{ty}.{from} {d}0, {a}1;"),
                    &sources,
                    |s| exact(s[0], false),
                );
                check(
                    &format!("cvt.{token}.sat.{ty}.{from} {d}0, {a}1;"),
                    &sources,
                    |s| exact(s[0], true),
                );
            }
        }
    }
}

#[test]
fn every_half_widens() {
    let all: Vec<u64> = (0..0x1_0000).collect();
    let canonical = |x: f32| {
        if x.is_nan() {
            0x7fff_ffff
        } else {
            u64::from(x.to_bits())
        }
    };
    let limited = |x: f32| {
        if x > 0.0 {
            u64::from(x.min(1.0).to_bits())
        } else {
            0
        }
    };
    let sources = vec![all];
    let oracle = |raw: u64| ::half::f16::from_bits(raw as u16).to_f32();
    check("cvt.f32.f16 %r0, %rs1;", &sources, |s| {
        canonical(oracle(s[0]))
    });
    check("cvt.sat.f32.f16 %r0, %rs1;", &sources, |s| {
        limited(oracle(s[0]))
    });
    check("cvt.f32.bf16 %r0, %rs1;", &sources, |s| {
        canonical(::half::bf16::from_bits(s[0] as u16).to_f32())
    });
    let results = run("cvt.f64.f16 %rd0, %rs1;", &sources);
    for (raw, result) in sources[0].iter().zip(&results[0]) {
        let (x, y) = (f64::from_bits(*result), f64::from(oracle(*raw)));
        assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan());
    }
    for (token, rounding) in ROUNDINGS {
        check(
            &format!("cvt.{token}i.f16.f16 %rs0, %rs1;"),
            &sources,
            |s| {
                let x = f64::from(widen_f16(s[0] as u16));
                if x.is_finite() && x.fract() != 0.0 {
                    let n = Exact::from_f64(x).to_integer(rounding) as f64;
                    soft::convert(n.copysign(x), soft::F16, rounding)
                } else {
                    soft::convert(x, soft::F16, rounding)
                }
            },
        );
    }
}

#[test]
fn narrowing_rounds_once() {
    // Every half's neighbourhood: itself, the tie above it, and beside the tie.
    let f16 = (0..0x1_0000u64).step_by(3).flat_map(|half| {
        let wide = u64::from(widen_f16(half as u16).to_bits());
        [wide, wide | 0x1000, wide | 0x1001, wide | 0xfff]
    });
    let bf16 = (0..0x1_0000u64).step_by(7).flat_map(|half| {
        let wide = half << 16;
        [wide, wide | 0x8000, wide | 0x8001, wide | 0x7fff]
    });
    let sources = vec![f16.chain(bf16).collect::<Vec<_>>()];
    let float = |raw: u64| f64::from(f32::from_bits(raw as u32));
    for (ty, format) in [("f16", soft::F16), ("bf16", soft::BF16)] {
        for (token, rounding) in &ROUNDINGS[..2] {
            check(&format!("cvt.{token}.{ty}.f32 %rs0, %r1;"), &sources, |s| {
                soft::convert(float(s[0]), format, *rounding)
            });
            for (mods, relu, satfinite) in [
                ("", false, false),
                (".relu", true, false),
                (".satfinite", false, true),
                (".relu.satfinite", true, true),
            ] {
                let one = |raw: u64| {
                    let mut result = soft::convert(float(raw), format, *rounding);
                    if satfinite && result & 0x7fff == format.infinity() {
                        result -= 1;
                    }
                    if relu && result & 0x8000 != 0 {
                        0
                    } else {
                        result
                    }
                };
                if !mods.is_empty() {
                    check(
                        &format!("cvt.{token}{mods}.{ty}.f32 %rs0, %r1;"),
                        &sources,
                        |s| one(s[0]),
                    );
                }
                let reversed = sources[0].iter().rev().copied().collect();
                let columns = vec![sources[0].clone(), reversed];
                check(
                    &format!("cvt.{token}{mods}.{ty}x2.f32 %r0, %r1, %r2;"),
                    &columns,
                    |s| one(s[0]) << 16 | one(s[1]),
                );
            }
        }
    }
    for (token, rounding) in &ROUNDINGS[2..] {
        check(&format!("cvt.{token}.f16.f32 %rs0, %r1;"), &sources, |s| {
            soft::convert(float(s[0]), soft::F16, *rounding)
        });
    }
    check("cvt.rn.sat.f16.f32 %rs0, %r1;", &sources, |s| {
        let x = float(s[0]);
        soft::convert(
            if x > 0.0 { x.min(1.0) } else { 0.0 },
            soft::F16,
            Rounding::Nearest,
        )
    });
}

#[test]
fn doubles_narrow_without_a_stop_at_f32() {
    // Above a tie of f16 by less than f32 can see.
    let x = (1.0 + 2f64.powi(-11) + 2f64.powi(-40)).to_bits();
    assert_eq!(once("cvt.rn.f16.f64 %rs0, %rd1;", &[x]), 0x3c01);
    let values: Vec<u64> = floats()
        .iter()
        .flat_map(|x| [x.to_bits(), (x * 1e-39).to_bits(), x.to_bits() ^ 1])
        .collect();
    let sources = vec![values];
    for (token, rounding) in ROUNDINGS {
        for (ftz, flush) in [("", false), (".ftz", true)] {
            check(
                &format!("cvt.{token}{ftz}.f32.f64 %r0, %rd1;"),
                &sources,
                |s| {
                    let result = soft::convert(f64::from_bits(s[0]), soft::F32, rounding);
                    if flush && result & 0x7f80_0000 == 0 {
                        result & 0x8000_0000
                    } else {
                        result
                    }
                },
            );
        }
    }
    assert_eq!(
        once("cvt.f64.f32 %rd0, %r1;", &[1.5f32.to_bits().into()]),
        1.5f64.to_bits()
    );
    assert_eq!(once("cvt.ftz.f64.f32 %rd0, %r1;", &[0x8000_0001]), 1 << 63);
    assert_eq!(
        once("cvt.rzi.f64.f64 %rd0, %rd1;", &[(-2.7f64).to_bits()]),
        (-2f64).to_bits()
    );
    assert!(!accepts("cvt.f32.f64 %r0, %rd1;"));
    assert!(!accepts("cvt.rn.f64.f32 %rd0, %r1;"));
}

#[test]
fn same_type() {
    let raw: Vec<u64> = floats()
        .iter()
        .map(|x| (*x as f32).to_bits().into())
        .collect();
    let sources = vec![raw];
    let float = |raw: u64| f32::from_bits(raw as u32);
    let bits = |x: f32| {
        if x.is_nan() {
            0x7fff_ffff
        } else {
            u64::from(x.to_bits())
        }
    };
    check("cvt.sat.f32.f32 %r0, %r1;", &sources, |s| {
        if float(s[0]) > 0.0 {
            bits(float(s[0]).min(1.0))
        } else {
            0
        }
    });
    check("cvt.rni.f32.f32 %r0, %r1;", &sources, |s| {
        bits(float(s[0]).round_ties_even())
    });
    check("cvt.rzi.f32.f32 %r0, %r1;", &sources, |s| {
        bits(float(s[0]).trunc())
    });
    check("cvt.rmi.f32.f32 %r0, %r1;", &sources, |s| {
        bits(float(s[0]).floor())
    });
    check("cvt.rpi.f32.f32 %r0, %r1;", &sources, |s| {
        bits(float(s[0]).ceil())
    });
    assert_eq!(once("cvt.rpi.ftz.f32.f32 %r0, %r1;", &[1]), 0);
    assert_eq!(
        once("cvt.ftz.f32.f32 %r0, %r1;", &[0x8000_0001]),
        0x8000_0000
    );
}

#[test]
fn tf32_ties_away_from_zero() {
    for (x, expected) in [
        (0x3f80_0fff, 0x3f80_0000),
        (0x3f80_1000, 0x3f80_2000),
        (0xbf80_1000, 0xbf80_2000),
        (0x7f7f_ffff, 0x7f80_0000),
        (0x7f80_0000, 0x7f80_0000),
        (0xffc0_0000, 0x7fff_ffff),
    ] {
        assert_eq!(once("cvt.rna.tf32.f32 %r0, %r1;", &[x]), expected);
    }
    assert_eq!(
        once("cvt.rna.satfinite.tf32.f32 %r0, %r1;", &[0x7f7f_ffff]),
        0x7f7f_e000
    );
}

#[test]
fn eight_bit_floats() {
    let halves: Vec<u64> = (0..0x1_0000).collect();
    type Narrow = fn(f32) -> u8;
    for (ty, narrow) in [
        ("e4m3x2", fp8::narrow_e4m3 as Narrow),
        ("e5m2x2", fp8::narrow_e5m2),
    ] {
        let columns = vec![
            halves
                .iter()
                .map(|h| h | (h ^ 0x5555) << 16)
                .collect::<Vec<_>>(),
        ];
        let one = |half: u64| u64::from(narrow(widen_f16(half as u16)));
        check(
            &format!("cvt.rn.satfinite.{ty}.f16x2 %rs0, %r1;"),
            &columns,
            |s| one(s[0] >> 16) << 8 | one(s[0] & 0xffff),
        );
        let wide: Vec<u64> = halves
            .iter()
            .map(|h| widen_f16(*h as u16).to_bits().into())
            .collect();
        let columns = vec![wide.clone(), wide.into_iter().rev().collect()];
        let positive = |code: u64| if code & 0x80 != 0 { 0 } else { code };
        let one = |raw: u64| u64::from(narrow(f32::from_bits(raw as u32)));
        check(
            &format!("cvt.rn.satfinite.{ty}.f32 %rs0, %r1, %r2;"),
            &columns,
            |s| one(s[0]) << 8 | one(s[1]),
        );
        check(
            &format!("cvt.rn.satfinite.relu.{ty}.f32 %rs0, %r1, %r2;"),
            &columns,
            |s| positive(one(s[0])) << 8 | positive(one(s[1])),
        );
    }
    type Widen = fn(u8) -> u16;
    for (ty, widen) in [
        ("e4m3x2", fp8::e4m3_to_f16 as Widen),
        ("e5m2x2", fp8::e5m2_to_f16),
    ] {
        let columns = vec![(0..0x1_0000u64).collect::<Vec<_>>()];
        check(&format!("cvt.rn.f16x2.{ty} %r0, %rs1;"), &columns, |s| {
            u64::from(widen((s[0] >> 8) as u8)) << 16 | u64::from(widen(s[0] as u8))
        });
    }
    assert_eq!(widen_bf16(0x3f80), 1.0);
}
