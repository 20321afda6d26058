//! Batch-invariant attention: as exact as any, and the same bits however sequences come.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::common::fuzz::fuzzed;
use crate::common::invariant::Piece;
use crate::common::spec::{Source, Spec};
use crate::common::{
    AnyCase, Case, Lengths, Worst, decode, device, device_with, in_parallel, seeds,
};
use half::bf16;
use infer_kernels::attention::decode::{DecodePlan, DecodeProblem};
use infer_kernels::attention::mixed::{MixedArgs, MixedPlan, MixedProblem};
use infer_kernels::attention::prefill::{HeadShape, Window};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{DType, Device, Float, Offence};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Shares that cut items here and there.
const BLOCKS: [usize; 6] = [1, 2, 3, 7, 16, 40];

/// A case of its seed: a few sequences, some of them of several segments, with few queries or many.
fn random(seed: u64) -> AnyCase {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut spec = Spec::random(rng);
    spec.dims = [
        (64, 64),
        (64, 64),
        (128, 128),
        (72, 40),
        (40, 96),
        (136, 136),
    ][rng.random_range(0..6)];
    spec.ratio = [1, 2, 4, 5, 16][rng.random_range(0..5)];
    spec.causal = rng.random_bool(0.75);
    spec.lse = true;
    if spec.window.left.is_some() && rng.random_bool(0.5) {
        spec.window.left = Some(rng.random_range(300..900));
    }
    if spec.source == Source::Ragged {
        spec.source = Source::Rows(rng.random_range(1..70));
    }
    let batch = rng.random_range(1..=4);
    let k: Vec<usize> = (0..batch)
        .map(|_| match rng.random_range(0..4) {
            0 => [0, 1, 511, 512, 513, 1024][rng.random_range(0..6)],
            1 => rng.random_range(0..1400),
            _ => rng.random_range(0..300),
        })
        .collect();
    let q = k.iter().map(|&keys| match rng.random_range(0..3) {
        0 => keys.min(1),
        1 => rng.random_range(0..=keys.min(8)),
        _ => rng.random_range(0..=keys.min(120 / spec.ratio)),
    });
    let q = q.collect();
    let (lead, trail) = (rng.random_range(0..3), rng.random_range(0..3));
    spec.case(
        seed,
        rng.random_range(1..=2),
        &Lengths { q, k, lead, trail },
    )
}

fn check<T: Float>(case: &Case<T>, device: &Device, blocks: usize) -> (Margin, Margin) {
    let outcome = case.decode_invariant(device, blocks).unwrap();
    assert!(outcome.entry.ends_with("_invariant"), "{}", outcome.entry);
    case.judge(&outcome).unwrap()
}

#[test]
fn random_cases_are_within_their_bounds() {
    // Approximate functions are as wrong as they may be.
    let device = device_with(Config {
        perturb: true,
        ..Config::default()
    });
    let worst = Worst::default();
    let all: Vec<u64> = seeds(0..24).collect();
    in_parallel(&all, |&seed| {
        let blocks = BLOCKS[seed as usize % BLOCKS.len()];
        println!("seed {seed}, {blocks} blocks");
        worst.note(match random(seed) {
            AnyCase::F16(case) => check(&case, &device, blocks),
            AnyCase::Bf16(case) => check(&case, &device, blocks),
        });
    });
    println!("{} seeds: {worst}", all.len());
}

/// All sequences of a case, or some of them, cut in chunks if that does not change what queries see; in
/// any order.
fn cut<T>(rng: &mut StdRng, case: &Case<T>, chunks: bool) -> Vec<Piece>
where
    T: Float,
{
    let mut pieces = Vec::new();
    for sequence in 0..case.problem.batch {
        let [queries, _] = case.lengths(sequence);
        if rng.random_bool(0.2) {
            continue;
        }
        let mut at = 0;
        while chunks && at < queries && rng.random_bool(0.9) {
            let next = match rng.random_range(0..3) {
                0 => at + 1,
                1 => at + rng.random_range(1..=5),
                _ => at + rng.random_range(1..=queries),
            };
            let queries = at..next.min(queries);
            at = queries.end;
            pieces.push(Piece { sequence, queries });
        }
        let queries = at..queries;
        pieces.push(Piece { sequence, queries });
    }
    pieces.shuffle(rng);
    pieces
}

fn same_bits<T: Float>(seed: u64, case: &Case<T>) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let device = |rng: &mut StdRng| {
        Device::emulator(Config {
            seed: rng.random(),
            ..Config::default()
        })
    };
    let blocks = |rng: &mut StdRng| BLOCKS[rng.random_range(0..BLOCKS.len())];
    let whole = case.decode_invariant(&device(rng), 1).unwrap();
    assert!(whole.status.is_clean());
    let everything: Vec<Piece> = (0..case.problem.batch)
        .map(|sequence| Piece {
            sequence,
            queries: 0..case.lengths(sequence)[0],
        })
        .collect();
    let again = case.pieces(&everything);
    let got = again.decode_invariant(&device(rng), 2 + blocks(rng));
    case.compare(&whole, &everything, &got.unwrap());
    for _ in 0..2 {
        let pieces = cut(rng, case, case.problem.causal);
        let batch = case.pieces(&pieces);
        let got = batch.decode_invariant(&device(rng), blocks(rng)).unwrap();
        assert!(got.status.is_clean());
        case.compare(&whole, &pieces, &got);
    }
}

/// Alone or among others, in any order, as a whole, in chunks or one query after the other, on any
/// number of blocks.
#[test]
fn random_cases_have_the_same_bits_however_they_come() {
    let all: Vec<u64> = seeds(1000..1012).collect();
    in_parallel(&all, |&seed| {
        println!("seed {seed}");
        match random(seed) {
            AnyCase::F16(case) => same_bits(seed, &case),
            AnyCase::Bf16(case) => same_bits(seed, &case),
        }
    });
}

/// Scores that grow and fall by hundreds from key to key, so that references are raised by far, weights
/// vanish, and sums are taken to zeros of either sign.
#[test]
fn bits_stay_the_same_for_wild_scores() {
    for seed in 0..3 {
        let heads = HeadShape {
            query: 4,
            kv: 1,
            dim: 64,
        };
        let mut case = decode::plain_of(seed, heads, &Lengths::of(&[40, 3], &[1100, 600]));
        let rng = &mut StdRng::seed_from_u64(seed);
        for x in &mut case.k.data {
            *x = bf16::from_f32(x.to_f32() * [1.0, 30.0, 300.0][rng.random_range(0..3)]);
        }
        // Values of one sign, mostly nothing: outputs that are zeros.
        for x in &mut case.v.data {
            *x = bf16::from_f32(if rng.random_bool(0.9) { -0.0 } else { -1e-30 });
        }
        case.problem.lse = true;
        same_bits(seed, &case);
    }
}

/// As many blocks as each device wants.
#[test]
fn bits_do_not_depend_on_the_device() {
    let heads = HeadShape {
        query: 8,
        kv: 2,
        dim: 64,
    };
    let case = decode::plain_of(3, heads, &Lengths::of(&[5, 1, 60], &[2000, 700, 60]));
    let of = |gpu: &Gpu| {
        let device = Device::emulator(Config {
            gpu: gpu.clone(),
            ..Config::default()
        });
        let outcome = case.decode_invariant(&device, None).unwrap();
        assert!(outcome.status.is_clean());
        outcome.out
    };
    let expected = of(&Gpu::A100);
    let others = [&Gpu::H100, &Gpu::RTX_4090];
    in_parallel(&others, |gpu| {
        assert_eq!(of(gpu), expected, "{}", gpu.name);
    });
}

/// A mask that hides nothing changes no bit: sequences with and without trees agree.
#[test]
fn a_mask_of_ones_changes_nothing() {
    let heads = HeadShape {
        query: 3,
        kv: 1,
        dim: 64,
    };
    let case = decode::plain_of(8, heads, &Lengths::of(&[9, 1], &[600, 300]));
    let mut masked = case.clone();
    masked.random_mask(&mut StdRng::seed_from_u64(1));
    masked.mask.bits.fill(0xff);
    let device = device();
    let of = |case: &Case<bf16>| case.decode_invariant(&device, 3).unwrap();
    assert_eq!(of(&masked).out, of(&case).out);
}

/// A mixed batch has the bits of its sequences, those that decode and those that prefill, and each kind
/// keeps its limit.
#[test]
fn mixed_batches_have_the_same_bits() {
    let heads = HeadShape {
        query: 4,
        kv: 2,
        dim: 64,
    };
    let case = decode::plain_of(5, heads, &Lengths::of(&[1, 2, 50], &[530, 40, 700]));
    let device = device();
    let whole = case.decode_invariant(&device, 2).unwrap();
    let problem = MixedProblem::new(case.problem.clone(), 2)
        .max_queries(2)
        .blocks(7)
        .batch_invariant(700);
    problem.supports().unwrap();
    let mixed = case.run_by(&device, |stream, attention| {
        let plan = MixedPlan::new(&device, &problem)?;
        assert!(plan.prefill().is_none());
        let elements = plan.workspace_elements();
        let mut workspace = stream.upload(&vec![f32::NAN; elements])?;
        let workspace = workspace.tensor_mut([elements])?;
        plan.run(
            stream,
            MixedArgs {
                attention,
                workspace,
            },
        )?;
        Ok(plan.decode().expect("one part").entry())
    });
    assert_eq!(mixed.unwrap().out, whole.out);

    let narrow = MixedProblem::new(case.problem.clone(), 2).batch_invariant(700);
    let refused = case.run_by(&device, |stream, attention| {
        let plan = MixedPlan::new(&device, &narrow)?;
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
        let workspace = workspace.tensor_mut([plan.workspace_elements()])?;
        plan.run(
            stream,
            MixedArgs {
                attention,
                workspace,
            },
        )?;
        Ok("")
    });
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("at most 1"), "{error}");
}

/// Longer sequences than planned are reported, and have no keys.
#[test]
fn more_keys_than_planned_are_reported() {
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: 64,
    };
    let mut case = decode::plain_of(5, heads, &Lengths::of(&[1, 1], &[600, 601]));
    case.problem.lse = true;
    let device = device();
    let problem = DecodeProblem::of(case.problem.clone()).batch_invariant(600);
    let outcome = case.run_by(&device, |stream, args| {
        let plan = DecodePlan::new(&device, &problem)?;
        decode::run(&plan, stream, args, true)?;
        Ok(plan.entry())
    });
    let outcome = outcome.unwrap();
    assert!(outcome.status.contains(Offence::SeqLensK));
    assert!(outcome.lse[0].is_finite());
    assert_eq!(outcome.lse[1], f32::NEG_INFINITY);
    assert!(outcome.out[64..].iter().all(|&x| x == bf16::ZERO));
}

/// Room for partial results: no more than shares, lengths and windows make possible.
#[test]
fn workspace_grows_with_the_longest_sequence_and_no_further_than_needed() {
    let device = device();
    let heads = HeadShape {
        query: 32,
        kv: 8,
        dim: 128,
    };
    let places = |batch: usize, keys: usize, window: Window| {
        let problem = DecodeProblem::new(DType::BF16, heads, batch, 16)
            .window(window)
            .blocks(100)
            .batch_invariant(keys);
        let plan = DecodePlan::new(&device, &problem).unwrap();
        (plan.workspace_elements() - 7 * 100) / (100 * 16 * 130)
    };
    assert_eq!(places(256, 512, Window::ALL), 1);
    assert_eq!(places(256, 513, Window::ALL), 2);
    assert_eq!(places(256, 1 << 15, Window::ALL), 64);
    // 8 items of 64 segments are 512 segments, at most 6 in a share.
    assert_eq!(places(1, 1 << 15, Window::ALL), 7);
    // 4112 keys from the first to the last are in 10 segments at most.
    assert_eq!(places(256, 1 << 15, Window::left(4096)), 10);
}

/// Garbage in lengths, ids, offsets and masks: never followed, always reported.
#[test]
fn garbage_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..90).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let case = fuzzed::<bf16>(seed, true);
        let outcome = case
            .decode_invariant(&device, BLOCKS[seed as usize % BLOCKS.len()])
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for offence in outcome.status.offences() {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
        if let Err(error) = case.judge(&outcome) {
            panic!("seed {seed}: {error}\n{case:#?}");
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("seeds {:?}: {offences:?}", seeds.first()..seeds.last());
    let kinds = Offence::ALL.iter().filter(|&&kind| kind <= Offence::Mask);
    assert_eq!(offences.len(), kinds.count(), "a kind never came up");
}

/// Numbers that change with every look at them, over several windows of the batch too: nothing is
/// followed out of bounds, and every launch ends.
#[test]
fn garbage_that_changes_is_survived() {
    let keys: Vec<usize> = (0..150).map(|b| [1600, 0, 170, 600][b % 4]).collect();
    let heads = HeadShape {
        query: 2,
        kv: 1,
        dim: 64,
    };
    let mut many = decode::plain_of(4, heads, &Lengths::of(&[1; 150], &keys));
    many.pages.as_mut().expect("pages").filler = 0.5;
    many.hostile = true;
    let seeds: Vec<u64> = seeds(0..20).map(|seed| seed + (1 << 32)).collect();
    in_parallel(&seeds, |&seed| {
        let mut config = Config {
            seed,
            budget: 50_000_000,
            ..Config::default()
        };
        // Blocks do not agree about who does what, and may write the same rows.
        config.checks.race = false;
        let device = Device::emulator(config);
        let blocks = [2, 7, 60][seed as usize % 3];
        let ran = if seed.is_multiple_of(10) {
            many.decode_invariant(&device, blocks).map(drop)
        } else {
            let mut case = fuzzed::<bf16>(seed, true);
            case.hostile = true;
            case.decode_invariant(&device, blocks).map(drop)
        };
        ran.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    });
}

/// What a whole launch costs beside one whose bits may depend on the batch: bytes, partial results,
/// instructions, bank conflicts.
#[test]
fn a_launch_costs_little_more() {
    let keys = 8192;
    for dim in [64, 128, 256] {
        let heads = HeadShape {
            query: 8,
            kv: 1,
            dim,
        };
        let mut case = decode::plain_of(1, heads, &Lengths::of(&[1], &[keys]));
        case.problem.scale = 1.0 / (dim as f32).sqrt();
        let device = Device::emulator(Config::default());
        let minimum = (2 * keys * dim * 2) as f64;
        let mut per_kb = [0.0; 2];
        let mut bytes = [0.0; 2];
        for invariant in [false, true] {
            let outcome = match invariant {
                false => case.decode(&device, 1),
                true => case.decode_invariant(&device, 1),
            };
            assert!(outcome.unwrap().status.is_clean());
            let stats = device.last_launch().unwrap();
            assert_eq!(stats.bank_conflicts, 0, "{dim}");
            per_kb[usize::from(invariant)] = stats.warp_instructions as f64 / (minimum / 1024.0);
            bytes[usize::from(invariant)] = stats.global_bytes as f64 / minimum;
        }
        println!(
            "head dim {dim}: {per_kb:.1?} instructions per KB, {bytes:.4?} of the bytes of K and V"
        );
        assert!(per_kb[1] < 1.7 * per_kb[0], "{dim}: {per_kb:?}");
        assert!(bytes[1] < 1.07, "{dim}: {bytes:?}");
    }
}

/// What a prompt costs beside the kernels made for prompts: items of 16 rows instead of 128.
#[test]
fn a_prompt_costs_what_rows_of_16_cost() {
    let tokens = 1024;
    let heads = HeadShape {
        query: 4,
        kv: 1,
        dim: 128,
    };
    let mut case = decode::plain_of(1, heads, &Lengths::same(&[tokens]));
    case.problem.scale = 1.0 / 128f32.sqrt();
    let device = Device::emulator(Config::default());
    let [prefill, invariant] = [false, true].map(|invariant| {
        let outcome = match invariant {
            false => case.run(&device),
            true => case.decode_invariant(&device, 1),
        };
        assert!(outcome.unwrap().status.is_clean());
        device.last_launch().unwrap()
    });
    let instructions = invariant.warp_instructions as f64 / prefill.warp_instructions as f64;
    let bytes = invariant.global_bytes as f64 / prefill.global_bytes as f64;
    println!("a prompt of {tokens}: {instructions:.2} × the instructions, {bytes:.2} × the bytes");
    assert_eq!(invariant.bank_conflicts, 0);
    assert!(instructions < 3.2, "{instructions}");
    assert!(bytes < 6.8, "{bytes}");
}
