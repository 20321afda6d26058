//! Energy of a launch: counts times energies per operation and byte, and power times time.
//!
//! `E = s · (Σ flops · e_flop + lanes · e_lane + shared bytes · e_shared + L2 bytes · e_L2)`
//! `  + DRAM bytes · e_DRAM + P_static · t`
//!
//! Each energy is a range, from the least to the greatest that the sources support, for a chip of
//! 7 nm; `s` scales arithmetic and on-chip memory to other processes. `t` is the lower bound of time, so
//! the static part is a lower bound too.
//!
//! Sources:
//! * Arithmetic, SRAM, DRAM at 7 nm: Jouppi et al., "Ten Lessons From Three Generations Shaped Google's
//!   TPUv4i" (ISCA 2021), table of energies per operation: f16 multiply 0.34 pJ and add 0.16 pJ, f32
//!   1.31 and 0.38 pJ, int8 0.07 and 0.007 pJ; 64 bits from 32 KB of SRAM 8.5 pJ, from 1 MB 14 pJ, from
//!   HBM2 250 to 450 pJ, from GDDR6 350 to 480 pJ. They are the lower ends.
//! * Tensor operations with their instruction: Dally, "Hardware for Deep Learning" (Hot Chips 2023,
//!   keynote), and "Domain-Specific Accelerators" (MICRO 2019, keynote): 110 pJ and 22 % for 128 flops of
//!   f16, 160 pJ and 16 % for 1024 operations of int8; about 30 pJ to fetch, decode and read operands for
//!   each lane of any other instruction, in an older process. They are the upper ends; that of lanes is
//!   brought down to 20 pJ, since 30 would be beyond the board power of an A100 that issues in every
//!   clock.
//! * DRAM: O'Connor et al., "Fine-Grained DRAM: Energy-Efficient DRAM for Extreme Bandwidth Systems"
//!   (MICRO 2017): 3.9 pJ per bit for HBM2, 14 for GDDR5.
//! * L2: its SRAM, and 10 to 20 mm of wires at about 0.1 pJ per bit and millimetre (Dally, as above).
//! * Processes: the foundries' claims of power at equal speed, from one to the next.
//! * Static power: 10 to 40 % of the board's. This is an assumption; boards idle at 10 to 20 %.

use std::fmt;

use super::{flops_of_shape, operand_of, si};
use crate::counters::LaunchStats;
use crate::gpu::Gpu;

/// Energy of a launch in joules, as a range: a model, not a measurement.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Energy {
    /// In all, from and to.
    pub joules: (f64, f64),
    /// What it is made of.
    pub parts: Vec<EnergyPart>,
}

/// One term of the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EnergyPart {
    /// What takes the energy.
    pub name: &'static str,
    /// From and to.
    pub joules: (f64, f64),
}

/// Picojoules, from and to.
type Range = (f64, f64);

const LANE: Range = (5.0, 20.0);
const F32_FLOP: Range = (0.85, 2.0);
const F64_FLOP: Range = (3.4, 8.0);
const HALF_FLOP: Range = (0.25, 0.75);
const SHARED_BYTE: Range = (1.1, 3.0);
const L2_BYTE: Range = (5.0, 20.0);
const HBM_BYTE: Range = (31.0, 56.0);
const GDDR_BYTE: Range = (44.0, 112.0);
/// Part of the board's power.
const STATIC: Range = (0.1, 0.4);

/// Of one operation of a tensor instruction; two are a multiply-add.
fn tensor_flop(operand: &str) -> Range {
    match operand {
        "f16" | "bf16" => (0.25, 1.05),
        "tf32" => (0.5, 2.1),
        "f64" => (3.4, 8.0),
        "e4m3" | "e5m2" => (0.1, 0.5),
        _ => (0.04, 0.18),
    }
}

/// Energy of a process relative to 7 nm.
fn process(nm: u32) -> f64 {
    match nm {
        ..=5 => 0.7,
        6..=7 => 1.0,
        8..=10 => 1.3,
        _ => 1.9,
    }
}

impl Energy {
    pub(super) fn of(stats: &LaunchStats, gpu: &Gpu, seconds: f64) -> Energy {
        let scale = process(gpu.process_nm);
        let part = |name, count: f64, range: Range, scale: f64| EnergyPart {
            name,
            joules: (
                count * range.0 * scale * 1e-12,
                count * range.1 * scale * 1e-12,
            ),
        };
        let counts = &stats.counts;
        let mut parts = vec![];
        for (name, count) in &stats.mma {
            let flops = flops_of_shape(name).unwrap_or(0) as f64 * *count as f64;
            let range = tensor_flop(operand_of(name).unwrap_or(""));
            parts.push(part("tensor operations", flops, range, scale));
        }
        let flops = [
            (counts.f32_flops, F32_FLOP),
            (counts.f64_flops, F64_FLOP),
            (counts.half_flops, HALF_FLOP),
        ];
        for (flops, range) in flops {
            parts.push(part("other arithmetic", flops as f64, range, scale));
        }
        let tensor: u64 = stats.mma.values().sum();
        let lanes = counts.thread_executions.saturating_sub(32 * tensor);
        parts.push(part("instructions", lanes as f64, LANE, scale));
        let shared = 128.0 * stats.shared_wavefronts as f64;
        parts.push(part("shared memory", shared, SHARED_BYTE, scale));
        let l2 = 32.0 * stats.global_sectors as f64;
        parts.push(part("L2", l2, L2_BYTE, scale));
        if let Some(traffic) = &stats.traffic {
            let bytes = (traffic.fetched_bytes + traffic.written_back_bytes) as f64;
            let range = if gpu.dram.stacked() {
                HBM_BYTE
            } else {
                GDDR_BYTE
            };
            parts.push(part("DRAM", bytes, range, 1.0));
        }
        parts.push(part(
            "static power",
            1e12 * gpu.board_watts * seconds,
            STATIC,
            1.0,
        ));
        Energy::sum(parts)
    }

    /// Joins parts of the same name.
    fn sum(parts: Vec<EnergyPart>) -> Energy {
        let mut joined: Vec<EnergyPart> = Vec::new();
        let mut joules = (0.0, 0.0);
        for part in parts.into_iter().filter(|part| part.joules.1 > 0.0) {
            joules = (joules.0 + part.joules.0, joules.1 + part.joules.1);
            match joined.iter_mut().find(|other| other.name == part.name) {
                Some(other) => {
                    other.joules.0 += part.joules.0;
                    other.joules.1 += part.joules.1;
                }
                None => joined.push(part),
            }
        }
        Energy {
            joules,
            parts: joined,
        }
    }
}

impl fmt::Display for Energy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |(low, high): (f64, f64)| format!("{} to {}", si(low, "J"), si(high, "J"));
        writeln!(
            f,
            "  energy {}: counts x energy each + static power x time",
            range(self.joules)
        )?;
        for part in &self.parts {
            writeln!(f, "    {:<18}{}", part.name, range(part.joules))?;
        }
        Ok(())
    }
}
