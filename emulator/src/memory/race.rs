//! Finds accesses to memory that nothing orders.
//!
//! An access carries the tick of its warp; it happened before another if it came from the same thread,
//! or if the thread of the later one knows of it, see [`super::order`]. Two accesses that conflict and
//! are not ordered race, unless both are strong and each is in the scope of the other.
//!
//! Per 16 bytes there is one record of the last write and of the reads since, split into words as
//! soon as an access is smaller. Where the record cannot hold all that happened (several readers of
//! different ticks, writers of different bytes of a word, readers of several blocks) it forgets in the direction of
//! silence. Strong reads are checked and not recorded.

use super::access::lanes_of;
use super::order::{Who, inclusive, scope};

/// No thread, or more than one.
const MANY: u16 = u16::MAX;
/// As the writer of a record: split, and `readers` is the index of its words.
const SPLIT: u16 = u16::MAX - 1;

/// What an access does to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

/// The access that another one conflicts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// What it did.
    pub touch: Touch,
    /// Its scope, if it was strong.
    pub strong: u8,
    /// Block that made it.
    pub block: u32,
    /// Warp that made it.
    pub warp: u32,
    /// Lane, if it is known.
    pub lane: Option<u32>,
    /// Its instruction, or `u16::MAX` if that is not known.
    pub pc: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// Tick of the last write; 0: none.
    wtick: u32,
    /// Tick of the reads since; 0: none.
    rtick: u32,
    /// Warps that have read.
    readers: u32,
    wthread: u16,
    rthread: u16,
    wpc: u16,
    rpc: u16,
    /// Bytes written (of a word; all of them for 16 bytes).
    wbytes: u8,
    rbytes: u8,
    atomic: bool,
    /// Scope of the write.
    strong: u8,
}

impl Record {
    /// `GLOBAL`: other blocks may have left their marks.
    #[inline(always)]
    fn touch<const GLOBAL: bool>(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        touch: Touch,
        bytes: u8,
    ) -> Option<Conflict> {
        let thread = (who.warp * 32 + lane) as u16;
        let near = |tick: u32| !GLOBAL || who.owner(tick) == who.block;
        if self.wtick != 0
            && (self.wtick >= who.floor || GLOBAL)
            && self.wbytes & bytes != 0
            && !(self.wthread == thread && near(self.wtick))
            && let Some(conflict) = self.wrote::<GLOBAL>(who, lane)
        {
            return Some(conflict);
        }
        if touch == Touch::Read {
            if who.strong == scope::WEAK {
                self.read::<GLOBAL>(who, thread, bytes);
            }
            return None;
        }
        if self.rtick != 0
            && (self.rtick >= who.floor || GLOBAL)
            && self.rbytes & bytes != 0
            && !(self.rthread == thread && near(self.rtick))
            && let Some(conflict) = self.was_read::<GLOBAL>(who, lane)
        {
            return Some(conflict);
        }
        *self = Record {
            wtick: who.stamp,
            wthread: thread,
            wpc: who.pc,
            wbytes: bytes,
            atomic: touch == Touch::Atomic,
            strong: who.strong,
            ..Record::default()
        };
        None
    }

    /// Notes a weak read.
    #[inline(always)]
    fn read<const GLOBAL: bool>(&mut self, who: &Who<'_>, thread: u16, bytes: u8) {
        let old = match GLOBAL {
            false => self.rtick < who.floor,
            true => who.owner(self.rtick) != who.block || self.rtick < who.floor,
        };
        if old {
            self.rtick = who.stamp;
            self.readers = 1 << (who.warp % 32);
            self.rthread = thread;
            self.rbytes = bytes;
        } else {
            self.rtick = self.rtick.min(who.stamp);
            self.readers |= 1 << (who.warp % 32);
            self.rthread = if self.rthread == thread { thread } else { MANY };
            self.rbytes |= bytes;
        }
        self.rpc = who.pc;
    }

    /// The last write, if it races with an access of `lane`.
    #[inline(always)]
    fn wrote<const GLOBAL: bool>(&self, who: &Who<'_>, lane: u32) -> Option<Conflict> {
        let block = if GLOBAL {
            who.owner(self.wtick)
        } else {
            who.block
        };
        if inclusive(self.strong, who.strong, block == who.block) {
            return None;
        }
        let (warp, other) = (u32::from(self.wthread) / 32, u32::from(self.wthread) % 32);
        if block == who.block && who.after(warp, self.wtick)
            || who.told(lane, block, warp, Some(other), self.wtick)
        {
            return None;
        }
        Some(Conflict {
            touch: if self.atomic {
                Touch::Atomic
            } else {
                Touch::Write
            },
            strong: self.strong,
            block,
            warp,
            lane: Some(other),
            pc: self.wpc,
        })
    }

    /// A read that races with a write of `lane`.
    #[inline(always)]
    fn was_read<const GLOBAL: bool>(&self, who: &Who<'_>, lane: u32) -> Option<Conflict> {
        let block = if GLOBAL {
            who.owner(self.rtick)
        } else {
            who.block
        };
        let other = (self.rthread != MANY).then_some(u32::from(self.rthread) % 32);
        let unordered = |warp: &usize| {
            let warp = *warp as u32;
            !(block == who.block && who.after(warp, self.rtick)
                || who.told(lane, block, warp, other, self.rtick))
        };
        let warp = lanes_of(self.readers).find(unordered)?;
        Some(Conflict {
            touch: Touch::Read,
            strong: scope::WEAK,
            block,
            warp: warp as u32,
            lane: other,
            pc: self.rpc,
        })
    }
}

/// The records of a block's shared memory, or of a page of global memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow<const GLOBAL: bool = false> {
    granules: Vec<Record>,
    words: Vec<[Record; 4]>,
    free: Vec<u32>,
}

impl<const GLOBAL: bool> Shadow<GLOBAL> {
    pub(crate) fn new(size: u32) -> Self {
        Shadow {
            granules: vec![Record::default(); size.div_ceil(16) as usize],
            ..Shadow::default()
        }
    }

    pub(crate) fn reset(&mut self) {
        self.granules.fill(Record::default());
        self.words.clear();
        self.free.clear();
    }

    /// The lanes of `mask` access `bytes` bytes each; finds the first that conflicts, and its lane.
    #[inline(always)]
    pub(crate) fn touch_lanes(
        &mut self,
        who: &Who<'_>,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
        touch: Touch,
    ) -> Option<(Conflict, usize)> {
        lanes_of(mask).find_map(|lane| {
            let conflict = self.touch(who, lane as u32, offsets[lane], bytes, touch);
            conflict.map(|conflict| (conflict, lane))
        })
    }

    /// The records of the words of the granule at `offset`.
    fn words_at(&self, offset: u32) -> Option<[Record; 4]> {
        let granule = self.granules.get(offset as usize / 16)?;
        match granule.wthread {
            SPLIT => self.words.get(granule.readers as usize).copied(),
            _ => Some([*granule; 4]),
        }
    }

    /// The last write to any of `bytes` bytes within a granule, whoever made it.
    pub(crate) fn written(
        &self,
        offset: u32,
        bytes: u32,
        block_of: impl Fn(u32) -> u32,
    ) -> Option<Conflict> {
        let words = self.words_at(offset)?;
        let touched = |n: usize| {
            let (first, last) = (
                offset as usize % 16 / 4,
                (offset + bytes - 1) as usize % 16 / 4,
            );
            (first..=last).contains(&n)
        };
        let mask = if bytes < 4 {
            ((1 << bytes) - 1) << (offset % 4)
        } else {
            0xf
        };
        let hit = |(n, word): &(usize, &Record)| {
            touched(*n) && word.wtick != 0 && word.wbytes & mask != 0
        };
        let (_, word) = words.iter().enumerate().find(hit)?;
        Some(Conflict {
            touch: if word.atomic {
                Touch::Atomic
            } else {
                Touch::Write
            },
            strong: word.strong,
            block: block_of(word.wtick),
            warp: u32::from(word.wthread) / 32,
            lane: Some(u32::from(word.wthread) % 32),
            pc: word.wpc,
        })
    }

    /// Whether anything in here conflicts with what another worker's blocks did to the same page.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        let clash = |a: &Record, b: &Record| {
            let both = |x: u8, y: u8| x & y != 0;
            let writes = a.wtick != 0 && b.wtick != 0 && both(a.wbytes, b.wbytes);
            writes && !inclusive(a.strong, b.strong, false)
                || a.wtick != 0 && b.rtick != 0 && both(a.wbytes, b.rbytes)
                || b.wtick != 0 && a.rtick != 0 && both(b.wbytes, a.rbytes)
        };
        (0..self.granules.len() as u32 * 16)
            .step_by(16)
            .any(
                |offset| match (self.words_at(offset), other.words_at(offset)) {
                    (Some(mine), Some(theirs)) => {
                        mine.iter().zip(&theirs).any(|(a, b)| clash(a, b))
                    }
                    _ => false,
                },
            )
    }

    /// One lane accesses `bytes` bytes, a power of two up to 16, aligned.
    #[inline(always)]
    pub(crate) fn touch(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        offset: u32,
        bytes: u32,
        touch: Touch,
    ) -> Option<Conflict> {
        let granule = self.granules.get_mut(offset as usize / 16)?;
        if bytes == 16 && granule.wthread != SPLIT {
            return granule.touch::<GLOBAL>(who, lane, touch, 0xf);
        }
        self.touch_words(who, lane, offset, bytes, touch)
    }

    fn touch_words(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        offset: u32,
        bytes: u32,
        touch: Touch,
    ) -> Option<Conflict> {
        let granule = self.granules.get_mut(offset as usize / 16)?;
        if granule.wthread != SPLIT {
            let words = [*granule; 4];
            let index = match self.free.pop() {
                Some(index) => {
                    self.words[index as usize] = words;
                    index
                }
                None => {
                    self.words.push(words);
                    self.words.len() as u32 - 1
                }
            };
            *granule = Record {
                wthread: SPLIT,
                readers: index,
                ..Record::default()
            };
        }
        let index = granule.readers;
        let words = self.words.get_mut(index as usize)?;
        if bytes < 4 {
            let mask = ((1 << bytes) - 1) << (offset % 4);
            return words[offset as usize / 4 % 4].touch::<GLOBAL>(who, lane, touch, mask);
        }
        let first = offset as usize / 4 % 4;
        for word in &mut words[first..(first + bytes as usize / 4).min(4)] {
            if let Some(conflict) = word.touch::<GLOBAL>(who, lane, touch, 0xf) {
                return Some(conflict);
            }
        }
        if bytes == 16 && touch == Touch::Write {
            *granule = words[0];
            self.free.push(index);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::order::{Joined, Order};

    fn order(warps: usize) -> Order {
        let mut order = Order::new(warps);
        order.start(0, 0);
        order
    }

    fn conflict(
        shadow: &mut Shadow,
        clocks: &Order,
        (warp, lane): (usize, u32),
        (offset, bytes): (u32, u32),
        touch: Touch,
    ) -> bool {
        let strong = u8::from(touch == Touch::Atomic);
        shadow
            .touch(&clocks.who(0, warp, 0, strong), lane, offset, bytes, touch)
            .is_some()
    }

    fn meet(clocks: &mut Order, members: &[usize]) {
        let mut joined = Joined::default();
        for member in members {
            clocks.arrive(0, *member, false, &mut joined);
        }
        clocks.release(0, members, &[], &mut joined);
    }

    #[test]
    fn a_barrier_orders_and_its_absence_does_not() {
        for bytes in [16, 4, 2] {
            let mut clocks = order(2);
            let mut shadow: Shadow = Shadow::new(64);
            assert!(!conflict(
                &mut shadow,
                &clocks,
                (0, 0),
                (16, bytes),
                Touch::Write
            ));
            assert!(!conflict(
                &mut shadow,
                &clocks,
                (0, 0),
                (16, bytes),
                Touch::Read
            ));
            assert!(conflict(
                &mut shadow,
                &clocks,
                (1, 0),
                (16, bytes),
                Touch::Read
            ));
            assert!(
                conflict(&mut shadow, &clocks, (0, 1), (16, bytes), Touch::Read),
                "lanes of a warp"
            );
            meet(&mut clocks, &[0, 1]);
            assert!(!conflict(
                &mut shadow,
                &clocks,
                (1, 0),
                (16, bytes),
                Touch::Read
            ));
            assert!(!conflict(
                &mut shadow,
                &clocks,
                (0, 5),
                (16, bytes),
                Touch::Read
            ));
            assert!(conflict(
                &mut shadow,
                &clocks,
                (1, 0),
                (16, bytes),
                Touch::Write
            ));
            meet(&mut clocks, &[0, 1]);
            assert!(!conflict(
                &mut shadow,
                &clocks,
                (1, 0),
                (16, bytes),
                Touch::Write
            ));
        }
    }

    #[test]
    fn a_named_barrier_orders_only_its_members() {
        let mut clocks = order(3);
        let mut shadow: Shadow = Shadow::new(16);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 0),
            (0, 16),
            Touch::Write
        ));
        meet(&mut clocks, &[0, 1]);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (1, 0),
            (0, 16),
            Touch::Read
        ));
        assert!(conflict(&mut shadow, &clocks, (2, 0), (0, 16), Touch::Read));
        meet(&mut clocks, &[1, 2]);
        assert!(
            !conflict(&mut shadow, &clocks, (2, 0), (0, 16), Touch::Read),
            "passed on by warp 1"
        );
    }

    #[test]
    fn neighbouring_bytes_and_atomics_do_not_race() {
        let clocks = order(2);
        let mut shadow: Shadow = Shadow::new(16);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 0),
            (0, 2),
            Touch::Write
        ));
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 1),
            (2, 2),
            Touch::Write
        ));
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 2),
            (8, 4),
            Touch::Atomic
        ));
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (1, 2),
            (8, 4),
            Touch::Atomic
        ));
        assert!(conflict(&mut shadow, &clocks, (1, 3), (8, 4), Touch::Read));
    }
}
