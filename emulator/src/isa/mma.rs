//! `mma.sync` of floating-point numbers.
//!
//! Over the warp, a fragment register is a tile of 8 rows of 128 bits: lane `4 * row + t` has the
//! `t`-th word of its row. So the 32 words of a register are the tile itself in row-major order,
//! whatever the elements are, and an operand is a handful of tiles: A has one for each half of its
//! rows and each 128 bits of k, B (as columns) one for each 128 bits of k. C and D hold two elements
//! of a row in each lane.

use half::f16;

use super::prelude::*;
use crate::device::MmaMode;
use crate::numerics::{NAN32, soft};
use crate::simd;
use crate::tensor::{Output, Rule};

pub(super) const TITLE: &str = "Multiply-and-Accumulate Instruction: mma";
const HALVES: Mod = types(&[F16]);
const BRAINS: Mod = types(&[BF16]);
const TENSORS: Mod = types(&[TF32]);
const EIGHTS: Mod = types(&[E4M3, E5M2]);
const FLOATS: Mod = types(&[F32]);
const DOUBLES: Mod = types(&[F64]);

/// Modifiers of `mma.sync.aligned.SHAPE.row.col` and what comes behind.
macro_rules! shaped {
    ($shape:literal, $($rest:expr),+) => {
        &[need("sync"), need("aligned"), need($shape), need("row"), need("col"), $($rest),+]
    };
}
pub(super) use shaped;

/// A row of `mma.sync.aligned.SHAPE.row.col.D.A.B.C`: numbers of registers of A, B, and of C and D,
/// the type of the latter, and what has to be there.
macro_rules! mma_row {
    ($shape:literal, $d:expr, $a:expr, $na:literal, $nb:literal, $nc:literal, $ty:expr, $from:expr, $since:expr) => {
        row("mma", TITLE, Class::Tensor)
            .mods(shaped!($shape, $d, $a, $a, $d))
            .args(&[
                DV(Is($ty), Count::Fixed($nc)),
                SV(Is($from), Count::Fixed($na)),
                SV(Is($from), Count::Fixed($nb)),
                SV(Is($ty), Count::Fixed($nc)),
            ])
            .since($since.0, $since.1, $since.2)
            .together(Together::Warp)
            .exec(multiply)
    };
}

pub(super) const AMPERE: (u32, u32, u32) = (80, 7, 0);
pub(super) const TURING: (u32, u32, u32) = (75, 6, 5);
const ADA: (u32, u32, u32) = (89, 8, 4);
const ADA_LATER: (u32, u32, u32) = (89, 8, 7);

pub(super) static ROWS: &[Row] = &[
    mma_row!("m16n8k16", FLOATS, HALVES, 4, 2, 4, F32, B32, AMPERE),
    mma_row!("m16n8k16", FLOATS, BRAINS, 4, 2, 4, F32, B32, AMPERE),
    mma_row!("m16n8k16", HALVES, HALVES, 4, 2, 2, B32, B32, AMPERE),
    mma_row!("m16n8k8", FLOATS, HALVES, 2, 1, 4, F32, B32, TURING),
    mma_row!("m16n8k8", FLOATS, BRAINS, 2, 1, 4, F32, B32, AMPERE),
    mma_row!("m16n8k8", HALVES, HALVES, 2, 1, 2, B32, B32, TURING),
    mma_row!("m16n8k8", FLOATS, TENSORS, 4, 2, 4, F32, B32, AMPERE),
    mma_row!("m16n8k4", FLOATS, TENSORS, 2, 1, 4, F32, B32, AMPERE),
    mma_row!("m16n8k32", FLOATS, EIGHTS, 4, 2, 4, F32, B32, ADA),
    mma_row!("m16n8k32", HALVES, EIGHTS, 4, 2, 2, B32, B32, ADA_LATER),
    mma_row!("m16n8k16", FLOATS, EIGHTS, 2, 1, 4, F32, B32, ADA_LATER),
    mma_row!("m16n8k16", HALVES, EIGHTS, 2, 1, 2, B32, B32, ADA_LATER),
    mma_row!("m8n8k4", DOUBLES, DOUBLES, 1, 1, 2, F64, F64, AMPERE),
];

/// Names of the types of elements, in the order of their codes in [`Mma`].
const ELEMENTS: [&str; 13] = [
    "f16", "e5m2", "e4m3", "bf16", "tf32", "f32", "f64", "s32", "s8", "u8", "s4", "u4", "b1",
];
const F16_CODE: usize = 0;
const E5M2_CODE: usize = 1;
const E4M3_CODE: usize = 2;

/// What `inst.aux` of an `mma` says.
#[derive(Clone, Copy)]
pub(super) struct Mma(u64);

impl Mma {
    /// A shape, and the types of A, B and of C and D.
    pub(super) fn new(rows: u64, k: u64, types: [&str; 3]) -> Mma {
        let code = |name: &str| ELEMENTS.iter().position(|e| *e == name).unwrap_or(0) as u64;
        let [a, b, c] = types.map(code);
        Mma(k | rows << 16 | a << 24 | b << 32 | c << 40)
    }
    pub(super) fn of(inst: &Inst) -> Mma {
        Mma(inst.aux)
    }
    pub(super) fn word(self) -> u64 {
        self.0
    }
    pub(super) fn k(self) -> usize {
        (self.0 & 0xffff) as usize
    }
    pub(super) fn rows(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }
    /// Codes of the types of A, B and C.
    pub(super) fn types(self) -> [usize; 3] {
        [24, 32, 40].map(|at| (self.0 >> at) as usize & 0xf)
    }
    fn half(self) -> bool {
        self.types()[2] == F16_CODE
    }
}

/// Name and operations of a tensor instruction: two for each multiply-add.
pub(crate) fn describe(inst: &Inst) -> (String, u64) {
    let mma = Mma::of(inst);
    let (rows, k) = (mma.rows() as u64, mma.k() as u64);
    let [a, b, c] = mma
        .types()
        .map(|code| ELEMENTS.get(code).copied().unwrap_or("?"));
    (format!("m{rows}n8k{k}.{c}.{a}.{b}.{c}"), 2 * rows * 8 * k)
}

/// The numbers behind `m`, `n` and `k` in the name of a shape.
pub(super) fn dimensions(shape: &str) -> Option<[u64; 3]> {
    let (m, rest) = shape.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// Rows and k of the shape that a form names.
pub(super) fn shape(f: &Form<'_>) -> Option<(u64, u64)> {
    let token = f
        .chosen
        .iter()
        .flatten()
        .find(|token| token.starts_with('m'))?;
    let [m, _, k] = dimensions(token)?;
    Some((m, k))
}

fn multiply(f: &mut Form<'_>) -> Option<ExecFn> {
    let (rows, k) = shape(f)?;
    let types = [f.ty(1), f.ty(2), f.ty(0)].map(Type::token);
    f.aux = Mma::new(rows, k, types).word();
    Some(match (f.ty(1), k) {
        (F64, _) => exec!(|w, i, m| doubles(w, i, m)),
        (F16, 16) => exec!(|w, i, m| mma::<Halves, 64, 16>(w, i, m)),
        (F16, _) => exec!(|w, i, m| mma::<Halves, 64, 8>(w, i, m)),
        (BF16, 16) => exec!(|w, i, m| mma::<Brains, 64, 16>(w, i, m)),
        (BF16, _) => exec!(|w, i, m| mma::<Brains, 64, 8>(w, i, m)),
        (TF32, 8) => exec!(|w, i, m| mma::<Tensors, 32, 8>(w, i, m)),
        (TF32, _) => exec!(|w, i, m| mma::<Tensors, 32, 4>(w, i, m)),
        (_, 32) => exec!(|w, i, m| mma::<Eights, 128, 32>(w, i, m)),
        (_, _) => exec!(|w, i, m| mma::<Eights, 128, 16>(w, i, m)),
    })
}

/// A format of A and B, of which a register of the warp holds `N` elements.
trait Factors<const N: usize> {
    /// The tile in a register, row-major; `code` is that of the type.
    fn widen(words: &[u32; 32], code: usize) -> [f32; N];
}

struct Halves;
struct Brains;
struct Tensors;
struct Eights;

impl Factors<64> for Halves {
    #[inline(always)]
    fn widen(words: &[u32; 32], _: usize) -> [f32; 64] {
        simd::widen_f16(&simd::halves(words))
    }
}

impl Factors<64> for Brains {
    #[inline(always)]
    fn widen(words: &[u32; 32], _: usize) -> [f32; 64] {
        let mut out = [0.0; 64];
        for lane in 0..32 {
            out[2 * lane] = f32::from_bits(words[lane] << 16);
            out[2 * lane + 1] = f32::from_bits(words[lane] & 0xffff_0000);
        }
        out
    }
}

impl Factors<32> for Tensors {
    #[inline(always)]
    fn widen(words: &[u32; 32], _: usize) -> [f32; 32] {
        words.map(|word| f32::from_bits(word & 0xffff_e000))
    }
}

impl Factors<128> for Eights {
    #[inline(always)]
    fn widen(words: &[u32; 32], code: usize) -> [f32; 128] {
        let bytes: [u8; 128] = std::array::from_fn(|n| (words[n / 4] >> (8 * (n % 4))) as u8);
        if code == E5M2_CODE {
            return simd::widen_f16(&bytes.map(|byte| u16::from(byte) << 8));
        }
        bytes.map(|byte| {
            let magnitude = u32::from(byte & 0x7f);
            // The fields of the format, as those of a tiny `f32`.
            let value = (f32::from_bits(magnitude << 20) * f32::from_bits(247 << 23)).to_bits();
            let value = if magnitude == 0x7f { NAN32 } else { value };
            f32::from_bits(value | u32::from(byte & 0x80) << 24)
        })
    }
}

/// Where column `n` is kept: the even ones first, as the registers of C have them.
const PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A row of C, its columns in the order of [`PLACE`]: what one register has of it, then the other.
type Row8 = [f32; 8];

/// D = A * B + C for A of 16 x K and B of K x 8; N elements fill a register.
#[inline(always)]
fn mma<F: Factors<N>, const N: usize, const K: usize>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let spec = Mma::of(i);
    let ([code_a, code_b, _], half) = (spec.types(), spec.half());
    // Elements of k, and how many registers there are of them.
    let (width, parts) = (N / 8, 8 * K / N);
    let mut b = [[0.0f32; 8]; K];
    for part in 0..parts {
        let tile = F::widen(&w.r32(i.s[2 * parts + part]).0, code_b);
        transpose(&tile, &mut b[width * part..][..width]);
    }
    // Rows 0 to 7 and 8 to 15; nothing is written before all is read.
    let mut c = [[[0.0f32; 8]; 8]; 2];
    for upper in 0..2 {
        let sums = &mut c[upper];
        let first = 3 * parts + if half { upper } else { 2 * upper };
        if half {
            let tile = Halves::widen(&w.r32(i.s[first]).0, F16_CODE);
            for row in 0..8 {
                for n in 0..8 {
                    sums[row][PLACE[n]] = tile[8 * row + n];
                }
            }
        } else {
            let (even, odd) = (&w.r32(i.s[first]).0, &w.r32(i.s[first + 1]).0);
            for row in 0..8 {
                let (left, right) = sums[row].split_at_mut(4);
                left.copy_from_slice(bytemuck::cast_slice(&even[4 * row..][..4]));
                right.copy_from_slice(bytemuck::cast_slice(&odd[4 * row..][..4]));
            }
        }
        // Each register as it is: its rows are a part of those of A.
        let mut a = [[0.0f32; N]; 2];
        for part in 0..parts {
            a[part] = F::widen(&w.r32(i.s[2 * part + upper]).0, code_a);
        }
        match rule(w.launch.mma, spec, width) {
            None => multiply_rows(&a, &b, sums),
            Some(rule) => multiply_exactly::<N, K>(&rule, &a, &b, sums),
        }
    }
    let valid = match initialised(w, i) {
        true => [[u32::MAX; 2]; 2],
        false => [0, 1].map(|upper| validity(w, i, 2, parts, upper)),
    };
    for upper in 0..2 {
        let (sums, valid) = (&c[upper], valid[upper]);
        if half {
            let mut out = [0; 32];
            for lane in 0..32 {
                let row = &sums[lane / 4];
                out[lane] = round_half(row[lane % 4]) | round_half(row[lane % 4 + 4]) << 16;
            }
            w.set32(i.d[upper], m, valid[0] & valid[1], &out);
        } else {
            let (mut even, mut odd) = ([0; 32], [0; 32]);
            for row in 0..8 {
                let bits = sums[row].map(canonical);
                even[4 * row..][..4].copy_from_slice(&bits[..4]);
                odd[4 * row..][..4].copy_from_slice(&bits[4..]);
            }
            w.set32(i.d[2 * upper], m, valid[0], &even);
            w.set32(i.d[2 * upper + 1], m, valid[1], &odd);
        }
    }
    Ok(Flow::Next)
}

/// A register of B has a column in each row of its tile: turns it into rows of B, a row for each k,
/// whose columns are in the order of [`PLACE`].
#[inline(always)]
fn transpose<const N: usize>(tile: &[f32; N], rows: &mut [Row8]) {
    let width = N / 8;
    if !width.is_multiple_of(8) {
        for (k, row) in rows.iter_mut().enumerate() {
            for n in 0..8 {
                row[PLACE[n]] = tile[width * n + k];
            }
        }
        return;
    }
    for (first, rows) in (0..).step_by(8).zip(rows.chunks_exact_mut(8)) {
        let mut columns = [[0.0f32; 8]; 8];
        for n in 0..8 {
            columns[PLACE[n]].copy_from_slice(&tile[width * n + first..][..8]);
        }
        rows.copy_from_slice(&simd::transpose(&columns));
    }
}

/// As a tensor core adds up; rows of A are put together first.
#[inline(never)]
fn multiply_exactly<const N: usize, const K: usize>(
    rule: &Rule,
    a: &[[f32; N]; 2],
    b: &[Row8; K],
    sums: &mut [Row8; 8],
) {
    let width = N / 8;
    let mut rows = [[0.0f32; K]; 8];
    for (row, elements) in rows.iter_mut().enumerate() {
        for (part, elements) in elements.chunks_exact_mut(width).enumerate() {
            elements.copy_from_slice(&a[part][width * row..][..width]);
        }
    }
    simd::multiply_exactly(rule, rows.as_flattened(), b, bytemuck::cast_mut(sums));
}

/// How a generation adds up these types; `None` where it is to be fast.
fn rule(mode: MmaMode, spec: Mma, width: usize) -> Option<Rule> {
    let codes = spec.types();
    let eights = matches!(codes[0], E4M3_CODE | E5M2_CODE);
    // Ampere and Ada take 128 bits of k at a time, Hopper all.
    let (bits, block) = match mode {
        MmaMode::Fast => return None,
        MmaMode::Ampere if eights => (13, width),
        MmaMode::Ampere => (24, width),
        MmaMode::Hopper => (25, spec.k()),
    };
    let least = |code: usize| match code {
        F16_CODE | E5M2_CODE => -14,
        E4M3_CODE => -6,
        _ => -126,
    };
    Some(Rule {
        bits,
        block,
        least: codes.map(least),
        output: match (spec.half(), bits) {
            (true, _) => Output::Half,
            (false, 13) => Output::Float { fraction: 13 },
            (false, _) => Output::Float { fraction: 23 },
        },
    })
}

/// Adds the product of 8 rows of A with B, in the order of k, each step rounded once.
#[inline(always)]
fn multiply_rows<const N: usize, const K: usize>(
    a: &[[f32; N]; 2],
    b: &[Row8; K],
    sums: &mut [Row8; 8],
) {
    let width = N / 8;
    for first in [0, 4] {
        let mut four = [
            sums[first],
            sums[first + 1],
            sums[first + 2],
            sums[first + 3],
        ];
        for k in 0..K {
            for row in 0..4 {
                let factor = a[k / width][width * (first + row) + k % width];
                for n in 0..8 {
                    four[row][n] = factor.mul_add(b[k][n], four[row][n]);
                }
            }
        }
        sums[first..][..4].copy_from_slice(&four);
    }
}

/// The bits of a value, with the only NaN that tensor cores give.
#[inline(always)]
fn canonical(value: f32) -> u32 {
    if value.is_nan() {
        NAN32
    } else {
        value.to_bits()
    }
}

fn round_half(value: f32) -> u32 {
    if value.is_nan() {
        0x7fff
    } else {
        u32::from(f16::from_f32(value).to_bits())
    }
}

/// Whether all lanes of all sources were written.
#[inline(always)]
fn initialised(w: &Warp<'_>, i: &Inst) -> bool {
    let mut all = u32::MAX;
    for slot in &i.s[..usize::from(i.ns).min(i.s.len())] {
        all &= w.valid32(*slot);
    }
    all == u32::MAX
}

/// Which lanes of the two destinations (of this block of 8 rows, of `halves`) depend on
/// initialised values only. `parts` is how many registers B has.
#[inline(always)]
pub(super) fn validity(
    w: &Warp<'_>,
    i: &Inst,
    halves: usize,
    parts: usize,
    upper: usize,
) -> [u32; 2] {
    if initialised(w, i) {
        return [u32::MAX; 2];
    }
    partial_validity(halves, parts, upper, usize::from(i.nd), |k| {
        w.valid32(i.s[k])
    })
}

/// The same, if there are lanes that are not.
#[inline(never)]
pub(super) fn partial_validity(
    halves: usize,
    parts: usize,
    upper: usize,
    destinations: usize,
    source: impl Fn(usize) -> u32,
) -> [u32; 2] {
    let mut a = u32::MAX;
    let mut b = u32::MAX;
    for part in 0..parts {
        a &= source(halves * part + upper);
        b &= source(halves * parts + part);
    }
    let whole = |lanes: u32, row: u32| lanes >> (4 * row) & 0xf == 0xf;
    let packed = destinations == halves;
    let first = (halves + 1) * parts + if packed { upper } else { 2 * upper };
    std::array::from_fn(|odd| {
        let c = source(if packed { first } else { first + odd });
        (0..32).fold(0, |valid, lane: u32| {
            let good =
                whole(a, lane / 4) && whole(b, 2 * (lane % 4) + odd as u32) && c >> lane & 1 != 0;
            valid | u32::from(good) << lane
        })
    })
}

/// `m8n8k4` of `f64`: a chain of fused multiply-adds in the order of k.
#[inline(always)]
fn doubles(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let [a, b, even, odd] = [0, 1, 2, 3].map(|k| w.get::<f64>(i.s[k]));
    let mut out = [even, odd];
    for lane in 0..32 {
        for (column, out) in out.iter_mut().enumerate() {
            let (row, n) = (lane / 4, 2 * (lane % 4) + column);
            for k in 0..4 {
                out[lane] = a[4 * row + k].mul_add(b[4 * n + k], out[lane]);
            }
            if out[lane].is_nan() {
                out[lane] = f64::from_bits(soft::F64.nan);
            }
        }
    }
    let source = |k: usize| w.valid::<f64>(i.s[k]);
    let valid = partial_validity(1, 1, 0, 2, source);
    w.put(i.d[0], m, valid[0], out[0]);
    w.put(i.d[1], m, valid[1], out[1]);
    Ok(Flow::Next)
}
