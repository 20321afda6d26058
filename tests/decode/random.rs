//! Decode against the f64 reference: random shapes, lengths, layouts, options and shares.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::{Worst, decode, device_with, in_parallel, seeds};
use infer_kernels::ptx_emulator::Config;

#[test]
fn random_cases_are_within_their_bounds() {
    // Approximate functions are as wrong as they may be.
    let device = device_with(Config {
        perturb: true,
        ..Config::default()
    });
    let seeds = seeds(0..160);
    let worst = Worst::default();
    let all: Vec<u64> = seeds.clone().collect();
    in_parallel(&all, |&seed| {
        let (mut case, blocks) = decode::random(seed);
        match decode::check(&case, &device, blocks) {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!(
                "seed {seed}: {error}\n{blocks} blocks, {:#?}",
                case.problem()
            ),
        }
    });
    println!("seeds {seeds:?}: {worst}");
}
