//! Prefill against the f64 reference: random shapes, lengths, layouts and options.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::spec::Spec;
use crate::common::{AnyCase, Lengths, Worst, device_with, in_parallel, seeds, under_test};
use infer_kernels::attention::prefill::{HeadShape, PrefillPlan};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::{DType, Device};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Lengths that meet the edges of tiles, primes, and nothing.
const LENGTHS: &[usize] = &[
    0, 1, 2, 3, 7, 15, 16, 17, 31, 47, 48, 49, 53, 64, 65, 95, 96, 97, 101, 127, 128, 129, 131,
    144, 145, 191, 192, 193, 211, 256, 257,
];

fn random_case(seed: u64) -> AnyCase {
    let rng = &mut StdRng::seed_from_u64(seed);
    // Types, head dimensions and ratios in turn, so that each pair of them is met often.
    let dtype = [DType::F16, DType::BF16][seed as usize % 2];
    let dim = [64, 128][seed as usize / 2 % 2];
    let ratio = [1, 3, 5, 8][seed as usize / 4 % 4];
    let kv = if ratio == 8 {
        1
    } else {
        rng.random_range(1..=2)
    };
    let heads = HeadShape {
        query: ratio * kv,
        kv,
        dim,
    };
    let batch = rng.random_range(1..=4);
    let mut length = |most: usize| {
        let length = LENGTHS[rng.random_range(0..LENGTHS.len())];
        if rng.random_bool(0.3) {
            rng.random_range(0..=most)
        } else {
            length.min(most)
        }
    };
    let most = if seed.is_multiple_of(10) { 257 } else { 150 };
    let q: Vec<usize> = (0..batch).map(|_| length(most)).collect();
    let k = match seed % 3 {
        0 => q.clone(),
        _ => (0..batch).map(|_| length(most)).collect(),
    };
    let lead = if rng.random_bool(0.3) {
        rng.random_range(0..9)
    } else {
        0
    };
    let trail = if rng.random_bool(0.3) {
        rng.random_range(0..9)
    } else {
        0
    };
    let lengths = Lengths { q, k, lead, trail };
    // Half of the cases are plain attention, at full speed; the others have any options.
    if (seed / 8).is_multiple_of(2) {
        return AnyCase::random(seed, dtype, heads, &lengths);
    }
    let mut spec = Spec::random(rng);
    (spec.dtype, spec.ratio) = (dtype, ratio);
    spec.case(seed, kv, &lengths)
}

/// Approximate functions are as wrong as they may be.
fn device() -> Device {
    device_with(Config {
        perturb: true,
        ..Config::default()
    })
}

#[test]
fn random_cases_are_within_their_bounds() {
    let device = device();
    let seeds = seeds(0..320);
    let worst = Worst::default();
    let all: Vec<u64> = seeds.clone().collect();
    in_parallel(&all, |&seed| {
        let mut case = random_case(seed);
        let plan = PrefillPlan::new(&device, case.problem()).unwrap();
        if !under_test(plan.entry()) {
            return;
        }
        match case.check(&device) {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!("seed {seed}: {error}\n{:#?}", case.problem()),
        }
    });
    println!("seeds {seeds:?}: {worst}");
}
