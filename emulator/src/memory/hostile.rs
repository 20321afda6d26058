//! Buffers that somebody else may change at any time: every load of them returns something new.

use super::access::{Addresses, Words, lanes_of};
use crate::machine::Random;
use crate::warp::Warp;

/// Marked ranges of global memory: first address and end of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hostile(pub Vec<(u64, u64)>);

impl Hostile {
    /// Whether any of `bytes` bytes is marked.
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        let end = address.saturating_add(bytes);
        self.0
            .iter()
            .any(|(first, last)| address < *last && *first < end)
    }
}

/// Values that break what is not checked, as often as any others.
const CORNERS: [u32; 10] = [
    0,
    1,
    u32::MAX,
    i32::MAX as u32,
    i32::MIN as u32,
    0x7fff_7fff,
    0x8000_8000,
    0x7f7f_7f7f,
    0x8080_8080,
    // A NaN, and a great number as an index.
    0x7fc0_0001,
];

/// What a load of a word may find where `real` lies.
pub(crate) fn garbage(random: &mut Random, real: u32) -> u32 {
    match random.below(8) {
        // What was there: others change it between two loads, not before each.
        0..=2 => real,
        3 => real.wrapping_add(random.below(5) as u32).wrapping_sub(2),
        4 => random.below(64) as u32,
        5 => random.next() as u32,
        _ => CORNERS[random.below(CORNERS.len() as u64) as usize],
    }
}

impl Warp<'_> {
    /// Replaces what lanes have loaded from hostile memory.
    #[cold]
    pub(super) fn garble<const W: usize>(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
        words: &mut Words<W>,
    ) {
        let hostile = &self.launch.hostile;
        for lane in lanes_of(mask) {
            if hostile.holds(addresses.at[lane], u64::from(bytes)) {
                for word in &mut words.words[lane] {
                    *word = garbage(self.random, *word);
                }
            }
        }
    }
}
