//! Offsets that the device got wrong: never followed, always reported.
//!
//! The host's reference applies the same rules; output, untouched rows and status must agree with
//! it, and the emulator must see no access out of bounds.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

use crate::common::fuzz::fuzzed;
use crate::common::spec::{LEVELS, Source, Spec};
use crate::common::{
    Arrangement, Case, Lengths, Pages, Table, device, in_parallel, seeds, under_test,
};
use half::{bf16, f16};
use infer_kernels::attention::prefill::{HeadShape, PrefillPlan, PrefillProblem, Window};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::ptx_emulator::mutate::Handover;
use infer_kernels::{Device, Float, Offence, StatusReport};
use rand::SeedableRng;
use rand::rngs::StdRng;

const ROWS: usize = 40;

/// A case of `ROWS` rows with the given offsets, sent to the device unchecked.
fn case<T: Float>(problem: PrefillProblem, offsets_q: &[i32], offsets_k: &[i32]) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(1);
    let arrangements = [(); 3].map(|()| Arrangement::random(rng));
    let mut case = Case::of(rng, problem, &Lengths::same(&[ROWS]), arrangements);
    case.problem.batch = offsets_q.len() - 1;
    (case.offsets_q, case.offsets_k) = (offsets_q.into(), offsets_k.into());
    case.device_offsets = true;
    case
}

/// What is reported of offsets of queries and of keys, if everything else is as the reference says.
type Status<'a> = &'a dyn Fn(&[i32], &[i32]) -> StatusReport;

/// The test on every entry for ragged keys, or on the one under test.
fn on_every_entry(test: impl Fn(Status)) {
    on_every_entry_of::<bf16>(&test);
    on_every_entry_of::<f16>(&test);
}

fn on_every_entry_of<T: Float>(test: &impl Fn(Status)) {
    let device = device();
    for (dim, v_dim) in [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)] {
        let heads = HeadShape {
            query: 2,
            kv: 1,
            dim,
        };
        let lean = PrefillProblem::new(T::DTYPE, heads, 1, 16)
            .v_dim(v_dim)
            .lse(true);
        for problem in [lean.clone(), lean.window(Window::left(3))] {
            let plan = PrefillPlan::new(&device, &problem).unwrap();
            if under_test(plan.entry()) {
                test(&|offsets_q, offsets_k| {
                    let case = case::<T>(problem.clone(), offsets_q, offsets_k);
                    let outcome = case.run(&device).unwrap();
                    case.judge(&outcome)
                        .unwrap_or_else(|e| panic!("{}: {offsets_q:?}: {e}", plan.entry()));
                    outcome.status
                });
            }
        }
    }
}

#[test]
fn each_offence_is_reported_with_its_sequence() {
    on_every_entry(|status| {
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
    });
}

/// Two sequences of 5 and 9 keys on pages of 4, and a mask: one number wrong at a time.
#[test]
fn each_offence_of_pages_and_masks_is_reported_with_its_sequence() {
    each_offence_of_pages_and_masks::<bf16>();
    each_offence_of_pages_and_masks::<f16>();
}

/// What is made wrong, and how it is reported.
type Offending<T> = (fn(&mut Case<T>), Option<(Offence, u64)>);

fn each_offence_of_pages_and_masks<T: Float>() {
    fn pages<T>(case: &mut Case<T>) -> &mut Pages {
        case.pages.as_mut().expect("the keys are in pages")
    }
    fn table<T>(case: &mut Case<T>) -> (&mut Vec<i32>, &mut Vec<u32>) {
        match &mut pages(case).table {
            Table::Csr { indptr, entries } => (indptr, entries),
            Table::Rows { .. } => panic!("the table is a list"),
        }
    }
    let changes: [Offending<T>; 14] = [
        (|_| (), None),
        (
            |case| pages(case).seqlens[1] = -1,
            Some((Offence::SeqLensK, 1)),
        ),
        (
            |case| pages(case).seqlens[0] = i32::MAX,
            Some((Offence::SeqLensK, 0)),
        ),
        (|case| table(case).0[2] -= 4, Some((Offence::PageRange, 1))),
        (|case| table(case).0[2] = 99, Some((Offence::PageRange, 1))),
        (|case| table(case).0[0] = -1, Some((Offence::PageRange, 0))),
        // The third page of the second sequence, and one that the first has no need of.
        (
            |case| {
                let at = table(case).0[1] as usize + 2;
                table(case).1[at] = 1000;
            },
            Some((Offence::PageId, 1)),
        ),
        (
            |case| {
                let at = table(case).0[0] as usize;
                table(case).1[at] = u32::MAX;
            },
            Some((Offence::PageId, 0)),
        ),
        (|case| case.mask.offsets[2] = -5, Some((Offence::Mask, 1))),
        (|case| case.mask.offsets[1] = 0, Some((Offence::Mask, 0))),
        (|case| case.mask.offsets[2] = 1000, Some((Offence::Mask, 1))),
        // A beginning before the mask, an end that only an overflow would put behind the beginning, and a byte too few.
        (|case| case.mask.offsets[0] = -1, Some((Offence::Mask, 0))),
        (
            |case| case.mask.offsets[2] = i32::MIN,
            Some((Offence::Mask, 1)),
        ),
        (
            |case| case.mask.offsets[2] = case.mask.offsets[1] + 4,
            Some((Offence::Mask, 1)),
        ),
    ];
    let spec = Spec {
        source: Source::Csr(4),
        mask: true,
        dtype: T::DTYPE,
        ..Spec::of(&LEVELS.map(|_| 0))
    };
    for (at, (change, expected)) in changes.into_iter().enumerate() {
        let mut case: Case<T> = spec.typed(2, 1, &Lengths::of(&[3, 4], &[5, 9]));
        pages(&mut case).filler = 0.5;
        for operand in [&mut case.k, &mut case.v] {
            (0..14).for_each(|row| operand.set_row(row, 1.0));
        }
        change(&mut case);
        let outcome = case.run(&device()).unwrap();
        assert_eq!(outcome.status.first(), expected, "change {at}");
        case.judge(&outcome).unwrap();
    }
}

/// A sequence must not write rows that an earlier offset claims, whatever lies between.
#[test]
fn sequences_cannot_be_made_to_write_the_same_rows() {
    on_every_entry(|status| {
        let report = status(&[0, 30, 5, 12, 20, 35], &[0, 8, 16, 24, 32, 40]);
        assert!(report.contains(Offence::SeqLensQ) && report.contains(Offence::SeqLenTooLong));
        // The claim is the very first offset's.
        let report = status(&[9, 5, 9], &[0, 4, 8]);
        assert_eq!(report.first(), Some((Offence::SeqLensQ, 0)));
        // More sequences than a block has threads: rows 5 to 12 are claimed by one whose end is offset 128, or 300.
        for before in [128, 300] {
            let many = |last: [i32; 3]| [vec![0; before], last.to_vec()].concat();
            let report = status(&many([16, 5, 12]), &many([8, 16, 24]));
            assert_eq!(report.first(), Some((Offence::SeqLensQ, before as u64)));
        }
    });
}

/// Numbers that stay as they are: nothing is followed out of bounds, and result and status word are
/// as the reference says.
#[test]
fn garbage_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..350).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let status = match seed % 3 {
            0 => survived::<f16>(&device, seed),
            _ => survived::<bf16>(&device, seed),
        };
        for offence in status.iter().flat_map(|status| status.offences()) {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("seeds {:?}: {offences:?}", seeds.first()..seeds.last());
    let kinds = Offence::ALL.iter().filter(|&&kind| kind <= Offence::Mask);
    let all = Handover::get().unwrap().is_none(); // Nothing is left out.
    assert!(
        !all || offences.len() == kinds.count(),
        "a kind never came up"
    );
}

/// Runs and judges a case whose entry is under test; what was reported.
fn survived<T: Float + Debug>(device: &Device, seed: u64) -> Option<StatusReport> {
    let case = fuzzed::<T>(seed, false);
    let plan = PrefillPlan::new(device, &case.problem).unwrap();
    if !under_test(plan.entry()) {
        return None;
    }
    let outcome = case
        .run(device)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    if let Err(error) = case.judge(&outcome) {
        let of = |status: StatusReport| status.offences().collect::<Vec<_>>();
        let (got, expected) = (of(outcome.status), of(case.exact().status));
        panic!("seed {seed}: {error}\n{got:?}, expected {expected:?}\n{case:#?}");
    }
    Some(outcome.status)
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
            let mut case = fuzzed::<bf16>(seed, false);
            let expected = case.exact().status;
            case.hostile = true;
            let outcome = case
                .run(&device)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let paged = case.pages.is_some();
            for offence in outcome.status.offences() {
                let possible = match offence {
                    Offence::SeqLensK => true,
                    Offence::PageRange | Offence::PageId => paged,
                    Offence::Mask => case.problem.mask,
                    _ => expected.contains(offence),
                };
                assert!(possible, "seed {seed}: {}", outcome.status);
            }
            // Offsets of queries do not change here: different looks at them would be a race.
            for offence in [Offence::SeqLensQ, Offence::SeqLenTooLong] {
                let agree = expected.contains(offence) == outcome.status.contains(offence);
                assert!(agree, "seed {seed}: {} without {offence}", outcome.status);
            }
        }
    });
}
