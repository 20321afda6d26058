//! Products with 4-bit weights in f64.

use super::HostTensor;
use super::gemm::{GemmOutput, Others, product};
use crate::dtype::Float;
use crate::int4::{Int4Problem, Int4Weight};

/// Operands of a product with 4-bit weights on the host; shapes as in [`int4`](crate::int4).
#[derive(Clone, Copy, Debug)]
pub struct Int4Inputs<'a, T> {
    /// `[m, k]`.
    pub x: HostTensor<'a, T, 2>,
    /// Weights, of the gate where there is one.
    pub w: &'a Int4Weight,
    /// Up weights, where the product is gated.
    pub w_up: Option<&'a Int4Weight>,
    /// `[n]`.
    pub bias: Option<HostTensor<'a, T, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<HostTensor<'a, T, 1>>,
    /// `[m, n]`, added last.
    pub residual: Option<HostTensor<'a, T, 2>>,
}

/// The product with no rounding but that of f64.
pub fn int4<T: Float>(problem: &Int4Problem, inputs: Int4Inputs<'_, T>) -> GemmOutput {
    with_weights(problem, inputs, f64::from)
}

/// The same with weights rounded to the type of `x`, as the kernel does.
pub fn int4_rounding<T: Float>(problem: &Int4Problem, inputs: Int4Inputs<'_, T>) -> GemmOutput {
    with_weights(problem, inputs, |w| T::nearest(f64::from(w)).to_f64())
}

fn with_weights<T: Float>(
    problem: &Int4Problem,
    inputs: Int4Inputs<'_, T>,
    element: impl Fn(f32) -> f64,
) -> GemmOutput {
    // As [n, k], in the order of x's columns.
    let columns = |weight: &Int4Weight| {
        let (all, n, k) = (weight.dequantize(), weight.n(), weight.k());
        let mut columns = Vec::with_capacity(n * k);
        for column in 0..n {
            columns.extend((0..k).map(|row| element(all[row * n + column])));
        }
        columns
    };
    let (w, w_up) = (columns(inputs.w), inputs.w_up.map(columns));
    let others = Others {
        x: inputs.x,
        bias: inputs.bias,
        bias_up: inputs.bias_up,
        residual: inputs.residual,
    };
    product(&problem.product, others, &w, w_up.as_deref())
}
