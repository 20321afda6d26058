//! Elementwise operations against the reference: random shapes, layouts and options, special numbers,
//! ids that the device got wrong.

use crate::common::elementwise::{ACTIVATIONS, EmbedCase, NormCase, PointwiseCase, bytes};
use crate::common::{Arrangement, Operand, device, in_parallel, seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::elementwise::{
    EmbedPlan, EmbedProblem, NormPlan, NormProblem, NormWeight, PointwiseProblem, TableFormat,
};
use infer_kernels::gemm::Activation;
use infer_kernels::{DType, Offence};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// `work` on the cases of a test, on all processors; what it says of one has the seed with it.
fn each(
    quick: std::ops::Range<u64>,
    work: impl Fn(u64) -> Result<(), Box<dyn std::error::Error>> + Sync,
) {
    in_parallel(&Vec::from_iter(seeds(quick)), |&seed| {
        work(seed).unwrap_or_else(|error| panic!("case {seed}: {error}"));
    });
}

#[test]
fn random_norms_agree_with_the_reference() {
    let device = device();
    each(0..120, |seed| {
        match seed % 2 {
            0 => NormCase::<bf16>::random(seed).check(&device)?,
            _ => NormCase::<f16>::random(seed).check(&device)?,
        };
        Ok(())
    });
}

#[test]
fn random_pointwise_operations_agree_with_the_reference() {
    let device = device();
    each(0..120, |seed| {
        match seed % 2 {
            0 => PointwiseCase::<bf16>::random(seed).check(&device)?,
            _ => PointwiseCase::<f16>::random(seed).check(&device)?,
        };
        Ok(())
    });
}

#[test]
fn random_embeddings_are_the_references_bit_by_bit() {
    let device = device();
    each(0..80, |seed| match seed / 2 % 2 {
        0 => EmbedCase::random(seed, DType::BF16).check::<bf16>(&device),
        _ => EmbedCase::random(seed, DType::F16).check::<f16>(&device),
    });
}

/// Every length from one element to beyond what a warp holds at once.
#[test]
fn rows_of_every_length() {
    let device = device();
    let lengths: Vec<usize> = (1..=300)
        .step_by(7)
        .chain([8, 16, 32, 64, 128, 256])
        .collect();
    in_parallel(&lengths, |&dim| {
        let rng = &mut StdRng::seed_from_u64(dim as u64);
        let problem = NormProblem::new(DType::BF16, dim, 1e-6).residual(dim % 2 == 0);
        NormCase::<bf16>::of(rng, problem, [2, 3])
            .check(&device)
            .unwrap_or_else(|error| panic!("norm of {dim}: {error}"));
        let problem = PointwiseProblem::gated(DType::BF16, dim, Activation::GeluTanh);
        PointwiseCase::<bf16>::of(rng, problem, 3)
            .check(&device)
            .unwrap_or_else(|error| panic!("gate of {dim}: {error}"));
    });
}

/// A row's bits are those that it has alone.
#[test]
fn a_row_keeps_its_bits_in_any_batch() {
    for (dim, heads) in [(128, 3), (640, 1), (5376, 1)] {
        let rng = &mut StdRng::seed_from_u64(4);
        let problem = NormProblem::new(DType::BF16, dim, 1e-6).weight(NormWeight::PlusOne);
        let mut case = NormCase::<bf16>::of(rng, problem, [7, heads]);
        case.y = None;
        let (together, _) = case.run(shared_device()).unwrap();
        for token in 0..7 {
            let mut alone = case.clone();
            alone.x = Operand::filled([1, heads, dim], Arrangement::Dense, |[_, head, d]| {
                f64::from(case.x.data[case.x.at([token, head, d])])
            });
            let (y, _) = alone.run(shared_device()).unwrap();
            let row = heads * dim;
            let within = &together[token * row..][..row];
            assert_eq!(bytes(&y), bytes(within), "token {token}, rows of {dim}");
        }
    }
}

/// The sum is rounded before it is normalised: fused or not, the bits are the same.
#[test]
fn a_fused_residual_gives_the_bits_of_two_operations() {
    let rng = &mut StdRng::seed_from_u64(8);
    let problem = NormProblem::new(DType::BF16, 1000, 1e-5).residual(true);
    let case = NormCase::<bf16>::of(rng, problem.clone(), [5, 1]);
    let (fused, sum) = case.run(shared_device()).unwrap();
    let sum = sum.unwrap();

    let added = PointwiseCase {
        problem: PointwiseProblem::add(DType::BF16, 1000),
        x: case.x.clone(),
        y: None,
        second: case.residual.clone(),
    };
    let added = added.run(shared_device()).unwrap();
    assert_eq!(bytes(&added), bytes(&sum));
    let mut apart = case;
    apart.problem = problem.residual(false);
    apart.residual = None;
    apart.x = Operand::filled([5, 1, 1000], Arrangement::Dense, |[row, _, d]| {
        f64::from(sum[row * 1000 + d])
    });
    let (y, _) = apart.run(shared_device()).unwrap();
    assert_eq!(bytes(&y), bytes(&fused));
}

/// Rows of zeros, with NaN, with infinities; eps 0, where a row of zeros is 0 / 0.
#[test]
fn special_numbers_come_out_where_the_reference_has_them() {
    for eps in [0.0, 1e-6] {
        for dim in [40, 1032] {
            let rng = &mut StdRng::seed_from_u64(2);
            let problem = NormProblem::new(DType::BF16, dim, eps).weight(NormWeight::None);
            let mut case = NormCase::<bf16>::of(rng, problem, [5, 1]);
            case.x.set_row(0, 0.0);
            for (row, special) in [(1, f64::NAN), (2, f64::INFINITY), (3, f64::NEG_INFINITY)] {
                let at = case.x.at([row, 0, dim - 1 - row]);
                case.x.data[at] = bf16::from_f64(special);
            }
            case.check(shared_device()).unwrap();
        }
    }
    for activation in ACTIVATIONS {
        let rng = &mut StdRng::seed_from_u64(3);
        let problem = PointwiseProblem::gated(DType::F16, 24, activation);
        let mut case = PointwiseCase::<f16>::of(rng, problem, 3);
        let specials = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            65504.0,
            -65504.0,
            6e-8,
        ];
        for (d, special) in specials.into_iter().enumerate() {
            let at = case.x.at([0, 0, d]);
            case.x.data[at] = f16::from_f64(special);
            let second = case.second.as_mut().unwrap();
            let at = second.at([1, 0, d]);
            second.data[at] = f16::from_f64(special);
        }
        case.check(shared_device())
            .unwrap_or_else(|error| panic!("{activation:?}: {error}"));
    }
}

/// Ids of every kind of garbage, in every type.
#[test]
fn ids_out_of_range_give_zeros_and_a_report() {
    let rng = &mut StdRng::seed_from_u64(6);
    let problem = EmbedProblem::new(DType::BF16, 72);
    let garbage = [-1, 5, i64::from(i32::MAX), i64::from(i32::MIN), 4, 0];
    for id_type in [DType::I32, DType::U32, DType::I64] {
        for wide in [false, true] {
            if wide && id_type != DType::I64 {
                continue;
            }
            let mut case = EmbedCase::of(rng, problem.clone(), 5, 0);
            case.id_type = id_type;
            case.ids = garbage.to_vec();
            if wide {
                // What only all 64 bits tell from a row.
                case.ids = vec![3, 1 << 32, (1 << 33) + 2, i64::MIN, i64::MIN + 1, i64::MAX];
            }
            case.check::<bf16>(shared_device()).unwrap();
            let (y, status) = case.run::<bf16>(shared_device()).unwrap();
            let first = if wide { 1 } else { 0 };
            assert_eq!(status.first(), Some((Offence::TokenId, first)));
            let row = first as usize * 72;
            assert_eq!(y[row..row + 72], [bf16::ZERO; 72]);
        }
    }
}

/// Random garbage among ids: the reference says which rows are zero and what is reported.
#[test]
fn garbage_ids_are_never_followed() {
    let device = device();
    each(0..40, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut case = EmbedCase::random(seed, DType::BF16);
        let rows = case.table.shape[0] as i64;
        for id in &mut case.ids {
            *id = match rng.random_range(0..5) {
                0 => i64::from(rng.random::<i32>()),
                1 => rows,
                2 => -1,
                _ => rng.random_range(0..rows),
            };
        }
        case.check::<bf16>(&device)
    });
}

/// Rows of the result's own type keep their bits where the factor is 1: every number of 16 bits.
#[test]
fn rows_of_the_same_type_keep_their_bits() {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut case = EmbedCase::of(rng, EmbedProblem::new(DType::F16, 256), 256, 256);
    case.ids = (0..256).rev().collect();
    let number = |row: usize, d: usize| f16::from_bits((256 * row + d) as u16);
    for row in 0..256 {
        for d in 0..256 {
            let at = case.table.at([row, 0, d]);
            case.table.data[at] = number(row, d).to_f32();
        }
    }
    let (y, _) = case.run::<f16>(shared_device()).unwrap();
    for (at, y) in y.iter().enumerate() {
        let x = number(255 - at / 256, at % 256);
        assert!(y.to_bits() == x.to_bits() || y.is_nan() && x.is_nan());
    }
}

#[test]
fn plans_say_what_they_launch() {
    let device = shared_device();
    let norm = NormProblem::new(DType::BF16, 640, 1e-6).weight(NormWeight::PlusOne);
    let norm = NormPlan::new(device, &norm.residual(true)).unwrap();
    let text = norm.to_string();
    assert!(
        text.contains("norm_bf16: 1024 threads, 128 for a row"),
        "{text}"
    );
    assert!(text.contains("5120 bytes per row"), "{text}");
    let table = TableFormat::Int8 {
        scales: DType::F16,
        group: 32,
    };
    let embed = EmbedProblem::new(DType::BF16, 640).table(table);
    let text = EmbedPlan::new(device, &embed).unwrap().to_string();
    assert!(
        text.contains("i8 with f16 scales for 32 each to bf16"),
        "{text}"
    );
    assert!(text.contains("1960 bytes per row"), "{text}");
}
