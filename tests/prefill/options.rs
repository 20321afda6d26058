//! Every option of prefill with every other, against the f64 reference.
//!
//! A covering array: rows in which any choice for any two factors meets. `INFER_KERNELS_STRENGTH=3`
//! makes it any three, `INFER_KERNELS_SHARE=2/8` runs a share of the rows.

use std::collections::BTreeSet;

use crate::common::covering::{covering, tuples};
use crate::common::spec::{LEVELS, Source, Spec};
use crate::common::{Case, Lengths, Worst, device_with, in_parallel, shared_device};
use half::{bf16, f16};
use infer_kernels::Device;
use infer_kernels::attention::prefill::{PrefillProblem, SoftCap, Window};
use infer_kernels::ptx_emulator::{Config, MmaMode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[test]
fn covering_arrays_cover() {
    let levels = [2, 5, 3, 4, 2, 2];
    for (strength, most) in [(2, 30), (3, 110)] {
        let rows = covering(&levels, strength, 1);
        let missing = |rows: &[Vec<usize>]| {
            let mut missing: BTreeSet<_> = tuples(&levels, strength).into_iter().collect();
            for row in rows {
                missing.retain(|tuple| !tuple.iter().all(|&(f, level)| row[f] == level));
            }
            missing.len()
        };
        assert_eq!(missing(&rows), 0);
        assert!(rows.len() <= most, "{} rows", rows.len());
        // No row is there for nothing: the last one was made for what the others lack.
        assert!(missing(&rows[..rows.len() - 1]) > 0);
    }
}

const PRIMES: [usize; 19] = [
    1, 2, 3, 5, 7, 13, 17, 31, 47, 53, 61, 67, 79, 97, 101, 127, 131, 149, 167,
];

fn prime_lengths(rng: &mut StdRng, sequences: usize, most: usize) -> Lengths {
    let mut length = || loop {
        let length = PRIMES[rng.random_range(0..PRIMES.len())];
        if length <= most {
            return length;
        }
    };
    let mut lengths = || (0..sequences).map(|_| length()).collect::<Vec<_>>();
    Lengths::of(&lengths(), &lengths())
}

fn mma_modes() -> [(MmaMode, Device); 3] {
    [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper].map(|mma| {
        let config = Config {
            mma,
            perturb: true,
            ..Config::default()
        };
        (mma, device_with(config))
    })
}

#[test]
fn options_meet_in_every_combination() {
    let number = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap())
    };
    let strength = number("INFER_KERNELS_STRENGTH", 2);
    let share = std::env::var("INFER_KERNELS_SHARE").unwrap_or("0/1".into());
    let (share, shares) = share.split_once('/').expect("INFER_KERNELS_SHARE=I/N");
    let (share, shares): (usize, usize) = (share.parse().unwrap(), shares.parse().unwrap());

    let rows = covering(&LEVELS, strength, 7);
    let own: Vec<(usize, &Vec<usize>)> = rows
        .iter()
        .enumerate()
        .filter(|(at, _)| at % shares == share)
        .collect();
    let devices = mma_modes();
    let worst = [(); 3].map(|()| Worst::default());
    in_parallel(&own, |&(at, row)| {
        let spec = Spec::of(row);
        let rng = &mut StdRng::seed_from_u64(at as u64);
        let lengths = prime_lengths(rng, 2, 167);
        let case = spec.case(at as u64, 1, &lengths);
        for ((mma, device), worst) in devices.iter().zip(&worst) {
            match case.check(device) {
                Ok(margins) => worst.note(margins),
                Err(error) => panic!("row {at} on {mma:?}: {error}\n{spec:#?}\n{lengths:?}"),
            }
        }
    });
    println!(
        "{} of {} rows cover every choice of {strength} of {} factors",
        own.len(),
        rows.len(),
        LEVELS.len()
    );
    for ((mma, _), worst) in devices.iter().zip(&worst) {
        println!("{mma:?}: {worst}");
    }
}

/// A result of a slightly different problem is not within the bounds: that is what makes the other
/// tests worth running.
#[test]
fn an_option_that_is_a_little_off_is_noticed() {
    type Change = fn(&mut Case<f16>);
    fn with(change: fn(PrefillProblem) -> PrefillProblem, case: &mut Case<f16>) {
        case.problem = change(case.problem.clone());
    }
    let changes: [(&str, Change); 12] = [
        ("left edge of the window", |case| {
            with(|p| p.window(Window::new(21, 9)), case);
        }),
        ("right edge of the window", |case| {
            with(|p| p.window(Window::new(20, 8)), case);
        }),
        ("no window", |case| with(|p| p.window(Window::ALL), case)),
        ("causality", |case| with(|p| p.causal(true), case)),
        ("another cap", |case| {
            with(|p| p.softcap(SoftCap::Exact(2.02)), case);
        }),
        ("no cap", |case| with(|p| p.softcap(None), case)),
        ("scale", |case| case.problem.scale *= 1.01),
        ("slopes of other heads", |case| case.alibi.reverse()),
        ("slopes with the other sign", |case| {
            case.alibi.iter_mut().for_each(|slope| *slope = -*slope);
        }),
        ("sinks of other heads", |case| case.sinks.reverse()),
        ("no sinks", |case| with(|p| p.sinks(false), case)),
        ("one bit of the mask", |case| {
            let at = case.mask.offsets[0] as usize + 198;
            case.mask.bits[at] ^= 16;
        }),
    ];
    let spec = Spec {
        dims: (64, 64),
        ratio: 2,
        source: Source::Rows(16),
        causal: false,
        window: Window::new(20, 9),
        softcap: Some(SoftCap::Exact(2.0)),
        alibi: true,
        sinks: true,
        mask: true,
        lse: true,
        ..Spec::of(&[0; LEVELS.len()])
    };
    let mut case: Case<f16> = spec.typed(3, 1, &Lengths::of(&[41], &[67]));
    // A bit of the mask of a key that its query sees.
    let bit = 198 * 8 + 4;
    let (i, j) = (bit / 67, bit % 67);
    let byte = case.mask.offsets[0] as usize + 198;
    case.mask.bits[byte] |= 16;
    assert!(case.sees(0, i, j), "query {i}, key {j}");
    case.sinks = vec![1.0, 2.0];
    case.check(shared_device()).unwrap();
    for (what, change) in changes {
        let mut other = case.clone();
        change(&mut other);
        let outcome = other.run(shared_device()).unwrap();
        assert!(case.judge(&outcome).is_err(), "{what} went unnoticed");
    }
}

/// Heads and options of models in use, with sequences and windows short enough for an emulator.
#[test]
fn layers_of_real_models() {
    struct Layer {
        model: &'static str,
        /// Query and kv heads.
        heads: (usize, usize),
        dims: (usize, usize),
        change: fn(PrefillProblem) -> PrefillProblem,
    }
    let plain = |model, heads, dim| Layer {
        model,
        heads,
        dims: (dim, dim),
        change: |p| p,
    };
    let mut layers = vec![
        plain("Llama 3 8B", (32, 8), 128),
        plain("Llama 3 70B", (64, 8), 128),
        plain("Qwen2.5 7B", (28, 4), 128),
        plain("Qwen2.5 0.5B", (14, 2), 64),
    ];
    let with = |model, heads, dims, change| Layer {
        model,
        heads,
        dims,
        change,
    };
    layers.extend([
        with("Mistral 7B", (32, 8), (128, 128), |p| {
            p.window(Window::left(40))
        }),
        with("Phi-3-mini", (32, 32), (96, 96), |p| {
            p.window(Window::left(20))
        }),
        with("Gemma 2 9B", (16, 8), (256, 256), |p| {
            p.softcap(SoftCap::Approx(50.0))
                .window(Window::left(40))
                .scale(1.0 / 16.0)
        }),
        with("Gemma 3 4B", (8, 4), (256, 256), |p| {
            p.window(Window::left(10)).scale(1.0 / 16.0)
        }),
        with("DeepSeek-V2", (16, 16), (192, 128), |p| p.scale(0.1147)),
        with("gpt-oss", (64, 8), (64, 64), |p| {
            p.sinks(true).window(Window::left(12))
        }),
        with("BLOOM", (32, 32), (128, 128), |p| p.alibi(true)),
    ]);
    in_parallel(&layers, |layer| {
        for source in [Source::Ragged, Source::Rows(16)] {
            let (query, kv) = layer.heads;
            let spec = Spec {
                dims: layer.dims,
                ratio: query / kv,
                source,
                ..Spec::of(&[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            };
            let mut case: Case<bf16> = spec.typed(7, kv, &Lengths::of(&[5, 61], &[17, 61]));
            case.problem = (layer.change)(case.problem.clone());
            if let Err(error) = case.check(shared_device()) {
                panic!("{} from {source:?}: {error}", layer.model);
            }
        }
    });
}
