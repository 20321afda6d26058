//! What a run took, and what a GPU would take at least.

use std::time::Duration;

use infer_kernels::ptx_emulator::{Gpu, LaunchStats};

/// GPUs that predictions are made for.
const GPUS: [Gpu; 4] = [Gpu::A100, Gpu::H100, Gpu::RTX_4090, Gpu::L4];

/// Tokens and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    pub tokens: usize,
    pub steps: usize,
    pub time: Duration,
}

impl Phase {
    pub fn print(&self, name: &str, on: &str) {
        if self.tokens == 0 {
            return;
        }
        let seconds = self.time.as_secs_f64();
        println!(
            "{name:<10} {} tokens by {} steps in {seconds:.2} s: {:.2} tokens/s on {on}",
            self.tokens,
            self.steps,
            self.tokens as f64 / seconds,
        );
    }
}

/// Prints the least time and the energy of a step that gives one token, by what its launches did.
///
/// Times of launches are added up: each is the time of its slowest part, as if nothing else took any.
pub fn predictions(launches: &[LaunchStats]) {
    println!(
        "\npredicted  for one more token: {} launches at the speed of light of what they do, by a model.",
        launches.len()
    );
    println!(
        "           Nothing here was measured; no program is faster, and starting launches costs more."
    );
    for gpu in &GPUS {
        let (mut seconds, mut joules) = (0.0, (0.0, 0.0));
        for launch in launches {
            let report = launch.speed_of_light(gpu, None);
            seconds += report.lower_bound();
            joules.0 += report.energy.joules.0;
            joules.1 += report.energy.joules.1;
        }
        println!(
            "           {:<16} at most {:>6.0} tokens/s, {:.0} to {:.0} mJ for each",
            gpu.name,
            1.0 / seconds,
            1e3 * joules.0,
            1e3 * joules.1,
        );
    }
}
