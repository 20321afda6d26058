//! `cvt` to the narrow formats of machine learning: halves with limits, pairs of halves, `tf32`,
//! and the eight-bit formats.
use super::prelude::*;
use crate::numerics::fp8::{e4m3_to_f16, e5m2_to_f16, narrow_e4m3, narrow_e5m2};
use crate::numerics::half::{narrow_bf16, narrow_f16, widen_f16};
use crate::numerics::{NAN32, Rounding, soft};

const TITLE: &str = "Data Movement and Conversion Instructions: cvt";

pub(super) static ROWS: &[Row] = &[
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", &["rn", "rz"]),
            flag("relu"),
            flag("satfinite"),
            types(&[F16, BF16]),
            types(&[F32]),
        ])
        .args(&[D(T0), S(T1)])
        .since(80, 7, 0)
        .exec(|f| {
            f.aux = limits(f);
            match (f.ty(0), f.aux) {
                (F16, 0) => Some(lanes!(|a: f32| -> u16 { narrow_f16(a) })),
                (_, 0) => Some(lanes!(|a: f32| -> u16 { narrow_bf16(a) })),
                (F16, _) => Some(exec!(cold | w, i, m | narrow_limited::<1, true>(w, i, m))),
                _ => Some(exec!(cold | w, i, m | narrow_limited::<1, false>(w, i, m))),
            }
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", &["rn", "rz"]),
            flag("relu"),
            flag("satfinite"),
            types(&[F16x2, BF16x2]),
            types(&[F32]),
        ])
        .args(&[D(T0), S(T1), S(T1)])
        .since(80, 7, 0)
        .exec(|f| {
            f.aux = limits(f);
            // The first source goes to the upper half.
            match (f.ty(0), f.aux) {
                (F16x2, 0) => Some(lanes!(|a: f32, b: f32| -> u32 {
                    u32::from(narrow_f16(a)) << 16 | u32::from(narrow_f16(b))
                })),
                (_, 0) => Some(lanes!(|a: f32, b: f32| -> u32 {
                    u32::from(narrow_bf16(a)) << 16 | u32::from(narrow_bf16(b))
                })),
                (F16x2, _) => Some(exec!(cold | w, i, m | narrow_limited::<2, true>(w, i, m))),
                _ => Some(exec!(cold | w, i, m | narrow_limited::<2, false>(w, i, m))),
            }
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            need("rna"),
            flag("satfinite"),
            types(&[TF32]),
            types(&[F32]),
        ])
        .args(&[D(Is(B32)), S(T1)])
        .since(80, 7, 0)
        .exec(|f| {
            per_flag!(f.has("satfinite"), SATFINITE =>
                Some(lanes!(cold |a: u32| -> u32 { to_tf32::<SATFINITE>(a) })))
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            need("rn"),
            need("satfinite"),
            flag("relu"),
            types(&[E4M3x2, E5M2x2]),
            types(&[F32]),
        ])
        .args(&[D(T0), S(T1), S(T1)])
        .since(89, 8, 1)
        .exec(|f| {
            per_flag!(f.has("relu"), RELU => match f.ty(0) {
                E4M3x2 => Some(lanes!(cold |a: f32, b: f32| -> u16 {
                    let one = |x| u16::from(relu8::<RELU>(narrow_e4m3(x)));
                    one(a) << 8 | one(b)
                })),
                _ => Some(lanes!(cold |a: f32, b: f32| -> u16 {
                    let one = |x| u16::from(relu8::<RELU>(narrow_e5m2(x)));
                    one(a) << 8 | one(b)
                })),
            })
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            need("rn"),
            need("satfinite"),
            flag("relu"),
            types(&[E4M3x2, E5M2x2]),
            types(&[F16x2]),
        ])
        .args(&[D(T0), S(T1)])
        .since(89, 8, 1)
        .exec(|f| {
            per_flag!(f.has("relu"), RELU => match f.ty(0) {
                E4M3x2 => Some(lanes!(cold |a: u32| -> u16 {
                    let one = |half| u16::from(relu8::<RELU>(narrow_e4m3(widen_f16(half))));
                    one((a >> 16) as u16) << 8 | one(a as u16)
                })),
                _ => Some(lanes!(cold |a: u32| -> u16 {
                    let one = |half| u16::from(relu8::<RELU>(narrow_e5m2(widen_f16(half))));
                    one((a >> 16) as u16) << 8 | one(a as u16)
                })),
            })
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            need("rn"),
            flag("relu"),
            types(&[F16x2]),
            types(&[E4M3x2, E5M2x2]),
        ])
        .args(&[D(T0), S(T1)])
        .since(89, 8, 1)
        .exec(|f| {
            per_flag!(f.has("relu"), RELU => match f.ty(1) {
                E4M3x2 => Some(lanes!(cold |a: u16| -> u32 {
                    let one = |code| u32::from(relu16::<RELU>(e4m3_to_f16(code)));
                    one((a >> 8) as u8) << 16 | one(a as u8)
                })),
                _ => Some(lanes!(cold |a: u16| -> u32 {
                    let one = |code| u32::from(relu16::<RELU>(e5m2_to_f16(code)));
                    one((a >> 8) as u8) << 16 | one(a as u8)
                })),
            })
        }),
];

/// Zero for negative codes; NaN, 0x7f here, stays.
#[inline(always)]
fn relu8<const RELU: bool>(code: u8) -> u8 {
    if RELU && code & 0x80 != 0 { 0 } else { code }
}

/// Zero for negative halves; NaN, 0x7fff here, stays.
#[inline(always)]
fn relu16<const RELU: bool>(half: u16) -> u16 {
    if RELU && half & 0x8000 != 0 { 0 } else { half }
}

/// Ten bits of fraction, ties away from zero.
#[inline(always)]
fn to_tf32<const SATFINITE: bool>(bits: u32) -> u32 {
    let magnitude = bits & 0x7fff_ffff;
    let rounded = magnitude.wrapping_add(0x1000) & 0xffff_e000;
    let bounded = if SATFINITE {
        rounded.min(0x7f7f_e000)
    } else {
        rounded.min(0x7f80_0000)
    };
    if magnitude > 0x7f80_0000 {
        NAN32
    } else {
        bounded | bits & 0x8000_0000
    }
}

// Bits of `aux` for the conversions with limits.
const TRUNCATE: u64 = 1;
const RELU: u64 = 2;
const SATFINITE: u64 = 4;

fn limits(f: &Form<'_>) -> u64 {
    let bit = |token, bit| if f.has(token) { bit } else { 0 };
    bit("rz", TRUNCATE) | bit("relu", RELU) | bit("satfinite", SATFINITE)
}

/// One or two `f32` to `f16` or `bf16`, with the limits of `aux`; the first source goes on top.
#[inline(always)]
fn narrow_limited<const N: usize, const F16: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let format = if F16 { soft::F16 } else { soft::BF16 };
    let rounding = if i.aux & TRUNCATE != 0 {
        Rounding::Zero
    } else {
        Rounding::Nearest
    };
    let infinity = format.infinity() as u32;
    let mut out = [0u32; 32];
    let mut valid = u32::MAX;
    for k in 0..N {
        let source = w.get::<f32>(i.s[k]);
        valid &= w.valid32(i.s[k]);
        for lane in 0..32 {
            let mut bits = soft::convert(source[lane].into(), format, rounding) as u32;
            if i.aux & SATFINITE != 0 && bits & 0x7fff == infinity {
                bits -= 1;
            }
            if i.aux & RELU != 0 && bits & 0x8000 != 0 {
                bits = 0;
            }
            out[lane] = out[lane] << 16 | bits;
        }
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}
