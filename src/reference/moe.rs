//! Mixtures of experts in f64.

use super::HostTensor;
use super::gemm::finish;
use crate::dtype::Float;
use crate::gemm::WeightLayout;
use crate::moe::{Experts, GroupRank, Groups, MoeProblem, Routing, Scoring};

/// What routing reads, on the host; shapes as in [`RouteArgs`](crate::moe::RouteArgs).
#[derive(Clone, Copy, Debug)]
pub struct RouteInputs<'a, T> {
    /// `[tokens, experts]`.
    pub logits: HostTensor<'a, T, 2>,
    /// `[experts]`, added to scores for the choice.
    pub bias: Option<HostTensor<'a, f32, 1>>,
    /// `[tokens]`.
    pub shared_gate: Option<HostTensor<'a, T, 1>>,
}

/// How a token is routed.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// Its experts, the best first, then the shared ones.
    pub ids: Vec<i32>,
    /// What they weigh.
    pub weights: Vec<f64>,
    /// For each expert, what weights are made of: see [`weigh`].
    pub scores: Vec<f64>,
    /// For each expert, what it is chosen by; -inf in groups that are not chosen from.
    pub choice: Vec<f64>,
    /// Whether its logits are reported.
    pub odd: bool,
}

/// Routes each token, with no rounding but that of f64.
pub fn route<T: Float>(routing: &Routing, inputs: RouteInputs<'_, T>) -> Vec<Routed> {
    let [tokens, experts] = inputs.logits.shape();
    let token = |token: usize| {
        let mut odd = false;
        let logits: Vec<f64> = (0..experts)
            .map(|id| {
                let logit = inputs.logits.get([token, id]).map_or(0.0, T::to_f64);
                tame(logit, &mut odd)
            })
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let none = largest == f64::NEG_INFINITY;
        odd |= none;
        let scores: Vec<f64> = match routing.scoring {
            Scoring::TopKSoftmax => logits.clone(),
            Scoring::Sigmoid => logits.iter().map(|&z| sigmoid(z)).collect(),
            Scoring::Softmax if none => vec![0.0; experts],
            Scoring::Softmax => {
                let powers = || logits.iter().map(|z| (z - largest).exp());
                let sum: f64 = powers().sum();
                powers().map(|power| power / sum).collect()
            }
        };
        let mut choice: Vec<f64> = match inputs.bias {
            None => logits,
            Some(bias) => (0..experts)
                .map(|id| {
                    let bias = bias.get([id]).map_or(0.0, f32::to_f64);
                    tame(scores[id] + bias, &mut odd)
                })
                .collect(),
        };
        let mut open = vec![true; experts];
        if let Some(groups) = routing.groups {
            let kept = best_groups(groups, &choice);
            for id in 0..experts {
                open[id] = kept[id / (experts / groups.count)];
                if !open[id] {
                    choice[id] = f64::NEG_INFINITY;
                }
            }
        }
        let mut order: Vec<usize> = (0..experts).filter(|&id| open[id]).collect();
        order.sort_by(|&a, &b| choice[b].total_cmp(&choice[a]).then(a.cmp(&b)));
        let mut ids: Vec<i32> = order[..routing.top_k].iter().map(|&id| id as i32).collect();
        let mut weights = weigh(routing, &scores, &ids);
        let gate = inputs.shared_gate.and_then(|gate| gate.get([token]));
        let shared = gate.map_or(1.0, |gate| sigmoid(tame(gate.to_f64(), &mut odd)));
        for shared_id in 0..routing.shared {
            ids.push((experts + shared_id) as i32);
            weights.push(shared);
        }
        Routed {
            ids,
            weights,
            scores,
            choice,
            odd,
        }
    };
    (0..tokens).map(token).collect()
}

/// What chosen experts weigh, given all scores of their token.
pub fn weigh(routing: &Routing, scores: &[f64], chosen: &[i32]) -> Vec<f64> {
    let mut weights: Vec<f64> = chosen.iter().map(|&id| scores[id as usize]).collect();
    if routing.scoring == Scoring::TopKSoftmax {
        let largest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for weight in &mut weights {
            let none = largest == f64::NEG_INFINITY;
            *weight = if none { 0.0 } else { (*weight - largest).exp() };
        }
    }
    if routing.scoring == Scoring::TopKSoftmax || routing.renormalize {
        let sum: f64 = weights.iter().sum();
        weights
            .iter_mut()
            .for_each(|weight| *weight = if sum > LEAST_SUM { *weight / sum } else { 0.0 });
    }
    let scale = f64::from(routing.scale);
    weights.iter_mut().for_each(|weight| *weight *= scale);
    weights
}

/// Scores that add up to less are none.
const LEAST_SUM: f64 = 1e-30;

/// Which groups experts are chosen from.
fn best_groups(groups: Groups, choice: &[f64]) -> Vec<bool> {
    let rank: Vec<f64> = choice
        .chunks(choice.len() / groups.count)
        .map(|group| {
            let mut group = group.to_vec();
            group.sort_by(|a, b| b.total_cmp(a));
            match groups.rank {
                GroupRank::Best => group[0],
                GroupRank::SumOfTwo => group[0] + group[1],
            }
        })
        .collect();
    let mut order: Vec<usize> = (0..groups.count).collect();
    order.sort_by(|&a, &b| rank[b].total_cmp(&rank[a]).then(a.cmp(&b)));
    let mut kept = vec![false; groups.count];
    order[..groups.top]
        .iter()
        .for_each(|&group| kept[group] = true);
    kept
}

/// NaN counts as -inf, what is above all finite `f32` as the largest of these.
fn tame(x: f64, odd: &mut bool) -> f64 {
    let most = f64::from(f32::MAX);
    if x <= most {
        return if x == 0.0 { 0.0 } else { x }; // Zeros are equal.
    }
    *odd = true;
    if x > most { most } else { f64::NEG_INFINITY }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Pairs of tokens and slots, sorted by the experts of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permutation {
    /// Pairs by expert, in each by number; last those without an expert here.
    pub order: Vec<i32>,
    /// Where each expert's begin, and the end of the last.
    pub offsets: Vec<i32>,
    /// The first token with an id that means nothing.
    pub invalid: Option<usize>,
}

/// Sorts the pairs of `ids`, `[tokens, slots]`.
pub fn permute(experts: &Experts, ids: &[i32], slots: usize) -> Permutation {
    let here = experts.here();
    let bucket = |pair: i32| experts.index(ids[pair as usize]).unwrap_or(here);
    let mut order: Vec<i32> = (0..ids.len() as i32).collect();
    order.sort_by_key(|&pair| bucket(pair)); // Stable.
    let offsets = (0..=here)
        .map(|expert| order.partition_point(|&pair| bucket(pair) < expert) as i32)
        .collect();
    Permutation {
        offsets,
        invalid: ids
            .iter()
            .position(|&id| !experts.valid(id))
            .map(|pair| pair / slots),
        order,
    }
}

/// Operands of a layer on the host; shapes as in [`MoeArgs`](crate::moe::MoeArgs).
#[derive(Clone, Copy, Debug)]
pub struct MoeInputs<'a, T> {
    /// `[tokens, hidden]`.
    pub x: HostTensor<'a, T, 2>,
    /// Of the gate, or of the one first product.
    pub w_gate: HostTensor<'a, T, 3>,
    /// Where there is a gate.
    pub w_up: Option<HostTensor<'a, T, 3>>,
    /// Of the second product.
    pub w_down: HostTensor<'a, T, 3>,
    /// `[here, intermediate]`.
    pub bias_gate: Option<HostTensor<'a, T, 2>>,
    /// `[here, intermediate]`.
    pub bias_up: Option<HostTensor<'a, T, 2>>,
    /// `[here, hidden]`.
    pub bias_down: Option<HostTensor<'a, T, 2>>,
}

/// What a layer should give.
#[derive(Clone, Debug)]
pub struct MoeOutput {
    /// `[tokens, hidden]`, row-major.
    pub y: Vec<f64>,
    /// For each element, the sum of the magnitudes of its terms, through both products.
    pub terms: Vec<f64>,
}

/// The layer for tokens that were routed so, with no rounding but that of f64.
pub fn layer<T: Float>(
    problem: &MoeProblem,
    ids: &[i32],
    weights: &[f32],
    inputs: MoeInputs<'_, T>,
) -> MoeOutput {
    compute(problem, ids, weights, inputs, |x| x)
}

/// The same, rounded where the kernels round: intermediate rows, those of each slot, and the result.
pub fn layer_rounded<T: Float>(
    problem: &MoeProblem,
    ids: &[i32],
    weights: &[f32],
    inputs: MoeInputs<'_, T>,
) -> MoeOutput {
    compute(problem, ids, weights, inputs, |x| T::nearest(x).to_f64())
}

fn compute<T: Float>(
    problem: &MoeProblem,
    ids: &[i32],
    weights: &[f32],
    inputs: MoeInputs<'_, T>,
    round: impl Fn(f64) -> f64,
) -> MoeOutput {
    let (hidden, intermediate) = (problem.hidden, problem.intermediate);
    let (experts, slots) = (problem.experts(), problem.routing.slots());
    let [tokens, _] = inputs.x.shape();
    let (mut y, mut terms) = (vec![0.0; tokens * hidden], vec![0.0; tokens * hidden]);
    let row = |bias: Option<HostTensor<'_, T, 2>>, expert, col| {
        bias.and_then(|bias| bias.get([expert, col]))
            .map_or(0.0, T::to_f64)
    };
    // Expert by expert: the weights of one are unpacked at a time.
    for expert in 0..experts.here() {
        let pairs: Vec<usize> = (0..ids.len())
            .filter(|&pair| experts.index(ids[pair]) == Some(expert))
            .collect();
        if pairs.is_empty() {
            continue;
        }
        let unpack = |w, n, k| matrix(w, problem.layout, expert, n, k);
        let gate = unpack(inputs.w_gate, intermediate, hidden);
        let up = inputs.w_up.map(|w| unpack(w, intermediate, hidden));
        let down = unpack(inputs.w_down, hidden, intermediate);
        for pair in pairs {
            let token = pair / slots;
            let x: Vec<f64> = (0..hidden)
                .map(|at| inputs.x.get([token, at]).map_or(0.0, T::to_f64))
                .collect();
            let (mut rows, mut spread) = (Vec::new(), Vec::new());
            for col in 0..intermediate {
                let of = |w: &[f64], bias: f64| dot(&x, &x, &w[col * hidden..][..hidden], bias);
                let g = of(&gate, row(inputs.bias_gate, expert, col));
                let u = up
                    .as_ref()
                    .map(|up| of(up, row(inputs.bias_up, expert, col)));
                let (z, z_terms) = finish(problem.activation, g, u);
                rows.push(round(z));
                spread.push(z.abs() + z_terms);
            }
            let weight = f64::from(weights[pair]);
            for col in 0..hidden {
                let w = &down[col * intermediate..][..intermediate];
                let (part, part_terms) = dot(&rows, &spread, w, row(inputs.bias_down, expert, col));
                y[token * hidden + col] += weight * round(part);
                terms[token * hidden + col] += weight.abs() * part_terms;
            }
        }
    }
    y.iter_mut().for_each(|y| *y = round(*y));
    MoeOutput { y, terms }
}

/// An expert's weights as `[n, k]`.
fn matrix<T: Float>(
    w: HostTensor<'_, T, 3>,
    layout: WeightLayout,
    expert: usize,
    n: usize,
    k: usize,
) -> Vec<f64> {
    let mut all = Vec::with_capacity(n * k);
    for col in 0..n {
        all.extend((0..k).map(|at| {
            let index = match layout {
                WeightLayout::Nk => [expert, col, at],
                WeightLayout::Kn => [expert, at, col],
            };
            w.get(index).map_or(0.0, T::to_f64)
        }));
    }
    all
}

/// A sum of products, and of magnitudes of which the first factors are given apart.
fn dot(x: &[f64], magnitudes: &[f64], w: &[f64], bias: f64) -> (f64, f64) {
    let mut sums = (bias, bias.abs());
    for ((x, magnitude), w) in x.iter().zip(magnitudes).zip(w) {
        sums.0 += x * w;
        sums.1 += magnitude.abs() * w.abs();
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(routing: &Routing, logits: &[f32], bias: Option<&[f32]>) -> Routed {
        let inputs = RouteInputs {
            logits: HostTensor::new(logits, [1, logits.len()]).unwrap(),
            bias: bias.map(|bias| HostTensor::new(bias, [bias.len()]).unwrap()),
            shared_gate: None,
        };
        route(routing, inputs).remove(0)
    }

    #[test]
    fn routing_by_hand() {
        let logits = [0.0, 2f32.ln(), 0.0, 4f32.ln()];
        let mixtral = routed(&Routing::new(4, 2), &logits, None);
        assert_eq!(mixtral.ids, [3, 1]);
        assert!((mixtral.weights[0] - 4.0 / 6.0).abs() < 1e-6);
        let qwen = Routing::new(4, 3).scoring(Scoring::Softmax, false);
        let qwen = routed(&qwen, &logits, None);
        assert_eq!(qwen.ids, [3, 1, 0], "of equals the lower id");
        assert!((qwen.weights[2] - 1.0 / 8.0).abs() < 1e-6);
        // Two groups of two: 0.5 + 2/3 against 0.5 + 0.8, and the bias turns it round.
        let deepseek = Routing::new(4, 1)
            .scoring(Scoring::Sigmoid, true)
            .bias(true)
            .scale(2.5)
            .groups(Some(Groups {
                count: 2,
                top: 1,
                rank: GroupRank::SumOfTwo,
            }));
        let plain = routed(&deepseek, &logits, Some(&[0.0; 4]));
        assert_eq!((plain.ids, plain.weights), (vec![3], vec![2.5]));
        let biased = routed(&deepseek, &logits, Some(&[0.5, 0.0, 0.0, 0.0]));
        assert_eq!(biased.ids, [0]);
    }

    #[test]
    fn odd_logits_are_defined() {
        let nan = f32::NAN;
        let all = routed(&Routing::new(3, 2), &[nan; 3], None);
        assert!(all.odd && all.ids == [0, 1] && all.weights == [0.0; 2]);
        let infinite = routed(&Routing::new(3, 2), &[nan, f32::INFINITY, 5.0], None);
        assert!(infinite.odd && infinite.ids == [1, 2] && infinite.weights == [1.0, 0.0]);
        let masked = routed(&Routing::new(3, 2), &[f32::NEG_INFINITY, 1.0, 1.0], None);
        assert!(!masked.odd && masked.ids == [1, 2]);
    }

    #[test]
    fn sorting_by_hand() {
        let experts = Experts::new(4, 1).local(1..3);
        let sorted = permute(&experts, &[2, 4, 1, 4, -1, 4, 3, 9], 2);
        assert_eq!(sorted.order, [2, 0, 1, 3, 5, 4, 6, 7]);
        assert_eq!(sorted.offsets, [0, 1, 2, 5]);
        assert_eq!(sorted.invalid, Some(3));
    }
}
