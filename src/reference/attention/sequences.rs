//! The sequences of a batch, by the rules that the kernels apply to numbers they cannot trust.

use std::ops::Range;

use super::visibility::sees;
use super::{HostKv, HostMask, HostPages, InPages, PrefillInputs};
use crate::attention::prefill::{KvLayout, PrefillProblem};
use crate::status::{Offence, StatusReport};

/// A sequence that is computed.
pub(super) struct Sequence {
    index: usize,
    /// Its rows of `q`.
    pub queries: Range<usize>,
    /// Where each of its keys lies; `None` if it is absent.
    pub keys: Vec<Option<Place>>,
}

/// Where a key and its value lie: row of a ragged tensor and 0, or page and row of the page.
pub(super) type Place = [usize; 2];

impl Sequence {
    /// The key that query `i` is aligned with.
    pub fn position(&self, i: usize) -> i64 {
        i as i64 + self.keys.len() as i64 - self.queries.len() as i64
    }

    /// The keys that query `i` attends to, in order.
    pub fn seen(
        &self,
        problem: &PrefillProblem,
        mask: Option<HostMask<'_>>,
        i: usize,
    ) -> Vec<usize> {
        let lengths = [self.queries.len(), self.keys.len()];
        let first_bit = mask.map_or(0, |mask| 8 * mask.offsets[self.index].max(0) as usize);
        let unmasked = |j: usize| {
            let bit = first_bit + i * lengths[1] + j;
            mask.is_none_or(|mask| mask.bits[bit / 8] >> (bit % 8) & 1 == 1)
        };
        (0..lengths[1])
            .filter(|&j| self.keys[j].is_some() && sees(problem, lengths, i, j) && unmasked(j))
            .collect()
    }
}

/// The largest number of keys of a sequence of pages.
const MOST_KEYS: usize = 1 << 30;

/// The sequences that are computed, and what the kernel reports about all.
pub(super) fn sequences<T: Copy>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
) -> (Vec<Sequence>, StatusReport) {
    let rows_q = inputs.q.shape()[0];
    let mut sequences = Vec::new();
    let mut status = StatusReport::default();
    if problem.max_seqlen_q == 0 {
        return (sequences, status); // Nothing is launched, and nobody looks.
    }
    // A sequence must not begin before any earlier offset, nor if the first one is negative.
    let mut floor = 0;
    let mut poisoned = false;
    for (index, pair) in inputs.offsets_q.windows(2).enumerate() {
        let queries = range(pair, rows_q)
            .filter(|queries| !poisoned && queries.start >= floor)
            .filter(|queries| {
                let fits = queries.len() <= problem.max_seqlen_q;
                if !fits {
                    status.record(Offence::SeqLenTooLong, index as u64);
                }
                fits
            });
        let bad_queries = range(pair, rows_q).is_none_or(|queries| queries.start < floor);
        if bad_queries || poisoned {
            status.record(Offence::SeqLensQ, index as u64);
        }
        let keys = keys(problem, inputs, index, queries.as_ref(), &mut status);
        if let Some(queries) = queries {
            sequences.push(Sequence {
                index,
                queries,
                keys,
            });
        }
        floor = floor.max(pair[0].max(0) as usize);
        poisoned |= index == 0 && pair[0] < 0;
    }
    (sequences, status)
}

/// The range between two offsets, if it is one, within `rows` rows.
fn range(pair: &[i32], rows: usize) -> Option<Range<usize>> {
    let (start, end) = (
        usize::try_from(pair[0]).ok()?,
        usize::try_from(pair[1]).ok()?,
    );
    (start <= end && end <= rows).then_some(start..end)
}

/// The keys of a sequence. `queries`: those that are computed.
fn keys<T: Copy>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
    index: usize,
    queries: Option<&Range<usize>>,
    status: &mut StatusReport,
) -> Vec<Option<Place>> {
    let queries = queries.map_or(0, Range::len);
    let mut bad_page = false;
    let keys: Vec<Option<Place>> = match (inputs.kv, inputs.kv.in_pages()) {
        (HostKv::Ragged { k, offsets, .. }, _) => {
            match range(&offsets[index..index + 2], k.shape()[0]) {
                Some(rows) => rows.map(|row| Some([row, 0])).collect(),
                None => {
                    status.record(Offence::SeqLensK, index as u64);
                    Vec::new()
                }
            }
        }
        (_, None) => Vec::new(),
        (_, Some(found)) => {
            let (keys, bad) = in_pages(problem, &found, index, queries, status);
            bad_page = bad;
            keys
        }
    };
    let bits_suffice = |mask: HostMask<'_>| {
        range(&mask.offsets[index..index + 2], mask.bits.len())
            .is_some_and(|bytes| 8 * bytes.len() as u128 >= queries as u128 * keys.len() as u128)
    };
    if !inputs.mask.is_none_or(bits_suffice) {
        status.record(Offence::Mask, index as u64);
        return Vec::new(); // Nobody looks at their pages.
    }
    if bad_page {
        status.record(Offence::PageId, index as u64);
    }
    keys
}

/// The keys of a sequence of pages, and whether a page that some query needs has a bad id.
fn in_pages(
    problem: &PrefillProblem,
    found: &InPages<'_>,
    index: usize,
    queries: usize,
    status: &mut StatusReport,
) -> (Vec<Option<Place>>, bool) {
    let InPages { pages, seqlens, .. } = *found;
    let (pool, seqlen) = (found.shapes[0][0], seqlens[index]);
    let KvLayout::Paged { page_size } = problem.kv else {
        return (Vec::new(), false);
    };
    let entries = match pages {
        HostPages::Rows(table) => table.shape()[1],
        HostPages::Csr { pages, .. } => pages.len(),
    };
    let most = entries.saturating_mul(page_size).min(MOST_KEYS);
    let Some(keys) = usize::try_from(seqlen).ok().filter(|&keys| keys <= most) else {
        status.record(Offence::SeqLensK, index as u64);
        return (Vec::new(), false);
    };
    let own: Vec<u32> = match pages {
        HostPages::Rows(table) => (0..entries)
            .filter_map(|entry| table.get([index, entry]))
            .collect(),
        HostPages::Csr { indptr, pages } => {
            let own = range(&indptr[index..index + 2], entries);
            if own.is_none() {
                status.record(Offence::PageRange, index as u64);
            }
            own.map_or(Vec::new(), |own| pages[own].to_vec())
        }
    };
    if own.len() < keys.div_ceil(page_size) {
        status.record(Offence::PageRange, index as u64);
    }
    let needed = |j: usize| (0..queries).any(|i| sees(problem, [queries, keys], i, j));
    let mut bad_page = false;
    let place = |j: usize| {
        let page = *own.get(j / page_size)? as usize;
        bad_page |= page >= pool && needed(j);
        (page < pool).then_some([page, j % page_size])
    };
    ((0..keys).map(place).collect(), bad_page)
}
