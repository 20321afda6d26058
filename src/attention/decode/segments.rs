//! Segments of keys, of batch-invariant attention, as far as the host counts them.

use super::select::ROWS;
use crate::attention::indices::MOST_KEYS;
use crate::attention::prefill::{PrefillProblem, Window};

/// Keys of a segment: `kSegment` of `cuda/attention/decode_invariant_params.cuh`.
const SEGMENT: usize = 512;

/// Partial results that each of `blocks` has to have room for, if no sequence has more keys: one of
/// the segments of an item from the first on, and as many more as a block may have of an item that
/// another one began.
pub(super) fn places(problem: &PrefillProblem, keys: usize, blocks: usize) -> usize {
    if blocks == 1 {
        return 1;
    }
    let of_sequence = keys.min(MOST_KEYS).div_ceil(SEGMENT).max(1);
    let of_item = seen(problem).map_or(of_sequence, |keys| {
        of_sequence.min(keys.div_ceil(SEGMENT) + 1)
    });
    let group = problem.heads.query / problem.heads.kv;
    let row_blocks = (problem.max_seqlen_q as u128 * group as u128).div_ceil(ROWS);
    let items = problem.batch as u128 * problem.heads.kv as u128 * row_blocks;
    let of_share = (items * of_sequence as u128).div_ceil(blocks as u128);
    // In range: it is at most what an item has.
    1 + (of_item as u128 - 1).min(of_share) as usize
}

/// The most keys from the first to the last that an item's rows see, if a window limits them.
fn seen(problem: &PrefillProblem) -> Option<usize> {
    let Window { left, right } = problem.window;
    let right = if problem.causal { Some(0) } else { right };
    // Its rows are of no more tokens than there are rows.
    Some(left?.saturating_add(right?).saturating_add(ROWS as usize))
}
