//! The stages of a mixture of experts, each alone: against the reference, and on garbage.
//!
//! `INFER_KERNELS_CASES=17..18` runs one random case alone, a wider range more than a quick run does.

use std::error::Error;

use crate::common::moe::{Router, Spread, normals};
use crate::common::{device, in_parallel, seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::moe::{
    CombineArgs, CombinePlan, Direction, Experts, GroupRank, GroupedArgs, GroupedPlan,
    GroupedProblem, Groups, PermuteArgs, PermutePlan, Routing, Scoring,
};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::reference::moe::{Permutation, permute, route};
use infer_kernels::{DType, Device, Float, Offence, Region, RegionMut, StatusReport, StatusWord};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What a status word holds after these offences, each with the lowest place where it was seen.
fn report(seen: &[(Offence, Option<u64>)]) -> StatusReport {
    let mut words = [0u64; 2];
    for &(offence, index) in seen {
        if let Some(index) = index {
            words[0] |= u64::from(offence.bit());
            words[1] = words[1].max(!((offence as u64) << 56 | index));
        }
    }
    StatusReport::decode(words)
}

const SCORINGS: [Scoring; 3] = [Scoring::Softmax, Scoring::TopKSoftmax, Scoring::Sigmoid];

fn random_routing(rng: &mut StdRng) -> Routing {
    let experts =
        [1, 2, 5, 8, 16, 31, 32, 33, 60, 64, 128, 160, 256, 384, 512][rng.random_range(0..15)];
    let scoring = SCORINGS[rng.random_range(0..3)];
    let divisors: Vec<usize> = (1..=32usize).filter(|&g| experts % g == 0).collect();
    let count = divisors[rng.random_range(0..divisors.len())];
    let top = rng.random_range(1..=count);
    let rank = match experts / count {
        1 => GroupRank::Best,
        _ => [GroupRank::Best, GroupRank::SumOfTwo][rng.random_range(0..2)],
    };
    let groups = rng.random_bool(0.5).then_some(Groups { count, top, rank });
    let most = groups.map_or(experts, |_| top * (experts / count)).min(16);
    Routing::new(experts, rng.random_range(1..=most))
        .scoring(scoring, rng.random_bool(0.5))
        .bias(scoring != Scoring::TopKSoftmax && rng.random_bool(0.4))
        .groups(groups)
        .scale([1.0, 2.5, 0.1][rng.random_range(0..3)])
        .shared(
            rng.random_range(0..4usize).saturating_sub(2),
            rng.random_bool(0.5),
        )
}

fn routed<L: Float>(seed: u64, device: &Device) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let routing = random_routing(rng);
    let spread = [Spread::Even, Spread::Zipf, Spread::One][rng.random_range(0..3)];
    let tokens = rng.random_range(0..12);
    let mut router = Router::<L>::random(rng, routing, tokens, spread);
    let experts = router.routing.experts;
    // Masked experts, ties, and logits that are no numbers.
    for logit in &mut router.logits {
        if rng.random_bool(0.1) {
            *logit = L::nearest([f64::NEG_INFINITY, 0.0, -0.0, 1.0][rng.random_range(0..4)]);
        }
    }
    for token in 0..tokens {
        let row = &mut router.logits[token * experts..][..experts];
        match rng.random_range(0..12) {
            0 => row.fill(L::nearest(f64::NAN)),
            1 => row.fill(L::nearest(f64::NEG_INFINITY)),
            2 => row.fill(L::nearest(0.5)),
            3 => row[rng.random_range(0..experts)] = L::nearest(f64::INFINITY),
            4 => row[rng.random_range(0..experts)] = L::nearest(f64::NAN),
            _ => {}
        }
    }
    // A bias and a gate that are no numbers.
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    if let Some(bias) = router.bias.as_mut().filter(|_| rng.random_bool(0.2)) {
        bias[rng.random_range(0..experts)] = f32::nearest(odd[rng.random_range(0..3)]);
    }
    if let Some(gate) = router.gate.as_mut().filter(|_| tokens > 0)
        && rng.random_bool(0.3)
    {
        gate[rng.random_range(0..tokens)] = L::nearest(odd[rng.random_range(0..3)]);
    }
    check_route(seed, &router, device);
}

/// Routes on the device; ids, weights and report are the reference's.
fn check_route<L: Float>(seed: u64, router: &Router<L>, device: &Device) {
    let (ids, weights, status) = router.run(device).unwrap();
    router.judge(&ids, &weights);
    let first = route(&router.routing, router.inputs())
        .iter()
        .position(|routed| routed.odd)
        .map(|token| token as u64);
    assert_eq!(
        status,
        report(&[(Offence::RouterLogit, first)]),
        "case {seed}: {:?}",
        router.routing
    );
}

#[test]
fn random_routings_are_the_references() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..240).collect();
    in_parallel(&seeds, |&seed| match seed % 3 {
        0 => routed::<f32>(seed, &device),
        1 => routed::<f16>(seed, &device),
        _ => routed::<bf16>(seed, &device),
    });
}

/// Groups wider than a warp: the two best of a group may be one lane's.
#[test]
fn groups_wider_than_a_warp_are_ranked_by_both_of_their_best() {
    let device = device();
    let sizes = [33, 40, 48, 64, 80, 96, 100, 128, 129, 160, 192, 256];
    in_parallel(&sizes, |&size| {
        for count in 2..=512 / size {
            let rng = &mut StdRng::seed_from_u64((size + count) as u64);
            let groups = Groups {
                count,
                top: rng.random_range(1..count),
                rank: GroupRank::SumOfTwo,
            };
            let routing = Routing::new(size * count, 4)
                .scoring(Scoring::Sigmoid, true)
                .groups(Some(groups));
            let mut router = Router::<f32>::random(rng, routing, 40, Spread::Even);
            // In half of the tokens, each lane has but one good expert, or two of the best are one lane's.
            for row in router.logits.chunks_mut(2 * size * count) {
                for group in row[..size * count].chunks_mut(size) {
                    let lane = rng.random_range(0..size - 32);
                    group[lane] = rng.random_range(6..12) as f32;
                    group[lane + 32] = rng.random_range(6..12) as f32;
                }
            }
            check_route(size as u64, &router, &device);
        }
    });
}

/// The largest and the least finite logits and biases are numbers as any other.
#[test]
fn extreme_logits_are_ordinary() {
    let route = |routing: Routing, logits: [f32; 4], bias: Option<Vec<f32>>| {
        let router = Router {
            tokens: 1,
            logits: logits.to_vec(),
            bias,
            gate: None,
            routing,
        };
        let (ids, weights, status) = router.run(shared_device()).unwrap();
        assert!(status.is_clean(), "{logits:?}: {status:?}");
        (ids, weights)
    };
    let (most, none) = (f32::MAX, f32::NEG_INFINITY);
    let of_all = Routing::new(4, 2).scoring(Scoring::TopKSoftmax, false);
    assert_eq!(
        route(of_all.clone(), [-most; 4], None),
        (vec![0, 1], vec![0.5; 2])
    );
    assert_eq!(
        route(of_all, [0.0, most, -most, most], None),
        (vec![1, 3], vec![0.5; 2])
    );
    let biased = Routing::new(4, 1)
        .scoring(Scoring::Softmax, false)
        .bias(true);
    assert_eq!(
        route(
            biased,
            [0.0, none, none, 0.0],
            Some(vec![0.0, 0.0, most, 0.0])
        ),
        (vec![2], vec![0.0])
    );
}

/// Equal logits: the lowest ids, in their order, for every number of experts and of choices.
#[test]
fn ties_go_to_the_lower_id() {
    for experts in [1, 7, 32, 33, 128, 256, 512] {
        for top_k in [1, 2, 8, 16] {
            let routing = Routing::new(experts, top_k.min(experts));
            let router = Router {
                tokens: 3,
                logits: vec![bf16::ONE; 3 * experts],
                bias: None,
                gate: None,
                routing: routing.logits(DType::BF16),
            };
            let (ids, weights, status) = router.run(shared_device()).unwrap();
            router.judge(&ids, &weights);
            assert!(status.is_clean());
            let expected: Vec<i32> = (0..top_k.min(experts) as i32).collect();
            for ids in ids.chunks(expected.len()) {
                assert_eq!(ids, expected, "{experts} experts");
            }
        }
    }
}

/// A row of NaN, of infinities, of both: valid, distinct ids and finite weights (vLLM PR39391,
/// sglang PR30079).
#[test]
fn nan_router_row_gives_duplicate_ids() {
    for scoring in SCORINGS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = vec![bad; 64];
            logits.extend((0..64).map(|i| if i % 2 == 0 { bad } else { i as f32 }));
            let router = Router {
                tokens: 2,
                logits,
                bias: (scoring != Scoring::TopKSoftmax).then(|| vec![bad; 64]),
                gate: None,
                routing: Routing::new(64, 8)
                    .scoring(scoring, true)
                    .bias(scoring != Scoring::TopKSoftmax),
            };
            let (ids, weights, status) = router.run(shared_device()).unwrap();
            assert_eq!(status.first(), Some((Offence::RouterLogit, 0)));
            for (ids, weights) in ids.chunks(8).zip(weights.chunks(8)) {
                let mut distinct = ids.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), 8, "{scoring:?} {bad}: {ids:?}");
                assert!(ids.iter().all(|id| (0..64).contains(id)));
                assert!(
                    weights.iter().all(|w| w.is_finite() && *w >= 0.0),
                    "{weights:?}"
                );
            }
        }
    }
}

fn sort(
    device: &Device,
    experts: &Experts,
    ids: &[i32],
    slots: usize,
) -> Result<(Permutation, StatusReport), Box<dyn Error>> {
    let stream = device.stream();
    let tokens = ids.len() / slots;
    let plan = PermutePlan::new(device, experts, slots, tokens + 1)?;
    let on_device = stream.upload(ids)?;
    let mut order = stream.upload(&vec![-7i32; ids.len()])?;
    let mut offsets = stream.upload(&vec![-7i32; experts.here() + 1])?;
    let mut workspace = stream.upload(&vec![i32::MIN; plan.workspace_elements()])?;
    let status = StatusWord::new(&stream)?;
    let args = PermuteArgs {
        ids: on_device.tensor([tokens, slots])?,
        order: order.tensor_mut([ids.len()])?,
        offsets: offsets.tensor_mut([experts.here() + 1])?,
        workspace: Some(workspace.tensor_mut([plan.workspace_elements()])?),
        status: &status,
    };
    plan.run(&stream, args)?;
    let sorted = Permutation {
        order: order.download()?,
        offsets: offsets.download()?,
        invalid: None,
    };
    Ok((sorted, status.read()?))
}

/// Sorts on the device and compares order, offsets and report with the reference.
fn check_sort(device: &Device, experts: &Experts, ids: &[i32], slots: usize) {
    let (got, status) = sort(device, experts, ids, slots).unwrap();
    let expected = permute(experts, ids, slots);
    assert_eq!(got.offsets, expected.offsets, "{experts:?}");
    assert!(
        got.order == expected.order,
        "{experts:?}, {} pairs",
        ids.len()
    );
    let invalid = expected.invalid.map(|token| token as u64);
    assert_eq!(status, report(&[(Offence::ExpertId, invalid)]));
}

/// Ids from outside, valid or not: every one is placed or dropped as the reference says.
#[test]
fn random_ids_are_sorted_or_dropped() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..60).collect();
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let routed = [1, 2, 8, 33, 128, 511, 512][rng.random_range(0..7)];
        let first = rng.random_range(0..=routed / 2);
        let last = rng.random_range(first..=routed);
        let experts = Experts::new(routed, rng.random_range(0..=16)).local(first..last);
        let slots = rng.random_range(1..=32);
        let tokens = match rng.random_range(0..3) {
            0 => rng.random_range(0..5),
            1 => rng.random_range(0..200),
            _ => rng.random_range(0..8000) / slots,
        };
        let hostile = rng.random_bool(0.5);
        let ids: Vec<i32> = (0..tokens * slots)
            .map(
                |_| match rng.random_range(0..if hostile { 20 } else { 10 }) {
                    10 => -1,
                    11 => i32::MIN,
                    12 => i32::MAX,
                    13 => (routed + 16) as i32,
                    14 => rng.random(),
                    _ => rng.random_range(0..routed as i32),
                },
            )
            .collect();
        check_sort(&device, &experts, &ids, slots);
    });
}

/// Every number of pairs that a warp may be left with, and ranges of several blocks that end anywhere.
#[test]
fn every_number_of_pairs_is_sorted() {
    let device = device();
    let sizes: Vec<usize> = (0..=300)
        .chain((2049..2310).step_by(4))
        .chain([1023, 4100, 9001, 20_033])
        .collect();
    in_parallel(&sizes, |&pairs| {
        let rng = &mut StdRng::seed_from_u64(pairs as u64);
        let experts = Experts::new(20, 5).local(4..17);
        let ids: Vec<i32> = (0..pairs).map(|_| rng.random_range(-3..28)).collect();
        check_sort(&device, &experts, &ids, 1);
    });
}

/// Ids that change with every look at them, so that more pairs turn up than were counted: none is placed
/// outside the order. Two may be placed at one place: that race, of numbers that are each a pair, is allowed.
#[test]
fn random_ids_that_change_are_survived() {
    let seeds: Vec<u64> = seeds(0..40).collect();
    in_parallel(&seeds, |&seed| {
        let mut config = Config::default();
        (config.seed, config.checks.race) = (seed, false);
        let device = Device::emulator(config);
        let rng = &mut StdRng::seed_from_u64(seed);
        let stream = device.stream();
        let experts = Experts::new([1, 8, 33][rng.random_range(0..3)], 0);
        let tokens = rng.random_range(1..1500);
        let plan = PermutePlan::new(&device, &experts, 2, tokens).unwrap();
        let ids = stream.upload(&vec![0i32; 2 * tokens]).unwrap();
        let mut order = stream.upload(&vec![-7i32; 2 * tokens]).unwrap();
        let mut offsets = stream.upload(&vec![-7i32; experts.here() + 1]).unwrap();
        let mut workspace = stream
            .upload(&vec![0i32; plan.workspace_elements()])
            .unwrap();
        let status = StatusWord::new(&stream).unwrap();
        let ids = ids.tensor([tokens, 2]).unwrap();
        let emulator = device.as_emulator().unwrap();
        emulator
            .mark_hostile(ids.address(), 8 * tokens as u64)
            .unwrap();
        let args = PermuteArgs {
            ids,
            order: order.tensor_mut([2 * tokens]).unwrap(),
            offsets: offsets.tensor_mut([experts.here() + 1]).unwrap(),
            workspace: Some(workspace.tensor_mut([plan.workspace_elements()]).unwrap()),
            status: &status,
        };
        plan.run(&stream, args)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        emulator.clear_hostile();
        let order = order.download().unwrap();
        let pairs = -7..2 * tokens as i32;
        assert!(
            order.iter().all(|pair| pairs.contains(pair)),
            "seed {seed}: {order:?}"
        );
    });
}

/// −1, the number of experts, and the least number: dropped, counted, and never an index
/// (vllm-xpu-kernels#571, aiter#4636).
#[test]
fn expert_id_out_of_range_as_array_index() {
    let device = device();
    let experts = Experts::new(8, 0);
    for (ids, report) in [
        (vec![-1; 40], None),
        (vec![8; 40], Some((Offence::ExpertId, 0))),
        (vec![i32::MIN; 40], Some((Offence::ExpertId, 0))),
        (vec![i32::MAX; 40], Some((Offence::ExpertId, 0))),
        (
            [vec![3; 39], vec![-2]].concat(),
            Some((Offence::ExpertId, 19)),
        ),
    ] {
        let (sorted, status) = sort(&device, &experts, &ids, 2).unwrap();
        assert_eq!(status.first(), report);
        let kept = ids.iter().filter(|&&id| id == 3).count();
        assert_eq!(sorted.offsets[8] as usize, kept);
    }
}

/// Many tokens, all to one expert or everywhere; more blocks than one.
#[test]
fn many_tokens_are_sorted() {
    let device = device();
    let experts = Experts::new(128, 0);
    let rng = &mut StdRng::seed_from_u64(1);
    for tokens in [70_000, 100_000] {
        let one = tokens == 70_000;
        let ids: Vec<i32> = (0..2 * tokens)
            .map(|_| if one { 77 } else { rng.random_range(0..128) })
            .collect();
        check_sort(&device, &experts, &ids, 2);
    }
}

/// A grouped product alone, on an order and offsets from outside.
struct Product {
    problem: GroupedProblem,
    tokens: usize,
    order: Vec<i32>,
    offsets: Vec<i32>,
    /// Order and offsets change with every look at them.
    hostile: bool,
}

impl Product {
    /// Rows of ones times weights that tell experts apart: `y[row] = k·(expert + 1)`; rows that are not
    /// written keep -1.
    fn run(&self, device: &Device) -> Result<(Vec<f32>, StatusReport), Box<dyn Error>> {
        let stream = device.stream();
        let GroupedProblem {
            here,
            n,
            k,
            slots,
            splits,
            ..
        } = self.problem;
        let plan = GroupedPlan::new(device, &self.problem)?;
        let rows = match self.problem.direction {
            Direction::Up => self.tokens,
            Direction::Down => self.tokens * slots,
        };
        let y_rows = splits * self.tokens * slots;
        let w: Vec<bf16> = (0..here * n * k)
            .map(|at| bf16::nearest((at / (n * k) + 1) as f64))
            .collect();
        let x = stream.upload(&vec![bf16::ONE; rows * k])?;
        let w = stream.upload(&w)?;
        let order = stream.upload(&self.order)?;
        let offsets = stream.upload(&self.offsets)?;
        let mut y = stream.upload(&vec![-1.0f32; y_rows * n])?;
        let status = StatusWord::new(&stream)?;
        let emulator = device.as_emulator().filter(|_| self.hostile);
        if let Some(emulator) = emulator {
            for buffer in [&order, &offsets] {
                let bytes = 4 * buffer.len() as u64;
                emulator.mark_hostile(buffer.tensor([buffer.len()])?.address(), bytes)?;
            }
        }
        let args = GroupedArgs {
            x: x.tensor([rows, k])?,
            w: w.tensor([here, n, k])?,
            w_up: None,
            bias: None,
            bias_up: None,
            order: order.tensor([self.tokens * slots])?,
            offsets: offsets.tensor([here + 1])?,
            y: y.tensor_mut([y_rows, n])?,
            status: &status,
        };
        plan.run(&stream, args)?;
        if let Some(emulator) = emulator {
            emulator.clear_hostile();
            return Ok((y.download()?, status.read()?));
        }
        let y = y.download()?;
        let firsts: Vec<f32> = y.chunks(n).map(|row| row[0]).collect();
        for (row, &first) in y.chunks(n).zip(&firsts) {
            assert!(row.iter().all(|&y| y == first), "a row is written whole");
        }
        Ok((firsts, status.read()?))
    }

    /// What the kernel's rules make of the order and the offsets.
    fn oracle(&self) -> (Vec<f32>, StatusReport) {
        let GroupedProblem { here, k, slots, .. } = self.problem;
        let pairs = self.tokens * slots;
        let mut y = vec![-1.0; pairs];
        let (mut range, mut pair) = (None, None);
        // Without tokens, nothing is launched.
        for expert in 0..if pairs == 0 { 0 } else { here } {
            let (begin, end) = (self.offsets[expert], self.offsets[expert + 1]);
            if begin < 0 || end < begin || end as usize > pairs {
                range = Some(expert as u64);
                break;
            }
            for place in begin as usize..end as usize {
                let at = usize::try_from(self.order[place])
                    .ok()
                    .filter(|&at| at < pairs);
                if at.is_none() {
                    pair = Some(pair.map_or(place as u64, |p: u64| p.min(place as u64)));
                }
                let row = match self.problem.direction {
                    Direction::Up => Some(place),
                    Direction::Down => at,
                };
                if let Some(row) = row {
                    y[row] = (k * (expert + 1)) as f32;
                }
            }
        }
        let seen = [(Offence::ExpertRange, range), (Offence::ExpertRow, pair)];
        (y, report(&seen))
    }
}

/// A product of random sizes, with an order and offsets that fit it.
fn random_product(rng: &mut StdRng) -> Product {
    let here = [1, 3, 33, 70][rng.random_range(0..4)];
    let (tokens, slots) = (rng.random_range(0..40), rng.random_range(1..4));
    let ids: Vec<i32> = (0..tokens * slots)
        .map(|_| rng.random_range(0..here as i32))
        .collect();
    let sorted = permute(&Experts::new(here, 0), &ids, slots);
    let direction = [Direction::Up, Direction::Down][rng.random_range(0..2)];
    let mut problem = GroupedProblem::new(DType::BF16, direction, [here, 8, 16], tokens, slots)
        .tile([None, Some(16), Some(64), Some(128)][rng.random_range(0..4)]);
    problem.out = DType::F32;
    Product {
        problem,
        tokens,
        order: sorted.order,
        offsets: sorted.offsets,
        hostile: false,
    }
}

/// Offsets and orders that make no sense are never followed.
#[test]
fn random_orders_and_offsets_are_followed_or_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..150).collect();
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut product = random_product(rng);
        let (order, offsets) = (&mut product.order, &mut product.offsets);
        let pairs = order.len();
        let garbage = [
            -1,
            i32::MIN,
            i32::MAX,
            pairs as i32,
            pairs as i32 + 1,
            rng.random(),
        ];
        for _ in 0..rng.random_range(0..3) {
            let at = rng.random_range(0..offsets.len());
            offsets[at] = garbage[rng.random_range(0..6)];
        }
        for _ in 0..rng.random_range(0..3usize).min(pairs) {
            order[rng.random_range(0..pairs)] = garbage[rng.random_range(0..6)];
        }
        if rng.random_bool(0.1) {
            offsets
                .iter_mut()
                .chain(order)
                .for_each(|x| *x = rng.random());
        }
        let (y, status) = product.run(&device).unwrap();
        let (expected, report) = product.oracle();
        assert_eq!(y, expected, "case {seed}");
        assert_eq!(status, report, "case {seed}");
    });
}

/// An order and offsets that change with every look at them: what is written is some expert's row, in its
/// place or in another pair's. Which of two blocks writes a row is open.
#[test]
fn random_orders_that_change_are_survived() {
    let seeds: Vec<u64> = seeds(0..60).collect();
    in_parallel(&seeds, |&seed| {
        let mut config = Config::default();
        (config.seed, config.checks.race) = (seed, false);
        let device = Device::emulator(config);
        let rng = &mut StdRng::seed_from_u64(seed);
        let product = Product {
            hostile: true,
            ..random_product(rng)
        };
        let (y, _) = product
            .run(&device)
            .unwrap_or_else(|e| panic!("case {seed}: {e}"));
        let of_experts = |y: f32| y >= 16.0 && y % 16.0 == 0.0 && y <= 16.0 * 70.0;
        assert!(
            y.iter().all(|&y| y == -1.0 || of_experts(y)),
            "case {seed}: {y:?}"
        );
    });
}

/// Weights of experts more than 2^31 elements apart, and rows of x and of y too: products of 32-bit
/// numbers would wrap (vLLM PR34279, flashinfer PR2642, sglang PR4727).
#[test]
fn int32_overflow_of_token_and_expert_offsets() {
    // No other device has so much memory.
    let device = Device::emulator(Config::default());
    let stream = device.stream();
    let (here, tokens, n, k) = (3, 2, 8, 16);
    let problem = GroupedProblem::new(DType::BF16, Direction::Up, [here, n, k], tokens, 1);
    let plan = GroupedPlan::new(&device, &problem).unwrap();
    let far = (1usize << 30) + 8; // Two of them, in elements: beyond 2^31.
    // Gigabytes that nobody touches cost nothing: not `Stream::alloc`, which writes zeros.
    let emulator = device.as_emulator().unwrap();
    let sparse = |len: usize| (emulator.alloc(2 * len as u64).unwrap(), len as u64);
    let (w, x, y) = (
        sparse(2 * far + n * k),
        sparse(2 * far + k),
        sparse(2 * far + n),
    );
    let fill = |address: u64, at: usize, len: usize, value: f64| {
        let data = vec![bf16::nearest(value); len];
        let bytes: &[u8] = bytemuck::cast_slice(&data);
        emulator.write(address + 2 * at as u64, bytes).unwrap();
    };
    for expert in 0..here {
        fill(w.0, expert * far, n * k, (expert + 1) as f64);
    }
    for token in 0..tokens {
        fill(x.0, token * 2 * far, k, 1.0);
    }
    let order = stream.upload(&[0i32, 1]).unwrap();
    let offsets = stream.upload(&[0i32, 0, 1, 2]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let rows = [2 * far as i64, 1];
    // SAFETY: The emulator keeps this memory as long as the device lives, and nobody else uses it.
    let region = |(at, len)| unsafe { Region::from_raw_parts(at, len, DType::BF16, &device) };
    // SAFETY: The same.
    let written = unsafe { RegionMut::from_raw_parts(y.0, y.1, DType::BF16, &device) };
    let args = GroupedArgs {
        x: region(x).strided(0, [tokens, k], rows).unwrap(),
        w: region(w)
            .strided(0, [here, n, k], [far as i64, k as i64, 1])
            .unwrap(),
        w_up: None,
        bias: None,
        bias_up: None,
        order: order.tensor([2]).unwrap(),
        offsets: offsets.tensor([4]).unwrap(),
        y: written.strided(0, [tokens, n], rows).unwrap(),
        status: &status,
    };
    plan.run(&stream, args).unwrap();
    let mut got = [bf16::ZERO; 8];
    for token in 0..tokens {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut got);
        emulator
            .read(y.0 + 4 * (token * far) as u64, bytes)
            .unwrap();
        assert_eq!(
            got,
            [bf16::nearest((k * (token + 2)) as f64); 8],
            "token {token}"
        );
    }
}

/// Sums of slots: of each type, with and without splits, with slots that have no expert here.
#[test]
fn slots_are_added_up_in_order() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..80).collect();
    in_parallel(&seeds, |&seed| match seed % 2 {
        0 => check_sums::<f16>(seed, &device),
        _ => check_sums::<bf16>(seed, &device),
    });
}

fn check_sums<T: Float>(seed: u64, device: &Device) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let hidden = 8 * [1, 2, 3, 9, 17, 130][rng.random_range(0..6)];
    let sums = Sums {
        experts: Experts::new(6, rng.random_range(0..4)).local(rng.random_range(0..3)..4),
        slots: rng.random_range(1..6),
        splits: rng.random_range(0..6),
        hidden,
        apart: 8 * rng.random_range(0..3),
        offset: rng.random_range(0..9),
    };
    let tokens = [0, 1, 2, 33][rng.random_range(0..4)];
    let (experts, splits) = (&sums.experts, sums.splits);
    let pairs = tokens * sums.slots;
    let ids: Vec<i32> = (0..pairs).map(|_| rng.random_range(-2..11)).collect();
    let weights: Vec<f32> = normals(rng, pairs, 1.0);
    let split = pairs * hidden;
    let mut parts: Vec<f32> = normals::<f32>(rng, splits.max(1) * split, 1.0);
    if splits == 0 {
        for part in &mut parts {
            *part = T::nearest(f64::from(*part)).to_f64() as f32;
        }
    }
    // What was never written is not read: NaN there does not show.
    for (at, part) in parts.iter_mut().enumerate() {
        if experts.index(ids[at % split / hidden]).is_none() {
            *part = f32::NAN;
        }
    }
    let mut expected = vec![0f32; tokens * hidden];
    for at in 0..split {
        let (pair, col) = (at / hidden, at % hidden);
        if experts.index(ids[pair]).is_some() {
            let part: f32 = (0..splits.max(1)).map(|s| parts[s * split + at]).sum();
            let y = &mut expected[pair / sums.slots * hidden + col];
            *y = weights[pair].mul_add(part, *y);
        }
    }
    let expected: Vec<f64> = expected
        .iter()
        .map(|&y| T::nearest(f64::from(y)).to_f64())
        .collect();
    let y = sums.run::<T>(device, &parts, &ids, &weights).unwrap();
    let y: Vec<f64> = y.iter().map(|y| y.to_f64()).collect();
    assert_eq!(y, expected, "case {seed}: {sums:?}, {tokens} tokens");
}

/// Rows to be added up.
#[derive(Debug)]
struct Sums {
    experts: Experts,
    slots: usize,
    /// 0: one, in 16 bits.
    splits: usize,
    hidden: usize,
    /// Elements between rows of y.
    apart: usize,
    /// Where the parts begin in their buffer.
    offset: usize,
}

impl Sums {
    fn run<T: Float>(
        &self,
        device: &Device,
        parts: &[f32],
        ids: &[i32],
        weights: &[f32],
    ) -> Result<Vec<T>, Box<dyn Error>> {
        let Sums {
            slots,
            hidden,
            offset,
            ..
        } = *self;
        let stream = device.stream();
        let tokens = ids.len() / slots;
        let plan = CombinePlan::new(device, T::DTYPE, &self.experts, slots, hidden)?;
        let parts = [&vec![f32::NAN; offset], parts].concat();
        let rounded: Vec<T> = parts.iter().map(|&x| T::nearest(f64::from(x))).collect();
        let (of_f32, of_16_bits) = (stream.upload(&parts)?, stream.upload(&rounded)?);
        let shape = [self.splits.max(1) * ids.len(), hidden];
        let ids = stream.upload(ids)?;
        let weights = stream.upload(weights)?;
        let width = hidden + self.apart;
        let untouched = T::nearest(-7.0);
        let mut y = stream.upload(&vec![untouched; tokens * width])?;
        let args = CombineArgs {
            parts: match self.splits {
                0 => of_16_bits.region(),
                _ => of_f32.region(),
            }
            .strided(offset, shape, [hidden as i64, 1])?,
            ids: ids.tensor([tokens, slots])?,
            weights: weights.tensor([tokens, slots])?,
            y: y.region_mut()
                .strided(0, [tokens, hidden], [width as i64, 1])?,
        };
        plan.run(&stream, args)?;
        let y = y.download()?;
        let between = y.chunks(width).flat_map(|row| &row[hidden..]);
        assert!(between.into_iter().all(|&y| y == untouched), "{self:?}");
        Ok(y.chunks(width)
            .flat_map(|row| row[..hidden].iter().copied())
            .collect())
    }
}
