//! Speed-of-light reports against figures worked out by hand.

use std::collections::BTreeMap;

use ptx_emulator::{Class, Gpu, LaunchStats, Pipe, Traffic};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// A launch on all multiprocessors of an A100 that did nothing yet.
fn idle() -> LaunchStats {
    let mut stats = LaunchStats::default();
    stats.blocks = 108;
    stats.threads_per_block = 128;
    stats
}

#[test]
fn each_part_takes_work_by_rate() {
    let mut stats = idle();
    // Half of the multiprocessors, at 1.41 GHz: 54 * 1.41e9 = 76.14e9 clocks a second.
    stats.blocks = 54;
    let clocks = 76.14e9;
    stats.by_opcode = BTreeMap::from([
        (("fma", Class::Float), 1_000_000),
        (("max", Class::Float), 10_000),
        (("add", Class::Int), 20_000),
        (("selp", Class::Move), 30_000),
        (("mov", Class::Move), 500_000),
        (("ex2", Class::Special), 40_000),
        (("fma", Class::Half), 50_000),
        (("fma", Class::Double), 60_000),
        (("cvt", Class::Convert), 70_000),
        (("shfl", Class::Warp), 80_000),
        (("ld", Class::Memory), 90_000),
        (("ldmatrix", Class::Shared), 10_000),
        (("cp.async", Class::Async), 5_000),
        (("cp.async.commit_group", Class::Async), 5_000),
    ]);
    stats.warp_instructions = 2_000_000;
    stats.shared_wavefronts = 300_000;
    stats.global_sectors = 400_000;
    stats.mma = BTreeMap::from([
        ("m16n8k16.f32.f16.f16.f32".to_string(), 1000),
        ("m16n8k8.f32.tf32.tf32.f32".to_string(), 1000),
    ]);
    let report = stats.speed_of_light(&Gpu::A100, Some(64));
    let lanes = |count: f64, rate: f64| 32.0 * count / rate / clocks;
    for (pipe, seconds) in [
        (Pipe::F32, lanes(1e6, 64.0)),
        (Pipe::Alu, lanes(60e3, 64.0)),
        (Pipe::Special, lanes(40e3, 16.0)),
        (Pipe::Half, lanes(50e3, 128.0)),
        (Pipe::F64, lanes(60e3, 32.0)),
        (Pipe::Convert, lanes(70e3, 64.0)),
        (Pipe::Warp, lanes(80e3, 32.0)),
        (Pipe::LoadStore, lanes(105e3, 32.0)),
        (Pipe::Issue, lanes(2e6, 128.0)),
        (Pipe::Shared, 300e3 / clocks),
        // 54 ports of 64 bytes are less than what L2 delivers.
        (Pipe::L2, 400e3 * 32.0 / (54.0 * 64.0 * 1.41e9)),
        // 2048 multiply-adds at 1024 a clock, and 1024 at 512.
        (Pipe::Tensor, (2000.0 + 2000.0) / clocks),
        (Pipe::Dram, 0.0),
    ] {
        assert!(
            close(report.seconds(pipe), seconds),
            "{pipe}: {}",
            report.seconds(pipe)
        );
    }
    assert_eq!(report.limit().unwrap().pipe, Pipe::F32);
    assert!(close(report.lower_bound(), lanes(1e6, 64.0)));
    assert!(report.notes.iter().any(|note| note.contains("profiled")));
    assert_eq!(report.occupancy.blocks, 8);
}

#[test]
fn memory_limits_a_copy() {
    let mut stats = idle();
    stats.global_sectors = 2 * 1_000_000_000 / 32;
    let mut traffic = Traffic::default();
    (traffic.fetched_bytes, traffic.written_back_bytes) = (1_000_000_000, 1_000_000_000);
    stats.traffic = Some(traffic);
    let report = stats.speed_of_light(&Gpu::A100, None);
    assert_eq!(report.limit().unwrap().pipe, Pipe::Dram);
    assert!(close(report.lower_bound(), 2.0 / 2039.0));
    // L2: 2e9 B · 5 to 20 pJ; HBM: 2e9 B · 31 to 56 pJ; static: 10 to 40 % of 400 W.
    let low = 0.010 + 0.062 + 40.0 * 2.0 / 2039.0;
    let high = 0.040 + 0.112 + 160.0 * 2.0 / 2039.0;
    assert!(close(report.energy.joules.0, low) && close(report.energy.joules.1, high));
    let names: Vec<_> = report.energy.parts.iter().map(|part| part.name).collect();
    assert_eq!(names, ["L2", "DRAM", "static power"]);
    // The same on a GPU with other memory, and made at 5 nm.
    let report = stats.speed_of_light(&Gpu::L4, None);
    let low = 0.7 * 0.010 + 0.088 + 7.2 * 2.0 / 300.0;
    assert!(close(report.energy.joules.0, low), "{}", report.energy);
}

#[test]
fn energy_of_tensor_operations() {
    let mut stats = idle();
    stats.mma = BTreeMap::from([("m16n8k16.f32.bf16.bf16.f32".to_string(), 1_000_000)]);
    stats.warp_instructions = 1_000_000;
    stats.counts.thread_executions = 32_000_000;
    let report = stats.speed_of_light(&Gpu::A100, Some(128));
    // 4.096e9 flops; a tensor instruction's own energy is in them.
    let part = report.energy.parts[0];
    assert_eq!(
        (part.name, report.energy.parts.len()),
        ("tensor operations", 2)
    );
    assert!(close(part.joules.0, 4.096e9 * 0.25e-12) && close(part.joules.1, 4.096e9 * 1.05e-12));
    // 312 TFLOPS.
    assert!((report.lower_bound() - 4.096e9 / 312e12).abs() < 0.001 * report.lower_bound());
}

#[test]
fn what_has_no_rate_is_said() {
    let mut stats = idle();
    stats.mma = BTreeMap::from([("m16n8k32.f32.e4m3.e4m3.f32".to_string(), 10)]);
    let report = stats.speed_of_light(&Gpu::A100, None);
    assert!(
        report.notes.iter().any(|note| note.contains("e4m3")),
        "{report}"
    );
    assert_eq!(report.lower_bound(), 0.0);
    assert!(report.summary().contains("nothing"));
    let report = stats.speed_of_light(&Gpu::L4, None);
    assert!(report.lower_bound() > 0.0 && !report.notes.iter().any(|note| note.contains("e4m3")));
}

#[test]
fn a_report_says_what_it_is() {
    let mut stats = idle();
    stats.by_opcode = BTreeMap::from([(("ex2", Class::Special), 1_000_000)]);
    let report = stats.speed_of_light(&Gpu::A100, Some(255));
    let text = report.to_string();
    assert!(
        text.starts_with("A100, a model and no measurement"),
        "{text}"
    );
    assert!(
        text.contains("special functions") && text.contains("<- limits"),
        "{text}"
    );
    assert!(text.contains("13.1 µs"), "{text}");
    assert!(
        report
            .summary()
            .starts_with("model: at least 13.1 µs on A100, by special functions")
    );
    assert!(report.summary().ends_with("no measurement"));
}
