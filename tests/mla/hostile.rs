//! Latent attention with lengths, page ids and offsets that the device got wrong: never followed,
//! always reported.
//!
//! The host's reference applies the same rules; output, untouched rows and status must agree with
//! it, and the emulator must see no access out of bounds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::common::fuzz::corrupt_case;
use crate::common::{Case, Lengths, device, in_parallel, mla, seeds};
use half::bf16;
use infer_kernels::ptx_emulator::{Checks, Config};
use infer_kernels::{Device, Offence};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A small case with garbage in it, and a way to run it.
fn fuzzed(seed: u64) -> (Case<bf16>, mla::Way) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let batch = rng.random_range(1..=5);
    let mut lengths =
        |most: usize| -> Vec<usize> { (0..batch).map(|_| rng.random_range(0..=most)).collect() };
    let lengths = Lengths::of(&lengths(5), &lengths(40));
    let (heads, page_size) = (rng.random_range(1..=3), rng.random_range(1..9));
    let csr = rng.random_bool(0.5);
    let mut case = mla::case::<bf16>(seed, heads, &lengths, page_size, csr);
    case.problem.lse = true;
    corrupt_case(rng, &mut case);
    mla::values_of_latents(&mut case);
    let rows = if seed.is_multiple_of(4) { 64 } else { 16 };
    let way = mla::Way::plain(rows, [1, 2, 4, 9][rng.random_range(0..4)]);
    (case, way)
}

/// Numbers that stay as they are: nothing is followed out of bounds, and result and status word are
/// as the reference says.
#[test]
fn garbage_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..50).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let (case, way) = fuzzed(seed);
        let outcome = (case.mla(&device, way)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for offence in outcome.status.offences() {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
        if let Err(error) = case.judge(&outcome) {
            panic!("seed {seed}: {error}\n{way:?} {case:#?}");
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("seeds {:?}: {offences:?}", seeds.first()..seeds.last());
    let kinds = Offence::ALL.iter().filter(|&&kind| kind < Offence::Mask);
    assert_eq!(offences.len(), kinds.count(), "a kind never came up");
}

/// Numbers that change with every look at them: nothing is followed out of bounds.
#[test]
fn garbage_that_changes_is_survived() {
    let seeds: Vec<u64> = seeds(0..24).map(|seed| seed + (1 << 32)).collect();
    let of_a_thread: Vec<&[u64]> = seeds.chunks(12).collect();
    // Blocks that disagree about who does what may write the same row.
    let mut checks = Checks::ALL;
    checks.race = false;
    in_parallel(&of_a_thread, |seeds| {
        let device = Device::emulator(Config {
            seed: seeds[0],
            checks,
            ..Config::default()
        });
        for &seed in *seeds {
            let (mut case, way) = fuzzed(seed);
            let expected = case.exact().status;
            case.hostile = true;
            let outcome = (case.mla(&device, way)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            for offence in outcome.status.offences() {
                let possible = match offence {
                    Offence::SeqLensK | Offence::PageRange | Offence::PageId => true,
                    _ => expected.contains(offence),
                };
                assert!(possible, "seed {seed}: {}", outcome.status);
            }
        }
    });
}

/// More sequences than one look at the lengths finds room for.
#[test]
fn batches_beyond_one_window_are_shared_out_and_reported() {
    let device = device();
    for (batch, blocks, ragged) in [(256, 5, false), (530, 30, true)] {
        let tokens: Vec<usize> = (0..batch).map(|b| [3, 0, 17, 40][b % 4]).collect();
        let queries: Vec<usize> = (0..batch).map(|b| if ragged { b % 3 } else { 1 }).collect();
        let mut case = mla::case::<bf16>(9, 2, &Lengths::of(&queries, &tokens), 16, false);
        case.device_offsets = ragged;
        let way = mla::Way::plain(16, blocks);
        case.check_mla(&device, way).unwrap();
        if ragged {
            case.offsets_q[40] = 9000;
        }
        let pages = case.pages.as_mut().expect("cases are in pages");
        pages.filler = 0.0;
        (pages.seqlens[batch - 2], pages.seqlens[70]) = (-4, 1 << 30);
        let outcome = case.mla(&device, way).unwrap();
        assert!(outcome.status.contains(Offence::SeqLensK));
        assert_eq!(outcome.status.contains(Offence::SeqLensQ), ragged);
        case.judge(&outcome).unwrap();
    }
}
