//! What a launch does, counted instruction by instruction.
//!
//! Every host thread counts for itself, by position in the program; what it has counted is added up
//! at the end. Sums do not depend on the order of addition, so nothing that is counted depends on how
//! blocks were shared out.

mod l2;
mod stats;
mod trace;

pub use stats::{AllocationTraffic, Counts, LaunchStats, LineStats, SourceStats, Traffic};

use crate::machine::Launch;
use crate::warning::Warnings;
use trace::Trace;

/// Counted by one host thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Executions of each instruction, by position.
    pub executed: Vec<u64>,
    /// Executions of straight lines: one more where each starts, one less (wrapping) behind its end.
    straight: Vec<u64>,
    /// What else is known of each, by position.
    pub sites: Vec<Site>,
    pub barriers: u64,
    pub warnings: Warnings,
    /// Which sectors were touched, if the launch is profiled.
    trace: Option<Box<Trace>>,
}

/// What is counted of one instruction besides its executions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Site {
    /// Executions with fewer than 32 lanes.
    pub partial: u64,
    /// Lanes that did not take part, over all executions.
    pub idle: u64,
    /// Branches that some lanes took and others did not.
    pub divergent: u64,
    pub global_bytes: u64,
    pub global_sectors: u64,
    pub global_ideal: u64,
    pub shared_wavefronts: u64,
    pub shared_ideal: u64,
}

impl Counters {
    /// Nothing counted yet. Each host thread counts in a clone.
    pub(crate) fn new(launch: &Launch<'_>) -> Counters {
        let instructions = launch.program.insts.len();
        Counters {
            executed: vec![0; instructions],
            straight: vec![0; instructions + 1],
            sites: vec![Site::default(); instructions],
            trace: launch.profile.then(|| Box::new(Trace::new(launch))),
            ..Counters::default()
        }
    }

    /// Adds straight lines to the instructions that they consist of.
    pub(crate) fn settle(&mut self) {
        let mut running = 0u64;
        for (count, change) in self.executed.iter_mut().zip(&mut self.straight) {
            running = running.wrapping_add(std::mem::take(change));
            *count += running;
        }
        self.straight.fill(0);
    }

    /// Adds what another thread has counted; both are settled.
    pub(crate) fn add(&mut self, other: &Counters) {
        for (sum, more) in self.executed.iter_mut().zip(&other.executed) {
            *sum += more;
        }
        for (sum, more) in self.sites.iter_mut().zip(&other.sites) {
            sum.add(more);
        }
        self.barriers += other.barriers;
        self.warnings.add(&other.warnings);
        if let (Some(trace), Some(more)) = (&mut self.trace, &other.trace) {
            trace.add(more);
        }
    }

    /// Lanes of a block access global memory; those that do not take part repeat others' addresses.
    #[inline(always)]
    pub(crate) fn access(&mut self, launch: &Launch<'_>, block: u64, pc: u32, at: &[u64; 32]) {
        if let (Some(trace), Some(about)) = (&mut self.trace, launch.program.about.get(pc as usize))
        {
            trace.access(block, pc, about.row, at);
        }
    }

    /// A block has ended.
    pub(crate) fn finished(&mut self, block: u64) {
        if let Some(trace) = &mut self.trace {
            trace.finished(block);
        }
    }

    /// Instruction `pc` is executed by the lanes of `active`.
    #[inline(always)]
    pub(crate) fn execute(&mut self, pc: u32, active: u32) {
        if let Some(count) = self.executed.get_mut(pc as usize) {
            *count += 1;
        }
        if active != u32::MAX {
            self.partially(pc, active);
        }
    }

    /// As many instructions from `pc` on are executed by the lanes of `active`, one after the other.
    #[inline(always)]
    pub(crate) fn execute_straight(&mut self, pc: u32, count: usize, active: u32) {
        if let Some(start) = self.straight.get_mut(pc as usize) {
            *start = start.wrapping_add(1);
        }
        if let Some(end) = self.straight.get_mut(pc as usize + count) {
            *end = end.wrapping_sub(1);
        }
        if active != u32::MAX {
            for pc in pc..pc + count as u32 {
                self.partially(pc, active);
            }
        }
    }

    /// The part of [`Counters::execute`] that full warps do not need.
    #[inline(never)]
    fn partially(&mut self, pc: u32, active: u32) {
        if let Some(site) = self.sites.get_mut(pc as usize) {
            site.partial += 1;
            site.idle += u64::from(active.count_zeros());
        }
    }

    /// Takes back an execution by these lanes, which have to wait for others.
    #[cold]
    pub(crate) fn postpone(&mut self, pc: u32, active: u32) {
        if let Some(count) = self.executed.get_mut(pc as usize) {
            *count -= 1;
        }
        if let Some(site) = self.sites.get_mut(pc as usize)
            && active != u32::MAX
        {
            site.partial -= 1;
            site.idle -= u64::from(active.count_zeros());
        }
    }

    /// What is counted of instruction `pc`.
    #[inline(always)]
    pub(crate) fn site(&mut self, pc: u32) -> Option<&mut Site> {
        self.sites.get_mut(pc as usize)
    }
}

impl Site {
    fn add(&mut self, other: &Site) {
        self.partial += other.partial;
        self.idle += other.idle;
        self.divergent += other.divergent;
        self.global_bytes += other.global_bytes;
        self.global_sectors += other.global_sectors;
        self.global_ideal += other.global_ideal;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal += other.shared_ideal;
    }
}

/// Sectors of 32 bytes that the lanes of a mask touch, and how many addresses differ. A lane touches
/// one sector, since accesses are aligned to their size.
#[inline(always)]
pub(crate) fn sectors(addresses: &[u64; 32], mask: u32) -> (u64, u64) {
    let mut sorted = true;
    let (mut sectors, mut distinct) = (1, 1);
    for lane in 1..32 {
        let (before, now) = (addresses[lane - 1], addresses[lane]);
        sorted &= before <= now;
        sectors += u64::from(before / 32 != now / 32);
        distinct += u64::from(before != now);
    }
    if sorted && mask == u32::MAX {
        return (sectors, distinct);
    }
    // Lanes outside of the mask repeat the address of one inside.
    let mut all = *addresses;
    all.sort_unstable();
    let differ = |by: fn(u64) -> u64| all.windows(2).filter(|p| by(p[0]) != by(p[1])).count();
    (
        1 + differ(|address| address / 32) as u64,
        1 + differ(|address| address) as u64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_every_order_are_those_of_the_set() {
        let check = |address: fn(u64) -> u64, expected: (u64, u64)| {
            let all = std::array::from_fn(|lane| 4096 + address(lane as u64));
            assert_eq!(sectors(&all, u32::MAX), expected);
        };
        check(|lane| 4 * lane, (4, 32));
        check(|lane| 16 + 4 * lane, (5, 32));
        check(|lane| 128 - 4 * lane, (5, 32));
        check(|lane| 4 * (lane * 7 % 32), (4, 32));
        check(|_| 64, (1, 1));
        check(|lane| 32 * (lane % 8), (8, 8));
    }
}
