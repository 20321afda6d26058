//! How far a kernel may be from the exact result.
//!
//! Element by element: twice the largest error, within its row, of a reference that rounds where
//! the kernel does, plus one unit in the last place of the output type, plus a share of the sum of
//! the magnitudes of the terms, which covers another order of summation, plus what the documented
//! error of an approximation or of an instruction allows. NaN and infinities must be where the exact result has them.

use crate::dtype::Float;

/// The rule for one kind of output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Multiplies the sum of the magnitudes of an element's terms.
    pub per_term: f64,
    /// Multiplies the magnitude of an element.
    pub per_result: f64,
    /// Whatever the element is.
    pub flat: f64,
    /// How many neighbouring elements share the largest error of the rounding reference.
    ///
    /// Rows of very different magnitude must not: the large ones would excuse the small ones.
    pub row: usize,
}

impl Rule {
    /// For outputs that are rounded to 16 bits.
    pub const ROUNDED: Rule = Rule {
        per_term: 1.0 / (1u64 << 24) as f64,
        per_result: 0.0,
        flat: 0.0,
        row: usize::MAX,
    };

    /// For `f32` outputs of `steps` tensor-core accumulations in a row, each of which truncates.
    pub fn truncated(steps: usize) -> Rule {
        Rule {
            per_term: steps as f64 / (1u64 << 23) as f64,
            per_result: 0.0,
            flat: 0.0,
            row: usize::MAX,
        }
    }

    /// For log-sum-exps `(m + log2 l) · ln 2` of scores that are so many accumulations in a row.
    ///
    /// Weights and the factors of parts that are merged are each off by 2⁻²² of themselves, as is
    /// the logarithm (`ex2.approx`, `lg2.approx`: PTX ISA, Floating Point Instructions). With `m`
    /// no more than 8 below the largest score, `log2 l · ln 2` is at most the result, the largest
    /// score and `8 · ln 2` together.
    pub fn log_sum_exp(steps: usize) -> Rule {
        let approximate = 1.0 / (1u64 << 22) as f64;
        Rule {
            per_term: Rule::truncated(steps).per_term + approximate,
            per_result: approximate,
            flat: (2.0 + 8.0 * std::f64::consts::LN_2) * approximate,
            row: usize::MAX,
        }
    }

    /// The same with the largest error taken over rows of so many elements.
    #[must_use]
    pub fn in_rows_of(mut self, elements: usize) -> Rule {
        self.row = elements.max(1);
        self
    }
}

/// One output to be judged: what was computed, and what it should have been.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a, T> {
    /// What the kernel computed.
    pub got: &'a [T],
    /// The exact result.
    pub exact: &'a [f64],
    /// The result of the reference that rounds where the kernel does.
    pub rounded: &'a [f64],
    /// The sum of the magnitudes of the terms of each element.
    pub terms: &'a [f64],
    /// How far documented approximations may move each element.
    pub allowed: &'a [f64],
}

/// What a comparison found in an output that is within its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Margin {
    /// The largest error.
    pub error: f64,
    /// The bound of the element with the largest share of its bound used.
    pub bound: f64,
    /// That share: below 1.
    pub used: f64,
}

/// The element that is furthest from what it may be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("element {index} is {got}, should be {exact} within {bound} (off by {error})")]
pub struct Mismatch {
    /// Which element.
    pub index: usize,
    /// What the kernel computed.
    pub got: f64,
    /// The exact result.
    pub exact: f64,
    /// How far off it is; NaN when one is finite and the other is not.
    pub error: f64,
    /// How far off it may be.
    pub bound: f64,
}

impl<T: Float> Comparison<'_, T> {
    /// Judges every element.
    ///
    /// # Errors
    /// The first element that is NaN or infinite where the exact result is not, or the other way
    /// round; else the element that exceeds its bound by the largest factor.
    ///
    /// # Panics
    /// If the five slices have different lengths.
    pub fn judge(&self, rule: Rule) -> Result<Margin, Mismatch> {
        let Comparison {
            got,
            exact,
            rounded,
            terms,
            allowed,
        } = *self;
        assert!(got.len() == exact.len() && rounded.len() == exact.len());
        assert!(terms.len() == exact.len() && allowed.len() == exact.len());
        let mismatch = |index: usize, bound| {
            let (got, exact) = (got[index].to_f64(), exact[index]);
            Mismatch {
                index,
                got,
                exact,
                error: (got - exact).abs(),
                bound,
            }
        };
        let special = |got: f64, exact: f64| {
            got.is_finite() && exact.is_finite() || got.is_nan() && exact.is_nan() || got == exact
        };
        if let Some(index) = (0..got.len()).find(|&i| !special(got[i].to_f64(), exact[i])) {
            return Err(mismatch(index, 0.0));
        }

        let error_of = |of: f64, index: usize| (of - exact[index]).abs();
        let mut margin = Margin::default();
        let mut worst = None;
        for first in (0..got.len()).step_by(rule.row) {
            let last = first.saturating_add(rule.row).min(got.len());
            let finite = || (first..last).filter(|&i| exact[i].is_finite());
            let calibration = finite()
                .map(|i| error_of(rounded[i], i))
                .filter(|error| error.is_finite())
                .fold(0.0, f64::max);
            for index in finite() {
                let error = error_of(got[index].to_f64(), index);
                let bound = 2.0 * calibration
                    + T::ulp(exact[index])
                    + rule.per_term * terms[index]
                    + rule.per_result * exact[index].abs()
                    + rule.flat
                    + allowed[index];
                if !bound.is_finite() {
                    return Err(mismatch(index, bound));
                }
                let used = error / bound;
                margin.error = margin.error.max(error);
                if used > margin.used {
                    (margin.used, margin.bound) = (used, bound);
                    worst = Some(index);
                }
            }
        }
        match worst {
            Some(index) if margin.used > 1.0 => Err(mismatch(index, margin.bound)),
            _ => Ok(margin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn judge(got: &[f32], exact: &[f64]) -> Result<Margin, Mismatch> {
        let got: Vec<bf16> = got.iter().map(|&x| bf16::from_f32(x)).collect();
        let terms = vec![1.0; got.len()];
        Comparison {
            got: &got,
            exact,
            rounded: exact,
            terms: &terms,
            allowed: &vec![0.0; got.len()],
        }
        .judge(Rule::ROUNDED)
    }

    #[test]
    fn special_values_must_be_in_their_places() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert!(judge(&[f32::NAN, f32::NEG_INFINITY], &[nan, -inf]).is_ok());
        assert_eq!(judge(&[1.0, f32::NAN], &[1.0, 1.0]).unwrap_err().index, 1);
        assert_eq!(judge(&[1.0, 1.0], &[nan, 1.0]).unwrap_err().index, 0);
        assert_eq!(judge(&[f32::INFINITY], &[-inf]).unwrap_err().index, 0);
        assert_eq!(judge(&[f32::NAN], &[inf]).unwrap_err().index, 0);
    }

    #[test]
    fn one_unit_in_the_last_place_passes_and_two_do_not() {
        assert!(judge(&[1.0078125, -3.0], &[1.0, -3.0]).is_ok());
        let wrong = judge(&[1.0, -3.03125], &[1.0, -3.0]).unwrap_err();
        assert_eq!((wrong.index, wrong.error), (1, 0.03125));
    }

    #[test]
    fn rows_do_not_excuse_each_other() {
        let comparison = Comparison {
            got: &[100.0f32, 1.5],
            exact: &[100.0, 1.0],
            rounded: &[101.0, 1.0],
            terms: &[0.0, 0.0],
            allowed: &[0.0, 0.0],
        };
        assert!(comparison.judge(Rule::truncated(1)).is_ok());
        let wrong = comparison
            .judge(Rule::truncated(1).in_rows_of(1))
            .unwrap_err();
        assert_eq!((wrong.index, wrong.error), (1, 0.5));
    }

    #[test]
    fn the_rounding_reference_widens_the_bound_twofold() {
        let exact = [1.0];
        let comparison = |got: f32, allowed: f64| {
            let got = [got];
            Comparison {
                got: &got,
                exact: &exact,
                rounded: &[1.01],
                terms: &[0.0],
                allowed: &[allowed],
            }
            .judge(Rule::truncated(1))
            .is_ok()
        };
        assert!(comparison(1.0199, 0.0));
        assert!(!comparison(1.0202, 0.0));
        assert!(comparison(1.0202, 0.0003));
        assert!(!comparison(1.0, f64::NAN));
    }
}
