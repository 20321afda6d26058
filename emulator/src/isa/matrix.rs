//! Tensor operations: `ldmatrix` and `mma.sync`.
//!
//! A fragment register holds, over the warp, an 8 x 8 tile: lane `4 * row + t` has its elements
//! `2 * t` and `2 * t + 1`. So the 32 words of a register are the tile itself in row-major order,
//! and an operand is a handful of tiles.

use half::f16;

use super::prelude::*;
use crate::ast::Space;
use crate::device::MmaMode;
use crate::memory::access::{Addresses, Words, space};
use crate::tensor;
use crate::violation::Fault;
use crate::{memory::Window, simd};

const LDMATRIX: &str = "Warp Level Matrix Load Instruction: ldmatrix";
const MMA: &str = "Multiply-and-Accumulate Instruction: mma";
const HALVES: Mod = types(&[F16]);
const BRAINS: Mod = types(&[BF16]);
const FLOATS: Mod = types(&[F32]);

/// Modifiers of `mma.sync.aligned.SHAPE.row.col.D.A.B.C`.
macro_rules! mma_mods {
    ($shape:literal, $d:expr, $a:expr, $c:expr) => {
        &[
            need("sync"),
            need("aligned"),
            need($shape),
            need("row"),
            need("col"),
            $d,
            $a,
            $a,
            $c,
        ]
    };
}

/// A row of `mma.sync`: registers of A, B, and of C and D, which hold this type.
macro_rules! mma_row {
    ($shape:literal, $d:expr, $a:expr, $c:expr, $na:literal, $nb:literal, $nc:literal, $ty:expr) => {
        row("mma", MMA, Class::Tensor)
            .mods(mma_mods!($shape, $d, $a, $c))
            .args(&[
                DV(Is($ty), Count::Fixed($nc)),
                SV(Is(B32), Count::Fixed($na)),
                SV(Is(B32), Count::Fixed($nb)),
                SV(Is($ty), Count::Fixed($nc)),
            ])
            .since(80, 7, 0)
            .together(Together::Warp)
            .exec(multiply)
    };
}

pub(super) static ROWS: &[Row] = &[
    row("ldmatrix", LDMATRIX, Class::Shared)
        .mods(&[
            need("sync"),
            need("aligned"),
            need("m8n8"),
            one("num", &["x1", "x2", "x4"]),
            flag("trans"),
            maybe("space", &["shared", "shared::cta"]),
            types(&[B16]),
        ])
        .args(&[DV(Is(B32), Count::Group("num")), A])
        .since(75, 6, 5)
        .together(Together::Warp)
        .exec(load_matrix),
    mma_row!("m16n8k16", FLOATS, HALVES, FLOATS, 4, 2, 4, F32),
    mma_row!("m16n8k16", FLOATS, BRAINS, FLOATS, 4, 2, 4, F32),
    mma_row!("m16n8k16", HALVES, HALVES, HALVES, 4, 2, 2, B32),
    mma_row!("m16n8k8", FLOATS, HALVES, FLOATS, 2, 1, 4, F32),
    mma_row!("m16n8k8", FLOATS, BRAINS, FLOATS, 2, 1, 4, F32),
    mma_row!("m16n8k8", HALVES, HALVES, HALVES, 2, 1, 2, B32),
];

/// What `inst.aux` of an `mma` says.
#[derive(Clone, Copy)]
struct Mma(u64);

impl Mma {
    fn new(k: u64, brain: bool, half_accumulator: bool) -> Mma {
        Mma(k | u64::from(brain) << 8 | u64::from(half_accumulator) << 9)
    }
    fn k(self) -> u64 {
        self.0 & 0xff
    }
    fn brain(self) -> bool {
        self.0 >> 8 & 1 != 0
    }
    fn half_accumulator(self) -> bool {
        self.0 >> 9 & 1 != 0
    }
}

/// Name and floating-point operations of a tensor instruction.
pub(crate) fn describe(inst: &Inst) -> (String, u64) {
    let mma = Mma(inst.aux);
    let input = if mma.brain() { "bf16" } else { "f16" };
    let output = if mma.half_accumulator() { "f16" } else { "f32" };
    let name = format!("m16n8k{}.{output}.{input}.{input}.{output}", mma.k());
    (name, 2 * 16 * 8 * mma.k())
}

fn multiply(f: &mut Form<'_>) -> Option<ExecFn> {
    let deep = f.has("m16n8k16");
    let brain = f.ty(1) == BF16;
    let half_accumulator = f.ty(0) == F16;
    f.aux = Mma::new(if deep { 16 } else { 8 }, brain, half_accumulator).0;
    Some(match (deep, brain, half_accumulator) {
        (true, false, false) => exec!(|w, i, m| mma::<16, 2, 4, false, false>(w, i, m)),
        (true, true, _) => exec!(|w, i, m| mma::<16, 2, 4, true, false>(w, i, m)),
        (true, false, true) => exec!(|w, i, m| mma::<16, 2, 4, false, true>(w, i, m)),
        (false, false, false) => exec!(|w, i, m| mma::<8, 1, 2, false, false>(w, i, m)),
        (false, true, _) => exec!(|w, i, m| mma::<8, 1, 2, true, false>(w, i, m)),
        (false, false, true) => exec!(|w, i, m| mma::<8, 1, 2, false, true>(w, i, m)),
    })
}

/// An 8 x 8 tile, row-major.
type Tile = [f32; 64];

/// The tile in a fragment register.
#[inline(always)]
fn tile<const BRAIN: bool>(words: &[u32; 32]) -> Tile {
    let mut out = [0.0; 64];
    if BRAIN {
        for lane in 0..32 {
            out[2 * lane] = f32::from_bits(words[lane] << 16);
            out[2 * lane + 1] = f32::from_bits(words[lane] & 0xffff_0000);
        }
    } else {
        let mut halves = [0; 64];
        for lane in 0..32 {
            halves[2 * lane] = words[lane] as u16;
            halves[2 * lane + 1] = (words[lane] >> 16) as u16;
        }
        simd::widen_f16(&halves, &mut out);
    }
    out
}

/// D = A * B + C for A of 16 x K and B of K x 8.
#[inline(always)]
fn mma<const K: usize, const DEEP: usize, const NA: usize, const BRAIN: bool, const HALF: bool>(
    w: &mut Warp<'_>,
    i: &Inst,
    m: u32,
) -> Step {
    // B, k-major: row k has the 8 columns.
    let mut b = [[0.0f32; 8]; K];
    for part in 0..DEEP {
        let columns = tile::<BRAIN>(&w.r32(i.s[NA + part]).0);
        for k in 0..8 {
            for n in 0..8 {
                b[8 * part + k][n] = columns[8 * n + k];
            }
        }
    }
    // Rows 0 to 7 and 8 to 15; nothing is written before all is read.
    let mut c: [Tile; 2] = [[0.0; 64]; 2];
    for upper in 0..2 {
        let mut a = [[0.0f32; 64]; DEEP];
        for part in 0..DEEP {
            a[part] = tile::<BRAIN>(&w.r32(i.s[2 * part + upper]).0);
        }
        let c = &mut c[upper];
        let first = NA + DEEP + if HALF { upper } else { 2 * upper };
        if HALF {
            *c = tile::<false>(&w.r32(i.s[first]).0);
        } else {
            let (even, odd) = (&w.r32(i.s[first]).0, &w.r32(i.s[first + 1]).0);
            for lane in 0..32 {
                c[2 * lane] = f32::from_bits(even[lane]);
                c[2 * lane + 1] = f32::from_bits(odd[lane]);
            }
        }
        match w.launch.mma {
            MmaMode::Fast => multiply_tiles(&a, &b, c),
            mode => exact::<K, BRAIN>(mode, &a, &b, c),
        }
    }
    let valid = [0, 1].map(|upper| validity::<DEEP, NA, HALF>(w, i, upper));
    for upper in 0..2 {
        let (c, valid) = (&c[upper], valid[upper]);
        if HALF {
            let mut out = [0; 32];
            for lane in 0..32 {
                out[lane] = round_half(c[2 * lane]) | round_half(c[2 * lane + 1]) << 16;
            }
            w.set32(i.d[upper], m, valid[0] & valid[1], &out);
        } else {
            let (mut even, mut odd) = ([0; 32], [0; 32]);
            for lane in 0..32 {
                even[lane] = c[2 * lane].to_bits();
                odd[lane] = c[2 * lane + 1].to_bits();
            }
            w.set32(i.d[2 * upper], m, valid[0], &even);
            w.set32(i.d[2 * upper + 1], m, valid[1], &odd);
        }
    }
    Ok(Flow::Next)
}

/// Adds the product of tiles of A with B, in the order of k, each step rounded once.
#[inline(always)]
fn multiply_tiles<const K: usize>(a: &[Tile], b: &[[f32; 8]; K], c: &mut Tile) {
    for rows in 0..2 {
        let mut sums = [[0.0f32; 8]; 4];
        for row in 0..4 {
            sums[row].copy_from_slice(&c[8 * (4 * rows + row)..][..8]);
        }
        for k in 0..K {
            for row in 0..4 {
                let factor = a[k / 8][8 * (4 * rows + row) + k % 8];
                for n in 0..8 {
                    sums[row][n] = factor.mul_add(b[k][n], sums[row][n]);
                }
            }
        }
        for row in 0..4 {
            c[8 * (4 * rows + row)..][..8].copy_from_slice(&sums[row]);
        }
    }
}

fn round_half(value: f32) -> u32 {
    if value.is_nan() {
        0x7fff
    } else {
        u32::from(f16::from_f32(value).to_bits())
    }
}

/// As the tensor cores of a generation add up.
#[inline(never)]
fn exact<const K: usize, const BRAIN: bool>(
    mode: MmaMode,
    a: &[[f32; 64]],
    b: &[[f32; 8]; K],
    c: &mut Tile,
) {
    let (bits, block) = if mode == MmaMode::Ampere {
        (24, 8)
    } else {
        (25, 16)
    };
    for row in 0..8 {
        for n in 0..8 {
            let mut sum = c[8 * row + n];
            for first in (0..K).step_by(block) {
                let pairs =
                    (first..(first + block).min(K)).map(|k| (a[k / 8][8 * row + k % 8], b[k][n]));
                let least = if BRAIN { -126 } else { -14 };
                sum = tensor::fused_sum(pairs, sum, bits, least);
            }
            c[8 * row + n] = sum;
        }
    }
}

/// Which lanes of the two destinations (of this half of the rows) depend on initialised values only.
#[inline(always)]
fn validity<const DEEP: usize, const NA: usize, const HALF: bool>(
    w: &Warp<'_>,
    i: &Inst,
    upper: usize,
) -> [u32; 2] {
    let count = NA + DEEP + if HALF { 2 } else { 4 };
    let all =
        i.s.iter()
            .take(count)
            .fold(u32::MAX, |all, slot| all & w.valid32(*slot));
    if all == u32::MAX {
        return [u32::MAX; 2];
    }
    let mut a = u32::MAX;
    let mut b = u32::MAX;
    for part in 0..DEEP {
        a &= w.valid32(i.s[2 * part + upper]);
        b &= w.valid32(i.s[NA + part]);
    }
    let whole = |lanes: u32, row: u32| lanes >> (4 * row) & 0xf == 0xf;
    let first = NA + DEEP + if HALF { upper } else { 2 * upper };
    std::array::from_fn(|odd| {
        let c = w.valid32(i.s[if HALF { first } else { first + odd }]);
        (0..32).fold(0, |valid, lane: u32| {
            let good =
                whole(a, lane / 4) && whole(b, 2 * (lane % 4) + odd as u32) && c >> lane & 1 != 0;
            valid | u32::from(good) << lane
        })
    })
}

fn load_matrix(f: &mut Form<'_>) -> Option<ExecFn> {
    let count = match f.one("num")? {
        "x1" => 1,
        "x2" => 2,
        _ => 4,
    };
    let wide = u64::from(f.src_bits.first() == Some(&64));
    let generic = u64::from(f.one("space").is_none() && f.base != Some(Space::Shared));
    f.aux = count | wide << 8 | generic << 9;
    Some(if f.has("trans") {
        exec!(|w, i, m| matrices::<true>(w, i, m))
    } else {
        exec!(|w, i, m| matrices::<false>(w, i, m))
    })
}

#[inline(always)]
fn matrices<const TRANSPOSE: bool>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let count = (i.aux & 0xff) as usize;
    let rows = u32::MAX >> (32 - 8 * count as u32).min(31);
    let mut addresses = w.addresses(i, 0, 0, i.aux >> 8 & 1 != 0, rows)?;
    if i.aux >> 9 & 1 != 0 {
        addresses = shared_addresses(w, &addresses, rows)?;
    }
    let got: Words<4> = w.load::<4, { space::SHARED }>(&addresses, rows, 16)?;
    for matrix in 0..count.min(4) {
        let row = |row: usize| 8 * matrix + row;
        let mut out = [0; 32];
        let mut valid = u32::MAX;
        if TRANSPOSE {
            for lane in 0..32 {
                let (word, shift) = (lane / 8, lane / 4 % 2 * 16);
                let low = got.words[row(2 * (lane % 4))][word] >> shift & 0xffff;
                let high = got.words[row(2 * (lane % 4) + 1)][word] >> shift & 0xffff;
                out[lane] = low | high << 16;
            }
        } else {
            for lane in 0..32 {
                out[lane] = got.words[row(lane / 4)][lane % 4];
            }
        }
        if got.valid.iter().any(|valid| valid & rows != rows) {
            valid = (0..32).fold(0, |valid, lane| {
                let bit = |word: usize, row: usize| got.valid[word] >> row & 1;
                let good = if TRANSPOSE {
                    bit(lane / 8, row(2 * (lane % 4))) & bit(lane / 8, row(2 * (lane % 4) + 1))
                } else {
                    bit(lane % 4, row(lane / 4))
                };
                valid | good << lane
            });
        }
        w.set32(i.d[matrix], m, valid, &out);
    }
    Ok(Flow::Next)
}

/// Generic addresses that have to lie in shared memory.
fn shared_addresses(
    w: &Warp<'_>,
    addresses: &Addresses,
    mask: u32,
) -> Result<Addresses, Box<Fault>> {
    let wrong = (0..32)
        .find(|lane| mask >> lane & 1 != 0 && Window::of(addresses.at[*lane]) != Window::Shared);
    if let Some(lane) = wrong {
        let kind = Kind::WrongSpace {
            expected: crate::violation::Space::Shared,
        };
        return Err(w.fault_at(kind, 1 << lane, addresses.at[lane]));
    }
    Ok(Addresses::new(
        addresses.at.map(|address| address & 0xffff_ffff),
        mask,
    ))
}
