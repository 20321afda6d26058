//! What benches share: where they run, clocks, and the times that data sheets allow.
//!
//! An emulated run is never timed as if it were a GPU's: criterion's figures would be mistaken for
//! one.

use std::time::{Duration, Instant};

use criterion::Criterion;
use infer_kernels::{Device, Stream};

/// Kernels on the GPU if there is one; without one, bounds of their times. Then the host's part.
pub fn on_what_there_is(
    c: &mut Criterion,
    on_the_gpu: fn(&mut Criterion, &Device),
    speed_of_light: fn(&Device),
    on_the_host: fn(&mut Criterion, &Device),
) {
    let device = match Device::require_gpu() {
        Ok(device) => {
            on_the_gpu(c, &device);
            device
        }
        Err(reason) => {
            eprintln!("{reason}: no kernel is timed, only what the host does");
            let device = Device::emulator(Default::default());
            eprintln!("\nspeed of light, in µs: bounds by data sheets, nothing measured");
            speed_of_light(&device);
            eprintln!();
            device
        }
    };
    on_the_host(c, &device);
}

/// The time of `n` runs on a stream: the GPU's own, between two of its events, where cudarc offers
/// them; else the host's, which waits once, and is longer where launching is slower than running.
pub fn timed(stream: &Stream, n: u64, mut run: impl FnMut()) -> Duration {
    #[cfg(feature = "cudarc")]
    if let Some(stream) = stream.as_cudarc() {
        use infer_kernels::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
        let begin = stream.record_event(Some(CU_EVENT_DEFAULT)).unwrap();
        (0..n).for_each(|_| run());
        let end = stream.record_event(Some(CU_EVENT_DEFAULT)).unwrap();
        return Duration::from_secs_f64(f64::from(begin.elapsed_ms(&end).unwrap()) / 1e3);
    }
    stream.synchronize().unwrap();
    let timer = Instant::now();
    (0..n).for_each(|_| run());
    stream.synchronize().unwrap();
    timer.elapsed()
}

/// What data sheets promise: name, dense 16-bit tensor TFLOP/s with f32 sums, GB/s of memory.
const GPUS: [(&str, f64, f64); 3] = [
    ("A100 SXM 80GB", 312.0, 2039.0),
    ("RTX 4090", 165.2, 1008.0),
    ("H100 SXM", 989.4, 3350.0),
];

/// Heads a table of [`bounds`]: what its rows are for, and what stands at their ends.
pub fn bounds_of(rows: &str, about: &str) {
    eprint!("{rows:>14} {:>9} {:>9}", "GFLOP", "MB");
    GPUS.iter().for_each(|(name, ..)| eprint!(" {name:>14}"));
    eprintln!("  {about}");
}

/// The times below which no kernel can be, by its tensor operations and its operands' bytes.
pub fn bounds(row: impl std::fmt::Display, flops: f64, bytes: f64, about: &str) {
    eprint!(
        "{:>14} {:>9.2} {:>9.2}",
        row.to_string(),
        flops / 1e9,
        bytes / 1e6
    );
    for (_, tensor, memory) in GPUS {
        let micros = (flops / tensor / 1e6).max(bytes / memory / 1e3);
        eprint!(" {micros:>14.2}");
    }
    eprintln!("  {about}");
}
