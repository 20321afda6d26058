//! A matrix product case: operands in random layouts, run on a device and judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use half::{bf16, f16};
use infer_kernels::gemm::{Activation, GemmArgs, GemmPlan, GemmProblem, Residual, WeightLayout};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::gemm::{GemmInputs, gemm};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{Buffer, DType, Device, Float, Tensor, TensorError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// A matrix with room between its rows, which holds NaN.
#[derive(Clone, Debug)]
pub struct Matrix<T> {
    pub data: Vec<T>,
    pub offset: usize,
    pub shape: [usize; 2],
    pub pitch: usize,
}

impl<T: Float> Matrix<T> {
    /// Standard normal elements. `unit`: what offsets and pitches are multiples of.
    pub fn random(rng: &mut StdRng, shape: [usize; 2], unit: usize) -> Self {
        let mut pad = |most: usize| match rng.random_bool(0.5) {
            true => 0,
            false => unit * rng.random_range(0..=most),
        };
        let (offset, pitch) = (pad(2), shape[1].next_multiple_of(unit) + pad(2));
        let mut data = vec![T::nearest(f64::NAN); offset + shape[0] * pitch];
        for row in 0..shape[0] {
            for col in 0..shape[1] {
                let x: f64 = StandardNormal.sample(rng);
                data[offset + row * pitch + col] = T::nearest(x);
            }
        }
        Matrix {
            data,
            offset,
            shape,
            pitch,
        }
    }

    pub fn strides(&self) -> [i64; 2] {
        [self.pitch as i64, 1]
    }

    pub fn host(&self) -> HostTensor<'_, T, 2> {
        HostTensor::strided(&self.data, self.offset, self.shape, self.strides()).unwrap()
    }

    pub fn tensor<'b>(&self, buffer: &'b Buffer<T>) -> Tensor<'b, 2> {
        let region = buffer.region();
        region
            .strided(self.offset, self.shape, self.strides())
            .unwrap()
    }
}

/// What to run, and on what.
pub struct Case<T> {
    pub problem: GemmProblem,
    pub x: Matrix<T>,
    pub w: Matrix<T>,
    pub w_up: Option<Matrix<T>>,
    pub bias: Option<Vec<T>>,
    pub bias_up: Option<Vec<T>>,
    /// Where in its buffer either of them begins.
    pub bias_offset: usize,
    pub residual: Option<Matrix<T>>,
    pub in_place: bool,
    pub y_pitch: usize,
}

/// Of a case.
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    max_m: usize,
    layout: WeightLayout,
    aligned: bool,
    tile: Option<[usize; 2]>,
}

const SIZES: &[usize] = &[
    1, 2, 3, 7, 8, 13, 15, 16, 17, 24, 31, 33, 40, 63, 64, 65, 72, 96, 101, 127, 128, 129, 136,
];

impl<T: Float> Case<T> {
    /// A case of its seed, of every kind of shape, layout and option.
    pub fn random(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut size = |zero: f64| match rng.random_bool(zero) {
            true => 0,
            false => SIZES[rng.random_range(0..SIZES.len())],
        };
        let (m, n, mut k) = (size(0.02), size(0.02), size(0.04));
        if rng.random_bool(0.2) {
            k += 256 * rng.random_range(1..4);
        }
        let shape = Shape {
            m,
            n,
            k,
            // A larger plan than the call picks a larger tile.
            max_m: m + [0, 1, 60, 120, 1000][rng.random_range(0..5)],
            layout: [WeightLayout::Nk, WeightLayout::Kn][seed as usize / 2 % 2],
            aligned: !seed.is_multiple_of(6),
            tile: None,
        };
        Self::of_shape(rng, seed, shape)
    }

    /// A case of its seed for one tile: shapes of up to three of it, which end anywhere in the last one.
    pub fn random_of_tile(seed: u64, layout: WeightLayout, tile: Option<[usize; 2]>) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let of = tile.unwrap_or([16, 16]);
        let [m, n] = of.map(|side| match rng.random_range(0..4) {
            0 => side * rng.random_range(1..=2),
            _ => rng.random_range(1..=2 * side + side / 2),
        });
        let k = match rng.random_range(0..4) {
            0 => 32 * rng.random_range(1..=8),
            1 => rng.random_range(1..=64),
            _ => rng.random_range(1..=240),
        };
        let shape = Shape {
            m,
            n,
            k,
            max_m: m,
            layout,
            aligned: tile.is_some(),
            tile,
        };
        Self::of_shape(rng, seed, shape)
    }

    fn of_shape(rng: &mut StdRng, seed: u64, shape: Shape) -> Self {
        let Shape {
            m,
            mut n,
            k,
            max_m,
            layout,
            aligned,
            tile,
        } = shape;
        if aligned && layout == WeightLayout::Kn {
            n = n.next_multiple_of(8);
        }
        let gated = rng.random_bool(0.3);
        let activations = [
            Activation::None,
            Activation::Relu,
            Activation::Silu,
            Activation::GeluTanh,
            Activation::GeluErf,
            Activation::ClampedSwiglu,
        ];
        let activation = activations[rng.random_range(0..if gated { 6 } else { 5 })];
        let out = [T::DTYPE, DType::F32][usize::from(rng.random_bool(0.3))];
        let splits = rng.random_bool(0.4).then(|| rng.random_range(1..=4));
        let problem = GemmProblem::new(T::DTYPE, max_m, n, k)
            .layout(layout)
            .aligned(aligned)
            .out(out)
            .activation(activation)
            .gated(gated)
            .tile(tile)
            .splits(splits);
        let unit = if aligned { 8 } else { 1 };
        let w_shape = match layout {
            WeightLayout::Nk => [n, k],
            WeightLayout::Kn => [k, n],
        };
        let mut w = Matrix::<T>::random(rng, w_shape, unit);
        // A scale at which activations have something to do.
        let scale = 1.5 / (k.max(1) as f64).sqrt();
        w.data
            .iter_mut()
            .for_each(|w| *w = T::nearest(w.to_f64() * scale));
        let w_up = gated.then(|| {
            let mut up = w.clone(); // Up weights lie as the gate's do.
            let source = Matrix::<T>::random(rng, w_shape, unit);
            for row in 0..w_shape[0] {
                for col in 0..w_shape[1] {
                    let x = source.host().get([row, col]).unwrap().to_f64() * scale;
                    up.data[up.offset + row * up.pitch + col] = T::nearest(x);
                }
            }
            up
        });
        let mut vector = |some: bool| {
            some.then(|| {
                (0..n)
                    .map(|_| T::nearest(StandardNormal.sample(rng)))
                    .collect()
            })
        };
        let (bias, bias_up) = (
            vector(seed.is_multiple_of(3)),
            vector(gated && seed % 5 < 2),
        );
        let residual = rng.random_bool(0.4).then(|| Matrix::random(rng, [m, n], 1));
        let in_place = residual.is_some() && out == T::DTYPE && rng.random_bool(0.5);
        Case {
            problem,
            x: Matrix::random(rng, [m, k], unit),
            w,
            w_up,
            bias,
            bias_up,
            bias_offset: [0, 1, 0, 6][seed as usize % 4],
            residual,
            in_place,
            y_pitch: n + [0, 0, 3, 8][rng.random_range(0..4)],
        }
    }

    /// `y = x·W` and nothing else.
    pub fn plain(problem: GemmProblem, x: Matrix<T>, w: Matrix<T>) -> Self {
        Case {
            y_pitch: problem.n,
            problem,
            x,
            w,
            w_up: None,
            bias: None,
            bias_up: None,
            bias_offset: 0,
            residual: None,
            in_place: false,
        }
    }

    fn inputs(&self) -> GemmInputs<'_, T> {
        fn vector<T: Float>(data: &[T]) -> HostTensor<'_, T, 1> {
            HostTensor::new(data, [data.len()]).unwrap()
        }
        GemmInputs {
            x: self.x.host(),
            w: self.w.host(),
            w_up: self.w_up.as_ref().map(Matrix::host),
            bias: self.bias.as_deref().map(vector),
            bias_up: self.bias_up.as_deref().map(vector),
            residual: self.residual.as_ref().map(Matrix::host),
        }
    }

    fn bias_in<'b>(
        &self,
        buffer: Option<&'b Buffer<T>>,
    ) -> Result<Option<Tensor<'b, 1>>, TensorError> {
        let tensor = |buffer: &'b Buffer<T>| {
            buffer
                .region()
                .strided(self.bias_offset, [self.problem.n], [1])
        };
        buffer.map(tensor).transpose()
    }

    /// Runs the case; `y` row by row, with gaps checked.
    pub fn run<O: Float>(&self, device: &Device) -> Result<Vec<O>, Box<dyn std::error::Error>> {
        let stream = device.stream();
        let plan = GemmPlan::new(device, &self.problem)?;
        let (m, n) = (self.x.shape[0], self.problem.n);
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
        let upload = |matrix: &Matrix<T>| stream.upload(&matrix.data);
        let (x, w) = (upload(&self.x)?, upload(&self.w)?);
        let w_up = self.w_up.as_ref().map(upload).transpose()?;
        let upload_behind = |data: &Vec<T>| {
            let nan = vec![T::nearest(f64::NAN); self.bias_offset];
            stream.upload(&[&nan[..], data].concat())
        };
        let bias = self.bias.as_ref().map(upload_behind);
        let bias_up = self.bias_up.as_ref().map(upload_behind);
        let (bias, bias_up) = (bias.transpose()?, bias_up.transpose()?);
        let residual = self.residual.as_ref().map(upload).transpose()?;
        let mut out = stream.upload(&y)?;
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
        plan.run(
            &stream,
            GemmArgs {
                x: self.x.tensor(&x),
                w: self.w.tensor(&w),
                w_up: match (&self.w_up, &w_up) {
                    (Some(matrix), Some(buffer)) => Some(matrix.tensor(buffer)),
                    _ => None,
                },
                bias: self.bias_in(bias.as_ref())?,
                bias_up: self.bias_in(bias_up.as_ref())?,
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
        match self.problem.out {
            DType::F32 => self.judge(&self.run::<f32>(device)?),
            _ => self.judge(&self.run::<T>(device)?),
        }
    }

    fn judge<O: Float>(&self, got: &[O]) -> Result<Margin, Box<dyn std::error::Error>> {
        let exact = gemm(&self.problem, self.inputs());
        let rounded: Vec<f64> = exact.y.iter().map(|&y| O::nearest(y).to_f64()).collect();
        let steps = self.problem.k.div_ceil(16) + 8;
        Ok(Comparison {
            got,
            exact: &exact.y,
            rounded: &rounded,
            terms: &exact.terms,
            allowed: &vec![0.0; got.len()],
        }
        .judge(Rule::truncated(steps).in_rows_of(self.problem.n))?)
    }
}

/// The case of this seed, of one type or the other.
pub fn check(seed: u64, device: &Device) -> Result<Margin, Box<dyn std::error::Error>> {
    match seed % 2 {
        0 => Case::<f16>::random(seed).check(device),
        _ => Case::<bf16>::random(seed).check(device),
    }
}
