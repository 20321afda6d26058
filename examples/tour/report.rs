//! What the tour prints about an operation.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use half::bf16;
use infer_kernels::reference::attention::PrefillOutput;
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{Device, StatusReport, Stream};

/// What an operation did, and how well.
pub struct Report {
    /// Name and shape of each operand.
    pub shapes: Vec<(&'static str, String)>,
    /// The plan, as it prints itself.
    pub plan: String,
    /// For each output, how far it was off and how far it might have been.
    pub margins: Vec<(&'static str, Margin)>,
    /// What the kernel skipped.
    pub status: StatusReport,
    /// Bytes of all operands, each counted once.
    pub operand_bytes: u128,
    /// What was counted or measured of the run.
    pub run: Run,
}

/// The margins of attention with these dimensions of keys and values, beside the exact and the rounded
/// reference.
pub fn attention_margins(
    out: &[bf16],
    lse: &[f32],
    [exact, rounded]: [&PrefillOutput; 2],
    [dim, v_dim]: [usize; 2],
) -> Result<Vec<(&'static str, Margin)>, Box<dyn Error>> {
    let out = Comparison {
        got: out,
        exact: &exact.out,
        rounded: &rounded.out,
        terms: &exact.out_terms,
        allowed: &exact.out_allowed,
    };
    let lse = Comparison {
        got: lse,
        exact: &exact.lse,
        rounded: &rounded.lse,
        terms: &exact.lse_terms,
        allowed: &exact.lse_allowed,
    };
    Ok(vec![
        ("out", out.judge(Rule::ROUNDED.in_rows_of(v_dim))?),
        ("lse", lse.judge(Rule::truncated(dim / 16))?),
    ])
}

/// A run, by what the device can say of it.
pub enum Run {
    /// On an emulator: what was counted, if one kernel did it all. The time is the host's.
    Emulated {
        counted: Option<Counted>,
        host: Duration,
    },
    /// On a GPU: the mean over several runs, waiting once at the end.
    Measured { runs: u32, each: Duration },
}

/// What the emulator counted.
pub struct Counted {
    pub tensor_ops: u64,
    pub tensor_flops: u64,
    pub global_bytes: u64,
    pub warp_instructions: u64,
}

impl Run {
    /// As [`Run::of`], for an operation of several kernels: an emulator counts one at a time.
    pub fn of_several<E>(
        device: &Device,
        stream: &Stream,
        run: impl FnMut() -> Result<(), E>,
    ) -> Result<Run, Box<dyn std::error::Error>>
    where
        E: Into<Box<dyn std::error::Error>>,
    {
        Ok(match Run::of(device, stream, run)? {
            Run::Emulated { host, .. } => Run::Emulated {
                counted: None,
                host,
            },
            measured => measured,
        })
    }

    /// Runs once where it is counted, and several times where it is timed.
    pub fn of<E>(
        device: &Device,
        stream: &Stream,
        mut run: impl FnMut() -> Result<(), E>,
    ) -> Result<Run, Box<dyn std::error::Error>>
    where
        E: Into<Box<dyn std::error::Error>>,
    {
        let timer = std::time::Instant::now();
        run().map_err(Into::into)?;
        stream.synchronize()?;
        if let Some(stats) = device.last_launch() {
            let counted = Counted {
                tensor_ops: stats.mma.values().sum(),
                tensor_flops: stats.tensor_flops,
                global_bytes: stats.global_bytes,
                warp_instructions: stats.warp_instructions,
            };
            return Ok(Run::Emulated {
                counted: Some(counted),
                host: timer.elapsed(),
            });
        }
        let runs = 20;
        let timer = std::time::Instant::now();
        for _ in 0..runs {
            run().map_err(Into::into)?;
        }
        stream.synchronize()?;
        Ok(Run::Measured {
            runs,
            each: timer.elapsed() / runs,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut label = "shapes";
        for (name, shape) in &self.shapes {
            writeln!(f, "{label:<10} {name:<10} {shape}")?;
            label = "";
        }
        label = "plan";
        for line in self.plan.lines() {
            writeln!(f, "{label:<10} {}", line.trim_start())?;
            label = "";
        }
        label = "error";
        for (name, margin) in &self.margins {
            writeln!(
                f,
                "{label:<10} {name:<10} at most {:.3e}; the closest to its bound of {:.3e} uses {:.0} % of it",
                margin.error,
                margin.bound,
                100.0 * margin.used
            )?;
            label = "";
        }
        writeln!(f, "{:<10} {}", "status", self.status)?;
        let bytes = thousands(self.operand_bytes);
        writeln!(
            f,
            "{:<10} {bytes} bytes of operands, each counted once",
            "work"
        )?;
        match &self.run {
            Run::Emulated { counted, host } => {
                if let Some(counted) = counted {
                    write!(f, "{counted}")?;
                }
                writeln!(
                    f,
                    "{:<10} {:.2} s of this host to emulate and check; no GPU ran, so no GPU time",
                    "time",
                    host.as_secs_f64()
                )
            }
            Run::Measured { runs, each } => {
                writeln!(
                    f,
                    "{:<10} {:.1} µs, mean of {runs} runs",
                    "time",
                    each.as_secs_f64() * 1e6
                )
            }
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            self.tensor_ops,
            self.tensor_flops,
            self.global_bytes,
            self.warp_instructions,
        ];
        let [ops, flops, bytes, instructions] = counts.map(|count| thousands(count.into()));
        writeln!(f, "{:<10} {bytes} bytes asked of global memory", "counted")?;
        writeln!(
            f,
            "{:<10} {ops} tensor operations, {flops} flops in them",
            ""
        )?;
        writeln!(f, "{:<10} {instructions} instructions of warps", "")
    }
}

/// `1234567` as `1,234,567`.
fn thousands(number: u128) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
