//! Parts of layers on a device, and the same in f64 on the host.

use half::f16;
use infer_kernels::attention::CuSeqLens;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{
    HeadShape, Kv, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, SoftCap, Window,
};
use infer_kernels::elementwise::{NormArgs, NormPlan, NormProblem, NormWeight};
use infer_kernels::gemm::{Activation, GemmArgs, GemmPlan, GemmProblem};
use infer_kernels::kv::{
    Angles, AppendArgs, AppendPlan, AppendProblem, CacheMut, Pairing, Queries, Rotation,
};
use infer_kernels::{Buffer, DType, Device, Element, Float, StatusWord, Stream, Tensor, TensorMut};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Keys on a page.
const PAGE: usize = 16;

/// A matrix `[n, k]` of a linear layer: from `k` inputs to `n` outputs.
pub struct Matrix {
    pub n: usize,
    pub k: usize,
    pub numbers: Vec<f16>,
}

/// What an attention layer is.
#[derive(Clone, Copy)]
pub struct Attention {
    pub heads: HeadShape,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// Keys that a token sees, its own among them.
    pub window: Option<usize>,
    /// Of the rotary angles.
    pub base: f64,
}

/// Random numbers of a model.
pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(StdRng::seed_from_u64(seed))
    }

    /// Uniform, with a standard deviation of `size`.
    pub fn numbers(&mut self, len: usize, size: f64) -> Vec<f64> {
        let most = size * 3f64.sqrt();
        (0..len).map(|_| self.0.random_range(-most..most)).collect()
    }

    pub fn matrix(&mut self, [k, n]: [usize; 2]) -> Matrix {
        let numbers = self.numbers(n * k, (k as f64).sqrt().recip());
        let numbers = numbers.into_iter().map(f16::nearest).collect();
        Matrix { n, k, numbers }
    }

    /// Near `mean`.
    pub fn weights(&mut self, len: usize, mean: f32) -> Vec<f32> {
        let numbers = self.numbers(len, 0.2);
        numbers.into_iter().map(|x| mean + x as f32).collect()
    }
}

/// A device, and what all launches have in common.
pub struct Kernels {
    pub stream: Stream,
    pub status: StatusWord,
}

/// Keys and values of a layer in pages, and the table of its one sequence.
pub struct Cache {
    k: Buffer<f16>,
    v: Buffer<f16>,
    pages: Buffer<u32>,
    /// Tokens there are.
    pub len: usize,
}

impl Kernels {
    pub fn new(device: &Device) -> Result<Kernels> {
        let stream = device.stream();
        let status = StatusWord::new(&stream)?;
        Ok(Kernels { stream, status })
    }

    fn device(&self) -> &Device {
        self.stream.device()
    }

    /// Pages for so many tokens, the last ones first.
    pub fn cache(&self, tokens: usize, heads: HeadShape) -> Result<Cache> {
        let pages = tokens.div_ceil(PAGE);
        let elements = pages * PAGE * heads.kv * heads.dim;
        Ok(Cache {
            k: self.stream.alloc(elements)?,
            v: self.stream.alloc(elements)?,
            pages: self
                .stream
                .upload(&(0..pages as u32).rev().collect::<Vec<_>>())?,
            len: 0,
        })
    }

    /// Rows of `x`, normalised; what joins a residual stream first if there is one.
    pub fn norm(
        &self,
        x: &Buffer<f16>,
        residual: Option<&mut Buffer<f16>>,
        weight: &[f32],
        kind: NormWeight,
        eps: f32,
    ) -> Result<Buffer<f16>> {
        let (dim, len) = (weight.len(), x.len());
        let problem = NormProblem::new(DType::F16, dim, eps)
            .weight(kind)
            .residual(residual.is_some());
        let mut y = self.stream.alloc(len)?;
        let weight = self.stream.upload(weight)?;
        let shape = [len / dim, 1, dim];
        let args =
            NormArgs::new(x.tensor(shape)?, y.tensor_mut(shape)?).weight(weight.tensor([dim])?);
        let args = match residual {
            Some(stream) => args.residual(stream.tensor_mut(shape)?),
            None => args,
        };
        NormPlan::new(self.device(), &problem)?.run(&self.stream, args)?;
        Ok(y)
    }

    /// `x·W`, as `f16` or `f32`.
    pub fn product<O: Float>(&self, x: &Buffer<f16>, w: &Matrix) -> Result<Buffer<O>> {
        let problem = GemmProblem::new(DType::F16, x.len() / w.k, w.n, w.k).out(O::DTYPE);
        self.multiply(x, &problem, [w, w])
    }

    /// `activation(x·gate) · (x·up)`.
    pub fn gated(
        &self,
        x: &Buffer<f16>,
        [gate, up]: [&Matrix; 2],
        activation: Activation,
    ) -> Result<Buffer<f16>> {
        let problem = GemmProblem::new(DType::F16, x.len() / gate.k, gate.n, gate.k);
        let problem = problem.gated(true).activation(activation);
        self.multiply(x, &problem, [gate, up])
    }

    fn multiply<O: Float>(
        &self,
        x: &Buffer<f16>,
        problem: &GemmProblem,
        weights: [&Matrix; 2],
    ) -> Result<Buffer<O>> {
        let plan = GemmPlan::new(self.device(), problem)?;
        let [w, up] = weights.map(|w| self.stream.upload(&w.numbers));
        let (w, up) = (w?, up?);
        let (m, n, k) = (problem.max_m, problem.n, problem.k);
        let mut y = self.stream.alloc(m * n)?;
        let mut workspace = self.stream.alloc::<f32>(plan.workspace_elements())?;
        let w_up = match problem.gated {
            true => Some(up.tensor([n, k])?),
            false => None,
        };
        let args = GemmArgs {
            w_up,
            workspace: Some(all_mut(&mut workspace)?),
            ..GemmArgs::new(x.tensor([m, k])?, w.tensor([n, k])?, y.tensor_mut([m, n])?)
        };
        plan.run(&self.stream, args)?;
        Ok(y)
    }

    /// Rotates queries and keys, stores keys and values, and attends to everything in the cache: a
    /// prompt by the prefill kernel, a token by the one for decoding.
    pub fn attend(
        &self,
        layer: &Attention,
        cache: &mut Cache,
        [mut q, k, v]: [Buffer<f16>; 3],
    ) -> Result<Buffer<f16>> {
        let (heads, stream) = (layer.heads, &self.stream);
        let HeadShape { query, kv, dim } = heads;
        let (rows, first) = (q.len() / query / dim, cache.len);
        cache.len += rows;
        let pages = cache.pages.len();
        let places = first..cache.len;
        let slot = |at: usize| ((pages - 1 - at / PAGE) * PAGE + at % PAGE) as i64;
        let slots = stream.upload(&places.clone().map(slot).collect::<Vec<_>>())?;
        let positions = stream.upload(&places.map(|at| at as i64).collect::<Vec<_>>())?;
        let [cosines, sines] = Angles::new(dim, layer.base).tables(cache.len);
        let (cosines, sines) = (stream.upload(&cosines)?, stream.upload(&sines)?);
        let angles = [cache.len, dim / 2];
        let problem = AppendProblem::new(DType::F16, kv, dim)
            .query_heads(query)
            .rope(Pairing::Halves, dim);
        let pool = [pages, PAGE, kv, dim];
        let pools = CacheMut::Rows {
            k: cache.k.tensor_mut(pool)?,
            v: cache.v.tensor_mut(pool)?,
        };
        let (shape, new) = ([rows, query, dim], [rows, kv, dim]);
        let (k, v) = (k.tensor(new)?, v.tensor(new)?);
        let args = AppendArgs::new(k, v, pools, all(&slots)?, &self.status)
            .queries(Queries::InPlace(q.tensor_mut(shape)?))
            .rotation(Rotation {
                positions: all(&positions)?,
                cosines: cosines.tensor(angles)?,
                sines: sines.tensor(angles)?,
            });
        AppendPlan::new(self.device(), &problem)?.run(stream, args)?;

        let problem = PrefillProblem::new(DType::F16, heads, 1, rows)
            .paged(PAGE)
            .causal(true)
            .scale(layer.scale)
            .softcap(layer.softcap.map(SoftCap::Exact))
            .window(
                layer
                    .window
                    .map_or(Window::ALL, |keys| Window::left(keys - 1)),
            );
        let lens = stream.upload(&[cache.len as i32])?;
        let keys = Kv::Paged {
            k: cache.k.tensor(pool)?,
            v: cache.v.tensor(pool)?,
            pages: PageTable::Rows(cache.pages.tensor([1, pages])?),
            seqlens: all(&lens)?,
        };
        let mut out = stream.alloc(q.len())?;
        let (q, y) = (q.tensor(shape)?, out.tensor_mut(shape)?);
        if rows > 1 {
            let offsets = stream.upload(&[0, rows as i32])?;
            let offsets = CuSeqLens::Device(all(&offsets)?);
            let args = PrefillArgs::new(q, keys, y, offsets, &self.status);
            PrefillPlan::new(self.device(), &problem)?.run(stream, args)?;
        } else {
            let plan = DecodePlan::new(self.device(), &DecodeProblem::of(problem).blocks(2))?;
            let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
            let workspace = all_mut(&mut workspace)?;
            plan.run(stream, DecodeArgs::new(q, keys, y, workspace, &self.status))?;
        }
        Ok(out)
    }
}

pub fn all<T: Element>(buffer: &Buffer<T>) -> Result<Tensor<'_, 1>> {
    Ok(buffer.tensor([buffer.len()])?)
}

pub fn all_mut<T: Element>(buffer: &mut Buffer<T>) -> Result<TensorMut<'_, 1>> {
    Ok(buffer.tensor_mut([buffer.len()])?)
}

/// The host: everything that kernels hand on in memory is rounded, or nothing is.
#[derive(Clone, Copy)]
pub struct Host {
    pub rounded: bool,
}

impl Host {
    pub fn round(self, mut x: Vec<f64>) -> Vec<f64> {
        if self.rounded {
            x.iter_mut().for_each(|x| *x = f16::nearest(*x).to_f64());
        }
        x
    }

    /// The sum of both.
    pub fn add(self, x: &[f64], y: &[f64]) -> Vec<f64> {
        self.round(x.iter().zip(y).map(|(x, y)| x + y).collect())
    }

    /// Rotated queries and keys, then attention of all tokens of a sequence.
    pub fn attend(self, layer: &Attention, [q, k, v]: [Vec<f64>; 3]) -> Vec<f64> {
        let HeadShape { query, kv, dim } = layer.heads;
        let [q, k] = [(q, query), (k, kv)].map(|(x, heads)| self.rotated(layer, x, heads));
        let mut out = vec![0.0; q.len()];
        for (row, out) in out.chunks_mut(dim).enumerate() {
            let (token, head) = (row / query, row % query / (query / kv));
            let at = |key: usize| (key * kv + head) * dim;
            let first = layer
                .window
                .map_or(0, |keys| (token + 1).saturating_sub(keys));
            let score = |key: usize| {
                let products = (0..dim).map(|i| q[row * dim + i] * k[at(key) + i]);
                let score = f64::from(layer.scale) * products.sum::<f64>();
                match layer.softcap.map(f64::from) {
                    Some(cap) => cap * (score / cap).tanh(),
                    None => score,
                }
            };
            let scores: Vec<f64> = (first..=token).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (key, weight) in (first..=token).zip(self.round(weights)) {
                let v = &v[at(key)..][..dim];
                out.iter_mut()
                    .zip(v)
                    .for_each(|(out, v)| *out += weight / sum * v);
            }
        }
        self.round(out)
    }

    fn rotated(self, layer: &Attention, mut x: Vec<f64>, heads: usize) -> Vec<f64> {
        let dim = layer.heads.dim;
        let frequencies = Angles::new(dim, layer.base).frequencies();
        for (row, head) in x.chunks_mut(dim).enumerate() {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sine, cosine) = ((row / heads) as f64 * frequency).sin_cos();
                let (a, b) = (head[i], head[i + dim / 2]);
                head[i] = a * cosine - b * sine;
                head[i + dim / 2] = b * cosine + a * sine;
            }
        }
        self.round(x)
    }
}

/// `x·W` of weights `[n, k]`, not rounded.
pub fn product(x: &[f64], [k, n]: [usize; 2], w: impl Fn(usize) -> f64) -> Vec<f64> {
    let w: Vec<f64> = (0..n * k).map(w).collect();
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    let rows = x.chunks(k);
    rows.flat_map(|x| w.chunks(k).map(move |w| dot(x, w)).collect::<Vec<f64>>())
        .collect()
}

impl Matrix {
    /// `x·W`, not rounded.
    pub fn product(&self, x: &[f64]) -> Vec<f64> {
        product(x, [self.k, self.n], |at| self.numbers[at].to_f64())
    }
}

pub fn exact(x: &[f16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// Every number of a layer's result is as near to f64 as twice the largest distance of the rounded run.
/// Gives that distance.
pub fn judge(name: &str, got: &[f16], exact: &[f64], rounded: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let bound = 2.0 * super::furthest(rounded.iter().copied(), exact);
    let error = super::furthest(got.iter().map(|x| x.to_f64()), exact);
    println!("{name}: off by at most {error:.5} of {bound:.5}");
    assert!(error <= bound, "{name}: off by {error}, {bound} allowed");
    bound
}
