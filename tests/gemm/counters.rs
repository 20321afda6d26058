//! What the GEMM kernels do, counted by the emulator over a whole launch.

use crate::common::device_with;
use crate::common::gemm::{Case, Matrix};
use half::bf16;
use infer_kernels::DType;
use infer_kernels::gemm::{Activation, GemmProblem, WeightLayout};
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn launch(problem: GemmProblem) -> LaunchStats {
    let device = device_with(Config {
        profile: true,
        ..Config::default()
    });
    let rng = &mut StdRng::seed_from_u64(3);
    let (m, n, k) = (problem.max_m, problem.n, problem.k);
    let w = match problem.layout {
        WeightLayout::Nk => [n, k],
        WeightLayout::Kn => [k, n],
    };
    let gated = problem.gated;
    let mut case = Case::plain(
        problem,
        dense(Matrix::random(rng, [m, k], 8)),
        dense(Matrix::random(rng, w, 8)),
    );
    case.w_up = gated.then(|| dense(Matrix::random(rng, w, 8)));
    case.run::<bf16>(&device).unwrap();
    device.last_launch().unwrap()
}

/// The same without gaps.
fn dense(matrix: Matrix<bf16>) -> Matrix<bf16> {
    let [rows, cols] = matrix.shape;
    let data = (0..rows)
        .flat_map(|row| &matrix.data[matrix.offset + row * matrix.pitch..][..cols])
        .copied()
        .collect();
    Matrix {
        data,
        offset: 0,
        shape: matrix.shape,
        pitch: cols,
    }
}

fn others_per_tensor_operation(stats: &LaunchStats) -> f64 {
    let tensor: u64 = stats.mma.values().sum();
    (stats.warp_instructions - tensor) as f64 / tensor as f64
}

#[test]
fn every_byte_is_read_once_per_tile_without_conflicts() {
    for tile in [[128, 256], [128, 128], [64, 128], [16, 128]] {
        for (layout, gated) in [
            (WeightLayout::Nk, false),
            (WeightLayout::Kn, false),
            (WeightLayout::Nk, true),
        ] {
            let [tile_m, tile_n] = tile;
            let (m, columns, k) = (2 * tile_m, 2 * tile_n, 1024);
            let n = if gated { columns / 2 } else { columns };
            let problem = GemmProblem::new(DType::BF16, m, n, k)
                .layout(layout)
                .gated(gated)
                .tile(Some(tile))
                .splits(Some(1));
            let stats = launch(problem);
            assert_eq!(stats.bank_conflicts, 0, "{tile:?} {layout:?} {gated}");
            let read = 4 * (tile_m + tile_n) * k * 2;
            let written = m * n * 2;
            assert_eq!(
                stats.global_bytes,
                (read + written) as u64,
                "{tile:?} {layout:?} {gated}"
            );
            assert_eq!(
                stats.global_sectors * 32,
                stats.global_bytes,
                "{tile:?} {layout:?} {gated}: whole sectors"
            );
            let tensor: u64 = stats.mma.values().sum();
            assert_eq!(tensor as usize, m * columns * k / (16 * 8 * 16));
        }
    }
}

/// Prologue and epilogue among them, 4096 columns deep.
#[test]
fn few_instructions_beside_the_tensor_operations() {
    for (tile, layout, most) in [
        ([128, 256], WeightLayout::Nk, 0.85),
        ([128, 128], WeightLayout::Nk, 0.90),
        ([128, 256], WeightLayout::Kn, 0.95),
    ] {
        let problem = GemmProblem::new(DType::BF16, tile[0], tile[1], 4096)
            .layout(layout)
            .tile(Some(tile))
            .splits(Some(1));
        let others = others_per_tensor_operation(&launch(problem));
        println!("{tile:?} {layout:?}: {others:.2} other instructions for each tensor operation");
        assert!(others <= most, "{tile:?} {layout:?}: {others:.3}");
    }
}

/// What an activation adds, for every eight outputs of a lane: the switch is passed once, not for each
/// output, and only erf, which is long, is a loop.
#[test]
fn activations_cost_what_they_compute() {
    let instructions = |activation, gated| {
        let problem = GemmProblem::new(DType::BF16, 128, 256, 64)
            .tile(Some([128, 256]))
            .splits(Some(1))
            .gated(gated)
            .activation(activation);
        launch(problem).warp_instructions as f64
    };
    for gated in [false, true] {
        // Gated, half of the columns are outputs, of twice as many blocks.
        let plain = instructions(Activation::None, gated);
        for (activation, most) in [
            (Activation::Relu, 14.0),
            (Activation::Silu, 42.0),
            (Activation::GeluTanh, 71.0),
            (Activation::GeluErf, 340.0),
            (Activation::ClampedSwiglu, 130.0),
        ] {
            if activation == Activation::ClampedSwiglu && !gated {
                continue;
            }
            let chunks = 128.0 * 256.0 / 8.0 / 32.0;
            let adds = (instructions(activation, gated) - plain) / chunks;
            println!("{activation:?}, gated {gated}: {adds:.0} for eight outputs");
            assert!(adds <= most, "{activation:?}, gated {gated}: {adds:.1}");
        }
    }
}

/// With few rows, weights are read exactly once.
#[test]
fn weights_are_read_once_with_few_rows() {
    for (m, tile) in [(1, [16, 128]), (16, [16, 128]), (64, [64, 128])] {
        let (n, k) = (384, 2048);
        let problem = GemmProblem::new(DType::BF16, m, n, k)
            .tile(Some(tile))
            .splits(Some(1));
        let stats = launch(problem);
        // Rows of x that do not exist are read as the last one, from the cache.
        let x = n / 128 * tile[0] * k * 2;
        assert_eq!(
            stats.global_bytes as usize,
            n * k * 2 + x + m * n * 2,
            "{m} rows"
        );
        let traffic = stats.traffic.unwrap();
        assert_eq!(
            traffic.read_bytes as usize,
            n * k * 2 + m * k * 2,
            "{m} rows"
        );
    }
}
