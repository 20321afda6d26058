//! `mma.sync` of integers and of single bits; fragments lie as in `mma.rs`.

use super::mma::{AMPERE, Mma, TITLE, TURING, shape, shaped, validity};
use super::prelude::*;

const BYTES: Mod = types(&[S8, U8]);
const INT: Mod = types(&[S32]);
const NIBBLES_A: Mod = one("a", &["s4", "u4"]);
const NIBBLES_B: Mod = one("b", &["s4", "u4"]);
const BIT_A: Mod = one("a", &["b1"]);
const BIT_B: Mod = one("b", &["b1"]);

/// A row: shape, numbers of registers of A, B and C, what is there since, what picks the function, and
/// the modifiers behind `.row.col`.
macro_rules! row_of {
    ($shape:literal, $na:literal, $nb:literal, $nc:literal, $since:expr, $exec:expr, $($rest:expr),+) => {
        row("mma", TITLE, Class::Tensor)
            .mods(shaped!($shape, $($rest),+))
            .args(&[
                DV(Is(S32), Count::Fixed($nc)),
                SV(Is(B32), Count::Fixed($na)),
                SV(Is(B32), Count::Fixed($nb)),
                SV(Is(S32), Count::Fixed($nc)),
            ])
            .since($since.0, $since.1, $since.2)
            .together(Together::Warp)
            .exec($exec)
    };
}

/// `mma.sync.aligned.SHAPE.row.col{.satfinite}.s32.A.B.s32`.
macro_rules! bytes_row {
    ($shape:literal, $na:literal, $nb:literal, $nc:literal, $since:expr) => {
        row_of!(
            $shape,
            $na,
            $nb,
            $nc,
            $since,
            bytes,
            flag("satfinite"),
            INT,
            BYTES,
            BYTES,
            INT
        )
    };
}

/// The same for nibbles, whose types are no types of registers.
macro_rules! nibbles_row {
    ($shape:literal, $na:literal, $nb:literal, $nc:literal, $since:expr) => {
        row_of!(
            $shape,
            $na,
            $nb,
            $nc,
            $since,
            nibbles,
            flag("satfinite"),
            INT,
            NIBBLES_A,
            NIBBLES_B,
            INT
        )
    };
}

/// `mma.sync.aligned.SHAPE.row.col.s32.b1.b1.s32.OP.popc`.
macro_rules! bits_row {
    ($shape:literal, $na:literal, $nb:literal, $nc:literal, $op:literal, $since:expr) => {
        row_of!(
            $shape,
            $na,
            $nb,
            $nc,
            $since,
            bits,
            need($op),
            need("popc"),
            INT,
            BIT_A,
            BIT_B,
            INT
        )
    };
}

pub(super) static ROWS: &[Row] = &[
    bytes_row!("m16n8k32", 4, 2, 4, AMPERE),
    bytes_row!("m16n8k16", 2, 1, 4, AMPERE),
    bytes_row!("m8n8k16", 1, 1, 2, TURING),
    nibbles_row!("m16n8k64", 4, 2, 4, AMPERE),
    nibbles_row!("m16n8k32", 2, 1, 4, AMPERE),
    nibbles_row!("m8n8k32", 1, 1, 2, TURING),
    bits_row!("m16n8k256", 4, 2, 4, "xor", AMPERE),
    bits_row!("m16n8k128", 2, 1, 4, "xor", AMPERE),
    bits_row!("m8n8k128", 1, 1, 2, "xor", (75, 7, 0)),
    bits_row!("m16n8k256", 4, 2, 4, "and", (80, 7, 1)),
    bits_row!("m16n8k128", 2, 1, 4, "and", (80, 7, 1)),
    bits_row!("m8n8k128", 1, 1, 2, "and", (80, 7, 1)),
];

fn bytes(f: &mut Form<'_>) -> Option<ExecFn> {
    let types = [f.ty(1), f.ty(2)].map(Type::token);
    note(f, types)?;
    Some(exec!(|w, i, m| multiply::<16>(w, i, m)))
}

fn nibbles(f: &mut Form<'_>) -> Option<ExecFn> {
    let types = [f.one("a")?, f.one("b")?];
    note(f, types)?;
    Some(exec!(cold | w, i, m | multiply::<32>(w, i, m)))
}

fn bits(f: &mut Form<'_>) -> Option<ExecFn> {
    note(f, ["b1", "b1"])?;
    Some(exec!(cold | w, i, m | count_bits(w, i, m)))
}

/// Sum beyond the range of `s32`: clamped instead of wrapped.
const SATURATE: u64 = 1 << 48;
/// Bits of A and B are combined by exclusive or.
const XOR: u64 = 1 << 49;
/// A, B: numbers are signed.
const SIGNED: [u64; 2] = [1 << 50, 1 << 51];

/// Puts what the form says into the spare word.
fn note(f: &mut Form<'_>, types: [&str; 2]) -> Option<()> {
    let (rows, k) = shape(f)?;
    f.aux = Mma::new(rows, k, [types[0], types[1], "s32"]).word();
    for (flag, set) in [(SATURATE, f.has("satfinite")), (XOR, f.has("xor"))] {
        f.aux |= if set { flag } else { 0 };
    }
    for (flag, token) in SIGNED.into_iter().zip(types) {
        f.aux |= if token.starts_with('s') { flag } else { 0 };
    }
    Some(())
}

/// The tile in a register, row-major.
#[inline(always)]
fn widen<const WIDTH: usize>(words: &[u32; 32], signed: bool, out: &mut [i32; 256]) {
    let bits = 128 / WIDTH;
    for lane in 0..32 {
        for part in 0..32 / bits {
            let top = words[lane] << (32 - bits * (part + 1));
            let value = if signed {
                top as i32 >> (32 - bits)
            } else {
                (top >> (32 - bits)) as i32
            };
            out[32 / bits * lane + part] = value;
        }
    }
}

/// D = A * B + C, where the products are summed exactly.
#[inline(always)]
fn multiply<const WIDTH: usize>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let spec = Mma::of(i);
    let (halves, parts) = (spec.rows() / 8, spec.k() / WIDTH);
    let signed = SIGNED.map(|flag| i.aux & flag != 0);
    let mut tile = [0; 256];
    let mut out = [[[0; 32]; 2]; 2];
    for upper in 0..halves {
        let mut sums = [[0i32; 8]; 8];
        for part in 0..parts {
            widen::<WIDTH>(&w.r32(i.s[halves * parts + part]).0, signed[1], &mut tile);
            let mut b = [[0; 8]; WIDTH];
            for k in 0..WIDTH {
                for n in 0..8 {
                    b[k][n] = tile[WIDTH * n + k];
                }
            }
            widen::<WIDTH>(&w.r32(i.s[halves * part + upper]).0, signed[0], &mut tile);
            for (row, sums) in sums.iter_mut().enumerate() {
                for k in 0..WIDTH {
                    let factor = tile[WIDTH * row + k];
                    for n in 0..8 {
                        sums[n] += factor * b[k][n];
                    }
                }
            }
        }
        let first = (halves + 1) * parts + 2 * upper;
        for (odd, out) in out[upper].iter_mut().enumerate() {
            let c = w.get::<i32>(i.s[first + odd]);
            for lane in 0..32 {
                let sum = sums[lane / 4][2 * (lane % 4) + odd];
                out[lane] = if i.aux & SATURATE != 0 {
                    c[lane].saturating_add(sum)
                } else {
                    c[lane].wrapping_add(sum)
                };
            }
        }
    }
    store(w, i, m, &out);
    Ok(Flow::Next)
}

/// D = popc(A op B) + C.
#[inline(always)]
fn count_bits(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let spec = Mma::of(i);
    let (halves, parts) = (spec.rows() / 8, spec.k() / 128);
    let mut out = [[[0; 32]; 2]; 2];
    for upper in 0..halves {
        let first = (halves + 1) * parts + 2 * upper;
        for (odd, out) in out[upper].iter_mut().enumerate() {
            *out = w.get::<i32>(i.s[first + odd]);
            for part in 0..parts {
                let a = &w.r32(i.s[halves * part + upper]).0;
                let b = &w.r32(i.s[halves * parts + part]).0;
                for lane in 0..32 {
                    let (row, n) = (lane / 4, 2 * (lane % 4) + odd);
                    for word in 0..4 {
                        let (a, b) = (a[4 * row + word], b[4 * n + word]);
                        let bits = if i.aux & XOR != 0 { a ^ b } else { a & b };
                        out[lane] = out[lane].wrapping_add(bits.count_ones() as i32);
                    }
                }
            }
        }
    }
    store(w, i, m, &out);
    Ok(Flow::Next)
}

/// Writes D, by blocks of 8 rows and even and odd columns.
#[inline(always)]
fn store(w: &mut Warp<'_>, i: &Inst, m: u32, out: &[[[i32; 32]; 2]; 2]) {
    let halves = usize::from(i.nd) / 2;
    let parts = (usize::from(i.ns) - 2 * halves) / (halves + 1);
    let valid = [0, 1].map(|upper| validity(w, i, halves, parts, upper.min(halves - 1)));
    for upper in 0..halves {
        for odd in 0..2 {
            w.put(i.d[2 * upper + odd], m, valid[upper][odd], out[upper][odd]);
        }
    }
}
