//! Merging of partial attention states, in f64.

use super::HostTensor;
use crate::dtype::Float;

/// The merged state.
#[derive(Clone, Debug, Default)]
pub struct MergeOutput {
    /// `[tokens, heads, dim]`.
    pub out: Vec<f64>,
    /// The sum of the magnitudes of each element's terms.
    pub out_terms: Vec<f64>,
    /// `[heads, tokens]`.
    pub lse: Vec<f64>,
}

/// Attention over all keys from outputs `[tokens, heads, dim]` and log-sum-exps `[heads, tokens]` over
/// parts of them. Outputs without keys, `lse = -∞`, are not looked at.
///
/// # Panics
/// If a state has other shapes than `[tokens, heads, dim]` says.
pub fn merge<T: Float>(
    [tokens, heads, dim]: [usize; 3],
    states: &[(HostTensor<'_, T, 3>, HostTensor<'_, f32, 2>)],
) -> MergeOutput {
    let mut output = MergeOutput {
        lse: vec![f64::NEG_INFINITY; heads * tokens],
        ..MergeOutput::default()
    };
    for token in 0..tokens {
        for head in 0..heads {
            let of = |lse: &HostTensor<'_, f32, 2>| {
                f64::from(lse.get([head, token]).expect("a log-sum-exp for each row"))
            };
            let present: Vec<_> = states
                .iter()
                .map(|(out, lse)| (out, of(lse)))
                .filter(|(_, lse)| *lse != f64::NEG_INFINITY)
                .collect();
            let most = present.iter().fold(f64::NEG_INFINITY, |most, (_, lse)| {
                if lse.is_nan() { *lse } else { most.max(*lse) }
            });
            let total: f64 = present.iter().map(|(_, lse)| (lse - most).exp()).sum();
            if !present.is_empty() {
                output.lse[head * tokens + token] = most + total.ln();
            }
            for d in 0..dim {
                let terms = present.iter().map(|(out, lse)| {
                    let x = out.get([token, head, d]).expect("an element of each row");
                    x.to_f64() * (lse - most).exp() / total
                });
                output.out.push(terms.clone().sum());
                output.out_terms.push(terms.map(f64::abs).sum());
            }
        }
    }
    output
}
