//! Finds accesses to memory that nothing orders.
//!
//! An access carries the tick of its warp; it happened before another if it came from the same thread,
//! or if the thread of the later one knows of it, see [`super::order`]. Two accesses that conflict and
//! are not ordered race, unless both are strong and each is in the scope of the other.
//!
//! Per 16 bytes there is one record of the last write and of the reads since, of one thread or of
//! several side by side, split into words as soon as the access of another kind is smaller. Where the record cannot hold all that happened (several readers of
//! different ticks, writers of different bytes of a word, readers of several blocks) it forgets in the direction of
//! silence. Strong reads are checked and not recorded.

mod line;
mod mark;

use super::access::lanes_of;
use super::order::{COPIES, Who, inclusive, scope};
use line::{LINE, Line};
use mark::Mark;

/// No thread, or more than one.
const MANY: u16 = u16::MAX;

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
    /// When it was made.
    pub tick: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// The last write.
    write: Mark,
    /// The reads since: the least tick of all.
    read: Mark,
    /// Warps that have read.
    readers: u32,
    wpc: u16,
    rpc: u16,
}

/// The write of a record that is split: `readers` is the index of its words.
const SPLIT: Mark = Mark(u64::MAX);

impl Record {
    /// An access to all of the record by one thread (or by several side by side, as the mark says),
    /// if it is told quickly that it conflicts with nothing; otherwise nothing happens.
    #[inline(always)]
    fn settle<const GLOBAL: bool>(&mut self, who: &Who<'_>, mark: Mark, touch: Touch) -> bool {
        // The same threads read once more since the last write, in the same tick.
        if touch == Touch::Read && self.read == mark {
            return true;
        }
        let near = |tick: u32| !GLOBAL || who.owner(tick) == who.block;
        let floor = u64::from(who.floor) << 32;
        let old = |mark: Mark| match GLOBAL {
            // Ticks of floors start at 1: what was never made is below all of them.
            false => mark.0 < floor,
            true => mark.tick() == 0 || mark.0 < floor && near(mark.tick()),
        };
        let own = |other: Mark| other.same_threads(mark) && near(other.tick());
        if !(old(self.write) || own(self.write)) {
            return false;
        }
        match touch {
            Touch::Read if who.strong != scope::WEAK => true,
            Touch::Read if old(self.read) => {
                self.read = mark;
                self.readers = 1 << (who.warp % 32);
                self.rpc = who.pc;
                true
            }
            // One of many threads reads once more.
            Touch::Read if self.read == mark.many() => {
                self.readers |= 1 << (who.warp % 32);
                true
            }
            Touch::Read => {
                // Spread in another way, some words would have the same thread and others not.
                let alike = self.read.spread() == mark.spread() || self.read.thread() == MANY;
                if alike {
                    self.read::<GLOBAL>(who, mark);
                }
                alike
            }
            Touch::Write => {
                if !(old(self.read) || own(self.read)) {
                    return false;
                }
                *self = Record {
                    write: mark.written(who.strong, false),
                    wpc: who.pc,
                    ..Record::default()
                };
                true
            }
            Touch::Atomic => false,
        }
    }

    fn is_split(&self) -> bool {
        self.write == SPLIT
    }

    /// The record of word `n` alone.
    fn word(&self, n: u16) -> Record {
        Record {
            write: self.write.word(n),
            read: self.read.word(n),
            ..*self
        }
    }

    /// `GLOBAL`: other blocks may have left their marks.
    #[inline(always)]
    fn touch<const GLOBAL: bool>(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        touch: Touch,
        bytes: u8,
    ) -> Option<Conflict> {
        let mark = Mark::new(who.stamp, (who.warp * 32 + lane) as u16, 0, bytes);
        let near = |tick: u32| !GLOBAL || who.owner(tick) == who.block;
        // Whether an earlier access has to be looked at closely.
        let meets = |other: Mark| {
            other.tick() != 0
                && (other.tick() >= who.floor || GLOBAL)
                && other.bytes() & bytes != 0
                && !(other.same_threads(mark) && near(other.tick()))
        };
        if meets(self.write)
            && let Some(conflict) = self.wrote::<GLOBAL>(who, lane)
        {
            return Some(conflict);
        }
        if touch == Touch::Read {
            if who.strong == scope::WEAK {
                self.read::<GLOBAL>(who, mark);
            }
            return None;
        }
        if meets(self.read)
            && let Some(conflict) = self.was_read::<GLOBAL>(who, lane)
        {
            return Some(conflict);
        }
        *self = Record {
            write: mark.written(who.strong, touch == Touch::Atomic),
            wpc: who.pc,
            ..Record::default()
        };
        None
    }

    /// Notes a weak read.
    #[inline(always)]
    fn read<const GLOBAL: bool>(&mut self, who: &Who<'_>, mark: Mark) {
        let tick = self.read.tick();
        let old = match GLOBAL {
            false => tick < who.floor,
            true => who.owner(tick) != who.block || tick < who.floor,
        };
        let warp = 1 << (who.warp % 32);
        if old {
            self.read = mark;
            self.readers = warp;
        } else {
            let (both, same) = (
                self.read.bytes() & mark.bytes(),
                self.read.same_threads(mark),
            );
            let (thread, spread, bytes) = match same {
                true => (
                    mark.thread(),
                    mark.spread(),
                    self.read.bytes() | mark.bytes(),
                ),
                // Only bytes that several threads have read are read by one more than any writer.
                false if both != 0 => (MANY, 0, both),
                // Readers of other bytes: those already noted stay if they are several, else the last.
                false if self.read.thread() == MANY => {
                    (MANY, self.read.spread(), self.read.bytes())
                }
                false => {
                    self.read = mark;
                    self.readers = warp;
                    self.rpc = who.pc;
                    return;
                }
            };
            self.read = Mark::new(tick.min(mark.tick()), thread, spread, bytes);
            self.readers |= warp;
        }
        self.rpc = who.pc;
    }

    /// The last write, if it races with an access of `lane`.
    #[inline(always)]
    fn wrote<const GLOBAL: bool>(&self, who: &Who<'_>, lane: u32) -> Option<Conflict> {
        let block = if GLOBAL {
            who.owner(self.write.tick())
        } else {
            who.block
        };
        if inclusive(self.write.strong(), who.strong, block == who.block) {
            return None;
        }
        let (thread, tick) = (u32::from(self.write.thread()), self.write.tick());
        let (warp, other) = (thread / 32, thread % 32);
        if block == who.block && who.after(warp, tick)
            || who.told(lane, block, warp, Some(other), tick)
        {
            return None;
        }
        Some(Conflict {
            touch: if self.write.atomic() {
                Touch::Atomic
            } else {
                Touch::Write
            },
            strong: self.write.strong(),
            block,
            warp,
            lane: Some(other),
            pc: self.wpc,
            tick,
        })
    }

    /// A read that races with a write of `lane`.
    #[inline(always)]
    fn was_read<const GLOBAL: bool>(&self, who: &Who<'_>, lane: u32) -> Option<Conflict> {
        let block = if GLOBAL {
            who.owner(self.read.tick())
        } else {
            who.block
        };
        let (thread, tick) = (self.read.thread(), self.read.tick());
        let other = (thread != MANY).then_some(u32::from(thread) % 32);
        let unordered = |warp: &usize| {
            let warp = *warp as u32;
            !(block == who.block && who.after(warp, tick)
                || who.told(lane, block, warp, other, tick))
        };
        let warp = match other {
            // A copy's thread is not among those of the warps.
            Some(_) if u32::from(thread) / 32 >= COPIES => {
                Some(usize::from(thread) / 32).filter(unordered)?
            }
            _ => lanes_of(self.readers).find(unordered)?,
        };
        Some(Conflict {
            touch: Touch::Read,
            strong: scope::WEAK,
            block,
            warp: warp as u32,
            lane: other,
            pc: self.rpc,
            tick,
        })
    }
}

/// Whether eight lanes access `bytes` bytes each that lie side by side, from a multiple of 16.
#[inline(always)]
pub(super) fn side_by_side(run: &[u32], bytes: u32) -> bool {
    let first = run[0];
    let mut wrong = first % 16;
    for (lane, offset) in run.iter().enumerate() {
        wrong |= *offset ^ first.wrapping_add(lane as u32 * bytes);
    }
    wrong == 0
}

/// The records of a block's shared memory, or of a page of global memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow<const GLOBAL: bool = false> {
    lines: Vec<Line>,
    words: Vec<[Record; 4]>,
    free: Vec<u32>,
}

impl<const GLOBAL: bool> Shadow<GLOBAL> {
    pub(crate) fn new(size: u32) -> Self {
        Shadow {
            lines: vec![Line::default(); (size as usize).div_ceil(LINE)],
            ..Shadow::default()
        }
    }

    pub(crate) fn reset(&mut self) {
        self.lines.fill(Line::default());
        self.words.clear();
        self.free.clear();
    }

    /// The lanes of `mask` access `bytes` bytes each; finds the first that conflicts, and its lane.
    /// `row`: all of them, side by side.
    #[inline(always)]
    pub(crate) fn touch_lanes(
        &mut self,
        who: &Who<'_>,
        offsets: &[u32; 32],
        (mask, bytes, row): (u32, u32, bool),
        touch: Touch,
    ) -> Option<(Conflict, usize)> {
        let mut left = mask;
        if mask == u32::MAX && bytes >= 4 {
            if offsets[1] == offsets[0] && touch == Touch::Read && *offsets == [offsets[0]; 32] {
                // What two lanes leave behind, all of them would.
                left = 0b11;
            }
            if row
                && offsets[0].is_multiple_of(16)
                && self.settle::<32>(who, 0, offsets[0], bytes, touch)
            {
                return None;
            }
            // Pieces of 16 bytes are looked at one by one in any case.
            if bytes < 16 {
                for quarter in 0..4 {
                    let run = &offsets[8 * quarter..8 * quarter + 8];
                    if side_by_side(run, bytes)
                        && self.settle::<8>(who, 8 * quarter as u32, run[0], bytes, touch)
                    {
                        left &= !(0xff << (8 * quarter));
                    }
                }
            }
        }
        let mark = Mark::new(who.stamp, (who.warp * 32) as u16, 0, 0xf);
        while left != 0 {
            let lane = left.trailing_zeros();
            left &= left - 1;
            let offset = offsets[lane as usize];
            if bytes == 16
                && let Some(line) = self.lines.get_mut(offset as usize / LINE)
                && line.settle::<GLOBAL>(who, offset as usize, mark.of_lane(lane), touch)
            {
                continue;
            }
            if let Some(conflict) = self.touch_slowly(who, lane, offset, bytes, touch) {
                return Some((conflict, lane as usize));
            }
        }
        None
    }

    /// [`Shadow::touch`] where it is rare.
    #[inline(never)]
    fn touch_slowly(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        offset: u32,
        bytes: u32,
        touch: Touch,
    ) -> Option<Conflict> {
        self.touch(who, lane, offset, bytes, touch)
    }

    /// As many lanes from `lane` on access `bytes` bytes each, side by side from a multiple of 16: whether
    /// it was told quickly that this conflicts with nothing. If not, each lane has to be looked at, which
    /// does no harm to what was done already.
    #[inline(always)]
    pub(super) fn settle<const LANES: usize>(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        offset: u32,
        bytes: u32,
        touch: Touch,
    ) -> bool {
        let spread = match bytes {
            16 => 0,
            8 => 1,
            _ => 2,
        };
        let mut mark = Mark::new(who.stamp, (who.warp * 32 + lane) as u16, spread, 0xf);
        let (first, count) = (offset as usize, LANES * bytes as usize);
        if !GLOBAL && first.is_multiple_of(LINE) && count.is_multiple_of(LINE) {
            let lines = first / LINE..(first + count) / LINE;
            let Some(lines) = self.lines.get_mut(lines) else {
                return false;
            };
            let mut settled = true;
            for line in lines {
                settled &= line.settle_all(who, mark, touch);
                mark = mark.after(8);
            }
            return settled;
        }
        for offset in (first..first + count).step_by(16) {
            let Some(line) = self.lines.get_mut(offset / LINE) else {
                return false;
            };
            if !line.settle::<GLOBAL>(who, offset, mark, touch) {
                return false;
            }
            mark = mark.after(1);
        }
        true
    }

    /// The record of the granule at `offset`.
    fn record(&self, offset: u32) -> Option<Record> {
        let line = self.lines.get(offset as usize / LINE)?;
        Some(line.record(offset as usize))
    }

    /// The records of the words of the granule at `offset`.
    fn words_at(&self, offset: u32) -> Option<[Record; 4]> {
        let granule = self.record(offset)?;
        match granule.is_split() {
            true => self.words.get(granule.readers as usize).copied(),
            false => Some([0, 1, 2, 3].map(|n| granule.word(n))),
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
            touched(*n) && word.write.tick() != 0 && word.write.bytes() & mask != 0
        };
        let (_, word) = words.iter().enumerate().find(hit)?;
        Some(Conflict {
            touch: if word.write.atomic() {
                Touch::Atomic
            } else {
                Touch::Write
            },
            strong: word.write.strong(),
            block: block_of(word.write.tick()),
            warp: u32::from(word.write.thread()) / 32,
            lane: Some(u32::from(word.write.thread()) % 32),
            pc: word.wpc,
            tick: word.write.tick(),
        })
    }

    /// Whether anything in here conflicts with what another worker's blocks did to the same page.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        let clash = |a: &Record, b: &Record| {
            let both =
                |x: Mark, y: Mark| x.tick() != 0 && y.tick() != 0 && x.bytes() & y.bytes() != 0;
            both(a.write, b.write) && !inclusive(a.write.strong(), b.write.strong(), false)
                || both(a.write, b.read)
                || both(b.write, a.read)
        };
        (0..(self.lines.len() * LINE) as u32)
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
        let line = self.lines.get_mut(offset as usize / LINE)?;
        if bytes == 16 {
            let mark = Mark::new(who.stamp, (who.warp * 32 + lane) as u16, 0, 0xf);
            if line.settle::<GLOBAL>(who, offset as usize, mark, touch) {
                return None;
            }
            let mut granule = line.record(offset as usize);
            let spread = granule.write.spread() | granule.read.spread();
            if !granule.is_split() && spread == 0 {
                let conflict = granule.touch::<GLOBAL>(who, lane, touch, 0xf);
                line.set_record(offset as usize, granule);
                return conflict;
            }
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
        let index = self.split(offset)?;
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
            let whole = words[0];
            self.lines[offset as usize / LINE].set_record(offset as usize, whole);
            self.free.push(index);
        }
        None
    }

    /// Forgets the last write to any of `bytes` bytes within a granule.
    #[cold]
    pub(crate) fn forget_write(&mut self, offset: u32, bytes: u32) {
        let index = self.split(offset);
        if let Some(words) = index.and_then(|index| self.words.get_mut(index as usize)) {
            let (first, last) = (offset as usize % 16, (offset + bytes - 1) as usize % 16);
            for word in &mut words[first / 4..=last / 4] {
                word.write = Mark::default();
            }
        }
    }

    /// Keeps the words of a granule apart; their index.
    fn split(&mut self, offset: u32) -> Option<u32> {
        let line = self.lines.get_mut(offset as usize / LINE)?;
        let mut granule = line.record(offset as usize);
        if !granule.is_split() {
            let words = [0, 1, 2, 3].map(|n| granule.word(n));
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
            granule = Record {
                write: SPLIT,
                readers: index,
                ..Record::default()
            };
            line.set_record(offset as usize, granule);
        }
        Some(granule.readers)
    }
}

#[cfg(test)]
mod tests;
