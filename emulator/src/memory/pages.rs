//! Races in global memory: the records of all bytes that the blocks of a worker have touched, by page,
//! and what has to be known to repeat a launch.
//!
//! Blocks that cannot watch each other run on several host threads, each with records of its own. What
//! two of them did to the same page is compared when both are done. If anything clashes, the launch is
//! undone from the [`Journal`] and repeated on one thread, so that what is reported depends on the seed
//! alone.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use super::access::lanes_of;
use super::global::{Saved, Table};
use super::order::{Who, scope};
use super::race::{Conflict, Shadow, Touch, side_by_side};

/// Bytes that share a page of records.
pub(crate) const PAGE: u64 = 1 << 14;

/// A hash of page numbers and addresses, which need no protection from adversaries.
#[derive(Default)]
pub(crate) struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type Hashed<K, V> = HashMap<K, V, BuildHasherDefault<Multiply>>;

/// Who has read bytes through the read-only cache.
struct NonCoherent {
    /// One bit per byte.
    bytes: Box<[u32]>,
    first: Conflict,
}

struct Page {
    number: u64,
    shadow: Shadow<true>,
    written: bool,
    non_coherent: Option<NonCoherent>,
}

/// How an access to global memory breaks the rules.
pub(crate) enum Breach {
    /// It races.
    Race(Conflict),
    /// One of both goes through the read-only cache, which nothing keeps up to date.
    Stale(Conflict),
}

/// The records of a worker.
#[derive(Default)]
pub(crate) struct Pages {
    index: Hashed<u64, u32>,
    list: Vec<Page>,
    /// Where the last access was.
    last: usize,
}

impl Pages {
    /// The page of an address.
    #[inline(always)]
    fn page(&mut self, number: u64) -> usize {
        match self.list.get(self.last) {
            Some(page) if page.number == number => self.last,
            _ => self.find(number),
        }
    }

    #[inline(never)]
    fn find(&mut self, number: u64) -> usize {
        let next = self.list.len() as u32;
        let at = *self.index.entry(number).or_insert(next);
        if at == next {
            self.list.push(Page {
                number,
                shadow: Shadow::new(PAGE as u32),
                written: false,
                non_coherent: None,
            });
        }
        self.last = at as usize;
        self.last
    }

    /// The lanes of `mask` access `bytes` bytes each, aligned; finds the first that breaks a rule.
    /// A page that is written for the first time is saved before.
    #[inline(always)]
    pub(crate) fn touch_lanes(
        &mut self,
        who: &Who<'_>,
        addresses: &[u64; 32],
        (mask, bytes): (u32, u32),
        touch: Touch,
        save: impl Fn(u64),
    ) -> Option<(Breach, usize)> {
        let mut left = mask;
        if mask == u32::MAX && bytes >= 4 {
            for quarter in 0..4 {
                let run = &addresses[8 * quarter..8 * quarter + 8];
                if self.settle(who, 8 * quarter as u32, run, bytes, touch) {
                    left &= !(0xff << (8 * quarter));
                }
            }
        }
        for lane in lanes_of(left) {
            let address = addresses[lane];
            let at = self.page(address / PAGE);
            let Some(page) = self.list.get_mut(at) else {
                continue;
            };
            let offset = (address % PAGE) as u32;
            if who.strong == scope::NON_COHERENT {
                if let Some(conflict) = page.read_stale(who, lane as u32, offset, bytes) {
                    return Some((Breach::Stale(conflict), lane));
                }
                continue;
            }
            if touch != Touch::Read {
                if !page.written {
                    page.written = true;
                    save(page.number);
                }
                if let Some(conflict) = page.non_coherent(offset, bytes) {
                    return Some((Breach::Stale(conflict), lane));
                }
            }
            if let Some(conflict) = page.shadow.touch(who, lane as u32, offset, bytes, touch) {
                return Some((Breach::Race(conflict), lane));
            }
        }
        None
    }

    /// Forgets the last write to these bytes.
    #[cold]
    pub(crate) fn forget_write(&mut self, address: u64, bytes: u32) {
        let at = self.page(address / PAGE);
        if let Some(page) = self.list.get_mut(at) {
            page.shadow.forget_write((address % PAGE) as u32, bytes);
        }
    }

    /// Eight lanes from `lane` on access `bytes` bytes each: whether it was told quickly that this breaks
    /// no rule, as when they lie side by side in a page that is not written for the first time.
    #[inline(always)]
    fn settle(&mut self, who: &Who<'_>, lane: u32, run: &[u64], bytes: u32, touch: Touch) -> bool {
        let number = run[0] / PAGE;
        let offsets: [u32; 8] = std::array::from_fn(|n| run[n].wrapping_sub(number * PAGE) as u32);
        let at = self.page(number);
        let Some(page) = self.list.get_mut(at) else {
            return false;
        };
        if !side_by_side(&offsets, bytes) || run[7] / PAGE != number {
            return false;
        }
        if who.strong == scope::NON_COHERENT {
            return !page.written && page.read_row(who, lane, offsets[0], bytes);
        }
        if touch != Touch::Read && (!page.written || page.non_coherent.is_some()) {
            return false;
        }
        page.shadow.settle::<8>(who, lane, offsets[0], bytes, touch)
    }

    /// Whether anything that two workers' blocks did to the same bytes conflicts.
    pub(crate) fn clash(&self, other: &Pages) -> bool {
        self.list.iter().any(|page| {
            let theirs = other.index.get(&page.number);
            let theirs = theirs.and_then(|at| other.list.get(*at as usize));
            theirs.is_some_and(|theirs| {
                (page.written || theirs.written)
                    && (page.shadow.clashes(&theirs.shadow)
                        || page.stale(theirs)
                        || theirs.stale(page))
            })
        })
    }
}

impl Page {
    /// Reads bytes through the read-only cache: finds a write to them.
    fn read_stale(
        &mut self,
        who: &Who<'_>,
        lane: u32,
        offset: u32,
        bytes: u32,
    ) -> Option<Conflict> {
        if self.written {
            let found = self.shadow.written(offset, bytes, |tick| who.owner(tick));
            if found.is_some() {
                return found;
            }
        }
        let known = self.known(who, lane);
        if let Some(word) = known.bytes.get_mut(offset as usize / 32) {
            *word |= bits(offset, bytes);
        }
        None
    }

    /// Eight lanes read bytes side by side through the read-only cache, of a page that nobody has
    /// written; whether they start at a multiple of 32.
    #[inline(always)]
    fn read_row(&mut self, who: &Who<'_>, lane: u32, offset: u32, bytes: u32) -> bool {
        let first = offset as usize / 32;
        let words = self.known(who, lane).bytes.get_mut(first..);
        let words = words.and_then(|words| words.get_mut(..bytes as usize / 4));
        match words {
            Some(words) if offset.is_multiple_of(32) => {
                words.fill(u32::MAX);
                true
            }
            _ => false,
        }
    }

    /// What was read through the read-only cache, from this access on.
    #[inline(always)]
    fn known(&mut self, who: &Who<'_>, lane: u32) -> &mut NonCoherent {
        let first = || NonCoherent {
            bytes: vec![0; PAGE as usize / 32].into_boxed_slice(),
            first: Conflict {
                touch: Touch::Read,
                strong: scope::NON_COHERENT,
                block: who.block,
                warp: who.warp,
                lane: Some(lane),
                pc: who.pc,
                tick: who.stamp,
            },
        };
        self.non_coherent.get_or_insert_with(first)
    }

    /// The first read through the read-only cache in this page, if these bytes were read that way.
    #[inline(always)]
    fn non_coherent(&self, offset: u32, bytes: u32) -> Option<Conflict> {
        let known = self.non_coherent.as_ref()?;
        let word = known.bytes.get(offset as usize / 32).copied().unwrap_or(0);
        (word & bits(offset, bytes) != 0).then_some(known.first)
    }

    /// Whether `other` has written what this page has read through the read-only cache.
    fn stale(&self, other: &Page) -> bool {
        let Some(known) = &self.non_coherent else {
            return false;
        };
        let read = |at: u32| known.bytes[at as usize / 32] >> (at % 32) & 1 != 0;
        other.written
            && (0..PAGE as u32)
                .filter(|at| read(*at))
                .any(|at| other.shadow.written(at, 1, |_| 0).is_some())
    }
}

/// `bytes` bytes, at most 16, as bits within an aligned run of 32.
#[inline(always)]
fn bits(offset: u32, bytes: u32) -> u32 {
    ((1 << bytes) - 1) << (offset % 32)
}

/// The pages that a launch has written, as they were before.
#[derive(Default)]
pub(crate) struct Journal {
    /// Which, and what was in them, in the order in which they were kept.
    pages: Mutex<(HashSet<u64>, Vec<Saved>)>,
}

impl Journal {
    /// Keeps a page as it is, unless it has been kept already.
    #[cold]
    pub(crate) fn save(&self, table: &Table, number: u64) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.0.insert(number) {
            let saved = table.save(number * PAGE, PAGE);
            pages.1.push(saved);
        }
    }

    /// Makes everything what it was. What was kept last goes back first: pages may share a sector.
    pub(crate) fn undo(&self, table: &Table) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for saved in pages.1.drain(..).rev() {
            table.restore(&saved);
        }
        pages.0.clear();
    }
}
