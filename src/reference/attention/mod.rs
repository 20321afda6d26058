//! Attention in f64.

mod arithmetic;
mod sequences;
#[cfg(test)]
mod tests;
mod visibility;

use half::f16;

use arithmetic::{Arithmetic, Exact, Keys, Rounded};
use sequences::{Sequence, sequences};

use super::HostTensor;
use crate::attention::prefill::{HeadShape, KvLayout, PrefillError, PrefillProblem};
use crate::dtype::Float;
use crate::error::OperandError;
use crate::kv::Format;
use crate::status::StatusReport;

/// Operands of a prefill on the host; shapes as in [`attention::prefill`](crate::attention::prefill).
#[derive(Clone, Copy, Debug)]
pub struct PrefillInputs<'a, T> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: HostTensor<'a, T, 3>,
    /// Keys and values.
    pub kv: HostKv<'a, T>,
    /// Where the queries of each sequence begin; any numbers, treated as the kernel treats them.
    pub offsets_q: &'a [i32],
    /// The slope of each query head.
    pub alibi: Option<&'a [f32]>,
    /// The sink of each query head.
    pub sinks: Option<&'a [f32]>,
    /// Which keys each query may see.
    pub mask: Option<HostMask<'a>>,
}

impl<'a, T> PrefillInputs<'a, T> {
    /// Operands without those of options.
    pub fn new(q: HostTensor<'a, T, 3>, kv: HostKv<'a, T>, offsets_q: &'a [i32]) -> Self {
        PrefillInputs {
            q,
            kv,
            offsets_q,
            alibi: None,
            sinks: None,
            mask: None,
        }
    }
}

/// Keys and values on the host, as [`Kv`](crate::attention::prefill::Kv) is for device memory.
#[derive(Clone, Copy, Debug)]
pub enum HostKv<'a, T> {
    /// Sequence after sequence in one tensor each.
    Ragged {
        /// Keys, `[total_k, heads.kv, dim]`.
        k: HostTensor<'a, T, 3>,
        /// Values, `[total_k, heads.kv, v_dim]`.
        v: HostTensor<'a, T, 3>,
        /// Where the keys of each sequence begin; any numbers.
        offsets: &'a [i32],
    },
    /// In pages of a cache.
    Paged {
        /// Pages of keys, `[pages, page_size, heads.kv, dim]`.
        k: HostTensor<'a, T, 4>,
        /// Pages of values, `[pages, page_size, heads.kv, v_dim]`.
        v: HostTensor<'a, T, 4>,
        /// Which pages each sequence has; any numbers.
        pages: HostPages<'a>,
        /// The number of keys of each sequence; any numbers.
        seqlens: &'a [i32],
    },
    /// In pages of a cache in 8 bits.
    Quantised {
        /// Bytes of keys, `[pages, page_size, heads.kv, dim]`.
        k: HostTensor<'a, u8, 4>,
        /// Bytes of values, `[pages, page_size, heads.kv, v_dim]`.
        v: HostTensor<'a, u8, 4>,
        /// What bytes stand for; not [`Format::Same`].
        format: Format,
        /// Scales of keys and of values: one, or one for each head.
        scales: [&'a [f32]; 2],
        /// Which pages each sequence has; any numbers.
        pages: HostPages<'a>,
        /// The number of keys of each sequence; any numbers.
        seqlens: &'a [i32],
    },
}

/// Keys and values in pages, whatever their elements are.
struct InPages<'a> {
    /// Of keys and of values.
    shapes: [[usize; 4]; 2],
    pages: HostPages<'a>,
    seqlens: &'a [i32],
}

impl<'a, T: Copy> HostKv<'a, T> {
    fn in_pages(&self) -> Option<InPages<'a>> {
        let (shapes, pages, seqlens) = match *self {
            HostKv::Ragged { .. } => return None,
            HostKv::Paged {
                k,
                v,
                pages,
                seqlens,
            } => ([k.shape(), v.shape()], pages, seqlens),
            HostKv::Quantised {
                k,
                v,
                pages,
                seqlens,
                ..
            } => ([k.shape(), v.shape()], pages, seqlens),
        };
        Some(InPages {
            shapes,
            pages,
            seqlens,
        })
    }
}

/// The pages of each sequence; ids as the bits of a `u32`.
#[derive(Clone, Copy, Debug)]
pub enum HostPages<'a> {
    /// A row for each sequence, `[batch, most pages of a sequence]`.
    Rows(HostTensor<'a, u32, 2>),
    /// The pages of all sequences one after the other, and where each sequence's begin.
    Csr {
        /// `[batch + 1]`.
        indptr: &'a [i32],
        /// `[entries]`.
        pages: &'a [u32],
    },
}

/// Which keys each query may see, as [`Mask`](crate::attention::prefill::Mask).
#[derive(Clone, Copy, Debug)]
pub struct HostMask<'a> {
    /// The bits of all sequences.
    pub bits: &'a [u8],
    /// Where each sequence's begin, in bytes: `[batch + 1]`, any numbers.
    pub offsets: &'a [i32],
}

/// What a prefill should give.
#[derive(Clone, Debug)]
pub struct PrefillOutput {
    /// `[total_q, heads.query, v_dim]`, row-major; zero in rows that are not written.
    pub out: Vec<f64>,
    /// `[heads.query, total_q]`, natural logarithm; zero where not written.
    pub lse: Vec<f64>,
    /// For each element of `out`, the sum of the magnitudes of its terms. Zero where rounded.
    pub out_terms: Vec<f64>,
    /// For each element of `out`, the root of the sum of the squares of its terms: what rounding each
    /// weight makes of it, in units of one rounding. Zero where rounded.
    pub out_spread: Vec<f64>,
    /// For each element of `lse`, the largest sum of magnitudes among the scores it combines. Zero
    /// where rounded.
    pub lse_terms: Vec<f64>,
    /// For each element of `out`, how far approximations that the options document, such as the
    /// soft-cap's, can move it. Zero where rounded.
    pub out_allowed: Vec<f64>,
    /// The same for each element of `lse`.
    pub lse_allowed: Vec<f64>,
    /// For each of the `total_q` rows, whether it belongs to a sequence.
    pub written: Vec<bool>,
    /// What the kernel reports about what it cannot use.
    pub status: StatusReport,
}

/// Attention with no rounding but that of f64.
///
/// # Errors
/// [`PrefillError::Operand`] when the shapes disagree with the problem or with each other;
/// [`PrefillError::Heads`], [`PrefillError::Batch`], [`PrefillError::KvLayout`],
/// [`PrefillError::Option`] likewise. Any type and any head dimension are accepted.
pub fn prefill<T: Float>(
    problem: &PrefillProblem,
    inputs: PrefillInputs<'_, T>,
) -> Result<PrefillOutput, PrefillError> {
    evaluate(problem, inputs, &Exact)
}

/// Attention that rounds where the kernel with key tiles of `tile_k` does.
///
/// Scores and output accumulate in f32, truncated after every sixteen terms; weights are rounded
/// to the operands' type, or to f16 over a cache in 8 bits; tiles are taken from the last to the first, with the kernel's rule for
/// when a new maximum rescales.
///
/// # Errors
/// As for [`prefill`].
pub fn prefill_rounded<T: Float>(
    problem: &PrefillProblem,
    inputs: PrefillInputs<'_, T>,
    tile_k: usize,
) -> Result<PrefillOutput, PrefillError> {
    evaluate(
        problem,
        inputs,
        &Rounded {
            tile_k: tile_k.max(1),
            weigh: match inputs.kv {
                HostKv::Quantised { .. } => |p| f16::nearest(p).to_f64(),
                _ => |p| T::nearest(p).to_f64(),
            },
        },
    )
}

fn evaluate<T: Float>(
    problem: &PrefillProblem,
    inputs: PrefillInputs<'_, T>,
    arithmetic: &impl Arithmetic,
) -> Result<PrefillOutput, PrefillError> {
    check(problem, &inputs)?;
    let (heads, v_dim, rows_q) = (problem.heads.query, problem.v_dim, inputs.q.shape()[0]);
    let (sequences, status) = sequences(problem, &inputs);
    let outs = || vec![0.0; rows_q * heads * v_dim];
    let lses = || vec![0.0; rows_q * heads];
    let mut output = PrefillOutput {
        out: outs(),
        lse: lses(),
        out_terms: outs(),
        lse_terms: lses(),
        out_spread: outs(),
        out_allowed: outs(),
        lse_allowed: lses(),
        written: vec![false; rows_q],
        status,
    };
    for Sequence { queries, .. } in &sequences {
        output.written[queries.clone()].fill(true);
    }
    let of_heads = in_parallel(heads, |head| {
        let mut rows = Vec::new();
        for sequence in &sequences {
            attend(problem, &inputs, sequence, head, arithmetic, &mut rows);
        }
        rows
    });
    for (head, rows) in of_heads.into_iter().enumerate() {
        for (row, result) in rows {
            let at = (row * heads + head) * v_dim;
            output.out[at..at + v_dim].copy_from_slice(&result.out);
            output.out_terms[at..at + v_dim].copy_from_slice(&result.out_terms);
            output.out_spread[at..at + v_dim].copy_from_slice(&result.out_spread);
            output.out_allowed[at..at + v_dim].copy_from_slice(&result.out_allowed);
            output.lse[head * rows_q + row] = result.lse;
            output.lse_terms[head * rows_q + row] = result.lse_terms;
            output.lse_allowed[head * rows_q + row] = result.lse_allowed;
        }
    }
    Ok(output)
}

/// What one query gives.
#[derive(Clone, Debug, Default)]
struct Row {
    out: Vec<f64>,
    out_terms: Vec<f64>,
    out_spread: Vec<f64>,
    out_allowed: Vec<f64>,
    lse: f64,
    lse_terms: f64,
    lse_allowed: f64,
}

/// All queries of a sequence, in one head.
fn attend<T: Float>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
    sequence: &Sequence,
    head: usize,
    arithmetic: &impl Arithmetic,
    rows: &mut Vec<(usize, Row)>,
) {
    let HeadShape { query, kv, dim } = problem.heads;
    let kv_head = head / (query / kv);
    let mut keys = Keys::gather(problem, inputs, sequence, kv_head);
    keys.softcap = problem.softcap;
    keys.scale = problem.scale;
    keys.slope = inputs.alibi.map_or(0.0, |slopes| slopes[head]);
    keys.sink = inputs.sinks.map(|sinks| sinks[head]);
    for (i, row) in sequence.queries.clone().enumerate() {
        let q: Vec<f64> = (0..dim)
            .map(|d| inputs.q.get([row, head, d]).map_or(f64::NAN, T::to_f64))
            .collect();
        let seen = sequence.seen(problem, inputs.mask, i);
        let position = sequence.position(i);
        rows.push((row, arithmetic.attend::<T>(&keys, &q, &seen, position)));
    }
}

fn check<T: Float>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
) -> Result<(), PrefillError> {
    let (HeadShape { query, kv, dim }, v_dim) = (problem.heads, problem.v_dim);
    if query == 0 || kv == 0 || !query.is_multiple_of(kv) {
        return Err(PrefillError::Heads { got: problem.heads });
    }
    same_shape("q", inputs.q.shape(), [inputs.q.shape()[0], query, dim])?;
    let batch = problem.batch;
    offsets("seqlens_q", inputs.offsets_q, batch)?;
    match (problem.kv, inputs.kv, inputs.kv.in_pages()) {
        (KvLayout::Ragged, HostKv::Ragged { k, v, offsets: at }, _) => {
            same_shape("k", k.shape(), [k.shape()[0], kv, dim])?;
            same_shape("v", v.shape(), [k.shape()[0], kv, v_dim])?;
            offsets("seqlens_k", at, batch)?;
        }
        (KvLayout::Paged { page_size }, _, Some(in_pages)) => {
            let InPages {
                shapes: [k, v],
                pages,
                seqlens,
            } = in_pages;
            same_shape("k", k, [k[0], page_size, kv, dim])?;
            same_shape("v", v, [k[0], page_size, kv, v_dim])?;
            length("seqlens_k", seqlens.len(), batch)?;
            match pages {
                HostPages::Rows(table) => {
                    let shape = table.shape();
                    same_shape("page table", shape, [batch, shape[1]])?;
                }
                HostPages::Csr { indptr, .. } => length("indptr", indptr.len(), batch + 1)?,
            }
        }
        (expected, _, paged) => {
            let got = paged.map_or("ragged keys", |_| "pages of keys");
            return Err(PrefillError::KvLayout { expected, got });
        }
    }
    if let HostKv::Quantised { scales, .. } = inputs.kv {
        for (tensor, scales) in ["k scales", "v scales"].into_iter().zip(scales) {
            let expected = if scales.len() == 1 { 1 } else { kv };
            length(tensor, scales.len(), expected)?;
        }
    }
    for (tensor, expected, values) in [
        ("alibi", problem.alibi, inputs.alibi),
        ("sinks", problem.sinks, inputs.sinks),
    ] {
        PrefillError::unless_planned(tensor, expected, values.is_some())?;
        length(tensor, values.map_or(query, <[f32]>::len), query)?;
    }
    PrefillError::unless_planned("mask", problem.mask, inputs.mask.is_some())?;
    let bounds = inputs.mask.map_or(batch + 1, |mask| mask.offsets.len());
    length("mask offsets", bounds, batch + 1)?;
    Ok(())
}

fn same_shape<const R: usize>(
    tensor: &'static str,
    got: [usize; R],
    expected: [usize; R],
) -> Result<(), OperandError> {
    if got == expected {
        return Ok(());
    }
    Err(OperandError::Shape {
        tensor,
        expected: expected.into(),
        got: got.into(),
    })
}

fn length(tensor: &'static str, got: usize, expected: usize) -> Result<(), OperandError> {
    if got == expected {
        return Ok(());
    }
    Err(OperandError::Shape {
        tensor,
        expected: [expected].into(),
        got: [got].into(),
    })
}

fn offsets(tensor: &'static str, offsets: &[i32], expected: usize) -> Result<(), PrefillError> {
    let got = offsets.len().saturating_sub(1);
    if expected == got && !offsets.is_empty() {
        return Ok(());
    }
    Err(PrefillError::Batch {
        tensor,
        expected,
        got,
    })
}

/// `work(0), .., work(n - 1)`, on as many threads as there are processors.
fn in_parallel<R: Send>(n: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(n.max(1));
    let work = &work;
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..n)
                        .step_by(threads)
                        .map(|i| (i, work(i)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    results.sort_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}
