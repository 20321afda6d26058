//! The output that the README shows is what its kernel gives.

use ptx_emulator::{Config, Emulator, Gpu, LaunchConfig, LaunchError, LaunchStats};

const README: &str = include_str!("../README.md");
const KERNEL: &str = include_str!("../examples/reverse.ptx");

fn launch(ptx: &str, seed: u64) -> Result<LaunchStats, LaunchError> {
    let device = Emulator::new(Config {
        seed,
        profile: true,
        ..Config::default()
    });
    let data = device.alloc(1024 * 256).unwrap();
    device.fill(data, 1, 1024 * 256).unwrap();
    let kernel = device.load(ptx).unwrap().kernel("reverse").unwrap();
    let shape = LaunchConfig {
        grid: [1024, 1, 1],
        block: [64, 1, 1],
        dynamic_smem: 0,
    };
    device.launch(&kernel, &shape, &[&data.to_le_bytes()])
}

#[test]
fn the_violation() {
    let broken = KERNEL.replace("bar.sync 0;", "");
    for seed in 0..20 {
        match launch(&broken, seed) {
            Err(LaunchError::Violation(violation)) if seed == 0 => {
                assert!(README.contains(&violation.to_string()), "{violation}");
            }
            Err(LaunchError::Violation(_)) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn the_report() {
    let stats = launch(KERNEL, 0).unwrap();
    let report = stats.speed_of_light(&Gpu::A100, Some(16)).to_string();
    assert!(README.contains(&report), "{report}");
    let source = &stats.source_lines()[0];
    let line = format!(
        "{}:{}  {} warp",
        source.file, source.line, source.counts.executions
    );
    assert!(README.contains(&line), "{line}");
}
