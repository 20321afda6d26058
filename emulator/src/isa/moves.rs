//! `mov`: copies, and vectors packed into wider registers and out of them.
use super::prelude::*;

const TITLE: &str = "Data Movement and Conversion Instructions: mov";

/// `mov.type d, {a, ..}`, the first element lowest.
macro_rules! pack {
    ($whole:ident, $W:ty, $part:ident, $n:literal, |$($a:ident : $A:ty),+|) => {
        row("mov", TITLE, Class::Move)
            .mods(&[types(&[$whole])])
            .args(&[D(T0), SV(Is($part), Count::Fixed($n))])
            .exec(|_| Some(lanes!(|$($a: $A),+| -> $W {
                let mut whole = 0;
                let mut shift = 0;
                $(
                    whole |= <$W>::from($a) << shift;
                    shift += <$A>::BITS;
                )+
                let _ = shift;
                whole
            })))
    };
}

/// `mov.type {d, ..}, a`, the first element lowest.
macro_rules! unpack {
    ($whole:ident, $W:ty, $part:ident, $P:ty, $n:literal) => {
        row("mov", TITLE, Class::Move)
            .mods(&[types(&[$whole])])
            .args(&[DV(Is($part), Count::Fixed($n)), S(T0)])
            .exec(|_| {
                Some(exec!(|w, i, m| {
                    let (a, valid) = (w.get::<$W>(i.s[0]), w.valid::<$W>(i.s[0]));
                    for k in 0..$n {
                        let mut out = [0; 32];
                        for lane in 0..32 {
                            out[lane] = (a[lane] >> (<$P>::BITS * k)) as $P;
                        }
                        w.put::<$P>(i.d[k as usize], m, valid, out);
                    }
                    Ok(Flow::Next)
                }))
            })
    };
}

pub(super) static ROWS: &[Row] = &[
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[
            B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64,
        ])])
        .args(&[D(T0), S(T0)])
        .exec(|f| match f.ty(0).bits() {
            64 => Some(lanes!(|a: u64| -> u64 { a })),
            _ => Some(lanes!(|a: u32| -> u32 { a })),
        }),
    row("mov", TITLE, Class::Move)
        .mods(&[types(&[Pred])])
        .args(&[D(T0), S(T0)])
        .exec(|_| {
            Some(exec!(|w, i, m| {
                let (value, valid) = (w.pred(i, 0), w.valid_pred(i.s[0]));
                w.put_pred(i.d[0], m, valid, value);
                Ok(Flow::Next)
            }))
        }),
    pack!(B16, u16, B8, 2, |a: u8, b: u8|),
    pack!(B32, u32, B16, 2, |a: u16, b: u16|),
    pack!(B32, u32, B8, 4, |a: u8, b: u8, c: u8, d: u8|),
    pack!(B64, u64, B32, 2, |a: u32, b: u32|),
    pack!(B64, u64, B16, 4, |a: u16, b: u16, c: u16, d: u16|),
    unpack!(B16, u16, B8, u8, 2),
    unpack!(B32, u32, B16, u16, 2),
    unpack!(B32, u32, B8, u8, 4),
    unpack!(B64, u64, B32, u32, 2),
    unpack!(B64, u64, B16, u16, 4),
];
