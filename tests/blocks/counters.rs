//! What the kernels of blocks do, counted by the emulator over a whole launch.

use crate::common::blocks_case::{Case, weights};
use crate::common::device_with;
use crate::common::gemm::Matrix;
use half::{bf16, f16};
use infer_kernels::blocks::{BlockFormat, BlockPlan, BlockProblem};
use infer_kernels::gemm::GemmProblem;
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use infer_kernels::{Element, Float};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The last launch, and the bytes of weights that the plan counts.
fn launch<T: Float>(product: GemmProblem, format: BlockFormat) -> (LaunchStats, usize) {
    let device = device_with(Config {
        profile: true,
        ..Config::default()
    });
    let rng = &mut StdRng::seed_from_u64(3);
    let (m, n, k) = (product.max_m, product.n, product.k);
    let (w, up) = (weights(rng, format, [k, n]), weights(rng, format, [k, n]));
    let gated = product.gated;
    let problem = BlockProblem::new(product, format);
    let bytes = BlockPlan::new(&device, &problem).unwrap().weight_bytes();
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

/// Codes and scales: each byte once, in whole sectors, without bank conflicts.
#[test]
fn weights_are_read_exactly_once() {
    for format in BlockFormat::ALL {
        for (m, gated) in [(1, false), (16, true)] {
            // Each of a strip's four warps has whole groups of 256 rows.
            let (columns, k) = (128, 1024);
            let n = if gated { columns / 2 } else { columns };
            let product = GemmProblem::new(bf16::DTYPE, m, n, k).splits(Some(1));
            let (stats, weights) = launch::<bf16>(product.gated(gated), format);
            let told = format!("{format}, {m} rows, gated {gated}");
            assert_eq!(stats.bank_conflicts, 0, "{told}");
            let x = columns / 64 * m * k * 2;
            let all = weights + x + m * n * 2;
            assert_eq!(32 * stats.global_sectors as usize, all, "{told}");
            // Four lanes take the same bytes of scales.
            let again = 3 * (weights - columns * k * format.bits() / 8);
            assert_eq!(stats.global_bytes as usize, all + again, "{told}");
            let traffic = stats.traffic.as_ref().unwrap();
            assert_eq!(traffic.read_bytes as usize, weights + m * k * 2, "{told}");
            let tensor: u64 = stats.mma.values().sum();
            // Where there are offsets, a fourth more, for the sums of x.
            let products = columns * k * 16 / (16 * 8 * 16);
            let ones = if format.scales().has_offsets() {
                products / 4
            } else {
                0
            };
            assert_eq!(tensor as usize, products + ones, "{told}");
        }
    }
}

/// Instructions of PTX for each 4096 bytes of codes, prologue and epilogue among them: a
/// multiprocessor of an A100 is given so many bytes in 305 cycles, in which it starts 1222.
#[test]
fn memory_is_the_limit() {
    for (format, f16_most, bf16_most) in [
        (BlockFormat::Q8_0, 460.0, 630.0),
        (BlockFormat::Q6_K, 580.0, 750.0),
        (BlockFormat::Q5_K, 710.0, 880.0),
        (BlockFormat::Q4_0, 1150.0, 1220.0),
        (BlockFormat::Q4_K, 1650.0, 1750.0),
    ] {
        let (n, k) = (64, 8192);
        let codes = n * k * format.bits() / 8;
        let per_turn = |stats: LaunchStats| stats.warp_instructions as f64 * 4096.0 / codes as f64;
        let product = |dtype| GemmProblem::new(dtype, 16, n, k).splits(Some(1));
        let (f16, _) = launch::<f16>(product(f16::DTYPE), format);
        let (bf16, _) = launch::<bf16>(product(bf16::DTYPE), format);
        for (name, stats, most) in [("f16", f16, f16_most), ("bf16", bf16, bf16_most)] {
            let got = per_turn(stats);
            println!("{format} {name}: {got:.0} instructions for 4096 bytes of codes");
            assert!(got <= most, "{format} {name}: {got:.0}");
        }
    }
}
