//! Latent attention against the f64 reference: random shapes, lengths, layouts and shares.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::{Worst, device_with, in_parallel, mla, seeds};
use infer_kernels::ptx_emulator::Config;

#[test]
fn random_cases_are_within_their_bounds() {
    // Approximate functions are as wrong as they may be.
    let device = device_with(Config {
        perturb: true,
        ..Config::default()
    });
    let seeds = seeds(0..18);
    let worst = Worst::default();
    let all: Vec<u64> = seeds.clone().collect();
    in_parallel(&all, |&seed| {
        let (mut case, way) = mla::random(seed);
        match mla::check(&case, &device, way) {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!("seed {seed}: {error}\n{way:?}, {:#?}", case.problem()),
        }
    });
    println!("seeds {seeds:?}: {worst}");
}
