//! The same model on the host, in f64, from the same weights.

use half::{bf16, f16};
use infer_kernels::kv::{Angles, Pairing};
use infer_kernels::{DType, Float};

use super::config::Config;
use super::plans::stream_factor;
use super::weights::{GROUP, Layer, Model, Weight};

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The type that everything is rounded to that the kernels hand on in memory, and the weights of
    /// attention, which they multiply values by; `None`: nothing is rounded.
    pub rounded: Option<DType>,
    /// Whether products read their inputs in codes of 8 bits, as llama.cpp has it: in blocks as long as
    /// those of the weights.
    pub codes: bool,
    /// Which elements of a head are rotated together: halves, in this model.
    pub pairing: Pairing,
    /// Keys that a token sees within a window.
    pub window: usize,
}

/// A matrix `[k, n]` of the numbers that its format stands for.
struct Matrix {
    n: usize,
    /// Rows of a block.
    block: usize,
    numbers: Vec<f32>,
}

struct HostLayer<'a> {
    of: &'a Layer,
    attention: [Matrix; 4],
    feed_forward: [Matrix; 3],
}

/// A model on the host. In `f32` its weights are exact.
pub struct Reference<'a> {
    model: &'a Model,
    layers: Vec<HostLayer<'a>>,
    head: Matrix,
}

impl<'a> Reference<'a> {
    /// Takes 4 bytes for each weight.
    pub fn new(model: &'a Model) -> Reference<'a> {
        let layers = model.layers.iter().map(|layer| HostLayer {
            of: layer,
            attention: layer.attention.each_ref().map(Matrix::of),
            feed_forward: layer.feed_forward.each_ref().map(Matrix::of),
        });
        Reference {
            layers: layers.collect(),
            head: Matrix::of(&model.embedding),
            model,
        }
    }

    /// What is multiplied by the embeddings to give the logits, `[tokens, hidden]`.
    pub fn hidden(&self, tokens: &[u32], variant: Variant) -> Vec<f64> {
        let config = &self.model.config;
        let hidden = config.hidden;
        let factor = f64::from(config.embedding_factor());
        let mut stream = Vec::with_capacity(tokens.len() * hidden);
        for &token in tokens {
            let element =
                |i| factor * f64::from(self.head.numbers[i * self.head.n + token as usize]);
            stream.extend((0..hidden).map(element));
        }
        let round = |numbers: Vec<f64>| variant.round(numbers);
        let add = |stream: Vec<f64>, part: Vec<f64>| {
            variant.round_stream(stream.iter().zip(part).map(|(a, b)| a + b).collect())
        };
        let before_add =
            |x: &[f64], weight: &[f32]| variant.round_stream(self::norm(x, weight, config.eps));
        let norm = |x: &[f64], weight: &[f32]| round(self::norm(x, weight, config.eps));
        stream = variant.round_stream(stream);
        for (i, layer) in self.layers.iter().enumerate() {
            let [before, behind, before_inner, behind_inner] = &layer.of.norms;
            let x = norm(&stream, before);
            let [to_q, to_k, to_v, from_attention] = &layer.attention;
            let product = |w: &Matrix, x: &[f64]| match variant.codes {
                true => w.product(&in_codes(x, w.block), tokens.len()),
                false => w.product(x, tokens.len()),
            };
            let [q, k, v] = [to_q, to_k, to_v].map(|w| round(product(w, &x)));
            let [of_q, of_k] = &layer.of.head_norms;
            let [q, k] = [(q, of_q), (k, of_k)]
                .map(|(x, weight)| round(self.turned(&x, weight, tokens.len(), i, variant)));
            let attended = round(self.attend([&q, &k, &v], tokens.len(), i, variant));
            let part = round(product(from_attention, &attended));
            stream = add(stream, before_add(&part, behind));
            let x = norm(&stream, before_inner);
            let [gate, up, down] = &layer.feed_forward;
            let [gate, up] = [gate, up].map(|w| product(w, &x));
            let inner = gate.iter().zip(up).map(|(&gate, up)| gelu(gate) * up);
            let part = round(product(down, &round(inner.collect())));
            stream = add(stream, before_add(&part, behind_inner));
        }
        let last = norm(&stream, &self.model.norm);
        match variant.codes {
            true => in_codes(&last, self.head.block),
            false => last,
        }
    }

    /// The logits of some rows of [`Reference::hidden`], `[rows, vocab]`.
    pub fn logits(&self, hidden: &[f64]) -> Vec<f64> {
        let rows = hidden.len() / self.model.config.hidden;
        self.head.product(hidden, rows)
    }

    /// Heads of queries or keys, normalised and rotated.
    fn turned(
        &self,
        x: &[f64],
        weight: &[f32],
        tokens: usize,
        layer: usize,
        variant: Variant,
    ) -> Vec<f64> {
        let Config { dim, eps, .. } = self.model.config;
        let base = match self.model.config.is_global(layer) {
            true => self.model.config.global_base,
            false => self.model.config.local_base,
        };
        let frequencies = Angles::new(dim, base).frequencies();
        let mut y = norm(x, weight, eps);
        let heads = x.len() / tokens / dim;
        for (row, head) in y.chunks_mut(dim).enumerate() {
            for (pair, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match variant.pairing {
                    Pairing::Halves => (pair, pair + dim / 2),
                    Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                };
                let (sine, cosine) = ((row / heads) as f64 * frequency).sin_cos();
                (head[a], head[b]) = (
                    head[a] * cosine - head[b] * sine,
                    head[b] * cosine + head[a] * sine,
                );
            }
        }
        y
    }

    /// Softmax of scores over the keys that each token sees, times values.
    fn attend(
        &self,
        [q, k, v]: [&[f64]; 3],
        tokens: usize,
        layer: usize,
        variant: Variant,
    ) -> Vec<f64> {
        let &Config {
            heads,
            kv_heads,
            dim,
            ..
        } = &self.model.config;
        let scale = (dim as f64).sqrt().recip();
        let mut out = vec![0.0; tokens * heads * dim];
        for (row, out) in out.chunks_mut(dim).enumerate() {
            let (token, head) = (row / heads, row % heads);
            let kv_head = head / (heads / kv_heads);
            let of = |x: &'_ [f64], key: usize, i| x[(key * kv_heads + kv_head) * dim + i];
            let first = match self.model.config.is_global(layer) {
                true => 0,
                false => (token + 1).saturating_sub(variant.window),
            };
            let scores: Vec<f64> = (first..=token)
                .map(|key| {
                    let products = (0..dim).map(|i| q[row * dim + i] * of(k, key, i));
                    scale * products.sum::<f64>()
                })
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (key, weight) in (first..=token).zip(variant.round(weights)) {
                for (i, out) in out.iter_mut().enumerate() {
                    *out += weight / sum * of(v, key, i);
                }
            }
        }
        out
    }
}

impl Variant {
    /// The residual stream is rounded as it is scaled on the device.
    fn round_stream(&self, numbers: Vec<f64>) -> Vec<f64> {
        let factor = self
            .rounded
            .map_or(1.0, |dtype| f64::from(stream_factor(dtype)));
        let scaled = self.round(numbers.iter().map(|x| factor * x).collect());
        scaled.iter().map(|x| x / factor).collect()
    }

    fn round(&self, mut numbers: Vec<f64>) -> Vec<f64> {
        match self.rounded {
            Some(DType::BF16) => numbers
                .iter_mut()
                .for_each(|x| *x = bf16::nearest(*x).to_f64()),
            Some(DType::F16) => numbers
                .iter_mut()
                .for_each(|x| *x = f16::nearest(*x).to_f64()),
            _ => {}
        }
        numbers
    }
}

impl Matrix {
    fn of(weight: &Weight) -> Matrix {
        Matrix {
            n: weight.n(),
            block: match weight {
                Weight::Blocks(weight) => weight.format().rows(),
                Weight::Int4(_) => GROUP,
            },
            numbers: weight.dequantize(),
        }
    }

    /// `x·W` of `[rows, k]`, on all processors.
    fn product(&self, x: &[f64], rows: usize) -> Vec<f64> {
        /// Columns whose sums stay near a processor.
        const BLOCK: usize = 256;
        let (n, k) = (self.n, self.numbers.len() / self.n);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = n.div_ceil(BLOCK).div_ceil(threads) * BLOCK;
        let mut y = vec![0.0; rows * n];
        let columns = |first: usize| {
            let end = n.min(first + share);
            let mut part = vec![0.0; rows * (end - first)];
            for begin in (first..end).step_by(BLOCK) {
                let block = begin..end.min(begin + BLOCK);
                let mut sums = vec![0.0; rows * block.len()];
                for i in 0..k {
                    let weights = &self.numbers[i * n..][block.clone()];
                    for (row, sums) in sums.chunks_mut(block.len()).enumerate() {
                        let x = x[row * k + i];
                        let terms = sums.iter_mut().zip(weights);
                        terms.for_each(|(sum, &w)| *sum += x * f64::from(w));
                    }
                }
                for (row, sums) in sums.chunks(block.len()).enumerate() {
                    part[row * (end - first) + begin - first..][..sums.len()].copy_from_slice(sums);
                }
            }
            part
        };
        let parts = std::thread::scope(|scope| {
            let columns = &columns;
            let parts = (0..n).step_by(share);
            let parts = parts.map(|first| (first, scope.spawn(move || columns(first))));
            let parts: Vec<_> = parts.collect();
            let join = |(first, part): (usize, std::thread::ScopedJoinHandle<'_, Vec<f64>>)| {
                (first, part.join().expect("products do not panic"))
            };
            parts.into_iter().map(join).collect::<Vec<_>>()
        });
        for (first, part) in parts {
            let width = part.len() / rows;
            for (row, part) in part.chunks(width).enumerate() {
                y[row * n + first..][..width].copy_from_slice(part);
            }
        }
        y
    }
}

/// Numbers in codes of 8 bits, with a scale for each block.
fn in_codes(x: &[f64], block: usize) -> Vec<f64> {
    let mut y = x.to_vec();
    for block in y.chunks_mut(block) {
        let scale = block.iter().fold(0.0f64, |most, x| most.max(x.abs())) / 127.0;
        if scale > 0.0 {
            block
                .iter_mut()
                .for_each(|x| *x = (*x / scale).round() * scale);
        }
    }
    y
}

/// RMS norm of rows as long as the weights.
pub fn norm(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(weight.len()) {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let factor = (mean + f64::from(eps)).sqrt().recip();
        y.extend(
            row.iter()
                .zip(weight)
                .map(|(x, &w)| x * factor * f64::from(w)),
        );
    }
    y
}

/// By tanh.
pub fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}
