//! Products with 4-bit weights against the f64 reference: random shapes, groups, codes, options.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.
#![cfg(feature = "emulator")]

mod common;

use common::gemm::Matrix;
use common::int4_case::{Case, check, weights};
use common::{device, in_parallel, seeds};
use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::gemm::GemmProblem;
use infer_kernels::int4::load::{Gptq, GptqVersion};
use infer_kernels::int4::{Codes, Int4Args, Int4Plan, Int4Problem};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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
    let seeds: Vec<u64> = seeds(0..100).collect();
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

/// The bits of a row depend neither on how many rows there are nor on the tile, and are the same
/// every time.
#[test]
fn a_row_keeps_its_bits_whatever_the_tile() {
    let device = device();
    let (n, k) = (264, 328);
    let rng = &mut StdRng::seed_from_u64(5);
    let x = Matrix::<bf16>::random(rng, [3, k], 8);
    let w = weights::<bf16>(rng, [k, n], Some(32), Codes::ZeroPoints);
    let mut first = None;
    for (tile, max_m) in [([16, 256], 3), ([64, 256], 3), ([16, 256], 200)] {
        let product = GemmProblem::new(DType::BF16, max_m, n, k)
            .batch_invariant(true)
            .tile(Some(tile));
        let problem = Int4Problem::new(product, 32, Codes::ZeroPoints);
        let y = Case::plain(problem, x.clone(), w.clone())
            .run::<bf16>(&device)
            .unwrap();
        assert_eq!(*first.get_or_insert_with(|| y.clone()), y, "{tile:?}");
    }
}

#[test]
fn plans_fit_tiles_to_shapes() {
    let device = device(); // An A100, 108 multiprocessors.
    let choice = |m, n, k| {
        let product = GemmProblem::new(DType::BF16, m, n, k);
        let problem = Int4Problem::new(product, 128, Codes::Symmetric);
        let plan = Int4Plan::new(&device, &problem).unwrap();
        println!("{plan}");
        (plan.choice().tile, plan.choice().splits)
    };
    // Llama 3 8B: gate and up, then down.
    assert_eq!(choice(64, 28672, 4096).0, [64, 256]);
    assert_eq!(choice(2048, 28672, 4096), ([64, 256], 1));
    assert_eq!(choice(1, 28672, 4096).0, [16, 256]);
    let (tile, splits) = choice(1, 4096, 14336);
    assert_eq!(tile, [16, 256]);
    assert!(splits > 4, "16 blocks would leave most of the device idle");
}

/// Zero points change with the group also where a tile has several: mended in other engines only
/// after a release, for groups of 32 rows.
#[test]
fn every_group_of_a_tile_has_its_own_zero_points() {
    let device = device();
    let rng = &mut StdRng::seed_from_u64(8);
    for group in [16, 32, 64, 128] {
        let w = weights::<f16>(rng, [256, 64], Some(group), Codes::ZeroPoints);
        let x = Matrix::<f16>::random(rng, [256, 256], 8);
        let problem = Int4Problem::of(&w, 256);
        Case::plain(problem, x, w).check(&device).unwrap();
    }
}

/// GPTQ's act-order: rows of a group lie anywhere, and columns of `x` follow them.
#[test]
fn rows_in_an_order_of_their_own_meet_their_columns() {
    let (m, n, k) = (3, 16, 64);
    let rng = &mut StdRng::seed_from_u64(9);
    let mut number = || f16::from_f32(rng.random_range(-1.0..1.0));
    let x: Vec<f16> = (0..m * k).map(|_| number()).collect();
    let scales: Vec<f16> = (0..2 * n).map(|_| number()).collect();
    let qweight: Vec<i32> = (0..k / 8 * n).map(|_| rng.random()).collect();
    let g_idx: Vec<i32> = (0..k as i32).map(|row| row * 7 % 2).collect();
    let w = Gptq {
        k,
        n,
        group: Some(32),
        qweight: &qweight,
        qzeros: &vec![0x8888_8888_u32 as i32; 2 * n / 8],
        scales: &scales,
        g_idx: Some(&g_idx),
        version: GptqVersion::V2,
    };
    let w = w.pack().unwrap();
    let order = w.order().expect("groups alternate");
    let columns = |row: &[f16]| order.iter().map(|&at| row[at as usize]).collect::<Vec<_>>();
    let ordered: Vec<f16> = x.chunks(k).flat_map(columns).collect();

    let device = device();
    let stream = device.stream();
    let plan = Int4Plan::new(&device, &Int4Problem::of(&w, m).ordered(true)).unwrap();
    let (ordered, packed) = (stream.upload(&ordered).unwrap(), w.upload(&stream).unwrap());
    let mut y = stream.alloc::<f16>(m * n).unwrap();
    let mut workspace = stream.alloc::<f32>(plan.workspace_elements()).unwrap();
    let args = Int4Args {
        workspace: Some(workspace.tensor_mut([plan.workspace_elements()]).unwrap()),
        ..Int4Args::new(
            ordered.tensor([m, k]).unwrap(),
            packed.tensors(),
            y.tensor_mut([m, n]).unwrap(),
        )
    };
    plan.run(&stream, args).unwrap();
    let (y, w) = (y.download().unwrap(), w.dequantize());
    for (at, got) in y.iter().enumerate() {
        let terms = (0..k).map(|i| x[at / n * k + i].to_f64() * f64::from(w[i * n + at % n]));
        let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
        let bound = size / 500.0 + exact.abs() / 1000.0;
        assert!(
            (got.to_f64() - exact).abs() <= bound,
            "{at}: {got}, not {exact}"
        );
    }
}
