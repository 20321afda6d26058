//! What the prefill kernels do, counted by the emulator over a whole launch of one causal head.
#![cfg(feature = "emulator")]

mod common;

use common::{Case, Lengths, device};
use half::bf16;
use infer_kernels::attention::prefill::HeadShape;
use rand::SeedableRng;
use rand::rngs::StdRng;

const TOKENS: usize = 4096;

/// Instructions other than tensor operations for each tensor operation, after every other check.
fn others_per_tensor_operation(dim: usize) -> f64 {
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim,
    };
    let lengths = Lengths::same(&[TOKENS]);
    let mut case = Case::<bf16>::random(&mut StdRng::seed_from_u64(1), heads, &lengths);
    case.problem.causal = true;
    let device = device();
    let outcome = case.run(&device).unwrap();
    let stats = device.last_launch().unwrap();
    assert_eq!(stats.bank_conflicts, 0);

    // Each query tile of 128 rows reads, once, itself and the keys that it sees, in whole tiles.
    let tile_k = outcome.tile_k();
    let keys: usize = (1..=TOKENS / 128)
        .map(|tiles| (128 * tiles).next_multiple_of(tile_k).min(TOKENS))
        .sum();
    let moved = ((2 * TOKENS + 2 * keys) * dim * 2) as u64;
    let beyond = stats.global_bytes as f64 / moved as f64 - 1.0;
    assert!(
        (0.0..0.01).contains(&beyond),
        "{beyond} bytes more than needed"
    );

    let tensor: u64 = stats.mma.values().sum();
    (stats.warp_instructions - tensor) as f64 / tensor as f64
}

#[test]
fn few_instructions_beside_the_tensor_operations() {
    for (dim, goal) in [(128, 2.6), (64, 3.5)] {
        let others = others_per_tensor_operation(dim);
        println!("head dim {dim}: {others:.2} other instructions for each tensor operation");
        assert!(others <= goal, "head dim {dim}: {others:.3}");
    }
}
