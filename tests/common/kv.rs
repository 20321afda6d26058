//! An append: operands in random layouts, run on a device and judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use std::error::Error;

use infer_kernels::kv::{
    AppendArgs, AppendPlan, AppendProblem, Format, Norm, Pairing, Queries, RotateArgs, RotatePlan,
    RotateProblem, Rotation, Scales, Weights,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::kv::{
    AppendInputs, AppendOutput, append, append_rounded, decode, encode,
};
use infer_kernels::{
    Buffer, Device, Element, Float, StatusReport, StatusWord, Stream, TensorError, TensorMut,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::cache::{HostCache, Indices, LAYOUTS, Layout};
use super::operand::{Arrangement, Operand, indices};

/// How queries are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QueryMode {
    None,
    InPlace,
    To(Arrangement),
}

/// What to append, and to what.
#[derive(Clone, Debug)]
pub struct Case<T> {
    pub problem: AppendProblem,
    pub cache: HostCache,
    pub q: Operand<T>,
    pub queries: QueryMode,
    pub k: Operand<T>,
    pub v: Operand<T>,
    pub slots: Vec<i64>,
    pub positions: Vec<i64>,
    pub wide: [bool; 2],
    /// Cosines and sines by position, in one row of `2 · half` each.
    pub angles: Vec<f32>,
    pub half: usize,
    pub angles_are_f32: bool,
    /// Elements before the first row, and between rows.
    pub table_gap: usize,
    pub weights: [Vec<f32>; 2],
    pub weights_are_f32: bool,
    pub scales: [Vec<f32>; 2],
    pub hostile: bool,
}

/// What a run left behind: bytes of the cache, rotated queries, what was reported.
pub struct Outcome<T> {
    pub cache: [Vec<u8>; 2],
    pub q: Operand<T>,
    pub status: StatusReport,
}

/// What a rotation left behind, laid out as the case's operands are.
pub struct Rotated<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub status: StatusReport,
}

fn laid_mut<'b, T: Float>(
    buffer: &'b mut Buffer<T>,
    rows: &Operand<T>,
) -> Result<TensorMut<'b, 3>, TensorError> {
    let region = buffer.region_mut();
    region.strided(rows.offset, rows.shape, rows.strides)
}

/// What a cache holds before.
const UNTOUCHED: u8 = 0xa5;

const DIMS: &[usize] = &[8, 16, 24, 40, 64, 72, 80, 96, 104, 128, 128, 160, 192, 256];

impl<T: Float> Case<T> {
    /// A case of its seed, of every kind of shape, layout and option.
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let tokens = [0, 1, 2, 3, 7, 16, 29][rng.random_range(0..7)];
        let heads = [1, 1, 2, 3, 5, 8][rng.random_range(0..6)];
        let formats = [Format::Same, Format::E4m3, Format::E5m2, Format::Int8];
        let format = formats[rng.random_range(0..4)];
        let layout = LAYOUTS[rng.random_range(0..4)];
        let size = format.size(T::DTYPE);
        let dim = |rng: &mut StdRng| {
            let dim = DIMS[rng.random_range(0..DIMS.len())];
            match layout == Layout::SplitX && size == 1 {
                true => dim.next_multiple_of(16),
                false => dim,
            }
        };
        let key_dim = dim(rng);
        let v_dim = match layout != Layout::Combined && rng.random_bool(0.3) {
            true => dim(rng),
            false => key_dim,
        };
        let query_heads = [0, heads, 3 * heads, 7][rng.random_range(0..4)];
        let mut problem = AppendProblem::new(T::DTYPE, heads, key_dim)
            .v_dim(v_dim)
            .query_heads(query_heads)
            .format(format)
            .padding(rng.random_bool(0.5));
        if rng.random_bool(0.7) {
            let pairing = [Pairing::Halves, Pairing::Interleaved][rng.random_range(0..2)];
            let rotary = match rng.random_range(0..3) {
                0 => key_dim,
                1 => 2 * rng.random_range(1..=key_dim / 2),
                _ => (key_dim / 2).max(2),
            };
            problem = problem.rope(pairing, rotary);
        }
        if rng.random_bool(0.4) {
            problem = problem.norm(Norm {
                eps: 1e-6,
                plus_one: rng.random_bool(0.5),
            });
        }
        Self::of(rng, problem, layout, tokens)
    }

    /// A case of this problem with random operands. Slots are in range, but for some.
    pub fn of(rng: &mut StdRng, problem: AppendProblem, layout: Layout, tokens: usize) -> Self {
        let (heads, dim, v_dim) = (problem.heads, problem.dim, problem.v_dim);
        let size = problem.format.size(T::DTYPE);
        let page_size = [1, 1, 3, 5, 16, 16, 32][rng.random_range(0..7)];
        let pages = (tokens + 4).div_ceil(page_size) + rng.random_range(0..3);
        let shape = [pages, page_size, heads];
        let cache = HostCache::new(layout, shape, [dim, v_dim], size, rng.random_range(0..3));
        let operand = |rng: &mut StdRng, shape| {
            let arrangement = Arrangement::random(rng);
            Operand::filled(shape, arrangement, |_| StandardNormal.sample(rng))
        };
        let mut slots: Vec<i64> = (0..(pages * page_size) as i64).collect();
        slots.shuffle(rng);
        slots.truncate(tokens);
        let table_rows = 40;
        let half = problem.rope.map_or(0, |rope| rope.dim / 2);
        let angles = (0..table_rows * 2 * half)
            .map(|i| {
                let (row, column) = (i / (2 * half), i % (2 * half));
                let angle = row as f64 * 100f64.powf(-((column % half) as f64) / half as f64);
                let (sine, cosine) = angle.sin_cos();
                T::nearest(if column < half { cosine } else { sine }).to_f64() as f32
            })
            .collect();
        let numbers = |rng: &mut StdRng, len: usize, scale: f64| -> Vec<f32> {
            let number = |x: f64| T::nearest(x * scale).to_f64() as f32;
            (0..len)
                .map(|_| number(StandardNormal.sample(&mut *rng)))
                .collect()
        };
        let queries = match (problem.query_heads, rng.random_bool(0.5)) {
            (0, _) => QueryMode::None,
            (_, true) => QueryMode::InPlace,
            (_, false) => QueryMode::To(Arrangement::random(rng)),
        };
        let scale_len = match problem.format {
            Format::Same => 0,
            _ => [1, heads][rng.random_range(0..2)],
        };
        // Such that all of a format's range comes up, and what is beyond.
        let most = match problem.format {
            Format::E4m3 => 3e-3,
            Format::E5m2 => 3e-5,
            _ => 2e-2,
        };
        let mut scales = || -> Vec<f32> {
            (0..scale_len)
                .map(|_| most * 10f32.powf(rng.random_range(0.0..3.0)))
                .collect()
        };
        let scales = [scales(), scales()];
        Case {
            q: operand(rng, [tokens, problem.query_heads, dim]),
            queries,
            k: operand(rng, [tokens, heads, dim]),
            v: operand(rng, [tokens, heads, v_dim]),
            slots,
            positions: (0..tokens)
                .map(|_| rng.random_range(0..table_rows as i64))
                .collect(),
            wide: [rng.random_bool(0.5), rng.random_bool(0.5)],
            angles,
            half,
            angles_are_f32: rng.random_bool(0.5),
            table_gap: [0, 0, 1, 8][rng.random_range(0..4)],
            weights: [numbers(rng, dim, 1.0), numbers(rng, dim, 1.0)],
            weights_are_f32: rng.random_bool(0.5),
            scales,
            hostile: false,
            problem,
            cache,
        }
    }

    fn table_row(&self) -> usize {
        2 * self.half + self.table_gap
    }

    /// The table as it is in memory: gaps hold NaN.
    fn table(&self) -> Vec<f32> {
        let rows = match self.half {
            0 => 0,
            half => self.angles.len() / (2 * half),
        };
        let mut table = vec![f32::NAN; self.table_gap + rows * self.table_row()];
        for row in 0..rows {
            let at = self.table_gap + row * self.table_row();
            table[at..at + 2 * self.half]
                .copy_from_slice(&self.angles[row * 2 * self.half..][..2 * self.half]);
        }
        table
    }

    pub fn inputs(&self) -> AppendInputs<'_, T> {
        let rows = match self.half {
            0 => 0,
            half => self.angles.len() / (2 * half),
        };
        let shape = [rows, self.half];
        let strides = [2 * self.half as i64, 1];
        let angles = |first| HostTensor::strided(&self.angles, first, shape, strides).unwrap();
        AppendInputs {
            q: (self.problem.query_heads > 0).then(|| self.q.host()),
            k: self.k.host(),
            v: self.v.host(),
            slots: &self.slots,
            num_slots: self.cache.pages * self.cache.page_size,
            positions: &self.positions,
            angles: self.problem.rope.map(|_| [angles(0), angles(self.half)]),
            weights: [&self.weights[0], &self.weights[1]],
            scales: [&self.scales[0], &self.scales[1]],
        }
    }

    /// Runs the case.
    pub fn run(&self, device: &Device) -> Result<Outcome<T>, Box<dyn Error>> {
        match self.problem.format {
            Format::Same => self.run_in::<T>(device),
            Format::Int8 if self.slots.len() % 2 == 1 => self.run_in::<i8>(device),
            _ => self.run_in::<u8>(device),
        }
    }

    /// What becomes of queries and keys without a cache: in place, or of a copy in the same layout.
    pub fn rotate(&self, device: &Device, in_place: bool) -> Result<Rotated<T>, Box<dyn Error>> {
        let stream = device.stream();
        let (append, rope) = (&self.problem, self.problem.rope.expect("a rotation"));
        let mut problem = RotateProblem::new(T::DTYPE, append.heads, append.dim, rope.pairing)
            .rotary_dim(rope.dim)
            .query_heads(append.query_heads);
        problem.norm = append.norm;
        let plan = RotatePlan::new(device, &problem)?;
        let status = StatusWord::new(&stream)?;
        let positions = Indices::new(&stream, &self.positions, self.wide[1])?;
        if let (true, Some(emulator)) = (self.hostile, device.as_emulator()) {
            positions.mark_hostile(emulator);
        }
        let table = Numbers::<T>::new(&stream, &self.table(), self.angles_are_f32)?;
        let rows = self.angles.len() / (2 * self.half);
        let of_table = |at| table.matrix(at, [rows, self.half], self.table_row());
        let rotation = Rotation {
            positions: positions.tensor(self.positions.len())?,
            cosines: of_table(self.table_gap)?,
            sines: of_table(self.table_gap + self.half)?,
        };
        let weights =
            [0, 1].map(|i| Numbers::<T>::new(&stream, &self.weights[i], self.weights_are_f32));
        let [weights_q, weights_k] = weights;
        let (weights_q, weights_k) = (weights_q?, weights_k?);
        let (from_q, from_k) = (stream.upload(&self.q.data)?, stream.upload(&self.k.data)?);
        let (mut q, mut k) = (stream.upload(&self.q.data)?, stream.upload(&self.k.data)?);
        let keys = match in_place {
            true => Queries::InPlace(laid_mut(&mut k, &self.k)?),
            false => Queries::To {
                q: strided(&from_k, &self.k)?,
                out: laid_mut(&mut k, &self.k)?,
            },
        };
        let mut args = RotateArgs::new(keys, rotation, &status);
        if append.query_heads > 0 {
            args = args.queries(match in_place {
                true => Queries::InPlace(laid_mut(&mut q, &self.q)?),
                false => Queries::To {
                    q: strided(&from_q, &self.q)?,
                    out: laid_mut(&mut q, &self.q)?,
                },
            });
        }
        if append.norm.is_some() {
            let dim = append.dim;
            args = args.weights(Weights {
                k: weights_k.vector(dim)?,
                q: (append.query_heads > 0)
                    .then(|| weights_q.vector(dim))
                    .transpose()?,
            });
        }
        plan.run(&stream, args)?;
        Ok(Rotated {
            q: q.download()?,
            k: k.download()?,
            status: status.read()?,
        })
    }

    fn run_in<E: Element>(&self, device: &Device) -> Result<Outcome<T>, Box<dyn Error>> {
        let stream = device.stream();
        let plan = AppendPlan::new(device, &self.problem)?;
        let status = StatusWord::new(&stream)?;
        let fill: E = bytemuck::pod_read_unaligned(&vec![UNTOUCHED; E::DTYPE.size()]);
        let mut caches = [
            stream.upload(&vec![fill; self.cache.len[0]])?,
            stream.upload(&vec![fill; self.cache.len[1]])?,
        ];
        let (k, v) = (stream.upload(&self.k.data)?, stream.upload(&self.v.data)?);
        let mut q = stream.upload(&self.q.data)?;
        let mut out = match self.queries {
            QueryMode::To(arrangement) => Operand::new(self.q.shape, arrangement),
            _ => self.q.clone(),
        };
        let mut out_buffer = stream.upload(&out.data)?;
        let slots = Indices::new(&stream, &self.slots, self.wide[0])?;
        let positions = Indices::new(&stream, &self.positions, self.wide[1])?;
        let table = Numbers::<T>::new(&stream, &self.table(), self.angles_are_f32)?;
        let weights =
            [0, 1].map(|i| Numbers::<T>::new(&stream, &self.weights[i], self.weights_are_f32));
        let [weights_q, weights_k] = weights;
        let (weights_q, weights_k) = (weights_q?, weights_k?);
        let scales = [
            stream.upload(&self.scales[0])?,
            stream.upload(&self.scales[1])?,
        ];
        if self.hostile
            && let Some(emulator) = device.as_emulator()
        {
            slots.mark_hostile(emulator);
            positions.mark_hostile(emulator);
        }
        {
            let [of_k, of_v] = &mut caches;
            let mut args = AppendArgs::new(
                strided(&k, &self.k)?,
                strided(&v, &self.v)?,
                self.cache.over([of_k, of_v]),
                slots.tensor(self.slots.len())?,
                &status,
            );
            if self.problem.rope.is_some() {
                let rows = self.angles.len() / (2 * self.half);
                let shape = [rows, self.half];
                args = args.rotation(Rotation {
                    positions: positions.tensor(self.positions.len())?,
                    cosines: table.matrix(self.table_gap, shape, self.table_row())?,
                    sines: table.matrix(self.table_gap + self.half, shape, self.table_row())?,
                });
            }
            if self.problem.norm.is_some() {
                args = args.weights(Weights {
                    k: weights_k.vector(self.problem.dim)?,
                    q: match self.problem.query_heads {
                        0 => None,
                        _ => Some(weights_q.vector(self.problem.dim)?),
                    },
                });
            }
            if self.problem.format != Format::Same {
                args = args.scales(Scales {
                    k: scales[0].tensor([self.scales[0].len()])?,
                    v: scales[1].tensor([self.scales[1].len()])?,
                });
            }
            let of = |operand: &Operand<T>| (operand.offset, operand.shape, operand.strides);
            args = match self.queries {
                QueryMode::None => args,
                QueryMode::InPlace => {
                    let (offset, shape, strides) = of(&self.q);
                    args.queries(Queries::InPlace(
                        q.region_mut().strided(offset, shape, strides)?,
                    ))
                }
                QueryMode::To(_) => {
                    let (offset, shape, strides) = of(&out);
                    args.queries(Queries::To {
                        q: strided(&q, &self.q)?,
                        out: out_buffer.region_mut().strided(offset, shape, strides)?,
                    })
                }
            };
            plan.run(&stream, args)?;
        }
        out.data = match self.queries {
            QueryMode::InPlace => q.download()?,
            _ => out_buffer.download()?,
        };
        let bytes = |buffer: &Buffer<E>| -> Result<Vec<u8>, Box<dyn Error>> {
            Ok(bytemuck::cast_slice(&buffer.download()?).to_vec())
        };
        Ok(Outcome {
            cache: [bytes(&caches[0])?, bytes(&caches[1])?],
            q: out,
            status: status.read()?,
        })
    }

    /// Runs the case and compares with the reference: the share of cases' bounds does not matter, as
    /// bits must agree where there is no norm.
    pub fn check(&self, device: &Device) -> Result<StatusReport, Box<dyn Error>> {
        let outcome = self.run(device)?;
        self.judge(&outcome)?;
        Ok(outcome.status)
    }

    pub fn judge(&self, outcome: &Outcome<T>) -> Result<(), Box<dyn Error>> {
        let (exact, rounded) = (
            append(&self.problem, self.inputs()),
            append_rounded(&self.problem, self.inputs()),
        );
        if outcome.status != rounded.status {
            return Err(format!("status {}, expected {}", outcome.status, rounded.status).into());
        }
        self.references_agree(&exact, &rounded)?;
        let wrong = |what: &str, index: [usize; 3], got: f64, [low, high]: [f64; 2]| {
            Err(format!("{what} {index:?} is {got}, expected {low} to {high}").into())
        };

        // Queries.
        if self.queries != QueryMode::None {
            let mut expected_gaps = outcome.q.clone();
            for (at, index) in indices(self.q.shape).enumerate() {
                let place = outcome.q.at(index);
                let got = outcome.q.data[place].to_f64();
                let bounds = match (rounded.done[index[0]], self.queries) {
                    (true, _) => self.bounds(&rounded, 0, at, |x| T::nearest(x).to_f64()),
                    (false, QueryMode::InPlace) => [self.q.data[self.q.at(index)].to_f64(); 2],
                    (false, _) => [f64::NAN; 2],
                };
                if !within(got, bounds) {
                    return wrong("query", index, got, bounds);
                }
                expected_gaps.data[place] = T::nearest(f64::NAN);
            }
            if let Some(at) = expected_gaps.data.iter().position(|x| !x.to_f64().is_nan()) {
                return Err(format!("a gap of the queries was written, element {at}").into());
            }
        }

        // The cache: what was stored, then everything else.
        let mut left = outcome.cache.clone();
        for (part, dim) in [(1, self.problem.dim), (2, self.problem.v_dim)] {
            let shape = [self.slots.len(), self.problem.heads, dim];
            for (at, index) in indices(shape).enumerate() {
                let [token, head, d] = index;
                let Some(slot) = rounded.slots[token] else {
                    continue;
                };
                let (allocation, element) = self.cache.index(part - 1, slot, head, d);
                let size = self.cache.size;
                let bytes = &mut left[allocation][element * size..][..size];
                let (got, bounds) = match self.problem.format {
                    Format::Same => (
                        bytemuck::pod_read_unaligned::<T>(bytes).to_f64(),
                        self.bounds(&rounded, part, at, |x| T::nearest(x).to_f64()),
                    ),
                    format => (
                        decode(format, bytes[0]),
                        self.bounds(&rounded, part, at, |x| decode(format, encode(format, x))),
                    ),
                };
                if !within(got, bounds) {
                    let what = ["", "key", "value"][part];
                    return wrong(what, index, got, bounds);
                }
                bytes.fill(UNTOUCHED);
            }
        }
        for (allocation, bytes) in left.iter().enumerate() {
            if let Some(at) = bytes.iter().position(|&byte| byte != UNTOUCHED) {
                return Err(format!("byte {at} of allocation {allocation} was written").into());
            }
        }
        Ok(())
    }

    /// What an element may be: one value, unless a norm's root was approximated.
    fn bounds(
        &self,
        rounded: &AppendOutput,
        part: usize,
        at: usize,
        round: impl Fn(f64) -> f64,
    ) -> [f64; 2] {
        let (x, terms) = (rounded.rows[part][at], rounded.terms[part][at]);
        let normalised = self.problem.norm.is_some() && part < 2;
        let slack = if normalised {
            terms * 2f64.powi(-20)
        } else {
            0.0
        };
        [round(x - slack), round(x + slack)]
    }

    /// The reference in f32 against the one that rounds nothing.
    fn references_agree(&self, exact: &AppendOutput, rounded: &AppendOutput) -> Result<(), String> {
        for part in 0..3 {
            for (at, (x, y)) in exact.rows[part].iter().zip(&rounded.rows[part]).enumerate() {
                let bound = exact.terms[part][at] * 2f64.powi(-20);
                if (x - y).abs() > bound {
                    return Err(format!(
                        "part {part}, element {at}: {y} in f32, {x} exactly"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn within(got: f64, [low, high]: [f64; 2]) -> bool {
    low <= got && got <= high || got.is_nan() && low.is_nan() && high.is_nan()
}

fn strided<'b, T: Float>(
    buffer: &'b Buffer<T>,
    operand: &Operand<T>,
) -> Result<infer_kernels::Tensor<'b, 3>, Box<dyn Error>> {
    let region = buffer.region();
    Ok(region.strided(operand.offset, operand.shape, operand.strides)?)
}

/// Numbers in f32 or in the elements' type.
pub enum Numbers<T: Float> {
    F32(Buffer<f32>),
    Same(Buffer<T>),
}

impl<T: Float> Numbers<T> {
    fn new(stream: &Stream, numbers: &[f32], f32: bool) -> Result<Self, Box<dyn Error>> {
        let same: Vec<T> = numbers.iter().map(|&x| T::nearest(f64::from(x))).collect();
        Ok(match f32 {
            true => Numbers::F32(stream.upload(numbers)?),
            false => Numbers::Same(stream.upload(&same)?),
        })
    }

    fn vector(&self, len: usize) -> Result<infer_kernels::Tensor<'_, 1>, Box<dyn Error>> {
        Ok(match self {
            Numbers::F32(buffer) => buffer.tensor([len])?,
            Numbers::Same(buffer) => buffer.tensor([len])?,
        })
    }

    fn matrix(
        &self,
        first: usize,
        shape: [usize; 2],
        row: usize,
    ) -> Result<infer_kernels::Tensor<'_, 2>, Box<dyn Error>> {
        let strides = [row as i64, 1];
        Ok(match self {
            Numbers::F32(buffer) => buffer.region().strided(first, shape, strides)?,
            Numbers::Same(buffer) => buffer.region().strided(first, shape, strides)?,
        })
    }
}
