//! Additions and subtractions of integers.
use super::prelude::*;

pub(super) static ROWS: &[Row] = &[
    row("add", "Integer Arithmetic Instructions: add", Class::Int)
        .mods(&[flag("sat"), types(&[U16, U32, U64, S16, S32, S64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| match (f.ty(0), f.has("sat")) {
            (S32, true) => Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_add(b) })),
            (_, true) => None,
            (t, false) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.wrapping_add(b) })),
        }),
    row("sub", "Integer Arithmetic Instructions: sub", Class::Int)
        .mods(&[flag("sat"), types(&[U16, U32, U64, S16, S32, S64])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| match (f.ty(0), f.has("sat")) {
            (S32, true) => Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_sub(b) })),
            (_, true) => None,
            (t, false) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.wrapping_sub(b) })),
        }),
];
