//! Comparison and selection.
use super::prelude::*;
use crate::numerics::float::flush;
use crate::numerics::half::{flush_f16, widen_bf16, widen_f16};

const ORDERS: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const FLOAT_ORDERS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];
const BOOL: Mod = maybe("bool", &["and", "or", "xor"]);
const PAIR: Arg = Arg::Pair(Is(Pred), Is(Pred));
const COMBINED: Arg = Opt(&S(Is(Pred)));

pub(super) static ROWS: &[Row] = &[
    row(
        "setp",
        "Comparison and Selection Instructions: setp",
        Class::Int,
    )
    .mods(&[
        one("cmp", ORDERS),
        BOOL,
        types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64]),
    ])
    .args(&[PAIR, S(T0), S(T0), COMBINED])
    .exec(|f| integer_setp(f)),
    row(
        "setp",
        "Comparison and Selection Instructions: setp",
        Class::Float,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F32])])
    .args(&[PAIR, S(T0), S(T0), COMBINED])
    .exec(|f| {
        let base = float_order(f)?;
        per_flag!(f.has("ftz"), FTZ => per_order!(base, ORDER => exec!(|w, i, m| {
            setp::<f32>(w, i, m, |a, b| order32::<ORDER>(flush::<FTZ>(a), flush::<FTZ>(b)))
        })))
    }),
    row(
        "setp",
        "Comparison and Selection Instructions: setp",
        Class::Double,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[F64])])
    .args(&[PAIR, S(T0), S(T0), COMBINED])
    .exec(|f| {
        let base = float_order(f)?;
        per_order!(base, ORDER => exec!(|w, i, m| {
            setp::<f64>(w, i, m, order64::<ORDER>)
        }))
    }),
    row(
        "setp",
        "Half Precision Comparison Instructions: setp",
        Class::Half,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F16])])
    .args(&[D(Is(Pred)), S(T0), S(T0), COMBINED])
    .since(53, 4, 2)
    .exec(|f| setp_f16::<false>(f)),
    row(
        "setp",
        "Half Precision Comparison Instructions: setp",
        Class::Half,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F16x2])])
    .args(&[PAIR, S(T0), S(T0), COMBINED])
    .since(53, 4, 2)
    .exec(|f| setp_f16::<true>(f)),
    row(
        "setp",
        "Half Precision Comparison Instructions: setp",
        Class::Half,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[BF16])])
    .args(&[D(Is(Pred)), S(T0), S(T0), COMBINED])
    .since(90, 7, 8)
    .exec(|f| setp_bf16::<false>(f)),
    row(
        "setp",
        "Half Precision Comparison Instructions: setp",
        Class::Half,
    )
    .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[BF16x2])])
    .args(&[PAIR, S(T0), S(T0), COMBINED])
    .since(90, 7, 8)
    .exec(|f| setp_bf16::<true>(f)),
    row(
        "set",
        "Comparison and Selection Instructions: set",
        Class::Int,
    )
    .mods(&[
        one("cmp", ANY_ORDERS),
        BOOL,
        flag("ftz"),
        types(&[U32, S32, F32]),
        types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64]),
    ])
    .args(&[D(T0), S(T1), S(T1), COMBINED])
    .exec(|f| set(f)),
    row(
        "set",
        "Half Precision Comparison Instructions: set",
        Class::Half,
    )
    .mods(&[
        one("cmp", FLOAT_ORDERS),
        BOOL,
        flag("ftz"),
        types(&[F16, U16, S16, U32, S32, F16x2]),
        types(&[F16, F16x2]),
    ])
    .args(&[D(T0), S(T1), S(T1), COMBINED])
    .since(53, 4, 2)
    .exec(|f| set_half(f)),
    row(
        "set",
        "Half Precision Comparison Instructions: set",
        Class::Half,
    )
    .mods(&[
        one("cmp", FLOAT_ORDERS),
        BOOL,
        types(&[BF16, U16, S16, U32, S32, BF16x2]),
        types(&[BF16, BF16x2]),
    ])
    .args(&[D(T0), S(T1), S(T1), COMBINED])
    .since(90, 7, 8)
    .exec(|f| set_half(f)),
    row(
        "set",
        "Half Precision Comparison Instructions: set",
        Class::Half,
    )
    .mods(&[
        one("cmp", ORDERS),
        BOOL,
        types(&[F16]),
        types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64]),
    ])
    .args(&[D(T0), S(T1), S(T1), COMBINED])
    .since(53, 4, 2)
    .exec(|f| {
        f.aux = 0x3c00;
        set_integer(f)
    }),
    row(
        "set",
        "Half Precision Comparison Instructions: set",
        Class::Half,
    )
    .mods(&[
        one("cmp", FLOAT_ORDERS),
        BOOL,
        flag("ftz"),
        types(&[F16]),
        types(&[F32, F64]),
    ])
    .args(&[D(T0), S(T1), S(T1), COMBINED])
    .since(53, 4, 2)
    .exec(|f| {
        f.aux = 0x3c00;
        set_float(f)
    }),
    row(
        "selp",
        "Comparison and Selection Instructions: selp",
        Class::Move,
    )
    .mods(&[types(&[
        B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64,
    ])])
    .args(&[D(T0), S(T0), S(T0), S(Is(Pred))])
    .exec(|f| match f.ty(0).bits() {
        64 => Some(exec!(|w, i, m| {
            let (chosen, known) = (w.pred(i, 2), w.valid_pred(i.s[2]));
            select::<u64>(w, i, m, chosen, known)
        })),
        _ => Some(exec!(|w, i, m| {
            let (chosen, known) = (w.pred(i, 2), w.valid_pred(i.s[2]));
            select::<u32>(w, i, m, chosen, known)
        })),
    }),
    row(
        "slct",
        "Comparison and Selection Instructions: slct",
        Class::Int,
    )
    .mods(&[
        flag("ftz"),
        types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64]),
        types(&[S32, F32]),
    ])
    .args(&[D(T0), S(T0), S(T0), S(T1)])
    .exec(|f| {
        let is_float = f.ty(1) == F32;
        if f.has("ftz") && !is_float {
            return None;
        }
        // A flushed number is a zero, which is not negative.
        per_flag!(is_float, FLOAT => per_flag!(f.has("ftz"), FTZ => match f.ty(0).bits() {
            64 => Some(exec!(|w, i, m| {
                let chosen = at_least_zero::<FLOAT, FTZ>(w, i);
                select::<u64>(w, i, m, chosen, w.valid32(i.s[2]))
            })),
            _ => Some(exec!(|w, i, m| {
                let chosen = at_least_zero::<FLOAT, FTZ>(w, i);
                select::<u32>(w, i, m, chosen, w.valid32(i.s[2]))
            })),
        }))
    }),
];

/// What `set` of any type may compare by; the row's function refuses what its type does not have.
const ANY_ORDERS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

// Comparisons that are computed; the others are their negations, noted in `aux`.
const EQ: u8 = 0;
const NE: u8 = 1;
const LT: u8 = 2;
const LE: u8 = 3;
const GT: u8 = 4;
const GE: u8 = 5;
const NUM: u8 = 6;

/// Instantiates an expression for one of these.
macro_rules! per_order {
    ($value:expr, $ORDER:ident => $e:expr) => {
        match $value {
            EQ => per_order!(@ EQ, $ORDER => $e),
            NE => per_order!(@ NE, $ORDER => $e),
            LT => per_order!(@ LT, $ORDER => $e),
            LE => per_order!(@ LE, $ORDER => $e),
            GT => per_order!(@ GT, $ORDER => $e),
            GE => per_order!(@ GE, $ORDER => $e),
            NUM => per_order!(@ NUM, $ORDER => $e),
            _ => None,
        }
    };
    (@ $value:ident, $ORDER:ident => $e:expr) => {{
        const $ORDER: u8 = $value;
        Some($e)
    }};
}
use per_order;

// Layout of `aux`: what is true in bits 31..0 (for `set`), then the negation, then the operation.
const NEGATED: u64 = 1 << 32;
const AND: u64 = 1 << 33;
const OR: u64 = 2 << 33;
const XOR: u64 = 3 << 33;

/// Notes how the result is combined with a predicate; `None` if only one of the two is written.
fn note_bool(f: &mut Form<'_>) -> Option<()> {
    let (bits, sources) = match f.one("bool") {
        Some("and") => (AND, 3),
        Some("or") => (OR, 3),
        Some(_) => (XOR, 3),
        None => (0, 2),
    };
    f.aux |= bits;
    (f.src_bits.len() == sources).then_some(())
}

/// The comparison of floats to compute; unordered ones are negations of ordered ones.
fn float_order(f: &mut Form<'_>) -> Option<u8> {
    note_bool(f)?;
    let (order, negated) = match f.one("cmp")? {
        "eq" => (EQ, false),
        "ne" => (NE, false),
        "lt" => (LT, false),
        "le" => (LE, false),
        "gt" => (GT, false),
        "ge" => (GE, false),
        "num" => (NUM, false),
        "equ" => (NE, true),
        "neu" => (EQ, true),
        "ltu" => (GE, true),
        "leu" => (GT, true),
        "gtu" => (LE, true),
        "geu" => (LT, true),
        "nan" => (NUM, true),
        _ => return None,
    };
    if negated {
        f.aux |= NEGATED;
    }
    Some(order)
}

/// The comparison of integers to compute: `EQ`, `LT` or `LE`.
fn integer_order(f: &mut Form<'_>, ty: Type) -> Option<u8> {
    note_bool(f)?;
    let is_unsigned = matches!(ty, U16 | U32 | U64);
    let (order, negated) = match f.one("cmp")? {
        "eq" => (EQ, false),
        "ne" => (EQ, true),
        _ if matches!(ty, B16 | B32 | B64) => return None,
        "lt" => (LT, false),
        "le" => (LE, false),
        "gt" => (LE, true),
        "ge" => (LT, true),
        "lo" if is_unsigned => (LT, false),
        "ls" if is_unsigned => (LE, false),
        "hi" if is_unsigned => (LE, true),
        "hs" if is_unsigned => (LT, true),
        _ => return None,
    };
    if negated {
        f.aux |= NEGATED;
    }
    Some(order)
}

/// The comparisons that floats have.
macro_rules! order {
    ($name:ident, $T:ty) => {
        #[inline(always)]
        fn $name<const ORDER: u8>(a: $T, b: $T) -> bool {
            match ORDER {
                EQ => a == b,
                NE => a != b && !a.is_nan() && !b.is_nan(),
                LT => a < b,
                LE => a <= b,
                GT => a > b,
                GE => a >= b,
                _ => !a.is_nan() && !b.is_nan(),
            }
        }
    };
}
order!(order32, f32);
order!(order64, f64);

/// One of the comparisons that integers have.
#[inline(always)]
fn integer<T: PartialOrd, const ORDER: u8>(a: T, b: T) -> bool {
    match ORDER {
        EQ => a == b,
        LT => a < b,
        _ => a <= b,
    }
}

fn integer_setp(f: &mut Form<'_>) -> Option<ExecFn> {
    let ty = f.ty(0);
    match integer_order(f, ty)? {
        EQ => match ty.bits() {
            16 => Some(exec!(|w, i, m| setp::<u16>(w, i, m, |a, b| a == b))),
            32 => Some(exec!(|w, i, m| setp::<u32>(w, i, m, |a, b| a == b))),
            _ => Some(exec!(|w, i, m| setp::<u64>(w, i, m, |a, b| a == b))),
        },
        LT => per_type!(ty, T in [U16 U32 U64 S16 S32 S64] =>
            exec!(|w, i, m| setp::<T>(w, i, m, |a, b| a < b))),
        _ => per_type!(ty, T in [U16 U32 U64 S16 S32 S64] =>
            exec!(|w, i, m| setp::<T>(w, i, m, |a, b| a <= b))),
    }
}

/// `setp` of `f16` or, if `PAIR`, of pairs.
fn setp_f16<const PAIR: bool>(f: &mut Form<'_>) -> Option<ExecFn> {
    let base = float_order(f)?;
    let is_pair = PAIR;
    per_flag!(f.has("ftz"), FTZ => per_flag!(is_pair, PAIRS => per_order!(base, ORDER =>
    exec!(|w, i, m| setp_half::<PAIRS>(w, i, m, |a, b| {
        order32::<ORDER>(value_f16::<FTZ>(a), value_f16::<FTZ>(b))
    })))))
}

/// `setp` of `bf16` or, if `PAIR`, of pairs.
fn setp_bf16<const PAIR: bool>(f: &mut Form<'_>) -> Option<ExecFn> {
    let base = float_order(f)?;
    let is_pair = PAIR;
    per_flag!(is_pair, PAIRS => per_order!(base, ORDER =>
    exec!(|w, i, m| setp_half::<PAIRS>(w, i, m, |a, b| {
        order32::<ORDER>(widen_bf16(a as u16), widen_bf16(b as u16))
    }))))
}

/// An `f16`'s value for a comparison.
#[inline(always)]
fn value_f16<const FTZ: bool>(bits: u32) -> f32 {
    let half = bits as u16;
    widen_f16(if FTZ { flush_f16(half) } else { half })
}

/// The mask of lanes where the comparison holds.
#[inline(always)]
fn mask_of<T: Lane>(a: &[T; 32], b: &[T; 32], holds: impl Fn(T, T) -> bool) -> u32 {
    let mut mask = 0;
    for lane in 0..32 {
        mask |= u32::from(holds(a[lane], b[lane])) << lane;
    }
    mask
}

/// Combines a comparison with source `k`, if the form says so; gives also the known lanes.
#[inline(always)]
fn with_bool(w: &Warp<'_>, i: &Inst, k: usize, holds: u32, valid: u32) -> (u32, u32) {
    let op = i.aux & XOR;
    if op == 0 {
        return (holds, valid);
    }
    let (other, known) = (w.pred(i, k), w.valid_pred(i.s[k]));
    match op {
        AND => (
            holds & other,
            valid & known | valid & !holds | known & !other,
        ),
        OR => (holds | other, valid & known | valid & holds | known & other),
        _ => (holds ^ other, valid & known),
    }
}

/// `setp`: `d` is the comparison, `p` its negation, each combined.
#[inline(always)]
fn setp<T: Lane>(w: &mut Warp<'_>, i: &Inst, m: u32, holds: impl Fn(T, T) -> bool) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    let flip = if i.aux & NEGATED != 0 { u32::MAX } else { 0 };
    let holds = mask_of(&a, &b, holds) ^ flip;
    let (first, first_known) = with_bool(w, i, 2, holds, valid);
    let (second, second_known) = with_bool(w, i, 2, !holds, valid);
    w.put_pred(i.d[0], m, first_known, first);
    w.put_pred(i.d[1], m, second_known, second);
    Ok(Flow::Next)
}

/// `setp` of halves; of pairs, the two destinations are the two halves' results.
#[inline(always)]
fn setp_half<const PAIRS: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    holds: impl Fn(u32, u32) -> bool,
) -> Step {
    let (a, b) = (w.get::<u32>(i.s[0]), w.get::<u32>(i.s[1]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]);
    let flip = if i.aux & NEGATED != 0 { u32::MAX } else { 0 };
    let low = mask_of(&a, &b, |a, b| holds(a & 0xffff, b & 0xffff)) ^ flip;
    let (first, first_known) = with_bool(w, i, 2, low, valid);
    if !PAIRS {
        w.put_pred(i.d[0], m, first_known, first);
        return Ok(Flow::Next);
    }
    let high = mask_of(&a, &b, |a, b| holds(a >> 16, b >> 16)) ^ flip;
    let (second, second_known) = with_bool(w, i, 2, high, valid);
    w.put_pred(i.d[0], m, first_known, first);
    w.put_pred(i.d[1], m, second_known, second);
    Ok(Flow::Next)
}

/// `set` to a 32-bit type.
fn set(f: &mut Form<'_>) -> Option<ExecFn> {
    f.aux = if f.ty(0) == F32 {
        1f32.to_bits().into()
    } else {
        u64::from(u32::MAX)
    };
    match f.ty(1) {
        F32 | F64 => set_float(f),
        _ => set_integer(f),
    }
}

/// `set` of integers; `aux` holds what is true.
fn set_integer(f: &mut Form<'_>) -> Option<ExecFn> {
    if f.has("ftz") {
        return None;
    }
    let ty = f.ty(1);
    let as_unsigned = match ty {
        B16 => U16,
        B32 => U32,
        B64 => U64,
        other => other,
    };
    match integer_order(f, ty)? {
        EQ => per_type!(as_unsigned, T in [U16 U32 U64 S16 S32 S64] =>
            exec!(|w, i, m| set_lanes::<T>(w, i, m, integer::<T, EQ>))),
        LT => per_type!(as_unsigned, T in [U16 U32 U64 S16 S32 S64] =>
            exec!(|w, i, m| set_lanes::<T>(w, i, m, integer::<T, LT>))),
        _ => per_type!(as_unsigned, T in [U16 U32 U64 S16 S32 S64] =>
            exec!(|w, i, m| set_lanes::<T>(w, i, m, integer::<T, LE>))),
    }
}

/// `set` of `f32` and `f64`; `aux` holds what is true.
fn set_float(f: &mut Form<'_>) -> Option<ExecFn> {
    let base = float_order(f)?;
    let ftz = f.has("ftz");
    match (f.ty(1), ftz) {
        (F32, _) => per_flag!(ftz, FTZ => per_order!(base, ORDER => exec!(|w, i, m| {
            set_lanes::<f32>(w, i, m, |a, b| order32::<ORDER>(flush::<FTZ>(a), flush::<FTZ>(b)))
        }))),
        (_, true) => None,
        _ => per_order!(base, ORDER => exec!(|w, i, m| {
            set_lanes::<f64>(w, i, m, order64::<ORDER>)
        })),
    }
}

/// `set` of halves and their pairs.
fn set_half(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    let is_pair = matches!(from, F16x2 | BF16x2);
    let is_bf16 = matches!(from, BF16 | BF16x2);
    let fits = match to {
        U16 | S16 => !is_pair,
        U32 | S32 => true,
        F16 => from == F16,
        BF16 => from == BF16,
        F16x2 | BF16x2 => to == from,
        _ => false,
    };
    if !fits || is_bf16 && f.has("ftz") {
        return None;
    }
    f.aux = match to {
        F16 => 0x3c00,
        BF16 => 0x3f80,
        F16x2 => 0x3c00_3c00,
        BF16x2 => 0x3f80_3f80,
        U16 | S16 => 0xffff,
        _ => u64::from(u32::MAX),
    };
    let base = float_order(f)?;
    let ftz = f.has("ftz");
    per_flag!(is_pair, PAIRS => if is_bf16 {
        per_order!(base, ORDER => exec!(|w, i, m| set_half_lanes::<PAIRS>(w, i, m, |a, b| {
            order32::<ORDER>(widen_bf16(a as u16), widen_bf16(b as u16))
        })))
    } else {
        per_flag!(ftz, FTZ => per_order!(base, ORDER =>
            exec!(|w, i, m| set_half_lanes::<PAIRS>(w, i, m, |a, b| {
                order32::<ORDER>(value_f16::<FTZ>(a), value_f16::<FTZ>(b))
            }))))
    })
}

#[inline(always)]
fn set_lanes<T: Lane>(w: &mut Warp<'_>, i: &Inst, m: u32, holds: impl Fn(T, T) -> bool) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    let flip = if i.aux & NEGATED != 0 { u32::MAX } else { 0 };
    let (holds, known) = with_bool(w, i, 2, mask_of(&a, &b, holds) ^ flip, valid);
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = 0u32.wrapping_sub(holds >> lane & 1) & i.aux as u32;
    }
    w.put(i.d[0], m, known, out);
    Ok(Flow::Next)
}

#[inline(always)]
fn set_half_lanes<const PAIRS: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    holds: impl Fn(u32, u32) -> bool,
) -> Step {
    let (a, b) = (w.get::<u32>(i.s[0]), w.get::<u32>(i.s[1]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]);
    let flip = if i.aux & NEGATED != 0 { u32::MAX } else { 0 };
    let low = mask_of(&a, &b, |a, b| holds(a & 0xffff, b & 0xffff)) ^ flip;
    let high = if PAIRS {
        mask_of(&a, &b, |a, b| holds(a >> 16, b >> 16)) ^ flip
    } else {
        low
    };
    let (low, known_low) = with_bool(w, i, 2, low, valid);
    let (high, known_high) = with_bool(w, i, 2, high, valid);
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let low = 0u32.wrapping_sub(low >> lane & 1) & 0xffff;
        let high = 0u32.wrapping_sub(high >> lane & 1) << 16;
        *out = (low | high) & i.aux as u32;
    }
    w.put(i.d[0], m, known_low & known_high, out);
    Ok(Flow::Next)
}

/// Lanes of source 2 that are at least zero, as `slct` asks.
#[inline(always)]
fn at_least_zero<const FLOAT: bool, const FTZ: bool>(w: &Warp<'_>, i: &Inst) -> u32 {
    if FLOAT {
        let c = w.get::<f32>(i.s[2]);
        mask_of(&c, &c, |c, _| flush::<FTZ>(c) >= 0.0)
    } else {
        let c = w.get::<i32>(i.s[2]);
        mask_of(&c, &c, |c, _| c >= 0)
    }
}

/// Source 0 where `chosen`, else source 1. What is not taken need not be initialised.
#[inline(always)]
fn select<T: Lane>(w: &mut Warp<'_>, i: &Inst, m: u32, chosen: u32, known: u32) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & chosen | w.valid::<T>(i.s[1]) & !chosen;
    let mut out = b;
    for lane in 0..32 {
        out[lane] = if chosen >> lane & 1 != 0 {
            a[lane]
        } else {
            b[lane]
        };
    }
    w.put(i.d[0], m, valid & known, out);
    Ok(Flow::Next)
}
