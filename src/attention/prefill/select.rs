//! Which entry computes a problem.

use super::{HeadShape, KvLayout, PrefillError, PrefillParams, PrefillProblem, SoftCap, Window};
use crate::catalog::{self, Entry};

/// A supported problem's kernel and derived constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub entry: &'static Entry,
    pub scale_log2: f32,
    /// The window without the sides that exclude nothing.
    pub window: Window,
}

impl Selection {
    /// The kernel's parameters without operands.
    pub fn params(&self, problem: &PrefillProblem) -> PrefillParams {
        let side = |keys: Option<usize>| keys.map_or(-1, |keys| keys as i32);
        let Window { left, right } = self.window;
        let page_size = match problem.kv {
            KvLayout::Ragged => 1,
            KvLayout::Paged { page_size } => page_size,
        };
        // Sizes are in range by the limits that `select` checked.
        let params = PrefillParams {
            batch: problem.batch as i32,
            num_heads: problem.heads.query as i32,
            num_kv_heads: problem.heads.kv as i32,
            max_seqlen_q: problem.max_seqlen_q as i32,
            causal: i32::from(problem.causal),
            scale_log2: self.scale_log2,
            page_size: page_size as i32,
            page_reciprocal: u32::MAX / page_size as u32,
            head_dim: problem.heads.dim as i32,
            v_dim: problem.v_dim as i32,
            window_left: side(left),
            window_right: side(right),
            ..PrefillParams::default()
        };
        match problem.softcap {
            None => params,
            Some(softcap) => PrefillParams {
                scale_log2: softcap.cap() * std::f32::consts::LOG2_E,
                softcap_scale: problem.scale / softcap.cap(),
                exact_softcap: i32::from(matches!(softcap, SoftCap::Exact(_))),
                ..params
            },
        }
    }

    /// What is computed beside plain attention, in words.
    pub fn options(&self, problem: &PrefillProblem) -> impl Iterator<Item = String> {
        let (dim, v_dim) = (problem.heads.dim, problem.v_dim);
        let flag = |wanted: bool, name: &str| wanted.then(|| name.to_owned());
        let values = (v_dim != dim).then(|| format!("values of {v_dim} elements"));
        let window = (self.window != Window::ALL).then(|| self.window.to_string());
        [
            values,
            window,
            problem.softcap.map(|softcap| softcap.to_string()),
            flag(problem.alibi, "ALiBi"),
            flag(problem.sinks, "sinks"),
            flag(problem.mask, "masks"),
            flag(problem.lse, "with log-sum-exp"),
        ]
        .into_iter()
        .flatten()
    }
}

/// The largest second and third dimension of a grid.
const MAX_GRID_YZ: usize = 65_535;

/// Head dimensions are multiples of this many elements: 16 bytes.
const DIM_UNIT: usize = 8;

pub(super) fn select(problem: &PrefillProblem) -> Result<Selection, PrefillError> {
    let HeadShape { query, kv, .. } = problem.heads;
    let mut dtypes: Vec<&str> = entries().map(|entry| entry.dtype).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    if !dtypes.contains(&problem.dtype.name()) {
        return Err(PrefillError::UnsupportedDtype {
            expected: dtypes,
            got: problem.dtype,
        });
    }
    if kv == 0 || query == 0 || !query.is_multiple_of(kv) {
        return Err(PrefillError::Heads { got: problem.heads });
    }
    let positive = |x: f32| x > 0.0 && x.is_finite();
    let scale_log2 = problem.scale * std::f32::consts::LOG2_E;
    if !positive(problem.scale) || !positive(scale_log2) {
        return Err(PrefillError::Scale { got: problem.scale });
    }
    if let Some(softcap) = problem.softcap {
        let cap = softcap.cap();
        if !positive(cap * std::f32::consts::LOG2_E) || !positive(problem.scale / cap) {
            return Err(PrefillError::SoftCap { got: cap });
        }
    }
    if let KvLayout::Paged { page_size } = problem.kv {
        if page_size == 0 {
            let (expected, got) = (1, page_size);
            return Err(PrefillError::PageSize { expected, got });
        }
        limit("keys on a page", page_size, i32::MAX as usize)?;
    }
    limit("query heads", query, MAX_GRID_YZ)?;
    limit("sequences", problem.batch, MAX_GRID_YZ)?;
    limit(
        "queries per sequence",
        problem.max_seqlen_q,
        i32::MAX as usize,
    )?;
    Ok(Selection {
        entry: entry(problem)?,
        scale_log2,
        window: window(problem),
    })
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    catalog::ENTRIES
        .iter()
        .filter(|entry| entry.kernel == "prefill")
}

/// The window without the sides that exclude nothing: keys lie at most `max_seqlen_q - 1` behind a
/// query's position, and none of these is seen by causal attention anyway.
fn window(problem: &PrefillProblem) -> Window {
    let reach = problem.max_seqlen_q.saturating_sub(1);
    let Window { left, right } = problem.window;
    Window {
        left: left.filter(|&left| left < i32::MAX as usize),
        right: right.filter(|&right| right < reach && !problem.causal),
    }
}

/// Whether only the entries with every option will do.
pub(in crate::attention) fn has_options(problem: &PrefillProblem) -> bool {
    let values = problem.alibi || problem.sinks || problem.mask;
    values || problem.softcap.is_some() || window(problem) != Window::ALL
}

/// The entry that has what the problem needs and as little else as there is.
///
/// An entry without options has exactly its head dimensions; one with all of them takes any
/// multiple of 8 up to its own.
fn entry(problem: &PrefillProblem) -> Result<&'static Entry, PrefillError> {
    let (dim, v_dim) = (problem.heads.dim, problem.v_dim);
    let paged = problem.kv != KvLayout::Ragged;
    let options = has_options(problem);
    let usable = |entry: &&Entry| match entry.variant {
        "lean" => !paged && !options,
        "paged" => paged && !options,
        _ => true,
    };
    let unit = |dim: usize| dim > 0 && dim.is_multiple_of(DIM_UNIT);
    let fits = |entry: &&Entry| {
        let (most, v_most) = most(entry);
        match entry.variant {
            "full" => unit(dim) && unit(v_dim) && dim <= most && v_dim <= v_most,
            _ => (dim, v_dim) == (most, v_most),
        }
    };
    let candidates = || {
        entries()
            .filter(|entry| entry.dtype == problem.dtype.name())
            .filter(usable)
    };
    let cost = |entry: &&Entry| (entry.variant == "full", entry.head_dim + entry.v_dim);
    candidates()
        .filter(fits)
        .min_by_key(cost)
        .ok_or_else(|| PrefillError::UnsupportedHeadDim {
            expected: candidates().map(most).max().unwrap_or_default(),
            got: (dim, v_dim),
        })
}

/// The head dimensions of keys and of values that the entry has room for.
fn most(entry: &Entry) -> (usize, usize) {
    (entry.head_dim as usize, entry.v_dim as usize)
}

fn limit(what: &'static str, got: usize, expected: usize) -> Result<(), PrefillError> {
    if got <= expected {
        return Ok(());
    }
    Err(PrefillError::Limit {
        what,
        expected,
        got,
    })
}
