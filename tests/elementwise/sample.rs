//! Sampling against the reference, which gives the kernel's token: random rows of every kind, options of
//! every kind, ties, special numbers, options that change while they are read.

use crate::common::sample::{Case, Row};
use crate::common::{device, in_parallel, seeds, shared_device};
use infer_kernels::elementwise::{SamplePlan, SampleProblem};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::reference::sample::RowSampling;
use infer_kernels::{DType, Device, Offence};

/// Drawn from everything.
const PLAIN: RowSampling = RowSampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    draw: [1, 2],
};

#[test]
fn random_rows_give_the_references_tokens() {
    let device = device();
    in_parallel(&Vec::from_iter(seeds(0..100)), |&seed| {
        Case::random(seed)
            .check(&device)
            .unwrap_or_else(|error| panic!("case {seed}: {error}"));
    });
}

/// A row of the largest vocabulary of today's models, all ways.
#[test]
fn a_large_vocabulary() {
    // Drivers do not count.
    let device = Device::emulator(Config {
        profile: true,
        ..Config::default()
    });
    let options = [
        RowSampling {
            temperature: 0.0,
            ..PLAIN
        },
        RowSampling {
            top_k: 50,
            top_p: 0.9,
            ..PLAIN
        },
    ];
    for (name, sampling) in ["greedy", "top 50, top 0.9"].into_iter().zip(options) {
        let case = Case::normal(DType::BF16, 262_144, 4.0, vec![sampling]);
        case.check(&device).unwrap();
        let stats = device.last_launch().unwrap();
        let plan = SamplePlan::new(&device, &SampleProblem::new(DType::BF16, 262_144)).unwrap();
        let traffic = stats.traffic.unwrap();
        let moved = (traffic.read_bytes + traffic.written_bytes) as f64;
        let ratio = moved / plan.row_bytes(1) as f64;
        let passes = (32 * stats.global_sectors) as f64 / plan.row_bytes(1) as f64;
        println!(
            "{name}: {ratio:.3} of the least bytes, {passes:.1} passes, {:.0} warp instructions per KiB",
            stats.warp_instructions as f64 / (moved / 1024.0)
        );
        assert!(ratio <= 1.02, "{name}: {ratio:.3}");
        assert!(passes <= 12.0, "{name}: {passes:.1}");
        assert_eq!(stats.bank_conflicts, 0, "{name}");
    }
}

/// The most likely token: the first of equals, zeros of both signs equal, NaN never, infinity always.
#[test]
fn greedy_rows_by_hand() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let greedy = RowSampling {
        temperature: 0.0,
        ..PLAIN
    };
    for (logits, token, reported) in [
        (vec![1.0, 3.0, 3.0, 2.0], 1, false),
        (vec![-0.0, 0.0], 0, false),
        (vec![nan, -5.0, nan], 1, true),
        (vec![0.0, inf, inf], 1, false),
        (vec![-inf, -3e38], 1, false),
        (vec![-inf, -inf], -1, true),
        (vec![nan], -1, true),
    ] {
        let case = Case::of(
            DType::F32,
            vec![Row {
                logits,
                sampling: greedy,
            }],
        );
        let (tokens, status) = case.run(shared_device()).unwrap();
        assert_eq!(tokens, [token]);
        assert_eq!(status.contains(Offence::Logits), reported);
        case.check(shared_device()).unwrap();
    }
}

/// Equal logits at the cut: the lowest ids are kept, whatever segments they are in.
#[test]
fn ties_are_cut_by_id() {
    for (top_k, top_p) in [(1, 1.0), (300, 1.0), (0, 0.37), (700, 0.5), (999, 0.999)] {
        let rows = (0..6).map(|i| {
            let draw = [i, 5];
            Row {
                logits: (0..1000)
                    .map(|id| if id % 3 == 1 { 2.0 } else { 1.5 })
                    .collect(),
                sampling: RowSampling {
                    temperature: 0.7,
                    top_k,
                    top_p,
                    draw,
                },
            }
        });
        Case::of(DType::F16, rows.collect())
            .check(shared_device())
            .unwrap();
    }
}

/// Infinite logits share everything; temperatures at the ends of their range.
#[test]
fn special_logits_and_temperatures() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = [
        vec![inf, 1.0, inf, nan],
        vec![-inf, 1.0, -inf, -inf],
        vec![3e38, -3e38, 3e38, 0.0],
        vec![1e-40, -1e-40, 0.0, 2e-40],
    ];
    let temperatures = [1.0, f32::MIN_POSITIVE / 4.0, f32::MAX, 0.0, -1.0, inf, nan];
    for temperature in temperatures {
        for top_p in [1.0, 0.5, 0.0, -2.0, nan, inf] {
            let rows = rows.iter().map(|logits| Row {
                logits: logits.clone(),
                sampling: RowSampling {
                    temperature,
                    top_p,
                    ..PLAIN
                },
            });
            Case::of(DType::F32, rows.collect())
                .check(shared_device())
                .unwrap_or_else(|error| panic!("{temperature}, {top_p}: {error}"));
        }
    }
}

/// Tokens come as often as they should.
#[test]
fn tokens_are_as_frequent_as_they_are_likely() {
    let logits: Vec<f32> = (0..8).map(|i| (i as f32 + 1.0).ln()).collect(); // 1 to 8 parts of 36
    let rows = (0..3600).map(|i| Row {
        logits: logits.clone(),
        sampling: RowSampling {
            draw: [7, i],
            ..PLAIN
        },
    });
    let (tokens, _) = Case::of(DType::F32, rows.collect())
        .run(shared_device())
        .unwrap();
    for id in 0..8 {
        let got = tokens.iter().filter(|&&token| token == id).count() as f64;
        let expected = 100.0 * f64::from(id + 1);
        // Five standard deviations.
        let most = 5.0 * (expected * (1.0 - expected / 3600.0)).sqrt();
        assert!(
            (got - expected).abs() < most,
            "token {id}: {got} of {expected}"
        );
    }
}

/// Options and logits that change with every look: whatever is made of them, tokens exist and threads agree.
#[test]
fn what_changes_while_it_is_read_leads_nowhere() {
    let device = device();
    in_parallel(&Vec::from_iter(seeds(0..60)), |&seed| {
        let mut case = Case::random(seed);
        (case.hostile_options, case.hostile_logits) = (seed % 3 != 0, seed % 3 != 1);
        let (tokens, _) = case
            .run(&device)
            .unwrap_or_else(|error| panic!("case {seed}: {error}"));
        let vocab = case.rows[0].logits.len() as i32;
        assert!(tokens.iter().all(|token| (-1..vocab).contains(token)));
    });
}
