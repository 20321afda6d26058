//! How the blocks of a streaming kernel share the weights.

use super::layout::DEPTH;
use crate::catalog::Entry;
use crate::device::Limits;
use crate::device::launch::LaunchShape;
use crate::gemm::{GemmProblem, TileChoice};

/// The most rows of `x` of a streaming kernel's tile.
const MOST_ROWS: u32 = 16;
/// Tiles of 64 columns that a block has at least, where it shares a strip with others.
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

/// What streaming weights costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed {
    /// Rows of a tile: shares are cut between tiles.
    pub depth: usize,
    /// Bytes of a tile, which has 64 columns, with scales and the like.
    pub tile_bytes: usize,
}

/// The weights as streaming kernels see them: strips of columns, cut into tiles.
struct Strips {
    strips: usize,
    /// Of each strip.
    tiles: usize,
    /// Of each tile.
    bytes: usize,
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
    fn of(product: &GemmProblem, strips: &Strips, resident: usize) -> Shares {
        let tile = strips.bytes;
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

/// The choice for an entry, whose tiles are so deep and cost so much.
pub(crate) fn choose(
    product: &GemmProblem,
    entry: &'static Entry,
    weights: Streamed,
    limits: Limits,
) -> TileChoice {
    let columns = entry.tile_k as usize / if product.gated { 2 } else { 1 };
    let strips = Strips {
        strips: product.n.div_ceil(columns),
        tiles: product.k.div_ceil(weights.depth),
        bytes: weights.tile_bytes,
    };
    let multiprocessors = limits.multiprocessors.max(1) as usize;
    let resident = multiprocessors * RESIDENT;
    let shares = Shares::of(product, &strips, resident);
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

/// The launch of a streaming kernel for so many rows, at most the planned ones, of which there are
/// blocks within the limit of a grid.
pub(crate) fn shape(product: &GemmProblem, choice: &TileChoice, m: usize) -> LaunchShape {
    let entry = choice.entry;
    let tiles_m = |m: usize| m.div_ceil(entry.tile_q as usize) as u64;
    let shares = choice.blocks / tiles_m(product.max_m).max(1);
    LaunchShape {
        grid: [(tiles_m(m) * shares) as u32, 1, 1],
        threads: entry.threads,
        shared_bytes: entry.smem_bytes,
    }
}
