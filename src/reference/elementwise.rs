//! Norms, pointwise operations and embeddings in f64.

use super::HostTensor;
use super::gemm::activate;
use crate::dtype::Float;
use crate::elementwise::{
    EmbedProblem, NormProblem, NormWeight, PointwiseProblem, Second, TableFormat,
};
use crate::gemm::Activation;
use crate::status::{Offence, StatusReport};

/// Operands of a norm on the host; shapes as in [`NormArgs`](crate::elementwise::NormArgs).
#[derive(Clone, Copy, Debug)]
pub struct NormInputs<'a, T> {
    /// `[tokens, heads, dim]`.
    pub x: HostTensor<'a, T, 3>,
    /// The residual stream, where there is one.
    pub residual: Option<HostTensor<'a, T, 3>>,
    /// `[dim]`; empty where there are none.
    pub weight: &'a [f64],
}

/// What a norm should give, `[tokens, heads, dim]` row-major.
#[derive(Clone, Debug)]
pub struct NormOutput<T> {
    /// The rows that are normalised: `x`, or the residual stream after the sum, which is rounded to
    /// `f32` and then to `T` as the kernel does.
    pub h: Vec<T>,
    /// The norm, without rounding.
    pub y: Vec<f64>,
}

/// The norm with no rounding but that of the residual sum and of f64. Elements that an operand lacks
/// count as zero, weights as one.
pub fn norm<T: Float>(problem: &NormProblem, inputs: NormInputs<'_, T>) -> NormOutput<T> {
    let [tokens, heads, dim] = inputs.x.shape();
    let zero = T::nearest(0.0);
    let mut output = NormOutput {
        h: Vec::with_capacity(tokens * heads * dim),
        y: Vec::with_capacity(tokens * heads * dim),
    };
    for row in 0..tokens * heads {
        let at = |d: usize| [row / heads, row % heads, d];
        let h: Vec<T> = (0..dim)
            .map(|d| {
                let x = inputs.x.get(at(d)).unwrap_or(zero);
                let Some(residual) = &inputs.residual else {
                    return x;
                };
                let before = residual.get(at(d)).unwrap_or(zero);
                let sum = x.to_f64() as f32 + before.to_f64() as f32;
                T::nearest(f64::from(sum))
            })
            .collect();
        let squares: f64 = h.iter().map(|h| h.to_f64() * h.to_f64()).sum();
        let root = (squares / dim as f64 + f64::from(problem.eps)).sqrt();
        output.y.extend(h.iter().enumerate().map(|(d, h)| {
            let weight = match (problem.weight, inputs.weight.get(d)) {
                (NormWeight::Plain, Some(weight)) => *weight,
                (NormWeight::PlusOne, Some(weight)) => 1.0 + weight,
                _ => 1.0,
            };
            h.to_f64() / root * weight
        }));
        output.h.extend(h);
    }
    output
}

/// What a pointwise operation should give, `[rows, dim]` row-major.
#[derive(Clone, Debug)]
pub struct PointwiseOutput {
    /// The result, without rounding.
    pub y: Vec<f64>,
    /// For each element, the magnitudes that its error in f32 is a share of.
    pub terms: Vec<f64>,
}

/// The operation with no rounding but that of f64. A second operand that is lacking counts as zero.
pub fn pointwise<T: Float>(
    problem: &PointwiseProblem,
    x: HostTensor<'_, T, 2>,
    second: Option<HostTensor<'_, T, 2>>,
) -> PointwiseOutput {
    let [rows, dim] = x.shape();
    let of = |tensor: &HostTensor<'_, T, 2>, at| tensor.get(at).map_or(0.0, T::to_f64);
    let mut output = PointwiseOutput {
        y: Vec::with_capacity(rows * dim),
        terms: Vec::with_capacity(rows * dim),
    };
    let factor = f64::from(problem.factor);
    for at in (0..rows).flat_map(|row| (0..dim).map(move |col| [row, col])) {
        let (a, b) = (of(&x, at), second.as_ref().map_or(0.0, |b| of(b, at)));
        let z = activate(problem.activation, a);
        let (y, terms) = match problem.second {
            Second::None => (z, a.abs()),
            Second::Added => (z + b, a.abs() + b.abs()),
            Second::Gated => {
                let up = match problem.activation {
                    Activation::ClampedSwiglu if b.is_nan() => b,
                    Activation::ClampedSwiglu => b.clamp(-7.0, 7.0) + 1.0,
                    _ => b,
                };
                (z * up, (a * up).abs() + z.abs())
            }
        };
        output.y.push(factor * y);
        let terms = (factor * terms).abs();
        // Of an infinite operand that leaves a finite result, such as relu(-inf), nothing is a share.
        output
            .terms
            .push(if terms.is_finite() { terms } else { 0.0 });
    }
    output
}

/// An embedding table on the host: what is stored, as numbers.
#[derive(Clone, Copy, Debug)]
pub struct EmbedInputs<'a> {
    /// `[ids, dim]`: elements, or codes.
    pub table: HostTensor<'a, f32, 2>,
    /// `[ids, ceil(dim / group)]`, where elements are codes.
    pub scales: Option<HostTensor<'a, f32, 2>>,
    /// Of each token.
    pub ids: &'a [i64],
}

/// The rows of an embedding, `[tokens, dim]`, in f32 as the kernel computes them, and what it
/// reports: rounding them to the result's type gives the kernel's bits.
pub fn embed(problem: &EmbedProblem, inputs: EmbedInputs<'_>) -> (Vec<f32>, StatusReport) {
    let [rows, dim] = inputs.table.shape();
    let group = match problem.table {
        TableFormat::Int8 { group, .. } => group,
        TableFormat::Float(_) => dim,
    };
    let mut status = StatusReport::default();
    let mut y = Vec::with_capacity(inputs.ids.len() * dim);
    for (token, &id) in inputs.ids.iter().enumerate() {
        let row = usize::try_from(id).ok().filter(|&row| row < rows);
        if row.is_none() {
            status.record(Offence::TokenId, token as u64);
        }
        y.extend((0..dim).map(|d| {
            let Some(row) = row else { return 0.0 };
            let x = inputs.table.get([row, d]).unwrap_or(0.0);
            let scale = inputs.scales.as_ref().map_or(1.0, |scales| {
                scales.get([row, d / group.max(1)]).unwrap_or(0.0)
            });
            x * scale * problem.factor
        }));
    }
    (y, status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn a_norm_by_hand() {
        let problem = NormProblem::new(DType::F32, 2, 0.5)
            .weight(NormWeight::PlusOne)
            .residual(true);
        let (x, before) = ([1.0f32, 2.0], [2.0f32, -1.0]);
        let output = norm(
            &problem,
            NormInputs {
                x: HostTensor::new(&x, [1, 1, 2]).unwrap(),
                residual: Some(HostTensor::new(&before, [1, 1, 2]).unwrap()),
                weight: &[1.0, 0.0],
            },
        );
        assert_eq!(output.h, [3.0, 1.0]);
        let root = 5.5f64.sqrt(); // mean of 9 and 1, and 0.5
        assert_eq!(output.y, [3.0 / root * 2.0, 1.0 / root]);
    }

    #[test]
    fn a_gate_and_a_sum_by_hand() {
        let (a, b) = ([-1.0f32, 2.0], [3.0f32, 5.0]);
        let of = |problem: &PointwiseProblem| {
            let x = HostTensor::new(&a, [1, 2]).unwrap();
            let second = Some(HostTensor::new(&b, [1, 2]).unwrap());
            pointwise(problem, x, second).y
        };
        let gated = PointwiseProblem::gated(DType::F32, 2, Activation::Relu);
        assert_eq!(of(&gated.factor(0.5)), [0.0, 5.0]);
        assert_eq!(of(&PointwiseProblem::add(DType::F32, 2)), [2.0, 7.0]);
        assert_eq!(
            of(&PointwiseProblem::scale(DType::F32, 2, -3.0)),
            [3.0, -6.0]
        );
    }

    #[test]
    fn an_embedding_by_hand() {
        let table = TableFormat::Int8 {
            scales: DType::F16,
            group: 8,
        };
        let problem = EmbedProblem::new(DType::BF16, 9).table(table).factor(2.0);
        let codes: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let scales = [1.0f32, 10.0, 100.0, 1000.0];
        let (y, status) = embed(
            &problem,
            EmbedInputs {
                table: HostTensor::new(&codes, [2, 9]).unwrap(),
                scales: Some(HostTensor::new(&scales, [2, 2]).unwrap()),
                ids: &[1, 2],
            },
        );
        assert_eq!(y[..2], [1800.0, 2000.0]);
        assert_eq!((y[8], y[9]), (34000.0, 0.0));
        assert_eq!(status.first(), Some((Offence::TokenId, 1)));
    }
}
