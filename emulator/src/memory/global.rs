//! Global and constant memory: allocations far apart, sparse, and sound to share between threads.
//!
//! An allocation's bytes are relaxed atomics of 32 bits, which cost what plain memory does and let
//! blocks run on several host threads; the operating system gives pages only once they are touched.
//! One bit per byte says whether it was ever written. Addresses are never used twice, and between
//! allocations lie red zones that belong to none.

use super::hostile::Hostile;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Address of the first allocation. 0 and all below are never valid.
const FIRST: u64 = 0x0000_7000_0000_0100;
/// Least distance between two allocations.
const RED_ZONE: u64 = 1 << 20;
/// Every allocation is aligned to this and no more, as `cudaMalloc` promises.
const ALIGNMENT: u64 = 256;
/// End of what can be allocated; the windows of other spaces lie above.
const END: u64 = 0x0000_ff00_0000_0000;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From the host.
    Buffer,
    /// From the host, at an address of its choice.
    Mapped,
    /// A module's `.global` variable.
    Global,
    /// A module's `.const` variable: read only.
    Const,
}

/// A range of memory.
pub(crate) struct Allocation {
    pub base: u64,
    pub size: u64,
    pub kind: Kind,
    /// Variable's name, or empty.
    pub name: String,
    words: Box<[AtomicU32]>,
    /// One bit per byte.
    valid: Box<[AtomicU32]>,
}

impl Allocation {
    fn new(base: u64, size: u64, kind: Kind, name: &str) -> Option<Allocation> {
        let words = usize::try_from(size.div_ceil(4)).ok()?;
        let sectors = usize::try_from(size.div_ceil(32)).ok()?;
        Some(Allocation {
            base,
            size,
            kind,
            name: name.to_string(),
            words: bytemuck::allocation::try_zeroed_slice_box(words).ok()?,
            valid: bytemuck::allocation::try_zeroed_slice_box(sectors).ok()?,
        })
    }

    /// Whether `bytes` bytes from this address lie inside.
    #[inline(always)]
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < self.size && bytes <= self.size - offset
    }

    /// The words from byte `offset`, a multiple of 4.
    #[inline(always)]
    pub(crate) fn words<const N: usize>(&self, offset: usize) -> [u32; N] {
        let mut out = [0; N];
        if let Some(words) = self.words.get(offset / 4..offset / 4 + N) {
            for (out, word) in out.iter_mut().zip(words) {
                *out = word.load(Relaxed);
            }
        }
        out
    }

    /// Stores words at byte `offset`, a multiple of 4.
    #[inline(always)]
    pub(crate) fn set_words<const N: usize>(&self, offset: usize, values: [u32; N]) {
        if let Some(words) = self.words.get(offset / 4..offset / 4 + N) {
            for (word, value) in words.iter().zip(values) {
                word.store(value, Relaxed);
            }
        }
    }

    /// Up to 4 bytes that do not straddle a word.
    #[inline(always)]
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> u32 {
        let [word] = self.words::<1>(offset);
        word >> (offset % 4 * 8) & low_bytes(bytes)
    }

    /// Stores up to 4 bytes that do not straddle a word, leaving its other bytes alone.
    #[inline(always)]
    pub(crate) fn set_part(&self, offset: usize, bytes: usize, value: u32) {
        let shift = offset % 4 * 8;
        let keep = !(low_bytes(bytes) << shift);
        let value = (value & low_bytes(bytes)) << shift;
        if let Some(word) = self.words.get(offset / 4) {
            if keep == 0 {
                word.store(value, Relaxed);
            } else {
                let _ = word.fetch_update(Relaxed, Relaxed, |old| Some(old & keep | value));
            }
        }
    }

    /// The word that holds byte `offset`, for atomic operations.
    #[inline(always)]
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU32> {
        self.words.get(offset / 4)
    }

    /// Whether all of `bytes` bytes (at most 32, within an aligned run of 32) were written.
    #[inline(always)]
    pub(crate) fn initialised(&self, offset: usize, bytes: usize) -> bool {
        let want = low_bits(bytes) << (offset % 32);
        self.valid
            .get(offset / 32)
            .is_some_and(|bits| bits.load(Relaxed) & want == want)
    }

    /// Marks `bytes` bytes (at most 32, within an aligned run of 32) as written or not.
    #[inline(always)]
    pub(crate) fn mark(&self, offset: usize, bytes: usize, written: bool) {
        let bits = low_bits(bytes) << (offset % 32);
        if let Some(word) = self.valid.get(offset / 32) {
            let old = word.load(Relaxed);
            if written && old & bits != bits {
                word.fetch_or(bits, Relaxed);
            } else if !written && old & bits != 0 {
                word.fetch_and(!bits, Relaxed);
            }
        }
    }

    pub(crate) fn mark_range(&self, offset: u64, len: u64, written: bool) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let step = (32 - at % 32).min(end - at);
            self.mark(at as usize, step as usize, written);
            at += step;
        }
    }

    /// Whether the range, which lies inside, was written.
    fn range_initialised(&self, offset: u64, len: u64) -> bool {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let step = (32 - at % 32).min(end - at);
            if !self.initialised(at as usize, step as usize) {
                return false;
            }
            at += step;
        }
        true
    }

    /// Calls `f` for each word of a range with the bytes of it that belong to the range.
    fn each_word(offset: u64, len: u64, mut f: impl FnMut(u64, usize, usize)) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let step = (4 - at % 4).min(end - at);
            f(at, (at - offset) as usize, step as usize);
            at += step;
        }
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        Self::each_word(offset, bytes.len() as u64, |at, index, step| {
            let mut word = [0; 4];
            word[..step].copy_from_slice(&bytes[index..index + step]);
            self.set_part(at as usize, step, u32::from_le_bytes(word));
        });
        self.mark_range(offset, bytes.len() as u64, true);
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        Self::each_word(offset, bytes.len() as u64, |at, index, step| {
            let word = self.part(at as usize, step).to_le_bytes();
            bytes[index..index + step].copy_from_slice(&word[..step]);
        });
    }

    fn fill(&self, offset: u64, byte: u8, len: u64) {
        Self::each_word(offset, len, |at, _, step| {
            self.set_part(at as usize, step, u32::from_le_bytes([byte; 4]));
        });
        self.mark_range(offset, len, true);
    }
}

#[inline(always)]
fn low_bytes(bytes: usize) -> u32 {
    if bytes >= 4 {
        u32::MAX
    } else {
        (1 << (bytes * 8)) - 1
    }
}

#[inline(always)]
fn low_bits(bits: usize) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}

/// A range of an allocation as it was: first word and sector, words, and validity.
struct Part {
    base: u64,
    first: usize,
    words: Vec<u32>,
    valid: Vec<u32>,
}

/// A range of memory as it was.
pub(crate) struct Saved(Vec<Part>);

/// What there is at a moment; a launch keeps the one it started with.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// By address.
    live: Vec<Arc<Allocation>>,
    /// Base and size of what was freed, by address.
    freed: Vec<(u64, u64)>,
}

impl Table {
    /// The allocation around an address.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<&Allocation> {
        let after = self
            .live
            .partition_point(|allocation| allocation.base <= address);
        let allocation = self.live.get(after.checked_sub(1)?)?;
        (address - allocation.base < allocation.size.max(1)).then_some(allocation)
    }

    fn insert(&mut self, allocation: Arc<Allocation>) {
        let at = self
            .live
            .partition_point(|other| other.base < allocation.base);
        self.live.insert(at, allocation);
    }

    /// Whether anything lies in a range, or nearer to it than allocations may be.
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.live.iter().any(|other| {
            other.base < end.saturating_add(ALIGNMENT)
                && start < (other.base + other.size).saturating_add(ALIGNMENT)
        })
    }

    /// Keeps the bytes of a range as they are.
    pub(crate) fn save(&self, address: u64, len: u64) -> Saved {
        let first = self
            .live
            .partition_point(|allocation| allocation.base + allocation.size <= address);
        let within = self.live[first..]
            .iter()
            .take_while(|allocation| allocation.base < address + len);
        let load = |from: &[AtomicU32]| from.iter().map(|word| word.load(Relaxed)).collect();
        let part = |allocation: &Arc<Allocation>| {
            let first = address.saturating_sub(allocation.base) as usize / 32;
            let end = (address + len - allocation.base).div_ceil(32) as usize;
            let (sectors, words) = (allocation.valid.len(), allocation.words.len());
            Part {
                base: allocation.base,
                first,
                words: load(&allocation.words[first * 8..(end * 8).min(words)]),
                valid: load(&allocation.valid[first..end.min(sectors)]),
            }
        };
        Saved(within.map(part).collect())
    }

    /// Puts back what [`Table::save`] kept.
    pub(crate) fn restore(&self, saved: &Saved) {
        for part in &saved.0 {
            let Some(allocation) = self.find(part.base) else {
                continue;
            };
            let words = allocation.words.iter().skip(part.first * 8);
            let valid = allocation.valid.iter().skip(part.first);
            for (to, from) in words.zip(&part.words).chain(valid.zip(&part.valid)) {
                to.store(*from, Relaxed);
            }
        }
    }

    /// The allocation nearest to an address, for messages.
    pub(crate) fn nearest(&self, address: u64) -> Option<&Allocation> {
        let after = self
            .live
            .partition_point(|allocation| allocation.base <= address);
        let below = after.checked_sub(1).and_then(|below| self.live.get(below));
        let distance = |allocation: &Allocation| {
            address
                .saturating_sub(allocation.base + allocation.size)
                .max(allocation.base.saturating_sub(address))
        };
        [below, self.live.get(after)]
            .into_iter()
            .flatten()
            .map(|a| &**a)
            .min_by_key(|a| distance(a))
    }

    /// Whether the address was in an allocation that has been freed.
    pub(crate) fn was_freed(&self, address: u64) -> bool {
        let after = self.freed.partition_point(|(base, _)| *base <= address);
        after
            .checked_sub(1)
            .and_then(|below| self.freed.get(below))
            .is_some_and(|(base, size)| address - base < *size)
    }
}

/// Why the host cannot have what it asked of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// More than the device (or the host) has.
    #[error("out of memory: {requested} bytes asked for, {available} available")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes that the device has left.
        available: u64,
    },
    /// The address is not the start of an allocation.
    #[error("{address:#x} is not the start of an allocation")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// The range does not lie in one allocation.
    #[error("{len} bytes at {address:#x} do not lie in one allocation")]
    OutOfBounds {
        /// Start of the range.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Memory cannot be mapped there.
    #[error(
        "{len} bytes at {address:#x} cannot be mapped: not a multiple of 256, out of the range of \
         addresses, or in use"
    )]
    Unmappable {
        /// Start of the range.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// All of a device's global memory.
pub(crate) struct Memory {
    table: RwLock<Arc<Table>>,
    next: Mutex<(u64, u64)>,
    capacity: u64,
    /// What every load reads differently.
    hostile: Mutex<Hostile>,
    /// For atomics wider than a word.
    locks: [Mutex<()>; 64],
}

impl Memory {
    /// Memory whose allocations start at `offset` behind the usual address.
    pub(crate) fn new(capacity: u64, offset: u64) -> Memory {
        let offset = offset.min(END - FIRST) / (2 * ALIGNMENT) * (2 * ALIGNMENT);
        Memory {
            table: RwLock::default(),
            next: Mutex::new((FIRST + offset, 0)),
            capacity,
            hostile: Mutex::default(),
            locks: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The ranges that are hostile now.
    pub(crate) fn hostile(&self) -> Hostile {
        let hostile = self.hostile.lock().unwrap_or_else(PoisonError::into_inner);
        hostile.clone()
    }

    pub(crate) fn mark_hostile(&self, address: u64, len: u64) -> Result<(), MemoryError> {
        self.with(address, len, |_, _| {
            let mut hostile = self.hostile.lock().unwrap_or_else(PoisonError::into_inner);
            hostile.0.push((address, address + len));
        })
    }

    pub(crate) fn clear_hostile(&self) {
        let mut hostile = self.hostile.lock().unwrap_or_else(PoisonError::into_inner);
        hostile.0.clear();
    }

    /// Serialises 64-bit atomics on the same address.
    pub(crate) fn lock(&self, address: u64) -> MutexGuard<'_, ()> {
        let stripe = (address / 8 % 64) as usize;
        self.locks[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn alloc(
        &self,
        size: u64,
        kind: Kind,
        name: &str,
    ) -> Result<Arc<Allocation>, MemoryError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let available = self.capacity.saturating_sub(next.1);
        let full = MemoryError::OutOfMemory {
            requested: size,
            available,
        };
        if size > available || size > END.saturating_sub(next.0) {
            return Err(full);
        }
        let base = next.0;
        let Some(allocation) = Allocation::new(base, size, kind, name) else {
            return Err(full);
        };
        let allocation = Arc::new(allocation);
        // An odd multiple of the alignment, so that nothing is aligned better by luck.
        next.0 = (base + size + RED_ZONE).next_multiple_of(2 * ALIGNMENT) + ALIGNMENT;
        next.1 += size;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut table).insert(allocation.clone());
        Ok(allocation)
    }

    /// An allocation at a given address, which does not count as memory of the device.
    pub(crate) fn map(&self, address: u64, size: u64) -> Result<(), MemoryError> {
        let wrong = MemoryError::Unmappable { address, len: size };
        let end = address.saturating_add(size);
        let outside = address < ALIGNMENT || end > END;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if outside || !address.is_multiple_of(ALIGNMENT) || table.overlaps(address, end) {
            return Err(wrong);
        }
        let Some(allocation) = Allocation::new(address, size, Kind::Mapped, "") else {
            return Err(wrong);
        };
        let table = Arc::make_mut(&mut table);
        table
            .freed
            .retain(|(base, len)| base + len <= address || *base >= end);
        table.insert(Arc::new(allocation));
        Ok(())
    }

    pub(crate) fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let index = table
            .live
            .binary_search_by_key(&address, |allocation| allocation.base);
        let Ok(index) = index else {
            return Err(MemoryError::NotAllocated { address });
        };
        let table = Arc::make_mut(&mut table);
        let gone = table.live.remove(index);
        let at = table.freed.partition_point(|(base, _)| *base < address);
        table.freed.insert(at, (gone.base, gone.size));
        if gone.kind != Kind::Mapped {
            next.1 -= gone.size;
        }
        let mut hostile = self.hostile.lock().unwrap_or_else(PoisonError::into_inner);
        hostile.0.retain(|(first, _)| !gone.holds(*first, 1));
        Ok(())
    }

    fn range(&self, address: u64, len: u64) -> Result<(Arc<Table>, u64), MemoryError> {
        let table = self.table();
        match table.find(address) {
            Some(allocation) if len <= allocation.size - (address - allocation.base) => {
                let offset = address - allocation.base;
                Ok((table, offset))
            }
            _ => Err(MemoryError::OutOfBounds { address, len }),
        }
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.with(address, bytes.len() as u64, |allocation, offset| {
            allocation.write(offset, bytes)
        })
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.with(address, bytes.len() as u64, |allocation, offset| {
            allocation.read(offset, bytes)
        })
    }

    pub(crate) fn fill(&self, address: u64, byte: u8, len: u64) -> Result<(), MemoryError> {
        self.with(address, len, |allocation, offset| {
            allocation.fill(offset, byte, len)
        })
    }

    /// Copies bytes together with whether they were ever written.
    pub(crate) fn copy(&self, to: u64, from: u64, len: u64) -> Result<(), MemoryError> {
        const STEP: u64 = 1 << 16;
        let (source, _) = self.range(from, len)?;
        let (target, _) = self.range(to, len)?;
        let (Some(source), Some(target)) = (source.find(from), target.find(to)) else {
            return Ok(());
        };
        let (from, to) = (from - source.base, to - target.base);
        let mut bytes = vec![0; len.min(STEP) as usize];
        for at in (0..len).step_by(STEP as usize) {
            let step = STEP.min(len - at);
            let bytes = &mut bytes[..step as usize];
            source.read(from + at, bytes);
            target.write(to + at, bytes);
            if !source.range_initialised(from + at, step) {
                for byte in at..at + step {
                    let written = source.initialised((from + byte) as usize, 1);
                    target.mark((to + byte) as usize, 1, written);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn initialised(&self, address: u64, len: u64) -> Result<bool, MemoryError> {
        let mut initialised = true;
        self.with(address, len, |allocation, offset| {
            initialised = allocation.range_initialised(offset, len)
        })?;
        Ok(initialised)
    }

    fn with(
        &self,
        address: u64,
        len: u64,
        f: impl FnOnce(&Allocation, u64),
    ) -> Result<(), MemoryError> {
        if len == 0 {
            return Ok(());
        }
        let (table, offset) = self.range(address, len)?;
        if let Some(allocation) = table.find(address) {
            f(allocation, offset);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_the_rest_stays_uninitialised() {
        let memory = Memory::new(1 << 40, 0);
        let p = memory.alloc(100, Kind::Buffer, "").unwrap().base;
        memory.write(p + 3, &[1, 2, 3, 4, 5, 6, 7]).unwrap();
        let mut back = [0; 7];
        memory.read(p + 3, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4, 5, 6, 7]);
        assert!(memory.initialised(p + 3, 7).unwrap());
        assert!(!memory.initialised(p + 2, 2).unwrap());
        assert!(!memory.initialised(p + 9, 2).unwrap());
    }

    #[test]
    fn ranges_end_with_their_allocation() {
        let memory = Memory::new(1 << 40, 0);
        let p = memory.alloc(64, Kind::Buffer, "").unwrap().base;
        let q = memory.alloc(64, Kind::Buffer, "").unwrap().base;
        assert!(q >= p + 64 + RED_ZONE);
        assert!(memory.fill(p, 0, 64).is_ok());
        assert_eq!(
            memory.fill(p, 0, 65),
            Err(MemoryError::OutOfBounds {
                address: p,
                len: 65
            })
        );
        assert!(memory.fill(p + 64, 0, 1).is_err());
        memory.free(p).unwrap();
        assert!(memory.fill(p, 0, 1).is_err());
        assert!(memory.table().was_freed(p + 63));
        assert_eq!(
            memory.free(p),
            Err(MemoryError::NotAllocated { address: p })
        );
    }

    #[test]
    fn untouched_memory_costs_nothing() {
        let memory = Memory::new(80 << 30, 0);
        let p = memory.alloc(10 << 30, Kind::Buffer, "").unwrap().base;
        memory.write(p + (5 << 30), &[7]).unwrap();
        assert!(memory.initialised(p + (5 << 30), 1).unwrap());
        assert!(memory.alloc(71 << 30, Kind::Buffer, "").is_err());
    }

    #[test]
    fn copies_carry_along_what_was_never_written() {
        let memory = Memory::new(1 << 40, 0);
        let p = memory.alloc(200_000, Kind::Buffer, "").unwrap().base;
        let q = memory.alloc(200_000, Kind::Buffer, "").unwrap().base;
        memory.fill(q, 9, 200_000).unwrap();
        memory.fill(p + 5, 7, 70_000).unwrap();
        memory.copy(q + 3, p + 1, 100_000).unwrap();
        let mut back = [0; 2];
        memory.read(q + 6, &mut back).unwrap();
        assert_eq!(back, [0, 7]);
        assert!(memory.initialised(q, 3).unwrap());
        assert!(!memory.initialised(q + 6, 1).unwrap());
        assert!(memory.initialised(q + 7, 70_000).unwrap());
        assert!(!memory.initialised(q + 70_007, 1).unwrap());
        assert!(memory.initialised(q + 100_003, 99_997).unwrap());
        assert!(memory.copy(q, p + 1, 200_000).is_err());
    }

    #[test]
    fn memory_is_mapped_where_nothing_else_is() {
        let memory = Memory::new(1000, 1 << 40);
        let p = memory.alloc(64, Kind::Buffer, "").unwrap().base;
        assert!(p >= FIRST + (1 << 40));
        let at = 0x7f12_3456_7800;
        memory.map(at, 5000).unwrap();
        memory.write(at + 4000, &[5]).unwrap();
        for wrong in [at, at - 256, at + 4864, at + 12_345, 0, END] {
            let error = MemoryError::Unmappable {
                address: wrong,
                len: 512,
            };
            assert_eq!(memory.map(wrong, 512), Err(error), "{wrong:#x}");
        }
        // It lies above, and what is allocated later is found all the same.
        let q = memory.alloc(900, Kind::Buffer, "").unwrap().base;
        memory.write(q, &[1]).unwrap();
        memory.free(at).unwrap();
        assert!(memory.table().was_freed(at));
        memory.map(at + 256, 16).unwrap();
        assert!(!memory.table().was_freed(at + 256));
        assert!(
            memory.alloc(37, Kind::Buffer, "").is_err(),
            "only the device's own counts"
        );
    }
}
