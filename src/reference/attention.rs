//! Attention in f64.

use std::ops::Range;

use super::HostTensor;
use crate::attention::prefill::{HeadShape, PrefillError, PrefillProblem};
use crate::dtype::Float;
use crate::error::OperandError;
use crate::status::{Offence, StatusReport};

/// Operands of a prefill on the host; shapes as in [`attention::prefill`](crate::attention::prefill).
#[derive(Clone, Copy, Debug)]
pub struct PrefillInputs<'a, T> {
    /// Queries, `[total_q, heads.query, dim]`.
    pub q: HostTensor<'a, T, 3>,
    /// Keys, `[total_k, heads.kv, dim]`.
    pub k: HostTensor<'a, T, 3>,
    /// Values, `[total_k, heads.kv, dim]`.
    pub v: HostTensor<'a, T, 3>,
    /// Where the queries of each sequence begin; any numbers, treated as the kernel treats them.
    pub offsets_q: &'a [i32],
    /// Where the keys of each sequence begin.
    pub offsets_k: &'a [i32],
}

/// What a prefill should give.
#[derive(Clone, Debug)]
pub struct PrefillOutput {
    /// `[total_q, heads.query, dim]`, row-major; zero in rows that are not written.
    pub out: Vec<f64>,
    /// `[heads.query, total_q]`, natural logarithm; zero where not written.
    pub lse: Vec<f64>,
    /// For each element of `out`, the sum of the magnitudes of its terms.
    pub out_terms: Vec<f64>,
    /// For each element of `lse`, the largest sum of magnitudes among the scores it combines.
    pub lse_terms: Vec<f64>,
    /// For each of the `total_q` rows, whether it belongs to a sequence.
    pub written: Vec<bool>,
    /// What the kernel reports about the offsets.
    pub status: StatusReport,
}

/// Attention with no rounding but that of f64.
///
/// # Errors
/// [`PrefillError::Operand`] when the shapes disagree with the problem or with each other,
/// [`PrefillError::Heads`] and [`PrefillError::Batch`] likewise. Any type and any head dimension
/// are accepted.
pub fn prefill<T: Float>(
    problem: &PrefillProblem,
    inputs: PrefillInputs<'_, T>,
) -> Result<PrefillOutput, PrefillError> {
    evaluate(problem, inputs, &Exact)
}

/// Attention that rounds where the kernel with key tiles of `tile_k` does.
///
/// Scores and output accumulate in f32, truncated after every sixteen terms; weights are rounded
/// to the operands' type; tiles are taken from the last to the first, with the kernel's rule for
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
        },
    )
}

/// How one query attends to the keys it sees.
trait Arithmetic: Sync {
    /// Keys and values are rows of `out.len()` elements. Returns the log-sum-exp.
    fn attend<T: Float>(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        scale: f32,
        scratch: &mut Vec<f64>,
        out: &mut [f64],
    ) -> f64;
}

struct Exact;

impl Arithmetic for Exact {
    fn attend<T: Float>(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        scale: f32,
        scores: &mut Vec<f64>,
        out: &mut [f64],
    ) -> f64 {
        let dim = out.len();
        scores.clear();
        scores.extend(k.chunks_exact(dim).map(|k| f64::from(scale) * dot(q, k)));
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.fill(0.0);
        if scores.iter().all(|&s| s == f64::NEG_INFINITY) {
            return f64::NEG_INFINITY;
        }
        let mut sum = 0.0;
        for (&score, v) in scores.iter().zip(v.chunks_exact(dim)) {
            let p = (score - top).exp();
            sum += p;
            out.iter_mut().zip(v).for_each(|(out, v)| *out += p * v);
        }
        out.iter_mut().for_each(|out| *out /= sum);
        top + sum.ln()
    }
}

struct Rounded {
    tile_k: usize,
}

impl Rounded {
    /// Terms that a tensor core sums before it truncates.
    const STEP: usize = 16;
    /// By how much the exponent may outgrow its reference before that is raised.
    const SLACK: f32 = 8.0;
}

impl Arithmetic for Rounded {
    fn attend<T: Float>(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        scale: f32,
        sums: &mut Vec<f64>,
        out: &mut [f64],
    ) -> f64 {
        let dim = out.len();
        let scale_log2 = scale * std::f32::consts::LOG2_E;
        let mut o = vec![0.0f32; dim];
        let (mut m, mut l) = (-f32::MAX, 0.0f32);
        let keys = k.len() / dim.max(1);
        let mut scores = Vec::with_capacity(self.tile_k);
        for tile in (0..keys.div_ceil(self.tile_k)).rev() {
            let first = tile * self.tile_k;
            let last = (first + self.tile_k).min(keys);
            scores.clear();
            scores.extend(k[first * dim..last * dim].chunks_exact(dim).map(|k| {
                q.chunks(Self::STEP)
                    .zip(k.chunks(Self::STEP))
                    .fold(0.0f32, |s, (q, k)| truncate(f64::from(s) + dot(q, k)))
            }));
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if top.mul_add(scale_log2, -m) > Self::SLACK {
                let raised = top * scale_log2;
                let factor = exp2(m - raised);
                m = raised;
                l *= factor;
                o.iter_mut().for_each(|o| *o *= factor);
            }
            let values = v[first * dim..last * dim].chunks(Self::STEP * dim);
            for (scores, values) in scores.chunks(Self::STEP).zip(values) {
                sums.clear();
                sums.resize(dim, 0.0);
                for (&score, v) in scores.iter().zip(values.chunks_exact(dim)) {
                    let p = exp2(score.mul_add(scale_log2, -m));
                    l += p;
                    let p = T::nearest(f64::from(p)).to_f64();
                    sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += p * v);
                }
                for (o, sum) in o.iter_mut().zip(sums.iter()) {
                    *o = truncate(f64::from(*o) + sum);
                }
            }
        }
        let inverse = if l == 0.0 { 0.0 } else { 1.0 / l };
        for (out, o) in out.iter_mut().zip(&o) {
            *out = T::nearest(f64::from(o * inverse)).to_f64();
        }
        if l == 0.0 {
            return f64::NEG_INFINITY;
        }
        f64::from((m + l.log2()) * std::f32::consts::LN_2)
    }
}

/// 2^x, rounded once, subnormal results flushed to zero.
fn exp2(x: f32) -> f32 {
    let y = f64::from(x).exp2() as f32;
    if y < f32::MIN_POSITIVE { 0.0 } else { y }
}

/// `x` as f32, rounded toward zero.
fn truncate(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near).abs() > x.abs() && near.is_finite() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    }
}

/// Eight partial sums, which the compiler turns into vector code.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(a, b)| a * b)
        .sum();
    let mut sums = [0.0; 8];
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}

fn evaluate<T: Float>(
    problem: &PrefillProblem,
    inputs: PrefillInputs<'_, T>,
    arithmetic: &impl Arithmetic,
) -> Result<PrefillOutput, PrefillError> {
    let HeadShape { query, kv, dim } = problem.heads;
    let (rows_q, rows_k) = (inputs.q.shape()[0], inputs.k.shape()[0]);
    if query == 0 || kv == 0 || !query.is_multiple_of(kv) {
        return Err(PrefillError::Heads { got: problem.heads });
    }
    same_shape("q", inputs.q, [rows_q, query, dim])?;
    same_shape("k", inputs.k, [rows_k, kv, dim])?;
    same_shape("v", inputs.v, [rows_k, kv, dim])?;
    for (tensor, offsets) in [
        ("seqlens_q", inputs.offsets_q),
        ("seqlens_k", inputs.offsets_k),
    ] {
        let (expected, got) = (problem.batch, offsets.len().saturating_sub(1));
        if expected != got || offsets.is_empty() {
            return Err(PrefillError::Batch {
                tensor,
                expected,
                got,
            });
        }
    }
    let (sequences, status) = sequences(problem, &inputs, rows_q, rows_k);

    let mut output = PrefillOutput {
        out: vec![0.0; rows_q * query * dim],
        lse: vec![0.0; rows_q * query],
        out_terms: vec![0.0; rows_q * query * dim],
        lse_terms: vec![0.0; rows_q * query],
        written: vec![false; rows_q],
        status,
    };
    for Sequence { queries, .. } in &sequences {
        output.written[queries.clone()].fill(true);
    }
    let heads = in_parallel(query, |head| {
        let mut rows = Vec::new();
        for sequence in &sequences {
            attend_sequence(problem, &inputs, sequence, head, arithmetic, &mut rows);
        }
        rows
    });
    for (head, rows) in heads.into_iter().enumerate() {
        for Row {
            row,
            out,
            out_terms,
            lse,
            lse_terms,
        } in rows
        {
            let at = (row * query + head) * dim;
            output.out[at..at + dim].copy_from_slice(&out);
            output.out_terms[at..at + dim].copy_from_slice(&out_terms);
            output.lse[head * rows_q + row] = lse;
            output.lse_terms[head * rows_q + row] = lse_terms;
        }
    }
    Ok(output)
}

fn same_shape<T: Copy>(
    tensor: &'static str,
    operand: HostTensor<'_, T, 3>,
    expected: [usize; 3],
) -> Result<(), OperandError> {
    if operand.shape() == expected {
        return Ok(());
    }
    let got = operand.shape();
    Err(OperandError::Shape {
        tensor,
        expected: expected.into(),
        got: got.into(),
    })
}

struct Sequence {
    queries: Range<usize>,
    keys: Range<usize>,
}

/// The sequences that are computed, by the rules that the kernel applies to offsets it cannot
/// trust, and what it reports about the others.
fn sequences<T>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
    rows_q: usize,
    rows_k: usize,
) -> (Vec<Sequence>, StatusReport) {
    let range = |pair: &[i32], floor: i32, rows: usize| {
        let (start, end) = (pair[0], pair[1]);
        let valid = start >= 0 && start >= floor && end >= start && end as usize <= rows;
        valid.then_some(start as usize..end as usize)
    };
    let mut sequences = Vec::new();
    let mut status = StatusReport::default();
    // A sequence must not begin before any earlier offset, nor if the first one is negative.
    let mut floor = 0;
    let mut poisoned = false;
    let pairs = inputs.offsets_q.windows(2).zip(inputs.offsets_k.windows(2));
    for (index, (q, k)) in pairs.enumerate() {
        let keys = range(k, 0, rows_k);
        if keys.is_none() {
            status.record(Offence::SeqLensK, index as u64);
        }
        match range(q, floor, rows_q).filter(|_| !poisoned) {
            None => status.record(Offence::SeqLensQ, index as u64),
            Some(queries) if queries.len() > problem.max_seqlen_q => {
                status.record(Offence::SeqLenTooLong, index as u64);
            }
            Some(queries) => {
                sequences.push(Sequence {
                    queries,
                    keys: keys.unwrap_or(0..0),
                });
            }
        }
        floor = floor.max(q[0]);
        poisoned |= index == 0 && q[0] < 0;
    }
    (sequences, status)
}

struct Row {
    row: usize,
    out: Vec<f64>,
    out_terms: Vec<f64>,
    lse: f64,
    lse_terms: f64,
}

fn attend_sequence<T: Float>(
    problem: &PrefillProblem,
    inputs: &PrefillInputs<'_, T>,
    sequence: &Sequence,
    head: usize,
    arithmetic: &impl Arithmetic,
    rows: &mut Vec<Row>,
) {
    let HeadShape { query, kv, dim } = problem.heads;
    let Sequence { queries, keys } = sequence;
    let kv_head = head / (query / kv);
    let gather = |tensor: &HostTensor<'_, T, 3>, rows: Range<usize>, head| -> Vec<f64> {
        rows.flat_map(|row| (0..dim).map(move |d| [row, head, d]))
            .map(|index| tensor.get(index).map_or(f64::NAN, T::to_f64))
            .collect()
    };
    let magnitudes = |values: &[f64]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let k = gather(&inputs.k, keys.clone(), kv_head);
    let v = gather(&inputs.v, keys.clone(), kv_head);
    let (k_abs, v_abs) = (magnitudes(&k), magnitudes(&v));
    let mut scratch = Vec::new();
    for (i, row) in queries.clone().enumerate() {
        let seen = if problem.causal {
            (keys.len() + i + 1)
                .saturating_sub(queries.len())
                .min(keys.len())
        } else {
            keys.len()
        };
        let q = gather(&inputs.q, row..row + 1, head);
        let (k, v) = (&k[..seen * dim], &v[..seen * dim]);
        let mut out = vec![0.0; dim];
        let lse = arithmetic.attend::<T>(&q, k, v, problem.scale, &mut scratch, &mut out);
        // The same weights on magnitudes give the magnitudes of the terms.
        let mut out_terms = vec![0.0; dim];
        let v_abs = &v_abs[..seen * dim];
        Exact.attend::<T>(&q, k, v_abs, problem.scale, &mut scratch, &mut out_terms);
        let q_abs = magnitudes(&q);
        let lse_terms = k_abs[..seen * dim]
            .chunks_exact(dim.max(1))
            .map(|k| f64::from(problem.scale) * dot(&q_abs, k))
            .fold(0.0, f64::max);
        rows.push(Row {
            row,
            out,
            out_terms,
            lse,
            lse_terms,
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use half::f16;

    const HEADS: HeadShape = HeadShape {
        query: 1,
        kv: 1,
        dim: 1,
    };

    fn run(causal: bool, q: &[f32], k: &[f32], v: &[f32]) -> PrefillOutput {
        let problem = PrefillProblem::new(DType::F32, HEADS, 1, q.len()).causal(causal);
        fn of(data: &[f32]) -> HostTensor<'_, f32, 3> {
            HostTensor::new(data, [data.len(), 1, 1]).unwrap()
        }
        let inputs = PrefillInputs {
            q: of(q),
            k: of(k),
            v: of(v),
            offsets_q: &[0, q.len() as i32],
            offsets_k: &[0, k.len() as i32],
        };
        prefill(&problem, inputs).unwrap()
    }

    #[test]
    fn equal_scores_average_the_values() {
        let output = run(false, &[0.0], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(output.out, [3.0]);
        assert!((output.lse[0] - 4f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn the_last_query_sees_every_key() {
        let output = run(true, &[0.0; 3], &[0.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(output.out, [2.0, 2.5, 3.0]);
        let output = run(true, &[0.0; 3], &[0.0; 2], &[1.0, 2.0]);
        assert_eq!(output.out, [0.0, 1.0, 1.5]);
        assert_eq!(output.lse[0], f64::NEG_INFINITY);
    }

    #[test]
    fn rows_without_keys_or_weight_are_zero_and_nan_scores_are_nan() {
        assert_eq!(run(false, &[1.0], &[], &[]).out, [0.0]);
        let output = run(false, &[1.0], &[f32::NEG_INFINITY; 2], &[1.0; 2]);
        assert_eq!((output.out[0], output.lse[0]), (0.0, f64::NEG_INFINITY));
        assert!(run(false, &[f32::NAN], &[1.0], &[1.0]).out[0].is_nan());
    }

    #[test]
    fn rounding_is_small_and_present() {
        let data: Vec<f16> = (0..64 * 50)
            .map(|i: i32| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 40.0))
            .collect();
        let heads = HeadShape {
            query: 1,
            kv: 1,
            dim: 64,
        };
        let problem = PrefillProblem::new(DType::F16, heads, 1, 50).causal(true);
        let tensor = HostTensor::new(&data, [50, 1, 64]).unwrap();
        let offsets = [0, 50];
        let inputs = PrefillInputs {
            q: tensor,
            k: tensor,
            v: tensor,
            offsets_q: &offsets,
            offsets_k: &offsets,
        };
        let exact = prefill(&problem, inputs).unwrap();
        let rounded = prefill_rounded(&problem, inputs, 16).unwrap();
        let worst = exact
            .out
            .iter()
            .zip(&rounded.out)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst > 1e-5 && worst < 2e-3, "{worst}");
        let worst = exact
            .lse
            .iter()
            .zip(&rounded.lse)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst > 1e-9 && worst < 1e-5, "{worst}");
    }

    #[test]
    fn bad_offsets_are_skipped_and_reported() {
        let data = [0.0f32; 8];
        let tensor = HostTensor::new(&data, [8, 1, 1]).unwrap();
        let problem = PrefillProblem::new(DType::F32, HEADS, 4, 3);
        let inputs = PrefillInputs {
            q: tensor,
            k: tensor,
            v: tensor,
            offsets_q: &[0, 3, 2, 8, 9],
            offsets_k: &[0, -1, 2, 4, 6],
        };
        let output = prefill(&problem, inputs).unwrap();
        // 0: no keys; 1: runs backwards; 2: begins before offset 3; 3: ends behind the last row.
        let written = [true, true, true, false, false, false, false, false];
        assert_eq!(output.written, written);
        assert_eq!(output.status.first(), Some((Offence::SeqLensQ, 1)));
        assert!(output.status.contains(Offence::SeqLensK));
        assert!(!output.status.contains(Offence::SeqLenTooLong));
    }
}
