//! `ldmatrix`: matrices from shared memory, in the layout that `mma` wants (see `mma.rs`).

use super::prelude::*;
use crate::ast::Space;
use crate::memory::Window;
use crate::memory::access::{Addresses, Words};
use crate::violation::{Access, Fault};

pub(crate) use super::mma::describe;

const LDMATRIX: &str = "Warp Level Matrix Load Instruction: ldmatrix";
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
    row(
        "movmatrix",
        "Warp-level Matrix Transpose Instruction: movmatrix",
        Class::Warp,
    )
    .mods(&[
        need("sync"),
        need("aligned"),
        need("m8n8"),
        need("trans"),
        types(&[B16]),
    ])
    .args(&[D(Is(B32)), S(Is(B32))])
    .since(75, 7, 8)
    .together(Together::Warp)
    .exec(|_| Some(exec!(cold | w, i, m | transpose(w, i, m)))),
];

/// Element (row, column) of the matrix of halves in a register goes to (column, row).
fn transpose(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (words, seen) = (w.get::<u32>(i.s[0]), w.valid::<u32>(i.s[0]));
    let half = |row: usize, column: usize| {
        let lane = 4 * row + column / 2;
        (
            words[lane] >> (16 * (column % 2)) & 0xffff,
            seen >> lane & 1,
        )
    };
    let (mut out, mut valid) = ([0; 32], 0);
    for lane in 0..32 {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        let (low, high) = (half(column, row), half(column + 1, row));
        out[lane] = low.0 | high.0 << 16;
        valid |= (low.1 & high.1) << lane;
    }
    w.put(i.d[0], m, valid, out);
    Ok(Flow::Next)
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
    let (mut offsets, mut got) = ([0; 32], Words::<4>::EMPTY);
    let wide = i.aux >> 8 & 1 != 0;
    if i.aux >> 9 & 1 != 0 {
        offsets = generic_offsets(w, i, wide, rows)?;
    } else {
        w.shared_offsets(i, wide, Access::Read, (rows, 16), &mut offsets)?;
    }
    w.read_shared(&offsets, rows, 16, &mut got)?;
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
            out.copy_from_slice(got.words[row(0)..row(8)].as_flattened());
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

/// Offsets of generic addresses.
#[inline(never)]
fn generic_offsets(w: &Warp<'_>, i: &Inst, wide: bool, mask: u32) -> Result<[u32; 32], Box<Fault>> {
    let addresses = shared_addresses(w, &w.addresses(i, 0, 0, wide, mask)?, mask)?;
    w.checked_offsets(Access::Read, &addresses, (mask, 16))
}

/// Generic addresses that have to lie in shared memory.
pub(super) fn shared_addresses(
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
