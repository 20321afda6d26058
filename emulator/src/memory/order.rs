//! Which accesses happened before which: the causality order of PTX's memory consistency model.
//!
//! Time is counted in ticks. Everything that orders threads takes the next one, and an access carries
//! the tick that its warp is in; a tick belongs to one block. What a thread knows of others is up to
//! which tick their accesses happened before its own. Barriers pass on knowledge between warps, so most
//! of it is held by warp, in a table per block. What arrives through memory, by release and acquire, or
//! at a `bar.warp.sync` of some lanes only, concerns single threads: it is kept beside the table as
//! [`View`]s, by lane, until the warp's lanes meet and share it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access::lanes_of;
use super::view::View;

/// Scopes as far as they differ here: a cluster is one block.
pub(crate) mod scope {
    /// No scope: a weak access.
    pub(crate) const WEAK: u8 = 0;
    /// `.cta` and `.cluster`.
    pub(crate) const BLOCK: u8 = 1;
    /// `.gpu` and `.sys`.
    pub(crate) const DEVICE: u8 = 2;
    /// Through the read-only cache: outside of the model.
    pub(crate) const NON_COHERENT: u8 = 3;
}

/// What a thread's copies do that an `mbarrier` tracks is told of a thread of its own, this many warps on.
pub(crate) const COPIES: u32 = 32;

/// Set in the ticks of such copies, so that no barrier makes them known to those who have not waited.
const COPIED: u32 = 1 << 31;

/// Whether two scopes each include the thread of the other.
#[inline(always)]
pub(crate) fn inclusive(a: u8, b: u8, same_block: bool) -> bool {
    a != scope::WEAK && b != scope::WEAK && (same_block || a.min(b) >= scope::DEVICE)
}

/// A release that a strong write of the same thread makes visible: a fence.
#[derive(Debug, Clone)]
struct Fence {
    lanes: u32,
    scope: u8,
    view: Arc<View>,
}

/// What a strong read has met that no fence has acquired yet.
#[derive(Debug, Clone)]
struct Met {
    lane: u8,
    /// Whether the release came from this block, so that any fence acquires it.
    near: bool,
    /// Whether only a `fence.sc` acquires it.
    sc: bool,
    view: Arc<View>,
}

/// A warp's knowledge beyond its block's table.
#[derive(Debug, Clone, Default)]
struct Beyond {
    /// Known to all lanes.
    all: Arc<View>,
    /// Known to some.
    some: Vec<(u32, Arc<View>)>,
    fences: Vec<Fence>,
    met: Vec<Met>,
    /// What was released by those `fence.sc` that happened before.
    fenced: Arc<View>,
    /// Tick after that of the last tracked copy of each lane, if there were any.
    copied: Vec<u32>,
    /// Place in the coherence order of the last write that a lane has seen of a location.
    seen: BTreeMap<(u32, u8), u64>,
}

impl Beyond {
    fn of(&self, lane: u32) -> impl Iterator<Item = &View> {
        let some = self
            .some
            .iter()
            .filter(move |(lanes, _)| lanes >> lane & 1 != 0);
        std::iter::once(&*self.all).chain(some.map(|(_, view)| &**view))
    }
}

/// A block that runs.
#[derive(Debug, Clone, Default)]
struct Running {
    block: u32,
    /// `known[v * warps + w]`: up to which tick `v` has synchronised with `w`.
    known: Vec<u32>,
    /// Least tick that each warp knows of any of its block.
    floor: Vec<u32>,
    /// Tick that each warp is in.
    stamp: Vec<u32>,
    beyond: Vec<Beyond>,
    /// What the block's `fence.sc` have passed on.
    sc: Arc<View>,
}

/// What is gathered at a barrier.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    known: Vec<u32>,
    view: Arc<View>,
    fenced: Arc<View>,
}

/// Order among the blocks that a worker runs.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    warps: usize,
    running: Vec<Running>,
    /// Block of each tick.
    owner: Vec<u32>,
    /// What `fence.sc` beyond a block have passed on.
    sc: Arc<View>,
    /// Whether anything but barriers has synchronised yet.
    pub synchronising: bool,
}

impl Order {
    pub(crate) fn new(warps: usize) -> Order {
        Order {
            warps,
            running: Vec::new(),
            owner: vec![u32::MAX],
            sc: Arc::default(),
            synchronising: false,
        }
    }

    /// The next tick, which belongs to this block.
    fn tick(&mut self, block: u32) -> u32 {
        self.owner.push(block);
        self.owner.len() as u32 - 1
    }

    /// The block whose threads made accesses at this tick.
    #[inline(always)]
    pub(crate) fn owner(&self, tick: u32) -> u32 {
        let tick = (tick & !COPIED) as usize;
        self.owner.get(tick).copied().unwrap_or(u32::MAX)
    }

    /// A block starts in a slot.
    pub(crate) fn start(&mut self, slot: usize, block: u64) {
        let (block, warps) = (block as u32, self.warps);
        let now = self.tick(block);
        if self.running.len() <= slot {
            self.running.resize(slot + 1, Running::default());
        }
        self.running[slot] = Running {
            block,
            known: vec![now; warps * warps],
            floor: vec![now; warps],
            stamp: vec![now; warps],
            beyond: vec![Beyond::default(); warps],
            sc: Arc::default(),
        };
    }

    /// What a warp knows and did so far is given to those that a barrier will release. One that does
    /// not wait there itself goes on in a new tick.
    pub(crate) fn arrive(&mut self, slot: usize, warp: usize, goes_on: bool, joined: &mut Joined) {
        joined.known.resize(self.warps, 0);
        if goes_on {
            self.pass(slot, warp, u32::MAX, u32::MAX);
        }
        let running = &mut self.running[slot];
        let known = &running.known[warp * self.warps..][..self.warps];
        for (joined, known) in joined.known.iter_mut().zip(known) {
            *joined = (*joined).max(*known);
        }
        let all = Self::gather(&running.beyond[warp], u32::MAX);
        View::join_shared(&mut joined.view, &all);
        View::join_shared(&mut joined.fenced, &running.beyond[warp].fenced);
    }

    /// All that any of these lanes knows beyond the table.
    fn gather(beyond: &Beyond, lanes: u32) -> Arc<View> {
        let mut all = beyond.all.clone();
        for (some, view) in &beyond.some {
            if some & lanes != 0 {
                View::join_shared(&mut all, view);
            }
        }
        if !beyond.seen.is_empty() {
            let view = Arc::make_mut(&mut all);
            for ((location, lane), place) in &beyond.seen {
                if lanes >> lane & 1 != 0 {
                    view.see(*location, *place);
                }
            }
        }
        all
    }

    /// A barrier releases these warps, which all know now what was joined there.
    pub(crate) fn release(
        &mut self,
        slot: usize,
        members: &[usize],
        exited: &[usize],
        joined: &mut Joined,
    ) {
        let now = self.tick(self.running[slot].block);
        let running = &mut self.running[slot];
        joined.known.resize(self.warps, 0);
        for &member in members {
            joined.known[member] = now;
        }
        for &warp in exited {
            joined.known[warp] = u32::MAX;
        }
        for &member in members {
            let known = &mut running.known[member * self.warps..][..self.warps];
            for (known, joined) in known.iter_mut().zip(&joined.known) {
                *known = (*known).max(*joined);
            }
            running.floor[member] = known.iter().copied().min().unwrap_or(1);
            running.stamp[member] = now;
            let beyond = &mut running.beyond[member];
            View::join_shared(&mut beyond.all, &joined.view);
            View::join_shared(&mut beyond.fenced, &joined.fenced);
            beyond.some.clear();
            beyond.seen.clear();
        }
    }

    /// Lanes of a warp have met: each of them knows what any of them did and knew.
    pub(crate) fn pass(&mut self, slot: usize, warp: usize, lanes: u32, live: u32) {
        let now = self.tick(self.running[slot].block);
        let running = &mut self.running[slot];
        let beyond = &mut running.beyond[warp];
        let mut gathered = Self::gather(beyond, lanes);
        running.stamp[warp] = now;
        if live & !lanes == 0 {
            running.known[warp * self.warps + warp] = now;
            beyond.all = gathered;
            beyond.some.clear();
            beyond.seen.clear();
            return;
        }
        let view = Arc::make_mut(&mut gathered);
        for lane in lanes_of(lanes) {
            view.know(running.block, (warp * 32 + lane) as u16, now);
        }
        for (some, _) in &mut beyond.some {
            *some &= !lanes;
        }
        beyond.some.retain(|(some, _)| *some != 0);
        beyond.seen.retain(|(_, lane), _| lanes >> lane & 1 == 0);
        beyond.some.push((lanes, gathered));
    }

    /// Who makes an access: a lane of `warp`, in the instruction at `pc`.
    #[inline(always)]
    pub(crate) fn who(&self, slot: usize, warp: usize, pc: u32, strong: u8) -> Who<'_> {
        static NOBODY: Vec<u32> = Vec::new();
        let running = self.running.get(slot);
        let known = running.map_or(&NOBODY, |running| &running.known);
        Who {
            order: self,
            slot,
            block: running.map_or(0, |running| running.block),
            warp: warp as u32,
            pc: pc.min(u32::from(u16::MAX)) as u16,
            strong,
            stamp: running.map_or(1, |running| running.stamp[warp]),
            floor: running.map_or(1, |running| running.floor[warp]),
            known: known
                .get(warp * self.warps..(warp + 1) * self.warps)
                .unwrap_or(&[]),
        }
    }

    /// What lane `lane` would pass on now, and the tick up to which that covers its own accesses.
    fn snapshot(&self, slot: usize, warp: usize, lane: u32) -> View {
        let running = &self.running[slot];
        let mut view = (*Self::gather(&running.beyond[warp], 1 << lane)).clone();
        let known = &running.known[warp * self.warps..][..self.warps];
        view.know_warps(running.block, known);
        view.know(
            running.block,
            (warp * 32) as u16 + lane as u16,
            running.stamp[warp] + 1,
        );
        view
    }

    /// Copies of these lanes that an `mbarrier` tracks take effect at a time of their own, until which their
    /// lanes do not know of them.
    pub(crate) fn begin_copy(&mut self, slot: usize, warp: usize, lanes: u32) {
        self.synchronising = true;
        self.advance(slot, warp);
        let running = &mut self.running[slot];
        let now = running.stamp[warp];
        let copied = &mut running.beyond[warp].copied;
        copied.resize(32, 0);
        for lane in lanes_of(lanes) {
            copied[lane] = now + 1;
        }
    }

    /// That all copies so far happened before, which a lane has issued and an `mbarrier` tracks.
    pub(super) fn copied(&self, slot: usize, warp: usize, lane: usize) -> View {
        let mut view = View::default();
        let running = &self.running[slot];
        let until = running.beyond[warp].copied.get(lane).copied().unwrap_or(0);
        if until != 0 {
            let thread = (COPIES as usize + warp) * 32 + lane;
            view.know(running.block, thread as u16, COPIED | until);
        }
        view
    }

    /// Lanes have waited for their own copies.
    pub(crate) fn waited(&mut self, slot: usize, warp: usize, lanes: u32) {
        if !self.running[slot].beyond[warp].copied.is_empty() {
            for lane in lanes_of(lanes) {
                let view = Arc::new(self.copied(slot, warp, lane));
                self.learn(slot, warp, lane, &view);
            }
        }
    }

    /// A fence: acquires what its lanes have met, and is what their next strong writes release.
    pub(crate) fn fence(&mut self, slot: usize, warp: usize, lanes: u32, scope: u8, sc: bool) {
        self.synchronising = true;
        for lane in lanes_of(lanes) {
            self.take_met(slot, warp, lane, (scope, sc));
            if sc {
                let (near, far) = (self.running[slot].sc.clone(), self.sc.clone());
                self.learn(slot, warp, lane, &near);
                if scope >= scope::DEVICE {
                    self.learn(slot, warp, lane, &far);
                }
            }
            let view = Arc::new(self.snapshot(slot, warp, lane as u32));
            if sc {
                let likely = Arc::new(view.as_likely());
                View::join_shared(&mut self.running[slot].sc, &likely);
                if scope >= scope::DEVICE {
                    View::join_shared(&mut self.sc, &likely);
                    View::join_shared(&mut self.running[slot].beyond[warp].fenced, &view);
                }
            }
            self.will_release(slot, warp, lane, scope, view);
        }
        self.advance(slot, warp);
    }

    /// `fence.acquire`: the half of a fence that concerns what comes behind it.
    pub(crate) fn fence_acquire(&mut self, slot: usize, warp: usize, lanes: u32, scope: u8) {
        self.synchronising = true;
        for lane in lanes_of(lanes) {
            self.take_met(slot, warp, lane, (scope, false));
        }
    }

    /// `fence.release`: the half that concerns what comes before it.
    pub(crate) fn fence_release(&mut self, slot: usize, warp: usize, lanes: u32, scope: u8) {
        self.synchronising = true;
        for lane in lanes_of(lanes) {
            let view = Arc::new(self.snapshot(slot, warp, lane as u32));
            self.will_release(slot, warp, lane, scope, view);
        }
        self.advance(slot, warp);
    }

    /// A lane acquires what it has met, as far as a fence of this scope does.
    fn take_met(&mut self, slot: usize, warp: usize, lane: usize, (scope, sc): (u8, bool)) {
        let beyond = &mut self.running[slot].beyond[warp];
        let mut gained: Option<Arc<View>> = None;
        beyond.met.retain(|met| {
            let takes = usize::from(met.lane) == lane
                && (met.near || scope >= scope::DEVICE)
                && (sc || !met.sc);
            if takes {
                View::join_shared(gained.get_or_insert_default(), &met.view);
            }
            !takes
        });
        if let Some(gained) = gained {
            self.learn(slot, warp, lane, &gained);
        }
    }

    /// What a lane's next strong writes release, because of a fence before them.
    fn will_release(&mut self, slot: usize, warp: usize, lane: usize, scope: u8, view: Arc<View>) {
        let fences = &mut self.running[slot].beyond[warp].fences;
        for fence in fences.iter_mut().filter(|fence| fence.scope <= scope) {
            fence.lanes &= !(1 << lane);
        }
        fences.retain(|fence| fence.lanes != 0);
        let lanes = 1 << lane;
        fences.push(Fence { lanes, scope, view });
    }

    /// The warp goes on in a new tick, so that what was released does not cover what follows.
    fn advance(&mut self, slot: usize, warp: usize) {
        let now = self.tick(self.running[slot].block);
        self.running[slot].stamp[warp] = now;
    }

    /// A lane knows a view from now on.
    pub(super) fn learn(&mut self, slot: usize, warp: usize, lane: usize, view: &Arc<View>) {
        let beyond = &mut self.running[slot].beyond[warp];
        let bit = 1 << lane;
        if view.is_empty()
            || beyond
                .of(lane as u32)
                .any(|known| std::ptr::eq(known, &**view))
        {
            return;
        }
        let mut all = Arc::<View>::default();
        for (lanes, known) in &mut beyond.some {
            if *lanes & bit != 0 {
                View::join_shared(&mut all, known);
                *lanes &= !bit;
            }
        }
        beyond.some.retain(|(lanes, _)| *lanes != 0);
        View::join_shared(&mut all, view);
        beyond.some.push((bit, all));
    }

    /// A strong read of a lane has met a release; acquires it, or keeps it for a fence.
    pub(super) fn meet(
        &mut self,
        slot: usize,
        warp: usize,
        lane: usize,
        (near, acquire): (bool, u8),
        view: &Arc<View>,
    ) {
        if acquire != scope::WEAK && (near || acquire >= scope::DEVICE) {
            self.learn(slot, warp, lane, view);
        }
        self.keep(slot, warp, (lane, near, false), view);
    }

    /// A lane has met something that a fence will acquire.
    fn keep(
        &mut self,
        slot: usize,
        warp: usize,
        (lane, near, sc): (usize, bool, bool),
        view: &Arc<View>,
    ) {
        let met = &mut self.running[slot].beyond[warp].met;
        let same = |met: &Met| {
            usize::from(met.lane) == lane && met.sc == sc && Arc::ptr_eq(&met.view, view)
        };
        if !met.iter().any(same) {
            let (lane, view) = (lane as u8, view.clone());
            met.push(Met {
                lane,
                near,
                sc,
                view,
            });
        }
    }

    /// A strong read of a lane has met a write that `fence.sc` happened before. One that follows the
    /// read comes after them: before them, the write would come before itself.
    pub(super) fn meet_fenced(&mut self, slot: usize, warp: usize, lane: usize, view: &Arc<View>) {
        if !view.is_empty() {
            self.keep(slot, warp, (lane, false, true), view);
            View::join_shared(&mut self.running[slot].beyond[warp].fenced, view);
        }
    }

    /// What was released by the `fence.sc` that happened before what a warp does now.
    pub(super) fn fenced(&self, slot: usize, warp: usize) -> Arc<View> {
        self.running[slot].beyond[warp].fenced.clone()
    }

    /// What a strong write of a lane releases to its own block, and to all: by its own semantics, and
    /// by the fences before it.
    pub(super) fn releases(
        &mut self,
        slot: usize,
        warp: usize,
        lane: usize,
        release: u8,
    ) -> [Option<Arc<View>>; 2] {
        let mut out: [Option<Arc<View>>; 2] = [None, None];
        let fences = &self.running[slot].beyond[warp].fences;
        for fence in fences.iter().filter(|fence| fence.lanes >> lane & 1 != 0) {
            View::join_shared(out_of(&mut out, 0), &fence.view);
            if fence.scope >= scope::DEVICE {
                View::join_shared(out_of(&mut out, 1), &fence.view);
            }
        }
        if release != scope::WEAK {
            self.synchronising = true;
            let view = Arc::new(self.snapshot(slot, warp, lane as u32));
            View::join_shared(out_of(&mut out, 0), &view);
            if release >= scope::DEVICE {
                View::join_shared(out_of(&mut out, 1), &view);
            }
        }
        out
    }

    /// After the writes of an instruction that releases.
    pub(crate) fn released(&mut self, slot: usize, warp: usize) {
        self.advance(slot, warp);
    }

    /// Notes which write of a location a lane has seen.
    pub(super) fn see(&mut self, slot: usize, warp: usize, lane: usize, location: u32, at: u64) {
        let seen = &mut self.running[slot].beyond[warp].seen;
        let place = seen.entry((location, lane as u8)).or_insert(0);
        *place = at.max(*place);
    }

    /// Place of the last write of a location that a lane has seen, or knows to have been seen.
    pub(super) fn seen(&self, slot: usize, warp: usize, lane: usize, location: u32) -> u64 {
        let beyond = &self.running[slot].beyond[warp];
        let own = beyond
            .seen
            .get(&(location, lane as u8))
            .copied()
            .unwrap_or(0);
        let others = beyond.of(lane as u32).map(|view| view.seen(location));
        others.fold(own, u64::max)
    }
}

fn out_of(out: &mut [Option<Arc<View>>; 2], n: usize) -> &mut Arc<View> {
    out[n].get_or_insert_default()
}

/// The warp that makes an access, and what it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    order: &'a Order,
    slot: usize,
    pub(super) block: u32,
    pub(super) warp: u32,
    pub(super) pc: u16,
    /// The [`scope`] of the access.
    pub(super) strong: u8,
    pub(super) stamp: u32,
    pub(super) floor: u32,
    known: &'a [u32],
}

impl Who<'_> {
    /// The block whose threads made accesses at this tick.
    #[inline(always)]
    pub(super) fn owner(&self, tick: u32) -> u32 {
        self.order.owner(tick)
    }

    /// Whether all that a warp of the same block did at `tick` happened before, as barriers tell.
    #[inline(always)]
    pub(super) fn after(&self, warp: u32, tick: u32) -> bool {
        tick < self.floor
            || self
                .known
                .get(warp as usize)
                .is_some_and(|known| *known > tick)
    }

    /// The same for the copies that it has issued and an `mbarrier` tracks.
    pub(crate) fn copying(self) -> Self {
        Who {
            warp: self.warp + COPIES,
            stamp: self.stamp | COPIED,
            ..self
        }
    }

    /// Whether what a thread (or, without a lane, some threads of a warp) did at `tick` happened before
    /// what `lane` does now, as far as that did not come by barriers.
    #[cold]
    pub(super) fn told(
        &self,
        lane: u32,
        block: u32,
        warp: u32,
        other: Option<u32>,
        tick: u32,
    ) -> bool {
        let Some(running) = self.order.running.get(self.slot) else {
            return false;
        };
        let Some(beyond) = running.beyond.get((self.warp % COPIES) as usize) else {
            return false;
        };
        // A copy comes after what its thread did before.
        if self.warp == warp + COPIES && block == self.block && other == Some(lane) {
            return true;
        }
        beyond
            .of(lane)
            .any(|view| view.knows(block, warp, other, tick))
    }

    /// Whether this happened before what `lane` does now, if `fence.sc` are ordered as they ran.
    pub(super) fn knows(&self, lane: u32, block: u32, thread: u16, tick: u32) -> bool {
        let (warp, other) = (u32::from(thread) / 32, u32::from(thread) % 32);
        if block == self.block {
            let own = warp == self.warp && other == lane;
            if own || self.after(warp, tick) {
                return true;
            }
        }
        let running = self.order.running.get(self.slot);
        let beyond = running.and_then(|running| running.beyond.get(self.warp as usize));
        beyond.is_some_and(|beyond| {
            let mut views = beyond.of(lane);
            views.any(|view| view.supposes(block, warp, other, tick))
        })
    }
}
