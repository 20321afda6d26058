//! Cases of the elementwise operations: operands in random layouts, run on a device and judged by the
//! reference.
#![allow(dead_code, reason = "each test file uses a part")]

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::elementwise::{
    EmbedArgs, EmbedPlan, EmbedProblem, NormArgs, NormPlan, NormProblem, NormWeight, PointwiseArgs,
    PointwisePlan, PointwiseProblem, Rows, Second, Table, TableFormat,
};
use infer_kernels::gemm::Activation;
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::elementwise::{EmbedInputs, NormInputs, embed, norm, pointwise};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{
    Buffer, DType, Device, DeviceError, Element, Float, Region, StatusReport, StatusWord, Stream,
    Tensor, TensorError, TensorMut,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::{Arrangement, Operand, indices};

const DIMS: &[usize] = &[
    1, 2, 7, 8, 9, 16, 24, 31, 63, 64, 65, 80, 96, 128, 200, 256, 257, 264, 511, 640, 1000, 1024,
];
const LONG: &[usize] = &[2048, 2880, 4096, 4097, 5376, 8200, 12_288, 16_383, 16_384];

fn dim(rng: &mut StdRng, long: f64) -> usize {
    let of = if rng.random_bool(long) { LONG } else { DIMS };
    of[rng.random_range(0..of.len())]
}

/// Rows at multiples of 16 bytes, standard normal numbers times a scale for each row.
fn rows<T: Float>(rng: &mut StdRng, shape: [usize; 3]) -> Operand<T> {
    let mut arrangement = Arrangement::random(rng);
    let odd = !shape[2].is_multiple_of(8);
    if odd {
        // No layout without gaps has its rows at multiples of 16 bytes.
        let pad = shape[2].next_multiple_of(8) - shape[2];
        arrangement = match arrangement {
            Arrangement::HeadMajor { offset, token_pad } => Arrangement::HeadMajor {
                offset,
                token_pad: token_pad + pad,
            },
            _ => Arrangement::Padded {
                offset: 0,
                head_pad: pad,
                token_pad: 8,
            },
        };
    }
    let scale = 2f64.powi(rng.random_range(-6..6));
    Operand::filled(shape, arrangement, |_| {
        let x: f64 = StandardNormal.sample(rng);
        scale * x
    })
}

/// The elements of an operand after a run, without gaps. Those must be as they were.
fn dense<T: Float>(operand: &Operand<T>, data: &[T]) -> Vec<T> {
    let mut inside = vec![false; data.len()];
    let elements = indices(operand.shape).map(|index| {
        inside[operand.at(index)] = true;
        data[operand.at(index)]
    });
    let elements = elements.collect();
    for (at, inside) in inside.iter().enumerate() {
        let kept = bytemuck::bytes_of(&data[at]) == bytemuck::bytes_of(&operand.data[at]);
        assert!(*inside || kept, "the kernel wrote between the rows");
    }
    elements
}

fn judge<T: Float>(
    got: &[T],
    exact: &[f64],
    terms: &[f64],
    share: f64,
    row: usize,
) -> Result<Margin, Box<dyn Error>> {
    let rounded: Vec<f64> = exact.iter().map(|&y| T::nearest(y).to_f64()).collect();
    let rule = Rule {
        per_term: share / (1u64 << 24) as f64,
        row: row.max(1),
        ..Rule::ROUNDED
    };
    Ok(Comparison {
        got,
        exact,
        rounded: &rounded,
        terms,
        allowed: &vec![0.0; got.len()],
    }
    .judge(rule)?)
}

/// Weights of either type.
#[derive(Clone, Debug)]
pub enum Weights<T> {
    Same(Vec<T>),
    F32(Vec<f32>),
}

impl<T: Float> Weights<T> {
    fn exact(&self) -> Vec<f64> {
        match self {
            Weights::Same(weights) => weights.iter().map(|w| w.to_f64()).collect(),
            Weights::F32(weights) => weights.iter().map(|&w| f64::from(w)).collect(),
        }
    }
}

/// A norm's result, and the residual stream behind it.
pub type Normed<T> = (Vec<T>, Option<Vec<T>>);

/// A norm: what, and on what.
#[derive(Clone, Debug)]
pub struct NormCase<T> {
    pub problem: NormProblem,
    pub x: Operand<T>,
    /// Where the result goes; `None`: in place.
    pub y: Option<Operand<T>>,
    pub residual: Option<Operand<T>>,
    pub weight: Option<Weights<T>>,
}

impl<T: Float> NormCase<T> {
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let dim = dim(rng, 0.2);
        let heads = if dim > 300 { 1 } else { rng.random_range(1..5) };
        let tokens = [0, 1, 2, 3, 17][rng.random_range(0..if dim > 2000 { 4 } else { 5 })];
        let weight = [NormWeight::None, NormWeight::Plain, NormWeight::PlusOne];
        let problem = NormProblem::new(T::DTYPE, dim, [0.0, 1e-6, 1e-5, 0.5][seed as usize % 4])
            .weight(weight[rng.random_range(0..3)])
            .residual(rng.random_bool(0.4));
        Self::of(rng, problem, [tokens, heads])
    }

    pub fn of(rng: &mut StdRng, problem: NormProblem, [tokens, heads]: [usize; 2]) -> Self {
        let shape = [tokens, heads, problem.dim];
        let mut numbers = |scale: f64| -> Vec<f64> {
            let numbers = StandardNormal.sample_iter(&mut *rng).take(problem.dim);
            numbers.map(|x: f64| scale * x).collect()
        };
        let weights = numbers(0.3);
        let weight = match (problem.weight, rng.random_bool(0.5)) {
            (NormWeight::None, _) => None,
            (_, true) => Some(Weights::F32(weights.iter().map(|&w| w as f32).collect())),
            (_, false) => Some(Weights::Same(
                weights.iter().map(|&w| T::nearest(w)).collect(),
            )),
        };
        NormCase {
            x: rows(rng, shape),
            y: rng.random_bool(0.7).then(|| {
                let mut y = rows(rng, shape);
                y.data.fill(T::nearest(-7.75));
                y
            }),
            residual: problem.residual.then(|| rows(rng, shape)),
            weight,
            problem,
        }
    }

    /// The norm, and the residual stream behind it.
    pub fn run(&self, device: &Device) -> Result<Normed<T>, Box<dyn Error>> {
        let stream = device.stream();
        let plan = NormPlan::new(device, &self.problem)?;
        let mut x = stream.upload(&self.x.data)?;
        let mut y = self
            .y
            .as_ref()
            .map(|y| stream.upload(&y.data))
            .transpose()?;
        let residual = self.residual.as_ref().map(|h| stream.upload(&h.data));
        let mut residual = residual.transpose()?;
        let (same, single) = match &self.weight {
            Some(Weights::Same(w)) => (Some(stream.upload(w)?), None),
            Some(Weights::F32(w)) => (None, Some(stream.upload(w)?)),
            None => (None, None),
        };
        let rows = match (&self.y, &mut y) {
            (Some(to), Some(y)) => Rows::To {
                x: x.region()
                    .strided(self.x.offset, self.x.shape, self.x.strides)?,
                y: y.region_mut().strided(to.offset, to.shape, to.strides)?,
            },
            _ => Rows::InPlace(x.region_mut().strided(
                self.x.offset,
                self.x.shape,
                self.x.strides,
            )?),
        };
        let dim = self.problem.dim;
        let weight = match (&same, &single) {
            (Some(w), _) => Some(w.tensor([dim])?),
            (_, Some(w)) => Some(w.tensor([dim])?),
            _ => None,
        };
        let args = NormArgs {
            rows,
            weight,
            residual: match (&self.residual, &mut residual) {
                (Some(h), Some(buffer)) => {
                    Some(buffer.region_mut().strided(h.offset, h.shape, h.strides)?)
                }
                _ => None,
            },
        };
        plan.run(&stream, args)?;
        let y = match (&self.y, &y) {
            (Some(to), Some(y)) => {
                let kept = x.download()?;
                assert_eq!(bytes(&kept), bytes(&self.x.data), "x was written");
                dense(to, &y.download()?)
            }
            _ => dense(&self.x, &x.download()?),
        };
        let h = match (&self.residual, &residual) {
            (Some(operand), Some(buffer)) => Some(dense(operand, &buffer.download()?)),
            _ => None,
        };
        Ok((y, h))
    }

    /// Runs the case and judges every element; the residual stream must be the reference's, bit by bit.
    pub fn check(&self, device: &Device) -> Result<Margin, Box<dyn Error>> {
        let (y, h) = self.run(device)?;
        let weight = self.weight.as_ref().map(Weights::exact).unwrap_or_default();
        let exact = norm(
            &self.problem,
            NormInputs {
                x: self.x.host(),
                residual: self.residual.as_ref().map(Operand::host),
                weight: &weight,
            },
        );
        if let Some(h) = h {
            assert_eq!(bytes(&h), bytes(&exact.h), "the residual stream");
        }
        let terms: Vec<f64> = exact.y.iter().map(|y| y.abs()).collect();
        judge(&y, &exact.y, &terms, 64.0, self.problem.dim)
    }
}

pub fn bytes<T: Element>(data: &[T]) -> &[u8] {
    bytemuck::cast_slice(data)
}

/// A pointwise operation: what, and on what. Rows are `[rows, 1, dim]`.
#[derive(Clone, Debug)]
pub struct PointwiseCase<T> {
    pub problem: PointwiseProblem,
    pub x: Operand<T>,
    /// Where the result goes; `None`: in place.
    pub y: Option<Operand<T>>,
    pub second: Option<Operand<T>>,
}

pub const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Relu,
    Activation::Silu,
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::ClampedSwiglu,
];

/// Shape and strides of rows without heads.
fn flat<T>(operand: &Operand<T>) -> ([usize; 2], [i64; 2]) {
    let ([rows, _, dim], [stride, ..]) = (operand.shape, operand.strides);
    ([rows, dim], [stride, 1])
}

fn host<T: Float>(operand: &Operand<T>) -> HostTensor<'_, T, 2> {
    let (shape, strides) = flat(operand);
    HostTensor::strided(&operand.data, operand.offset, shape, strides).unwrap()
}

fn tensor<'b, T: Float>(operand: &Operand<T>, buffer: &'b Buffer<T>) -> Tensor<'b, 2> {
    let (shape, strides) = flat(operand);
    let region = buffer.region();
    region.strided(operand.offset, shape, strides).unwrap()
}

fn tensor_mut<'b, T: Float>(operand: &Operand<T>, buffer: &'b mut Buffer<T>) -> TensorMut<'b, 2> {
    let (shape, strides) = flat(operand);
    let region = buffer.region_mut();
    region.strided(operand.offset, shape, strides).unwrap()
}

impl<T: Float> PointwiseCase<T> {
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (dim, rows) = (dim(rng, 0.1), rng.random_range(0..9));
        let activation = ACTIVATIONS[rng.random_range(0..6)];
        let gated = PointwiseProblem::gated(T::DTYPE, dim, activation);
        let clamped = activation == Activation::ClampedSwiglu;
        let problem = match seed % 3 {
            1 if !clamped => PointwiseProblem::add(T::DTYPE, dim).activation(activation),
            2 if !clamped => PointwiseProblem::scale(T::DTYPE, dim, 1.5).activation(activation),
            _ => gated.factor([1.0, 0.25][rng.random_range(0..2)]),
        };
        Self::of(rng, problem, rows)
    }

    pub fn of(rng: &mut StdRng, problem: PointwiseProblem, count: usize) -> Self {
        let shape = [count, 1, problem.dim];
        let second = problem.second != Second::None;
        PointwiseCase {
            x: rows(rng, shape),
            y: rng.random_bool(0.6).then(|| rows(rng, shape)),
            second: second.then(|| rows(rng, shape)),
            problem,
        }
    }

    pub fn run(&self, device: &Device) -> Result<Vec<T>, Box<dyn Error>> {
        let stream = device.stream();
        let plan = PointwisePlan::new(device, &self.problem)?;
        let mut x = stream.upload(&self.x.data)?;
        let mut y = self
            .y
            .as_ref()
            .map(|y| stream.upload(&y.data))
            .transpose()?;
        let second = self.second.as_ref().map(|b| stream.upload(&b.data));
        let second = second.transpose()?;
        let args = PointwiseArgs {
            rows: match (&self.y, &mut y) {
                (Some(to), Some(y)) => Rows::To {
                    x: tensor(&self.x, &x),
                    y: tensor_mut(to, y),
                },
                _ => Rows::InPlace(tensor_mut(&self.x, &mut x)),
            },
            second: match (&self.second, &second) {
                (Some(operand), Some(buffer)) => Some(tensor(operand, buffer)),
                _ => None,
            },
        };
        plan.run(&stream, args)?;
        match (&self.y, &y) {
            (Some(to), Some(y)) => Ok(dense(to, &y.download()?)),
            _ => Ok(dense(&self.x, &x.download()?)),
        }
    }

    pub fn check(&self, device: &Device) -> Result<Margin, Box<dyn Error>> {
        let got = self.run(device)?;
        let second = self.second.as_ref().map(host);
        let exact = pointwise(&self.problem, host(&self.x), second);
        judge(&got, &exact.y, &exact.terms, 32.0, self.problem.dim)
    }
}

/// An embedding: what, and on what.
#[derive(Clone, Debug)]
pub struct EmbedCase {
    pub problem: EmbedProblem,
    /// `[ids, 1, dim]`, what is stored; codes are whole numbers.
    pub table: Operand<f32>,
    /// `[ids, 1, groups]`, where elements are codes.
    pub scales: Option<Operand<f32>>,
    pub ids: Vec<i64>,
    pub id_type: DType,
    /// Gaps between the rows of the result.
    pub pad: usize,
}

impl EmbedCase {
    pub fn random(seed: u64, dtype: DType) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let dim = dim(rng, 0.1);
        let floats = [DType::F16, DType::BF16, DType::F32];
        let of = floats[rng.random_range(0..3)];
        let format = match seed % 2 {
            0 => TableFormat::Float(of),
            _ => TableFormat::Int8 {
                scales: of,
                group: 8 * [1, 4, 16, 100][rng.random_range(0..4)],
            },
        };
        let problem = EmbedProblem::new(dtype, dim)
            .table(format)
            .factor([1.0, (dim as f32).sqrt()][rng.random_range(0..2)]);
        let rows = rng.random_range(1..12);
        let tokens = [0, 1, 5, 13][rng.random_range(0..4)];
        let mut case = Self::of(rng, problem, rows, tokens);
        case.id_type = [DType::I32, DType::U32, DType::I64][rng.random_range(0..3)];
        case.pad = 8 * rng.random_range(0..3);
        case
    }

    /// Of a table with so many rows and so many tokens.
    pub fn of(rng: &mut StdRng, problem: EmbedProblem, rows: usize, tokens: usize) -> Self {
        let dim = problem.dim;
        let stored = match problem.table {
            TableFormat::Float(of) => of,
            _ => DType::I8,
        };
        // Rows are whole units of 16 bytes of what is stored.
        let unit = 16 / stored.size();
        let head_pad = dim.next_multiple_of(unit) - dim + unit * rng.random_range(0..2);
        let arrangement = Arrangement::Padded {
            offset: unit * rng.random_range(0..2),
            head_pad,
            token_pad: 0,
        };
        let mut normal = || -> f64 { StandardNormal.sample(&mut *rng) };
        let table = Operand::filled([rows, 1, dim], arrangement, |_| match stored {
            DType::I8 => (40.0 * normal()).round().clamp(-128.0, 127.0),
            of => to_type(of, normal()),
        });
        let scales = match problem.table {
            TableFormat::Int8 { scales, group } => {
                let gaps = Arrangement::Padded {
                    offset: 1,
                    head_pad: 3,
                    token_pad: 0,
                };
                let shape = [rows, 1, dim.div_ceil(group)];
                Some(Operand::filled(shape, gaps, |_| to_type(scales, normal())))
            }
            _ => None,
        };
        EmbedCase {
            table,
            scales,
            ids: (0..tokens)
                .map(|_| rng.random_range(0..rows) as i64)
                .collect(),
            id_type: DType::I32,
            pad: 0,
            problem,
        }
    }

    /// The rows of the result, without gaps, and what was reported.
    pub fn run<T: Float>(&self, device: &Device) -> Result<(Vec<T>, StatusReport), Box<dyn Error>> {
        let stream = device.stream();
        let plan = EmbedPlan::new(device, &self.problem)?;
        let (stored, scale_type) = match self.problem.table {
            TableFormat::Int8 { scales, .. } => (DType::I8, scales),
            TableFormat::Float(of) => (of, of),
            _ => panic!("a new format wants a case here"),
        };
        let table = OnDevice::new(&stream, stored, &self.table.data)?;
        let scales = self.scales.as_ref();
        let scales = scales.map(|scales| OnDevice::new(&stream, scale_type, &scales.data));
        let scales = scales.transpose()?;
        fn of<'b>(operand: &Operand<f32>, on: &'b OnDevice) -> Result<Tensor<'b, 2>, TensorError> {
            let (shape, strides) = flat(operand);
            on.region().strided(operand.offset, shape, strides)
        }
        let args_table = match (&self.scales, &scales) {
            (Some(operand), Some(scales)) => Table::Int8 {
                codes: of(&self.table, &table)?,
                scales: of(operand, scales)?,
            },
            _ => Table::Float(of(&self.table, &table)?),
        };
        let ids = OnDevice::integers(&stream, self.id_type, &self.ids)?;
        let (tokens, dim) = (self.ids.len(), self.problem.dim);
        let to = Operand::<T>::filled(
            [tokens, 1, dim],
            Arrangement::Padded {
                offset: 8,
                head_pad: dim.next_multiple_of(8) - dim + self.pad,
                token_pad: 0,
            },
            |_| -7.75,
        );
        let mut y = stream.upload(&to.data)?;
        let status = StatusWord::new(&stream)?;
        let args = EmbedArgs {
            table: args_table,
            ids: ids.region().tensor([tokens])?,
            y: tensor_mut(&to, &mut y),
            status: &status,
        };
        plan.run(&stream, args)?;
        Ok((dense(&to, &y.download()?), status.read()?))
    }

    /// Runs the case: bits and status must be the reference's.
    pub fn check<T: Float>(&self, device: &Device) -> Result<(), Box<dyn Error>> {
        let (got, status) = self.run::<T>(device)?;
        let (exact, expected) = embed(
            &self.problem,
            EmbedInputs {
                table: host(&self.table),
                scales: self.scales.as_ref().map(host),
                ids: &self.ids,
            },
        );
        let exact: Vec<T> = exact.iter().map(|&y| T::nearest(f64::from(y))).collect();
        let differ = |(a, b): (&T, &T)| a != b && !(a.to_f64().is_nan() && b.to_f64().is_nan());
        if let Some(at) = got.iter().zip(&exact).position(differ) {
            return Err(format!("element {at} is {:?}, not {:?}", got[at], exact[at]).into());
        }
        if status != expected {
            return Err(format!("status {status}, expected {expected}").into());
        }
        Ok(())
    }
}

/// The nearest number of a type.
fn to_type(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F16 => f16::nearest(x).to_f64(),
        DType::BF16 => bf16::nearest(x).to_f64(),
        _ => f32::nearest(x).to_f64(),
    }
}

/// Numbers of a type that is known when the test runs.
pub enum OnDevice {
    F16(Buffer<f16>),
    Bf16(Buffer<bf16>),
    F32(Buffer<f32>),
    I8(Buffer<i8>),
    I32(Buffer<i32>),
    U32(Buffer<u32>),
    I64(Buffer<i64>),
}

impl OnDevice {
    /// Numbers that are of the type, but for NaN in gaps.
    pub fn new(stream: &Stream, dtype: DType, data: &[f32]) -> Result<Self, DeviceError> {
        let exact = || data.iter().map(|&x| f64::from(x));
        Ok(match dtype {
            DType::F16 => OnDevice::F16(stream.upload(&Vec::from_iter(exact().map(f16::nearest)))?),
            DType::BF16 => {
                OnDevice::Bf16(stream.upload(&Vec::from_iter(exact().map(bf16::nearest)))?)
            }
            DType::F32 => OnDevice::F32(stream.upload(data)?),
            DType::I8 => OnDevice::I8(stream.upload(&Vec::from_iter(exact().map(|x| x as i8)))?),
            other => panic!("no floats of type {other}"),
        })
    }

    /// The lowest bits of numbers.
    pub fn integers(stream: &Stream, dtype: DType, data: &[i64]) -> Result<Self, DeviceError> {
        Ok(match dtype {
            DType::I32 => {
                OnDevice::I32(stream.upload(&Vec::from_iter(data.iter().map(|&x| x as i32)))?)
            }
            DType::U32 => {
                OnDevice::U32(stream.upload(&Vec::from_iter(data.iter().map(|&x| x as u32)))?)
            }
            _ => OnDevice::I64(stream.upload(data)?),
        })
    }

    pub fn region(&self) -> Region<'_> {
        match self {
            OnDevice::F16(buffer) => buffer.region(),
            OnDevice::Bf16(buffer) => buffer.region(),
            OnDevice::F32(buffer) => buffer.region(),
            OnDevice::I8(buffer) => buffer.region(),
            OnDevice::I32(buffer) => buffer.region(),
            OnDevice::U32(buffer) => buffer.region(),
            OnDevice::I64(buffer) => buffer.region(),
        }
    }
}
