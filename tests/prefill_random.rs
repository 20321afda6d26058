//! Prefill against the f64 reference: random shapes, lengths, layouts and options.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.
#![cfg(feature = "emulator")]

mod common;

use common::spec::Spec;
use common::{AnyCase, Lengths, Worst, device_with, in_parallel, seeds};
use infer_kernels::attention::prefill::HeadShape;
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
    let case = spec.case(seed, kv, &lengths);
    match case.is_supported() {
        true => case,
        false => AnyCase::random(seed, dtype, heads, &lengths),
    }
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
    in_parallel(&all, |&seed| match random_case(seed).check(&device) {
        Ok(margins) => worst.note(margins),
        Err(error) => panic!("seed {seed}: {error}\n{:#?}", random_case(seed).problem()),
    });
    println!("seeds {seeds:?}: {worst}");
}

/// Heads of models in use, with sequences short enough for an emulator.
#[test]
fn heads_of_real_models() {
    let device = device();
    let models = [
        (
            "Llama 3 8B, Mistral 7B",
            HeadShape {
                query: 32,
                kv: 8,
                dim: 128,
            },
        ),
        (
            "Llama 3 70B",
            HeadShape {
                query: 64,
                kv: 8,
                dim: 128,
            },
        ),
        (
            "Qwen2.5 7B",
            HeadShape {
                query: 28,
                kv: 4,
                dim: 128,
            },
        ),
        (
            "Qwen2.5 0.5B",
            HeadShape {
                query: 14,
                kv: 2,
                dim: 64,
            },
        ),
    ];
    in_parallel(&models, |&(model, heads)| {
        for dtype in [DType::BF16, DType::F16] {
            let mut case = AnyCase::random(7, dtype, heads, &Lengths::same(&[5, 61]));
            case.problem().causal = true;
            if let Err(error) = case.check(&device) {
                panic!("{model} in {dtype}: {error}");
            }
        }
    });
}
