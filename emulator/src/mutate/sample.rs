//! Which mutants are drawn.

use std::collections::BTreeMap;

use super::{Kind, Mutant};
use crate::machine::Random;

/// Draws `size` mutants, or all if there are fewer, in the order of `mutants`; the same for the
/// same seed.
///
/// Every kind gets an equal share, kinds with fewer mutants than that all of theirs. The share of a
/// kind is spread over the lines of the source (of the PTX, where it does not tell): no line gets a
/// second mutant before each other has its first.
pub fn sample(mutants: &[Mutant], size: usize, seed: u64) -> Vec<Mutant> {
    let mut by_kind: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (at, mutant) in mutants.iter().enumerate() {
        by_kind.entry(mutant.kind).or_default().push(at);
    }
    for (kind, members) in &mut by_kind {
        let random = &mut Random::new(seed, 1 + *kind as u64);
        *members = spread(mutants, members, random);
    }
    let mut chosen: Vec<usize> = Vec::new();
    let mut queues: Vec<_> = by_kind.into_values().map(Vec::into_iter).collect();
    // Kinds take turns. In the last turn, which not all may get, the seed says who comes first.
    Random::new(seed, 0).shuffle(&mut queues);
    while chosen.len() < size.min(mutants.len()) {
        for queue in &mut queues {
            if chosen.len() < size {
                chosen.extend(queue.next());
            }
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|at| mutants[at].clone()).collect()
}

/// The members of a kind in the order in which they are drawn.
fn spread(mutants: &[Mutant], members: &[usize], random: &mut Random) -> Vec<usize> {
    let mut lines: BTreeMap<(&str, u32), Vec<usize>> = BTreeMap::new();
    for &at in members {
        let mutant = &mutants[at];
        let line = match &mutant.source {
            Some((file, line)) => (file.as_str(), *line),
            None => ("", mutant.line),
        };
        lines.entry(line).or_default().push(at);
    }
    let mut lines: Vec<Vec<usize>> = lines.into_values().collect();
    for line in &mut lines {
        random.shuffle(line);
    }
    random.shuffle(&mut lines);
    let longest = lines.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|turn| lines.iter().filter_map(move |line| line.get(turn).copied()))
        .collect()
}
