//! Batches in which some sequences decode and others prefill, against the f64 reference.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone.

use std::error::Error;

use crate::common::spec::{Source, Spec};
use crate::common::{AnyCase, Case, Lengths, Worst, device, in_parallel, seeds};
use half::f16;
use infer_kernels::attention::mixed::{MixedArgs, MixedError, MixedPlan, MixedProblem};
use infer_kernels::attention::prefill::{
    KvLayout, PrefillArgs, PrefillError, PrefillProblem, Window,
};
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{Device, Float, Stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Runs a plan on operands of a prefill, with a workspace that is full of NaN.
fn run(
    plan: &MixedPlan,
    stream: &Stream,
    attention: PrefillArgs<'_>,
) -> Result<(), Box<dyn Error>> {
    let elements = plan.workspace_elements();
    let mut workspace = stream.upload(&vec![f32::NAN; elements])?;
    let workspace = workspace.tensor_mut([elements])?;
    let args = MixedArgs {
        attention,
        workspace,
    };
    Ok(plan.run(stream, args)?)
}

fn check<T: Float>(
    case: &Case<T>,
    device: &Device,
    decodes: usize,
    max_queries: usize,
) -> Result<(Margin, Margin), Box<dyn Error>> {
    let problem = MixedProblem::new(case.problem.clone(), decodes)
        .max_queries(max_queries)
        .blocks(7);
    problem.supports()?;
    let outcome = case.run_by(device, |stream, args| {
        let plan = MixedPlan::new(device, &problem)?;
        let printed = plan.to_string();
        for part in [
            plan.decode().map(|part| part.entry()),
            plan.prefill().map(|part| part.entry()),
        ] {
            assert!(part.is_none_or(|entry| printed.contains(entry)));
        }
        run(&plan, stream, args)?;
        let prefill = plan.prefill().map(|part| part.entry());
        Ok(prefill
            .or(plan.decode().map(|part| part.entry()))
            .expect("a part"))
    })?;
    case.judge(&outcome)
}

/// A case of its seed: how many sequences decode, and with how many queries at most.
fn random(seed: u64) -> (AnyCase, usize, usize) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut spec = Spec::random(rng);
    spec.dims = [(64, 64), (128, 128), (72, 40)][rng.random_range(0..3)];
    spec.source = Source::Rows(rng.random_range(1..40));
    let max_queries = [1, 1, 3][rng.random_range(0..3)];
    let (decodes, prefills) = (rng.random_range(0..4), rng.random_range(0..3));
    let q = (0..decodes + prefills).map(|b| match b < decodes {
        true => rng.random_range(0..=max_queries),
        false => rng.random_range(0..150),
    });
    let q: Vec<usize> = q.collect();
    let k = q.iter().map(|q| q + rng.random_range(0..200)).collect();
    let (lead, trail) = (rng.random_range(0..3), rng.random_range(0..3));
    let lengths = Lengths { q, k, lead, trail };
    (spec.case(seed, 1, &lengths), decodes, max_queries)
}

#[test]
fn random_batches_are_within_their_bounds() {
    let (device, worst) = (device(), Worst::default());
    let all: Vec<u64> = seeds(0..24).collect();
    in_parallel(&all, |&seed| {
        let (mut case, decodes, max_queries) = random(seed);
        let margins = match &case {
            AnyCase::F16(case) => check(case, &device, decodes, max_queries),
            AnyCase::Bf16(case) => check(case, &device, decodes, max_queries),
        };
        match margins {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!(
                "seed {seed}: {error}\n{decodes} decode, {:#?}",
                case.problem()
            ),
        }
    });
    println!("{} seeds: {worst}", all.len());
}

/// Sequences of so many queries and 40 keys, without options: what comes of running `problem` on them.
fn refused(q: &[usize], problem: impl FnOnce(PrefillProblem) -> MixedProblem) -> MixedError {
    let rng = &mut StdRng::seed_from_u64(5);
    let spec = Spec {
        dims: (64, 64),
        source: Source::Rows(16),
        window: Window::ALL,
        softcap: None,
        alibi: false,
        sinks: false,
        mask: false,
        lse: false,
        ..Spec::random(rng)
    };
    let device = device();
    let mut case = spec.typed::<f16>(5, 1, &Lengths::of(q, &vec![40; q.len()]));
    case.device_offsets = false;
    let mut attention = case.problem.clone();
    (attention.batch, attention.max_seqlen_q) = (3, 30);
    let problem = problem(attention);
    let outcome = case.run_by(&device, |stream, args| {
        let plan = MixedPlan::new(&device, &problem)?;
        run(&plan, stream, args)?;
        Ok("")
    });
    *outcome.err().unwrap().downcast().unwrap()
}

#[test]
fn each_part_has_its_own_limit_of_lengths() {
    let of = |q: &[usize]| match refused(q, |all| MixedProblem::new(all, 2)) {
        MixedError::Prefill(PrefillError::SeqLen { expected, got, .. }) => (expected, got),
        other => panic!("{other}"),
    };
    assert_eq!(of(&[1, 2, 30]), (1, 2), "a sequence that decodes");
    assert_eq!(of(&[1, 1, 31]), (30, 31), "one that prefills");
    let drafts = refused(&[4, 5, 30], |all| MixedProblem::new(all, 2).max_queries(4));
    assert!(drafts.to_string().contains("at most 4 queries"), "{drafts}");
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let more = refused(&[1, 1, 1], |all| MixedProblem::new(all, 4));
    let expected = MixedError::Decodes {
        expected: 3,
        got: 4,
    };
    assert_eq!(more.to_string(), expected.to_string());
    let fewer = refused(&[1, 1], |all| MixedProblem::new(all, 1));
    assert!(
        matches!(
            fewer,
            MixedError::Prefill(PrefillError::Batch {
                tensor: "seqlens_q",
                expected: 3,
                got: 2,
            })
        ),
        "{fewer}"
    );
    let ragged = refused(&[1, 1, 1], |mut all| {
        all.kv = KvLayout::Ragged;
        MixedProblem::new(all, 1)
    });
    assert!(matches!(ragged, MixedError::Decode(_)), "{ragged}");
}

/// What the part that prefills refuses keeps the part that decodes from running.
#[test]
fn nothing_runs_if_a_part_is_refused() {
    let rng = &mut StdRng::seed_from_u64(6);
    let mut spec = Spec::random(rng);
    (spec.dims, spec.source) = ((64, 64), Source::Rows(16));
    let device = device();
    let mut case = spec.typed::<f16>(6, 1, &Lengths::of(&[1, 20], &[40, 40]));
    case.device_offsets = false;
    let mut attention = case.problem.clone();
    attention.max_seqlen_q = 10;
    let plan = MixedPlan::new(&device, &MixedProblem::new(attention, 1)).unwrap();
    let outcome = case.run_by(&device, |stream, args| {
        run(&plan, stream, args).unwrap_err();
        Ok(plan.prefill().map_or("", |part| part.entry()))
    });
    let outcome = outcome.unwrap();
    assert!(outcome.out.iter().all(|&x| x == outcome.untouched));
}
