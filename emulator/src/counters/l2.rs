//! A model of the L2 cache: what a launch would move between it and device memory.
//!
//! It is a model, not the hardware, whose replacement, hashing and timing are not published:
//!
//! * Lines of 128 bytes in four sectors of 32; sets of 16 lines, chosen by a hash; the line that was
//!   not used for longest makes room. A missing sector is fetched alone.
//! * The cache is empty when the launch starts. What is dirty at its end is written back then, and
//!   counted. Stores fetch nothing, atomics happen in the cache. No L1 cache is in front of it.
//! * As many blocks as the device holds, by threads and shared memory, run at once. In each round each
//!   of them makes one access to one line, in the order of their seats; when one has ended, the next
//!   block of the grid takes its seat before the next round.
//!
//! Within a block, accesses come in the order in which its warps made them here, which is the seed's.
//! So what it counts depends on the accesses of each block alone, not on which host thread ran the
//! block, or when. The accesses of a block are kept until it has had its turn: 8 bytes each.

use std::collections::BTreeMap;

/// Lines of a set.
const WAYS: usize = 16;
/// Bytes of a line.
const LINE: u64 = 128;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    Read,
    Write,
    /// Both, in one step.
    Update,
}

impl Direction {
    pub(crate) fn reads(self) -> bool {
        self != Direction::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Direction::Read
    }
}

/// Some sectors of a line, accessed by an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

/// Instructions beyond this position are taken for this one.
const LAST_PC: u32 = (1 << 17) - 1;

impl Entry {
    pub(crate) fn new(line: u64, sectors: u8, direction: Direction, pc: u32) -> Entry {
        let low = u64::from(pc.min(LAST_PC)) << 6 | (direction as u64) << 4 | u64::from(sectors);
        Entry(line << 23 | low)
    }

    fn line(self) -> u64 {
        self.0 >> 23
    }

    fn sectors(self) -> u8 {
        self.0 as u8 & 0xf
    }

    fn direction(self) -> Direction {
        match self.0 >> 4 & 3 {
            0 => Direction::Read,
            1 => Direction::Write,
            _ => Direction::Update,
        }
    }

    fn pc(self) -> usize {
        (self.0 >> 6) as usize & LAST_PC as usize
    }
}

#[derive(Debug, Clone, Copy)]
struct Line {
    number: u64,
    valid: u8,
    dirty: u8,
}

const FREE: Line = Line {
    number: u64::MAX,
    valid: 0,
    dirty: 0,
};

/// The cache.
#[derive(Debug, Clone)]
struct Cache {
    /// Set by set, each from the line used last to the one used longest ago.
    lines: Vec<Line>,
    written: u64,
}

impl Cache {
    fn new(bytes: u64) -> Cache {
        let sets = (bytes / LINE) as usize / WAYS;
        Cache {
            lines: vec![FREE; sets.max(1) * WAYS],
            written: 0,
        }
    }

    /// How many sectors have to be fetched.
    fn access(&mut self, number: u64, sectors: u8, direction: Direction) -> u64 {
        let sets = (self.lines.len() / WAYS) as u128;
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = ((u128::from(hash) * sets) >> 64) as usize * WAYS;
        let set = &mut self.lines[set..set + WAYS];
        let at = set.iter().position(|line| line.number == number);
        let at = at.unwrap_or_else(|| {
            let last = &mut set[WAYS - 1];
            self.written += u64::from(last.dirty.count_ones());
            *last = Line { number, ..FREE };
            WAYS - 1
        });
        set[..=at].rotate_right(1);
        let line = &mut set[0];
        let missing = if direction.reads() {
            (sectors & !line.valid).count_ones()
        } else {
            0
        };
        line.valid |= sectors;
        if direction.writes() {
            line.dirty |= sectors;
        }
        u64::from(missing)
    }

    /// Writes back what is dirty.
    fn flush(&mut self) {
        for line in &mut self.lines {
            self.written += u64::from(line.dirty.count_ones());
            *line = FREE;
        }
    }
}

/// A block that runs, and how far it is.
#[derive(Debug)]
struct Seat {
    log: Vec<Entry>,
    at: usize,
}

/// Runs the accesses of all blocks through the cache, as soon as they are known.
#[derive(Debug)]
pub(crate) struct Replay {
    cache: Cache,
    blocks: u64,
    /// The block that gets the next seat.
    next: u64,
    seats: Vec<Option<Seat>>,
    /// Blocks that have ended and not yet got a seat.
    ended: BTreeMap<u64, Vec<Entry>>,
    /// Sectors fetched, by instruction.
    fetched: Vec<u64>,
}

impl Replay {
    /// For a launch of `blocks` blocks, `resident` at once, of a program of this many instructions.
    pub(crate) fn new(bytes: u64, blocks: u64, resident: u64, instructions: usize) -> Replay {
        let seats = resident.min(blocks).max(1) as usize;
        Replay {
            cache: Cache::new(bytes),
            blocks,
            next: 0,
            seats: (0..seats).map(|_| None).collect(),
            ended: BTreeMap::new(),
            fetched: vec![0; instructions.min(LAST_PC as usize + 1)],
        }
    }

    /// A block has ended, and this is what it did.
    pub(crate) fn deliver(&mut self, block: u64, log: Vec<Entry>) {
        self.ended.insert(block, log);
        while self.seat() {
            for seat in &mut self.seats {
                let Some(Seat { log, at }) = seat else {
                    continue;
                };
                let Some(entry) = log.get(*at) else {
                    *seat = None;
                    continue;
                };
                *at += 1;
                let (line, sectors) = (entry.line(), entry.sectors());
                let missing = self.cache.access(line, sectors, entry.direction());
                if let Some(fetched) = self.fetched.get_mut(entry.pc()) {
                    *fetched += missing;
                }
            }
        }
    }

    /// Gives free seats to the next blocks; whether a round can be run.
    fn seat(&mut self) -> bool {
        let mut taken = false;
        for seat in &mut self.seats {
            if seat.is_none() && self.next < self.blocks {
                let Some(log) = self.ended.remove(&self.next) else {
                    return false;
                };
                self.next += 1;
                *seat = Some(Seat { log, at: 0 });
            }
            taken |= seat.is_some();
        }
        taken
    }

    /// Ends the launch: sectors fetched by each instruction, and sectors written back in all.
    pub(crate) fn finish(&mut self) -> (Vec<u64>, u64) {
        self.cache.flush();
        (std::mem::take(&mut self.fetched), self.cache.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: u64) -> Entry {
        Entry::new(line, 0xf, Direction::Read, 0)
    }

    #[test]
    fn entries_keep_what_they_are_made_of() {
        let line = 0x0000_ffff_ffff_ff80 / 128;
        for direction in [Direction::Read, Direction::Write, Direction::Update] {
            let entry = Entry::new(line, 0b1010, direction, 99_999);
            assert_eq!((entry.line(), entry.sectors()), (line, 0b1010));
            assert_eq!((entry.direction(), entry.pc()), (direction, 99_999));
        }
    }

    #[test]
    fn a_set_forgets_what_was_not_used_for_longest() {
        let mut cache = Cache::new(WAYS as u64 * LINE);
        for line in 0..16 {
            assert_eq!(cache.access(line, 0xf, Direction::Read), 4);
        }
        assert_eq!(cache.access(0, 0xf, Direction::Read), 0);
        // 17 lines: 1 goes, being the one used longest ago.
        assert_eq!(cache.access(16, 0xf, Direction::Read), 4);
        assert_eq!(cache.access(0, 0xf, Direction::Read), 0);
        assert_eq!(cache.access(1, 0xf, Direction::Read), 4);
        assert_eq!(cache.written, 0);
    }

    #[test]
    fn sectors_are_fetched_alone_and_written_back_once() {
        let mut cache = Cache::new(WAYS as u64 * LINE);
        assert_eq!(cache.access(5, 0b0001, Direction::Read), 1);
        assert_eq!(cache.access(5, 0b0011, Direction::Read), 1);
        assert_eq!(
            cache.access(5, 0b1100, Direction::Write),
            0,
            "stores fetch nothing"
        );
        assert_eq!(cache.access(5, 0b1111, Direction::Read), 0);
        assert_eq!(cache.access(6, 0b0110, Direction::Update), 2);
        for line in 100..116 {
            cache.access(line, 0b0001, Direction::Read);
        }
        assert_eq!(cache.written, 4);
        cache.flush();
        assert_eq!(cache.written, 4, "nothing is written twice");
    }

    /// Fetched sectors of blocks that each read lines `0..lines`, in a cache of 64 lines.
    fn fetched(blocks: u64, resident: u64, lines: u64, order: &[u64]) -> u64 {
        let mut replay = Replay::new(64 * LINE, blocks, resident, 1);
        for block in order {
            replay.deliver(*block, (0..lines).map(read).collect());
        }
        replay.finish().0[0]
    }

    #[test]
    fn blocks_that_run_at_once_share_what_they_fetch() {
        // 512 lines do not fit: one block after the other fetches them all again, at once only once.
        assert_eq!(fetched(4, 4, 512, &[0, 1, 2, 3]), 512 * 4);
        assert_eq!(fetched(4, 1, 512, &[0, 1, 2, 3]), 4 * 512 * 4);
        assert_eq!(fetched(4, 2, 512, &[0, 1, 2, 3]), 2 * 512 * 4);
    }

    #[test]
    fn the_order_in_which_blocks_end_does_not_matter() {
        let logs = |block: u64| -> Vec<Entry> {
            let mut random = crate::machine::Random::new(7, block);
            (0..200 + 17 * block % 50)
                .map(|_| read(random.below(300)))
                .collect()
        };
        let run = |order: &mut dyn Iterator<Item = u64>| {
            let mut replay = Replay::new(128 * LINE, 20, 6, 1);
            for block in order {
                replay.deliver(block, logs(block));
            }
            replay.finish()
        };
        let first = run(&mut (0..20));
        assert_eq!(run(&mut (0..20).rev()), first);
        assert_eq!(run(&mut (0..20).map(|n| n * 7 % 20)), first);
    }
}
