//! Lanes of a warp that diverge and meet again.
//!
//! Each lane has its own program counter; lanes that stand at the same one form a group. The group
//! with the lowest position runs, until it comes to where another one stands and joins it: in
//! structured code that is where the branches meet. A group that keeps jumping back while others are
//! ready has to let them go first after a while, so that lanes can wait for each other.

use super::Random;

/// Jumps back after which a group goes last.
const PATIENCE: u32 = 2048;

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It can run.
    Ready,
    /// It waits for other lanes of the warp to come to the same instruction.
    Together,
    /// It waits at this barrier.
    Barrier(u32),
}

/// Lanes at the same position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub state: State,
    pub back: u32,
    /// At a barrier: where the result of a reduction goes.
    pub slot: u16,
}

/// The groups of a warp.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    pub list: Vec<Group>,
    /// Lanes that have not exited.
    pub live: u32,
}

impl Groups {
    pub(crate) fn start(&mut self, lanes: u32) {
        self.live = lanes;
        self.list.clear();
        self.list.push(Group {
            pc: 0,
            mask: lanes,
            state: State::Ready,
            back: 0,
            slot: 0,
        });
    }

    /// Takes out the group to run next, merged with those at the same place, and says at which
    /// position the next one waits to be joined.
    pub(crate) fn take(&mut self) -> Option<(Group, u32)> {
        if self.list.len() == 1 && self.list[0].state == State::Ready {
            return self.list.pop().map(|group| (group, u32::MAX));
        }
        let ready = |group: &&Group| group.state == State::Ready;
        let key = |group: &&Group| (group.back / PATIENCE, group.pc);
        let mut chosen = *self.list.iter().filter(ready).min_by_key(key)?;
        chosen.mask = 0;
        self.list.retain(|group| {
            let same = group.pc == chosen.pc && !matches!(group.state, State::Barrier(_));
            if same {
                chosen.mask |= group.mask;
            }
            !same
        });
        let others = self.list.iter().filter(|group| group.pc > chosen.pc);
        let stop = others
            .filter(|g| !matches!(g.state, State::Barrier(_)))
            .map(|g| g.pc)
            .min();
        Some((chosen, stop.unwrap_or(u32::MAX)))
    }

    /// Takes out any group that can run. It meets only those that wait for it.
    pub(crate) fn take_any(&mut self, random: &mut Random) -> Option<(Group, u32)> {
        let ready = |group: &&Group| group.state == State::Ready;
        let count = self.list.iter().filter(ready).count();
        let nth = random.below(count.max(1) as u64) as usize;
        let mut ready = (0..self.list.len()).filter(|at| self.list[*at].state == State::Ready);
        let mut chosen = self.list.swap_remove(ready.nth(nth)?);
        self.list.retain(|group| {
            let waits = group.pc == chosen.pc && group.state == State::Together;
            if waits {
                chosen.mask |= group.mask;
            }
            !waits
        });
        let waiting = self.list.iter().filter(|g| g.state == State::Together);
        let stop = waiting.map(|g| g.pc).filter(|pc| *pc > chosen.pc).min();
        Some((chosen, stop.unwrap_or(u32::MAX)))
    }

    pub(crate) fn put(&mut self, group: Group) {
        if group.mask != 0 {
            self.list.push(group);
        }
    }

    /// Lanes have exited: what waits for all that are left may go on.
    pub(crate) fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.wake();
    }

    /// Lets the groups that wait for others look again.
    pub(crate) fn wake(&mut self) {
        for group in &mut self.list {
            if group.state == State::Together {
                group.state = State::Ready;
            }
        }
    }

    /// Lets go what waits at this barrier, and calls `f` with the slot for a result and the lanes.
    pub(crate) fn release(&mut self, id: u32, mut f: impl FnMut(u16, u32)) {
        for group in &mut self.list {
            if group.state == State::Barrier(id) {
                f(group.slot, group.mask);
                group.state = State::Ready;
                group.pc += 1;
            }
        }
    }

    pub(crate) fn runnable(&self) -> bool {
        self.list.iter().any(|group| group.state == State::Ready)
    }

    pub(crate) fn at_barrier(&self) -> bool {
        self.list
            .iter()
            .any(|group| matches!(group.state, State::Barrier(_)))
    }
}
