//! Integer arithmetic, the extended-precision forms included.
use super::prelude::*;

const ALL: &[Type] = &[U16, U32, U64, S16, S32, S64];
const WORDS: &[Type] = &[U32, S32];

/// Product, with the sum for `mad` where there is one, by `lo`, `hi`.
macro_rules! high {
    ($T:ty, $Wide:ty, $a:expr, $b:expr) => {
        (($a as $Wide).wrapping_mul($b as $Wide) >> <$T>::BITS) as $T
    };
}

/// `$body` with `T` a type and `W` the one twice as wide.
macro_rules! per_wide {
    ($t:expr, $T:ident $W:ident [$($v:ident $wide:ty)+] => $e:expr) => {
        match $t {
            $($v => {
                type $T = crate::isa::rust_type!($v);
                #[allow(dead_code)]
                type $W = $wide;
                Some($e)
            })+
            _ => None,
        }
    };
}

pub(super) static ROWS: &[Row] = &[
    row("add", "Integer Arithmetic Instructions: add", Class::Int)
        .mods(&[flag("sat"), types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| match (f.ty(0), f.has("sat")) {
            (S32, true) => Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_add(b) })),
            (_, true) => None,
            (t, false) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.wrapping_add(b) })),
        }),
    row("sub", "Integer Arithmetic Instructions: sub", Class::Int)
        .mods(&[flag("sat"), types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| match (f.ty(0), f.has("sat")) {
            (S32, true) => Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_sub(b) })),
            (_, true) => None,
            (t, false) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.wrapping_sub(b) })),
        }),
    row("mul", "Integer Arithmetic Instructions: mul", Class::Int)
        .mods(&[one("part", &["lo", "hi"]), types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| match f.one("part") {
            Some("lo") => per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.wrapping_mul(b) })),
            _ => per_wide!(f.ty(0), T W [U16 u32 U32 u64 U64 u128 S16 i32 S32 i64 S64 i128] =>
                lanes!(|a: T, b: T| -> T { high!(T, W, a, b) })),
        }),
    row("mul", "Integer Arithmetic Instructions: mul", Class::Int)
        .mods(&[need("wide"), types(&[U16, U32, S16, S32])])
        .args(&[D(Wide(0)), S(T0), S(T0)])
        .exec(|f| {
            per_wide!(f.ty(0), T W [U16 u32 U32 u64 S16 i32 S32 i64] =>
                lanes!(|a: T, b: T| -> W { (a as W).wrapping_mul(b as W) }))
        }),
    row("mad", "Integer Arithmetic Instructions: mad", Class::Int)
        .mods(&[one("part", &["lo", "hi"]), flag("sat"), types(ALL)])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| match (f.one("part"), f.has("sat"), f.ty(0)) {
            (Some("hi"), true, S32) => Some(lanes!(|a: i32, b: i32, c: i32| -> i32 {
                high!(i32, i64, a, b).saturating_add(c)
            })),
            (_, true, _) => None,
            (Some("lo"), _, t) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T, c: T| -> T { a.wrapping_mul(b).wrapping_add(c) })),
            (_, _, t) => per_wide!(t, T W [U16 u32 U32 u64 U64 u128 S16 i32 S32 i64 S64 i128] =>
                lanes!(|a: T, b: T, c: T| -> T { high!(T, W, a, b).wrapping_add(c) })),
        }),
    row("mad", "Integer Arithmetic Instructions: mad", Class::Int)
        .mods(&[need("wide"), types(&[U16, U32, S16, S32])])
        .args(&[D(Wide(0)), S(T0), S(T0), S(Wide(0))])
        .exec(|f| {
            per_wide!(f.ty(0), T W [U16 u32 U32 u64 S16 i32 S32 i64] =>
                lanes!(|a: T, b: T, c: W| -> W { (a as W).wrapping_mul(b as W).wrapping_add(c) }))
        }),
    row(
        "mul24",
        "Integer Arithmetic Instructions: mul24",
        Class::Int,
    )
    .mods(&[one("part", &["lo", "hi"]), types(WORDS)])
    .args(&[D(T0), S(T0), S(T0)])
    .exec(|f| {
        per_flag!(f.one("part") == Some("hi"), HI => match f.ty(0) {
            U32 => Some(lanes!(cold |a: u32, b: u32| -> u32 { mul24u::<HI>(a, b) })),
            _ => Some(lanes!(cold |a: i32, b: i32| -> i32 { mul24s::<HI>(a, b) })),
        })
    }),
    row(
        "mad24",
        "Integer Arithmetic Instructions: mad24",
        Class::Int,
    )
    .mods(&[one("part", &["lo", "hi"]), flag("sat"), types(WORDS)])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .exec(
        |f| match (f.one("part") == Some("hi"), f.has("sat"), f.ty(0)) {
            (true, true, S32) => Some(lanes!(cold |a: i32, b: i32, c: i32| -> i32 {
                mul24s::<true>(a, b).saturating_add(c)
            })),
            (_, true, _) => None,
            (hi, false, U32) => per_flag!(hi, HI => Some(lanes!(cold |a: u32, b: u32, c: u32| -> u32 {
                mul24u::<HI>(a, b).wrapping_add(c)
            }))),
            (hi, false, _) => per_flag!(hi, HI => Some(lanes!(cold |a: i32, b: i32, c: i32| -> i32 {
                mul24s::<HI>(a, b).wrapping_add(c)
            }))),
        },
    ),
    row("sad", "Integer Arithmetic Instructions: sad", Class::Int)
        .mods(&[types(ALL)])
        .args(&[D(T0), S(T0), S(T0), S(T0)])
        .exec(|f| {
            per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] => lanes!(cold |a: T, b: T, c: T| -> T {
                let distance = if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) };
                c.wrapping_add(distance)
            }))
        }),
    row("div", "Integer Arithmetic Instructions: div", Class::Int)
        .mods(&[types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| {
            per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] => exec!(cold |w, i, m| {
                divide::<T>(w, i, m, |a, b| a.wrapping_div(b))
            }))
        }),
    row("rem", "Integer Arithmetic Instructions: rem", Class::Int)
        .mods(&[types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| {
            per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] => exec!(cold |w, i, m| {
                divide::<T>(w, i, m, |a, b| a.wrapping_rem(b))
            }))
        }),
    row("abs", "Integer Arithmetic Instructions: abs", Class::Int)
        .mods(&[types(&[S16, S32, S64])])
        .args(&[D(T0), S(T0)])
        .exec(
            |f| per_type!(f.ty(0), T in [S16 S32 S64] => lanes!(|a: T| -> T { a.wrapping_abs() })),
        ),
    row("neg", "Integer Arithmetic Instructions: neg", Class::Int)
        .mods(&[types(&[S16, S32, S64])])
        .args(&[D(T0), S(T0)])
        .exec(
            |f| per_type!(f.ty(0), T in [S16 S32 S64] => lanes!(|a: T| -> T { a.wrapping_neg() })),
        ),
    row("min", "Integer Arithmetic Instructions: min", Class::Int)
        .mods(&[types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| {
            per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.min(b) }))
        }),
    row("max", "Integer Arithmetic Instructions: max", Class::Int)
        .mods(&[types(ALL)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| {
            per_type!(f.ty(0), T in [U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: T| -> T { a.max(b) }))
        }),
    row("dp4a", "Integer Arithmetic Instructions: dp4a", Class::Int)
        .mods(&[types(WORDS), types(WORDS)])
        .args(&[D(Is(B32)), S(T0), S(T1), S(Is(B32))])
        .since(61, 5, 0)
        .exec(|f| {
            per_flag!(f.ty(0) == S32, SA => per_flag!(f.ty(1) == S32, SB => Some(
                lanes!(cold |a: u32, b: u32, c: u32| -> u32 {
                    let mut sum = c;
                    let mut k = 0;
                    while k < 4 {
                        let product = byte::<SA>(a, k).wrapping_mul(byte::<SB>(b, k));
                        sum = sum.wrapping_add(product);
                        k += 1;
                    }
                    sum
                })
            )))
        }),
    row("dp2a", "Integer Arithmetic Instructions: dp2a", Class::Int)
        .mods(&[one("part", &["lo", "hi"]), types(WORDS), types(WORDS)])
        .args(&[D(Is(B32)), S(T0), S(T1), S(Is(B32))])
        .since(61, 5, 0)
        .exec(|f| {
            per_flag!(f.one("part") == Some("hi"), HI => per_flag!(f.ty(0) == S32, SA =>
            per_flag!(f.ty(1) == S32, SB => Some(lanes!(cold |a: u32, b: u32, c: u32| -> u32 {
                let first = if HI { 2 } else { 0 };
                let low = half::<SA>(a, 0).wrapping_mul(byte::<SB>(b, first));
                let high = half::<SA>(a, 1).wrapping_mul(byte::<SB>(b, first + 1));
                c.wrapping_add(low).wrapping_add(high)
            })))))
        }),
    row(
        "add",
        "Extended-Precision Integer Arithmetic Instructions: add.cc",
        Class::Int,
    )
    .mods(&[need("cc"), types(&[U32, S32, U64, S64])])
    .args(&[D(T0), S(T0), S(T0)])
    .exec(|f| {
        per_word(
            f.ty(0),
            exec!(cold |w, i, m| add::<u32, false, true>(w, i, m)),
            exec!(cold |w, i, m| add::<u64, false, true>(w, i, m)),
        )
    }),
    row(
        "addc",
        "Extended-Precision Integer Arithmetic Instructions: addc",
        Class::Int,
    )
    .mods(&[flag("cc"), types(&[U32, S32, U64, S64])])
    .args(&[D(T0), S(T0), S(T0)])
    .exec(|f| {
        per_flag!(f.has("cc"), OUT => per_word(f.ty(0),
            exec!(cold |w, i, m| add::<u32, true, OUT>(w, i, m)),
            exec!(cold |w, i, m| add::<u64, true, OUT>(w, i, m))))
    }),
    row(
        "sub",
        "Extended-Precision Integer Arithmetic Instructions: sub.cc",
        Class::Int,
    )
    .mods(&[need("cc"), types(&[U32, S32, U64, S64])])
    .args(&[D(T0), S(T0), S(T0)])
    .exec(|f| {
        per_word(
            f.ty(0),
            exec!(cold |w, i, m| sub::<u32, false, true>(w, i, m)),
            exec!(cold |w, i, m| sub::<u64, false, true>(w, i, m)),
        )
    }),
    row(
        "subc",
        "Extended-Precision Integer Arithmetic Instructions: subc",
        Class::Int,
    )
    .mods(&[flag("cc"), types(&[U32, S32, U64, S64])])
    .args(&[D(T0), S(T0), S(T0)])
    .exec(|f| {
        per_flag!(f.has("cc"), OUT => per_word(f.ty(0),
            exec!(cold |w, i, m| sub::<u32, true, OUT>(w, i, m)),
            exec!(cold |w, i, m| sub::<u64, true, OUT>(w, i, m))))
    }),
    row(
        "mad",
        "Extended-Precision Integer Arithmetic Instructions: mad.cc",
        Class::Int,
    )
    .mods(&[
        one("part", &["lo", "hi"]),
        need("cc"),
        types(&[U32, S32, U64, S64]),
    ])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .exec(|f| {
        per_flag!(f.one("part") == Some("hi"), HI =>
            per_type!(f.ty(0), T in [U32 S32 U64 S64] =>
                exec!(cold |w, i, m| mad::<T, HI, false, true>(w, i, m))))
    }),
    row(
        "madc",
        "Extended-Precision Integer Arithmetic Instructions: madc",
        Class::Int,
    )
    .mods(&[
        one("part", &["lo", "hi"]),
        flag("cc"),
        types(&[U32, S32, U64, S64]),
    ])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .exec(|f| {
        per_flag!(f.one("part") == Some("hi"), HI => per_flag!(f.has("cc"), OUT =>
            per_type!(f.ty(0), T in [U32 S32 U64 S64] =>
                exec!(cold |w, i, m| mad::<T, HI, true, OUT>(w, i, m)))))
    }),
];

/// Signedness does not matter to sums.
fn per_word(ty: Type, narrow: ExecFn, wide: ExecFn) -> Option<ExecFn> {
    match ty {
        U32 | S32 => Some(narrow),
        U64 | S64 => Some(wide),
        _ => None,
    }
}

/// Bits 47..16 (`HI`) or 31..0 of the product of the low 24 bits.
#[inline(always)]
fn mul24u<const HI: bool>(a: u32, b: u32) -> u32 {
    let product = u64::from(a & 0xff_ffff).wrapping_mul(u64::from(b & 0xff_ffff));
    (if HI { product >> 16 } else { product }) as u32
}

#[inline(always)]
fn mul24s<const HI: bool>(a: i32, b: i32) -> i32 {
    let low = |x: i32| i64::from(x << 8 >> 8);
    let product = low(a).wrapping_mul(low(b));
    (if HI { product >> 16 } else { product }) as i32
}

/// Byte `k`, extended by its sign if `SIGNED`.
#[inline(always)]
fn byte<const SIGNED: bool>(word: u32, k: u32) -> u32 {
    let top = word << (24 - 8 * k);
    if SIGNED {
        ((top as i32) >> 24) as u32
    } else {
        top >> 24
    }
}

/// Half `k`, extended by its sign if `SIGNED`.
#[inline(always)]
fn half<const SIGNED: bool>(word: u32, k: u32) -> u32 {
    let top = word << (16 - 16 * k);
    if SIGNED {
        ((top as i32) >> 16) as u32
    } else {
        top >> 16
    }
}

/// `div` and `rem`: a fault where a divisor is zero, since the result would be left open.
#[inline(always)]
fn divide<T: Lane + PartialEq>(w: &mut Warp<'_>, i: &Inst, m: u32, op: fn(T, T) -> T) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    let mut out = [T::ZERO; 32];
    let mut zeros = 0;
    for lane in 0..32 {
        if b[lane] == T::ZERO {
            zeros |= 1 << lane;
        } else {
            out[lane] = op(a[lane], b[lane]);
        }
    }
    if zeros & m != 0 {
        return Err(w.fault(Kind::DivisionByZero, zeros & m));
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

/// A word with carry: what `.cc` forms are made of.
trait Word: Lane {
    /// Sum, and whether it carries.
    fn carrying_add(self, other: Self, carry: bool) -> (Self, bool);
    /// Difference, and whether it borrows.
    fn borrowing_sub(self, other: Self, borrow: bool) -> (Self, bool);
    /// Upper or lower half of the product.
    fn product<const HI: bool>(self, other: Self) -> Self;
}

macro_rules! word {
    ($($T:ty, $U:ty, $Wide:ty;)+) => {$(
        impl Word for $T {
            #[inline(always)]
            fn carrying_add(self, other: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = (self as $U).overflowing_add(other as $U);
                let (sum, second) = sum.overflowing_add(<$U>::from(carry));
                (sum as $T, first | second)
            }
            #[inline(always)]
            fn borrowing_sub(self, other: Self, borrow: bool) -> (Self, bool) {
                let (difference, first) = (self as $U).overflowing_sub(other as $U);
                let (difference, second) = difference.overflowing_sub(<$U>::from(borrow));
                (difference as $T, first | second)
            }
            #[inline(always)]
            fn product<const HI: bool>(self, other: Self) -> Self {
                if HI { high!($T, $Wide, self, other) } else { self.wrapping_mul(other) }
            }
        }
    )+};
}

word! {
    u32, u32, u64;
    i32, u32, i64;
    u64, u64, u128;
    i64, u64, i128;
}

/// Writes results and, if `OUT`, the carries of the lanes in `m`.
#[inline(always)]
fn finish<T: Lane, const OUT: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
    valid: u32,
    one: impl Fn(usize, bool) -> (T, bool),
) -> Step {
    let mut out = [T::ZERO; 32];
    let mut carries = 0;
    for (lane, out) in out.iter_mut().enumerate() {
        let (value, carry) = one(lane, w.regs.carry >> lane & 1 != 0);
        *out = value;
        carries |= u32::from(carry) << lane;
    }
    if OUT {
        w.regs.carry = w.regs.carry & !m | carries & m;
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
}

#[inline(always)]
fn add<T: Word, const IN: bool, const OUT: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    finish::<T, OUT>(w, i, m, valid, |l, carry| {
        a[l].carrying_add(b[l], IN && carry)
    })
}

#[inline(always)]
fn sub<T: Word, const IN: bool, const OUT: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (a, b) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]);
    finish::<T, OUT>(w, i, m, valid, |l, borrow| {
        a[l].borrowing_sub(b[l], IN && borrow)
    })
}

#[inline(always)]
fn mad<T: Word, const HI: bool, const IN: bool, const OUT: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
) -> Step {
    let (a, b, c) = (w.get::<T>(i.s[0]), w.get::<T>(i.s[1]), w.get::<T>(i.s[2]));
    let valid = w.valid::<T>(i.s[0]) & w.valid::<T>(i.s[1]) & w.valid::<T>(i.s[2]);
    finish::<T, OUT>(w, i, m, valid, |l, carry| {
        a[l].product::<HI>(b[l]).carrying_add(c[l], IN && carry)
    })
}
