//! Products with weights in blocks in f64.

use super::HostTensor;
use super::gemm::{Columns, GemmOutput, Others, product_of};
use crate::blocks::{BlockProblem, BlockWeight};
use crate::dtype::Float;

/// Operands of a product with weights in blocks on the host; shapes as in
/// [`blocks`](crate::blocks).
#[derive(Clone, Copy, Debug)]
pub struct BlockInputs<'a, T> {
    /// `[m, k]`.
    pub x: HostTensor<'a, T, 2>,
    /// Weights, of the gate where there is one.
    pub w: &'a BlockWeight,
    /// Up weights, where the product is gated.
    pub w_up: Option<&'a BlockWeight>,
    /// `[n]`.
    pub bias: Option<HostTensor<'a, T, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<HostTensor<'a, T, 1>>,
    /// `[m, n]`, added last.
    pub residual: Option<HostTensor<'a, T, 2>>,
}

/// The product with no rounding but that of f64: of weights `s·q + b`, of which both parts count as
/// terms. The kernel rounds nothing but sums.
pub fn blocks<T: Float>(problem: &BlockProblem, inputs: BlockInputs<'_, T>) -> GemmOutput {
    let columns = |weight: &BlockWeight| {
        let (mut values, mut sizes) = (Vec::new(), Vec::new());
        for column in 0..weight.n() {
            for row in 0..weight.k() {
                let scaled =
                    f64::from(weight.scale(row, column)) * f64::from(weight.code(row, column));
                let offset = f64::from(weight.offset(row, column));
                values.push(scaled + offset);
                sizes.push(scaled.abs() + offset.abs());
            }
        }
        (values, sizes)
    };
    let (w, w_up) = (columns(inputs.w), inputs.w_up.map(columns));
    let others = Others {
        x: inputs.x,
        bias: inputs.bias,
        bias_up: inputs.bias_up,
        residual: inputs.residual,
    };
    fn of((values, sizes): &(Vec<f64>, Vec<f64>)) -> Columns<'_> {
        Columns { values, sizes }
    }
    product_of(&problem.product, others, of(&w), w_up.as_ref().map(of))
}
