//! The machine: runs a program's blocks on host threads.
//!
//! Blocks that cannot watch each other run on as many threads as there are; what they count is
//! added up afterwards, and if they turn out to race, the launch is repeated on one thread: every result
//! is the seed's alone. If a kernel has global atomics that return something, or polls memory, one thread
//! interleaves its blocks.

mod block;
mod lanes;
mod step;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::bind::Program;
use crate::counters::Counters;
use crate::device::{Checks, MmaMode};
use crate::gpu::{BlockResources, Gpu};
use crate::memory::global::{Memory, Table};
use crate::memory::hostile::Hostile;
use crate::memory::location::Locations;
use crate::memory::order::Order;
use crate::memory::pages::{Journal, Pages};
use crate::violation::{EmulatorError, Fault, Kind};

use block::{Block, Progress};

/// What all blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub program: &'a Program,
    pub memory: &'a Memory,
    pub table: &'a Table,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Shared memory of a block in all.
    pub shared_bytes: u32,
    pub gpu: &'a Gpu,
    /// Whether sectors of memory are traced.
    pub profile: bool,
    pub checks: Checks,
    pub mma: MmaMode,
    pub seed: u64,
    /// What others may change while the kernel runs.
    pub hostile: Hostile,
    /// Where pages are kept before they are written, if the launch may have to be repeated.
    pub journal: Option<Journal>,
    /// Warp instructions that a block may run.
    pub budget: u64,
    /// Local memory of a thread for calls that are not expanded, in bytes.
    pub stack: u32,
    /// Whether lanes meet again where their branches join.
    pub reconverge: bool,
    /// What blocks have printed.
    pub printed: Mutex<Vec<(u64, String)>>,
}

impl Launch<'_> {
    pub(crate) fn blocks(&self) -> u64 {
        self.grid.iter().map(|extent| u64::from(*extent)).product()
    }

    /// Coordinates in the grid of the block with this index.
    pub(crate) fn coordinates(&self, block: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(|extent| u64::from(extent.max(1)));
        [block % x, block / x % y, block / (x * y)].map(|c| c as u32)
    }

    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Local memory of a thread.
    pub(crate) fn local_bytes(&self) -> u32 {
        let fixed = self.program.local_bytes;
        match self.program.stacks {
            false => fixed,
            true => fixed.next_multiple_of(16).saturating_add(self.stack),
        }
    }

    /// Keeps what a block prints.
    pub(crate) fn print(&self, block: u64, text: String) {
        let printed = self.printed.lock();
        let mut printed = printed.unwrap_or_else(std::sync::PoisonError::into_inner);
        printed.push((block, text));
    }

    /// All that was printed, ordered by blocks unless these could watch each other.
    pub(crate) fn output(&mut self) -> String {
        let printed = self.printed.get_mut();
        let printed = printed.unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.program.communicates {
            printed.sort_by_key(|(block, _)| *block);
        }
        printed.drain(..).map(|(_, text)| text).collect()
    }

    /// The text that ends with a zero byte at a generic address.
    pub(crate) fn text(&self, address: u64) -> Option<String> {
        let allocation = self.table.find(address)?;
        let first = (address - allocation.base) as usize;
        let bytes = (first..first.saturating_add(1024).min(allocation.size as usize))
            .map(|at| allocation.part(at, 1) as u8)
            .take_while(|byte| *byte != 0);
        Some(String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned())
    }
}

/// What a barrier instruction asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Request {
    pub id: u32,
    /// Number of threads, or `None` for all of the block.
    pub threads: Option<u32>,
    /// `arrive`: does not wait.
    pub arrive: bool,
    pub reduce: Option<Reduce>,
    /// Lanes whose predicate is true.
    pub votes: u32,
    /// Where the result of a reduction goes.
    pub slot: u16,
}

/// Reduction of a predicate over a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduce {
    Count,
    And,
    Or,
}

/// How a launch failed: the block, the warp, the position, and the fault.
pub(crate) struct Failure {
    pub block: u64,
    pub warp: usize,
    pub pc: u32,
    pub fault: Fault,
}

/// A failure of the program, or of the emulator.
pub(crate) enum Stop {
    Program(Box<Failure>),
    Emulator(EmulatorError),
}

/// Warp instructions per block, without a write to global memory, after which blocks that wait for room
/// are taken to be waited for.
const STANDSTILL: u64 = 1 << 22;
/// Stream of the seed that says whether loads are reordered.
const REORDER: u64 = u64::MAX - 1;

/// What the blocks of a worker share: their order in time, and what they have touched.
pub(crate) struct Domain {
    pub order: Order,
    pub pages: Pages,
    pub locations: Locations,
    /// Whether blocks can watch each other.
    interleaved: bool,
    /// Writes to global memory that may have told somebody something.
    pub changes: u64,
    /// Whether relaxed loads may take effect late.
    pub reorders: bool,
}

impl Domain {
    fn new(launch: &Launch<'_>) -> Domain {
        Domain {
            order: Order::new(launch.threads().div_ceil(32) as usize),
            pages: Pages::default(),
            locations: Locations::default(),
            interleaved: launch.program.communicates,
            changes: 0,
            reorders: launch.program.communicates
                && Random::new(launch.seed, REORDER).below(2) == 0,
        }
    }

    /// A block starts in a slot.
    fn start(&mut self, slot: usize, block: u64) {
        self.order.start(slot, block);
        if !self.interleaved {
            self.locations.clear();
        }
    }
}

/// Runs all blocks.
pub(crate) fn run(launch: &mut Launch<'_>, threads: usize) -> Result<Counters, Stop> {
    let blocks = launch.blocks();
    let threads = match launch.program.communicates {
        true => 1,
        false => threads.min(blocks.max(1) as usize).max(1),
    };
    if threads == 1 {
        return Workers::new(launch).run(launch, 1).0;
    }
    launch.journal = launch.checks.race.then(Journal::default);
    let (result, clash) = Workers::new(launch).run(launch, threads);
    if !clash {
        return result;
    }
    // Which of two racing blocks came first was the host's choice. On one thread it is the seed's.
    if let Some(journal) = launch.journal.take() {
        journal.undo(launch.table);
    }
    Workers::new(launch).run(launch, 1).0
}

/// What the host threads of a launch share.
struct Workers {
    next: AtomicU64,
    /// The first block that fails: later ones need not run, earlier ones must.
    failed: AtomicU64,
    first: Mutex<Option<Stop>>,
    /// Nothing counted yet.
    none: Counters,
    /// What those who are done have counted and touched.
    done: Mutex<(Option<Counters>, Vec<Pages>)>,
}

impl Workers {
    fn new(launch: &Launch<'_>) -> Workers {
        Workers {
            next: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            first: Mutex::new(None),
            none: Counters::new(launch),
            done: Mutex::default(),
        }
    }

    /// Runs all blocks; says too whether those of different threads have raced.
    fn run(self, launch: &Launch<'_>, threads: usize) -> (Result<Counters, Stop>, bool) {
        if threads == 1 {
            self.work(launch);
        } else {
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| self.work(launch));
                }
                self.work(launch);
            });
        }
        let stop = self
            .first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (counters, pages) = self
            .done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let raced = |stop: &Stop| match stop {
            Stop::Program(failure) => failure.fault.other.is_some(),
            Stop::Emulator(_) => false,
        };
        let clash = threads > 1
            && launch.checks.race
            && (stop.as_ref().is_some_and(raced)
                || (1..pages.len()).any(|n| pages[..n].iter().any(|other| pages[n].clash(other))));
        let counters = counters.unwrap_or(self.none);
        (stop.map_or(Ok(counters), Err), clash)
    }

    fn fail(&self, block: u64, stop: Stop) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if block < self.failed.load(Relaxed) {
            self.failed.store(block, Relaxed);
            *first = Some(stop);
        }
    }

    /// What one thread does.
    fn work(&self, launch: &Launch<'_>) {
        let mut counters = self.none.clone();
        let mut domain = Domain::new(launch);
        if launch.program.communicates {
            if let Err((block, stop)) = interleave(launch, &mut domain, &mut counters) {
                self.fail(block, stop);
            }
        } else {
            self.blocks(launch, &mut domain, &mut counters);
        }
        counters.settle();
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut done.0 {
            Some(total) => total.add(&counters),
            none => *none = Some(counters),
        }
        done.1.push(domain.pages);
    }

    /// Runs blocks one after the other, as long as there are any.
    fn blocks(&self, launch: &Launch<'_>, domain: &mut Domain, counters: &mut Counters) {
        let mut block: Option<Block> = None;
        loop {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= launch.blocks() || index > self.failed.load(Relaxed) {
                break;
            }
            let block = match &mut block {
                Some(block) => {
                    block.start(launch, domain, index);
                    block
                }
                None => block.insert(Block::new(launch, domain, 0, index)),
            };
            loop {
                match block.step(launch, domain, counters) {
                    Ok(Progress::Ran) => {}
                    Ok(Progress::Done) => {
                        counters.finished(index);
                        break;
                    }
                    Err(stop) => {
                        self.fail(index, stop);
                        break;
                    }
                }
            }
        }
    }
}

/// Runs blocks that may watch each other: as many at once as the device would hold, in turns that the
/// seed draws.
fn interleave(
    launch: &Launch<'_>,
    domain: &mut Domain,
    counters: &mut Counters,
) -> Result<(), (u64, Stop)> {
    let blocks = launch.blocks();
    let resident = resident_blocks(launch).min(blocks) as usize;
    let mut random = Random::new(launch.seed, u64::MAX);
    let mut next = 0;
    let mut running: Vec<Block> = Vec::new();
    while next < blocks && running.len() < resident {
        running.push(Block::new(launch, domain, running.len(), next));
        next += 1;
    }
    let patience = STANDSTILL.min(launch.budget / 2) * resident as u64;
    let (mut idle, mut changes) = (0, 0);
    while !running.is_empty() {
        let at = random.below(running.len() as u64) as usize;
        let block = &mut running[at];
        if domain.changes != changes || next >= blocks {
            (idle, changes) = (0, domain.changes);
        } else if idle > patience {
            let (left, resident) = (blocks - next, resident as u64);
            return Err((
                block.index,
                block.endless(Kind::NotResident {
                    left,
                    blocks,
                    resident,
                }),
            ));
        }
        let before = block.executed();
        match block.step(launch, domain, counters) {
            Ok(Progress::Ran) => idle += block.executed() - before,
            Ok(Progress::Done) => {
                idle = 0;
                counters.finished(block.index);
                if next < blocks {
                    block.start(launch, domain, next);
                    next += 1;
                } else {
                    running.swap_remove(at);
                }
            }
            Err(stop) => return Err((block.index, stop)),
        }
    }
    Ok(())
}

/// How many blocks the device holds at once, as far as threads and shared memory tell.
fn resident_blocks(launch: &Launch<'_>) -> u64 {
    let gpu = launch.gpu;
    let occupancy = gpu.occupancy(&BlockResources {
        threads: launch.threads(),
        registers: None,
        shared: launch.shared_bytes,
    });
    u64::from(occupancy.blocks.max(1)) * u64::from(gpu.sms)
}

/// A small generator of random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The generator of a stream of a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Puts things in a random order.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            things.swap(end, self.below(end as u64 + 1) as usize);
        }
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
