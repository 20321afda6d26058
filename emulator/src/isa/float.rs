//! `f32` and `f64` arithmetic.
use super::perturb::{Bound, Distance::Ulps};
use super::prelude::*;
use crate::numerics::float::{
    self, canonical, extreme, extreme64, finish, finish_with, flush, fma_directed,
};
use crate::numerics::{Rounding, approx, soft};

const ROUNDINGS: &[&str] = &["rn", "rz", "rm", "rp"];
const RND: Mod = maybe("rnd", ROUNDINGS);
const MUST_RND: Mod = one("rnd", ROUNDINGS);

/// Bits of `aux` for the forms whose rounding is read at run time; the rounding is in the low bits.
const FTZ_BIT: u64 = 8;
const SAT_BIT: u64 = 16;

/// Notes rounding and flags; true if it is not to the nearest.
fn directed(f: &mut Form<'_>) -> bool {
    let rounding = Rounding::from_token(f.one("rnd"));
    f.aux = rounding.code();
    if f.has("ftz") {
        f.aux |= FTZ_BIT;
    }
    if f.has("sat") {
        f.aux |= SAT_BIT;
    }
    rounding != Rounding::Nearest
}

/// A form of `f32`: `$near` to the nearest, `$directed` with the rounding as its last argument.
macro_rules! f32_form {
    ($f:ident, |$($a:ident),+| $near:expr, |$r:ident| $directed:expr) => {
        if directed($f) {
            Some(exec!(|w, i, m| directed_lanes(w, i, m, [$(f32_form!(@index $a)),+].len(), |x, $r| {
                let [$($a,)+ ..] = *x;
                $directed
            })))
        } else {
            per_flag!($f.has("ftz"), FTZ => per_flag!($f.has("sat"), SAT => Some(
                lanes!(|$($a: f32),+| -> f32 {
                    $(let $a = flush::<FTZ>($a);)+
                    finish::<FTZ, SAT>($near)
                })
            )))
        }
    };
    (@index $a:ident) => { 0u8 };
}

/// A form of `f64`.
macro_rules! f64_form {
    ($f:ident, |$($a:ident),+| $near:expr, |$r:ident| $exact:expr) => {
        if directed($f) {
            Some(exec!(|w, i, m| directed_lanes64(w, i, m, [$(f32_form!(@index $a)),+].len(), |x, $r| {
                let [$($a,)+ ..] = *x;
                $exact
            })))
        } else {
            Some(lanes!(cold |$($a: f64),+| -> f64 { nan64(&[$($a),+], $near) }))
        }
    };
}

pub(super) static ROWS: &[Row] = &[
    row("add", "Floating Point Instructions: add", Class::Float)
        .mods(&[RND, flag("ftz"), flag("sat"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b| a + b, |r| fma_directed(a, 1.0, b, r))),
    row("sub", "Floating Point Instructions: sub", Class::Float)
        .mods(&[RND, flag("ftz"), flag("sat"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b| a - b, |r| fma_directed(a, 1.0, -b, r))),
    row("mul", "Floating Point Instructions: mul", Class::Float)
        .mods(&[RND, flag("ftz"), flag("sat"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b| a * b, |r| float::mul_directed(a, b, r))),
    row("fma", "Floating Point Instructions: fma", Class::Float)
        .mods(&[MUST_RND, flag("ftz"), flag("sat"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b, c| a.mul_add(b, c), |r| fma_directed(a, b, c, r))),
    row("mad", "Floating Point Instructions: mad", Class::Float)
        .mods(&[MUST_RND, flag("ftz"), flag("sat"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b, c| a.mul_add(b, c), |r| fma_directed(a, b, c, r))),
    row("div", "Floating Point Instructions: div", Class::Float)
        .mods(&[MUST_RND, flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f32_form!(f, |a, b| a / b, |r| float::div_directed(a, b, r))),
    row("div", "Floating Point Instructions: div", Class::Special)
        .mods(&[one("mode", &["approx", "full"]), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .bound(Bound(Ulps(2.0), |a, b| a / b))
        .exec(|f| {
            per_flag!(f.has("ftz"), FTZ => per_flag!(f.has("full"), FULL => Some(
                lanes!(|a: f32, b: f32| -> f32 {
                    let (a, b) = (flush::<FTZ>(a), flush::<FTZ>(b));
                    let exact = if FULL { approx::div_full(a, b) } else { approx::div(a, b) };
                    flush::<FTZ>(exact)
                })
            )))
        }),
    row("rcp", "Floating Point Instructions: rcp", Class::Float)
        .mods(&[MUST_RND, flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .exec(|f| f32_form!(f, |a| 1.0 / a, |r| float::div_directed(1.0, a, r))),
    row("sqrt", "Floating Point Instructions: sqrt", Class::Float)
        .mods(&[MUST_RND, flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .exec(|f| f32_form!(f, |a| a.sqrt(), |r| float::sqrt_directed(a, r))),
    row("neg", "Floating Point Instructions: neg", Class::Float)
        .mods(&[flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .exec(|f| {
            per_flag!(f.has("ftz"), FTZ => Some(lanes!(|a: f32| -> f32 { -flush::<FTZ>(a) })))
        }),
    row("abs", "Floating Point Instructions: abs", Class::Float)
        .mods(&[flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .exec(|f| {
            per_flag!(f.has("ftz"), FTZ => Some(lanes!(|a: f32| -> f32 { flush::<FTZ>(a).abs() })))
        }),
    row("min", "Floating Point Instructions: min", Class::Float)
        .mods(&[flag("ftz"), flag("NaN"), flag("xorsign"), flag("abs"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| extreme_form::<false>(f)),
    row("max", "Floating Point Instructions: max", Class::Float)
        .mods(&[flag("ftz"), flag("NaN"), flag("xorsign"), flag("abs"), types(&[F32])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| extreme_form::<true>(f)),
    row("copysign", "Floating Point Instructions: copysign", Class::Float)
        .mods(&[types(&[F32, F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T, b: T| -> T { b.copysign(a) }))),
    row("testp", "Floating Point Instructions: testp", Class::Float)
        .mods(&[
            one("is", &["finite", "infinite", "number", "notanumber", "normal", "subnormal"]),
            types(&[F32, F64]),
        ])
        .args(&[D(Is(Pred)), S(T0)])
        .exec(|f| match f.one("is")? {
            "finite" => per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T| -> bool { a.is_finite() })),
            "infinite" => {
                per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T| -> bool { a.is_infinite() }))
            }
            "number" => per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T| -> bool { !a.is_nan() })),
            "notanumber" => {
                per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T| -> bool { a.is_nan() }))
            }
            // Zeros count as normal.
            "normal" => per_type!(f.ty(0), T in [F32 F64] =>
                lanes!(cold |a: T| -> bool { a.is_normal() || a == 0.0 })),
            _ => per_type!(f.ty(0), T in [F32 F64] => lanes!(cold |a: T| -> bool { a.is_subnormal() })),
        }),
    row("add", "Floating Point Instructions: add", Class::Double)
        .mods(&[RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b| a + b, |r| soft::fma(a, 1.0, b, soft::F64, r))),
    row("sub", "Floating Point Instructions: sub", Class::Double)
        .mods(&[RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b| a - b, |r| soft::fma(a, 1.0, -b, soft::F64, r))),
    row("mul", "Floating Point Instructions: mul", Class::Double)
        .mods(&[RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b| a * b, |r| soft::fma(a, b, zero_of_product(a, b), soft::F64, r))),
    row("fma", "Floating Point Instructions: fma", Class::Double)
        .mods(&[MUST_RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b, c| a.mul_add(b, c), |r| soft::fma(a, b, c, soft::F64, r))),
    row("mad", "Floating Point Instructions: mad", Class::Double)
        .mods(&[MUST_RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b, c| a.mul_add(b, c), |r| soft::fma(a, b, c, soft::F64, r))),
    row("div", "Floating Point Instructions: div", Class::Double)
        .mods(&[MUST_RND, types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| f64_form!(f, |a, b| a / b, |r| soft::div(a, b, soft::F64, r))),
    row("rcp", "Floating Point Instructions: rcp", Class::Double)
        .mods(&[MUST_RND, types(&[F64])])
        .args(&[D(T0), S(T0)])
        .exec(|f| f64_form!(f, |a| 1.0 / a, |r| soft::div(1.0, a, soft::F64, r))),
    row("sqrt", "Floating Point Instructions: sqrt", Class::Double)
        .mods(&[MUST_RND, types(&[F64])])
        .args(&[D(T0), S(T0)])
        .exec(|f| f64_form!(f, |a| a.sqrt(), |r| soft::sqrt(a, soft::F64, r))),
    row("neg", "Floating Point Instructions: neg", Class::Double)
        .mods(&[types(&[F64])])
        .args(&[D(T0), S(T0)])
        .exec(|_| Some(lanes!(cold |a: f64| -> f64 { -a }))),
    row("abs", "Floating Point Instructions: abs", Class::Double)
        .mods(&[types(&[F64])])
        .args(&[D(T0), S(T0)])
        .exec(|_| Some(lanes!(cold |a: f64| -> f64 { a.abs() }))),
    row("min", "Floating Point Instructions: min", Class::Double)
        .mods(&[types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|_| Some(lanes!(cold |a: f64, b: f64| -> f64 { extreme64::<false>(a, b) }))),
    row("max", "Floating Point Instructions: max", Class::Double)
        .mods(&[types(&[F64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|_| Some(lanes!(cold |a: f64, b: f64| -> f64 { extreme64::<true>(a, b) }))),
];

/// Bit of `aux`: magnitudes, under the product's sign.
const ABS_BIT: u64 = 32;
/// Bit of `aux`: NaN wins.
const NAN_BIT: u64 = 64;

/// `min` and `max`: the plain forms, and one with all that may be asked besides.
fn extreme_form<const MAX: bool>(f: &mut Form<'_>) -> Option<ExecFn> {
    if f.has("xorsign") != f.has("abs") {
        return None;
    }
    let bit = |set, bit| if set { bit } else { 0 };
    f.aux = bit(f.has("ftz"), FTZ_BIT) | bit(f.has("NaN"), NAN_BIT) | bit(f.has("abs"), ABS_BIT);
    let plain = f.aux & (NAN_BIT | ABS_BIT) == 0;
    match (plain, MAX) {
        (true, true) => per_flag!(f.has("ftz"), FTZ => Some(lanes!(|a: f32, b: f32| -> f32 {
            extreme::<true, false>(flush::<FTZ>(a), flush::<FTZ>(b))
        }))),
        (true, false) => per_flag!(f.has("ftz"), FTZ => Some(lanes!(|a: f32, b: f32| -> f32 {
            extreme::<false, false>(flush::<FTZ>(a), flush::<FTZ>(b))
        }))),
        (false, true) => Some(exec!(|w, i, m| extreme_lanes::<true>(w, i, m))),
        (false, false) => Some(exec!(|w, i, m| extreme_lanes::<false>(w, i, m))),
    }
}

#[inline(always)]
fn extreme_lanes<const MAX: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (a, b) = (w.get::<f32>(i.s[0]), w.get::<f32>(i.s[1]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]);
    let mut out = [0.0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let prepare = |x: f32| {
            if i.aux & FTZ_BIT != 0 {
                flush::<true>(x)
            } else {
                x
            }
        };
        let (a, b) = (prepare(a[lane]), prepare(b[lane]));
        let is_nan = i.aux & NAN_BIT != 0 && (a.is_nan() || b.is_nan());
        let number = if i.aux & ABS_BIT != 0 {
            let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
            let magnitude = extreme::<MAX, false>(a.abs(), b.abs());
            f32::from_bits(magnitude.to_bits() | sign)
        } else {
            extreme::<MAX, false>(a, b)
        };
        *out = canonical(if is_nan { f32::NAN } else { number });
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// The `f32` forms whose rounding is read at run time: up to three sources.
#[inline(always)]
fn directed_lanes(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    sources: usize,
    one: impl Fn(&[f32; 3], Rounding) -> f32,
) -> Step {
    let (ftz, sat) = (i.aux & FTZ_BIT != 0, i.aux & SAT_BIT != 0);
    let rounding = Rounding::from_code(i.aux);
    let mut inputs = [[0.0; 32]; 3];
    let mut valid = u32::MAX;
    for (k, input) in inputs.iter_mut().enumerate().take(sources) {
        *input = w.get::<f32>(i.s[k]);
        valid &= w.valid32(i.s[k]);
    }
    let mut out = [0.0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let x = inputs.map(|input| {
            if ftz {
                flush::<true>(input[lane])
            } else {
                input[lane]
            }
        });
        *out = finish_with(one(&x, rounding), ftz, sat);
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// The same for `f64`.
#[inline(always)]
fn directed_lanes64(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    sources: usize,
    one: impl Fn(&[f64; 3], Rounding) -> u64,
) -> Step {
    let rounding = Rounding::from_code(i.aux);
    let mut inputs = [[0.0; 32]; 3];
    let mut valid = u32::MAX;
    for (k, input) in inputs.iter_mut().enumerate().take(sources) {
        *input = w.get::<f64>(i.s[k]);
        valid &= w.valid64(i.s[k]);
    }
    let mut out = [0.0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let x = inputs.map(|input| input[lane]);
        *out = nan64(&x[..sources], f64::from_bits(one(&x, rounding)));
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// A result whose NaN is that of the first operand that is one, made quiet, or the usual one.
#[inline(always)]
fn nan64(operands: &[f64], result: f64) -> f64 {
    if !result.is_nan() {
        return result;
    }
    let bits = operands
        .iter()
        .find(|x| x.is_nan())
        .map_or(soft::F64.nan, |x| x.to_bits());
    f64::from_bits(bits | 1 << 51)
}

/// The zero to add to a product so that it keeps its sign.
#[inline(always)]
fn zero_of_product(a: f64, b: f64) -> f64 {
    if a.is_sign_negative() != b.is_sign_negative() {
        -0.0
    } else {
        0.0
    }
}
