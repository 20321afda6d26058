//! Which tile, and how many splits of K.

use std::fmt;

use super::GemmProblem;
use crate::catalog::Entry;
use crate::device::Limits;

/// A tile and a split, and what speaks for them. A model, not a measurement.
#[derive(Clone, Copy, Debug)]
pub struct TileChoice {
    pub(crate) entry: &'static Entry,
    /// Rows and columns of `y` that a block computes.
    pub tile: [usize; 2],
    /// Ranges of K, each summed by blocks of its own.
    pub splits: usize,
    /// Blocks of the launch.
    pub blocks: u64,
    /// Blocks that the device holds at once, as far as shared memory goes.
    pub resident: u64,
    /// The cost that was minimised: bytes of operands that the busiest multiprocessor takes in, or
    /// their equivalent in tensor operations where these take longer.
    pub cost: u128,
}

impl fmt::Display for TileChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n] = self.tile;
        write!(
            f,
            "{m} by {n} tiles, K in {} range{}: {} blocks, of which the device holds {}",
            self.splits,
            if self.splits == 1 { "" } else { "s" },
            self.blocks,
            self.resident
        )
    }
}

/// Multiply-adds that a multiprocessor of an A100 does in the time in which it takes in one byte
/// from the L2 cache: 1024 against 64 per cycle.
const WORK_PER_BYTE: u128 = 16;
/// A byte from memory takes as long as so many from the L2 cache.
const MEMORY: u128 = 4;
/// One part in so many of the shorter of the two does not hide behind the longer.
const UNHIDDEN: u128 = 4;
/// A range of K is no shorter than this: each costs a pass of f32 sums through memory.
const LEAST_RANGE: usize = 512;

/// What weights cost besides being multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    /// Bits of each, as stored.
    pub bits: usize,
    /// Turning one into an operand takes as long as multiplying it with so many rows of `x`.
    pub rows: usize,
}

/// Operands as they are.
pub(super) const DENSE: Weights = Weights { bits: 16, rows: 0 };

/// The cheapest choice. The busiest multiprocessor works through `waves` rounds of blocks; each of
/// a round's blocks takes in its operands and multiplies them, mostly at the same time. Splits add
/// the writing and reading of their sums. `None` without candidates.
pub(crate) fn choose(
    problem: &GemmProblem,
    candidates: &[&'static Entry],
    weights: Weights,
    limits: Limits,
) -> Option<TileChoice> {
    let options = candidates.iter().flat_map(|&entry| {
        let most = match (problem.batch_invariant, problem.splits) {
            (true, _) => 1..=1,
            (_, Some(splits)) => splits..=splits,
            _ => 1..=(problem.k / LEAST_RANGE).clamp(1, 16),
        };
        most.map(move |splits| cost(problem, entry, splits, weights, limits))
    });
    // The first of equals, which has the fewest splits.
    options.min_by_key(|choice| choice.cost)
}

fn cost(
    problem: &GemmProblem,
    entry: &'static Entry,
    splits: usize,
    weights: Weights,
    limits: Limits,
) -> TileChoice {
    let (tile_m, tile_n) = (entry.tile_q as usize, entry.tile_k as usize);
    let columns = if problem.gated { tile_n / 2 } else { tile_n };
    let tiles = problem.max_m.div_ceil(tile_m) as u64 * problem.n.div_ceil(columns) as u64;
    let blocks = tiles * splits as u64;
    let multiprocessors = limits.multiprocessors.max(1);
    let per_multiprocessor =
        (limits.shared_per_multiprocessor / entry.smem_bytes.max(1)).clamp(1, 2);
    // In 128 bits, which no shape overflows.
    let [m, n, k] = [problem.max_m, problem.n, problem.k].map(|size| size as u128);
    let parts = problem.parts() as u128;
    let each = u128::from(multiprocessors);
    // Blocks that share a multiprocessor share its time: a round is one block for each of them.
    let rounds = u128::from(blocks).div_ceil(each);
    let depth = k.div_ceil(splits as u128).max(1);
    let bytes = (tile_m * 16 + tile_n * weights.bits) as u128 * depth / 8;
    let work = ((tile_m + weights.rows) * tile_n) as u128 * depth / WORK_PER_BYTE;
    // The slow entry reads an element at a time.
    let slow = if entry.variant == "any" { 8 } else { 1 };
    let products = rounds * (bytes.max(work) + bytes.min(work) / UNHIDDEN) * slow;
    // No choice is faster than memory.
    let weights = parts * n * k * weights.bits as u128 / 8 / each * MEMORY;
    let sums = match splits {
        1 => 0,
        // Written once and read once, by all multiprocessors together, and one launch more.
        _ => 8 * m * n * parts * splits as u128 / each * MEMORY + 65_536,
    };
    TileChoice {
        entry,
        tile: [tile_m, columns],
        splits,
        blocks,
        resident: u64::from(per_multiprocessor * multiprocessors),
        cost: products.max(weights) + sums,
    }
}
