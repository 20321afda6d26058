//! Whole layers of mixtures of experts against the f64 reference.
//!
//! Each random case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider
//! range more than a quick run does.

use crate::common::moe::{Case, MODELS, Model, Spread};
use crate::common::{device, devices_of_all_models, in_parallel, seeds, wanted};
use std::error::Error;

use half::{bf16, f16};
use infer_kernels::gemm::{Activation, WeightLayout};
use infer_kernels::moe::{MoePlan, MoeProblem, Routing, Scoring};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{DType, Device, Float, Offence};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const TOKENS: [usize; 9] = [0, 1, 2, 7, 16, 33, 127, 512, 3000];

/// Few tokens on one of the models of tensor cores, many on the fastest.
#[test]
fn models_give_the_references_result() {
    let devices = devices_of_all_models();
    let cases: Vec<(usize, (&Model, usize))> = MODELS
        .iter()
        .flat_map(|model| TOKENS.map(|tokens| (model, tokens)))
        .enumerate()
        .collect();
    in_parallel(&cases, |&(at, (model, tokens))| {
        let spread = [Spread::Even, Spread::Zipf, Spread::One][tokens % 3];
        let device = &devices[if tokens > 40 { 0 } else { at % 3 }];
        let margin = match tokens % 2 {
            0 => Case::<bf16>::of_model(tokens as u64, model, tokens, spread).check(device),
            _ => Case::<f16>::of_model(tokens as u64, model, tokens, spread).check(device),
        };
        let name = model.name;
        margin.unwrap_or_else(|error| panic!("{name}, {tokens} tokens: {error}"));
    });
}

/// A layer of its seed: any sizes, layouts, options, part of the experts, and any tile.
fn random<T: Float>(seed: u64) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let experts = [1, 2, 3, 7, 8, 16, 31, 33, 40][rng.random_range(0..9)];
    let tokens = [0, 1, 2, 5, 15, 16, 17, 31, 64, 90, 150][rng.random_range(0..11)];
    let mut eights = |most: usize| 8 * rng.random_range(1..=most / 8);
    let (mut hidden, mut intermediate) = (eights(296), eights(296));
    if seed % 8 == 5 {
        (hidden, intermediate) = (eights(64), 1024 + eights(256)); // K is split for few tokens.
    }
    let scoring = [Scoring::Softmax, Scoring::TopKSoftmax, Scoring::Sigmoid];
    let routing = Routing::new(experts, rng.random_range(1..=experts.min(6)))
        .scoring(scoring[rng.random_range(0..3)], rng.random_bool(0.5))
        .scale(rng.random_range(0.5..3.0))
        .shared(
            rng.random_range(0..3usize).saturating_sub(1),
            rng.random_bool(0.5),
        );
    let activations = [
        Activation::None,
        Activation::Relu,
        Activation::Silu,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::ClampedSwiglu,
    ];
    let gated = rng.random_bool(0.7);
    let activation = activations[rng.random_range(0..if gated { 6 } else { 5 })];
    let layout = [WeightLayout::Nk, WeightLayout::Kn][rng.random_range(0..2)];
    let tiles: &[usize] = match layout {
        WeightLayout::Nk => &[16, 64, 128],
        WeightLayout::Kn => &[16, 128],
    };
    let tile = rng
        .random_bool(0.5)
        .then(|| tiles[rng.random_range(0..tiles.len())]);
    let local = rng.random_bool(0.3).then(|| {
        let first = rng.random_range(0..=experts);
        first..rng.random_range(first..=experts)
    });
    let max_tokens = tokens + [0, 0, 3, 500][rng.random_range(0..4)];
    let problem = MoeProblem::new(T::DTYPE, routing, max_tokens, hidden, intermediate)
        .layout(layout)
        .activation(activation, gated)
        .local(local)
        .batch_invariant(rng.random_bool(0.2))
        .tile(tile);
    let spread = [Spread::Even, Spread::Zipf, Spread::One][rng.random_range(0..3)];
    let mut case = Case::random(seed, problem, tokens, spread);
    if rng.random_bool(0.4) {
        case.add_biases(seed);
    }
    let some = case.problem.experts().here() > 0;
    case.interleaved = layout == WeightLayout::Nk && gated && rng.random_bool(0.4) && some;
    case
}

/// Judges a case, if it is one that is wanted.
fn check<T: Float>(case: Case<T>, device: &Device) -> Result<Option<Margin>, Box<dyn Error>> {
    match wanted(&MoePlan::new(device, &case.problem)?) {
        true => case.check(device).map(Some),
        false => Ok(None),
    }
}

#[test]
fn random_cases_are_within_their_bounds() {
    let devices = devices_of_all_models();
    let seeds: Vec<u64> = seeds(0..48).collect();
    let worst = std::sync::Mutex::new(0.0f64);
    in_parallel(&seeds, |&seed| {
        let device = devices.get(seed as usize / 2 % 6).unwrap_or(&devices[0]);
        let margin = match seed % 2 {
            0 => check(random::<f16>(seed), device),
            _ => check(random::<bf16>(seed), device),
        };
        let margin = margin.unwrap_or_else(|error| panic!("case {seed}: {error}"));
        let mut worst = worst.lock().unwrap();
        *worst = worst.max(margin.map_or(0.0, |margin| margin.used));
    });
    let worst = 100.0 * worst.into_inner().unwrap();
    println!("{} cases, at most {worst:.0} % of the bound", seeds.len());
}

/// The same call again gives the same bits, whatever order warps and blocks are run in.
#[test]
fn repeats_are_bit_identical() {
    let case = Case::<bf16>::of_model(3, &MODELS[1], 65, Spread::Zipf);
    let mut first = None;
    for seed in 1..4 {
        let device = crate::common::device_with(Config {
            seed,
            ..Config::default()
        });
        let (y, _) = case.run(&device).unwrap();
        assert_eq!(
            *first.get_or_insert_with(|| y.clone()),
            y,
            "schedule {seed}"
        );
    }
}

/// A token alone, by small tiles, and among others, by large ones.
#[test]
fn a_token_keeps_its_bits_whatever_comes_with_it() {
    let device = device();
    let problem = MODELS[0].problem(DType::BF16, 600).batch_invariant(true);
    let many = Case::<bf16>::random(9, problem.clone(), 600, Spread::Zipf);
    let (all, _) = many.run(&device).unwrap();
    for (first, tokens) in [(0, 1), (311, 2), (70, 40), (599, 1)] {
        let mut few = Case::<bf16>::random(9, problem.clone(), 600, Spread::Zipf);
        let cut = |len: usize| first * len..(first + tokens) * len;
        few.x = many.x[cut(problem.hidden)].to_vec();
        few.router.logits = many.router.logits[cut(problem.routing.experts)].to_vec();
        few.router.tokens = tokens;
        let (y, _) = few.run(&device).unwrap();
        assert_eq!(y, all[cut(problem.hidden)], "{tokens} tokens from {first}");
    }
}

/// With and without splits of K: within bounds both times, and really split.
#[test]
fn few_tokens_are_split_unless_batch_invariant() {
    let device = device();
    let problem = MoeProblem::new(DType::BF16, Routing::new(4, 1), 64, 64, 2048);
    let plan = |problem: &MoeProblem| MoePlan::new(&device, problem).unwrap();
    assert_eq!(plan(&problem).splits(2), 4);
    assert_eq!(plan(&problem).splits(17), 1);
    assert_eq!(plan(&problem.clone().batch_invariant(true)).splits(2), 1);
    for invariant in [false, true] {
        let problem = problem.clone().batch_invariant(invariant);
        Case::<bf16>::random(2, problem, 2, Spread::Even)
            .check(&device)
            .unwrap();
    }
}

/// Experts shared out to two devices: what both make adds up to the whole.
#[test]
fn parts_of_the_experts_add_up() {
    let device = device();
    let whole = MODELS[3].problem(DType::F16, 40);
    let case = Case::<f16>::random(1, whole.clone(), 40, Spread::Zipf);
    let (all, _) = case.run(&device).unwrap();
    let experts = whole.routing.experts;
    let mut sums = vec![0.0; all.len()];
    for local in [0..20, 20..experts] {
        // Shared experts would be added twice: their weights are zero on the second device.
        let first = local.start == 0;
        let mut part = Case::<f16>::random(1, whole.clone(), 40, Spread::Zipf);
        let take = |all: &[f16]| {
            let each = all.len() / whole.experts().here();
            let mut taken = all[local.start * each..local.end * each].to_vec();
            taken.extend(match first {
                true => all[experts * each..].to_vec(),
                false => vec![f16::ZERO; 2 * each],
            });
            taken
        };
        part.w_gate = take(&case.w_gate);
        part.w_up = take(&case.w_up);
        part.w_down = take(&case.w_down);
        part.problem = whole.clone().local(Some(local.clone()));
        let (y, status) = part.run(&device).unwrap();
        assert!(status.is_clean(), "ids of the other device are no offence");
        sums.iter_mut()
            .zip(y)
            .for_each(|(sum, y)| *sum += y.to_f64());
    }
    for (at, (sum, all)) in sums.iter().zip(&all).enumerate() {
        let error = (sum - all.to_f64()).abs();
        assert!(error <= 4e-3 * (1.0 + sum.abs()), "{at}: {sum} and {all}");
    }
}

/// Reports of odd logits come through the layer, and the output is finite.
#[test]
fn nan_router_rows_leave_the_others_alone() {
    let device = device();
    let mut case = Case::<bf16>::of_model(4, &MODELS[4], 20, Spread::Even);
    let (clean, _) = case.run(&device).unwrap();
    let experts = case.problem.routing.experts;
    case.router.logits[3 * experts..4 * experts].fill(f32::NAN);
    let (y, status) = case.run(&device).unwrap();
    assert_eq!(status.first(), Some((Offence::RouterLogit, 3)));
    let hidden = case.problem.hidden;
    for (token, (y, clean)) in y.chunks(hidden).zip(clean.chunks(hidden)).enumerate() {
        assert!(y.iter().all(|y| y.is_finite()), "token {token}");
        assert!(token == 3 || y == clean, "token {token}");
    }
}
