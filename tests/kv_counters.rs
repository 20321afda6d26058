//! What the cache kernels do, counted by the emulator over a whole launch.
#![cfg(feature = "emulator")]

mod common;

use common::cache::Layout;
use common::kv::{Case, QueryMode};
use common::{Arrangement, Operand, device_with};
use half::bf16;
use infer_kernels::DType;
use infer_kernels::kv::{AppendPlan, AppendProblem, Format, Norm, Pairing};
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A launch for so many tokens, in a row as they are in a prompt, operands without gaps.
fn launch(problem: &AppendProblem, layout: Layout, tokens: usize) -> LaunchStats {
    let device = device_with(Config {
        profile: true,
        ..Config::default()
    });
    let rng = &mut StdRng::seed_from_u64(1);
    let mut case = Case::<bf16>::of(rng, problem.clone(), layout, tokens);
    for operand in [&mut case.q, &mut case.k, &mut case.v] {
        *operand = Operand::filled(operand.shape, Arrangement::Dense, |[i, j, k]| {
            ((i + 3 * j + 7 * k) % 16) as f64
        });
    }
    if case.queries != QueryMode::None {
        case.queries = QueryMode::To(Arrangement::Dense);
    }
    case.slots = (0..tokens as i64).collect();
    case.wide = [true; 2];
    case.table_gap = 0;
    assert!(case.check(&device).unwrap().is_clean());
    device.last_launch().unwrap()
}

/// Bytes that any kernel moves: rows, indices and, once each, rows of angles.
fn least(problem: &AppendProblem, tokens: usize) -> f64 {
    let plan = AppendPlan::new(&device_with(Config::default()), problem).unwrap();
    let indices = tokens * if problem.rope.is_some() { 16 } else { 8 };
    let angles = problem.rope.map_or(0, |rope| 40 * rope.dim * 4);
    (plan.row_bytes(tokens) as usize + indices + angles) as f64
}

#[test]
fn every_byte_is_moved_once_in_whole_sectors() {
    let llama = AppendProblem::new(DType::BF16, 8, 128);
    let rotated = llama.clone().query_heads(32).rope(Pairing::Halves, 128);
    let gemma = AppendProblem::new(DType::BF16, 4, 256)
        .query_heads(8)
        .rope(Pairing::Halves, 256)
        .norm(Norm {
            eps: 1e-6,
            plus_one: true,
        });
    for (name, problem, layout, tokens) in [
        (
            "Llama 3 8B, half its heads",
            AppendProblem::new(DType::BF16, 4, 128),
            Layout::Nhd,
            2592,
        ),
        ("Llama 3 8B, few tokens", llama.clone(), Layout::Hnd, 64),
        (
            "Llama 3 8B, rotated",
            rotated.clone(),
            Layout::Combined,
            256,
        ),
        (
            "Llama 3 8B, to E4M3",
            rotated.format(Format::E4m3),
            Layout::Hnd,
            256,
        ),
        ("Gemma 3 4B", gemma, Layout::Nhd, 256),
    ] {
        let stats = launch(&problem, layout, tokens);
        let traffic = stats.traffic.unwrap();
        let moved = (traffic.read_bytes + traffic.written_bytes) as f64;
        let ratio = moved / least(&problem, tokens);
        let sectors = (32 * stats.global_sectors) as f64 / least(&problem, tokens);
        let slots = stats.warp_instructions as f64 / (moved / 1024.0);
        println!(
            "{name}: {ratio:.3} of the least bytes, {sectors:.3} asked for, {slots:.0} warp instructions per KiB"
        );
        assert!(ratio <= 1.02, "{name}: {ratio:.3}");
        assert_eq!(stats.bank_conflicts, 0, "{name}");
        assert_eq!(stats.shared_wavefronts, 0, "{name}");
        if tokens > 1000 {
            // With a warp for each token indices and angles are read once too.
            assert!(sectors <= 1.02, "{name}: {sectors:.3}");
        }
    }
}
