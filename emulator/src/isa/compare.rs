//! Comparison and selection.
//!
//! A comparison is a set of relations (less, equal, greater, unordered) of which one holds between
//! any two values. The comparisons that loops are made of are compiled one by one; the others
//! share a function per type, which reads the set from the instruction's spare word.
use super::prelude::*;
use crate::numerics::float::flush;
use crate::numerics::half::{flush_f16, widen_bf16, widen_f16};

const ORDERS: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
const FLOAT_ORDERS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];
/// What `set` of any type may compare by; the row's function refuses what its type does not have.
const ANY_ORDERS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];
const ANY: &[Type] = &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64];
const BOOL: Mod = maybe("bool", &["and", "or", "xor"]);
const PAIR: Arg = Arg::Pair(Is(Pred), Is(Pred));
const COMBINED: Arg = Opt(&S(Is(Pred)));
const SETP: &str = "Comparison and Selection Instructions: setp";
const SET: &str = "Comparison and Selection Instructions: set";
const HALF_SETP: &str = "Half Precision Comparison Instructions: setp";
const HALF_SET: &str = "Half Precision Comparison Instructions: set";

pub(super) static ROWS: &[Row] = &[
    row("setp", SETP, Class::Int)
        .mods(&[
            one("cmp", ORDERS),
            BOOL,
            types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64]),
        ])
        .args(&[PAIR, S(T0), S(T0), COMBINED])
        .exec(|f| setp_integer(f)),
    row("setp", SETP, Class::Float)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F32])])
        .args(&[PAIR, S(T0), S(T0), COMBINED])
        .exec(|f| setp_f32(f)),
    row("setp", SETP, Class::Double)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[F64])])
        .args(&[PAIR, S(T0), S(T0), COMBINED])
        .exec(|f| {
            note(f)?;
            Some(exec!(
                cold | w,
                i,
                m | setp::<f64>(w, i, m, |a, b| related(i.aux, a, b))
            ))
        }),
    row("setp", HALF_SETP, Class::Half)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F16])])
        .args(&[D(Is(Pred)), S(T0), S(T0), COMBINED])
        .since(53, 4, 2)
        .exec(|f| {
            note(f)?;
            Some(exec!(cold | w, i, m | setp_one(w, i, m, value_f16)))
        }),
    row("setp", HALF_SETP, Class::Half)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, flag("ftz"), types(&[F16x2])])
        .args(&[PAIR, S(T0), S(T0), COMBINED])
        .since(53, 4, 2)
        .exec(|f| {
            note(f)?;
            Some(exec!(cold | w, i, m | setp_two(w, i, m, value_f16)))
        }),
    row("setp", HALF_SETP, Class::Half)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[BF16])])
        .args(&[D(Is(Pred)), S(T0), S(T0), COMBINED])
        .since(90, 7, 8)
        .exec(|f| {
            note(f)?;
            Some(exec!(cold | w, i, m | setp_one(w, i, m, value_bf16)))
        }),
    row("setp", HALF_SETP, Class::Half)
        .mods(&[one("cmp", FLOAT_ORDERS), BOOL, types(&[BF16x2])])
        .args(&[PAIR, S(T0), S(T0), COMBINED])
        .since(90, 7, 8)
        .exec(|f| {
            note(f)?;
            Some(exec!(cold | w, i, m | setp_two(w, i, m, value_bf16)))
        }),
    row("set", SET, Class::Int)
        .mods(&[
            one("cmp", ANY_ORDERS),
            BOOL,
            flag("ftz"),
            types(&[U32, S32, F32]),
            types(ANY),
        ])
        .args(&[D(T0), S(T1), S(T1), COMBINED])
        .exec(|f| set(f)),
    row("set", HALF_SET, Class::Half)
        .mods(&[
            one("cmp", ANY_ORDERS),
            BOOL,
            flag("ftz"),
            types(&[F16]),
            types(ANY),
        ])
        .args(&[D(T0), S(T1), S(T1), COMBINED])
        .since(53, 4, 2)
        .exec(|f| set(f)),
    row("set", HALF_SET, Class::Half)
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
    row("set", HALF_SET, Class::Half)
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
        "selp",
        "Comparison and Selection Instructions: selp",
        Class::Move,
    )
    .mods(&[types(&[
        B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64,
    ])])
    .args(&[D(T0), S(T0), S(T0), S(Is(Pred))])
    .exec(|f| match f.ty(0).bits() {
        64 => Some(exec!(
            cold | w,
            i,
            m | {
                let (chosen, known) = (w.pred(i, 2), w.valid_pred(i.s[2]));
                select::<u64>(w, i, m, chosen, known)
            }
        )),
        _ => Some(exec!(
            cold | w,
            i,
            m | {
                let (chosen, known) = (w.pred(i, 2), w.valid_pred(i.s[2]));
                select::<u32>(w, i, m, chosen, known)
            }
        )),
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
            64 => Some(exec!(cold |w, i, m| {
                let chosen = at_least_zero::<FLOAT, FTZ>(w, i);
                select::<u64>(w, i, m, chosen, w.valid32(i.s[2]))
            })),
            _ => Some(exec!(cold |w, i, m| {
                let chosen = at_least_zero::<FLOAT, FTZ>(w, i);
                select::<u32>(w, i, m, chosen, w.valid32(i.s[2]))
            })),
        }))
    }),
];

// Layout of `aux`: what is true in bits 31..0 (for `set`); the relations for which it is; the
// operation that combines it with a predicate; whether operands are flushed; and whether the
// result of a compiled comparison is to be turned round.
const LESS: u64 = 1 << 32;
const EQUAL: u64 = 1 << 33;
const GREATER: u64 = 1 << 34;
const UNORDERED: u64 = 1 << 35;
const RELATIONS: u64 = LESS | EQUAL | GREATER | UNORDERED;
const AND: u64 = 1 << 36;
const OR: u64 = 2 << 36;
const XOR: u64 = 3 << 36;
const FLUSH: u64 = 1 << 38;
const NEGATED: u64 = 1 << 39;

/// Notes the form's modifiers. `None` if they do not fit: an operation without a predicate or the
/// other way round, or an order that does not exist for the type compared.
fn note(f: &mut Form<'_>) -> Option<()> {
    let ty = f.types.last().copied()?;
    let is_bits = matches!(ty, B16 | B32 | B64);
    let is_unsigned = matches!(ty, U16 | U32 | U64);
    let is_float = matches!(ty, F16 | F16x2 | BF16 | BF16x2 | F32 | F64);
    let (relations, exists) = match f.one("cmp")? {
        "eq" => (EQUAL, true),
        "ne" => (LESS | GREATER, true),
        "lt" => (LESS, !is_bits),
        "le" => (LESS | EQUAL, !is_bits),
        "gt" => (GREATER, !is_bits),
        "ge" => (GREATER | EQUAL, !is_bits),
        "lo" => (LESS, is_unsigned),
        "ls" => (LESS | EQUAL, is_unsigned),
        "hi" => (GREATER, is_unsigned),
        "hs" => (GREATER | EQUAL, is_unsigned),
        "equ" => (EQUAL | UNORDERED, is_float),
        "neu" => (LESS | GREATER | UNORDERED, is_float),
        "ltu" => (LESS | UNORDERED, is_float),
        "leu" => (LESS | EQUAL | UNORDERED, is_float),
        "gtu" => (GREATER | UNORDERED, is_float),
        "geu" => (GREATER | EQUAL | UNORDERED, is_float),
        "num" => (LESS | EQUAL | GREATER, is_float),
        _ => (UNORDERED, is_float),
    };
    let (operation, sources) = match f.one("bool") {
        Some("and") => (AND, 3),
        Some("or") => (OR, 3),
        Some(_) => (XOR, 3),
        None => (0, 2),
    };
    let flush = if f.has("ftz") { FLUSH } else { 0 };
    f.aux |= relations | operation | flush;
    let may_flush = matches!(ty, F16 | F16x2 | F32);
    let fits = exists && f.src_bits.len() == sources && (may_flush || flush == 0);
    fits.then_some(())
}

/// Whether one of these relations holds.
#[inline(always)]
fn related<T: PartialOrd>(relations: u64, a: T, b: T) -> bool {
    let (less, equal, greater) = (a < b, a == b, a > b);
    let has = |relation| relations & relation != 0;
    (less & has(LESS))
        | (equal & has(EQUAL))
        | (greater & has(GREATER))
        | (!(less | equal | greater) & has(UNORDERED))
}

/// `setp` of integers: three comparisons and their negations are all there are.
fn setp_integer(f: &mut Form<'_>) -> Option<ExecFn> {
    note(f)?;
    let mut relations = f.aux & RELATIONS;
    if relations & GREATER != 0 {
        relations = (LESS | EQUAL | GREATER) & !relations;
        f.aux |= NEGATED;
    }
    if relations == EQUAL {
        return match f.ty(0).bits() {
            16 => Some(exec!(cold | w, i, m | setp::<u16>(w, i, m, |a, b| a == b))),
            32 => Some(exec!(cold | w, i, m | setp::<u32>(w, i, m, |a, b| a == b))),
            _ => Some(exec!(cold | w, i, m | setp::<u64>(w, i, m, |a, b| a == b))),
        };
    }
    per_flag!(relations == LESS, STRICT => per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] =>
        exec!(cold |w, i, m| setp::<T>(w, i, m, |a, b| if STRICT { a < b } else { a <= b }))))
}

/// Compiles a comparison of `f32` for each of these sets of relations, and one for any.
macro_rules! compiled {
    ($relations:expr, $FTZ:ident, [$($known:expr),+]) => {
        match $relations {
            $(known if known == $known => exec!(cold |w, i, m| setp::<f32>(w, i, m, |a, b| {
                related($known, flush::<$FTZ>(a), flush::<$FTZ>(b))
            })),)+
            _ => exec!(cold |w, i, m| setp::<f32>(w, i, m, |a, b| {
                related(i.aux, flush::<$FTZ>(a), flush::<$FTZ>(b))
            })),
        }
    };
}

/// `setp` of `f32`; unordered comparisons are negations of ordered ones.
fn setp_f32(f: &mut Form<'_>) -> Option<ExecFn> {
    note(f)?;
    if f.aux & UNORDERED != 0 {
        f.aux = (f.aux ^ RELATIONS) | NEGATED;
    }
    let relations = f.aux & RELATIONS;
    per_flag!(f.has("ftz"), FTZ => Some(compiled!(relations, FTZ, [
        EQUAL, LESS, LESS | EQUAL, GREATER, GREATER | EQUAL
    ])))
}

/// The value of a half in the low bits, for a comparison.
#[inline(always)]
fn value_f16(bits: u32, aux: u64) -> f32 {
    let half = bits as u16;
    widen_f16(if aux & FLUSH != 0 {
        flush_f16(half)
    } else {
        half
    })
}

/// The same for `bf16`, which is never flushed.
#[inline(always)]
fn value_bf16(bits: u32, _aux: u64) -> f32 {
    widen_bf16(bits as u16)
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

/// Combines a comparison with the last source, if the form says so; gives also the known lanes.
#[inline(always)]
fn with_bool(w: &Warp<'_>, i: &Inst, holds: u32, valid: u32) -> (u32, u32) {
    let operation = i.aux & XOR;
    if operation == 0 {
        return (holds, valid);
    }
    let (other, known) = (w.pred(i, 2), w.valid_pred(i.s[2]));
    match operation {
        AND => (
            holds & other,
            (valid & known) | (valid & !holds) | (known & !other),
        ),
        OR => (
            holds | other,
            (valid & known) | (valid & holds) | (known & other),
        ),
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
    let (first, first_known) = with_bool(w, i, holds, valid);
    let (second, second_known) = with_bool(w, i, !holds, valid);
    w.put_pred(i.d[0], m, first_known, first);
    w.put_pred(i.d[1], m, second_known, second);
    Ok(Flow::Next)
}

/// Comparisons of the lower and the upper halves of two sources, with the lanes that are known.
#[inline(always)]
fn compare_halves(w: &Warp<'_>, i: &Inst, value: fn(u32, u64) -> f32) -> ([u32; 2], u32) {
    let (a, b) = (w.get::<u32>(i.s[0]), w.get::<u32>(i.s[1]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]);
    let holds = |a, b| related(i.aux, value(a, i.aux), value(b, i.aux));
    let low = mask_of(&a, &b, |a, b| holds(a & 0xffff, b & 0xffff));
    let high = mask_of(&a, &b, |a, b| holds(a >> 16, b >> 16));
    ([low, high], valid)
}

/// `setp` of single halves.
#[inline(always)]
fn setp_one(w: &mut Warp<'_>, i: &Inst, m: u32, value: fn(u32, u64) -> f32) -> Step {
    let ([low, _], valid) = compare_halves(w, i, value);
    let (holds, known) = with_bool(w, i, low, valid);
    w.put_pred(i.d[0], m, known, holds);
    Ok(Flow::Next)
}

/// `setp` of pairs: the two destinations are the two halves' results.
#[inline(always)]
fn setp_two(w: &mut Warp<'_>, i: &Inst, m: u32, value: fn(u32, u64) -> f32) -> Step {
    let (halves, valid) = compare_halves(w, i, value);
    let results = halves.map(|holds| with_bool(w, i, holds, valid));
    for (k, (holds, known)) in results.into_iter().enumerate() {
        w.put_pred(i.d[k], m, known, holds);
    }
    Ok(Flow::Next)
}

/// `set` of integers, `f32` and `f64`.
fn set(f: &mut Form<'_>) -> Option<ExecFn> {
    f.aux = truth(f.ty(0))?;
    note(f)?;
    let compared = match f.ty(1) {
        B16 => U16,
        B32 => U32,
        B64 => U64,
        F32 => {
            return Some(exec!(
                cold | w,
                i,
                m | set_lanes::<f32>(w, i, m, |a, b| {
                    let value = |x| {
                        if i.aux & FLUSH != 0 {
                            flush::<true>(x)
                        } else {
                            x
                        }
                    };
                    related(i.aux, value(a), value(b))
                })
            ));
        }
        other => other,
    };
    per_type!(compared, T in [U16 U32 U64 S16 S32 S64 F64] =>
        exec!(cold |w, i, m| set_lanes::<T>(w, i, m, |a, b| related(i.aux, a, b))))
}

/// `set` of halves and their pairs.
fn set_half(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    let is_pair = matches!(from, F16x2 | BF16x2);
    let fits = match to {
        U16 | S16 => !is_pair,
        U32 | S32 => true,
        other => other == from,
    };
    f.aux = truth(to).filter(|_| fits)?;
    note(f)?;
    match from {
        F16 => Some(exec!(
            cold | w,
            i,
            m | set_halves::<false>(w, i, m, value_f16)
        )),
        F16x2 => Some(exec!(
            cold | w,
            i,
            m | set_halves::<true>(w, i, m, value_f16)
        )),
        BF16 => Some(exec!(
            cold | w,
            i,
            m | set_halves::<false>(w, i, m, value_bf16)
        )),
        _ => Some(exec!(
            cold | w,
            i,
            m | set_halves::<true>(w, i, m, value_bf16)
        )),
    }
}

/// What `set` writes where the comparison holds: all ones, or 1.0.
fn truth(ty: Type) -> Option<u64> {
    Some(match ty {
        U16 | S16 => 0xffff,
        U32 | S32 => 0xffff_ffff,
        F16 => 0x3c00,
        BF16 => 0x3f80,
        F16x2 => 0x3c00_3c00,
        BF16x2 => 0x3f80_3f80,
        F32 => u64::from(1f32.to_bits()),
        _ => return None,
    })
}

#[inline(always)]
fn set_lanes<T: Lane>(w: &mut Warp<'_>, i: &Inst, m: u32, holds: impl Fn(T, T) -> bool) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    let (holds, known) = with_bool(w, i, mask_of(&a, &b, holds), valid);
    write_truth(w, i, m, known, [holds, holds])
}

/// A single half's result fills the destination, a pair's two results its halves.
#[inline(always)]
fn set_halves<const PAIR: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    value: fn(u32, u64) -> f32,
) -> Step {
    let ([low, high], valid) = compare_halves(w, i, value);
    let (low, low_known) = with_bool(w, i, low, valid);
    let (high, high_known) = with_bool(w, i, high, valid);
    if PAIR {
        write_truth(w, i, m, low_known & high_known, [low, high])
    } else {
        write_truth(w, i, m, low_known, [low, low])
    }
}

/// Writes the truth to the lower and upper halves of the lanes of two masks.
#[inline(always)]
fn write_truth(w: &mut Warp<'_>, i: &Inst, m: u32, known: u32, [low, high]: [u32; 2]) -> Step {
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let ones = |mask: u32| 0u32.wrapping_sub(mask >> lane & 1);
        *out = ((ones(low) & 0xffff) | (ones(high) << 16)) & i.aux as u32;
    }
    w.put(i.d[0], m, known, out);
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
