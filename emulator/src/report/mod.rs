//! What a launch would take at least on a GPU: a model made of counts and published rates.
//!
//! Nothing here is measured. For each part of the GPU, work divided by rate is a time that the launch
//! cannot go below, as long as the assembler keeps the instructions that the PTX has; which it may
//! fold, fuse or add to. Latencies, tails and everything that does not overlap come on top.

mod energy;

pub use energy::{Energy, EnergyPart};

use std::fmt;

use crate::counters::LaunchStats;
use crate::gpu::{BlockResources, Gpu, Occupancy};
use crate::isa::Class;

/// A part of a GPU that a launch keeps busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Pipe {
    /// Tensor cores.
    Tensor,
    /// Additions and multiplications of `f32`.
    F32,
    /// `f64`.
    F64,
    /// Additions and multiplications of `f16` and `bf16`, in pairs or not.
    Half,
    /// Integers, logic, comparisons, minima, selections.
    Alu,
    /// Conversions.
    Convert,
    /// Approximate functions.
    Special,
    /// Shuffles, votes.
    Warp,
    /// Instructions that access memory of any space.
    LoadStore,
    /// Passes through shared memory.
    Shared,
    /// The schedulers, by all instructions.
    Issue,
    /// The L2 cache, by sectors asked for.
    L2,
    /// Device memory, by what a model of L2 fetches and writes back.
    Dram,
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pipe::Tensor => "tensor",
            Pipe::F32 => "f32",
            Pipe::F64 => "f64",
            Pipe::Half => "f16, bf16",
            Pipe::Alu => "integer, logic",
            Pipe::Convert => "conversions",
            Pipe::Special => "special functions",
            Pipe::Warp => "shuffles",
            Pipe::LoadStore => "load/store",
            Pipe::Shared => "shared memory",
            Pipe::Issue => "issue",
            Pipe::L2 => "L2",
            Pipe::Dram => "DRAM",
        })
    }
}

/// What one part of the GPU would take.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Bound {
    /// The part.
    pub pipe: Pipe,
    /// How much there is to do.
    pub work: f64,
    /// How much of it the part does in a second.
    pub rate: f64,
    /// What `work` and `rate` count.
    pub unit: &'static str,
    /// Whether it is a lower bound of the launch. The others depend on what the assembler makes of
    /// the PTX (addresses are folded into accesses, moves disappear), or on hits in L1.
    pub firm: bool,
}

impl Bound {
    /// Work divided by rate.
    pub fn seconds(&self) -> f64 {
        self.work / self.rate
    }
}

/// A speed-of-light report: a model, not a measurement.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Name of the GPU.
    pub gpu: &'static str,
    /// Parts with anything to do, the slowest first.
    pub bounds: Vec<Bound>,
    /// How many blocks a multiprocessor holds.
    pub occupancy: Occupancy,
    /// Energy at the lower bound of time.
    pub energy: Energy,
    /// What the model leaves out of this launch.
    pub notes: Vec<String>,
}

impl Report {
    /// The slowest part whose bound is firm; `None` if nothing was done.
    pub fn limit(&self) -> Option<&Bound> {
        self.bounds.iter().find(|bound| bound.firm)
    }

    /// Seconds that the launch takes at least, in this model.
    pub fn lower_bound(&self) -> f64 {
        self.limit().map_or(0.0, Bound::seconds)
    }

    /// Seconds of one part, 0 if it has nothing to do.
    pub fn seconds(&self, pipe: Pipe) -> f64 {
        let found = self.bounds.iter().find(|bound| bound.pipe == pipe);
        found.map_or(0.0, Bound::seconds)
    }

    /// The report in one line.
    pub fn summary(&self) -> String {
        let Some(limit) = self.limit() else {
            return format!("model: nothing to do on {}", self.gpu);
        };
        format!(
            "model: at least {} on {}, by {}; {} to {}; no measurement",
            si(self.lower_bound(), "s"),
            self.gpu,
            limit.pipe,
            si(self.energy.joules.0, "J"),
            si(self.energy.joules.1, "J"),
        )
    }
}

impl LaunchStats {
    /// What this launch would take at least on a GPU: a model, not a measurement. `registers` are
    /// those of a thread as the assembler gives them out, if known, for the occupancy. Device memory
    /// is part of it if the launch was [profiled](crate::Config::profile), with the L2 cache of the
    /// GPU that was emulated.
    pub fn speed_of_light(&self, gpu: &Gpu, registers: Option<u32>) -> Report {
        let mut notes = Vec::new();
        let mut bounds = bounds(self, gpu, &mut notes);
        bounds.retain(|bound| bound.work > 0.0);
        bounds.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
        let slowest = bounds.iter().find(|bound| bound.firm);
        let energy = Energy::of(self, gpu, slowest.map_or(0.0, Bound::seconds));
        let slowest = slowest.map_or(0.0, Bound::seconds);
        if energy.joules.0 > slowest * gpu.board_watts {
            notes.push(format!(
                "even the least energy is more than {} W give in that time: power would limit",
                gpu.board_watts
            ));
        }
        let occupancy = gpu.occupancy(&BlockResources {
            threads: self.threads_per_block,
            registers,
            shared: self.shared_per_block,
        });
        if registers.is_none() {
            notes.push("occupancy without registers, which PTX does not tell".into());
        }
        Report {
            gpu: gpu.name,
            bounds,
            occupancy,
            energy,
            notes,
        }
    }
}

/// Where an instruction that is not a tensor operation is executed.
fn pipe(opcode: &str, class: Class) -> Option<Pipe> {
    let arithmetic = matches!(opcode, "add" | "sub" | "mul" | "fma" | "mad");
    Some(match class {
        Class::Float if arithmetic => Pipe::F32,
        Class::Half if arithmetic => Pipe::Half,
        Class::Float | Class::Half | Class::Int => Pipe::Alu,
        Class::Double => Pipe::F64,
        Class::Convert => Pipe::Convert,
        Class::Special => Pipe::Special,
        Class::Warp => Pipe::Warp,
        Class::Move if opcode == "selp" => Pipe::Alu,
        Class::Memory | Class::Shared | Class::Atomic => Pipe::LoadStore,
        Class::Async if opcode == "cp.async" => Pipe::LoadStore,
        _ => return None,
    })
}

fn bounds(stats: &LaunchStats, gpu: &Gpu, notes: &mut Vec<String>) -> Vec<Bound> {
    // Blocks do not share a multiprocessor's work with idle ones.
    let busy = f64::from(gpu.sms).min(stats.blocks as f64).max(1.0);
    let clocks = busy * gpu.clock_hz();
    let mut bounds = vec![tensor(stats, gpu, clocks, notes)];
    let rates = [
        (Pipe::F32, gpu.rates.f32, true),
        (Pipe::F64, gpu.rates.f64, true),
        (Pipe::Half, gpu.rates.half2, true),
        (Pipe::Alu, gpu.rates.int, false),
        (Pipe::Convert, gpu.rates.convert, false),
        (Pipe::Special, gpu.rates.special, true),
        (Pipe::Warp, gpu.rates.warp, true),
        (Pipe::LoadStore, gpu.rates.memory, false),
    ];
    for (which, rate, firm) in rates {
        let of_it = stats.by_opcode.iter();
        let of_it = of_it.filter(|((opcode, class), _)| pipe(opcode, *class) == Some(which));
        bounds.push(Bound {
            pipe: which,
            work: of_it.map(|(_, count)| 32.0 * *count as f64).sum(),
            rate: f64::from(rate) * clocks,
            unit: "lane",
            firm,
        });
    }
    let per_second = |pipe, work: u64, rate: f64, unit, firm| Bound {
        pipe,
        work: work as f64,
        rate,
        unit,
        firm,
    };
    let wavefronts = f64::from(gpu.rates.shared_bytes) / 128.0 * clocks;
    let issue = 32 * stats.warp_instructions;
    let l2 = f64::from(gpu.l2_bytes_per_clock).min(64.0 * busy) * gpu.clock_hz();
    bounds.extend([
        per_second(
            Pipe::Shared,
            stats.shared_wavefronts,
            wavefronts,
            "pass",
            true,
        ),
        per_second(
            Pipe::Issue,
            issue,
            f64::from(gpu.rates.issue) * clocks,
            "lane",
            false,
        ),
        per_second(Pipe::L2, 32 * stats.global_sectors, l2, "B", false),
    ]);
    match &stats.traffic {
        Some(traffic) => {
            let bytes = traffic.fetched_bytes + traffic.written_back_bytes;
            bounds.push(per_second(
                Pipe::Dram,
                bytes,
                1e9 * gpu.bandwidth,
                "B",
                true,
            ));
        }
        None => notes.push("no bound by DRAM: the launch was not profiled".into()),
    }
    bounds
}

/// Tensor operations of all types, which share the tensor cores: the rate is that of the mix.
fn tensor(stats: &LaunchStats, gpu: &Gpu, clocks: f64, notes: &mut Vec<String>) -> Bound {
    let (mut work, mut seconds) = (0.0, 0.0);
    for (name, count) in &stats.mma {
        let rate = tensor_rate(gpu, name);
        match (flops_of_shape(name), rate) {
            (Some(flops), Some(rate)) if rate != 0 => {
                let flops = flops as f64 * *count as f64;
                work += flops;
                seconds += flops / (2.0 * f64::from(rate) * clocks);
            }
            _ => notes.push(format!("{} has no rate for {name}", gpu.name)),
        }
    }
    Bound {
        pipe: Pipe::Tensor,
        work,
        rate: if seconds > 0.0 { work / seconds } else { 1.0 },
        unit: "flop",
        firm: true,
    }
}

/// Operations of `m16n8k16.f32.f16.f16.f32`: two per multiply-add.
pub(crate) fn flops_of_shape(name: &str) -> Option<u64> {
    let (m, rest) = name.split('.').next()?.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    let number = |text: &str| text.parse::<u64>().ok();
    Some(2 * number(m)? * number(n)? * number(k)?)
}

/// Type of the operands of a tensor operation.
pub(crate) fn operand_of(name: &str) -> Option<&str> {
    name.split('.').nth(2)
}

fn tensor_rate(gpu: &Gpu, name: &str) -> Option<u32> {
    let rates = &gpu.tensor;
    Some(match (operand_of(name)?, name.split('.').nth(1)?) {
        ("f16", "f16") => rates.f16_in_f16,
        ("f16" | "bf16", _) => rates.f16_in_f32,
        ("tf32", _) => rates.tf32,
        ("f64", _) => rates.f64,
        ("s8" | "u8", _) => rates.int8,
        ("s4" | "u4", _) => rates.int4,
        ("e4m3" | "e5m2", _) => rates.fp8,
        _ => return None,
    })
}

/// A quantity with three digits and a prefix, as a [`Report`] prints it: `2.28 Gflop`.
pub fn si(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 9] = [
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
    ];
    let fits = PREFIXES.iter().find(|(scale, _)| value >= *scale);
    let (scale, prefix) = *fits.unwrap_or(&PREFIXES[8]);
    let scaled = value / scale;
    let digits = match scaled {
        scaled if scaled < 9.995 => 2,
        scaled if scaled < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, a model and no measurement", self.gpu)?;
        let head = ["part", "work", "rate", "at least"];
        writeln!(
            f,
            "  {:<18}{:>12}{:>16}{:>12}",
            head[0], head[1], head[2], head[3]
        )?;
        let limit = self.limit().map(|limit| limit.pipe);
        for bound in &self.bounds {
            let mark = match bound.firm {
                true if limit == Some(bound.pipe) => "  <- limits",
                true => "",
                false => "  (1)",
            };
            let unit = bound.unit;
            writeln!(
                f,
                "  {:<18}{:>12}{:>16}{:>12}{mark}",
                bound.pipe,
                si(bound.work, unit),
                si(bound.rate, &format!("{unit}/s")),
                si(bound.seconds(), "s"),
            )?;
        }
        writeln!(
            f,
            "  (1) not counted as a bound: the assembler may need fewer instructions, L1 may hit"
        )?;
        writeln!(
            f,
            "  lower bound {}, by the PTX as written",
            si(self.lower_bound(), "s")
        )?;
        write!(f, "{}", self.energy)?;
        writeln!(f, "  occupancy: {}", self.occupancy)?;
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::si;

    #[test]
    fn quantities_have_three_digits() {
        for (value, text) in [
            (2.284e9, "2.28 Gx"),
            (312e12, "312 Tx"),
            (0.0, "0.00 nx"),
            (13.13e-6, "13.1 µx"),
            (999.96, "1000 x"),
            (1.0, "1.00 x"),
        ] {
            assert_eq!(si(value, "x"), text);
        }
    }
}
