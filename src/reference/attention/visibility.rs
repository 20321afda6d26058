//! Which keys a query sees by its position.

use crate::attention::prefill::{PrefillProblem, Window};

/// Whether query `i` of `queries` sees key `j` of `keys`, by causality and window.
pub(super) fn sees(
    problem: &PrefillProblem,
    [queries, keys]: [usize; 2],
    i: usize,
    j: usize,
) -> bool {
    let at = |n: usize| n as i128;
    let (p, j) = (at(i) + at(keys) - at(queries), at(j));
    let Window { left, right } = problem.window;
    (!problem.causal || j <= p)
        && left.is_none_or(|left| p - at(left) <= j)
        && right.is_none_or(|right| j <= p + at(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::prefill::HeadShape;
    use crate::dtype::DType;

    /// Draws the picture instead of computing: the last query stands over the last key, and one
    /// walks up and to the left from there.
    fn picture(problem: &PrefillProblem, queries: usize, keys: usize) -> Vec<Vec<bool>> {
        let mut seen = vec![vec![false; keys]; queries];
        for up in 0..queries {
            let row = &mut seen[queries - 1 - up];
            // The key that the query is aligned with has `up` keys behind it, if it exists.
            for behind_last in 0..keys {
                let key = keys - 1 - behind_last;
                let ahead = behind_last < up; // The key lies behind the query's own position.
                let distance = behind_last.abs_diff(up);
                let side = if ahead {
                    (!problem.causal).then_some(problem.window.right)
                } else {
                    Some(problem.window.left)
                };
                let within = |side: Option<usize>| side.is_none_or(|most| distance <= most);
                row[key] = side.is_some_and(within) || distance == 0;
            }
        }
        seen
    }

    #[test]
    fn the_rule_draws_the_picture() {
        let heads = HeadShape {
            query: 1,
            kv: 1,
            dim: 8,
        };
        let problem = PrefillProblem::new(DType::F32, heads, 1, 70);
        let sizes = [0, 1, 2, 3, 5, 7, 8, 13, 31, 32, 33, 64, 69, 70];
        let sides: Vec<Option<usize>> =
            (0..=71).map(Some).chain([None, Some(usize::MAX)]).collect();
        let agree = |problem: &PrefillProblem, queries: usize, keys: usize| {
            let picture = picture(problem, queries, keys);
            for (i, row) in picture.iter().enumerate() {
                for (j, &seen) in row.iter().enumerate() {
                    let rule = sees(problem, [queries, keys], i, j);
                    assert_eq!(rule, seen, "{queries} {keys} {i} {j} {problem:?}");
                }
            }
        };
        for causal in [false, true] {
            // Every number of queries and keys with a few windows, every window with a few of them.
            for window in [Window::ALL, Window::new(3, 2), Window::left(11)] {
                let problem = problem.clone().causal(causal).window(window);
                for (queries, keys) in (0..=70).flat_map(|q| (0..=70).map(move |k| (q, k))) {
                    agree(&problem, queries, keys);
                }
            }
            for (&left, &right) in sides.iter().flat_map(|l| sides.iter().map(move |r| (l, r))) {
                let problem = problem
                    .clone()
                    .causal(causal)
                    .window(Window { left, right });
                let at = left
                    .unwrap_or(3)
                    .wrapping_mul(31)
                    .wrapping_add(right.unwrap_or(5));
                for step in 0..3 {
                    let size = |n: usize| sizes[n % sizes.len()];
                    agree(
                        &problem,
                        size(at.wrapping_add(5 * step)),
                        size(at / 3 + step),
                    );
                }
            }
        }
    }
}
