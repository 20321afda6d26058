//! A block: its warps in turns that the seed draws, and its barriers.

use super::lanes::{Groups, State};
use super::step::{Left, Wrong, run_group};
use super::{Domain, Failure, Launch, Random, Reduce, Request, Stop};
use crate::bind::Special;
use crate::counters::Counters;
use crate::memory::bytes::Bytes;
use crate::memory::defer::Deferred;
use crate::memory::mbarrier::Poll;
use crate::memory::order::Joined;
use crate::memory::shared::Shared;
use crate::violation::{EmulatorError, Fault, Kind};
use crate::warp::{Register, Registers, Warp};

/// Least number of instructions that a warp runs in a turn; a random number up to as many comes on
/// top.
const TURN: u64 = 256;

/// How often the threads of a block, for each group of them, ask an `mbarrier` in vain until nobody is left
/// who could make them stop.
const HOPELESS: u64 = 2048;

/// A warp between its turns.
struct WarpState {
    registers: Registers,
    groups: Groups,
    local: Vec<Bytes>,
    deferred: Deferred,
}

/// A barrier of the block.
#[derive(Debug, Clone, Default)]
struct Barrier {
    /// Number of threads it was used with, once somebody has arrived.
    threads: Option<Option<u32>>,
    /// Lanes that have arrived, by warp.
    arrived: Vec<u32>,
    /// Warps of which lanes wait.
    waiting: Vec<usize>,
    /// What the arrived know.
    joined: Joined,
    reduce: Option<Reduce>,
    votes: u32,
}

/// A block of threads.
pub(super) struct Block {
    pub index: u64,
    /// Its place among the blocks that the worker runs.
    slot: usize,
    coordinates: [u32; 3],
    shared: Shared,
    warps: Vec<WarpState>,
    barriers: [Barrier; 16],
    random: Random,
    executed: u64,
}

/// What came of a step.
pub(super) enum Progress {
    /// A warp has run.
    Ran,
    /// All threads have exited.
    Done,
}

impl Block {
    pub(super) fn new(launch: &Launch<'_>, domain: &mut Domain, slot: usize, index: u64) -> Block {
        let warps = launch.threads().div_ceil(32) as usize;
        let [n32, n64, p] = launch.program.layout.slots.map(usize::from);
        let constants = &launch.program.constants;
        let (mut r32, mut r64) = (
            vec![Register::unwritten(); n32],
            vec![Register::unwritten(); n64],
        );
        r32.extend_from_slice(&constants.k32);
        r64.extend_from_slice(&constants.k64);
        let state = || WarpState {
            registers: Registers {
                r32: r32.clone(),
                r64: r64.clone(),
                p: vec![0; p],
                vp: vec![0; p],
                carry: 0,
                calls: Vec::new(),
                stack: Vec::new(),
            },
            groups: Groups::default(),
            local: match launch.local_bytes() {
                0 => Vec::new(),
                bytes => vec![Bytes::new(bytes); 32],
            },
            deferred: Deferred::default(),
        };
        let mut block = Block {
            index,
            slot,
            coordinates: [0; 3],
            shared: Shared::new(launch.shared_bytes, launch.checks.race, warps),
            warps: (0..warps).map(|_| state()).collect(),
            barriers: Default::default(),
            random: Random::new(launch.seed, index),
            executed: 0,
        };
        block.start(launch, domain, index);
        block
    }

    /// Makes it the block of this index, before its first instruction.
    pub(super) fn start(&mut self, launch: &Launch<'_>, domain: &mut Domain, index: u64) {
        domain.start(self.slot, index);
        self.index = index;
        self.coordinates = launch.coordinates(index);
        self.random = Random::new(launch.seed, index);
        self.executed = 0;
        self.shared.reset();
        self.barriers = Default::default();
        for (number, warp) in self.warps.iter_mut().enumerate() {
            let threads = launch.threads() - number as u32 * 32;
            warp.groups.start(if threads >= 32 {
                u32::MAX
            } else {
                (1 << threads) - 1
            });
            warp.deferred.reset();
            for local in &mut warp.local {
                local.reset();
            }
            let registers = &mut warp.registers;
            let [n32, n64, _] = launch.program.layout.slots.map(usize::from);
            for register in registers.r32.iter_mut().take(n32) {
                register.valid = 0;
            }
            for register in registers.r64.iter_mut().take(n64) {
                register.valid = 0;
            }
            registers.vp.fill(0);
            registers.calls.clear();
            registers.stack.clear();
            for fixed in 0..2.min(registers.p.len()) {
                registers.p[fixed] = u32::MAX;
                registers.vp[fixed] = u32::MAX;
            }
            for (special, slot) in &launch.program.layout.specials {
                let slot = usize::from(*slot);
                if let Some(register) = registers.r32.get_mut(slot) {
                    for (lane, value) in register.lanes.0.iter_mut().enumerate() {
                        *value = special_value(
                            *special,
                            launch,
                            self.coordinates,
                            number as u32,
                            lane as u32,
                        );
                    }
                    register.valid = u32::MAX;
                }
            }
        }
    }

    /// Lets a warp have its turn.
    pub(super) fn step(
        &mut self,
        launch: &Launch<'_>,
        domain: &mut Domain,
        counters: &mut Counters,
    ) -> Result<Progress, Stop> {
        let runnable = self
            .warps
            .iter()
            .filter(|warp| warp.groups.runnable())
            .count();
        if runnable == 0 {
            if self.warps.iter().all(|warp| warp.groups.list.is_empty()) {
                return Ok(Progress::Done);
            }
            return Err(self.stuck(launch));
        }
        if self.executed > launch.budget {
            return Err(self.endless(Kind::Budget(self.executed)));
        }
        let nth = self.random.below(runnable as u64) as usize;
        let chosen = self
            .warps
            .iter()
            .enumerate()
            .filter(|(_, warp)| warp.groups.runnable())
            .nth(nth);
        let Some((at, _)) = chosen else {
            return Ok(Progress::Ran);
        };
        // Where blocks watch each other, short turns now and then, so that they meet in the middle.
        let turn = match domain.interleaved.then(|| self.random.below(4)) {
            Some(0) => 1 + self.random.below(8),
            Some(1) => 1 + self.random.below(64),
            _ => TURN + self.random.below(TURN),
        };
        self.turn(at, turn, launch, domain, counters)?;
        Ok(Progress::Ran)
    }

    /// Warp instructions that it has run.
    pub(super) fn executed(&self) -> u64 {
        self.executed
    }

    /// A failure of the block as a whole, told where one of its warps is.
    pub(super) fn endless(&self, kind: Kind) -> Stop {
        let runs = |warp: &WarpState| warp.groups.runnable();
        let at = self.warps.iter().position(runs).unwrap_or(0);
        let group = self.warps.get(at).and_then(|warp| warp.groups.list.first());
        let (pc, lanes) = group.map_or((0, 0), |group| (group.pc, group.mask));
        self.failure(at, pc, kind, lanes)
    }

    fn failure(&self, warp: usize, pc: u32, kind: Kind, lanes: u32) -> Stop {
        let fault = Fault {
            kind,
            lanes,
            address: None,
            other: None,
        };
        Stop::Program(Box::new(Failure {
            block: self.index,
            warp,
            pc,
            fault,
        }))
    }

    /// Runs warp `at` until it waits, ends, or has had its turn.
    fn turn(
        &mut self,
        at: usize,
        turn: u64,
        launch: &Launch<'_>,
        domain: &mut Domain,
        counters: &mut Counters,
    ) -> Result<(), Stop> {
        let Some(state) = self.warps.get_mut(at) else {
            return Ok(());
        };
        let mut warp = Warp {
            regs: &mut state.registers,
            launch,
            shared: &mut self.shared,
            local: &mut state.local,
            domain,
            slot: self.slot,
            manner: 0,
            deferred: &mut state.deferred,
            copying: false,
            counters,
            random: &mut self.random,
            block: self.index,
            index: at,
            pc: 0,
            live: state.groups.live,
            clock: self.executed,
            targets: [0; 32],
            barrier: Request::default(),
            fault: None,
        };
        let end = self.executed.saturating_add(turn);
        let mut arrivals = Vec::new();
        let mut exits = false;
        while warp.clock < end {
            let (taken, until) = match launch.reconverge {
                true => (state.groups.take(), end),
                false => {
                    let until = warp.clock + 1 + warp.random.below(64);
                    (state.groups.take_any(warp.random), end.min(until))
                }
            };
            let Some((group, stop)) = taken else {
                break;
            };
            let left = run_group(&mut warp, group, stop, until, &mut state.groups);
            warp.live = state.groups.live;
            match left {
                Ok(Left::Somewhere) => {}
                Ok(Left::Exited) => exits = true,
                Ok(Left::Waiting) => break,
                Ok(Left::Barrier(mask)) => {
                    arrivals.push((warp.barrier, mask, warp.pc));
                    // Others of the warp may have to see what the barrier does first.
                    break;
                }
                Err(error) => {
                    let (block, pc) = (self.index, warp.pc);
                    return Err(match error {
                        Wrong::Program(fault) => Stop::Program(Box::new(Failure {
                            block,
                            warp: at,
                            pc,
                            fault: *fault,
                        })),
                        Wrong::Emulator(text) => Stop::Emulator(EmulatorError(text)),
                    });
                }
            }
        }
        self.executed = warp.clock;
        if self.shared.mbarriers.polls.count >= HOPELESS {
            self.hopeless(launch)?;
        }
        for (request, mask, pc) in arrivals {
            counters.barriers += 1;
            self.arrive(domain, at, mask, &request)
                .map_err(|kind| self.failure(at, pc, kind, mask))?;
        }
        if exits {
            for id in 0..16 {
                self.release(domain, id)
                    .map_err(|kind| self.failure(at, 0, kind, 0))?;
            }
        }
        Ok(())
    }

    /// Lanes of a warp come to a barrier.
    fn arrive(
        &mut self,
        domain: &mut Domain,
        at: usize,
        mask: u32,
        request: &Request,
    ) -> Result<(), Kind> {
        let (warps, id) = (self.warps.len(), request.id);
        let Some(barrier) = self.barriers.get_mut(id as usize) else {
            return Err(Kind::BadBarrier {
                id,
                reason: "there are only barriers 0 to 15".into(),
            });
        };
        let bad = |reason: String| Err(Kind::BadBarrier { id, reason });
        barrier.arrived.resize(warps, 0);
        match barrier.threads {
            Some(threads) if threads != request.threads => {
                let name = |n: Option<u32>| n.map_or("all".to_string(), |n| n.to_string());
                let (first, now) = (name(threads), name(request.threads));
                return bad(format!(
                    "used with {first} threads and with {now} at the same time"
                ));
            }
            _ => barrier.threads = Some(request.threads),
        }
        if barrier.arrived[at] & mask != 0 {
            return bad("a thread arrives a second time before the others have arrived".into());
        }
        if barrier.reduce.is_some() && barrier.reduce != request.reduce {
            return bad("used with different reductions at the same time".into());
        }
        if request.reduce.is_some() {
            let votes = (request.votes & mask).count_ones();
            barrier.votes += match request.reduce {
                Some(Reduce::And) => mask.count_ones() - votes,
                _ => votes,
            };
            barrier.reduce = request.reduce;
        }
        barrier.arrived[at] |= mask;
        domain
            .order
            .arrive(self.slot, at, request.arrive, &mut barrier.joined);
        if !request.arrive && !barrier.waiting.contains(&at) {
            barrier.waiting.push(at);
        }
        self.release(domain, id)
    }

    /// Lets go those who wait at a barrier, if it is complete.
    fn release(&mut self, domain: &mut Domain, id: u32) -> Result<(), Kind> {
        let Some(barrier) = self.barriers.get_mut(id as usize) else {
            return Ok(());
        };
        let Some(threads) = barrier.threads else {
            return Ok(());
        };
        let lanes = |at: usize| self.warps.get(at).map_or(0, |warp| warp.groups.live);
        match threads {
            None => {
                if (0..self.warps.len())
                    .any(|at| lanes(at) & !barrier.arrived.get(at).copied().unwrap_or(0) != 0)
                {
                    return Ok(());
                }
            }
            Some(threads) => {
                // A warp of which all that live have arrived counts in full.
                let count = |(at, arrived): (usize, &u32)| match arrived {
                    0 => 0,
                    arrived if lanes(at) & !arrived == 0 => 32,
                    arrived => arrived.count_ones(),
                };
                let arrived: u32 = barrier.arrived.iter().enumerate().map(count).sum();
                if arrived > threads {
                    let reason =
                        format!("{arrived} threads have arrived, it was used with {threads}");
                    return Err(Kind::BadBarrier { id, reason });
                }
                if arrived < threads {
                    return Ok(());
                }
            }
        }
        let barrier = std::mem::take(barrier);
        let exited: Vec<usize> = (0..self.warps.len()).filter(|at| lanes(*at) == 0).collect();
        let mut joined = barrier.joined;
        domain
            .order
            .release(self.slot, &barrier.waiting, &exited, &mut joined);
        for at in barrier.waiting {
            let Some(warp) = self.warps.get_mut(at) else {
                continue;
            };
            warp.groups.release(id, |slot, mask| match barrier.reduce {
                Some(Reduce::Count) => {
                    if let Some(register) = warp.registers.r32.get_mut(usize::from(slot)) {
                        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
                            register.lanes.0[lane] = barrier.votes;
                        }
                        register.valid |= mask;
                    }
                }
                Some(reduce) => {
                    let truth = if reduce == Reduce::And {
                        barrier.votes == 0
                    } else {
                        barrier.votes != 0
                    };
                    if let (Some(bits), Some(valid)) = (
                        warp.registers.p.get_mut(usize::from(slot)),
                        warp.registers.vp.get_mut(usize::from(slot)),
                    ) {
                        *bits = if truth { *bits | mask } else { *bits & !mask };
                        *valid |= mask;
                    }
                }
                None => {}
            });
        }
        Ok(())
    }

    /// Fails if all threads that could run do nothing but ask `mbarrier` objects for phases that nobody will
    /// complete.
    #[cold]
    fn hopeless(&self, launch: &Launch<'_>) -> Result<(), Stop> {
        let polls = &self.shared.mbarriers.polls;
        let ready = |at: usize| {
            let groups = self.warps[at].groups.list.iter();
            groups.filter(|group| group.state == State::Ready)
        };
        let mut count = 0;
        for at in 0..self.warps.len() {
            let own = |poll: &&Poll| poll.warp == at;
            let asks = polls
                .list
                .iter()
                .filter(own)
                .fold(0, |m, poll| m | poll.lanes);
            count += ready(at).count() as u64;
            if ready(at).any(|group| group.mask & !asks != 0) {
                return Ok(());
            }
        }
        // A loop that does more than ask may yet come to an end.
        let steps = self.executed.saturating_sub(polls.since.0);
        let Some(first) = polls.list.first() else {
            return Ok(());
        };
        if polls.count < HOPELESS * count || steps > 64 * polls.count {
            return Ok(());
        }
        let line = |pc: u32| launch.program.about.get(pc as usize).map_or(0, |a| a.line);
        let tell = |poll: &Poll| {
            let what = self.shared.mbarriers.lacks(poll.offset);
            let (warp, lanes, line) = (poll.warp, poll.lanes, line(poll.pc));
            format!("warp {warp} lanes {lanes:#010x} for {what} (PTX line {line})")
        };
        let waiting: Vec<String> = polls.list.iter().map(tell).collect();
        let waiting = waiting.join("; ");
        let (warp, pc, lanes) = (first.warp, first.pc, first.lanes);
        Err(self.failure(warp, pc, Kind::Deadlock { waiting }, lanes))
    }

    /// Why no warp can go on.
    fn stuck(&self, launch: &Launch<'_>) -> Stop {
        let mut waiting = Vec::new();
        let mut first = None;
        for (at, warp) in self.warps.iter().enumerate() {
            for group in &warp.groups.list {
                let line = launch
                    .program
                    .about
                    .get(group.pc as usize)
                    .map_or(0, |about| about.line);
                let what = match group.state {
                    State::Barrier(id) => format!("at barrier {id}"),
                    _ => "for other lanes of the warp".to_string(),
                };
                waiting.push(format!(
                    "warp {at} lanes {:#010x} {what} (PTX line {line})",
                    group.mask
                ));
                let alone = group.state == State::Together && !warp.groups.at_barrier();
                if first.is_none() || alone && !matches!(first, Some((_, _, _, true))) {
                    first = Some((at, group.pc, group.mask, alone));
                }
            }
        }
        let (at, pc, mask, alone) = first.unwrap_or((0, 0, 0, false));
        if alone {
            let live = self.warps.get(at).map_or(0, |warp| warp.groups.live);
            let missing = live & !mask;
            let reason = if missing == 0 {
                "they have exited".to_string()
            } else {
                format!("they wait elsewhere: {}", waiting.join("; "))
            };
            return self.failure(at, pc, Kind::LanesMissing { missing, reason }, mask);
        }
        self.failure(
            at,
            pc,
            Kind::Deadlock {
                waiting: waiting.join("; "),
            },
            mask,
        )
    }
}

/// Value of a special register.
fn special_value(
    special: Special,
    launch: &Launch<'_>,
    block: [u32; 3],
    warp: u32,
    lane: u32,
) -> u32 {
    let thread = warp * 32 + lane;
    let [x, y, _] = launch.block.map(|extent| extent.max(1));
    let axis = |values: [u32; 3], n: usize| values.get(n).copied().unwrap_or(0);
    match special {
        Special::Tid(n) => axis([thread % x, thread / x % y, thread / x / y], n),
        Special::Ntid(n) => axis(launch.block, n),
        Special::Ctaid(n) => axis(block, n),
        Special::Nctaid(n) => axis(launch.grid, n),
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NWarpId => launch.gpu.threads_per_sm / 32,
        Special::SmId => block[0] % launch.gpu.sms.max(1),
        Special::NSmId => launch.gpu.sms,
        Special::GridId => 1,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskGe => u32::MAX << lane,
        Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
        Special::DynamicShared => launch.dynamic_shared,
        Special::TotalShared => launch.shared_bytes,
    }
}
