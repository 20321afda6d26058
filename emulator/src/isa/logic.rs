//! Bitwise logic, byte permutation, and logic of predicates.
use super::prelude::*;

const WORDS: &[Type] = &[B16, B32, B64];

pub(super) static ROWS: &[Row] = &[
    row("and", "Logic and Shift Instructions: and", Class::Int)
        .mods(&[types(WORDS)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T, b: T| -> T { a & b }))),
    row("and", "Logic and Shift Instructions: and", Class::Int)
        .mods(&[types(&[Pred])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|_| {
            Some(exec!(
                cold | w,
                i,
                m | combine(w, i, m, |a, b| {
                    Known {
                        value: a.value & b.value,
                        known: a.known & b.known | a.is(false) | b.is(false),
                    }
                })
            ))
        }),
    row("or", "Logic and Shift Instructions: or", Class::Int)
        .mods(&[types(WORDS)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T, b: T| -> T { a | b }))),
    row("or", "Logic and Shift Instructions: or", Class::Int)
        .mods(&[types(&[Pred])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|_| {
            Some(exec!(
                cold | w,
                i,
                m | combine(w, i, m, |a, b| {
                    Known {
                        value: a.value | b.value,
                        known: a.known & b.known | a.is(true) | b.is(true),
                    }
                })
            ))
        }),
    row("xor", "Logic and Shift Instructions: xor", Class::Int)
        .mods(&[types(WORDS)])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T, b: T| -> T { a ^ b }))),
    row("xor", "Logic and Shift Instructions: xor", Class::Int)
        .mods(&[types(&[Pred])])
        .args(&[D(T0), S(T0), S(T0)])
        .exec(|_| {
            Some(exec!(
                cold | w,
                i,
                m | combine(w, i, m, |a, b| {
                    Known {
                        value: a.value ^ b.value,
                        known: a.known & b.known,
                    }
                })
            ))
        }),
    row("not", "Logic and Shift Instructions: not", Class::Int)
        .mods(&[types(WORDS)])
        .args(&[D(T0), S(T0)])
        .exec(|f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T| -> T { !a }))),
    row("not", "Logic and Shift Instructions: not", Class::Int)
        .mods(&[types(&[Pred])])
        .args(&[D(T0), S(T0)])
        .exec(|_| {
            Some(exec!(
                cold | w,
                i,
                m | {
                    let (value, valid) = (!w.pred(i, 0), w.valid_pred(i.s[0]));
                    w.put_pred(i.d[0], m, valid, value);
                    Ok(Flow::Next)
                }
            ))
        }),
    row("cnot", "Logic and Shift Instructions: cnot", Class::Int)
        .mods(&[types(WORDS)])
        .args(&[D(T0), S(T0)])
        .exec(
            |f| per_type!(f.ty(0), T in [B16 B32 B64] => lanes!(|a: T| -> T { T::from(a == 0) })),
        ),
    row("lop3", "Logic and Shift Instructions: lop3", Class::Int)
        .mods(&[types(&[B32])])
        .args(&[D(T0), S(T0), S(T0), S(T0), I])
        .since(50, 4, 3)
        .exec(|f| {
            set_table(f)?;
            Some(exec!(|w, i, m| {
                let (out, valid) = lop3_lanes(w, i);
                w.put(i.d[0], m, valid, out);
                Ok(Flow::Next)
            }))
        }),
    row("lop3", "Logic and Shift Instructions: lop3", Class::Int)
        .mods(&[one("bool", &["or", "and"]), types(&[B32])])
        .args(&[Pair(T0, Is(Pred)), S(T0), S(T0), S(T0), I, S(Is(Pred))])
        .since(70, 8, 2)
        .exec(|f| {
            set_table(f)?;
            per_flag!(f.has("and"), AND => Some(exec!(cold |w, i, m| {
                let (out, valid) = lop3_lanes(w, i);
                let other = w.pred(i, 3);
                let mut any = 0;
                for (lane, out) in out.iter().enumerate() {
                    any |= u32::from(*out != 0) << lane;
                }
                let all_valid = valid & w.valid_pred(i.s[3]);
                w.put(i.d[0], m, valid, out);
                w.put_pred(i.d[1], m, all_valid, if AND { any & other } else { any | other });
                Ok(Flow::Next)
            })))
        }),
    row(
        "prmt",
        "Data Movement and Conversion Instructions: prmt",
        Class::Int,
    )
    .mods(&[
        types(&[B32]),
        maybe("mode", &["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]),
    ])
    .args(&[D(T0), S(T0), S(T0), S(T0)])
    .exec(|f| {
        let table: [u16; 4] = match f.one("mode") {
            None => {
                return Some(exec!(|w, i, m| permute_lanes(w, i, m)));
            }
            Some("f4e") => [0x3210, 0x4321, 0x5432, 0x6543],
            Some("b4e") => [0x5670, 0x6701, 0x7012, 0x0123],
            Some("rc8") => [0x0000, 0x1111, 0x2222, 0x3333],
            Some("ecl") => [0x3210, 0x3211, 0x3222, 0x3333],
            Some("ecr") => [0x0000, 0x1110, 0x2210, 0x3210],
            Some(_) => [0x1010, 0x3232, 0x1010, 0x3232],
        };
        f.aux = table
            .iter()
            .rev()
            .fold(0, |word, entry| word << 16 | u64::from(*entry));
        Some(exec!(|w, i, m| {
            let (a, b, c) = (
                w.get::<u32>(i.s[0]),
                w.get::<u32>(i.s[1]),
                w.get::<u32>(i.s[2]),
            );
            let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]) & w.valid32(i.s[2]);
            let mut out = [0; 32];
            for lane in 0..32 {
                let selector = (i.aux >> (16 * (c[lane] & 3))) as u32 & 0xffff;
                out[lane] = permute(a[lane], b[lane], selector);
            }
            w.put(i.d[0], m, valid, out);
            Ok(Flow::Next)
        }))
    }),
];

/// A predicate in all lanes, with the lanes whose value is known.
#[derive(Clone, Copy)]
struct Known {
    value: u32,
    known: u32,
}

impl Known {
    /// The lanes known to have this value.
    #[inline(always)]
    fn is(self, value: bool) -> u32 {
        self.known & if value { self.value } else { !self.value }
    }
}

#[inline(always)]
fn combine(w: &mut Warp<'_>, i: &Inst, m: u32, op: fn(Known, Known) -> Known) -> Step {
    let a = Known {
        value: w.pred(i, 0),
        known: w.valid_pred(i.s[0]),
    };
    let b = Known {
        value: w.pred(i, 1),
        known: w.valid_pred(i.s[1]),
    };
    let result = op(a, b);
    w.put_pred(i.d[0], m, result.known, result.value);
    Ok(Flow::Next)
}

/// Checks the immediate table of `lop3` and keeps its [`terms`] for the function.
fn set_table(f: &mut Form<'_>) -> Option<()> {
    f.aux = terms(u8::try_from(*f.imm.first()?).ok()?);
    Some(())
}

/// A function of three bits, whose value is bit `4a + 2b + c` of the table, as the sum modulo 2 of those
/// products of `a`, `b` and `c` of which the bytes of the result are not zero: byte 6 is `a * b`.
fn terms(table: u8) -> u64 {
    let mut bits = table;
    // What the subsets of a set of factors add up to: of `c`, then of `b`, then of `a`.
    bits ^= (bits & 0x55) << 1;
    bits ^= (bits & 0x33) << 2;
    bits ^= (bits & 0x0f) << 4;
    (0..8).fold(0, |word, n| {
        word | (u64::from(bits >> n & 1) * 0xff) << (8 * n)
    })
}

/// Any function of three bits, given by its [`terms`].
#[inline(always)]
fn lop3(a: u32, b: u32, c: u32, terms: &[u32; 8]) -> u32 {
    let both = b & c;
    let without = terms[0] ^ terms[1] & c ^ terms[2] & b ^ terms[3] & both;
    let with = terms[4] ^ terms[5] & c ^ terms[6] & b ^ terms[7] & both;
    without ^ a & with
}

/// The terms as words of zeros or ones.
#[inline(always)]
fn term_masks(terms: u64) -> [u32; 8] {
    let masks = terms.to_le_bytes().map(|byte| i32::from(byte as i8) as u32);
    // Or the compiler branches on each of them.
    std::hint::black_box(masks)
}

#[inline(always)]
fn lop3_lanes(w: &Warp<'_>, i: &Inst) -> ([u32; 32], u32) {
    let (a, b, c) = (
        w.get::<u32>(i.s[0]),
        w.get::<u32>(i.s[1]),
        w.get::<u32>(i.s[2]),
    );
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]) & w.valid32(i.s[2]);
    let masks = term_masks(i.aux);
    let mut out = [0; 32];
    for lane in 0..32 {
        out[lane] = lop3(a[lane], b[lane], c[lane], &masks);
    }
    (out, valid)
}

/// `prmt`: four bytes of `{b, a}` by the nibbles of `c`, whose top bits replicate the byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, c: u32) -> u32 {
    let mut out = 0;
    let mut k = 0;
    while k < 4 {
        let selector = c >> (4 * k);
        // Two words of 32 bits, since lanes of 64 bits would be half as many at a time.
        let word = if selector & 4 != 0 { b } else { a };
        let byte = word >> ((selector & 3) << 3) & 0xff;
        let sign = 0u32.wrapping_sub(byte >> 7) & 0xff;
        out |= (if selector & 8 != 0 { sign } else { byte }) << (8 * k);
        k += 1;
    }
    out
}

/// [`permute`] in all lanes. Mostly the selector is a literal; then the compiler need not ask each lane
/// for the word that a byte comes from, and how far it has to move.
#[inline(always)]
fn permute_lanes(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let [a, b, c] = [0, 1, 2].map(|k| w.r32(i.s[k]));
    let valid = w.valid32(i.s[0]) & w.valid32(i.s[1]) & w.valid32(i.s[2]);
    let selector = c.0[0];
    let differ = c.0.iter().fold(0, |all, other| all | (other ^ selector));
    let mut out = [0u32; 32];
    if differ == 0 && selector & 0x8888 == 0 {
        for k in 0..4 {
            let nibble = selector >> (4 * k);
            let words = if nibble & 4 != 0 { b } else { a };
            for lane in 0..32 {
                let byte = words.0[lane] >> ((nibble & 3) << 3) & 0xff;
                out[lane] |= byte << (8 * k);
            }
        }
    } else {
        for lane in 0..32 {
            out[lane] = permute(a.0[lane], b.0[lane], c.0[lane]);
        }
    }
    w.set32(i.d[0], m, valid, &out);
    Ok(Flow::Next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_of_lop3() {
        let (a, b, c) = (0xf0f0_00ff, 0xcccc_0f0f, 0xaaaa_3355);
        for table in 0..=255u64 {
            let by_bits = (0..32).fold(0, |d, k| {
                let index = (a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1);
                d | ((table >> index & 1) as u32) << k
            });
            let masks = term_masks(terms(table as u8));
            assert_eq!(lop3(a, b, c, &masks), by_bits, "{table:#x}");
        }
        assert_eq!(lop3(a, b, c, &term_masks(terms(0x96))), a ^ b ^ c);
    }

    #[test]
    fn all_selectors_of_prmt() {
        let (a, b) = (0x83_72_61_50, 0xc7_36_a5_14);
        let bytes = [0x50, 0x61, 0x72, 0x83, 0x14, 0xa5, 0x36, 0xc7];
        for c in 0..=0xffffu32 {
            let expected = (0..4).fold(0, |d, k| {
                let nibble = c >> (4 * k) & 15;
                let byte: u32 = bytes[nibble as usize & 7];
                let signs = if byte & 0x80 != 0 { 0xff } else { 0 };
                d | (if nibble & 8 != 0 { signs } else { byte }) << (8 * k)
            });
            assert_eq!(permute(a, b, c | 0xdead_0000), expected);
        }
    }
}
