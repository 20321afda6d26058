//! How the blocks of a streaming kernel share the weights.

use super::Int4Problem;
use super::layout::DEPTH;
use crate::catalog::Entry;
use crate::device::Limits;
use crate::gemm::TileChoice;

/// The most rows of `x` of a streaming kernel's tile.
const MOST_ROWS: u32 = 16;
/// Tiles of 64 rows by 64 columns that a block has at least, where it shares a strip with others.
const LEAST_SHARE: usize = 8;
/// Blocks for each multiprocessor: one reads while the other adds up.
const RESIDENT: usize = 2;
/// Bytes that a multiprocessor of an A100 takes in from memory while a launch more takes its time.
const LAUNCH: usize = 48 << 10;

/// Whether an entry's kernel is `cuda/int4/stream.cuh`.
pub(super) fn is_streaming(entry: &Entry) -> bool {
    entry.tile_q <= MOST_ROWS
}

/// Whether streaming kernels have groups of so many rows, of `k`.
pub(super) fn has_group(group: usize, k: usize) -> bool {
    group == 32 || group >= k || group.is_multiple_of(DEPTH) && (group / DEPTH).is_power_of_two()
}

/// The weights as streaming kernels see them: strips of columns, cut into tiles.
struct Strips {
    strips: usize,
    /// Of each strip.
    tiles: usize,
}

impl Strips {
    /// Into how many ranges K falls at most, where so many blocks share all tiles evenly.
    fn ranges(&self, shares: usize) -> usize {
        match shares.is_multiple_of(self.strips) {
            true => shares / self.strips,
            // Both ends of a strip in blocks that it shares with others, and whole blocks between.
            false => (self.tiles - 2) / (self.strips * self.tiles / shares) + 2,
        }
    }
}

/// How many blocks share the weights, and into how many ranges K falls at most.
struct Shares {
    blocks: usize,
    ranges: usize,
    /// What the busiest block costs, as bytes that it takes in.
    cost: usize,
}

impl Shares {
    /// Depends on the weights and the device, not on the number of rows.
    fn of(problem: &Int4Problem, strips: &Strips, bits: usize, resident: usize) -> Shares {
        let product = &problem.product;
        let tile = DEPTH * DEPTH * bits / 8;
        let strip = strips.tiles * tile;
        let whole = Shares {
            blocks: strips.strips,
            ranges: 1,
            cost: strips.strips.div_ceil(resident) * strip,
        };
        if product.batch_invariant || strips.strips == 0 || strips.tiles < 2 {
            return whole;
        }
        if let Some(ranges) = product.splits {
            let blocks = strips.strips * ranges;
            return Shares {
                blocks,
                ranges,
                cost: blocks.div_ceil(resident) * strip / ranges,
            };
        }
        let all = strips.strips * strips.tiles;
        let blocks = resident.min(all / LEAST_SHARE).max(1);
        let ranges = strips.ranges(blocks);
        // Written once and read once.
        let parts = if product.gated { 2 } else { 1 };
        let sums = 8 * MOST_ROWS as usize * product.n * parts * ranges / resident;
        let even = Shares {
            blocks,
            ranges,
            cost: all.div_ceil(blocks) * tile + sums + LAUNCH / RESIDENT,
        };
        if whole.cost <= even.cost { whole } else { even }
    }
}

/// The choice for an entry, with weights of so many bits.
pub(super) fn choose(
    problem: &Int4Problem,
    entry: &'static Entry,
    bits: usize,
    limits: Limits,
) -> TileChoice {
    let product = &problem.product;
    let columns = entry.tile_k as usize / if product.gated { 2 } else { 1 };
    let strips = Strips {
        strips: product.n.div_ceil(columns),
        tiles: product.k.div_ceil(DEPTH),
    };
    let multiprocessors = limits.multiprocessors.max(1) as usize;
    let resident = multiprocessors * RESIDENT;
    let shares = Shares::of(problem, &strips, bits, resident);
    let tiles_m = product.max_m.div_ceil(entry.tile_q as usize);
    TileChoice {
        entry,
        tile: [entry.tile_q as usize, columns],
        splits: shares.ranges,
        blocks: tiles_m as u64 * shares.blocks as u64,
        resident: resident as u64,
        cost: (shares.cost * RESIDENT) as u128,
    }
}
