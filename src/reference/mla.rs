//! Multi-head latent attention in f64.

use super::HostTensor;
use super::attention::{HostKv, HostPages, PrefillInputs, PrefillOutput, prefill, prefill_rounded};
use crate::attention::mla::MlaProblem;
use crate::attention::prefill::{HeadShape, PrefillError, PrefillProblem};
use crate::dtype::Float;
use crate::error::OperandError;

/// Operands of latent attention on the host; shapes as in [`attention::mla`](crate::attention::mla).
/// Either part of a tensor that has both is a view of it.
#[derive(Clone, Copy, Debug)]
pub struct MlaInputs<'a, T> {
    /// Latent parts of queries, `[total_q, heads, latent_dim]`.
    pub q_latent: HostTensor<'a, T, 3>,
    /// Rotary parts of queries, `[total_q, heads, rope_dim]`.
    pub q_rope: HostTensor<'a, T, 3>,
    /// Pages of latents, `[pages, page_size, latent_dim]`.
    pub latent: HostTensor<'a, T, 3>,
    /// Pages of rotary keys, `[pages, page_size, rope_dim]`.
    pub rope: HostTensor<'a, T, 3>,
    /// Which pages each sequence has; any numbers.
    pub pages: HostPages<'a>,
    /// The number of tokens of each sequence; any numbers.
    pub seqlens: &'a [i32],
    /// Where the queries of each sequence begin; any numbers, treated as the kernel treats them.
    pub offsets_q: &'a [i32],
}

/// Latent attention with no rounding but that of f64.
///
/// # Errors
/// As for [`prefill`]. Any type and any dimensions are accepted.
pub fn mla<T: Float>(
    problem: &MlaProblem,
    inputs: MlaInputs<'_, T>,
) -> Result<PrefillOutput, PrefillError> {
    as_attention(problem, inputs, |problem, inputs| prefill(problem, inputs))
}

/// Latent attention that rounds where the kernel with steps of `tile_k` tokens does; as
/// [`prefill_rounded`].
///
/// # Errors
/// As for [`mla`].
pub fn mla_rounded<T: Float>(
    problem: &MlaProblem,
    inputs: MlaInputs<'_, T>,
    tile_k: usize,
) -> Result<PrefillOutput, PrefillError> {
    as_attention(problem, inputs, |problem, inputs| {
        prefill_rounded(problem, inputs, tile_k)
    })
}

/// What latent attention is: that of one kv head, whose keys are latents and rotary keys, and whose
/// values are latents.
fn as_attention<T: Float>(
    problem: &MlaProblem,
    inputs: MlaInputs<'_, T>,
    compute: impl FnOnce(&PrefillProblem, PrefillInputs<'_, T>) -> Result<PrefillOutput, PrefillError>,
) -> Result<PrefillOutput, PrefillError> {
    let &MlaProblem {
        heads,
        latent_dim,
        rope_dim,
        page_size,
        ..
    } = problem;
    let dim = latent_dim + rope_dim;
    let (rows, pages) = (inputs.q_latent.shape()[0], inputs.latent.shape()[0]);
    let q = joined(
        "q",
        [inputs.q_latent, inputs.q_rope],
        [rows, heads],
        [latent_dim, rope_dim],
    )?;
    let cache = joined(
        "cache",
        [inputs.latent, inputs.rope],
        [pages, page_size],
        [latent_dim, rope_dim],
    )?;
    let shape = HeadShape {
        query: heads,
        kv: 1,
        dim,
    };
    let attention = PrefillProblem::new(problem.dtype, shape, problem.batch, problem.max_queries)
        .v_dim(latent_dim)
        .paged(page_size)
        .causal(problem.causal)
        .scale(problem.scale)
        .lse(problem.lse);
    let strides = [(page_size * dim) as i64, dim as i64, dim as i64, 1];
    let kv = HostKv::Paged {
        k: HostTensor::strided(&cache, 0, [pages, page_size, 1, dim], strides)?,
        v: HostTensor::strided(&cache, 0, [pages, page_size, 1, latent_dim], strides)?,
        pages: inputs.pages,
        seqlens: inputs.seqlens,
    };
    let q = HostTensor::new(&q, [rows, heads, dim])?;
    compute(&attention, PrefillInputs::new(q, kv, inputs.offsets_q))
}

/// Both parts of each row, one behind the other.
fn joined<T: Float>(
    tensor: &'static str,
    parts: [HostTensor<'_, T, 3>; 2],
    [outer, inner]: [usize; 2],
    dims: [usize; 2],
) -> Result<Vec<T>, OperandError> {
    for (part, dim) in parts.iter().zip(dims) {
        let (expected, got) = ([outer, inner, dim], part.shape());
        if expected != got {
            return Err(OperandError::Shape {
                tensor,
                expected: expected.into(),
                got: got.into(),
            });
        }
    }
    let of_row = |i, j| {
        let part = move |(part, dim): (HostTensor<'_, T, 3>, usize)| {
            (0..dim)
                .filter_map(move |d| part.get([i, j, d]))
                .collect::<Vec<T>>()
        };
        parts.into_iter().zip(dims).flat_map(part)
    };
    let rows = (0..outer).flat_map(|i| (0..inner).map(move |j| (i, j)));
    Ok(rows.flat_map(|(i, j)| of_row(i, j)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    /// Two heads, two tokens on pages of one, by the formula.
    #[test]
    fn two_tokens_are_weighed_by_both_parts() {
        let mut problem = MlaProblem::new(DType::F32, 2, 1, 1).scale(0.5).lse(true);
        (problem.latent_dim, problem.rope_dim) = (2, 1);
        let (latents, ropes) = ([1f32, 2.0, 3.0, -1.0], [0.5f32, -0.25]);
        let (q, q_rope) = ([1f32, 0.0, 0.5, -1.0], [2f32, 4.0]);
        let inputs = MlaInputs {
            q_latent: HostTensor::new(&q, [1, 2, 2]).unwrap(),
            q_rope: HostTensor::new(&q_rope, [1, 2, 1]).unwrap(),
            latent: HostTensor::new(&latents, [2, 1, 2]).unwrap(),
            rope: HostTensor::new(&ropes, [2, 1, 1]).unwrap(),
            pages: HostPages::Rows(HostTensor::new(&[1, 0], [1, 2]).unwrap()),
            seqlens: &[2],
            offsets_q: &[0, 1],
        };
        let result = mla(&problem, inputs).unwrap();
        for head in 0..2 {
            let score = |token: usize| {
                let dot = (0..2).map(|d| f64::from(q[2 * head + d] * latents[2 * token + d]));
                0.5 * (dot.sum::<f64>() + f64::from(q_rope[head] * ropes[token]))
            };
            let weights = [0, 1].map(|token| score(token).exp());
            let sum = weights[0] + weights[1];
            assert!((result.lse[head] - sum.ln()).abs() < 1e-12);
            for d in 0..2 {
                let latent = |token: usize| f64::from(latents[2 * token + d]);
                let expected = (weights[0] * latent(0) + weights[1] * latent(1)) / sum;
                assert!((result.out[2 * head + d] - expected).abs() < 1e-12);
            }
        }
        let rounded = mla_rounded(&problem, inputs, 32).unwrap();
        assert!((rounded.out[0] - result.out[0]).abs() < 1e-5);
        let short = MlaInputs {
            q_rope: inputs.q_latent,
            ..inputs
        };
        assert!(matches!(
            mla(&problem, short),
            Err(PrefillError::Operand(OperandError::Shape {
                tensor: "q",
                ..
            }))
        ));
    }
}
