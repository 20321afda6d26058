//! A block's shared memory.

use super::bytes::Bytes;
use super::race::Shadow;

/// Shared memory with what is known about it.
pub(crate) struct Shared {
    pub bytes: Bytes,
    pub shadow: Shadow,
    /// For each 16 bytes, 1 + the thread whose `cp.async` is under way to (part of) them.
    pending: Vec<u16>,
    /// How many copies are under way.
    pub copies: u32,
}

impl Shared {
    pub(crate) fn new(size: u32, races: bool) -> Shared {
        Shared {
            bytes: Bytes::new(size),
            shadow: Shadow::new(if races { size } else { 0 }),
            pending: vec![0; size.div_ceil(16) as usize],
            copies: 0,
        }
    }

    /// Makes it a new block's.
    pub(crate) fn reset(&mut self) {
        self.bytes.reset();
        self.shadow.reset();
        self.pending.fill(0);
        self.copies = 0;
    }

    /// The thread whose copy is under way to these bytes.
    #[inline(always)]
    pub(crate) fn pending(&self, offset: u32) -> Option<u32> {
        let thread = self.pending.get(offset as usize / 16).copied().unwrap_or(0);
        (thread != 0).then(|| u32::from(thread) - 1)
    }

    /// Records that a copy to these bytes by `thread` is under way, or no longer.
    #[inline(always)]
    pub(crate) fn set_pending(&mut self, offset: u32, thread: Option<u32>) {
        if let Some(entry) = self.pending.get_mut(offset as usize / 16) {
            *entry = thread.map_or(0, |thread| thread as u16 + 1);
        }
    }
}
