//! One query attending to keys: exactly, and with the kernel's roundings.

use super::sequences::{Place, Sequence};
use super::{HostKv, PrefillInputs, Row};
use crate::attention::prefill::{PrefillProblem, SoftCap};
use crate::dtype::Float;
use crate::reference::kv::decode;

/// The keys and values of a sequence in one head, and what the head does with scores.
pub(super) struct Keys {
    k: Vec<f64>,
    k_abs: Vec<f64>,
    v: Vec<f64>,
    dim: usize,
    v_dim: usize,
    pub scale: f32,
    pub softcap: Option<SoftCap>,
    pub slope: f32,
    pub sink: Option<f32>,
}

impl Keys {
    pub fn gather<T: Float>(
        problem: &PrefillProblem,
        inputs: &PrefillInputs<'_, T>,
        sequence: &Sequence,
        head: usize,
    ) -> Keys {
        let element = |place: Option<Place>, d: usize, of_v: bool| {
            let [row, slot] = place?;
            let at = [row, slot, head, d];
            match inputs.kv {
                HostKv::Ragged { k, v, .. } => {
                    let element = (if of_v { v } else { k }).get([row, head, d]);
                    element.map(T::to_f64)
                }
                HostKv::Paged { k, v, .. } => (if of_v { v } else { k }).get(at).map(T::to_f64),
                HostKv::Quantised {
                    k,
                    v,
                    format,
                    scales,
                    ..
                } => {
                    let byte = (if of_v { v } else { k }).get(at)?;
                    let scales = scales[usize::from(of_v)];
                    let scale = scales[if scales.len() == 1 { 0 } else { head }];
                    Some(f64::from(scale) * decode(format, byte))
                }
            }
        };
        let gather = |dim: usize, of_v: bool| -> Vec<f64> {
            let of_key = |&place| (0..dim).map(move |d| element(place, d, of_v));
            let all = sequence.keys.iter().flat_map(of_key);
            all.map(|x| x.unwrap_or(f64::NAN)).collect()
        };
        let (dim, v_dim) = (problem.heads.dim, problem.v_dim);
        let k = gather(dim, false);
        Keys {
            k_abs: k.iter().map(|k| k.abs()).collect(),
            k,
            v: gather(v_dim, true),
            dim,
            v_dim,
            scale: problem.scale,
            softcap: problem.softcap,
            slope: 0.0,
            sink: None,
        }
    }

    fn k(&self, j: usize) -> &[f64] {
        &self.k[j * self.dim..][..self.dim]
    }

    fn v(&self, j: usize) -> &[f64] {
        &self.v[j * self.v_dim..][..self.v_dim]
    }
}

/// How a query attends to the keys that it sees.
pub(super) trait Arithmetic: Sync {
    /// `seen`: numbers of keys, ascending; `position`: the key that the query is aligned with.
    fn attend<T: Float>(&self, keys: &Keys, q: &[f64], seen: &[usize], position: i64) -> Row;
}

pub(super) struct Exact;

/// A score, and what is known of it.
struct Score {
    value: f64,
    /// The sum of the magnitudes of its terms.
    terms: f64,
    /// By how much documented approximations may change it.
    allowed: f64,
}

impl Exact {
    /// The largest relative error of `tanh.approx.f32`.
    const TANH_APPROX: f64 = 1.0 / 2048.0;
    /// The largest error of a hyperbolic tangent from an approximate power and reciprocal.
    const TANH_EXACT: f64 = 1.0 / (1u64 << 20) as f64;
    /// Of each of the two operations that add a bias in f32, and then some.
    const BIAS: f64 = 1.0 / (1u64 << 22) as f64;

    fn score(keys: &Keys, q: &[f64], q_abs: &[f64], j: usize, position: i64) -> Score {
        let scale = f64::from(keys.scale);
        let plain = scale * dot(q, keys.k(j));
        let terms = scale * dot(q_abs, &keys.k_abs[j * keys.dim..][..keys.dim]);
        let (mut value, mut allowed) = (plain, 0.0);
        if let Some(softcap) = keys.softcap {
            let cap = f64::from(softcap.cap());
            value = cap * (plain / cap).tanh();
            allowed += match softcap {
                SoftCap::Approx(_) => Self::TANH_APPROX * value.abs(),
                SoftCap::Exact(_) => Self::TANH_EXACT * cap,
            };
        }
        let bias = f64::from(keys.slope) * position.abs_diff(j as i64) as f64;
        if bias != 0.0 {
            allowed += Self::BIAS * (value.abs() + bias.abs());
        }
        Score {
            value: value - bias,
            terms: terms + bias.abs(),
            allowed,
        }
    }
}

impl Arithmetic for Exact {
    fn attend<T: Float>(&self, keys: &Keys, q: &[f64], seen: &[usize], position: i64) -> Row {
        let q_abs: Vec<f64> = q.iter().map(|x| x.abs()).collect();
        let scores: Vec<Score> = seen
            .iter()
            .map(|&j| Self::score(keys, q, &q_abs, j, position))
            .collect();
        let sink = keys.sink.map(f64::from);
        let values = || scores.iter().map(|score| score.value).chain(sink);
        let top = values().fold(f64::NEG_INFINITY, f64::max);
        let lse_terms = scores.iter().map(|score| score.terms);
        let mut row = Row {
            out: vec![0.0; keys.v_dim],
            out_terms: vec![0.0; keys.v_dim],
            out_spread: vec![0.0; keys.v_dim],
            out_allowed: vec![0.0; keys.v_dim],
            lse: f64::NEG_INFINITY,
            lse_terms: lse_terms.chain(sink.map(f64::abs)).fold(0.0, f64::max),
            lse_allowed: 0.0,
        };
        if values().all(|value| value == f64::NEG_INFINITY) {
            return row;
        }
        let weights: Vec<f64> = values().map(|value| (value - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (&j, weight) in seen.iter().zip(&weights) {
            let p = weight / sum;
            let outs = row.out.iter_mut().zip(&mut row.out_terms);
            for (((out, terms), spread), v) in outs.zip(&mut row.out_spread).zip(keys.v(j)) {
                *out += p * v;
                *terms += p * v.abs();
                *spread += (p * v).powi(2);
            }
        }
        row.out_spread.iter_mut().for_each(|x| *x = x.sqrt());
        // A sink's value is zero. Only NaN is left of infinities that meet it.
        if sum.is_nan() {
            row.out.fill(f64::NAN);
        }
        row.lse = top + sum.ln();

        // Weights that are each wrong by a factor within e^±allowed: the result moves by no more
        // than this, and its normalisation by no more than the largest of these factors.
        let most = scores.iter().map(|score| score.allowed).fold(0.0, f64::max);
        if most > 0.0 {
            for ((&j, weight), score) in seen.iter().zip(&weights).zip(&scores) {
                let moved = most.exp() * weight / sum * score.allowed.exp_m1();
                let outs = row.out_allowed.iter_mut().zip(&row.out);
                for ((allowed, out), v) in outs.zip(keys.v(j)) {
                    *allowed += moved * (v - out).abs();
                }
                row.lse_allowed = most;
            }
        }
        row
    }
}

/// The arithmetic of a kernel with tiles of so many keys.
pub(super) struct Rounded {
    pub tile_k: usize,
    /// How weights are rounded.
    pub weigh: fn(f64) -> f64,
}

impl Rounded {
    /// Terms that a tensor core sums before it truncates.
    const STEP: usize = 16;
    /// By how much the exponent may outgrow its reference before that is raised.
    const SLACK: f32 = 8.0;

    /// A score, and by what it is multiplied to be an exponent of two.
    fn score(keys: &Keys, q: &[f64], j: usize, position: i64) -> (f32, f32) {
        let steps = q.chunks(Self::STEP).zip(keys.k(j).chunks(Self::STEP));
        let plain = steps.fold(0.0f32, |s, (q, k)| truncate(f64::from(s) + dot(q, k)));
        let log2_e = std::f32::consts::LOG2_E;
        let (score, factor) = match keys.softcap {
            None => (plain, keys.scale * log2_e),
            Some(softcap) => {
                let cap = softcap.cap();
                let bent = f64::from(plain * (keys.scale / cap)).tanh();
                (bent as f32, cap * log2_e)
            }
        };
        if keys.slope == 0.0 {
            return (score, factor);
        }
        let distance = position.abs_diff(j as i64) as f32;
        let bias = -keys.slope * log2_e * distance;
        (score.mul_add(factor, bias), 1.0)
    }
}

/// The running state of a row: reference of the exponents, sum of the weights, output.
struct State {
    m: f32,
    l: f32,
    o: Vec<f32>,
}

impl State {
    /// Raises the reference if an exponent outgrows it.
    fn raise(&mut self, top: f32, factor: f32) {
        if top.mul_add(factor, -self.m) > Rounded::SLACK {
            let raised = top * factor;
            let rescale = exp2(self.m - raised);
            self.m = raised;
            self.l *= rescale;
            self.o.iter_mut().for_each(|o| *o *= rescale);
        }
    }
}

impl Arithmetic for Rounded {
    fn attend<T: Float>(&self, keys: &Keys, q: &[f64], seen: &[usize], position: i64) -> Row {
        let mut state = State {
            m: -f32::MAX,
            l: 0.0,
            o: vec![0.0; keys.v_dim],
        };
        let mut sums = vec![0.0; keys.v_dim];
        let in_tiles: Vec<&[usize]> = seen
            .chunk_by(|a, b| a / self.tile_k == b / self.tile_k)
            .collect();
        for tile in in_tiles.into_iter().rev() {
            let scores: Vec<(f32, f32)> = tile
                .iter()
                .map(|&j| Self::score(keys, q, j, position))
                .collect();
            let factor = scores[0].1;
            let top = scores.iter().map(|&(score, _)| score);
            state.raise(top.fold(f32::NEG_INFINITY, f32::max), factor);
            let mut scores = scores.iter();
            let step = |j: usize| j % self.tile_k / Self::STEP;
            for keys_of_step in tile.chunk_by(|&a, &b| step(a) == step(b)) {
                sums.fill(0.0);
                for (&j, &(score, _)) in keys_of_step.iter().zip(&mut scores) {
                    let p = exp2(score.mul_add(factor, -state.m));
                    state.l += p;
                    let p = (self.weigh)(f64::from(p));
                    let terms = sums.iter_mut().zip(keys.v(j));
                    terms.for_each(|(sum, v)| *sum += p * v);
                }
                for (o, sum) in state.o.iter_mut().zip(&sums) {
                    *o = truncate(f64::from(*o) + sum);
                }
            }
        }
        let State { mut m, mut l, o } = state;
        let mut factor = 1.0;
        if let Some(sink) = keys.sink {
            let sink = sink * std::f32::consts::LOG2_E;
            factor = exp2(m - m.max(sink));
            m = m.max(sink);
            l = l * factor + exp2(sink - m);
        }
        let inverse = if l == 0.0 { 0.0 } else { factor / l };
        let rounded = |o: &f32| T::nearest(f64::from(o * inverse)).to_f64();
        Row {
            out: o.iter().map(rounded).collect(),
            out_terms: vec![0.0; keys.v_dim],
            out_spread: vec![0.0; keys.v_dim],
            out_allowed: vec![0.0; keys.v_dim],
            lse: match l == 0.0 {
                true => f64::NEG_INFINITY,
                false => f64::from((m + l.log2()) * std::f32::consts::LN_2),
            },
            ..Row::default()
        }
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
