//! `cvt`: between integers and floats of every width.
//!
//! The conversions that compilers emit everywhere have functions of their own; all others share
//! one per direction, which reads the types from the instruction's spare word.
use super::prelude::*;
use crate::numerics::Rounding;
use crate::numerics::float::{flush, integral, saturate};
use crate::numerics::half::{narrow_bf16, narrow_f16, widen_bf16, widen_f16};
use crate::numerics::soft::{self, Exact, Format};

const TITLE: &str = "Data Movement and Conversion Instructions: cvt";
const INTEGERS: &[Type] = &[U8, U16, U32, U64, S8, S16, S32, S64];
const FLOATS: &[Type] = &[F16, F32, F64];
const WORDS: &[Type] = &[U16, U32, U64, S16, S32, S64];
const TO_INTEGER: &[&str] = &["rni", "rzi", "rmi", "rpi"];
const TO_FLOAT: &[&str] = &["rn", "rz", "rm", "rp"];

pub(super) static ROWS: &[Row] = &[
    row("cvt", TITLE, Class::Convert)
        .mods(&[flag("sat"), types(INTEGERS), types(INTEGERS)])
        .args(&[DW(T0), SW(T1)])
        .exec(|f| integers(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", TO_INTEGER),
            flag("ftz"),
            flag("sat"),
            types(INTEGERS),
            types(FLOATS),
        ])
        .args(&[DW(T0), S(T1)])
        .exec(|f| float_to_integer(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", TO_FLOAT),
            flag("ftz"),
            flag("sat"),
            types(FLOATS),
            types(INTEGERS),
        ])
        .args(&[D(T0), SW(T1)])
        .exec(|f| integer_to_float(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            maybe("rnd", &["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]),
            flag("ftz"),
            flag("sat"),
            types(FLOATS),
            types(FLOATS),
        ])
        .args(&[D(T0), S(T1)])
        .exec(|f| floats(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[maybe("rnd", TO_FLOAT), types(&[F32]), types(&[BF16])])
        .args(&[D(T0), S(T1)])
        .since(80, 7, 1)
        // Exact, whatever the rounding.
        .exec(|_| {
            Some(lanes!(|a: u16| -> f32 {
                to_f32::<false, false>(widen_bf16(a))
            }))
        }),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            maybe("rnd", TO_FLOAT),
            need("ftz"),
            types(&[F32]),
            types(&[BF16]),
        ])
        .args(&[D(T0), S(T1)])
        .since(90, 7, 8)
        .exec(|_| Some(lanes!(cold |a: u16| -> f32 { to_f32::<true, false>(widen_bf16(a)) }))),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", TO_INTEGER),
            flag("sat"),
            types(WORDS),
            types(&[BF16]),
        ])
        .args(&[DW(T0), S(T1)])
        .since(90, 7, 8)
        .exec(|f| float_to_integer(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            one("rnd", TO_FLOAT),
            flag("sat"),
            types(&[BF16]),
            types(WORDS),
        ])
        .args(&[D(T0), SW(T1)])
        .since(90, 7, 8)
        .exec(|f| integer_to_float(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[
            maybe("rnd", TO_FLOAT),
            types(&[BF16]),
            types(&[BF16, F16, F64]),
        ])
        .args(&[D(T0), S(T1)])
        .since(90, 7, 8)
        .exec(|f| floats(f)),
    row("cvt", TITLE, Class::Convert)
        .mods(&[maybe("rnd", TO_FLOAT), types(&[F16, F64]), types(&[BF16])])
        .args(&[D(T0), S(T1)])
        .since(90, 7, 8)
        .exec(|f| floats(f)),
];

/// The spare word of the generic conversions.
#[derive(Clone, Copy)]
struct Spec {
    rounding: Rounding,
    ftz: bool,
    sat: bool,
    from: Type,
    to: Type,
    /// Whether source and destination registers are 64 bits wide, whatever the types.
    from_wide: bool,
    to_wide: bool,
    /// Whether the destination register is 16 bits wide.
    to_short: bool,
}

/// Types as numbers, for the spare word.
const TYPES: [Type; 12] = [U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64];

impl Spec {
    /// Puts the form's modifiers, types and register widths into its spare word.
    fn note(f: &mut Form<'_>) -> Option<()> {
        let index = |ty| TYPES.iter().position(|known| *known == ty);
        let flags = [
            f.has("ftz"),
            f.has("sat"),
            f.src_bits.first() == Some(&64),
            f.dst_bits.first() == Some(&64),
            f.dst_bits.first() == Some(&16),
        ];
        f.aux = Rounding::from_token(f.one("rnd")).code();
        for (k, flag) in flags.into_iter().enumerate() {
            f.aux |= u64::from(flag) << (8 + k);
        }
        f.aux |= (index(f.ty(1))? as u64) << 16 | (index(f.ty(0))? as u64) << 24;
        Some(())
    }

    #[inline(always)]
    fn of(i: &Inst) -> Spec {
        let flag = |k: u32| i.aux >> (8 + k) & 1 != 0;
        let ty = |at: u32| {
            TYPES
                .get((i.aux >> at & 0xff) as usize)
                .copied()
                .unwrap_or(U32)
        };
        Spec {
            rounding: Rounding::from_code(i.aux),
            ftz: flag(0),
            sat: flag(1),
            from: ty(16),
            to: ty(24),
            from_wide: flag(2),
            to_wide: flag(3),
            to_short: flag(4),
        }
    }
}

fn is_signed(ty: Type) -> bool {
    matches!(ty, S8 | S16 | S32 | S64)
}

/// Smallest and largest value of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if is_signed(ty) {
        (-1 << (bits - 1), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

fn format(ty: Type) -> Option<Format> {
    Some(match ty {
        F16 => soft::F16,
        BF16 => soft::BF16,
        F32 => soft::F32,
        F64 => soft::F64,
        _ => return None,
    })
}

/// Reads integers: the low bits of the register, extended by the type's sign.
#[inline(always)]
fn read_integers(w: &Warp<'_>, i: &Inst, spec: Spec) -> ([i64; 32], u32) {
    let (raw, valid) = if spec.from_wide {
        (w.get::<u64>(i.s[0]), w.valid64(i.s[0]))
    } else {
        (w.get::<u32>(i.s[0]).map(u64::from), w.valid32(i.s[0]))
    };
    let unused = 64 - spec.from.bits();
    let signed = is_signed(spec.from);
    let extended = raw.map(|raw| {
        let top = raw << unused;
        if signed {
            top as i64 >> unused
        } else {
            (top >> unused) as i64
        }
    });
    (extended, valid)
}

/// Writes integers: cut to the type, then extended by its sign to the register's width.
#[inline(always)]
fn write_integers(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    valid: u32,
    spec: Spec,
    out: [i64; 32],
) -> Step {
    let unused = 64 - spec.to.bits();
    let signed = is_signed(spec.to);
    let extended = out.map(|value| {
        let top = (value as u64) << unused;
        if signed {
            (top as i64 >> unused) as u64
        } else {
            top >> unused
        }
    });
    if spec.to_wide {
        w.put(i.d[0], m, valid, extended);
    } else {
        let keep = if spec.to_short { 0xffff } else { u32::MAX };
        w.put(i.d[0], m, valid, extended.map(|value| value as u32 & keep));
    }
    Ok(Flow::Next)
}

/// Between integers.
fn integers(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    Spec::note(f)?;
    if f.has("sat") {
        let ((low, high), (least, most)) = (range(from), range(to));
        // Only where there is something to saturate.
        return (low < least || high > most).then(|| {
            exec!(
                cold | w,
                i,
                m | {
                    let spec = Spec::of(i);
                    let (values, valid) = read_integers(w, i, spec);
                    let (least, most) = range(spec.to);
                    let unsigned = spec.from == U64;
                    let out = values.map(|value| {
                        let value = if unsigned {
                            i128::from(value as u64)
                        } else {
                            i128::from(value)
                        };
                        value.clamp(least, most) as i64
                    });
                    write_integers(w, i, m, valid, spec, out)
                }
            )
        });
    }
    let exact = f.src_bits.first() == Some(&from.bits()) && f.dst_bits.first() == Some(&to.bits());
    if exact && from.bits() > 8 && to.bits() > 8 {
        // What a register of the destination's width holds depends on the source's sign only.
        return per_type!(from, A in [U16 U32 U64 S16 S32 S64] => match to.bits() {
            16 => lanes!(cold |a: A| -> u16 { a as u16 }),
            32 => lanes!(cold |a: A| -> u32 { a as u32 }),
            _ => lanes!(cold |a: A| -> u64 { a as u64 }),
        });
    }
    Some(exec!(
        cold | w,
        i,
        m | {
            let spec = Spec::of(i);
            let (values, valid) = read_integers(w, i, spec);
            write_integers(w, i, m, valid, spec, values)
        }
    ))
}

/// Reads floats as `f64`, which holds all of them.
#[inline(always)]
fn read_floats(w: &Warp<'_>, i: &Inst, spec: Spec) -> ([f64; 32], u32) {
    match spec.from {
        F64 => (w.get::<f64>(i.s[0]), w.valid64(i.s[0])),
        F32 if spec.ftz => (
            w.get::<f32>(i.s[0]).map(|x| f64::from(flush::<true>(x))),
            w.valid32(i.s[0]),
        ),
        F32 => (w.get::<f32>(i.s[0]).map(f64::from), w.valid32(i.s[0])),
        BF16 => (
            w.get::<u16>(i.s[0]).map(|x| f64::from(widen_bf16(x))),
            w.valid32(i.s[0]),
        ),
        _ => (
            w.get::<u16>(i.s[0]).map(|x| f64::from(widen_f16(x))),
            w.valid32(i.s[0]),
        ),
    }
}

/// Writes the bits of floats.
#[inline(always)]
fn write_floats(w: &mut Warp<'_>, i: &Inst, m: u32, valid: u32, to: Type, out: [u64; 32]) -> Step {
    if to == F64 {
        w.put(i.d[0], m, valid, out);
    } else {
        w.put(i.d[0], m, valid, out.map(|bits| bits as u32));
    }
    Ok(Flow::Next)
}

/// `f32` to 32-bit integers, by a rounding.
macro_rules! f32_to_integer {
    ($f:expr, |$x:ident| $round:expr) => {
        match $f.ty(0) {
            S32 => Some(lanes!(cold |$x: f32| -> i32 { $round as i32 })),
            _ => Some(lanes!(cold |$x: f32| -> u32 { $round as u32 })),
        }
    };
}

/// From floats to integers: saturating, and NaN gives zero or, where 64 bits are involved, the
/// highest bit alone.
fn float_to_integer(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    if f.has("ftz") && from != F32 {
        return None;
    }
    Spec::note(f)?;
    let rounding = f.one("rnd");
    // Flushing changes nothing where subnormals become zero anyway.
    let is_plain = !f.has("ftz") || matches!(rounding, Some("rni" | "rzi"));
    if from == F32 && matches!(to, S32 | U32) && f.dst_bits.first() == Some(&32) && is_plain {
        return match rounding {
            Some("rni") => f32_to_integer!(f, |x| x.round_ties_even()),
            Some("rzi") => f32_to_integer!(f, |x| x),
            Some("rmi") => f32_to_integer!(f, |x| x.floor()),
            _ => f32_to_integer!(f, |x| x.ceil()),
        };
    }
    Some(exec!(
        cold | w,
        i,
        m | {
            let spec = Spec::of(i);
            let (values, valid) = read_floats(w, i, spec);
            let bits = spec.to.bits();
            let of_nan = if spec.from == F64 || bits == 64 {
                1i64 << (bits - 1)
            } else {
                0
            };
            let (least, most) = range(spec.to);
            let unsigned = spec.to == U64;
            let out = values.map(|value| {
                let rounded = integral(value, spec.rounding);
                if value.is_nan() {
                    of_nan
                } else if unsigned {
                    rounded as u64 as i64
                } else {
                    (rounded as i64).clamp(least as i64, most as i64)
                }
            });
            write_integers(w, i, m, valid, spec, out)
        }
    ))
}

/// From integers to floats.
fn integer_to_float(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    if f.has("ftz") && to != F32 {
        return None;
    }
    Spec::note(f)?;
    let is_plain =
        f.one("rnd") == Some("rn") && !f.has("sat") && f.src_bits.first() == Some(&from.bits());
    match to {
        F32 if is_plain && from.bits() > 8 => {
            return per_type!(from, A in [U16 U32 U64 S16 S32 S64] =>
                lanes!(cold |a: A| -> f32 { a as f32 }));
        }
        F64 if is_plain && from.bits() > 8 => {
            return per_type!(from, A in [U16 U32 U64 S16 S32 S64] =>
                lanes!(cold |a: A| -> f64 { a as f64 }));
        }
        // Integers that `f32` cannot hold are infinite as `f16`, so nothing is rounded twice.
        F16 if is_plain && matches!(from, S16 | U16 | S32 | U32) => {
            return per_type!(from, A in [U16 U32 S16 S32] =>
                lanes!(cold |a: A| -> u16 { narrow_f16(a as f32) }));
        }
        _ => {}
    }
    Some(exec!(
        cold | w,
        i,
        m | {
            let spec = Spec::of(i);
            let (values, valid) = read_integers(w, i, spec);
            let format = format(spec.to).unwrap_or(soft::F32);
            let unsigned = spec.from == U64;
            let out = values.map(|value| {
                let value = if unsigned {
                    i128::from(value as u64)
                } else {
                    i128::from(value)
                };
                let value = if spec.sat { value.clamp(0, 1) } else { value };
                Exact::from_integer(value).round(format, spec.rounding)
            });
            write_floats(w, i, m, valid, spec.to, out)
        }
    ))
}

/// Between floats.
fn floats(f: &mut Form<'_>) -> Option<ExecFn> {
    let (to, from) = (f.ty(0), f.ty(1));
    let rounding = f.one("rnd");
    let to_integer = rounding.is_some_and(|token| TO_INTEGER.contains(&token));
    let narrows = to.bits() < from.bits() || to != from && to.bits() == from.bits();
    // Narrowing needs a rounding, other types none, and the same type one to an integer at most.
    let fits = match rounding {
        _ if to == from => rounding.is_none() || to_integer,
        Some(_) => narrows && !to_integer,
        None => !narrows,
    };
    if !fits || f.has("ftz") && to != F32 && from != F32 {
        return None;
    }
    Spec::note(f)?;
    if to_integer {
        f.aux |= INTEGRAL;
    }
    let (ftz, sat) = (f.has("ftz"), f.has("sat"));
    let near = rounding == Some("rn");
    match (to, from) {
        (F32, F16) => per_flag!(sat, SAT => Some(lanes!(|a: u16| -> f32 {
            to_f32::<false, SAT>(widen_f16(a))
        }))),
        (F32, F32) if !to_integer => {
            per_flag!(ftz, FTZ => per_flag!(sat, SAT => Some(lanes!(|a: f32| -> f32 {
                to_f32::<FTZ, SAT>(a)
            }))))
        }
        (F32, F64) if near => per_flag!(ftz, FTZ => per_flag!(sat, SAT =>
            Some(lanes!(cold |a: f64| -> f32 { to_f32::<FTZ, SAT>(a as f32) })))),
        (F64, F32) if !sat => per_flag!(ftz, FTZ => Some(lanes!(cold |a: f32| -> f64 {
            f64::from(flush::<FTZ>(a))
        }))),
        (F16, F32) if near => per_flag!(sat, SAT => Some(lanes!(|a: f32| -> u16 {
            narrow_f16(if SAT { saturate(a) } else { a })
        }))),
        (BF16, F32) if near && !sat => {
            per_flag!(ftz, FTZ => Some(lanes!(|a: f32| -> u16 { narrow_bf16(flush::<FTZ>(a)) })))
        }
        _ => Some(exec!(cold | w, i, m | convert_floats(w, i, m))),
    }
}

/// A conversion's `f32` result: flushed, then limited or its NaN made canonical.
#[inline(always)]
fn to_f32<const FTZ: bool, const SAT: bool>(value: f32) -> f32 {
    crate::numerics::float::finish::<FTZ, SAT>(value)
}

/// The forms without a function of their own.
#[inline(always)]
fn convert_floats(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let spec = Spec::of(i);
    let (values, valid) = read_floats(w, i, spec);
    let format = format(spec.to).unwrap_or(soft::F32);
    let same = spec.to == spec.from;
    let has_rounding = i.aux & INTEGRAL != 0;
    let out = values.map(|value| {
        let value = if same && has_rounding {
            integral(value, spec.rounding)
        } else {
            value
        };
        let value = match value {
            _ if !spec.sat => value,
            x if x > 0.0 => x.min(1.0),
            _ => 0.0,
        };
        let bits = soft::convert(value, format, spec.rounding);
        if spec.ftz && spec.to == F32 {
            u64::from(flush::<true>(f32::from_bits(bits as u32)).to_bits())
        } else {
            bits
        }
    });
    write_floats(w, i, m, valid, spec.to, out)
}

/// Bit of `aux`: the rounding is one to an integer.
const INTEGRAL: u64 = 1 << 15;
