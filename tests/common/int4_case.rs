//! A case of a product with 4-bit weights: operands, run on a device and judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use half::{bf16, f16};
use infer_kernels::gemm::{Activation, GemmProblem, Residual};
use infer_kernels::int4::load::Scale;
use infer_kernels::int4::{Codes, Int4Args, Int4Plan, Int4Problem, Int4Weight};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::int4::{Int4Inputs, int4, int4_rounding};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{DType, Device, Float};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::gemm::Matrix;
use super::int4::Plain;

/// What to run, and on what.
pub struct Case<T> {
    pub problem: Int4Problem,
    pub x: Matrix<T>,
    pub w: Int4Weight,
    pub w_up: Option<Int4Weight>,
    pub bias: Option<Vec<T>>,
    pub bias_up: Option<Vec<T>>,
    pub residual: Option<Matrix<T>>,
    pub in_place: bool,
    pub y_pitch: usize,
}

const ROWS: &[usize] = &[1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 100, 128, 129];
const COLUMNS: &[usize] = &[1, 7, 8, 31, 32, 33, 64, 96, 127, 128, 200, 256, 257, 300];
const DEPTHS: &[usize] = &[
    1, 7, 16, 31, 40, 63, 64, 65, 128, 129, 200, 256, 320, 500, 1300, 2048,
];
const GROUPS: &[Option<usize>] = &[Some(16), Some(32), Some(64), Some(128), Some(192), None];

/// Weights with scales at which sums are of the order of one.
pub fn weights<T: Scale>(
    rng: &mut StdRng,
    [k, n]: [usize; 2],
    group: Option<usize>,
    meaning: Codes,
) -> Int4Weight {
    let mut plain = Plain::<T>::random(rng, [k, n], group);
    let scale = 2.0 / (k.max(1) as f64).sqrt();
    for s in &mut plain.scales {
        *s = T::nearest(s.to_f64() * scale);
    }
    if meaning == Codes::Symmetric {
        plain = plain.symmetric();
    } else if let Some(zero) = plain.zeros.first_mut() {
        *zero = 15; // At least one that is not 8.
    }
    plain.pack()
}

impl<T: Scale> Case<T> {
    /// A case of its seed, of every kind of shape and option.
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut size = |sizes: &[usize], zero: f64| match rng.random_bool(zero) {
            true => 0,
            false => *sizes.choose(rng).unwrap(),
        };
        let (m, n, k) = (size(ROWS, 0.02), size(COLUMNS, 0.02), size(DEPTHS, 0.03));
        let meaning = match n * k {
            0 => Codes::Symmetric, // No zero point differs from 8.
            _ => [Codes::Symmetric, Codes::ZeroPoints][seed as usize / 2 % 2],
        };
        let group = *GROUPS.choose(rng).unwrap();
        let w = weights::<T>(rng, [k, n], group, meaning);
        let gated = rng.random_bool(0.3);
        let activations = [
            Activation::None,
            Activation::Relu,
            Activation::Silu,
            Activation::GeluTanh,
            Activation::GeluErf,
            Activation::ClampedSwiglu,
        ];
        let out = [T::DTYPE, DType::F32][usize::from(rng.random_bool(0.3))];
        // Streaming kernels do not have groups of 16 rows, nor an odd multiple of 64 unless it is all.
        let streams = group != Some(16) && (group != Some(192) || k <= 192);
        let tiles: &[_] = if streams {
            &[[128, 256], [64, 256], [16, 64], [8, 64]]
        } else {
            &[[128, 256], [64, 256]]
        };
        let tile = rng.random_bool(0.5).then(|| *tiles.choose(rng).unwrap());
        let product = GemmProblem::new(T::DTYPE, m + [0, 1, 60][rng.random_range(0..3)], n, k)
            .out(out)
            .activation(activations[rng.random_range(0..if gated { 6 } else { 5 })])
            .gated(gated)
            .splits(rng.random_bool(0.4).then(|| rng.random_range(1..=4)))
            .tile(tile);
        let w_up = gated.then(|| weights::<T>(rng, [k, n], group, meaning));
        let mut vector = |some: bool| {
            let mut element = |_| T::nearest(StandardNormal.sample(rng));
            some.then(|| (0..n).map(&mut element).collect())
        };
        let (bias, bias_up) = (
            vector(seed.is_multiple_of(3)),
            vector(gated && seed % 5 < 2),
        );
        let residual = rng.random_bool(0.4).then(|| Matrix::random(rng, [m, n], 1));
        Case {
            problem: Int4Problem::new(product, w.group(), meaning),
            x: Matrix::random(rng, [m, k], 8),
            w,
            w_up,
            bias,
            bias_up,
            in_place: residual.is_some() && out == T::DTYPE && rng.random_bool(0.5),
            residual,
            y_pitch: n + [0, 0, 3, 8][rng.random_range(0..4)],
        }
    }

    /// `y = x·W` and nothing else.
    pub fn plain(problem: Int4Problem, x: Matrix<T>, w: Int4Weight) -> Self {
        Case {
            y_pitch: problem.product.n,
            problem,
            x,
            w,
            w_up: None,
            bias: None,
            bias_up: None,
            residual: None,
            in_place: false,
        }
    }

    fn inputs(&self) -> Int4Inputs<'_, T> {
        fn vector<T: Float>(data: &[T]) -> HostTensor<'_, T, 1> {
            HostTensor::new(data, [data.len()]).unwrap()
        }
        Int4Inputs {
            x: self.x.host(),
            w: &self.w,
            w_up: self.w_up.as_ref(),
            bias: self.bias.as_deref().map(vector),
            bias_up: self.bias_up.as_deref().map(vector),
            residual: self.residual.as_ref().map(Matrix::host),
        }
    }

    /// Runs the case; `y` row by row, with gaps checked.
    pub fn run<O: Float>(&self, device: &Device) -> Result<Vec<O>, Box<dyn std::error::Error>> {
        let stream = device.stream();
        let plan = Int4Plan::new(device, &self.problem)?;
        let (m, n) = (self.x.shape[0], self.problem.product.n);
        let untouched = O::nearest(-7.75);
        let mut y = vec![untouched; m * self.y_pitch];
        if let (true, Some(residual)) = (self.in_place, &self.residual) {
            for row in 0..m {
                for col in 0..n {
                    let x = residual.host().get([row, col]).unwrap();
                    y[row * self.y_pitch + col] = O::nearest(x.to_f64());
                }
            }
        }
        let x = stream.upload(&self.x.data)?;
        let w = self.w.upload(&stream)?;
        let w_up = self
            .w_up
            .as_ref()
            .map(|up| up.upload(&stream))
            .transpose()?;
        let bias = self.bias.as_ref().map(|data| stream.upload(data));
        let bias_up = self.bias_up.as_ref().map(|data| stream.upload(data));
        let (bias, bias_up) = (bias.transpose()?, bias_up.transpose()?);
        let residual = self.residual.as_ref().map(|r| stream.upload(&r.data));
        let residual = residual.transpose()?;
        let mut out = stream.upload(&y)?;
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
        plan.run(
            &stream,
            Int4Args {
                x: self.x.tensor(&x),
                w: w.tensors(),
                w_up: w_up.as_ref().map(|up| up.tensors()),
                bias: bias.as_ref().map(|bias| bias.tensor([n])).transpose()?,
                bias_up: bias_up.as_ref().map(|bias| bias.tensor([n])).transpose()?,
                residual: match (&self.residual, &residual) {
                    (Some(_), _) if self.in_place => Residual::InPlace,
                    (Some(matrix), Some(buffer)) => Residual::Add(matrix.tensor(buffer)),
                    _ => Residual::None,
                },
                y: out
                    .region_mut()
                    .strided(0, [m, n], [self.y_pitch as i64, 1])?,
                workspace: Some(workspace.tensor_mut([plan.workspace_elements()])?),
            },
        )?;
        let laid = out.download()?;
        let mut dense = Vec::with_capacity(m * n);
        for row in laid.chunks(self.y_pitch.max(1)) {
            dense.extend_from_slice(&row[..n]);
            assert!(
                row[n..].iter().all(|&x| x == untouched),
                "the kernel wrote between the rows of y"
            );
        }
        Ok(dense)
    }

    /// Runs the case and judges every element.
    pub fn check(&self, device: &Device) -> Result<Margin, Box<dyn std::error::Error>> {
        match self.problem.product.out {
            DType::F32 => self.judge(&self.run::<f32>(device)?),
            _ => self.judge(&self.run::<T>(device)?),
        }
    }

    fn judge<O: Float>(&self, got: &[O]) -> Result<Margin, Box<dyn std::error::Error>> {
        let exact = int4(&self.problem, self.inputs());
        let rounded = int4_rounding(&self.problem, self.inputs());
        let rounded: Vec<f64> = rounded.y.iter().map(|&y| O::nearest(y).to_f64()).collect();
        let steps = self.problem.product.k.div_ceil(16) + 8;
        Ok(Comparison {
            got,
            exact: &exact.y,
            rounded: &rounded,
            terms: &exact.terms,
            allowed: &vec![0.0; got.len()],
        }
        .judge(Rule::truncated(steps).in_rows_of(self.problem.product.n))?)
    }
}

/// The case of this seed, of one type or the other.
pub fn check(seed: u64, device: &Device) -> Result<Margin, Box<dyn std::error::Error>> {
    match seed % 2 {
        0 => Case::<f16>::random(seed).check(device),
        _ => Case::<bf16>::random(seed).check(device),
    }
}
