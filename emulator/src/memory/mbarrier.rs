//! `mbarrier` objects: barriers that lie in shared memory and count arrivals, phase by phase.
//!
//! An object waits for a number of arrivals; the last one completes the phase and starts the next. Who
//! arrives releases what it did so far, who finds a phase completed acquires what its arrivals have
//! released. As the ISA has it these operations are atomic, so they do not race with each other, but all
//! of them have to be ordered with the plain writes that initialisation and invalidation are.
//!
//! What `arrive` returns is opaque: its bits are mixed with the seed, and say enough to find out where it
//! does not belong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access::lanes_of;
use super::order::scope;
use super::shared::Kept;
use super::view::View;
use super::{SHARED_BASE, Window};
use crate::isa::async_copy;
use crate::machine::Random;
use crate::violation::{Access, Fault, Kind};
use crate::warp::Warp;

/// Bytes of an object.
pub(crate) const BYTES: u32 = 8;
/// Most arrivals that a phase can wait for.
const MOST: u32 = (1 << 20) - 1;
/// Stream of the seed that states are mixed with.
const STATES: u64 = u64::MAX - 2;

/// An object.
#[derive(Debug, Clone, Default)]
struct Mbarrier {
    /// How many objects there were before it.
    number: u64,
    /// Phases that were completed.
    phase: u64,
    /// Arrivals that the phase still waits for.
    pending: u32,
    /// Arrivals that the next one will wait for.
    expected: u32,
    /// What the arrivals of this phase have released.
    arrived: Arc<View>,
    /// What those of the last one had.
    completed: Arc<View>,
    /// Arrivals that copies will make.
    tracked: Vec<Tracked>,
}

/// Copies of a warp that arrive when they are done.
#[derive(Debug, Clone, Copy)]
struct Tracked {
    warp: usize,
    lanes: u32,
    /// The copies are those with a number below this.
    before: u64,
    /// Its instruction.
    pc: u32,
}

/// Lanes that have found a phase incomplete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll {
    pub warp: usize,
    pub pc: u32,
    pub lanes: u32,
    pub offset: u32,
}

/// How often the threads of a block have asked in vain since anything has happened to its objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Polls {
    pub count: u64,
    /// The block's clock, and the writes to global memory, when they began.
    pub since: (u64, u64),
    pub list: Vec<Poll>,
}

/// The objects of a block, by their offset in shared memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mbarriers {
    objects: BTreeMap<u32, Mbarrier>,
    made: u64,
    pub polls: Polls,
}

impl Mbarriers {
    pub(super) fn reset(&mut self) {
        self.objects.clear();
        self.made = 0;
        self.polls = Polls::default();
    }

    /// What a phase that lanes ask for in vain waits for.
    pub(crate) fn lacks(&self, offset: u32) -> String {
        match self.objects.get(&offset) {
            Some(object) => format!(
                "phase {} of the mbarrier at {:#x}, which lacks {} of {} arrivals",
                object.phase,
                offset + SHARED_BASE,
                object.pending,
                object.expected
            ),
            None => "an mbarrier".to_string(),
        }
    }
}

impl Mbarrier {
    /// Counts arrivals, of which the last may complete the phase.
    fn arrive(&mut self, count: u32, released: &Arc<View>) {
        View::join_shared(&mut self.arrived, released);
        self.pending -= count;
        if self.pending == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.completed = std::mem::take(&mut self.arrived);
        }
    }
}

/// What `arrive` returns: how the object was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    offset: u32,
    number: u64,
    phase: u64,
    pending: u32,
    /// Whether it comes from `.noComplete`, so that it may be asked how many arrivals were pending.
    counts: bool,
}

const NUMBER: u64 = (1 << 14) - 1;
const PHASE: u64 = (1 << 14) - 1;

impl State {
    /// From the top: number of the object 14 bits, phase 14, a bit, eighth of the offset 15, pending 20.
    fn pack(self, key: u64) -> u64 {
        let head = (self.number & NUMBER) << 14 | self.phase & PHASE;
        let head = head << 1 | u64::from(self.counts);
        let tail = u64::from(self.offset / BYTES) << 20 | u64::from(self.pending);
        (head << 35 | tail) ^ key
    }

    fn unpack(bits: u64, key: u64) -> State {
        let bits = bits ^ key;
        State {
            offset: (bits >> 20) as u32 % (1 << 15) * BYTES,
            number: bits >> 50 & NUMBER,
            phase: bits >> 36 & PHASE,
            pending: bits as u32 & MOST,
            counts: bits >> 35 & 1 != 0,
        }
    }
}

/// An arrival as an instruction asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// No later phase waits for it.
    pub drop: bool,
    /// It must not be the last one.
    pub no_complete: bool,
}

/// What a waiting thread knows its phase by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    /// What its own arrival has returned.
    State(u64),
    /// Whether the number of the phase is odd.
    Parity(u32),
}

impl Warp<'_> {
    fn state_key(&self) -> u64 {
        Random::new(self.launch.seed, STATES).next()
    }

    fn bad(&self, lane: usize, offset: u32, reason: String) -> Box<Fault> {
        let address = Window::Shared.base() + u64::from(offset + SHARED_BASE);
        self.fault_at(Kind::BadMbarrier { reason }, 1 << lane, address)
    }

    /// The object that a lane names.
    fn object(&mut self, lane: usize, offset: u32) -> Result<&mut Mbarrier, Box<Fault>> {
        if !self.shared.mbarriers.objects.contains_key(&offset) {
            let reason = "there is none here: it was not initialised, or has been invalidated";
            return Err(self.bad(lane, offset, reason.to_string()));
        }
        Ok(self.shared.mbarriers.objects.entry(offset).or_default())
    }

    fn range(&self, lane: usize, offset: u32, count: u32) -> Result<(), Box<Fault>> {
        match count {
            1..=MOST => Ok(()),
            _ => {
                let reason = format!("a count of {count}, which has to be from 1 to {MOST}");
                Err(self.bad(lane, offset, reason))
            }
        }
    }

    /// Records that lanes work on objects, and fails if that races.
    fn touch_objects(
        &mut self,
        access: Access,
        offsets: &[u32; 32],
        mask: u32,
    ) -> Result<(), Box<Fault>> {
        self.domain.order.synchronising = true;
        self.count_shared::<2>(offsets, (mask, false));
        self.manner = match access {
            Access::Atomic => scope::BLOCK,
            _ => scope::WEAK,
        };
        self.order_shared(access, offsets, (mask, BYTES, false))?;
        self.manner = scope::WEAK;
        Ok(())
    }

    /// Something has happened that others may wait for.
    fn moved(&mut self) {
        self.shared.mbarriers.polls = Polls::default();
    }

    /// `mbarrier.init`.
    pub(crate) fn mbarrier_init(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        counts: &[u32; 32],
    ) -> Result<(), Box<Fault>> {
        for lane in lanes_of(mask) {
            let offset = offsets[lane];
            match self.shared.kept(offset, BYTES) {
                Some(Kept::Mbarrier) => {
                    let reason = "initialised again without having been invalidated".to_string();
                    return Err(self.bad(lane, offset, reason));
                }
                _ => self.not_kept(Access::Write, offset, BYTES, lane)?,
            }
            self.range(lane, offset, counts[lane])?;
            self.touch_objects(Access::Write, offsets, 1 << lane)?;
            self.overwrite_shared(offset, BYTES);
            self.shared.keep(offset, BYTES, Kept::Mbarrier);
            let mbarriers = &mut self.shared.mbarriers;
            let object = Mbarrier {
                number: mbarriers.made,
                pending: counts[lane],
                expected: counts[lane],
                ..Mbarrier::default()
            };
            mbarriers.made += 1;
            mbarriers.objects.insert(offset, object);
        }
        self.moved();
        Ok(())
    }

    /// `mbarrier.inval`.
    pub(crate) fn mbarrier_inval(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
    ) -> Result<(), Box<Fault>> {
        for lane in lanes_of(mask) {
            let offset = offsets[lane];
            if !self.object(lane, offset)?.tracked.is_empty() {
                let reason = "invalidated while copies are under way that will arrive at it";
                return Err(self.bad(lane, offset, reason.to_string()));
            }
            self.touch_objects(Access::Write, offsets, 1 << lane)?;
            self.shared.mbarriers.objects.remove(&offset);
            self.shared.let_go(offset, BYTES);
        }
        self.moved();
        Ok(())
    }

    /// `mbarrier.arrive` and `mbarrier.arrive_drop`; the states that they return.
    pub(crate) fn mbarrier_arrive(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        counts: &[u32; 32],
        how: Arrival,
    ) -> Result<[u64; 32], Box<Fault>> {
        let key = self.state_key();
        let mut states = [0; 32];
        let (lanes, count) = self.shuffled(mask);
        let mut asked = None;
        for lane in lanes[..count].iter().map(|lane| usize::from(*lane)) {
            let (offset, count) = (offsets[lane], counts[lane]);
            self.object(lane, offset)?;
            self.touch_objects(Access::Atomic, offsets, 1 << lane)?;
            if asked.replace(offset) != Some(offset) {
                self.copies_arrive(offset)?;
            }
            self.range(lane, offset, count)?;
            let (slot, warp) = (self.slot, self.index);
            let [released, _] = self.domain.order.releases(slot, warp, lane, scope::BLOCK);
            let object = self.object(lane, offset)?;
            let (phase, pending) = (object.phase, object.pending);
            let why = if count > pending {
                Some(format!(
                    "{count} arrivals, where phase {phase} waits for {pending}"
                ))
            } else if how.no_complete && count == pending {
                Some(format!(
                    "an arrival with .noComplete that is the last of phase {phase}"
                ))
            } else if how.drop && count > object.expected {
                let expected = object.expected;
                Some(format!(
                    "{count} arrivals dropped, where later phases wait for {expected}"
                ))
            } else {
                None
            };
            if let Some(why) = why {
                return Err(self.bad(lane, offset, why));
            }
            states[lane] = State {
                offset,
                number: object.number,
                phase,
                pending,
                counts: how.no_complete,
            }
            .pack(key);
            if how.drop {
                object.expected -= count;
            }
            object.arrive(count, &released.unwrap_or_default());
        }
        self.domain.order.released(self.slot, self.index);
        self.moved();
        Ok(states)
    }

    /// `mbarrier.test_wait`: the lanes whose phase is complete.
    pub(crate) fn mbarrier_test(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        phases: impl Fn(usize) -> Phase,
    ) -> Result<u32, Box<Fault>> {
        let key = self.state_key();
        let mut done = 0;
        let mut asked = None;
        for lane in lanes_of(mask) {
            let offset = offsets[lane];
            self.object(lane, offset)?;
            self.touch_objects(Access::Atomic, offsets, 1 << lane)?;
            if asked.replace(offset) != Some(offset) {
                self.copies_arrive(offset)?;
            }
            let object = self.object(lane, offset)?;
            let (phase, number) = (object.phase, object.number);
            let complete = match phases(lane) {
                Phase::Parity(parity @ 0..=1) => Ok(phase & 1 != u64::from(parity)),
                Phase::Parity(parity) => Err(format!("a parity of {parity}")),
                Phase::State(bits) => {
                    let state = State::unpack(bits, key);
                    if (state.offset, state.number) != (offset, number & NUMBER) {
                        Err("a state that no arrival at it has returned".to_string())
                    } else if state.phase == phase & PHASE {
                        Ok(false)
                    } else if state.phase == phase.wrapping_sub(1) & PHASE {
                        Ok(true)
                    } else {
                        Err(format!(
                            "the state is neither of phase {phase} nor of the one before"
                        ))
                    }
                }
            };
            match complete {
                Err(reason) => return Err(self.bad(lane, offset, reason)),
                Ok(true) => {
                    done |= 1 << lane;
                    let acquired = object.completed.clone();
                    let (slot, warp) = (self.slot, self.index);
                    self.domain.order.learn(slot, warp, lane, &acquired);
                }
                Ok(false) => {}
            }
        }
        match done {
            0 => self.polled(offsets, mask),
            _ => self.moved(),
        }
        Ok(done)
    }

    /// Notes lanes that have asked in vain.
    fn polled(&mut self, offsets: &[u32; 32], mask: u32) {
        let now = (self.clock, self.domain.changes);
        let (warp, pc) = (self.index, self.pc);
        let polls = &mut self.shared.mbarriers.polls;
        if polls.count == 0 || polls.since.1 != now.1 {
            *polls = Polls {
                since: now,
                ..Polls::default()
            };
        }
        polls.count += 1;
        let same = |poll: &&mut Poll| poll.warp == warp && poll.pc == pc;
        match polls.list.iter_mut().find(same) {
            Some(poll) => poll.lanes |= mask,
            None => polls.list.push(Poll {
                warp,
                pc,
                lanes: mask,
                offset: offsets[mask.trailing_zeros() as usize % 32],
            }),
        }
    }

    /// `mbarrier.pending_count`.
    pub(crate) fn mbarrier_pending(&self, lane: usize, bits: u64) -> Result<u32, Box<Fault>> {
        let state = State::unpack(bits, self.state_key());
        let inside = state.offset + BYTES <= self.shared.bytes.size();
        if !inside || !state.counts || state.number >= self.shared.mbarriers.made {
            let reason = "the count of a state that no arrival with .noComplete has returned";
            let kind = Kind::BadMbarrier {
                reason: reason.to_string(),
            };
            return Err(self.fault(kind, 1 << lane));
        }
        Ok(state.pending)
    }

    /// `cp.async.mbarrier.arrive`: the copies of these lanes so far will arrive when they are done.
    pub(crate) fn mbarrier_track(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        counted: bool,
    ) -> Result<(), Box<Fault>> {
        let before = self.own_copies().track(mask);
        for lane in lanes_of(mask) {
            let offset = offsets[lane];
            self.object(lane, offset)?;
            self.touch_objects(Access::Atomic, offsets, 1 << lane)?;
            let (warp, pc) = (self.index, self.pc);
            let object = self.object(lane, offset)?;
            if counted {
                if object.pending == MOST {
                    let reason = format!("more than {MOST} arrivals");
                    return Err(self.bad(lane, offset, reason));
                }
                object.pending += 1;
            }
            match object.tracked.last_mut() {
                Some(last) if (last.warp, last.before, last.pc) == (warp, before, pc) => {
                    last.lanes |= 1 << lane;
                }
                _ => object.tracked.push(Tracked {
                    warp,
                    lanes: 1 << lane,
                    before,
                    pc,
                }),
            }
        }
        self.moved();
        Ok(())
    }

    /// Copies that an object tracks may be done by now: which of them are, the seed says.
    fn copies_arrive(&mut self, offset: u32) -> Result<(), Box<Fault>> {
        let object = self.shared.mbarriers.objects.get_mut(&offset);
        let Some(tracked) = object.map(|object| std::mem::take(&mut object.tracked)) else {
            return Ok(());
        };
        let all = match tracked.is_empty() {
            true => 0,
            false => self.random.below(4),
        };
        let mut left = Vec::new();
        for mut tracked in tracked {
            let lanes = match all {
                0 => tracked.lanes,
                1 => tracked.lanes & self.random.next() as u32,
                _ => 0,
            };
            for lane in lanes_of(lanes) {
                self.copy_arrives(offset, &tracked, lane)?;
            }
            tracked.lanes &= !lanes;
            if tracked.lanes != 0 {
                left.push(tracked);
            }
        }
        if let Some(object) = self.shared.mbarriers.objects.get_mut(&offset) {
            object.tracked = left;
        }
        Ok(())
    }

    /// The copies of a lane are done, and arrive.
    fn copy_arrives(
        &mut self,
        offset: u32,
        tracked: &Tracked,
        lane: usize,
    ) -> Result<(), Box<Fault>> {
        // This may be another warp than the one whose copies they are.
        let index = std::mem::replace(&mut self.index, tracked.warp);
        async_copy::complete_tracked(self, lane, tracked.before)?;
        let released = self.domain.order.copied(self.slot, tracked.warp, lane);
        self.index = index;
        let object = self.object(lane, offset)?;
        let phase = object.phase;
        if object.pending == 0 {
            self.pc = tracked.pc;
            let reason =
                format!("copies arrive at phase {phase}, which waits for no more arrivals");
            return Err(self.bad(lane, offset, reason));
        }
        object.arrive(1, &Arc::new(released));
        self.moved();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_as_they_went() {
        for key in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            for counts in [false, true] {
                let state = State {
                    offset: 227 * 1024 - 8,
                    number: 9999,
                    phase: PHASE,
                    pending: MOST,
                    counts,
                };
                assert_eq!(State::unpack(state.pack(key), key), state);
            }
        }
    }
}
