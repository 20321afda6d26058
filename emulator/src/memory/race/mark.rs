//! When an access was made, and by whom, in one word.

use super::MANY;

/// Tick (0 for never) and thread of an access, how it is spread over threads, and its bytes; of a
/// write also its scope and whether it was atomic. In one word, so that ticks compare as the whole does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark(pub u64);

impl Mark {
    #[inline(always)]
    pub(super) fn new(tick: u32, thread: u16, spread: u8, bytes: u8) -> Mark {
        let low = u64::from(thread) << 16 | u64::from(spread) << 4 | u64::from(bytes);
        Mark(u64::from(tick) << 32 | low)
    }

    /// The same as a write of this scope.
    #[inline(always)]
    pub(super) fn written(self, strong: u8, atomic: bool) -> Mark {
        Mark(self.0 | u64::from(strong) << 6 | u64::from(atomic) << 8)
    }

    /// The mark of the `n`-th 16 bytes behind, if what they were accessed with lies side by side.
    #[inline(always)]
    pub(super) fn after(self, n: u64) -> Mark {
        Mark(self.0 + (n << (16 + self.spread())))
    }

    /// The mark of another lane, if this is that of lane 0.
    #[inline(always)]
    pub(super) fn of_lane(self, lane: u32) -> Mark {
        Mark(self.0 + (u64::from(lane) << 16))
    }

    #[inline(always)]
    pub(super) fn tick(self) -> u32 {
        (self.0 >> 32) as u32
    }
    #[inline(always)]
    pub(super) fn thread(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// Word `n` of 16 bytes was accessed by `thread + (n << spread >> 2)`.
    #[inline(always)]
    pub(super) fn spread(self) -> u8 {
        self.0 as u8 >> 4 & 3
    }
    /// Bytes of a word; all of them for more.
    #[inline(always)]
    pub(super) fn bytes(self) -> u8 {
        self.0 as u8 & 0xf
    }
    #[inline(always)]
    pub(super) fn strong(self) -> u8 {
        self.0 as u8 >> 6
    }
    #[inline(always)]
    pub(super) fn atomic(self) -> bool {
        self.0 >> 8 & 1 != 0
    }

    /// Whether the threads of each word are those of the other mark.
    #[inline(always)]
    pub(super) fn same_threads(self, other: Mark) -> bool {
        (self.0 ^ other.0) & 0xffff_0030 == 0
    }

    /// The same, of more than one thread.
    #[inline(always)]
    pub(super) fn many(self) -> Mark {
        Mark(self.0 & !0x30 | u64::from(MANY) << 16)
    }

    /// The mark of word `n` alone.
    pub(super) fn word(self, n: u16) -> Mark {
        if self.thread() == MANY {
            return self;
        }
        Mark((self.0 & !0x30) + (u64::from(n << self.spread() >> 2) << 16))
    }
}
