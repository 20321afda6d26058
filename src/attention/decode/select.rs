//! Which entries compute a problem.

use super::{DecodeError, DecodeProblem};
use crate::attention::prefill::{KvLayout, PrefillProblem, Selection, has_options};
use crate::catalog::{self, Entry};
use crate::kv::Format;

/// A supported problem's kernels and derived constants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub entry: &'static Entry,
    /// What adds up the splits.
    pub merge: &'static Entry,
    /// Constants; its entry is prefill's.
    pub constants: Selection,
}

/// The largest first dimension of a grid that partial results are counted for.
pub(super) const MAX_BLOCKS: usize = 1 << 20;
/// Rows of a sequence are counted in 32 bits, chunks of keys of all row blocks in 64.
const MAX_ROW_BLOCKS: u128 = 1 << 26;
/// Rows of an item.
pub(super) const ROWS: u128 = 16;

pub(super) fn select(problem: &DecodeProblem) -> Result<Choice, DecodeError> {
    let attention = problem.attention();
    let quantised = problem.cache_format() != Format::Same;
    let kernel = match problem.invariant_keys() {
        None => "decode",
        Some(_) => "decode_invariant",
    };
    let of_dtype = |entry: &&Entry| entry.dtype == attention.dtype.name();
    let merge = entries(kernel).find(|entry| entry.variant == "merge" && of_dtype(entry));
    let Some(merge) = merge else {
        let mut expected: Vec<&str> = entries(kernel).map(|entry| entry.dtype).collect();
        expected.sort_unstable();
        expected.dedup();
        return Err(DecodeError::UnsupportedDtype {
            expected,
            got: attention.dtype,
        });
    };
    if attention.kv == KvLayout::Ragged {
        return Err(DecodeError::Ragged);
    }
    let entry = match quantised {
        false => entry(kernel, attention)?,
        true if problem.invariant_keys().is_some() => {
            let got = problem.cache_format().name();
            return Err(DecodeError::InvariantCache { got });
        }
        true => quantised_entry(attention, problem.cache_format())?,
    };
    let constants = attention.select()?;
    if let Some(got) = problem.wanted_blocks()
        && !(1..=MAX_BLOCKS).contains(&got)
    {
        let expected = MAX_BLOCKS;
        return Err(DecodeError::Blocks { expected, got });
    }
    let rows = attention.max_seqlen_q as u128 * attention.heads.query as u128;
    let got = (rows.div_ceil(ROWS) + attention.heads.kv as u128) * attention.batch as u128;
    if got > MAX_ROW_BLOCKS {
        let expected = MAX_ROW_BLOCKS;
        return Err(DecodeError::RowBlocks { expected, got });
    }
    Ok(Choice {
        entry,
        merge,
        constants,
    })
}

fn entries(kernel: &str) -> impl Iterator<Item = &'static Entry> {
    catalog::ENTRIES
        .iter()
        .filter(move |entry| entry.kernel == kernel)
}

/// The smallest entry that has what the problem needs: without options exactly its head dimension,
/// or with all of them and any multiples of 8 up to its own.
fn entry(kernel: &str, problem: &PrefillProblem) -> Result<&'static Entry, DecodeError> {
    let dims = (problem.heads.dim, problem.v_dim);
    let candidates = || {
        entries(kernel)
            .filter(|entry| entry.variant != "merge" && entry.dtype == problem.dtype.name())
            .filter(|entry| entry.variant == "full" || !has_options(problem))
    };
    candidates()
        .filter(|entry| match entry.variant {
            "full" => fits(dims, 8, most(entry)),
            _ => dims == most(entry),
        })
        .min_by_key(|entry| (entry.variant == "full", entry.head_dim))
        .ok_or_else(|| DecodeError::UnsupportedHeadDim {
            unit: 8,
            expected: candidates().map(most).max().unwrap_or_default(),
            got: dims,
        })
}

/// Elements of 16 bytes of a cache in 8 bits.
const QUANTISED_UNIT: usize = 16;

/// The smallest entry for caches of this format that has room for the head dimensions. All of them
/// have every option and either type of queries.
fn quantised_entry(
    problem: &PrefillProblem,
    format: Format,
) -> Result<&'static Entry, DecodeError> {
    let dims = (problem.heads.dim, problem.v_dim);
    let candidates = || entries("decode_quantised").filter(|entry| entry.dtype == format.name());
    candidates()
        .filter(|entry| fits(dims, QUANTISED_UNIT, most(entry)))
        .min_by_key(|entry| entry.head_dim)
        .ok_or_else(|| DecodeError::UnsupportedHeadDim {
            unit: QUANTISED_UNIT,
            expected: candidates().map(most).max().unwrap_or_default(),
            got: dims,
        })
}

/// The head dimensions of keys and of values that the entry has room for.
fn most(entry: &Entry) -> (usize, usize) {
    (entry.head_dim as usize, entry.v_dim as usize)
}

fn fits(dims: (usize, usize), unit: usize, most: (usize, usize)) -> bool {
    let fits = |dim: usize, most: usize| dim > 0 && dim.is_multiple_of(unit) && dim <= most;
    fits(dims.0, most.0) && fits(dims.1, most.1)
}
