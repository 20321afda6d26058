//! What the elementwise kernels do, counted by the emulator over a whole launch.

use crate::common::device_with;
use crate::common::elementwise::{EmbedCase, NormCase, PointwiseCase, Weights};
use crate::common::{Arrangement, Operand};
use half::bf16;
use infer_kernels::elementwise::{
    EmbedPlan, EmbedProblem, NormPlan, NormProblem, NormWeight, PointwisePlan, PointwiseProblem,
    TableFormat,
};
use infer_kernels::gemm::Activation;
use infer_kernels::ptx_emulator::Config;
use infer_kernels::{DType, Device};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn profiled() -> Device {
    device_with(Config {
        profile: true,
        ..Config::default()
    })
}

/// Numbers without gaps.
fn dense(operand: &mut Operand<bf16>) {
    *operand = Operand::filled(operand.shape, Arrangement::Dense, |[i, j, k]| {
        ((i + 3 * j + 7 * k) % 16) as f64
    });
}

/// Bytes moved and asked for, of the least; warp instructions for each KiB moved.
fn judge(device: &Device, name: &str, least: usize, most_slots: f64) {
    let stats = device.last_launch().unwrap();
    let traffic = stats.traffic.unwrap();
    let moved = (traffic.read_bytes + traffic.written_bytes) as f64;
    let ratio = moved / least as f64;
    let asked = (32 * stats.global_sectors) as f64 / least as f64;
    let slots = stats.warp_instructions as f64 / (moved / 1024.0);
    println!(
        "{name}: {ratio:.3} of the least bytes, {asked:.3} asked for, {slots:.0} warp instructions per KiB"
    );
    assert!(ratio <= 1.02, "{name}: {ratio:.3}");
    assert!(slots <= most_slots, "{name}: {slots:.1}");
    assert_eq!(stats.bank_conflicts, 0, "{name}");
}

#[test]
fn norms_move_every_byte_once() {
    let device = profiled();
    for (name, problem, rows, most) in [
        (
            "norm, Llama 3 8B, residual",
            NormProblem::new(DType::BF16, 4096, 1e-5).residual(true),
            [96, 1],
            230.0,
        ),
        (
            "norm, Gemma 3 270M",
            NormProblem::new(DType::BF16, 640, 1e-6).weight(NormWeight::PlusOne),
            [256, 1],
            560.0,
        ),
        (
            "norm of heads, Qwen3",
            NormProblem::new(DType::BF16, 128, 1e-6),
            [64, 32],
            335.0,
        ),
    ] {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut case = NormCase::<bf16>::of(rng, problem.clone(), rows);
        dense(&mut case.x);
        case.residual.as_mut().map(dense);
        case.weight = Some(Weights::Same(vec![bf16::ONE; problem.dim]));
        let mut y = case.x.clone();
        y.data.fill(bf16::ZERO);
        case.y = Some(y);
        case.check(&device).unwrap();
        let plan = NormPlan::new(&device, &problem).unwrap();
        let least = plan.row_bytes(rows[0] * rows[1]) as usize + 2 * problem.dim;
        judge(&device, name, least, most);
    }
}

#[test]
fn pointwise_operations_move_every_byte_once() {
    let device = profiled();
    for (name, problem, most) in [
        (
            "gate, Llama 3 8B",
            PointwiseProblem::gated(DType::BF16, 14336, Activation::Silu),
            135.0,
        ),
        ("sum", PointwiseProblem::add(DType::BF16, 4096), 95.0),
        (
            "multiple",
            PointwiseProblem::scale(DType::BF16, 4096, 64.0),
            96.0,
        ),
    ] {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut case = PointwiseCase::<bf16>::of(rng, problem.clone(), 16);
        dense(&mut case.x);
        case.second.as_mut().map(dense);
        case.y = Some(case.x.clone());
        case.check(&device).unwrap();
        let plan = PointwisePlan::new(&device, &problem).unwrap();
        judge(&device, name, plan.row_bytes(16) as usize, most);
    }
}

#[test]
fn embeddings_move_every_byte_once() {
    let device = profiled();
    let q8 = TableFormat::Int8 {
        scales: DType::F16,
        group: 32,
    };
    for (name, table, most) in [
        ("embedding, bf16", TableFormat::Float(DType::BF16), 130.0),
        ("embedding, 8 bits", q8, 220.0),
    ] {
        let rng = &mut StdRng::seed_from_u64(1);
        let problem = EmbedProblem::new(DType::BF16, 2048).table(table);
        let mut case = EmbedCase::of(rng, problem.clone(), 40, 40);
        case.ids = (0..40).rev().collect();
        for operand in [Some(&mut case.table), case.scales.as_mut()] {
            let Some(operand) = operand else { continue };
            *operand = Operand::filled(operand.shape, Arrangement::Dense, |[i, _, k]| {
                ((i + k) % 100) as f64
            });
        }
        case.check::<bf16>(&device).unwrap();
        let plan = EmbedPlan::new(&device, &problem).unwrap();
        let least = plan.row_bytes(40) as usize + 4 * 40;
        judge(&device, name, least, most);
    }
}
