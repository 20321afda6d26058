//! What one thread can tell another of what happened before.

use std::sync::Arc;

use super::order::COPIES;

/// What is known of a block: of all its threads, of its warps, of single threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    block: u32,
    /// Accesses of any thread before this tick.
    all: u32,
    /// The same by warp; empty if there is no more to say.
    warps: Vec<u32>,
    /// The same by thread.
    threads: Vec<(u16, u32)>,
}

impl Known {
    fn of_warp(&self, warp: u32) -> u32 {
        let more = self.warps.get(warp as usize).copied().unwrap_or(0);
        self.all.max(more)
    }

    fn join(&mut self, other: &Known) {
        self.all = self.all.max(other.all);
        if self.warps.len() < other.warps.len() {
            self.warps.resize(other.warps.len(), 0);
        }
        for (mine, theirs) in self.warps.iter_mut().zip(&other.warps) {
            *mine = (*mine).max(*theirs);
        }
        for (thread, tick) in &other.threads {
            self.know(*thread, *tick);
        }
        self.tidy();
    }

    fn know(&mut self, thread: u16, tick: u32) {
        match self
            .threads
            .binary_search_by_key(&thread, |(thread, _)| *thread)
        {
            Ok(at) => self.threads[at].1 = self.threads[at].1.max(tick),
            Err(at) => self.threads.insert(at, (thread, tick)),
        }
    }

    /// Drops what says no more than the rest does.
    fn tidy(&mut self) {
        if self.warps.iter().all(|tick| *tick <= self.all) {
            self.warps = Vec::new();
        }
        let mut threads = std::mem::take(&mut self.threads);
        threads.retain(|(thread, tick)| *tick > self.of_warp(u32::from(*thread) / 32));
        self.threads = threads;
    }
}

/// What is known of a block; nothing as yet, if it is new.
fn entry(blocks: &mut Vec<Known>, block: u32) -> &mut Known {
    let at = match blocks.binary_search_by_key(&block, |known| known.block) {
        Ok(at) => at,
        Err(at) => {
            let known = Known {
                block,
                ..Known::default()
            };
            blocks.insert(at, known);
            at
        }
    };
    &mut blocks[at]
}

/// Knowledge that one thread can hand to another: which accesses happened before, and which writes of
/// contended locations were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// By block.
    blocks: Vec<Known>,
    /// By block: what happened before if `fence.sc` are ordered as they ran. Values follow that order, so
    /// that they are consistent; a program cannot rely on it, so races do not.
    likely: Vec<Known>,
    /// By location: place in its coherence order.
    seen: Vec<(u32, u64)>,
}

impl View {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.likely.is_empty() && self.seen.is_empty()
    }

    /// The same, if `fence.sc` are ordered as they ran.
    pub(super) fn as_likely(&self) -> View {
        let mut view = View {
            blocks: Vec::new(),
            likely: self.blocks.clone(),
            seen: self.seen.clone(),
        };
        for known in &self.likely {
            entry(&mut view.likely, known.block).join(known);
        }
        view
    }

    fn block(&mut self, block: u32) -> &mut Known {
        entry(&mut self.blocks, block)
    }

    /// Adds that all accesses of a thread before `tick` happened before.
    pub(super) fn know(&mut self, block: u32, thread: u16, tick: u32) {
        let known = self.block(block);
        known.know(thread, tick);
        known.tidy();
    }

    /// The same for the warps of a block.
    pub(super) fn know_warps(&mut self, block: u32, ticks: &[u32]) {
        let all = ticks.iter().copied().min().unwrap_or(0);
        let same = ticks.iter().all(|tick| *tick == all);
        let warps = if same { Vec::new() } else { ticks.to_vec() };
        let known = Known {
            block,
            all,
            warps,
            threads: Vec::new(),
        };
        self.block(block).join(&known);
    }

    /// Adds that a write of a location was seen.
    pub(super) fn see(&mut self, location: u32, place: u64) {
        match self
            .seen
            .binary_search_by_key(&location, |(location, _)| *location)
        {
            Ok(at) => self.seen[at].1 = self.seen[at].1.max(place),
            Err(at) => self.seen.insert(at, (location, place)),
        }
    }

    /// Place of the last write of a location that was seen; 0 for none.
    pub(super) fn seen(&self, location: u32) -> u64 {
        let found = self
            .seen
            .binary_search_by_key(&location, |(location, _)| *location);
        found.map_or(0, |at| self.seen[at].1)
    }

    /// Whether what a thread did at `tick` happened before; without a lane, whether that can be so.
    pub(super) fn knows(&self, block: u32, warp: u32, lane: Option<u32>, tick: u32) -> bool {
        knows(&self.blocks, block, warp, lane, tick)
    }

    /// The same, if `fence.sc` are ordered as they ran.
    pub(super) fn supposes(&self, block: u32, warp: u32, lane: u32, tick: u32) -> bool {
        knows(&self.blocks, block, warp, Some(lane), tick)
            || knows(&self.likely, block, warp, Some(lane), tick)
    }

    fn join(&mut self, other: &View) {
        for known in &other.blocks {
            self.block(known.block).join(known);
        }
        for known in &other.likely {
            entry(&mut self.likely, known.block).join(known);
        }
        for (location, place) in &other.seen {
            self.see(*location, *place);
        }
    }

    /// Adds all of `other`; free if both are the same or one of them is empty.
    pub(super) fn join_shared(this: &mut Arc<View>, other: &Arc<View>) {
        if Arc::ptr_eq(this, other) || other.is_empty() {
            return;
        }
        if this.is_empty() {
            *this = other.clone();
            return;
        }
        Arc::make_mut(this).join(other);
    }
}

fn knows(blocks: &[Known], block: u32, warp: u32, lane: Option<u32>, tick: u32) -> bool {
    let Ok(at) = blocks.binary_search_by_key(&block, |known| known.block) else {
        return false;
    };
    let known = &blocks[at];
    if tick < known.of_warp(warp) {
        return true;
    }
    let thread = |lane: u32| (warp * 32 + lane) as u16;
    known.threads.iter().any(|(other, until)| {
        tick < *until
            && match lane {
                Some(lane) => *other == thread(lane),
                None => u32::from(*other) / 32 % COPIES == warp,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_know_blocks_warps_and_threads() {
        let mut view = View::default();
        view.know_warps(3, &[5, 9, 5]);
        view.know(3, 64 + 7, 8);
        assert!(view.knows(3, 0, Some(1), 4) && !view.knows(3, 0, Some(1), 5));
        assert!(view.knows(3, 1, Some(1), 8) && !view.knows(3, 1, Some(1), 9));
        assert!(view.knows(3, 2, Some(7), 7) && !view.knows(3, 2, Some(6), 7));
        assert!(view.knows(3, 2, None, 7), "it may have been lane 7");
        assert!(!view.knows(2, 0, Some(1), 0), "nothing of other blocks");
    }

    #[test]
    fn joining_keeps_what_either_knows() {
        let (mut a, mut b) = (View::default(), View::default());
        a.know_warps(1, &[4, 4]);
        a.see(7, 2);
        b.know_warps(1, &[3, 6]);
        b.know(2, 5, 9);
        b.see(7, 1);
        b.see(8, 3);
        let mut joined = Arc::new(a);
        View::join_shared(&mut joined, &Arc::new(b));
        assert!(joined.knows(1, 0, Some(0), 3) && joined.knows(1, 1, Some(0), 5));
        assert!(!joined.knows(1, 0, Some(0), 4));
        assert!(joined.knows(2, 0, Some(5), 8) && !joined.knows(2, 0, Some(4), 8));
        assert_eq!((joined.seen(7), joined.seen(8), joined.seen(9)), (2, 3, 0));
    }
}
