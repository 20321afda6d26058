//! A block's shared memory.

use super::bytes::Bytes;
use super::mbarrier::Mbarriers;
use super::race::Shadow;
use crate::isa::async_copy::Copies;

/// Shared memory with what is known about it.
pub(crate) struct Shared {
    pub bytes: Bytes,
    pub shadow: Shadow,
    /// For each 4 bytes, 1 + the thread whose `cp.async` is under way to them, or [`MBARRIER`].
    kept: Vec<u16>,
    /// How many copies are under way and `mbarrier` objects are there: if none, all of `kept` is 0.
    pub keeps: u32,
    /// Copies under way, by warp.
    pub copies: Vec<Copies>,
    pub mbarriers: Mbarriers,
}

/// An entry of `kept`: the bytes are part of an `mbarrier` object.
const MBARRIER: u16 = u16::MAX;

/// Why bytes may not be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A copy that this thread has issued is under way to them.
    Copy(u32),
    /// They are part of an `mbarrier` object.
    Mbarrier,
}

impl Shared {
    pub(crate) fn new(size: u32, races: bool, warps: usize) -> Shared {
        Shared {
            bytes: Bytes::new(size),
            shadow: Shadow::new(if races { size } else { 0 }),
            kept: vec![0; size.div_ceil(4) as usize],
            keeps: 0,
            copies: vec![Copies::default(); warps],
            mbarriers: Mbarriers::default(),
        }
    }

    /// Makes it a new block's.
    pub(crate) fn reset(&mut self) {
        self.bytes.reset();
        self.shadow.reset();
        if self.keeps != 0 {
            self.kept.fill(0);
            self.keeps = 0;
        }
        self.copies.iter_mut().for_each(Copies::reset);
        self.mbarriers.reset();
    }

    fn entries(&mut self, offset: u32, bytes: u32) -> &mut [u16] {
        let words = offset as usize / 4..(offset + bytes).div_ceil(4) as usize;
        self.kept.get_mut(words).unwrap_or_default()
    }

    /// What keeps others from any of these bytes.
    #[inline(always)]
    pub(crate) fn kept(&self, offset: u32, bytes: u32) -> Option<Kept> {
        let words = offset as usize / 4..(offset + bytes).div_ceil(4) as usize;
        let entries = self.kept.get(words).unwrap_or_default();
        match entries.iter().find(|entry| **entry != 0)? {
            &MBARRIER => Some(Kept::Mbarrier),
            thread => Some(Kept::Copy(u32::from(*thread) - 1)),
        }
    }

    /// Keeps others from these bytes, of which nothing is known until they are let go.
    pub(crate) fn keep(&mut self, offset: u32, bytes: u32, by: Kept) {
        self.bytes.mark(offset, bytes, false);
        self.keeps += 1;
        let entry = match by {
            Kept::Copy(thread) => thread as u16 + 1,
            Kept::Mbarrier => MBARRIER,
        };
        self.entries(offset, bytes).fill(entry);
    }

    /// Undoes [`Shared::keep`].
    pub(crate) fn let_go(&mut self, offset: u32, bytes: u32) {
        self.keeps = self.keeps.saturating_sub(1);
        self.entries(offset, bytes).fill(0);
    }
}
