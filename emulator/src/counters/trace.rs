//! Which sectors of global memory a launch touches: each counted once, and as the L2 cache sees them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::l2::{Direction, Entry, Replay};
use crate::bind::Program;
use crate::gpu::BlockResources;
use crate::isa::{Class, Row};
use crate::machine::Launch;
use crate::memory::global::Table;

/// Sectors of a page, a bit each.
const WORDS: usize = 64;
/// Bytes of a page.
const PAGE: u64 = 64 * WORDS as u64 * 32;

type Bits = [u64; WORDS];

/// What is known of the traffic of a launch. Every host thread has its own; they share the replay.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    replay: Arc<Mutex<Replay>>,
    /// Accesses of blocks that have not ended.
    logs: HashMap<u64, Vec<Entry>>,
    /// Sectors touched by each instruction, page by page.
    pages: HashMap<(u32, u64), Box<Bits>>,
}

/// What an instruction does to global memory.
pub(crate) fn direction(row: &Row) -> Direction {
    match row.opcode {
        _ if row.class == Class::Atomic => Direction::Update,
        opcode if opcode.starts_with("st") => Direction::Write,
        _ => Direction::Read,
    }
}

impl Trace {
    pub(crate) fn new(launch: &Launch<'_>) -> Trace {
        let occupancy = launch.gpu.occupancy(&BlockResources {
            threads: launch.threads(),
            registers: None,
            shared: launch.shared_bytes,
        });
        let resident = u64::from(occupancy.blocks.max(1)) * u64::from(launch.gpu.sms);
        let instructions = launch.program.insts.len();
        let replay = Replay::new(launch.gpu.l2, launch.blocks(), resident, instructions);
        Trace {
            replay: Arc::new(Mutex::new(replay)),
            logs: HashMap::new(),
            pages: HashMap::new(),
        }
    }

    /// Lanes of `block` access sectors at these addresses; those out of the mask repeat others.
    pub(crate) fn access(&mut self, block: u64, pc: u32, row: &Row, addresses: &[u64; 32]) {
        let mut sectors = addresses.map(|address| address / 32);
        sectors.sort_unstable();
        let log = self.logs.entry(block).or_default();
        let mut line = (u64::MAX, 0);
        let mut page: (u64, Option<&mut Box<Bits>>) = (u64::MAX, None);
        let direction = direction(row);
        for sector in sectors {
            let at = sector * 32 / PAGE;
            if at != page.0 {
                let bits = self.pages.entry((pc, at));
                page = (at, Some(bits.or_insert_with(|| Box::new([0; WORDS]))));
            }
            if let (_, Some(bits)) = &mut page {
                bits[sector as usize / 64 % WORDS] |= 1 << (sector % 64);
            }
            if sector / 4 != line.0 {
                if line.1 != 0 {
                    log.push(Entry::new(line.0, line.1, direction, pc));
                }
                line = (sector / 4, 0);
            }
            line.1 |= 1 << (sector % 4);
        }
        log.push(Entry::new(line.0, line.1, direction, pc));
    }

    /// A block has ended.
    pub(crate) fn finished(&mut self, block: u64) {
        let log = self.logs.remove(&block).unwrap_or_default();
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        replay.deliver(block, log);
    }

    pub(crate) fn add(&mut self, other: &Trace) {
        for (key, more) in &other.pages {
            let bits = self
                .pages
                .entry(*key)
                .or_insert_with(|| Box::new([0; WORDS]));
            for (bits, more) in bits.iter_mut().zip(more.iter()) {
                *bits |= more;
            }
        }
    }

    /// Sectors fetched into L2 by each instruction, and sectors written back in all.
    pub(crate) fn finish(&self) -> (Vec<u64>, u64) {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        replay.finish()
    }

    /// The sectors read and written by groups of instructions.
    pub(crate) fn unique<K: std::hash::Hash + Eq>(
        &self,
        program: &Program,
        group: impl Fn(usize) -> Option<K>,
    ) -> HashMap<K, Touched> {
        let mut touched: HashMap<K, Touched> = HashMap::new();
        for ((pc, page), bits) in &self.pages {
            let (Some(about), Some(key)) = (program.about.get(*pc as usize), group(*pc as usize))
            else {
                continue;
            };
            let direction = direction(about.row);
            let touched = touched.entry(key).or_default();
            if direction.reads() {
                touched.read.add(*page, bits);
            }
            if direction.writes() {
                touched.written.add(*page, bits);
            }
        }
        touched
    }
}

/// A set of sectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sectors(HashMap<u64, Box<Bits>>);

/// Sectors read and written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched {
    pub read: Sectors,
    pub written: Sectors,
}

impl Sectors {
    fn add(&mut self, page: u64, more: &Bits) {
        let bits = self.0.entry(page).or_insert_with(|| Box::new([0; WORDS]));
        for (bits, more) in bits.iter_mut().zip(more) {
            *bits |= more;
        }
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        let sectors = |bits: &Bits| bits.iter().map(|word| word.count_ones()).sum::<u32>();
        self.0
            .values()
            .map(|bits| 32 * u64::from(sectors(bits)))
            .sum()
    }

    /// Calls `f` with the base of an allocation and bytes of sectors that lie in it.
    pub(crate) fn by_allocation(&self, table: &Table, mut f: impl FnMut(u64, u64)) {
        for (page, bits) in &self.0 {
            for (index, word) in bits.iter().enumerate().filter(|(_, word)| **word != 0) {
                let at = |bit: u32| page * PAGE + (64 * index as u64 + u64::from(bit)) * 32;
                let base = |bit: u32| table.find(at(bit) + 31).or(table.find(at(bit)));
                let first = base(word.trailing_zeros()).map(|a| a.base);
                if first == base(63 - word.leading_zeros()).map(|a| a.base) {
                    if let Some(base) = first {
                        f(base, 32 * u64::from(word.count_ones()));
                    }
                    continue;
                }
                for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                    if let Some(allocation) = base(bit) {
                        f(allocation.base, 32);
                    }
                }
            }
        }
    }
}
