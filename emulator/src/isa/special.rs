//! Approximate functions: exponential, logarithm, trigonometric, roots and reciprocals.
use super::perturb::Bound;
use super::perturb::Distance::*;
use super::prelude::*;
use crate::numerics::approx;
use crate::numerics::float::flush;
use crate::numerics::half::{narrow_bf16, narrow_f16, widen_bf16, widen_f16};

/// A function of `f32` with and without `.ftz`.
macro_rules! function {
    ($f:expr, $function:path) => {
        per_flag!($f.has("ftz"), FTZ => Some(lanes!(|a: f32| -> f32 {
            flush::<FTZ>($function(flush::<FTZ>(a)))
        })))
    };
}

/// A function of `f16` or a pair of them.
macro_rules! f16_function {
    ($f:expr, $function:path) => {
        match $f.ty(0) {
            F16 => Some(lanes!(cold |a: u16| -> u16 {
                narrow_f16($function(widen_f16(a)))
            })),
            _ => Some(lanes!(cold |a: u32| -> u32 {
                let low = narrow_f16($function(widen_f16(a as u16)));
                let high = narrow_f16($function(widen_f16((a >> 16) as u16)));
                u32::from(low) | u32::from(high) << 16
            })),
        }
    };
}

/// A function of `bf16` or a pair of them, flushing if `$FTZ`.
macro_rules! bf16_function {
    ($f:expr, $FTZ:literal, $function:path) => {
        match $f.ty(0) {
            BF16 => Some(lanes!(cold |a: u16| -> u16 {
                narrow_bf16(flush::<$FTZ>($function(flush::<$FTZ>(widen_bf16(a)))))
            })),
            _ => Some(lanes!(cold |a: u32| -> u32 {
                let one = |half: u16| {
                    narrow_bf16(flush::<$FTZ>($function(flush::<$FTZ>(widen_bf16(half)))))
                };
                u32::from(one(a as u16)) | u32::from(one((a >> 16) as u16)) << 16
            })),
        }
    };
}

pub(super) static ROWS: &[Row] = &[
    row("ex2", "Floating Point Instructions: ex2", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Ulps(2.0), |x, _| x.exp2()))
        .exec(|f| function!(f, approx::ex2)),
    row("lg2", "Floating Point Instructions: lg2", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Logarithm, |x, _| x.log2()))
        .exec(|f| function!(f, approx::lg2)),
    row("sin", "Floating Point Instructions: sin", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Trigonometric, |x, _| x.sin()))
        .exec(|f| function!(f, approx::sin)),
    row("cos", "Floating Point Instructions: cos", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Trigonometric, |x, _| x.cos()))
        .exec(|f| function!(f, approx::cos)),
    row("tanh", "Floating Point Instructions: tanh", Class::Special)
        .mods(&[need("approx"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .since(75, 7, 0)
        .bound(Bound(Relative(-11.0), |x, _| x.tanh()))
        .exec(|f| function!(f, approx::tanh)),
    row("rcp", "Floating Point Instructions: rcp", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Ulps(1.0), |x, _| 1.0 / x))
        .exec(|f| function!(f, approx::rcp)),
    row("sqrt", "Floating Point Instructions: sqrt", Class::Special)
        .mods(&[need("approx"), flag("ftz"), types(&[F32])])
        .args(&[D(T0), S(T0)])
        .bound(Bound(Relative(-23.0), |x, _| x.sqrt()))
        .exec(|f| function!(f, approx::sqrt)),
    row(
        "rsqrt",
        "Floating Point Instructions: rsqrt",
        Class::Special,
    )
    .mods(&[need("approx"), flag("ftz"), types(&[F32])])
    .args(&[D(T0), S(T0)])
    .bound(Bound(Relative(-22.9), |x, _| 1.0 / x.sqrt()))
    .exec(|f| function!(f, approx::rsqrt)),
    row(
        "rcp",
        "Floating Point Instructions: rcp.approx.ftz.f64",
        Class::Double,
    )
    .mods(&[need("approx"), need("ftz"), types(&[F64])])
    .args(&[D(T0), S(T0)])
    .exec(|_| Some(lanes!(cold |a: f64| -> f64 { approx::coarse64(a, |x| 1.0 / x) }))),
    row(
        "rsqrt",
        "Floating Point Instructions: rsqrt.approx.ftz.f64",
        Class::Double,
    )
    .mods(&[need("approx"), need("ftz"), types(&[F64])])
    .args(&[D(T0), S(T0)])
    .exec(|_| {
        Some(lanes!(cold |a: f64| -> f64 {
            approx::coarse64(a, |x| 1.0 / x.sqrt())
        }))
    }),
    row("rsqrt", "Floating Point Instructions: rsqrt", Class::Double)
        .mods(&[need("approx"), types(&[F64])])
        .args(&[D(T0), S(T0)])
        .exec(|_| Some(lanes!(cold |a: f64| -> f64 { 1.0 / a.sqrt() }))),
    row("ex2", "Floating Point Instructions: ex2", Class::Special)
        .mods(&[need("approx"), types(&[F16, F16x2])])
        .args(&[D(T0), S(T0)])
        .since(75, 7, 0)
        .bound(Bound(Relative(-9.9), |x, _| x.exp2()))
        .exec(|f| f16_function!(f, approx::ex2)),
    row("ex2", "Floating Point Instructions: ex2", Class::Special)
        .mods(&[need("approx"), need("ftz"), types(&[BF16, BF16x2])])
        .args(&[D(T0), S(T0)])
        .since(90, 7, 8)
        .bound(Bound(Relative(-7.0), |x, _| x.exp2()))
        .exec(|f| bf16_function!(f, true, approx::ex2)),
    row(
        "tanh",
        "Half Precision Floating Point Instructions: tanh",
        Class::Special,
    )
    .mods(&[need("approx"), types(&[F16, F16x2])])
    .args(&[D(T0), S(T0)])
    .since(75, 7, 0)
    .bound(Bound(Absolute(-10.987), |x, _| x.tanh()))
    .exec(|f| f16_function!(f, approx::tanh)),
    row(
        "tanh",
        "Half Precision Floating Point Instructions: tanh",
        Class::Special,
    )
    .mods(&[need("approx"), types(&[BF16, BF16x2])])
    .args(&[D(T0), S(T0)])
    .since(90, 7, 8)
    .bound(Bound(Absolute(-8.0), |x, _| x.tanh()))
    .exec(|f| bf16_function!(f, false, approx::tanh)),
];
