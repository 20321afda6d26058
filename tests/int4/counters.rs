//! What the INT4 kernels do, counted by the emulator over a whole launch.

use crate::common::device_with;
use crate::common::gemm::Matrix;
use crate::common::int4_case::{Case, weights};
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

fn product<T: Float>(m: usize, n: usize, k: usize, tile: [usize; 2]) -> GemmProblem {
    GemmProblem::new(T::DTYPE, m, n, k)
        .tile(Some(tile))
        .splits(Some(1))
}

fn others_per_tensor_operation(stats: &LaunchStats) -> f64 {
    let tensor: u64 = stats.mma.values().sum();
    (stats.warp_instructions - tensor) as f64 / tensor as f64
}

/// Codes, scales and zero points: each byte once, in whole sectors, without bank conflicts.
#[test]
fn weights_are_read_exactly_once() {
    for (m, tile, gated) in [
        (1, [8, 64], false),
        (8, [8, 64], true),
        (9, [16, 64], true),
        (16, [16, 64], false),
        (64, [64, 256], false),
        (64, [64, 256], true),
        (128, [128, 256], false),
        (128, [128, 256], true),
    ] {
        let streams = tile[0] < 64;
        for group in [Some(16), Some(32), Some(64), Some(128), None] {
            if streams && group == Some(16) {
                continue;
            }
            for meaning in [Codes::Symmetric, Codes::ZeroPoints] {
                let (columns, k) = (512, 512);
                let n = if gated { columns / 2 } else { columns };
                let product = product::<bf16>(m, n, k, tile).gated(gated);
                let (stats, weights) = launch::<bf16>(product, group, meaning);
                let told = format!("{m} rows, {tile:?}, gated {gated}, {group:?}, {meaning}");
                assert_eq!(stats.bank_conflicts, 0, "{told}");
                // Tiles read rows of x that do not exist as the last one, from the cache.
                let x = columns / tile[1] * if streams { m } else { tile[0] } * k * 2;
                // The four warps of a strip have a group of its whole columns each.
                let again = match (streams, group) {
                    (true, None) => 3 * (weights - columns * k / 2),
                    _ => 0,
                };
                let y = m * n * 2;
                let all = weights + again + x + y;
                assert_eq!(stats.global_bytes as usize, all, "{told}");
                let traffic = stats.traffic.as_ref().unwrap();
                assert_eq!(traffic.read_bytes as usize, weights + m * k * 2, "{told}");
                // A warp's zero points of 32 columns, of gate and up or of a tall tile, are half a
                // sector each.
                let halves = meaning == Codes::ZeroPoints && (gated || tile[0] == 128);
                if (m == tile[0] || streams) && !halves {
                    assert_eq!(stats.global_sectors * 32, stats.global_bytes, "{told}");
                }
                let tensor: u64 = stats.mma.values().sum();
                assert_eq!(tensor as usize, tile[0] * columns * k / (16 * 8 * 16));
            }
        }
    }
}

/// Prologue and epilogue among them, 4096 rows of K deep. Instructions of PTX: a scale or a zero point
/// that both halves of a pair take costs two moves there, which the assembler makes part of the
/// instruction that takes it; docs/int4.md has what is left in machine code.
#[test]
fn few_instructions_beside_the_tensor_operations() {
    for (tile, meaning, f16_most, bf16_most) in [
        ([128, 256], Codes::Symmetric, 2.90, 3.05),
        ([128, 256], Codes::ZeroPoints, 2.95, 3.10),
        ([64, 256], Codes::Symmetric, 4.05, 4.80),
        ([64, 256], Codes::ZeroPoints, 4.15, 4.90),
        ([16, 64], Codes::Symmetric, 12.50, 13.50),
        ([16, 64], Codes::ZeroPoints, 12.80, 13.70),
        ([8, 64], Codes::Symmetric, 22.90, 24.90),
        ([8, 64], Codes::ZeroPoints, 23.70, 25.50),
    ] {
        let group = Some(128);
        let [rows, columns] = tile;
        let (f16, _) = launch::<f16>(product::<f16>(rows, columns, 4096, tile), group, meaning);
        let (bf16, _) = launch::<bf16>(product::<bf16>(rows, columns, 4096, tile), group, meaning);
        for (name, stats, most) in [("f16", f16, f16_most), ("bf16", bf16, bf16_most)] {
            let others = others_per_tensor_operation(&stats);
            println!("{rows} rows {name}, {meaning}: {others:.2} for each tensor operation");
            assert!(others <= most, "{rows} {name} {meaning}: {others:.3}");
        }
    }
}
