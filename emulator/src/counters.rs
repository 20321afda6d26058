//! What a launch did, counted.

use std::collections::BTreeMap;

use crate::bind::Program;
use crate::isa::Class;
use crate::warning::{Warning, Warnings};

/// Counted by one worker; sums do not depend on the order in which they are added up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Executions of each instruction, by position.
    pub executed: Vec<u64>,
    pub global_bytes: u64,
    pub global_sectors: u64,
    pub shared_wavefronts: u64,
    pub shared_ideal: u64,
    pub barriers: u64,
    pub warnings: Warnings,
}

impl Counters {
    pub(crate) fn new(program: &Program) -> Counters {
        Counters {
            executed: vec![0; program.insts.len()],
            ..Counters::default()
        }
    }

    pub(crate) fn add(&mut self, other: &Counters) {
        for (sum, more) in self.executed.iter_mut().zip(&other.executed) {
            *sum += more;
        }
        self.global_bytes += other.global_bytes;
        self.global_sectors += other.global_sectors;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal += other.shared_ideal;
        self.barriers += other.barriers;
        self.warnings.add(&other.warnings);
    }
}

/// What a launch did. All of it is counted, none of it is a time.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LaunchStats {
    /// Instructions, each counted once per warp (and once per group of lanes where they diverge).
    pub warp_instructions: u64,
    /// The same by execution unit, in the order of [`Class::ALL`].
    pub by_class: Vec<(Class, u64)>,
    /// Tensor operations per warp, by shape and types as in the opcode: `m16n8k16.f32.f16.f16.f32`.
    pub mma: BTreeMap<String, u64>,
    /// Floating-point operations of the tensor operations: two per multiply-add.
    pub tensor_flops: u64,
    /// Bytes of global memory that instructions asked for.
    pub global_bytes: u64,
    /// Sectors of 32 bytes of global memory, counted once per warp instruction.
    pub global_sectors: u64,
    /// Passes through shared memory.
    pub shared_wavefronts: u64,
    /// Passes beyond those that the same accesses would need without bank conflicts.
    pub bank_conflicts: u64,
    /// Barriers, counted once per warp.
    pub barriers: u64,
    /// What works but should not be relied on, by PTX line.
    pub warnings: Vec<Warning>,
}

impl LaunchStats {
    pub(crate) fn new(program: &Program, counters: &Counters) -> LaunchStats {
        let mut classes = BTreeMap::new();
        let mut stats = LaunchStats {
            global_bytes: counters.global_bytes,
            global_sectors: counters.global_sectors,
            shared_wavefronts: counters.shared_wavefronts,
            bank_conflicts: counters
                .shared_wavefronts
                .saturating_sub(counters.shared_ideal),
            barriers: counters.barriers,
            ..LaunchStats::default()
        };
        for ((about, inst), count) in program
            .about
            .iter()
            .zip(&program.insts)
            .zip(&counters.executed)
        {
            stats.warp_instructions += count;
            *classes.entry(about.row.class).or_insert(0) += count;
            if about.row.class == Class::Tensor {
                let (shape, flops) = crate::isa::matrix::describe(inst);
                *stats.mma.entry(shape).or_insert(0) += count;
                stats.tensor_flops += flops * count;
            }
        }
        stats.mma.retain(|_, count| *count != 0);
        stats.by_class = Class::ALL
            .into_iter()
            .map(|class| (class, classes.get(&class).copied().unwrap_or(0)))
            .collect();
        stats
    }

    /// Instructions of one execution unit.
    pub fn class(&self, class: Class) -> u64 {
        self.by_class
            .iter()
            .find(|(c, _)| *c == class)
            .map_or(0, |(_, count)| *count)
    }
}
