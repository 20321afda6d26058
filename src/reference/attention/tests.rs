//! Cases that can be done by hand.

use half::f16;

use super::*;
use crate::attention::prefill::{SoftCap, Window};
use crate::dtype::DType;
use crate::status::Offence;

const HEADS: HeadShape = HeadShape {
    query: 1,
    kv: 1,
    dim: 1,
};

fn vector(data: &[f32]) -> HostTensor<'_, f32, 3> {
    HostTensor::new(data, [data.len(), 1, 1]).unwrap()
}

/// One sequence of one head of one element.
fn run_with(
    [q, k, v]: [&[f32]; 3],
    problem: impl FnOnce(PrefillProblem) -> PrefillProblem,
    options: impl FnOnce(&mut PrefillInputs<'_, f32>),
) -> PrefillOutput {
    let problem = problem(PrefillProblem::new(DType::F32, HEADS, 1, q.len()));
    let (offsets_q, offsets) = ([0, q.len() as i32], [0, k.len() as i32]);
    let kv = HostKv::Ragged {
        k: vector(k),
        v: vector(v),
        offsets: &offsets,
    };
    let mut inputs = PrefillInputs::new(vector(q), kv, &offsets_q);
    options(&mut inputs);
    prefill(&problem, inputs).unwrap()
}

fn run(causal: bool, q: &[f32], k: &[f32], v: &[f32]) -> PrefillOutput {
    run_with([q, k, v], |problem| problem.causal(causal), |_| ())
}

#[test]
fn equal_scores_average_the_values() {
    let output = run(false, &[0.0], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 6.0]);
    assert_eq!(output.out, [3.0]);
    assert!((output.lse[0] - 4f64.ln()).abs() < 1e-15);
}

#[test]
fn the_last_query_sees_every_key() {
    let output = run(true, &[0.0; 3], &[0.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(close(&output.out, &[2.0, 2.5, 3.0]));
    let output = run(true, &[0.0; 3], &[0.0; 2], &[1.0, 2.0]);
    assert_eq!(output.out, [0.0, 1.0, 1.5]);
    assert_eq!(output.lse[0], f64::NEG_INFINITY);
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
}

#[test]
fn rows_without_keys_or_weight_are_zero_and_nan_scores_are_nan() {
    assert_eq!(run(false, &[1.0], &[], &[]).out, [0.0]);
    let output = run(false, &[1.0], &[f32::NEG_INFINITY; 2], &[1.0; 2]);
    assert_eq!((output.out[0], output.lse[0]), (0.0, f64::NEG_INFINITY));
    assert!(run(false, &[f32::NAN], &[1.0], &[1.0]).out[0].is_nan());
}

#[test]
fn a_window_has_both_its_edges() {
    let values: Vec<f32> = (0..7).map(|j| (1 << j) as f32).collect();
    let with = |window: Window, causal: bool| {
        let inputs = [&[0.0; 3][..], &[0.0; 7], &values];
        let output = run_with(inputs, |p| p.window(window).causal(causal), |_| ());
        // Sums of powers of two name their keys.
        let count = |lse: &f64| lse.exp().round();
        let sums = output.out.iter().zip(output.lse.iter().map(count));
        sums.map(|(out, n)| (out * n).round()).collect::<Vec<_>>()
    };
    // Positions 4, 5 and 6.
    let keys = |range: std::ops::RangeInclusive<i32>| range.map(|j| (1 << j) as f64).sum::<f64>();
    let expected = [keys(2..=5), keys(3..=6), keys(4..=6)];
    assert_eq!(with(Window::new(2, 1), false), expected);
    let expected = [keys(2..=4), keys(3..=5), keys(4..=6)];
    assert_eq!(with(Window::new(2, 1), true), expected);
    assert_eq!(with(Window::new(2, 0), false), expected);
    let expected = [keys(4..=6), keys(5..=6), keys(6..=6)];
    assert_eq!(with(Window::left(0), false), expected);
}

#[test]
fn a_sink_takes_weight_and_gives_nothing() {
    let inputs = [&[0.0; 1][..], &[0.0; 3], &[4.0; 3]];
    let output = run_with(inputs, |p| p.sinks(true), |i| i.sinks = Some(&[0.0]));
    assert!(close(&output.out, &[3.0]) && close(&output.lse, &[4f64.ln()]));
    let none = [&[0.0; 1][..], &[], &[]];
    let output = run_with(none, |p| p.sinks(true), |i| i.sinks = Some(&[1.5]));
    assert_eq!((output.out[0], output.lse[0]), (0.0, 1.5));
    let absent = |i: &mut PrefillInputs<'_, f32>| i.sinks = Some(&[f32::NEG_INFINITY]);
    let output = run_with(none, |p| p.sinks(true), absent);
    assert_eq!((output.out[0], output.lse[0]), (0.0, f64::NEG_INFINITY));
}

#[test]
fn alibi_falls_with_distance_on_both_sides() {
    const SLOPES: &[f32] = &[std::f32::consts::LN_2];
    let inputs = [&[0.0; 2][..], &[0.0; 3], &[1.0, 10.0, 100.0]];
    let output = run_with(inputs, |p| p.alibi(true), |i| i.alibi = Some(SLOPES));
    // Positions 1 and 2: weights 1/2 1 1/2, and 1/4 1/2 1.
    let expected = [(0.5 + 10.0 + 50.0) / 2.0, (0.25 + 5.0 + 100.0) / 1.75];
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-6 * b;
    assert!(output.out.iter().zip(&expected).all(near));
    assert!((output.lse[0] - 2f64.ln()).abs() < 1e-6);
    assert!(output.out_allowed.iter().all(|&x| x > 0.0 && x < 1e-4));
}

#[test]
fn a_soft_cap_bends_scores_before_alibi_and_says_how_wrong_it_may_be() {
    let inputs = [&[1.0; 1][..], &[30.0, -30.0], &[1.0, -1.0]];
    let capped = |softcap| run_with(inputs, |p| p.softcap(softcap), |_| ());
    let (approx, exact) = (capped(SoftCap::Approx(2.0)), capped(SoftCap::Exact(2.0)));
    let score = 2.0 * 15f64.tanh();
    assert!(close(&exact.out, &[score.tanh()]) && close(&exact.lse, &[(2.0 * score.cosh()).ln()]));
    assert_eq!(exact.out, approx.out);
    // Scores of ±2 that are each off by 2/2048, in opposite directions: d tanh(s) = (1 - tanh²) ds.
    let moved = (1.0 - score.tanh().powi(2)) * 2.0 / 2048.0;
    let ratio = approx.out_allowed[0] / moved;
    assert!((1.0..1.01).contains(&ratio), "{ratio}");
    assert!((approx.lse_allowed[0] * 1024.0 - 1.0).abs() < 1e-9);
    assert!(exact.out_allowed[0] < approx.out_allowed[0] / 100.0);
}

#[test]
fn a_mask_is_bits_without_padding() {
    // Rows 101, 010, 111 from the lowest bit: 101 010 11|1.
    let mask = HostMask {
        bits: &[0xff, 0b1101_0101, 0b1],
        offsets: &[1, 3],
    };
    let inputs = [&[0.0; 3][..], &[0.0; 3], &[1.0, 2.0, 4.0]];
    let output = run_with(inputs, |p| p.mask(true), |i| i.mask = Some(mask));
    assert!(close(&output.out, &[2.5, 2.0, 7.0 / 3.0]));
    let output = run_with(
        inputs,
        |p| p.mask(true).causal(true),
        |i| i.mask = Some(mask),
    );
    assert!(close(&output.out, &[1.0, 2.0, 7.0 / 3.0]));
    let too_few = HostMask {
        bits: mask.bits,
        offsets: &[1, 2],
    };
    let output = run_with(inputs, |p| p.mask(true), |i| i.mask = Some(too_few));
    assert_eq!(output.out, [0.0; 3]);
    assert_eq!(output.status.first(), Some((Offence::Mask, 0)));
}

/// Pages of two keys: values 0 1, 2 3, 4 5.
fn paged(pages: HostPages<'_>, seqlens: &[i32], queries: usize) -> PrefillOutput {
    let data: Vec<f32> = (0..6).map(|x| x as f32).collect();
    let v = HostTensor::new(&data, [3, 2, 1, 1]).unwrap();
    let k = HostTensor::strided(&[0.0], 0, [3, 2, 1, 1], [0; 4]).unwrap();
    let kv = HostKv::Paged {
        k,
        v,
        pages,
        seqlens,
    };
    let q = vec![0.0; queries];
    let batch = seqlens.len();
    let problem = PrefillProblem::new(DType::F32, HEADS, batch, queries).paged(2);
    let mut offsets_q = vec![queries as i32; batch + 1];
    offsets_q[0] = 0;
    prefill(&problem, PrefillInputs::new(vector(&q), kv, &offsets_q)).unwrap()
}

#[test]
fn pages_are_found_through_either_table() {
    let table = [2, 0, u32::MAX];
    let rows = HostPages::Rows(HostTensor::new(&table, [1, 3]).unwrap());
    let output = paged(rows, &[3], 1);
    assert_eq!(output.out, [3.0]); // 4, 5 and 0.
    assert!(output.status.is_clean());
    let csr = HostPages::Csr {
        indptr: &[1, 3],
        pages: &[7, 2, 0],
    };
    assert_eq!(paged(csr, &[3], 1).out, [3.0]);
}

#[test]
fn pages_that_cannot_be_used_are_absent() {
    let rows = |table| HostPages::Rows(HostTensor::new(table, [1, 3]).unwrap());
    let bad = paged(rows(&[2, 3, 0]), &[5], 1);
    assert_eq!(bad.out, [3.0]); // 4, 5 and 0.
    assert_eq!(bad.status.first(), Some((Offence::PageId, 0)));
    let none = paged(rows(&[2, 0, 1]), &[7], 1);
    assert_eq!((none.out[0], none.lse[0]), (0.0, f64::NEG_INFINITY));
    assert_eq!(none.status.first(), Some((Offence::SeqLensK, 0)));
    let few = HostPages::Csr {
        indptr: &[0, 1, 0],
        pages: &[1, 1],
    };
    let few = paged(few, &[4, 1], 1);
    assert_eq!(few.out, [2.5]); // 2 and 3.
    assert_eq!(few.status.first(), Some((Offence::PageRange, 0)));
}

#[test]
fn rounding_is_small_and_present() {
    let data: Vec<f16> = (0..64 * 50)
        .map(|i: i32| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 40.0))
        .collect();
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: 64,
    };
    let plain = PrefillProblem::new(DType::F16, heads, 1, 50).causal(true);
    let every = plain
        .clone()
        .softcap(SoftCap::Exact(3.0))
        .window(Window::left(20));
    let tensor = HostTensor::new(&data, [50, 1, 64]).unwrap();
    let offsets = &[0, 50];
    let kv = HostKv::Ragged {
        k: tensor,
        v: tensor,
        offsets,
    };
    let inputs = PrefillInputs::new(tensor, kv, offsets);
    let optional = PrefillInputs {
        alibi: Some(&[0.25]),
        sinks: Some(&[2.0]),
        ..inputs
    };
    for (problem, inputs) in [(plain, inputs), (every.alibi(true).sinks(true), optional)] {
        let exact = prefill(&problem, inputs).unwrap();
        let rounded = prefill_rounded(&problem, inputs, 16).unwrap();
        let worst = |a: &[f64], b: &[f64]| {
            let errors = a.iter().zip(b).map(|(a, b)| (a - b).abs());
            errors.fold(0.0, f64::max)
        };
        let of_out = worst(&exact.out, &rounded.out);
        assert!(of_out > 1e-5 && of_out < 2e-3, "{of_out}");
        let of_lse = worst(&exact.lse, &rounded.lse);
        assert!(of_lse > 1e-9 && of_lse < 1e-5, "{of_lse}");
    }
}

#[test]
fn bad_offsets_are_skipped_and_reported() {
    let data = [0.0f32; 8];
    let tensor = HostTensor::new(&data, [8, 1, 1]).unwrap();
    let problem = PrefillProblem::new(DType::F32, HEADS, 4, 3);
    let kv = HostKv::Ragged {
        k: tensor,
        v: tensor,
        offsets: &[0, -1, 2, 4, 6],
    };
    let output = prefill(&problem, PrefillInputs::new(tensor, kv, &[0, 3, 2, 8, 9])).unwrap();
    // 0: no keys; 1: runs backwards; 2: begins before offset 3; 3: ends behind the last row.
    let written = [true, true, true, false, false, false, false, false];
    assert_eq!(output.written, written);
    assert_eq!(output.status.first(), Some((Offence::SeqLensQ, 1)));
    assert!(output.status.contains(Offence::SeqLensK));
    assert!(!output.status.contains(Offence::SeqLenTooLong));
}

#[test]
fn operands_that_do_not_fit_the_problem_are_refused() {
    let inputs = [&[0.0; 1][..], &[0.0; 1], &[0.0; 1]];
    let [q, k, v] = inputs.map(vector);
    let offsets = &[0, 1];
    let kv = HostKv::Ragged { k, v, offsets };
    let inputs = PrefillInputs::new(q, kv, offsets);
    let problem = PrefillProblem::new(DType::F32, HEADS, 1, 1);
    prefill(&problem, inputs).unwrap();
    let refusal = |problem: PrefillProblem| prefill(&problem, inputs).unwrap_err().to_string();
    assert_eq!(
        refusal(problem.clone().paged(2)),
        "kv: planned pages of 2 keys, got ragged keys"
    );
    assert_eq!(
        refusal(problem.clone().sinks(true)),
        "sinks: the plan uses it, the call has none"
    );
    assert_eq!(
        refusal(problem.v_dim(2)),
        "v: expected shape [1, 1, 2], got [1, 1, 1]"
    );
}
