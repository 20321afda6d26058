//! A case of a product with weights in blocks: operands, run on a device and judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use half::{bf16, f16};
use infer_kernels::blocks::{BlockArgs, BlockFormat, BlockPlan, BlockProblem, BlockWeight};
use infer_kernels::gemm::{Activation, GemmProblem, Residual};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::blocks::{BlockInputs, blocks};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{DType, Device, Float};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::blocks::random;
use super::gemm::Matrix;

/// What to run, and on what.
pub struct Case<T> {
    pub problem: BlockProblem,
    pub x: Matrix<T>,
    pub w: BlockWeight,
    pub w_up: Option<BlockWeight>,
    pub bias: Option<Vec<T>>,
    pub bias_up: Option<Vec<T>>,
    pub residual: Option<Matrix<T>>,
    pub in_place: bool,
    pub y_pitch: usize,
}

const ROWS: &[usize] = &[1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 40];
const COLUMNS: &[usize] = &[1, 7, 8, 31, 32, 33, 64, 96, 127, 128, 200, 257];
/// In blocks of 32 rows.
const DEPTHS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 16, 20, 31, 40, 64];

/// Weights with which sums are of the order of one.
pub fn weights(rng: &mut StdRng, format: BlockFormat, [k, n]: [usize; 2]) -> BlockWeight {
    let bytes = random(rng, format, [k, n], 2.0 / (k.max(1) as f64).sqrt());
    BlockWeight::pack(format, k, n, &bytes).unwrap()
}

impl<T: Float> Case<T> {
    /// A case of its seed, of every kind of shape and option.
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let format = BlockFormat::ALL[seed as usize / 2 % 8];
        let mut size = |sizes: &[usize], zero: f64| match rng.random_bool(zero) {
            true => 0,
            false => *sizes.choose(rng).unwrap(),
        };
        let (m, n) = (size(ROWS, 0.02), size(COLUMNS, 0.02));
        let k = 32 * size(DEPTHS, 0.03);
        let k = k.next_multiple_of(format.rows());
        let w = weights(rng, format, [k, n]);
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
        let product = GemmProblem::new(T::DTYPE, m + [0, 1, 20][rng.random_range(0..3)], n, k)
            .out(out)
            .activation(activations[rng.random_range(0..if gated { 6 } else { 5 })])
            .gated(gated)
            .splits(rng.random_bool(0.4).then(|| rng.random_range(1..=4)));
        let w_up = gated.then(|| weights(rng, format, [k, n]));
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
            problem: BlockProblem::new(product, format),
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
    pub fn plain(problem: BlockProblem, x: Matrix<T>, w: BlockWeight) -> Self {
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

    fn inputs(&self) -> BlockInputs<'_, T> {
        fn vector<T: Float>(data: &[T]) -> HostTensor<'_, T, 1> {
            HostTensor::new(data, [data.len()]).unwrap()
        }
        BlockInputs {
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
        let plan = BlockPlan::new(device, &self.problem)?;
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
        let w_up = self.w_up.as_ref().map(|up| up.upload(&stream));
        let w_up = w_up.transpose()?;
        let bias = self.bias.as_ref().map(|data| stream.upload(data));
        let bias_up = self.bias_up.as_ref().map(|data| stream.upload(data));
        let (bias, bias_up) = (bias.transpose()?, bias_up.transpose()?);
        let residual = self.residual.as_ref().map(|r| stream.upload(&r.data));
        let residual = residual.transpose()?;
        let mut out = stream.upload(&y)?;
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
        plan.run(
            &stream,
            BlockArgs {
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
        let exact = blocks(&self.problem, self.inputs());
        let rounded: Vec<f64> = exact.y.iter().map(|&y| O::nearest(y).to_f64()).collect();
        // Truncating steps of tensor operations, of which a group has two, and a product by the
        // scale for each group.
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
