//! Matrix products against the f64 reference: random shapes, layouts, options and tiles.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::gemm::{Case, Matrix, check};
use crate::common::{device, devices_of_all_models, in_parallel, seeds};
use half::bf16;
use infer_kernels::DType;
use infer_kernels::gemm::{GemmPlan, GemmProblem};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// An error and what it came from.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Each on one of the models of tensor cores: no two agree about how sums are rounded.
#[test]
fn random_cases_are_within_their_bounds() {
    let devices = devices_of_all_models();
    let seeds: Vec<u64> = seeds(0..120).collect();
    let worst = std::sync::Mutex::new(0.0f64);
    in_parallel(&seeds, |&seed| {
        let device = &devices[(seed / 12 % 3) as usize]; // 12: kinds of cases, by type, layout, alignment
        let margin =
            check(seed, device).unwrap_or_else(|error| panic!("case {seed}: {}", chain(&*error)));
        let mut worst = worst.lock().unwrap();
        *worst = worst.max(margin.used);
    });
    println!(
        "{} cases, at most {:.0} % of the bound",
        seeds.len(),
        100.0 * worst.into_inner().unwrap()
    );
}

/// The bits of a row depend neither on how many rows there are nor on the tile.
#[test]
fn a_row_keeps_its_bits_whatever_the_tile() {
    let device = device();
    let (n, k) = (264, 328);
    let rng = &mut StdRng::seed_from_u64(5);
    let x = Matrix::<bf16>::random(rng, [3, k], 8);
    let w = Matrix::random(rng, [n, k], 8);
    let mut first = None;
    for tile in [[16, 128], [64, 128], [128, 128], [128, 256]] {
        let problem = GemmProblem::new(DType::BF16, 3, n, k)
            .batch_invariant(true)
            .tile(Some(tile));
        let y = Case::plain(problem, x.clone(), w.clone())
            .run::<bf16>(&device)
            .unwrap();
        assert_eq!(*first.get_or_insert_with(|| y.clone()), y, "{tile:?}");
    }
    // One row alone, without alignment, by the entry that reads element by element.
    let row = Matrix {
        data: x.data[x.offset + x.pitch..][..k].to_vec(),
        offset: 0,
        shape: [1, k],
        pitch: k,
    };
    let problem = GemmProblem::new(DType::BF16, 1, n, k)
        .batch_invariant(true)
        .aligned(false);
    let y = Case::plain(problem, row, w).run::<bf16>(&device).unwrap();
    assert_eq!(first.unwrap()[n..2 * n], y);
}

#[test]
fn plans_fit_tiles_to_shapes() {
    let device = device(); // An A100, 108 multiprocessors.
    let entry = |m, n, k| {
        let problem = GemmProblem::new(DType::BF16, m, n, k);
        let plan = GemmPlan::new(&device, &problem).unwrap();
        println!("{plan}");
        (plan.choice().tile, plan.choice().splits)
    };
    // Llama 3 8B: gate and up, then down.
    assert_eq!(entry(4096, 28672, 4096), ([128, 256], 1));
    assert_eq!(entry(4096, 4096, 14336), ([128, 256], 1));
    assert_eq!(entry(64, 28672, 4096).0, [64, 128]);
    assert_eq!(entry(1, 28672, 4096).0, [16, 128]);
    let (tile, splits) = entry(1, 4096, 14336);
    assert_eq!(tile, [16, 128]);
    assert!(splits > 1, "32 blocks would leave most of the device idle");
}
