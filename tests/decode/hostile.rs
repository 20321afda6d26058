//! Lengths, page ids and offsets that the device got wrong: never followed, always reported.
//!
//! The host's reference applies the same rules; output, untouched rows and status must agree with
//! it, and the emulator must see no access out of bounds.

use std::collections::BTreeMap;
use std::error::Error;
use std::iter::successors;
use std::sync::Mutex;

use crate::common::fuzz::fuzzed;
use crate::common::{Lengths, decode, device, in_parallel, seeds};
use half::bf16;
use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::ptx_emulator::{Checks, Config, Kind, LaunchError};
use infer_kernels::{Device, Offence, StatusReport};

/// Blocks that share the work of a case.
fn blocks(seed: u64) -> usize {
    [1, 2, 4, 9, 30][seed as usize % 5]
}

/// Numbers that stay as they are: nothing is followed out of bounds, and result and status word are
/// as the reference says.
#[test]
fn garbage_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..300).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let case = fuzzed::<bf16>(seed, true);
        let outcome = case
            .decode(&device, blocks(seed))
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for offence in outcome.status.offences() {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
        if let Err(error) = case.judge(&outcome) {
            let of = |status: StatusReport| status.offences().collect::<Vec<_>>();
            let (got, expected) = (of(outcome.status), of(case.exact().status));
            panic!("seed {seed}: {error}\n{got:?}, expected {expected:?}\n{case:#?}");
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("seeds {:?}: {offences:?}", seeds.first()..seeds.last());
    let kinds = Offence::ALL.iter().filter(|&&kind| kind <= Offence::Mask);
    assert_eq!(offences.len(), kinds.count(), "a kind never came up");
}

/// Whether blocks wrote the same row. Of lengths that change they need not agree about who does what.
fn is_between_blocks(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref())
        .any(|error| match error {
            LaunchError::Violation(violation) => matches!(violation.kind, Kind::GlobalRace { .. }),
            _ => false,
        })
}

/// Numbers that change with every look at them: nothing is followed out of bounds, and nothing is
/// reported of what cannot have been wrong.
#[test]
fn garbage_that_changes_is_survived() {
    let seeds: Vec<u64> = seeds(0..150).map(|seed| seed + (1 << 32)).collect();
    let of_a_thread: Vec<&[u64]> = seeds.chunks(25).collect();
    in_parallel(&of_a_thread, |seeds| {
        let device = Device::emulator(Config {
            seed: seeds[0],
            ..Config::default()
        });
        for &seed in *seeds {
            let mut case = fuzzed::<bf16>(seed, true);
            let expected = case.exact().status;
            case.hostile = true;
            let outcome = match case.decode(&device, blocks(seed)) {
                Err(error) if is_between_blocks(&*error) => {
                    let mut checks = Checks::ALL;
                    checks.race = false;
                    let config = Config {
                        seed,
                        checks,
                        ..Config::default()
                    };
                    case.decode(&Device::emulator(config), blocks(seed))
                }
                outcome => outcome,
            };
            let outcome = outcome.unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
            for offence in outcome.status.offences() {
                let possible = match offence {
                    Offence::SeqLensK | Offence::PageRange | Offence::PageId => true,
                    Offence::Mask => case.problem.mask,
                    _ => expected.contains(offence),
                };
                assert!(possible, "seed {seed}: {}", outcome.status);
            }
            for offence in [Offence::SeqLensQ, Offence::SeqLenTooLong] {
                let agree = expected.contains(offence) == outcome.status.contains(offence);
                assert!(agree, "seed {seed}: {} without {offence}", outcome.status);
            }
        }
    });
}

/// More sequences than one look at the lengths finds room for, some of them with bad lengths, ids and
/// offsets: far from the first, too.
#[test]
fn batches_beyond_one_window_are_shared_out_and_reported() {
    let device = device();
    let heads = HeadShape {
        query: 2,
        kv: 1,
        dim: 64,
    };
    for (batch, blocks, ragged) in [
        (128, 5, false),
        (129, 7, true),
        (300, 3, false),
        (300, 50, true),
    ] {
        let keys: Vec<usize> = (0..batch).map(|b| [3, 0, 17, 40][b % 4]).collect();
        let queries: Vec<usize> = (0..batch).map(|b| if ragged { b % 3 } else { 1 }).collect();
        let mut case = decode::plain_of(9, heads, &Lengths::of(&queries, &keys));
        case.check_decode(&device, blocks).unwrap();
        if ragged {
            case.device_offsets = true;
            case.offsets_q[40] = 9000;
        }
        let pages = case.pages.as_mut().expect("decode cases have pages");
        pages.filler = 0.0;
        (pages.seqlens[batch - 2], pages.seqlens[70]) = (-4, 1 << 30);
        let outcome = case.decode(&device, blocks).unwrap();
        assert!(
            outcome.status.contains(Offence::SeqLensK),
            "{}",
            outcome.status
        );
        assert_eq!(outcome.status.contains(Offence::SeqLensQ), ragged);
        case.judge(&outcome).unwrap();
    }
}

/// The same with numbers that change between one look at a window and the next: blocks do not agree
/// about who does what and may write the same rows, which is no news, but none of them follows what
/// another one left out of bounds, or finds no end.
#[test]
fn batches_beyond_one_window_survive_garbage_that_changes() {
    let heads = HeadShape {
        query: 2,
        kv: 1,
        dim: 64,
    };
    let keys: Vec<usize> = (0..150).map(|b| [600, 0, 170, 300][b % 4]).collect();
    let mut case = decode::plain_of(4, heads, &Lengths::of(&[1; 150], &keys));
    let pages = case.pages.as_mut().expect("decode cases have pages");
    pages.filler = 0.5;
    case.hostile = true;
    let seeds: Vec<u64> = seeds(0..12).collect();
    let mut checks = Checks::ALL;
    checks.race = false;
    in_parallel(&seeds, |&seed| {
        let device = Device::emulator(Config {
            seed,
            checks,
            budget: 50_000_000,
            ..Config::default()
        });
        let blocks = [2, 7, 60][seed as usize % 3];
        case.decode(&device, blocks)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    });
}
