//! `f16` and `bf16` arithmetic, single and in pairs.
use super::prelude::*;
use crate::numerics::NAN16;
use crate::numerics::float::{extreme, saturate};
use crate::numerics::half::{
    flush_f16, fma_bf16, fma_f16, is_bf16_tie, narrow_bf16, narrow_f16, settle_bf16_tie,
    widen_bf16, widen_f16,
};
use crate::simd;

const F16S: &[Type] = &[F16, F16x2];
const BF16S: &[Type] = &[BF16, BF16x2];

/// `$half` on the one half, or on both of a pair.
macro_rules! both {
    ($f:expr, |$($a:ident),+| $half:expr) => {
        match $f.ty(0).bits() {
            16 => Some(lanes!(|$($a: u16),+| -> u16 { $half })),
            _ => Some(lanes!(|$($a: u32),+| -> u32 {
                let low = { $(let $a = $a as u16;)+ $half };
                let high = { $(let $a = ($a >> 16) as u16;)+ $half };
                u32::from(low) | u32::from(high) << 16
            })),
        }
    };
}

/// The value of an operand.
#[inline(always)]
fn value<const FTZ: bool>(half: u16) -> f32 {
    widen_f16(if FTZ { flush_f16(half) } else { half })
}

/// A result in `f32`, limited, rounded and flushed.
#[inline(always)]
fn result<const FTZ: bool, const SAT: bool>(exact: f32) -> u16 {
    let half = narrow_f16(if SAT { saturate(exact) } else { exact });
    if FTZ { flush_f16(half) } else { half }
}

/// Zero for negative numbers; NaN stays.
#[inline(always)]
fn relu(half: u16) -> u16 {
    // NaNs are 0x7fff here, which has no sign.
    if half & 0x8000 != 0 { 0 } else { half }
}

pub(super) static ROWS: &[Row] = &[
    row(
        "add",
        "Half Precision Floating Point Instructions: add",
        Class::Half,
    )
    .mods(&[flag("rn"), flag("ftz"), flag("sat"), types(F16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(53, 4, 2)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ => per_flag!(f.has("sat"), SAT =>
            both!(f, |a, b| result::<FTZ, SAT>(value::<FTZ>(a) + value::<FTZ>(b)))))
    }),
    row(
        "sub",
        "Half Precision Floating Point Instructions: sub",
        Class::Half,
    )
    .mods(&[flag("rn"), flag("ftz"), flag("sat"), types(F16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(53, 4, 2)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ => per_flag!(f.has("sat"), SAT =>
            both!(f, |a, b| result::<FTZ, SAT>(value::<FTZ>(a) - value::<FTZ>(b)))))
    }),
    row(
        "mul",
        "Half Precision Floating Point Instructions: mul",
        Class::Half,
    )
    .mods(&[flag("rn"), flag("ftz"), flag("sat"), types(F16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(53, 4, 2)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ => per_flag!(f.has("sat"), SAT =>
            both!(f, |a, b| result::<FTZ, SAT>(value::<FTZ>(a) * value::<FTZ>(b)))))
    }),
    row(
        "fma",
        "Half Precision Floating Point Instructions: fma",
        Class::Half,
    )
    .mods(&[need("rn"), flag("ftz"), flag("sat"), types(F16S)])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .since(53, 4, 2)
    .exec(|f| {
        if f.ty(0) == F16x2 && !f.has("ftz") && !f.has("sat") {
            return Some(exec!(|w, i, m| fma_f16x2(w, i, m)));
        }
        per_flag!(f.has("ftz"), FTZ => per_flag!(f.has("sat"), SAT =>
            both!(f, |a, b, c| result::<FTZ, SAT>(
                fma_f16(value::<FTZ>(a), value::<FTZ>(b), value::<FTZ>(c))))))
    }),
    row(
        "fma",
        "Half Precision Floating Point Instructions: fma",
        Class::Half,
    )
    .mods(&[need("rn"), flag("ftz"), need("relu"), types(F16S)])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ =>
            both!(f, |a, b, c| relu(result::<FTZ, false>(
                fma_f16(value::<FTZ>(a), value::<FTZ>(b), value::<FTZ>(c))))))
    }),
    row(
        "neg",
        "Half Precision Floating Point Instructions: neg",
        Class::Half,
    )
    .mods(&[flag("ftz"), types(F16S)])
    .args(&[D(T0), S(T0)])
    .since(53, 6, 0)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ =>
            both!(f, |a| if FTZ { flush_f16(a) } else { a } ^ 0x8000))
    }),
    row(
        "abs",
        "Half Precision Floating Point Instructions: abs",
        Class::Half,
    )
    .mods(&[flag("ftz"), types(F16S)])
    .args(&[D(T0), S(T0)])
    .since(53, 6, 5)
    .exec(|f| {
        per_flag!(f.has("ftz"), FTZ =>
            both!(f, |a| if FTZ { flush_f16(a) } else { a } & 0x7fff))
    }),
    row(
        "min",
        "Half Precision Floating Point Instructions: min",
        Class::Half,
    )
    .mods(&[
        flag("ftz"),
        flag("NaN"),
        flag("xorsign"),
        flag("abs"),
        types(F16S),
    ])
    .args(&[D(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| extremes::<false>(f)),
    row(
        "max",
        "Half Precision Floating Point Instructions: max",
        Class::Half,
    )
    .mods(&[
        flag("ftz"),
        flag("NaN"),
        flag("xorsign"),
        flag("abs"),
        types(F16S),
    ])
    .args(&[D(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| extremes::<true>(f)),
    row(
        "add",
        "Half Precision Floating Point Instructions: add",
        Class::Half,
    )
    .mods(&[flag("rn"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(90, 7, 8)
    .exec(|f| both!(f, |a, b| narrow_bf16(widen_bf16(a) + widen_bf16(b)))),
    row(
        "sub",
        "Half Precision Floating Point Instructions: sub",
        Class::Half,
    )
    .mods(&[flag("rn"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(90, 7, 8)
    .exec(|f| both!(f, |a, b| narrow_bf16(widen_bf16(a) - widen_bf16(b)))),
    row(
        "mul",
        "Half Precision Floating Point Instructions: mul",
        Class::Half,
    )
    .mods(&[flag("rn"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(90, 7, 8)
    .exec(|f| {
        both!(f, |a, b| {
            let (a, b) = (widen_bf16(a), widen_bf16(b));
            let zero = f32::from_bits((a.to_bits() ^ b.to_bits()) & 0x8000_0000);
            narrow_bf16(fma_bf16(a, b, zero))
        })
    }),
    row(
        "fma",
        "Half Precision Floating Point Instructions: fma",
        Class::Half,
    )
    .mods(&[need("rn"), flag("relu"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| {
        per_flag!(f.has("relu"), RELU => match f.ty(0) {
            BF16 => Some(lanes!(|a: u16, b: u16, c: u16| -> u16 {
                let sum = narrow_bf16(fma_bf16(widen_bf16(a), widen_bf16(b), widen_bf16(c)));
                if RELU { relu(sum) } else { sum }
            })),
            _ => Some(exec!(|w, i, m| fma_bf16x2::<RELU>(w, i, m))),
        })
    }),
    row(
        "neg",
        "Half Precision Floating Point Instructions: neg",
        Class::Half,
    )
    .mods(&[types(BF16S)])
    .args(&[D(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| both!(f, |a| a ^ 0x8000)),
    row(
        "abs",
        "Half Precision Floating Point Instructions: abs",
        Class::Half,
    )
    .mods(&[types(BF16S)])
    .args(&[D(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| both!(f, |a| a & 0x7fff)),
    row(
        "min",
        "Half Precision Floating Point Instructions: min",
        Class::Half,
    )
    .mods(&[flag("NaN"), flag("xorsign"), flag("abs"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| extremes::<false>(f)),
    row(
        "max",
        "Half Precision Floating Point Instructions: max",
        Class::Half,
    )
    .mods(&[flag("NaN"), flag("xorsign"), flag("abs"), types(BF16S)])
    .args(&[D(T0), S(T0), S(T0)])
    .since(80, 7, 0)
    .exec(|f| extremes::<true>(f)),
];

// Bits of `aux` for `min` and `max`.
const MAX_BIT: u64 = 1;
const FLUSH_BIT: u64 = 2;
const NAN_BIT: u64 = 4;
const ABS_BIT: u64 = 8;

/// `min` and `max` of any half type.
fn extremes<const MAX: bool>(f: &mut Form<'_>) -> Option<ExecFn> {
    if f.has("xorsign") != f.has("abs") {
        return None;
    }
    let bit = |set, bit| if set { bit } else { 0 };
    f.aux = bit(MAX, MAX_BIT)
        | bit(f.has("ftz"), FLUSH_BIT)
        | bit(f.has("NaN"), NAN_BIT)
        | bit(f.has("abs"), ABS_BIT);
    match f.ty(0) {
        F16 | F16x2 => Some(exec!(|w, i, m| extreme_lanes(
            w, i, m, widen_f16, narrow_f16
        ))),
        _ => Some(exec!(|w, i, m| extreme_lanes(
            w,
            i,
            m,
            widen_bf16,
            narrow_bf16
        ))),
    }
}

/// Both halves of all lanes; the upper one of a single half is zero and stays so.
#[inline(always)]
fn extreme_lanes(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    widen: fn(u16) -> f32,
    narrow: fn(f32) -> u16,
) -> Step {
    let (a, b) = (w.get::<u32>(i.s[0]), w.get::<u32>(i.s[1]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]);
    let aux = i.aux;
    let one = |a: u32, b: u32| u32::from(extreme_half(a as u16, b as u16, aux, widen, narrow));
    let mut out = [0; 32];
    for lane in 0..32 {
        let (a, b) = (a[lane], b[lane]);
        out[lane] = one(a, b) | one(a >> 16, b >> 16) << 16;
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// One of the two, or NaN; with `.xorsign.abs`, the magnitude of one under the product's sign.
#[inline(always)]
fn extreme_half(a: u16, b: u16, aux: u64, widen: fn(u16) -> f32, narrow: fn(f32) -> u16) -> u16 {
    let flush = |half| {
        if aux & FLUSH_BIT != 0 {
            flush_f16(half)
        } else {
            half
        }
    };
    let (a, b) = (flush(a), flush(b));
    let keep = if aux & ABS_BIT != 0 { 0x7fff } else { 0xffff };
    let (x, y) = (widen(a & keep), widen(b & keep));
    let extreme = if aux & MAX_BIT != 0 {
        extreme::<true, false>(x, y)
    } else {
        extreme::<false, false>(x, y)
    };
    let half = narrow(extreme);
    let is_nan = half == NAN16 || (aux & NAN_BIT != 0 && (x.is_nan() || y.is_nan()));
    let signed = if aux & ABS_BIT != 0 {
        half | ((a ^ b) & 0x8000)
    } else {
        half
    };
    if is_nan { NAN16 } else { signed }
}

/// Both halves of all lanes at once, by the processor's own conversions.
#[inline(always)]
fn fma_f16x2(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]) & w.valid32(i.s[2]);
    let [a, b, c] = [0, 1, 2].map(|k| simd::widen_f16(&simd::halves(&w.r32(i.s[k]).0)));
    let sums: [f32; 64] = std::array::from_fn(|n| fma_f16(a[n], b[n], c[n]));
    let out = simd::pairs(&simd::narrow_f16(&sums));
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// Both halves of all lanes at once; the rare ties that need another look come after.
#[inline(always)]
fn fma_bf16x2<const RELU: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (a, b, c) = (
        w.get::<u32>(i.s[0]),
        w.get::<u32>(i.s[1]),
        w.get::<u32>(i.s[2]),
    );
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]) & w.valid32(i.s[2]);
    let low = |x: u32| f32::from_bits(x << 16);
    let high = |x: u32| f32::from_bits(x & 0xffff_0000);
    let (mut lows, mut highs) = ([0.0f32; 32], [0.0f32; 32]);
    let mut ties = false;
    for lane in 0..32 {
        let (x, y, z) = (a[lane], b[lane], c[lane]);
        lows[lane] = low(x).mul_add(low(y), low(z));
        highs[lane] = high(x).mul_add(high(y), high(z));
        ties |= is_bf16_tie(lows[lane]) | is_bf16_tie(highs[lane]);
    }
    if ties {
        for lane in 0..32 {
            let (x, y, z) = (a[lane], b[lane], c[lane]);
            if is_bf16_tie(lows[lane]) {
                lows[lane] = settle_bf16_tie(low(x), low(y), low(z), lows[lane]);
            }
            if is_bf16_tie(highs[lane]) {
                highs[lane] = settle_bf16_tie(high(x), high(y), high(z), highs[lane]);
            }
        }
    }
    let mut out = [0; 32];
    for lane in 0..32 {
        let (low, high) = (narrow_bf16(lows[lane]), narrow_bf16(highs[lane]));
        let (low, high) = if RELU {
            (relu(low), relu(high))
        } else {
            (low, high)
        };
        out[lane] = u32::from(low) | u32::from(high) << 16;
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}
