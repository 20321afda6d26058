//! Rows without weight, NaN, infinities, repeats, and tiny cases that can be done by hand.

use crate::common::{Arrangement, Case, Lengths, Operand, shared_device, under_test};
use approx::assert_abs_diff_eq;
use half::{bf16, f16};
use infer_kernels::attention::prefill::{HeadShape, PrefillPlan, PrefillProblem};
use infer_kernels::{DType, Float, catalog};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::f32::consts::LN_2;

const HEADS: HeadShape = HeadShape {
    query: 2,
    kv: 1,
    dim: 64,
};

fn case<T: Float>(seed: u64, q: &[usize], k: &[usize], causal: bool) -> Case<T> {
    let lengths = Lengths {
        q: q.into(),
        k: k.into(),
        lead: 0,
        trail: 0,
    };
    let mut case = Case::random(&mut StdRng::seed_from_u64(seed), HEADS, &lengths);
    case.problem.causal = causal;
    case.problem.lse = true;
    case
}

fn nothing_to_attend_to<T: Float>() {
    // No keys; more queries than keys under the causal mask; a key whose scores are all -inf.
    let mut no_weight = case::<T>(3, &[5, 70, 4], &[0, 3, 6], true);
    for row in 0..9 {
        no_weight
            .k
            .set_row(row, if row < 3 { 1.0 } else { f64::NEG_INFINITY });
    }
    no_weight.q.set_row(75, 1.0);
    let outcome = no_weight.run(shared_device()).unwrap();
    no_weight.judge(&outcome).unwrap();
    let dim = HEADS.dim;
    let row = |row: usize| &outcome.out[row * HEADS.query * dim..(row + 1) * HEADS.query * dim];
    let zero = T::nearest(0.0);
    for empty in (0..5).chain(5..72).chain([75]) {
        assert!(row(empty).iter().all(|&x| x == zero), "row {empty}");
        assert_eq!(outcome.lse[empty], f32::NEG_INFINITY, "row {empty}");
    }
    assert!(row(72).iter().any(|&x| x != zero));
}

#[test]
fn rows_with_nothing_to_attend_to_are_zero() {
    nothing_to_attend_to::<f16>();
    nothing_to_attend_to::<bf16>();
}

fn nan_in_queries_and_keys<T: Float>() {
    for (q_row, k_row) in [(None, Some(20)), (Some(11), None), (Some(0), Some(69))] {
        for causal in [false, true] {
            let mut case = case::<T>(5, &[70, 3], &[70, 3], causal);
            if let Some(row) = q_row {
                case.q.set_row(row, f64::NAN);
            }
            if let Some(row) = k_row {
                case.k.set_row(row, f64::NAN);
            }
            case.check(shared_device())
                .unwrap_or_else(|e| panic!("{q_row:?} {k_row:?} {causal}: {e}"));
            let exact = case.exact();
            let nan = exact.out.iter().filter(|x| x.is_nan()).count();
            assert!(nan > 0 && nan < exact.out.len());
        }
    }
}

#[test]
fn nan_in_queries_and_keys_reaches_the_rows_that_see_it_and_no_others() {
    nan_in_queries_and_keys::<f16>();
    nan_in_queries_and_keys::<bf16>();
}

fn special_values<T: Float>() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        // Every row sees the key, and weighs it well above the smallest weight there is.
        let mut case = case::<T>(6, &[33, 5], &[60, 4], false);
        case.problem.scale = 0.02;
        case.v.set_row(17, value);
        case.check(shared_device())
            .unwrap_or_else(|error| panic!("{value}: {error}"));
    }
    for value in [f64::INFINITY, f64::NEG_INFINITY] {
        let mut case = case::<T>(7, &[33, 5], &[60, 4], false);
        case.k.set_row(17, value);
        case.check(shared_device())
            .unwrap_or_else(|error| panic!("{value}: {error}"));
    }
}

#[test]
fn special_values_in_values_and_keys_come_out_where_they_should() {
    special_values::<f16>();
    special_values::<bf16>();
}

/// Scores far apart and far from zero: the weights of all but one key vanish.
#[test]
fn large_scores_do_not_overflow() {
    for sign in [1.0, -1.0] {
        let mut case = case::<bf16>(8, &[50], &[130], true);
        for row in 0..130 {
            case.k.set_row(row, sign * (1.0 + (row % 7) as f64 * 30.0));
        }
        for row in 0..50 {
            case.q.set_row(row, 40.0);
        }
        case.problem.scale = 0.125;
        case.check(shared_device()).unwrap();
    }
}

/// Scores that grow by exactly 16 from tile to tile of keys, towards the front, where the walk over them ends: of a
/// reference that is not raised then, the weights are 2¹⁶, which f16 does not hold.
#[test]
fn a_reference_is_raised_before_weights_outgrow_f16() {
    let (queries, keys) = (130, 580);
    for (dim, v_dim) in [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)] {
        let heads = HeadShape {
            query: 1,
            kv: 1,
            dim,
        };
        let lean = PrefillProblem::new(DType::F16, heads, 1, queries)
            .v_dim(v_dim)
            .causal(true)
            .scale(LN_2); // A score of 1 is a power of 2.
        for problem in [lean.clone(), lean.sinks(true)] {
            let plan = PrefillPlan::new(shared_device(), &problem).unwrap();
            if !under_test(plan.entry()) {
                continue;
            }
            let tile = catalog::find(plan.entry()).unwrap().tile_k as usize;
            let rng = &mut StdRng::seed_from_u64(10);
            let lengths = Lengths::of(&[queries], &[keys]);
            let mut case = Case::<f16>::of(rng, problem, &lengths, [Arrangement::Dense; 3]);
            case.q = Operand::filled([queries, 1, dim], Arrangement::Dense, |[.., d]| {
                f64::from(d == 0)
            });
            case.k = Operand::filled([keys, 1, dim], Arrangement::Dense, |[row, _, d]| {
                let tiles_behind = (keys - 1) / tile - row / tile;
                if d == 0 {
                    16.0 * tiles_behind as f64
                } else {
                    0.0
                }
            });
            case.check(shared_device())
                .unwrap_or_else(|error| panic!("{}: {error}", plan.entry()));
        }
    }
}

#[test]
fn two_keys_by_hand() {
    // Scores 0 and ln 3 in every head: weights 1/4 and 3/4.
    let mut case = case::<f16>(9, &[1], &[2], false);
    case.q = Operand::filled([1, 2, 64], Arrangement::Dense, |[.., d]| f64::from(d == 0));
    case.k = Operand::filled([2, 1, 64], Arrangement::Dense, |[row, _, d]| {
        f64::from(row == 1 && d == 0)
    });
    case.v = Operand::filled([2, 1, 64], Arrangement::Dense, |[row, ..]| 4.0 * row as f64);
    case.problem.scale = 3f32.ln();
    let outcome = case.run(shared_device()).unwrap();
    for out in outcome.out {
        assert_abs_diff_eq!(f32::from(out), 3.0, epsilon = 0.002);
    }
    for lse in outcome.lse {
        assert_abs_diff_eq!(lse, 4f32.ln(), epsilon = 1e-6);
    }
}

#[test]
fn repeats_are_identical_to_the_bit() {
    use infer_kernels::Device;
    use infer_kernels::ptx_emulator::Config;
    let case = case::<bf16>(10, &[130, 7, 64], &[130, 90, 64], true);
    let run = |seed| {
        let device = Device::emulator(Config {
            seed,
            ..Config::default()
        });
        let outcome = case.run(&device).unwrap();
        let bits: Vec<u16> = outcome.out.iter().map(|x| x.to_bits()).collect();
        let lse: Vec<u32> = outcome.lse.iter().map(|x| x.to_bits()).collect();
        (bits, lse)
    };
    let first = run(0);
    for seed in 0..4 {
        assert!(run(seed) == first, "seed {seed} gives other bits");
    }
}

/// A sequence's result does not depend on what else is in the batch.
#[test]
fn a_sequence_does_not_feel_its_neighbours() {
    let alone = case::<f16>(11, &[40], &[40], true);
    let mut batch = case::<f16>(12, &[40, 33], &[40, 21], true);
    batch.problem.scale = alone.problem.scale;
    for (to, from) in [
        (&mut batch.q, &alone.q),
        (&mut batch.k, &alone.k),
        (&mut batch.v, &alone.v),
    ] {
        for index in crate::common::indices(from.shape) {
            let at = to.at(index);
            to.data[at] = from.data[from.at(index)];
        }
    }
    let (alone, batch) = (
        alone.run(shared_device()).unwrap(),
        batch.run(shared_device()).unwrap(),
    );
    assert!(alone.out[..] == batch.out[..alone.out.len()]);
}
