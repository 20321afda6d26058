//! Covering arrays: few rows in which every choice for any few factors meets.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Some factors and a level for each.
type Tuple = Vec<(usize, usize)>;

/// Rows with a level for each factor, such that any levels of any `strength` factors occur together
/// in a row. Factor `f` has `levels[f]` of them. Greedy: each row begins with a choice that is not
/// covered yet, then gives factor after factor the level that covers most.
pub fn covering(levels: &[usize], strength: usize, seed: u64) -> Vec<Vec<usize>> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut uncovered: BTreeSet<Tuple> = tuples(levels, strength).into_iter().collect();
    let sets = subsets(levels.len(), strength);
    let mut rows = Vec::new();
    while let Some(first) = uncovered
        .iter()
        .nth(rng.random_range(0..uncovered.len().max(1)))
    {
        let mut row: Vec<Option<usize>> = vec![None; levels.len()];
        for &(factor, level) in first {
            row[factor] = Some(level);
        }
        let mut order: Vec<usize> = (0..levels.len()).filter(|&f| row[f].is_none()).collect();
        order.shuffle(rng);
        for factor in order {
            let mut choices: Vec<usize> = (0..levels[factor]).collect();
            choices.shuffle(rng);
            let gain = |level: usize| {
                let mut row = row.clone();
                row[factor] = Some(level);
                let meeting = sets.iter().filter(|set| set.contains(&factor));
                meeting
                    .filter_map(|set| set.iter().map(|&f| Some((f, row[f]?))).collect())
                    .filter(|tuple: &Tuple| uncovered.contains(tuple))
                    .count()
            };
            row[factor] = choices.into_iter().max_by_key(|&level| gain(level));
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        for set in &sets {
            uncovered.remove(&set.iter().map(|&f| (f, row[f])).collect::<Tuple>());
        }
        rows.push(row);
    }
    rows
}

/// Every choice of levels for every choice of `strength` factors.
pub fn tuples(levels: &[usize], strength: usize) -> Vec<Tuple> {
    let of_set = |set: Vec<usize>| {
        set.into_iter()
            .fold(vec![Vec::new()], |tuples: Vec<Tuple>, f| {
                let extended = |tuple: Tuple| {
                    (0..levels[f]).map(move |level| [tuple.clone(), vec![(f, level)]].concat())
                };
                tuples.into_iter().flat_map(extended).collect()
            })
    };
    let sets = subsets(levels.len(), strength);
    sets.into_iter().flat_map(of_set).collect()
}

/// All ascending choices of `size` numbers below `n`.
fn subsets(n: usize, size: usize) -> Vec<Vec<usize>> {
    if size == 0 {
        return vec![vec![]];
    }
    let longer = |set: Vec<usize>| {
        let from = set.last().map_or(0, |&last| last + 1);
        (from..n).map(move |f| [set.clone(), vec![f]].concat())
    };
    subsets(n, size - 1).into_iter().flat_map(longer).collect()
}
