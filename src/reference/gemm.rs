//! Matrix products in f64.

use super::HostTensor;
use crate::dtype::Float;
use crate::gemm::{Activation, GemmProblem, WeightLayout};

/// Operands of a matrix product on the host; shapes as in [`gemm`](crate::gemm).
#[derive(Clone, Copy, Debug)]
pub struct GemmInputs<'a, T> {
    /// `[m, k]`.
    pub x: HostTensor<'a, T, 2>,
    /// Weights, of the gate where there is one.
    pub w: HostTensor<'a, T, 2>,
    /// Up weights, where the product is gated.
    pub w_up: Option<HostTensor<'a, T, 2>>,
    /// `[n]`.
    pub bias: Option<HostTensor<'a, T, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<HostTensor<'a, T, 1>>,
    /// `[m, n]`, added last.
    pub residual: Option<HostTensor<'a, T, 2>>,
}

/// What a matrix product should give.
#[derive(Clone, Debug)]
pub struct GemmOutput {
    /// `[m, n]`, row-major.
    pub y: Vec<f64>,
    /// For each element, the sum of the magnitudes of its terms, scaled by what the activation and
    /// the gate make of an error in them.
    pub terms: Vec<f64>,
}

/// The product with no rounding but that of f64. Elements that an operand lacks count as zero.
pub fn gemm<T: Float>(problem: &GemmProblem, inputs: GemmInputs<'_, T>) -> GemmOutput {
    let (n, k) = (problem.n, inputs.x.shape()[1]);
    let columns = |w: HostTensor<'_, T, 2>| {
        dense(n, k, |col, at| match problem.layout {
            WeightLayout::Nk => w.get([col, at]),
            WeightLayout::Kn => w.get([at, col]),
        })
    };
    let (w, w_up) = (columns(inputs.w), inputs.w_up.map(columns));
    let others = Others {
        x: inputs.x,
        bias: inputs.bias,
        bias_up: inputs.bias_up,
        residual: inputs.residual,
    };
    product(problem, others, &w, w_up.as_deref())
}

/// What products have besides weights, whatever these are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others<'a, T> {
    pub x: HostTensor<'a, T, 2>,
    pub bias: Option<HostTensor<'a, T, 1>>,
    pub bias_up: Option<HostTensor<'a, T, 1>>,
    pub residual: Option<HostTensor<'a, T, 2>>,
}

/// The product with weights `[n, k]`.
pub(super) fn product<T: Float>(
    problem: &GemmProblem,
    inputs: Others<'_, T>,
    w: &[f64],
    w_up: Option<&[f64]>,
) -> GemmOutput {
    fn whole(values: &[f64]) -> Columns<'_> {
        let sizes = values;
        Columns { values, sizes }
    }
    product_of(problem, inputs, whole(w), w_up.map(whole))
}

/// Weights `[n, k]`, and the magnitude of each, or of what it is a sum of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns<'a> {
    pub values: &'a [f64],
    pub sizes: &'a [f64],
}

/// The same with weights whose own terms count.
pub(super) fn product_of<T: Float>(
    problem: &GemmProblem,
    inputs: Others<'_, T>,
    w: Columns<'_>,
    w_up: Option<Columns<'_>>,
) -> GemmOutput {
    let [m, k] = inputs.x.shape();
    let n = problem.n;
    let x = dense(m, k, |row, at| inputs.x.get([row, at]));
    let element = |bias: Option<HostTensor<'_, T, 1>>, col| {
        bias.and_then(|bias| bias.get([col])).map_or(0.0, T::to_f64)
    };
    let mut y = Vec::with_capacity(m * n);
    let mut terms = Vec::with_capacity(m * n);
    for row in 0..m {
        let x = &x[row * k..(row + 1) * k];
        for col in 0..n {
            let of = |w: Columns<'_>, bias: f64| {
                let column = col * k..(col + 1) * k;
                let (values, sizes) = (&w.values[column.clone()], &w.sizes[column]);
                let sum = x.iter().zip(values).map(|(x, w)| x * w).sum::<f64>();
                let terms = x.iter().zip(sizes).map(|(x, w)| (x * w).abs()).sum::<f64>();
                (sum + bias, terms + bias.abs())
            };
            let g = of(w, element(inputs.bias, col));
            let up = w_up.map(|w| of(w, element(inputs.bias_up, col)));
            let (z, mut spread) = finish(problem.activation, g, up);
            let added = inputs
                .residual
                .and_then(|residual| residual.get([row, col]))
                .map_or(0.0, T::to_f64);
            spread += added.abs();
            y.push(z + added);
            terms.push(spread);
        }
    }
    GemmOutput { y, terms }
}

/// The activated value and what an error in the sums may make of it, from sums and the magnitudes
/// of their terms.
pub(super) fn finish(
    activation: Activation,
    (g, g_terms): (f64, f64),
    up: Option<(f64, f64)>,
) -> (f64, f64) {
    // The steepest of the activations, x·sigmoid(1.702·x), has slopes up to 1.13.
    const SLOPE: f64 = 1.13;
    let (z, z_terms) = match activation {
        Activation::None => (g, g_terms),
        _ => (activate(activation, g), SLOPE * g_terms),
    };
    let Some((u, u_terms)) = up else {
        return (z, z_terms);
    };
    let u = match activation {
        Activation::ClampedSwiglu => u.clamp(-7.0, 7.0) + 1.0,
        _ => u,
    };
    (z * u, z_terms * u.abs() + z.abs() * (u_terms + 1.0))
}

/// An activation in f64.
pub fn activate(activation: Activation, z: f64) -> f64 {
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    match activation {
        Activation::None => z,
        Activation::Relu if z.is_nan() => z,
        Activation::Relu => z.max(0.0),
        Activation::Silu => z * sigmoid(z),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3));
            0.5 * z * (1.0 + inner.tanh())
        }
        Activation::GeluErf => 0.5 * z * (1.0 + erf(z / std::f64::consts::SQRT_2)),
        Activation::ClampedSwiglu => {
            let low = if z > 7.0 { 7.0 } else { z };
            low * sigmoid(1.702 * low)
        }
    }
}

/// The error function, to about 1e-15: its series near zero, a continued fraction beyond.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let square = x * x;
    if square < 9.0 {
        let mut term = x;
        let mut sum = x;
        for i in 1..120 {
            term *= -square / f64::from(i);
            sum += term / f64::from(2 * i + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let tail = (1..60)
        .rev()
        .fold(0.0, |tail, i| f64::from(i) / 2.0 / (x.abs() + tail));
    let upper = (-square).exp() / (x.abs() + tail) / std::f64::consts::PI.sqrt();
    (1.0 - upper) * x.signum()
}

fn dense<T: Float>(rows: usize, cols: usize, get: impl Fn(usize, usize) -> Option<T>) -> Vec<f64> {
    let mut all = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        all.extend((0..cols).map(|col| get(row, col).map_or(0.0, T::to_f64)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_right_at_known_points() {
        // Abramowitz and Stegun, table 7.1.
        let known = [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (2.9, 0.999_958_902_1),
            (3.1, 0.999_988_351_3),
            (f64::INFINITY, 1.0),
        ];
        for (x, expected) in known {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-10, "erf(-{x})");
        }
    }

    #[test]
    fn a_product_by_hand() {
        let problem = GemmProblem::new(crate::DType::F32, 1, 2, 2)
            .layout(WeightLayout::Kn)
            .activation(Activation::Relu);
        let (x, w, bias) = ([2.0f32, -3.0], [1.0f32, 4.0, 5.0, -6.0], [1.0f32, 0.5]);
        let output = gemm(
            &problem,
            GemmInputs {
                x: HostTensor::new(&x, [1, 2]).unwrap(),
                w: HostTensor::new(&w, [2, 2]).unwrap(),
                w_up: None,
                bias: Some(HostTensor::new(&bias, [2]).unwrap()),
                bias_up: None,
                residual: None,
            },
        );
        // 2·1 - 3·5 + 1 = -12 and 2·4 + 3·6 + 0.5 = 26.5.
        assert_eq!(output.y, [0.0, 26.5]);
    }
}
