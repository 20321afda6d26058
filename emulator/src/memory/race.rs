//! Finds accesses to shared memory that nothing orders.
//!
//! Time within a block is counted in ticks: every barrier takes the next one. An access carries the
//! tick of its warp's last synchronisation; a warp knows of each other warp the tick up to which it
//! has synchronised with it. An access happened before another if it came from the same thread, or
//! if the later one's warp knows of its warp a later tick than the access carries. Knowledge is
//! passed on at barriers (so they need not cover the whole block); `bar.warp.sync` orders the lanes
//! of one warp.
//!
//! Per 16 bytes there is one record of the last write and of the reads since, split into words as
//! soon as an access is smaller. Where the record cannot hold all that happened (several readers of
//! different ticks, writers of different bytes of a word) it forgets in the direction of silence.

use super::access::lanes_of;

/// No thread, or more than one.
const MANY: u16 = u16::MAX;
/// As the writer of a record: split, and `readers` is the index of its words.
const SPLIT: u16 = u16::MAX - 1;

/// What warps know of each other.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    now: u32,
    warps: usize,
    /// `known[v * warps + w]`: up to which tick `v` has synchronised with `w`.
    known: Vec<u32>,
    /// Least tick that each warp knows of any.
    floor: Vec<u32>,
}

impl Clocks {
    pub(crate) fn new(warps: usize) -> Clocks {
        let mut known = vec![0; warps * warps];
        for warp in 0..warps {
            known[warp * warps + warp] = 1;
        }
        Clocks {
            now: 1,
            warps,
            known,
            floor: vec![1; warps],
        }
    }

    /// What a warp knows and did so far is given to those that will be released by a barrier. One
    /// that does not wait there itself goes on in a new tick.
    pub(crate) fn arrive(&mut self, warp: usize, goes_on: bool, joined: &mut Vec<u32>) {
        joined.resize(self.warps, 0);
        if goes_on {
            self.pass(warp);
        }
        let known = self
            .known
            .get(warp * self.warps..(warp + 1) * self.warps)
            .unwrap_or(&[]);
        for (joined, known) in joined.iter_mut().zip(known) {
            *joined = (*joined).max(*known);
        }
    }

    /// A barrier releases these warps, which all know now what was joined there.
    pub(crate) fn release(&mut self, members: &[usize], exited: &[usize], joined: &mut [u32]) {
        self.now = self.now.saturating_add(1);
        for &member in members {
            joined[member] = self.now;
        }
        for &warp in exited {
            joined[warp] = u32::MAX;
        }
        for &member in members {
            let known = &mut self.known[member * self.warps..][..self.warps];
            for (known, joined) in known.iter_mut().zip(joined.iter()) {
                *known = (*known).max(*joined);
            }
            self.floor[member] = known.iter().copied().min().unwrap_or(1).max(1);
        }
    }

    /// The lanes of a warp have met.
    pub(crate) fn pass(&mut self, warp: usize) {
        self.now = self.now.saturating_add(1);
        if let Some(own) = self.known.get_mut(warp * self.warps + warp) {
            *own = self.now;
        }
    }

    /// Who makes an access: thread `lane` of `warp`, in the instruction at `pc`.
    #[inline(always)]
    pub(crate) fn who(&self, warp: usize, pc: u32) -> Who<'_> {
        let known = self
            .known
            .get(warp * self.warps..(warp + 1) * self.warps)
            .unwrap_or(&[]);
        Who {
            warp: warp as u32,
            pc: pc.min(u32::from(u16::MAX)) as u16,
            stamp: known.get(warp).copied().unwrap_or(1),
            floor: self.floor.get(warp).copied().unwrap_or(1),
            known,
        }
    }
}

/// The warp that makes an access, and what it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    warp: u32,
    pc: u16,
    stamp: u32,
    floor: u32,
    known: &'a [u32],
}

impl Who<'_> {
    /// Whether all that `warp` did at `tick` happened before.
    #[inline(always)]
    fn after(&self, warp: u32, tick: u32) -> bool {
        tick < self.floor
            || self
                .known
                .get(warp as usize)
                .is_some_and(|known| *known > tick)
    }
}

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
}

impl Record {
    #[inline(always)]
    fn touch(&mut self, who: &Who<'_>, lane: u32, touch: Touch, bytes: u8) -> Option<Conflict> {
        let thread = (who.warp * 32 + lane) as u16;
        if self.wtick >= who.floor
            && self.wthread != thread
            && self.wbytes & bytes != 0
            && !(self.atomic && touch == Touch::Atomic)
            && !who.after(u32::from(self.wthread) / 32, self.wtick)
        {
            let touch = if self.atomic {
                Touch::Atomic
            } else {
                Touch::Write
            };
            let (warp, lane) = (u32::from(self.wthread) / 32, u32::from(self.wthread) % 32);
            return Some(Conflict {
                touch,
                warp,
                lane: Some(lane),
                pc: self.wpc,
            });
        }
        if touch == Touch::Read {
            if self.rtick < who.floor {
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
            return None;
        }
        if self.rtick >= who.floor && self.rthread != thread && self.rbytes & bytes != 0 {
            let mut readers = self.readers;
            while readers != 0 {
                let warp = readers.trailing_zeros();
                readers &= readers - 1;
                if !who.after(warp, self.rtick) {
                    let lane = (self.rthread != MANY).then_some(u32::from(self.rthread) % 32);
                    return Some(Conflict {
                        touch: Touch::Read,
                        warp,
                        lane,
                        pc: self.rpc,
                    });
                }
            }
        }
        *self = Record {
            wtick: who.stamp,
            wthread: thread,
            wpc: who.pc,
            wbytes: bytes,
            atomic: touch == Touch::Atomic,
            ..Record::default()
        };
        None
    }
}

/// The records of a block's shared memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow {
    granules: Vec<Record>,
    words: Vec<[Record; 4]>,
    free: Vec<u32>,
}

impl Shadow {
    pub(crate) fn new(size: u32) -> Shadow {
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
            return granule.touch(who, lane, touch, 0xf);
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
            return words[offset as usize / 4 % 4].touch(who, lane, touch, mask);
        }
        let first = offset as usize / 4 % 4;
        for word in &mut words[first..(first + bytes as usize / 4).min(4)] {
            if let Some(conflict) = word.touch(who, lane, touch, 0xf) {
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

    fn conflict(
        shadow: &mut Shadow,
        clocks: &Clocks,
        (warp, lane): (usize, u32),
        (offset, bytes): (u32, u32),
        touch: Touch,
    ) -> bool {
        shadow
            .touch(&clocks.who(warp, 0), lane, offset, bytes, touch)
            .is_some()
    }

    fn meet(clocks: &mut Clocks, members: &[usize]) {
        let mut joined = Vec::new();
        for member in members {
            clocks.arrive(*member, false, &mut joined);
        }
        clocks.release(members, &[], &mut joined);
    }

    #[test]
    fn a_barrier_orders_and_its_absence_does_not() {
        for bytes in [16, 4, 2] {
            let mut clocks = Clocks::new(2);
            let mut shadow = Shadow::new(64);
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
        let mut clocks = Clocks::new(3);
        let mut shadow = Shadow::new(16);
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
        let clocks = Clocks::new(2);
        let mut shadow = Shadow::new(16);
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
