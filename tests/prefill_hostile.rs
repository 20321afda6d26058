//! Offsets that the device got wrong: never followed, always reported.
//!
//! The host's reference applies the same rules; output, untouched rows and status must agree with
//! it, and the emulator must see no access out of bounds.
#![cfg(feature = "emulator")]

mod common;

use common::{Arrangement, Case, Lengths, device, in_parallel};
use half::bf16;
use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::{Offence, StatusReport};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const HEADS: HeadShape = HeadShape {
    query: 2,
    kv: 1,
    dim: 64,
};
const ROWS: usize = 40;

/// A case of `ROWS` rows with the given offsets, sent to the device unchecked.
fn case(seed: u64, offsets_q: Vec<i32>, offsets_k: Vec<i32>) -> Case<bf16> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut case = Case::random(rng, HEADS, &Lengths::same(&[ROWS]));
    case.problem.batch = offsets_q.len() - 1;
    case.problem.max_seqlen_q = 16;
    case.problem.lse = true;
    case.out = Arrangement::Dense;
    (case.offsets_q, case.offsets_k, case.device_offsets) = (offsets_q, offsets_k, true);
    case
}

fn status(offsets_q: &[i32], offsets_k: &[i32]) -> StatusReport {
    let case = case(1, offsets_q.into(), offsets_k.into());
    let outcome = case.run(&device()).unwrap();
    case.judge(&outcome).unwrap();
    outcome.status
}

#[test]
fn each_offence_is_reported_with_its_sequence() {
    assert!(status(&[0, 3, 9], &[0, 4, 8]).is_clean());
    let first = |q: &[i32], k: &[i32]| status(q, k).first();
    let good = &[0, 4, 8];
    assert_eq!(first(&[0, 9, 3], good), Some((Offence::SeqLensQ, 1)));
    assert_eq!(first(&[-1, 3, 9], good), Some((Offence::SeqLensQ, 0)));
    assert_eq!(first(&[0, 3, 41], good), Some((Offence::SeqLensQ, 1)));
    assert_eq!(first(&[0, 3, i32::MAX], good), Some((Offence::SeqLensQ, 1)));
    assert_eq!(first(good, &[0, 41, 41]), Some((Offence::SeqLensK, 0)));
    assert_eq!(first(good, &[0, 4, i32::MIN]), Some((Offence::SeqLensK, 1)));
    assert_eq!(first(&[0, 17, 18], good), Some((Offence::SeqLenTooLong, 0)));
    let both = status(&[0, 17, 41], &[-7, 4, 8]);
    assert_eq!(both.offences().count(), 3);
    assert_eq!(both.first(), Some((Offence::SeqLensQ, 1)));
}

/// A sequence must not write rows that an earlier offset claims, whatever lies between.
#[test]
fn sequences_cannot_be_made_to_write_the_same_rows() {
    let report = status(&[0, 30, 5, 12, 20, 35], &[0, 8, 16, 24, 32, 40]);
    assert!(report.contains(Offence::SeqLensQ) && report.contains(Offence::SeqLenTooLong));
}

#[test]
fn garbage_is_survived() {
    let device = device();
    let seeds: Vec<u64> = (0..150).collect();
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let batch = rng.random_range(1..=6);
        let mut offsets = || -> Vec<i32> {
            let mut offsets: Vec<i32> = (0..=batch)
                .map(|_| rng.random_range(0..=ROWS as i32))
                .collect();
            if rng.random_bool(0.7) {
                offsets.sort_unstable();
            }
            for offset in &mut offsets {
                if rng.random_bool(0.15) {
                    *offset = match rng.random_range(0..5) {
                        0 => -1,
                        1 => i32::MIN,
                        2 => i32::MAX,
                        3 => ROWS as i32 + 1,
                        _ => rng.random(),
                    };
                }
            }
            offsets
        };
        let case = case(seed, offsets(), offsets());
        if let Err(error) = case.check(&device) {
            panic!(
                "seed {seed}: {error}\nq {:?}\nk {:?}",
                case.offsets_q, case.offsets_k
            );
        }
    });
}
