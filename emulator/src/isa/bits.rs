//! Counting, finding, extracting and shifting bits.
use super::prelude::*;

/// An unsigned word of 32 or 64 bits, or its signed twin, for the forms that shift by variables.
trait Bits: Lane {
    /// Shifted left; zero from `WIDTH` on.
    fn left(self, by: u32) -> Self;
    /// Shifted right, filled with the sign of signed types, also from `WIDTH` on.
    fn right(self, by: u32) -> Self;
    /// `!0`
    const ONES: Self;
    /// Bitwise operations.
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn not(self) -> Self;
}

macro_rules! bits {
    ($($T:ty)+) => {$(
        impl Bits for $T {
            const ONES: $T = !0;
            #[inline(always)]
            fn left(self, by: u32) -> $T {
                let shifted = self.wrapping_shl(by);
                if by < <$T>::BITS { shifted } else { 0 }
            }
            #[inline(always)]
            fn right(self, by: u32) -> $T {
                #[allow(unused_comparisons)]
                let fill = if self < 0 { !0 } else { 0 };
                let shifted = self.wrapping_shr(by);
                if by < <$T>::BITS { shifted } else { fill }
            }
            #[inline(always)]
            fn and(self, other: $T) -> $T {
                self & other
            }
            #[inline(always)]
            fn or(self, other: $T) -> $T {
                self | other
            }
            #[inline(always)]
            fn not(self) -> $T {
                !self
            }
        }
    )+};
}

bits!(u16 u32 u64 i16 i32 i64);

/// The lowest `length` bits.
#[inline(always)]
fn ones<T: Bits>(length: u32) -> T {
    T::ONES.left(length).not()
}

/// `bfe` without its sign.
#[inline(always)]
fn extract<T: Bits>(a: T, b: u32, c: u32) -> T {
    let (position, length) = (b & 0xff, c & 0xff);
    a.right(position).and(ones(length))
}

/// `bfi`: the low bits of `a` in `b`.
#[inline(always)]
fn insert<T: Bits>(a: T, b: T, c: u32, d: u32) -> T {
    let (position, length) = (c & 0xff, d & 0xff);
    let field = ones::<T>(length).left(position);
    a.left(position).and(field).or(b.and(field.not()))
}

/// `bfe.s`: filled from above with the highest bit of the field, or of the word if it ends first.
macro_rules! extract_signed {
    ($T:ty, $U:ty, $a:expr, $b:expr, $c:expr) => {{
        let (position, length) = ($b & 0xff, $c & 0xff);
        let top = position
            .wrapping_add(length)
            .wrapping_sub(1)
            .min(<$T>::BITS - 1);
        let negative = length != 0 && ($a as $U) >> top & 1 != 0;
        // Bits beyond the word are the sign too.
        let taken = length.min(<$T>::BITS.saturating_sub(position));
        let field = extract($a as $U, $b, taken);
        (if negative {
            field | !ones::<$U>(taken)
        } else {
            field
        }) as $T
    }};
}

/// `fns`: the position of the n-th set bit from `base`, upwards if n > 0, downwards if n < 0.
#[inline(always)]
fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 != 0 {
            base
        } else {
            u32::MAX
        };
    }
    let step = if offset > 0 { 1 } else { -1 };
    let mut left = offset.unsigned_abs();
    let mut position = base as i32;
    while (0..32).contains(&position) {
        if mask >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += step;
    }
    u32::MAX
}

/// `bmsk`: `length` ones from `position`.
#[inline(always)]
fn mask_bits<const WRAP: bool>(position: u32, length: u32) -> u32 {
    if WRAP {
        ones::<u32>(length & 31).left(position & 31)
    } else {
        ones::<u32>(length.min(32)).left(position.min(32))
    }
}

pub(super) static ROWS: &[Row] = &[
    row("popc", "Integer Arithmetic Instructions: popc", Class::Int)
        .mods(&[types(&[B32, B64])])
        .args(&[D(Is(U32)), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B32 B64] => lanes!(cold |a: T| -> u32 { a.count_ones() }))),
    row("clz", "Integer Arithmetic Instructions: clz", Class::Int)
        .mods(&[types(&[B32, B64])])
        .args(&[D(Is(U32)), S(T0)])
        .exec(
            |f| per_type!(f.ty(0), T in [B32 B64] => lanes!(cold |a: T| -> u32 { a.leading_zeros() })),
        ),
    row(
        "bfind",
        "Integer Arithmetic Instructions: bfind",
        Class::Int,
    )
    .mods(&[flag("shiftamt"), types(&[U32, U64, S32, S64])])
    .args(&[D(Is(U32)), S(T0)])
    .exec(|f| {
        per_flag!(f.has("shiftamt"), SHIFT => per_type!(f.ty(0), T in [U32 U64 S32 S64] =>
        lanes!(cold |a: T| -> u32 {
            // The highest bit that is not the sign.
            let zeros = (a ^ a.right(T::BITS)).leading_zeros();
            match zeros {
                T::BITS => u32::MAX,
                _ if SHIFT => zeros,
                _ => T::BITS - 1 - zeros,
            }
        })))
    }),
    row("fns", "Integer Arithmetic Instructions: fns", Class::Int)
        .mods(&[types(&[B32])])
        .args(&[D(Is(B32)), S(Is(B32)), S(Is(B32)), S(Is(S32))])
        .since(30, 6, 0)
        .exec(|_| {
            Some(lanes!(cold |mask: u32, base: u32, offset: i32| -> u32 {
                find_nth_set(mask, base, offset)
            }))
        }),
    row("brev", "Integer Arithmetic Instructions: brev", Class::Int)
        .mods(&[types(&[B32, B64])])
        .args(&[D(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B32 B64] => lanes!(cold |a: T| -> T { a.reverse_bits() }))),
    row("bfe", "Integer Arithmetic Instructions: bfe", Class::Int)
        .mods(&[types(&[U32, U64, S32, S64])])
        .args(&[D(T0), S(T0), S(Is(U32)), S(Is(U32))])
        .exec(|f| match f.ty(0) {
            S32 => Some(lanes!(cold |a: i32, b: u32, c: u32| -> i32 {
                extract_signed!(i32, u32, a, b, c)
            })),
            S64 => Some(lanes!(cold |a: i64, b: u32, c: u32| -> i64 {
                extract_signed!(i64, u64, a, b, c)
            })),
            t => per_type!(t, T in [U32 U64] =>
                lanes!(cold |a: T, b: u32, c: u32| -> T { extract(a, b, c) })),
        }),
    row("bfi", "Integer Arithmetic Instructions: bfi", Class::Int)
        .mods(&[types(&[B32, B64])])
        .args(&[D(T0), S(T0), S(T0), S(Is(U32)), S(Is(U32))])
        .exec(|f| {
            per_type!(f.ty(0), T in [B32 B64] =>
                lanes!(cold |a: T, b: T, c: u32, d: u32| -> T { insert(a, b, c, d) }))
        }),
    row("bmsk", "Integer Arithmetic Instructions: bmsk", Class::Int)
        .mods(&[one("mode", &["clamp", "wrap"]), types(&[B32])])
        .args(&[D(T0), S(Is(U32)), S(Is(U32))])
        .since(70, 7, 6)
        .exec(|f| {
            per_flag!(f.has("wrap"), WRAP =>
                Some(lanes!(cold |a: u32, b: u32| -> u32 { mask_bits::<WRAP>(a, b) })))
        }),
    row(
        "szext",
        "Integer Arithmetic Instructions: szext",
        Class::Int,
    )
    .mods(&[one("mode", &["clamp", "wrap"]), types(&[U32, S32])])
    .args(&[D(T0), S(T0), S(Is(U32))])
    .since(70, 7, 6)
    .exec(|f| {
        per_flag!(f.has("wrap"), WRAP => match f.ty(0) {
            U32 => Some(lanes!(cold |a: u32, b: u32| -> u32 {
                a & mask_bits::<WRAP>(0, b)
            })),
            _ => Some(lanes!(cold |a: i32, b: u32| -> i32 {
                let length = if WRAP { b & 31 } else { b };
                let unused = 32u32.saturating_sub(length);
                a.left(unused).right(unused)
            })),
        })
    }),
    row("shl", "Logic and Shift Instructions: shl", Class::Int)
        .mods(&[types(&[B16, B32, B64])])
        .args(&[D(T0), S(T0), S(Is(U32))])
        .exec(
            |f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T, b: u32| -> T { a.left(b) })),
        ),
    row("shr", "Logic and Shift Instructions: shr", Class::Int)
        .mods(&[types(&[B16, B32, B64, U16, U32, U64, S16, S32, S64])])
        .args(&[D(T0), S(T0), S(Is(U32))])
        .exec(|f| {
            per_type!(f.ty(0), T in [B16 B32 B64 U16 U32 U64 S16 S32 S64] =>
                lanes!(|a: T, b: u32| -> T { a.right(b) }))
        }),
    row("shf", "Logic and Shift Instructions: shf", Class::Int)
        .mods(&[
            one("way", &["l", "r"]),
            one("mode", &["clamp", "wrap"]),
            types(&[B32]),
        ])
        .args(&[D(T0), S(T0), S(T0), S(Is(U32))])
        .since(32, 3, 1)
        .exec(|f| {
            per_flag!(f.has("wrap"), WRAP => per_flag!(f.has("l"), LEFT =>
            Some(lanes!(|low: u32, high: u32, c: u32| -> u32 {
                let by = if WRAP { c & 31 } else { c.min(32) };
                let both = u64::from(high) << 32 | u64::from(low);
                (if LEFT { both << by >> 32 } else { both >> by }) as u32
            }))))
        }),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The ISA's own loop, bit by bit.
    fn extract_by_bits(a: u64, pos: u32, len: u32, msb: u32, signed: bool) -> u64 {
        let bit = |at: u32| a >> at & 1;
        let sign = if !signed || len == 0 {
            0
        } else {
            bit((pos + len - 1).min(msb))
        };
        (0..=msb).fold(0, |d, i| {
            d | (if i < len && pos + i <= msb {
                bit(pos + i)
            } else {
                sign
            }) << i
        })
    }

    #[test]
    fn fields_of_every_position_and_length() {
        for a in [0x8765_4321_fedc_ba98u64, u64::MAX, 0x7fff_ffff_8000_0001] {
            for pos in (0..70).chain([255]) {
                for len in (0..70).chain([255]) {
                    let (p, l) = (pos | 0xffff_ff00, len | 0x100);
                    let by_bits = |msb, signed| extract_by_bits(a, pos, len, msb, signed);
                    assert_eq!(extract(a, p, l), by_bits(63, false));
                    assert_eq!(
                        u64::from(extract(a as u32, p, l)),
                        extract_by_bits(a & 0xffff_ffff, pos, len, 31, false)
                    );
                    let word = extract_signed!(i32, u32, a as i32, p, l);
                    assert_eq!(
                        u64::from(word as u32),
                        extract_by_bits(a & 0xffff_ffff, pos, len, 31, true),
                        "{pos} {len}"
                    );
                    assert_eq!(
                        extract_signed!(i64, u64, a as i64, p, l) as u64,
                        by_bits(63, true)
                    );
                    let inserted = (0..len)
                        .take_while(|i| pos + i <= 31)
                        .fold(0x1357_9bdfu32, |f, i| {
                            f & !(1 << (pos + i)) | (a as u32 >> i.min(31) & 1) << (pos + i)
                        });
                    if len <= 32 {
                        assert_eq!(insert(a as u32, 0x1357_9bdf, p, l), inserted, "{pos} {len}");
                    }
                }
            }
        }
        assert_eq!(insert(u64::MAX, 0, 60, 255), 0xf << 60);
        assert_eq!(insert(5u32, 9, 32, 4), 9);
    }

    #[test]
    fn shifts_clamp() {
        assert_eq!(
            (1u16.left(15), 1u16.left(16), 1u32.left(33), 1u64.left(64)),
            (0x8000, 0, 0, 0)
        );
        assert_eq!(
            (1u32.left(u32::MAX), (-1i32).right(u32::MAX), 5i64.right(64)),
            (0, -1, 0)
        );
        assert_eq!(
            ((-8i16).right(2), 0x8000u16.right(15), (-1i16).right(99)),
            (-2, 1, -1)
        );
    }

    #[test]
    fn nth_set_bits() {
        let mask = 0b1001_0110;
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| find_nth_set(mask, 0, n)),
            [1, 2, 4, 7, u32::MAX]
        );
        assert_eq!(
            [-1, -2, -4].map(|n| find_nth_set(mask, 4, n)),
            [4, 2, u32::MAX]
        );
        assert_eq!(
            [find_nth_set(mask, 2, 0), find_nth_set(mask, 3, 0)],
            [2, u32::MAX]
        );
    }

    #[test]
    fn masks() {
        assert_eq!(
            (mask_bits::<false>(4, 8), mask_bits::<false>(32, 8)),
            (0xff0, 0)
        );
        assert_eq!(
            (mask_bits::<false>(0, 40), mask_bits::<true>(36, 33)),
            (u32::MAX, 0x10)
        );
    }
}
