//! What the INT4 kernels do, counted by the emulator over a whole launch.
#![cfg(feature = "emulator")]

mod common;

use common::device_with;
use common::gemm::Matrix;
use common::int4_case::{Case, weights};
use half::{bf16, f16};
use infer_kernels::Float;
use infer_kernels::gemm::GemmProblem;
use infer_kernels::int4::load::Scale;
use infer_kernels::int4::{Codes, Int4Plan, Int4Problem};
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The last launch, and the bytes of weights that the plan counts.
fn launch<T: Scale>(
    product: GemmProblem,
    group: Option<usize>,
    meaning: Codes,
) -> (LaunchStats, usize) {
    let device = device_with(Config {
        profile: true,
        ..Config::default()
    });
    let rng = &mut StdRng::seed_from_u64(3);
    let (m, n, k) = (product.max_m, product.n, product.k);
    let mut make = || weights::<T>(rng, [k, n], group, meaning);
    let (w, up) = (make(), make());
    let gated = product.gated;
    let problem = Int4Problem::new(product, w.group(), meaning);
    let bytes = Int4Plan::new(&device, &problem).unwrap().weight_bytes();
    assert_eq!(bytes, if gated { 2 * w.bytes() } else { w.bytes() });
    let x = Matrix {
        data: vec![T::nearest(0.5); m * k],
        offset: 0,
        shape: [m, k],
        pitch: k,
    };
    let mut case = Case::plain(problem, x, w);
    case.w_up = gated.then_some(up);
    case.run::<T>(&device).unwrap();
    (device.last_launch().unwrap(), bytes)
}

fn product<T: Float>(m: usize, n: usize, k: usize, tile_m: usize) -> GemmProblem {
    GemmProblem::new(T::DTYPE, m, n, k)
        .tile(Some([tile_m, 256]))
        .splits(Some(1))
}

fn others_per_tensor_operation(stats: &LaunchStats) -> f64 {
    let tensor: u64 = stats.mma.values().sum();
    (stats.warp_instructions - tensor) as f64 / tensor as f64
}

/// Codes, scales and zero points: each byte once, in whole sectors, without bank conflicts.
#[test]
fn weights_are_read_exactly_once() {
    for (m, tile_m, gated) in [
        (1, 16, false),
        (16, 16, true),
        (64, 64, false),
        (64, 64, true),
    ] {
        for group in [Some(16), Some(32), Some(128), None] {
            for meaning in [Codes::Symmetric, Codes::ZeroPoints] {
                let (columns, k) = (512, 512);
                let n = if gated { columns / 2 } else { columns };
                let product = product::<bf16>(m, n, k, tile_m).gated(gated);
                let (stats, weights) = launch::<bf16>(product, group, meaning);
                let told = format!("{m} rows, gated {gated}, {group:?}, {meaning}");
                assert_eq!(stats.bank_conflicts, 0, "{told}");
                // Rows of x that do not exist are read as the last one, from the cache.
                let x = columns / 256 * tile_m * k * 2;
                let y = m * n * 2;
                assert_eq!(stats.global_bytes as usize, weights + x + y, "{told}");
                let traffic = stats.traffic.as_ref().unwrap();
                assert_eq!(traffic.read_bytes as usize, weights + m * k * 2, "{told}");
                // A warp's zero points of gate and up are half a sector each.
                if m == tile_m && !(gated && meaning == Codes::ZeroPoints) {
                    assert_eq!(stats.global_sectors * 32, stats.global_bytes, "{told}");
                }
                let tensor: u64 = stats.mma.values().sum();
                assert_eq!(tensor as usize, tile_m * columns * k / (16 * 8 * 16));
            }
        }
    }
}

/// Prologue and epilogue among them, 4096 rows of K deep. Instructions of PTX: a scale or a zero point
/// that both halves of a pair take costs two moves there, which the assembler makes part of the
/// instruction that takes it; docs/int4.md has what is left in machine code.
#[test]
fn few_instructions_beside_the_tensor_operations() {
    for (tile_m, meaning, f16_most, bf16_most) in [
        (64, Codes::Symmetric, 4.05, 4.80),
        (64, Codes::ZeroPoints, 4.15, 4.90),
        (16, Codes::Symmetric, 16.30, 19.40),
        (16, Codes::ZeroPoints, 16.70, 19.70),
    ] {
        let group = Some(128);
        let (f16, _) = launch::<f16>(product::<f16>(tile_m, 256, 4096, tile_m), group, meaning);
        let (bf16, _) = launch::<bf16>(product::<bf16>(tile_m, 256, 4096, tile_m), group, meaning);
        for (name, stats, most) in [("f16", f16, f16_most), ("bf16", bf16, bf16_most)] {
            let others = others_per_tensor_operation(&stats);
            println!("{tile_m} rows {name}, {meaning}: {others:.2} for each tensor operation");
            assert!(others <= most, "{tile_m} {name} {meaning}: {others:.3}");
        }
    }
}
