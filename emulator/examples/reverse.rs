//! Runs a kernel, checked, and prints what it did and what it would take on an A100 at least.
//!
//! `cargo run --release --example reverse`; with an argument, without the kernel's barrier.

use ptx_emulator::{Config, Emulator, Gpu, LaunchConfig};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut ptx = include_str!("reverse.ptx").to_string();
    if std::env::args().len() > 1 {
        ptx = ptx.replace("bar.sync 0;", "");
    }
    let device = Emulator::new(Config {
        profile: true,
        ..Config::default()
    });
    let data = device.alloc(1024 * 256)?;
    device.fill(data, 1, 1024 * 256)?;
    let kernel = device.load(&ptx)?.kernel("reverse")?;
    let shape = LaunchConfig {
        grid: [1024, 1, 1],
        block: [64, 1, 1],
        dynamic_smem: 0,
    };
    let stats = device.launch(&kernel, &shape, &[&data.to_le_bytes()])?;
    for line in stats.source_lines() {
        let (counts, traffic) = (&line.counts, &line.traffic);
        println!(
            "{}:{}  {} warp instructions, {} sectors ({} would do), {} bank conflicts, {} bytes fetched",
            line.file,
            line.line,
            counts.executions,
            counts.global_sectors,
            counts.global_ideal_sectors,
            counts.bank_conflicts,
            traffic.fetched_bytes,
        );
    }
    print!("{}", stats.speed_of_light(&Gpu::A100, Some(16)));
    Ok(())
}
