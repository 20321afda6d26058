//! Exchanges between the lanes of a warp.
use super::prelude::*;
use crate::memory::access::lanes_of;

const SHUFFLE: &str = "Data Movement and Conversion Instructions: shfl.sync";

/// Combines the values of all lanes.
macro_rules! reduce {
    (|$a:ident: $T:ty, $b:ident: $U:ty| $f:expr) => {
        exec!(|w, i, m| {
            let (values, valid) = (w.get::<$T>(i.s[0]), w.valid::<$T>(i.s[0]));
            let all = lanes_of(m).map(|lane| values[lane]).reduce(|$a, $b| $f);
            w.put::<$T>(
                i.d[0],
                m,
                if m & !valid == 0 { u32::MAX } else { 0 },
                [all.unwrap_or(0); 32],
            );
            Ok(Flow::Next)
        })
    };
}
pub(super) static ROWS: &[Row] = &[
    row("shfl", SHUFFLE, Class::Warp)
        .mods(&[
            need("sync"),
            one("mode", &["up", "down", "bfly", "idx"]),
            types(&[B32]),
        ])
        .args(&[
            Pair(T0, Is(Pred)),
            S(T0),
            S(Is(B32)),
            S(Is(B32)),
            S(Is(B32)),
        ])
        .since(30, 6, 0)
        .together(Together::Mask(3))
        .exec(|f| match f.one("mode")? {
            "up" => Some(exec!(|w, i, m| shuffle::<UP>(w, i, m))),
            "down" => Some(exec!(|w, i, m| shuffle::<DOWN>(w, i, m))),
            "bfly" => Some(exec!(|w, i, m| shuffle::<BUTTERFLY>(w, i, m))),
            _ => Some(exec!(|w, i, m| shuffle::<INDEX>(w, i, m))),
        }),
    row(
        "vote",
        "Parallel Synchronization and Communication Instructions: vote.sync",
        Class::Warp,
    )
    .mods(&[
        need("sync"),
        one("mode", &["all", "any", "uni"]),
        types(&[Pred]),
    ])
    .args(&[D(T0), S(Is(Pred)), S(Is(B32))])
    .since(30, 6, 0)
    .together(Together::Mask(1))
    .exec(|f| {
        f.aux = u64::from(f.has("any")) | u64::from(f.has("uni")) << 1;
        Some(exec!(|w, i, m| {
            let votes = w.pred(i, 0) & m;
            let valid = if m & !w.valid_pred(i.s[0]) == 0 {
                u32::MAX
            } else {
                0
            };
            let outcome = match i.aux {
                0 => votes == m,
                1 => votes != 0,
                _ => votes == m || votes == 0,
            };
            w.put_pred(i.d[0], m, valid, if outcome { u32::MAX } else { 0 });
            Ok(Flow::Next)
        }))
    }),
    row(
        "vote",
        "Parallel Synchronization and Communication Instructions: vote.sync",
        Class::Warp,
    )
    .mods(&[need("sync"), need("ballot"), types(&[B32])])
    .args(&[D(T0), S(Is(Pred)), S(Is(B32))])
    .since(30, 6, 0)
    .together(Together::Mask(1))
    .exec(|_| {
        Some(exec!(|w, i, m| {
            let votes = w.pred(i, 0) & m;
            let valid = if m & !w.valid_pred(i.s[0]) == 0 {
                u32::MAX
            } else {
                0
            };
            w.put(i.d[0], m, valid, [votes; 32]);
            Ok(Flow::Next)
        }))
    }),
    row(
        "match.any",
        "Parallel Synchronization and Communication Instructions: match.sync",
        Class::Warp,
    )
    .mods(&[need("sync"), types(&[B32, B64])])
    .args(&[D(Is(B32)), S(T0), S(Is(B32))])
    .since(70, 6, 0)
    .together(Together::Mask(1))
    .exec(|f| {
        per_type!(f.ty(0), T in [B32 B64] => exec!(|w, i, m| {
            let (values, valid) = (w.get::<T>(i.s[0]), w.valid::<T>(i.s[0]));
            let mut out = [0u32; 32];
            for lane in lanes_of(m) {
                let same = lanes_of(m).filter(|other| values[*other] == values[lane]);
                out[lane] = same.fold(0, |same, other| same | 1 << other);
            }
            w.put(i.d[0], m, if m & !valid == 0 { u32::MAX } else { 0 }, out);
            Ok(Flow::Next)
        }))
    }),
    row(
        "match.all",
        "Parallel Synchronization and Communication Instructions: match.sync",
        Class::Warp,
    )
    .mods(&[need("sync"), types(&[B32, B64])])
    .args(&[Pair(Is(B32), Is(Pred)), S(T0), S(Is(B32))])
    .since(70, 6, 0)
    .together(Together::Mask(1))
    .exec(|f| {
        per_type!(f.ty(0), T in [B32 B64] => exec!(|w, i, m| {
            let (values, valid) = (w.get::<T>(i.s[0]), w.valid::<T>(i.s[0]));
            let first = values[m.trailing_zeros() as usize % 32];
            let same = lanes_of(m).all(|lane| values[lane] == first);
            let valid = if m & !valid == 0 { u32::MAX } else { 0 };
            w.put(i.d[0], m, valid, [if same { m } else { 0 }; 32]);
            w.put_pred(i.d[1], m, valid, if same { u32::MAX } else { 0 });
            Ok(Flow::Next)
        }))
    }),
    row(
        "redux",
        "Parallel Synchronization and Communication Instructions: redux.sync",
        Class::Warp,
    )
    .mods(&[
        need("sync"),
        one("op", &["add", "min", "max"]),
        types(&[U32, S32]),
    ])
    .args(&[D(T0), S(T0), S(Is(B32))])
    .since(80, 7, 0)
    .together(Together::Mask(1))
    .exec(|f| match (f.one("op")?, f.ty(0)) {
        ("add", _) => Some(reduce!(|a: u32, b: u32| a.wrapping_add(b))),
        ("min", U32) => Some(reduce!(|a: u32, b: u32| a.min(b))),
        ("max", U32) => Some(reduce!(|a: u32, b: u32| a.max(b))),
        ("min", _) => Some(reduce!(|a: i32, b: i32| a.min(b))),
        _ => Some(reduce!(|a: i32, b: i32| a.max(b))),
    }),
    row(
        "redux",
        "Parallel Synchronization and Communication Instructions: redux.sync",
        Class::Warp,
    )
    .mods(&[
        need("sync"),
        one("op", &["and", "or", "xor"]),
        types(&[B32]),
    ])
    .args(&[D(T0), S(T0), S(Is(B32))])
    .since(80, 7, 0)
    .together(Together::Mask(1))
    .exec(|f| match f.one("op")? {
        "and" => Some(reduce!(|a: u32, b: u32| a & b)),
        "or" => Some(reduce!(|a: u32, b: u32| a | b)),
        _ => Some(reduce!(|a: u32, b: u32| a ^ b)),
    }),
    row(
        "activemask",
        "Parallel Synchronization and Communication Instructions: activemask",
        Class::Warp,
    )
    .mods(&[types(&[B32])])
    .args(&[D(T0)])
    .since(30, 6, 2)
    .exec(|_| {
        Some(exec!(|w, i, m| {
            w.put(i.d[0], m, u32::MAX, [m; 32]);
            Ok(Flow::Next)
        }))
    }),
];

const UP: u8 = 0;
const DOWN: u8 = 1;
const BUTTERFLY: u8 = 2;
const INDEX: u8 = 3;

#[inline(always)]
fn shuffle<const MODE: u8>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    w.need(
        m,
        w.valid::<u32>(i.s[1]) & w.valid::<u32>(i.s[2]),
        "the lane of a shuffle",
    )?;
    let (a, b, c) = (
        w.get::<u32>(i.s[0]),
        w.get::<u32>(i.s[1]),
        w.get::<u32>(i.s[2]),
    );
    let present = w.valid::<u32>(i.s[0]) & m;
    let mut source = [0u32; 32];
    let mut inside = 0;
    for lane in 0..32u32 {
        let at = lane as usize;
        let (b, segment, clamp) = (b[at] & 31, c[at] >> 8 & 31, c[at] & 31);
        let last = lane & segment | clamp & !segment;
        let (from, within) = match MODE {
            UP => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
            DOWN => (lane + b, lane + b <= last),
            BUTTERFLY => (lane ^ b, (lane ^ b) <= last),
            _ => {
                let from = lane & segment | b & !segment;
                (from, from <= last)
            }
        };
        source[at] = if within { from & 31 } else { lane };
        inside |= u32::from(within) << lane;
    }
    let mut out = [0; 32];
    let mut valid = 0;
    for lane in 0..32 {
        out[lane] = a[source[lane] as usize & 31];
        // A lane that takes no part has nothing to give.
        valid |= (present >> (source[lane] & 31) & 1) << lane;
    }
    w.put(i.d[0], m, valid, out);
    w.put_pred(i.d[1], m, u32::MAX, inside);
    Ok(Flow::Next)
}
