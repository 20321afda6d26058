//! Appends to a cache against the reference: random shapes, layouts, formats and options, slots and
//! positions that the device got wrong, and every 16-bit number in every 8-bit format.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::common::cache::{LAYOUTS, Layout};
use crate::common::kv::{Case, QueryMode};
use crate::common::{Arrangement, Operand, device, in_parallel, seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::kv::{AppendPlan, AppendProblem, Format, Norm, Pairing};
use infer_kernels::reference::kv::{decode, encode};
use infer_kernels::{DType, Float, Offence};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const FORMATS: [Format; 3] = [Format::E4m3, Format::E5m2, Format::Int8];

#[test]
fn random_cases_agree_with_the_reference() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..240).collect();
    in_parallel(&seeds, |&seed| {
        let result = match seed % 2 {
            0 => Case::<bf16>::random(seed).check(&device),
            _ => Case::<f16>::random(seed).check(&device),
        };
        let status = result.unwrap_or_else(|error| panic!("case {seed}: {error}"));
        assert!(status.is_clean(), "case {seed}: {status}");
    });
}

/// Heads of real models: Llama 3, Gemma 3 with its norm, Phi-3's odd dim, GPT-J and Phi-2 that rotate
/// a part, Falcon's one head.
#[test]
fn heads_of_models() {
    let problem = AppendProblem::new;
    let norm = |plus_one| Norm {
        eps: 1e-6,
        plus_one,
    };
    let bf16 = DType::BF16;
    let problems = [
        problem(bf16, 8, 128)
            .query_heads(32)
            .rope(Pairing::Halves, 128),
        problem(bf16, 4, 256)
            .query_heads(8)
            .rope(Pairing::Halves, 256)
            .norm(norm(true)),
        problem(bf16, 8, 128)
            .query_heads(32)
            .rope(Pairing::Halves, 128)
            .norm(norm(false)),
        problem(bf16, 32, 96)
            .query_heads(32)
            .rope(Pairing::Halves, 96),
        problem(bf16, 16, 256)
            .query_heads(16)
            .rope(Pairing::Interleaved, 64),
        problem(bf16, 32, 80)
            .query_heads(32)
            .rope(Pairing::Halves, 32),
        problem(bf16, 1, 64)
            .query_heads(71)
            .rope(Pairing::Halves, 64),
        problem(bf16, 2, 80)
            .query_heads(2)
            .rope(Pairing::Halves, 20),
    ];
    let device = shared_device();
    for (at, problem) in problems.into_iter().enumerate() {
        for format in [Format::Same, Format::E4m3] {
            let rng = &mut StdRng::seed_from_u64(at as u64);
            let problem = problem.clone().format(format);
            let case = Case::<half::bf16>::of(rng, problem, LAYOUTS[at % 4], 5);
            let status = case
                .check(device)
                .unwrap_or_else(|error| panic!("problem {at}, {format:?}: {error}"));
            assert!(status.is_clean());
        }
    }
}

/// All 65536 numbers of either type, in every 8-bit format.
fn every_number<T: Float>(of_bits: fn(u16) -> T) {
    let (tokens, dim) = (256, 256);
    for format in FORMATS {
        let rng = &mut StdRng::seed_from_u64(1);
        let problem = AppendProblem::new(T::DTYPE, 1, dim).format(format);
        let mut case = Case::<T>::of(rng, problem, Layout::Nhd, tokens);
        let shape = [tokens, 1, dim];
        case.scales = [vec![1.0], vec![0.25]];
        for operand in [&mut case.k, &mut case.v] {
            *operand = Operand::new(shape, Arrangement::Dense);
            for (at, x) in operand.data.iter_mut().enumerate() {
                *x = of_bits(at as u16);
            }
        }
        let outcome = case.run(shared_device()).unwrap();
        for part in 0..2 {
            for bits in 0..=u16::MAX {
                let (token, d) = (usize::from(bits) / dim, usize::from(bits) % dim);
                let slot = case.slots[token] as usize;
                let (_, at) = case.cache.index(part, slot, 0, d);
                let got = outcome.cache[part][at];
                let x = of_bits(bits).to_f64() * [1.0, 4.0][part];
                let expected = encode(format, x);
                let both_nan = decode(format, got).is_nan() && x.is_nan();
                assert!(
                    got == expected || both_nan,
                    "{format:?} of {x}: {got:#x}, expected {expected:#x}"
                );
            }
        }
    }
}

#[test]
fn every_f16_becomes_the_nearest_8_bit_number() {
    every_number(f16::from_bits);
}

#[test]
fn every_bf16_becomes_the_nearest_8_bit_number() {
    every_number(bf16::from_bits);
}

/// NaN payloads, negative zeros, subnormals: rows that nothing is done to keep their bits.
#[test]
fn rows_that_nothing_is_done_to_keep_their_bits() {
    let rng = &mut StdRng::seed_from_u64(2);
    let problem = AppendProblem::new(DType::F16, 1, 256);
    let mut case = Case::<f16>::of(rng, problem, Layout::SplitX, 256);
    for operand in [&mut case.k, &mut case.v] {
        *operand = Operand::new([256, 1, 256], Arrangement::Dense);
        for (at, x) in operand.data.iter_mut().enumerate() {
            *x = f16::from_bits(at as u16);
        }
    }
    let outcome = case.run(shared_device()).unwrap();
    for part in 0..2 {
        for bits in 0..=u16::MAX {
            let slot = case.slots[usize::from(bits) / 256] as usize;
            let (_, at) = case.cache.index(part, slot, 0, usize::from(bits) % 256);
            let got = &outcome.cache[part][2 * at..2 * at + 2];
            assert_eq!(got, bits.to_le_bytes(), "part {part}");
        }
    }
}

/// A NaN in one pair reaches neither other pairs nor what is not rotated.
#[test]
fn pairs_keep_to_themselves() {
    for (pairing, dim, rotary) in [
        (Pairing::Halves, 64, 32),
        (Pairing::Halves, 64, 20),
        (Pairing::Interleaved, 64, 30),
    ] {
        let rng = &mut StdRng::seed_from_u64(3);
        let problem = AppendProblem::new(DType::BF16, 3, dim).rope(pairing, rotary);
        let mut case = Case::<bf16>::of(rng, problem, Layout::Hnd, 4);
        for (token, d) in [(0, 1), (1, rotary - 1), (2, rotary), (3, dim - 1)] {
            let at = case.k.at([token, 1, d]);
            case.k.data[at] = if token % 2 == 0 {
                bf16::NAN
            } else {
                bf16::INFINITY
            };
        }
        let device = shared_device();
        let status = case.check(device);
        assert!(status.unwrap().is_clean(), "{pairing:?} {rotary}");
    }
}

#[test]
fn each_offence_is_reported_with_its_token() {
    let first = |change: fn(&mut Case<bf16>), padding| {
        let rng = &mut StdRng::seed_from_u64(4);
        let problem = AppendProblem::new(DType::BF16, 2, 64)
            .query_heads(2)
            .rope(Pairing::Halves, 64)
            .padding(padding);
        let mut case = Case::<bf16>::of(rng, problem, Layout::Nhd, 9);
        case.wide = [true; 2];
        change(&mut case);
        let status = case.check(shared_device()).unwrap();
        status.first()
    };
    assert_eq!(first(|_| (), false), None);
    assert_eq!(first(|c| c.slots[3] = -1, false), Some((Offence::Slot, 3)));
    assert_eq!(first(|c| c.slots[3] = -1, true), None);
    assert_eq!(first(|c| c.slots[8] = -2, true), Some((Offence::Slot, 8)));
    assert_eq!(
        first(|c| c.slots[0] = i64::MIN, true),
        Some((Offence::Slot, 0))
    );
    // In range, if only the lower half were looked at.
    assert_eq!(
        first(|c| c.slots[1] = 1 << 32, false),
        Some((Offence::Slot, 1))
    );
    let end = |c: &mut Case<bf16>| c.slots[2] = (c.cache.pages * c.cache.page_size) as i64;
    assert_eq!(first(end, false), Some((Offence::Slot, 2)));
    assert_eq!(
        first(|c| c.positions[5] = -1, false),
        Some((Offence::Position, 5))
    );
    assert_eq!(
        first(|c| c.positions[5] = 40, false),
        Some((Offence::Position, 5))
    );
    assert_eq!(
        first(|c| c.positions[0] = 1 << 32, false),
        Some((Offence::Position, 0))
    );
    let both = |c: &mut Case<bf16>| (c.positions[1], c.slots[7]) = (99, 9999);
    assert_eq!(first(both, false), Some((Offence::Slot, 7)));
}

/// vLLM 43869: a padding slot of -1 wrapped round to the last block.
#[test]
fn padding_leaves_the_cache_untouched() {
    for layout in LAYOUTS {
        let rng = &mut StdRng::seed_from_u64(5);
        let problem = AppendProblem::new(DType::F16, 2, 32).padding(true);
        let mut case = Case::<f16>::of(rng, problem, layout, 8);
        case.slots.fill(-1);
        assert!(
            case.check(shared_device()).unwrap().is_clean(),
            "{layout:?}"
        );
    }
}

/// A number that is in range, just not, or not at all.
fn anything(rng: &mut StdRng, most: usize) -> i64 {
    let most = most as i64;
    match rng.random_range(0..10) {
        0 => -1,
        1 => i64::MIN,
        2 => i64::MAX,
        3 => most,
        4 => i64::from(i32::MIN),
        5 => rng.random(),
        6 => 1 << rng.random_range(0..63),
        7 => (1 << 32) + rng.random_range(0..most.max(1)),
        _ => -rng.random_range(1..most.max(2)),
    }
}

/// A random case, some of whose slots and positions are garbage; the others are distinct.
fn fuzzed(seed: u64) -> Case<bf16> {
    let mut case = Case::<bf16>::random(seed);
    let rng = &mut StdRng::seed_from_u64(seed);
    let num_slots = case.cache.pages * case.cache.page_size;
    for token in 0..case.slots.len() {
        if rng.random_bool(0.3) {
            let mut slot = anything(rng, num_slots);
            if !case.wide[0] {
                slot = i64::from(slot as i32);
            }
            if !case.slots.contains(&slot) {
                case.slots[token] = slot;
            }
        }
        if rng.random_bool(0.2) {
            case.positions[token] = anything(rng, 40);
            if !case.wide[1] {
                case.positions[token] = i64::from(case.positions[token] as i32);
            }
        }
    }
    case
}

#[test]
fn garbage_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..120).map(|seed| seed + (1 << 33)).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let case = fuzzed(seed);
        let status = case
            .check(&device)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{:?}", case.problem));
        for offence in status.offences() {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("{offences:?}");
    assert_eq!(offences.len(), 2, "a kind never came up");
}

/// Slots and positions that change with every look at them: nothing is followed out of bounds.
#[test]
fn garbage_that_changes_is_survived() {
    let seeds: Vec<u64> = seeds(0..60).map(|seed| seed + (1 << 34)).collect();
    let of_a_thread: Vec<&[u64]> = seeds.chunks(20).collect();
    in_parallel(&of_a_thread, |seeds| {
        let device = device();
        for &seed in *seeds {
            let mut case = fuzzed(seed);
            case.hostile = true;
            let outcome = case
                .run(&device)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let only = [Offence::Slot, Offence::Position];
            assert!(outcome.status.offences().all(|o| only.contains(&o)));
        }
    });
}

/// Two tokens of one slot: each element is that of one of them.
#[test]
fn two_writers_of_a_slot_leave_elements_of_either() {
    for (seed, format) in [Format::Same, Format::E4m3, Format::Int8]
        .into_iter()
        .enumerate()
    {
        for layout in LAYOUTS {
            let rng = &mut StdRng::seed_from_u64(seed as u64);
            let problem = AppendProblem::new(DType::BF16, 3, 64).format(format);
            let mut case = Case::<bf16>::of(rng, problem, layout, 24);
            let slot = case.slots[0];
            case.slots.fill(slot);
            let outcome = case.run(shared_device()).unwrap();
            // What each token alone leaves.
            let alone: Vec<_> = (0..24)
                .map(|token| {
                    let mut alone = case.clone();
                    alone.slots.fill(-1);
                    alone.slots[token] = slot;
                    alone.run(shared_device()).unwrap().cache
                })
                .collect();
            for (part, bytes) in outcome.cache.iter().enumerate() {
                for (at, got) in bytes.chunks(case.cache.size).enumerate() {
                    let element = at * case.cache.size..(at + 1) * case.cache.size;
                    let known = alone
                        .iter()
                        .any(|cache| cache[part][element.clone()] == *got);
                    assert!(known, "{format:?} {layout:?}: element {at} of part {part}");
                }
            }
        }
    }
}

#[test]
fn plans_say_what_they_do() {
    let problem = AppendProblem::new(DType::BF16, 8, 128)
        .query_heads(32)
        .rope(Pairing::Halves, 128)
        .norm(Norm {
            eps: 1e-6,
            plus_one: true,
        })
        .format(Format::E4m3)
        .padding(true);
    let plan = AppendPlan::new(shared_device(), &problem).unwrap();
    assert_eq!(plan.entry(), "kv_append_bf16");
    let expected = format!(
        "kv_append_bf16: 128 threads\n  \
         32 query heads of 128, 8 heads of 128 and 128, bf16 to E4m3, RMS norm by 1 + weight, \
         eps 0.000001, Halves of 128 rotated, slot -1 is padding\n  \
         22528 bytes per token on {}",
        shared_device()
    );
    assert_eq!(plan.to_string(), expected);
}

/// Without a cache queries and keys get the bits that an append gives them; tokens without a position
/// keep theirs.
#[test]
fn a_rotation_alone_gives_the_bits_of_an_append() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..100).collect();
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut case = Case::<bf16>::random(seed);
        if case.problem.rope.is_none() {
            return;
        }
        let problem = case.problem.clone().format(Format::Same);
        let tokens = case.slots.len();
        case = Case::of(rng, problem, Layout::Nhd, tokens);
        case.queries = match case.problem.query_heads {
            0 => QueryMode::None,
            _ => QueryMode::InPlace,
        };
        if seed.is_multiple_of(3) && tokens > 1 {
            case.positions[0] = [-1, 40, 1 << 32, i64::from(i32::MIN)][seed as usize / 3 % 4];
            case.wide[1] = true;
        }
        let appended = case.run(&device).unwrap();
        for in_place in [true, false] {
            let rotated = case.rotate(&device, in_place).unwrap();
            assert_eq!(
                rotated.status.contains(Offence::Position),
                appended.status.contains(Offence::Position),
                "case {seed}"
            );
            assert!(!rotated.status.contains(Offence::Slot), "case {seed}");
            let bits = |all: &[bf16]| Vec::from_iter(all.iter().map(|x| x.to_bits()));
            if case.problem.query_heads > 0 {
                assert_eq!(bits(&rotated.q), bits(&appended.q.data), "case {seed}");
            }
            for [token, head, d] in crate::common::indices(case.k.shape) {
                let at = case.k.at([token, head, d]);
                let slot = case.slots[token];
                let known = (0..40).contains(&case.positions[token]);
                if !known {
                    let before = case.k.data[at].to_bits();
                    assert_eq!(rotated.k[at].to_bits(), before, "case {seed}");
                } else if let Ok(slot) = usize::try_from(slot) {
                    let (_, stored) = case.cache.index(0, slot, head, d);
                    let stored = &appended.cache[0][2 * stored..][..2];
                    assert_eq!(rotated.k[at].to_bits().to_le_bytes(), stored, "case {seed}");
                }
            }
        }
    });
}
