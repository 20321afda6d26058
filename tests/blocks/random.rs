//! Products with weights in GGUF's blocks against the f64 reference: random formats, shapes, options.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::blocks_case::{Case, check, weights};
use crate::common::gemm::Matrix;
use crate::common::{device, in_parallel, seeds};
use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::blocks::{BlockArgs, BlockFormat, BlockPlan, BlockProblem, BlockWeight};
use infer_kernels::gemm::GemmProblem;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// An error and what it came from.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn random_cases_are_within_their_bounds() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..64).collect();
    let worst = std::sync::Mutex::new(0.0f64);
    in_parallel(&seeds, |&seed| {
        let margin =
            check(seed, &device).unwrap_or_else(|error| panic!("case {seed}: {}", chain(&*error)));
        let mut worst = worst.lock().unwrap();
        *worst = worst.max(margin.used);
    });
    println!(
        "{} cases, at most {:.0} % of the bound",
        seeds.len(),
        100.0 * worst.into_inner().unwrap()
    );
}

/// The bits of a row do not depend on how many rows there are, wherever shares of the weights end,
/// and are the same every time.
#[test]
fn a_row_keeps_its_bits_whatever_the_number_of_rows() {
    let device = device();
    let rng = &mut StdRng::seed_from_u64(5);
    for (format, k) in [(BlockFormat::Q4_K, 3584), (BlockFormat::Q6_K, 1792)] {
        let n = 328;
        let w = weights(rng, format, [k, n]);
        let x = Matrix::<bf16>::random(rng, [17, k], 8);
        let mut first: Option<Vec<bf16>> = None;
        for m in [17, 1, 8, 9] {
            let told = format!("{format}, {m} rows");
            let problem = BlockProblem::of(&w, DType::BF16, m);
            let plan = BlockPlan::new(&device, &problem).unwrap();
            assert!(plan.choice().splits > 1, "{told}: {plan}");
            let mut rows = x.clone();
            rows.shape[0] = m;
            let case = Case::plain(problem, rows, w.clone());
            if m == 9 {
                case.check(&device)
                    .unwrap_or_else(|error| panic!("{told}: {}", chain(&*error)));
            }
            let y = case.run::<bf16>(&device).unwrap();
            assert_eq!(first.get_or_insert_with(|| y.clone())[..m * n], y, "{told}");
        }
    }
}

/// A scale that became NaN on the device, or a minimum: what it belongs to is NaN, all else is right.
#[test]
fn a_scale_that_is_no_number_spoils_its_column_alone() {
    let device = device();
    let stream = device.stream();
    let rng = &mut StdRng::seed_from_u64(6);
    for format in [BlockFormat::Q8_0, BlockFormat::Q5_K, BlockFormat::Q6_K] {
        let (m, n, k) = (3, 70, 512);
        let w = weights(rng, format, [k, n]);
        let x = Matrix::<f16>::random(rng, [m, k], 8);
        let problem = BlockProblem::of(&w, DType::F16, m);
        let good = Case::plain(problem.clone(), x.clone(), w.clone());
        let good = good.run::<f16>(&device).unwrap();

        let column = 37;
        let extent = w.extent();
        let half = extent.super_at(300, column);
        let half = half.unwrap_or_else(|| extent.scale_at(300, column));
        let mut scales = w.scales().to_vec();
        scales[half / 2] |= 0x7e00 << (half % 2 * 16);
        let (codes, scales) = (
            stream.upload(w.codes()).unwrap(),
            stream.upload(&scales).unwrap(),
        );
        let plan = BlockPlan::new(&device, &problem).unwrap();
        let x_device = stream.upload(&x.data).unwrap();
        let mut y = stream.alloc::<f16>(m * n).unwrap();
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements()).unwrap();
        let w = infer_kernels::blocks::BlockTensors {
            codes: codes.tensor([codes.len()]).unwrap(),
            scales: scales.tensor([scales.len()]).unwrap(),
            format,
        };
        let args = BlockArgs {
            workspace: Some(workspace.tensor_mut([plan.workspace_elements()]).unwrap()),
            ..BlockArgs::new(x.tensor(&x_device), w, y.tensor_mut([m, n]).unwrap())
        };
        plan.run(&stream, args).unwrap();
        for (at, (got, good)) in y.download().unwrap().iter().zip(&good).enumerate() {
            match at % n == column {
                true => assert!(got.is_nan(), "{format}"),
                false => assert_eq!(got.to_bits(), good.to_bits(), "{format}"),
            }
        }
    }
}

/// One tensor of each format, as a model has them, and one input for all: Gemma 3 270M in Q4_K_M has
/// four. The scales stay `f16` where `x` is `bf16`.
#[test]
fn the_type_of_x_does_not_round_scales() {
    let device = device();
    // A scale that bf16 does not have: 1 + 2^-10. One code is not zero, one x.
    let scale = f16::from_bits(0x3c01);
    let mut block = scale.to_le_bytes().to_vec();
    block.extend([0; 32]);
    block[2 + 5] = 3;
    let w = BlockWeight::pack(BlockFormat::Q8_0, 32, 1, &block).unwrap();
    let product = GemmProblem::new(DType::BF16, 1, 1, 32).out(DType::F32);
    let x = Matrix {
        data: vec![bf16::ONE; 32],
        offset: 0,
        shape: [1, 32],
        pitch: 32,
    };
    let problem = BlockProblem::new(product, BlockFormat::Q8_0);
    let y = Case::plain(problem, x, w).run::<f32>(&device).unwrap();
    assert_eq!(y, [3.0 * scale.to_f32()]);
}
