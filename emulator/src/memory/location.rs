//! Strong accesses: what they may return, and whom they synchronise.
//!
//! Plain accesses must not race, so the bytes in memory are all that they can see. Strong accesses may
//! meet without order, and then the model leaves open which write a read returns. So each location that
//! was written by a strong access has its writes here in coherence order, the last of which is what lies in
//! memory. A read returns, as the seed draws, any write that is not older than the last one that
//! happened before it (axiom Causality) or that its thread has seen or written (Sequential Consistency
//! per Location). A write takes any place behind those in the coherence order (axiom Coherence); an
//! atomic operation reads the last write and comes directly behind it (axiom Atomicity).

use std::sync::Arc;

use super::order::{Order, inclusive, scope};
use super::pages::Hashed;
use super::view::View;
use crate::machine::Random;

/// Writes of a location that are kept. Older ones can no longer be read.
const KEPT: usize = 8;
/// Distance of writes in coherence order, with room for others in between.
const STEP: u64 = 1 << 24;

/// A strong write, or what was there before the first.
#[derive(Debug, Clone)]
struct Written {
    /// Place in coherence order.
    place: u64,
    value: u64,
    block: u32,
    thread: u16,
    /// Tick of the writer; 0 for what everybody knows.
    tick: u32,
    scope: u8,
    /// Whether it was an atomic operation, which nothing may come directly before.
    atomic: bool,
    /// What it releases to its own block, and to all.
    releases: [Option<Arc<View>>; 2],
    /// What `fence.sc` before it have released.
    fenced: Arc<View>,
    /// Threads that have read it, and when they first did: block, thread, tick.
    observers: Vec<(u32, u16, u32)>,
}

/// Most observers of a write that are kept.
const OBSERVERS: usize = 64;

impl Written {
    fn before(place: u64, value: u64) -> Written {
        Written {
            place,
            value,
            block: u32::MAX,
            thread: 0,
            tick: 0,
            scope: scope::DEVICE,
            atomic: false,
            releases: [None, None],
            fenced: Arc::default(),
            observers: Vec::new(),
        }
    }
}

struct Location {
    id: u32,
    bytes: u32,
    /// In coherence order; never empty.
    writes: Vec<Written>,
}

/// Who makes a strong access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strong {
    pub slot: usize,
    pub block: u64,
    pub warp: usize,
    pub lane: usize,
    /// Scope of the access.
    pub scope: u8,
    /// Scope in which it acquires, or [`scope::WEAK`].
    pub acquire: u8,
    /// Scope in which it releases, or [`scope::WEAK`].
    pub release: u8,
}

/// What becomes of a strong store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landed {
    /// It is the last in coherence order: memory holds it.
    Last,
    /// Others come after it: memory keeps what it holds.
    Earlier,
}

/// The locations of a worker's blocks.
#[derive(Default)]
pub(crate) struct Locations {
    index: Hashed<u64, Location>,
    next: u32,
    /// Where there may be any: bits by hash of the 8 bytes.
    filter: u64,
}

impl Locations {
    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.index.clear();
        self.filter = 0;
    }

    fn bit(key: u64) -> u64 {
        1 << ((key >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
    }

    /// A plain store to `bytes` bytes: no read may return what was there before.
    #[inline(always)]
    pub(crate) fn overwrite(&mut self, key: u64, bytes: u32) {
        if self.filter != 0 {
            for part in (0..bytes.div_ceil(8)).map(|n| key + 8 * u64::from(n)) {
                if self.filter & Self::bit(part) != 0 {
                    self.forget(key, bytes);
                }
            }
        }
    }

    /// Forgets the locations of which any byte is among these, and no others.
    #[cold]
    fn forget(&mut self, key: u64, bytes: u32) {
        let end = key + u64::from(bytes);
        for first in key & !7..end {
            let overlaps = |location: &Location| first + u64::from(location.bytes) > key;
            if self.index.get(&first).is_some_and(overlaps) {
                self.index.remove(&first);
            }
        }
    }

    /// The location at `key`, whose last write is what memory holds now.
    fn at(&mut self, key: u64, bytes: u32, memory: u64) -> &mut Location {
        self.filter |= Self::bit(key);
        let next = &mut self.next;
        let location = self.index.entry(key).or_insert_with(|| {
            *next += 1;
            Location {
                id: *next,
                bytes,
                writes: vec![Written::before(STEP, memory)],
            }
        });
        let last = location.writes.last();
        let stands = location.bytes == bytes && last.is_some_and(|last| last.value == memory);
        if !stands {
            // Written by a plain access (which must not race) or in another width since.
            let place = last.map_or(STEP, |last| last.place + STEP);
            location.writes.clear();
            location.writes.push(Written::before(place, memory));
            location.bytes = bytes;
        }
        location
    }

    /// Who has observed what a thread wrote to a location at a tick: threads that have read it, or what
    /// atomic operations have made of it.
    pub(crate) fn observers(
        &self,
        key: u64,
        (block, thread, tick): (u32, u16, u32),
    ) -> impl Iterator<Item = (u32, u16, u32)> {
        let writes = self
            .index
            .get(&key)
            .map_or(&[][..], |location| &location.writes);
        let same =
            |write: &Written| (write.block, write.thread, write.tick) == (block, thread, tick);
        let first = writes.iter().position(same).unwrap_or(writes.len());
        let mut chain = writes[first..].iter();
        let own = chain.next();
        let later = chain.take_while(|write| write.atomic);
        own.into_iter()
            .chain(later)
            .flat_map(|write| write.observers.iter().copied())
    }

    /// A strong load of what lies in memory as `memory`; the value that it returns.
    pub(crate) fn load(
        &mut self,
        order: &mut Order,
        random: &mut Random,
        (key, bytes): (u64, u32),
        who: &Strong,
        memory: u64,
    ) -> u64 {
        if !self.index.contains_key(&key) {
            return memory;
        }
        let location = self.at(key, bytes, memory);
        let least = location.least(order, who);
        let latest = location.writes.len() - 1;
        // Mostly what is new, so that those who wait get on.
        let nth = match random.below(2) {
            0 => latest,
            _ => least + random.below((latest - least + 1) as u64) as usize,
        };
        location.observe(order, who, nth, nth > least)
    }

    /// A strong store over `memory`.
    pub(crate) fn store(
        &mut self,
        order: &mut Order,
        random: &mut Random,
        (key, bytes): (u64, u32),
        who: &Strong,
        (memory, value): (u64, u64),
    ) -> Landed {
        let releases = order.releases(who.slot, who.warp, who.lane, who.release);
        let location = self.at(key, bytes, memory);
        let mut at = location.writes.len();
        if random.below(4) == 0 {
            let least = location.least(order, who) + 1;
            at = least + random.below((at - least + 1) as u64) as usize;
        }
        location.write(order, who, at, (value, false), releases)
    }

    /// An atomic operation that turns `memory` into `value`.
    pub(crate) fn update(
        &mut self,
        order: &mut Order,
        (key, bytes): (u64, u32),
        who: &Strong,
        (memory, value): (u64, u64),
    ) {
        let location = self.at(key, bytes, memory);
        let last = location.writes.len() - 1;
        location.observe(order, who, last, false);
        let mut releases = order.releases(who.slot, who.warp, who.lane, who.release);
        // What an atomic operation has read, those who read it observe too.
        let read = &location.writes[last];
        let same = u64::from(read.block) == who.block;
        if inclusive(read.scope, who.scope, same) {
            // What another block released to its own threads is not for others.
            for (n, mine) in releases.iter_mut().enumerate() {
                if let Some(theirs) = &read.releases[if same { n } else { 1 }] {
                    View::join_shared(mine.get_or_insert_default(), theirs);
                }
            }
        }
        location.write(order, who, last + 1, (value, true), releases);
    }
}

impl Location {
    /// The oldest write that the thread may still read.
    fn least(&self, order: &Order, who: &Strong) -> usize {
        let seen = order.seen(who.slot, who.warp, who.lane, self.id);
        let reader = order.who(who.slot, who.warp, 0, who.scope);
        let known = |written: &Written| {
            written.tick == 0
                || written.place <= seen
                || reader.knows(who.lane as u32, written.block, written.thread, written.tick)
        };
        self.writes.iter().rposition(known).unwrap_or(0)
    }

    /// The thread reads write `nth`; `news` if it could have read an older one.
    fn observe(&mut self, order: &mut Order, who: &Strong, nth: usize, news: bool) -> u64 {
        let written = &mut self.writes[nth];
        if written.tick != 0 {
            let near = u64::from(written.block) == who.block;
            if inclusive(written.scope, who.scope, near) {
                let (block, thread) = (who.block as u32, (who.warp * 32 + who.lane) as u16);
                let known =
                    |observer: &(u32, u16, u32)| (observer.0, observer.1) == (block, thread);
                if written.observers.len() < OBSERVERS && !written.observers.iter().any(known) {
                    let now = order.who(who.slot, who.warp, 0, who.scope).stamp;
                    written.observers.push((block, thread, now));
                }
                if let Some(view) = &written.releases[usize::from(!near)] {
                    let manner = (near, who.acquire);
                    order.meet(who.slot, who.warp, who.lane, manner, view);
                }
                order.meet_fenced(who.slot, who.warp, who.lane, &written.fenced);
                if news {
                    order.see(who.slot, who.warp, who.lane, self.id, written.place);
                }
            }
        }
        written.value
    }

    fn write(
        &mut self,
        order: &mut Order,
        who: &Strong,
        mut at: usize,
        (value, atomic): (u64, bool),
        releases: [Option<Arc<View>>; 2],
    ) -> Landed {
        // Nothing comes between an atomic operation and what it has read.
        while self.writes.get(at).is_some_and(|next| next.atomic) {
            at += 1;
        }
        let before = self.writes[at - 1].place;
        let place = match self.writes.get(at) {
            Some(next) if next.place - before >= 2 => before + (next.place - before) / 2,
            Some(_) => {
                at = self.writes.len();
                self.writes[at - 1].place + STEP
            }
            None => before + STEP,
        };
        let stamp = order.who(who.slot, who.warp, 0, who.scope).stamp;
        let written = Written {
            place,
            value,
            block: who.block as u32,
            thread: (who.warp * 32 + who.lane) as u16,
            tick: stamp,
            scope: who.scope,
            atomic,
            releases,
            fenced: order.fenced(who.slot, who.warp),
            observers: Vec::new(),
        };
        self.writes.insert(at, written);
        let landed = match at + 1 == self.writes.len() {
            true => Landed::Last,
            false => Landed::Earlier,
        };
        if self.writes.len() > KEPT {
            self.writes.remove(0);
        }
        landed
    }
}
