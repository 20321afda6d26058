//! Moves between registers, and of their parts.
use super::prelude::*;

const TITLE: &str = "Data Movement and Conversion Instructions: mov";

pub(super) static ROWS: &[Row] = &[
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, F16x2, BF16, BF16x2, F32, F64])])
        .args(&[D(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [Pred B16 B32 B64 U16 U32 U64 S16 S32 S64 F16 F16x2 BF16 BF16x2 F32 F64] =>
            lanes!(|a: T| -> T { a }))),
    // mov.b32 d, {low, high}; and its like.
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B16])])
        .args(&[D(T0), SV(Is(B8), Count::Fixed(2))])
        .exec(|_| Some(lanes!(|a: u8, b: u8| -> u16 { u16::from_le_bytes([a, b]) }))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B32])])
        .args(&[D(T0), SV(Is(B16), Count::Fixed(2))])
        .exec(|_| Some(lanes!(|a: u16, b: u16| -> u32 { u32::from(a) | u32::from(b) << 16 }))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B32])])
        .args(&[D(T0), SV(Is(B8), Count::Fixed(4))])
        .exec(|_| Some(lanes!(|a: u8, b: u8, c: u8, d: u8| -> u32 { u32::from_le_bytes([a, b, c, d]) }))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B64])])
        .args(&[D(T0), SV(Is(B32), Count::Fixed(2))])
        .exec(|_| Some(lanes!(|a: u32, b: u32| -> u64 { u64::from(a) | u64::from(b) << 32 }))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B64])])
        .args(&[D(T0), SV(Is(B16), Count::Fixed(4))])
        .exec(|_| Some(lanes!(|a: u16, b: u16, c: u16, d: u16| -> u64 {
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
        }))),
    // mov.b32 {low, high}, a; and its like.
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B16])])
        .args(&[DV(Is(B8), Count::Fixed(2)), S(T0)])
        .exec(|_| Some(exec!(|w, i, m| unpack::<8>(w, i, m)))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B32])])
        .args(&[DV(Is(B16), Count::Fixed(2)), S(T0)])
        .exec(|_| Some(exec!(|w, i, m| unpack::<16>(w, i, m)))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B32])])
        .args(&[DV(Is(B8), Count::Fixed(4)), S(T0)])
        .exec(|_| Some(exec!(|w, i, m| unpack::<8>(w, i, m)))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B64])])
        .args(&[DV(Is(B32), Count::Fixed(2)), S(T0)])
        .exec(|_| Some(exec!(|w, i, m| unpack_wide::<32>(w, i, m)))),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[B64])])
        .args(&[DV(Is(B16), Count::Fixed(4)), S(T0)])
        .exec(|_| Some(exec!(|w, i, m| unpack_wide::<16>(w, i, m)))),
];

/// Splits a 32-bit register into parts of `BITS` bits, the lowest first.
#[inline(always)]
fn unpack<const BITS: u32>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (source, valid) = (w.get::<u32>(i.s[0]), w.valid::<u32>(i.s[0]));
    for part in 0..i.nd.min(8) {
        let shift = u32::from(part) * BITS;
        w.put(
            i.d[usize::from(part)],
            m,
            valid,
            source.map(|bits| bits >> shift & ((1 << BITS) - 1)),
        );
    }
    Ok(Flow::Next)
}

/// Splits a 64-bit register into parts of `BITS` bits, the lowest first.
#[inline(always)]
fn unpack_wide<const BITS: u32>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (source, valid) = (w.get::<u64>(i.s[0]), w.valid::<u64>(i.s[0]));
    for part in 0..i.nd.min(8) {
        let shift = u32::from(part) * BITS;
        let mut out = [0; 32];
        for lane in 0..32 {
            out[lane] = (source[lane] >> shift & ((1 << BITS) - 1)) as u32;
        }
        w.put(i.d[usize::from(part)], m, valid, out);
    }
    Ok(Flow::Next)
}
