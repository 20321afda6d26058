//! Strong loads, stores and atomics of a warp: relaxed, volatile, acquire, release.

use super::access::{Addresses, Words, lanes_of, space};
use super::location::{Landed, Strong};
use super::order::scope;
use super::race::Conflict;
use super::{SHARED_BASE, Window};
use crate::violation::Fault;
use crate::warp::Warp;

/// How an instruction is strong: its scope, and those in which it acquires and releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    pub scope: u8,
    pub acquire: u8,
    pub release: u8,
}

/// What the modifiers say of order and scope; `None` if they do not go together.
pub(crate) fn manner(order: Option<&str>, within: Option<&str>) -> Option<Manner> {
    let scope = match within {
        None => scope::DEVICE,
        Some("cta" | "cluster") => scope::BLOCK,
        Some(_) => scope::DEVICE,
    };
    let weak = scope::WEAK;
    let (acquire, release) = match order? {
        "volatile" if within.is_none() => (weak, weak),
        "relaxed" | "mmio" => (weak, weak),
        "acquire" => (scope, weak),
        "release" => (weak, scope),
        "acq_rel" => (scope, scope),
        _ => return None,
    };
    Some(Manner {
        scope,
        acquire,
        release,
    })
}

/// A place that strong accesses meet at: an element of global memory, or of the block's shared memory.
#[derive(Debug, Clone, Copy)]
enum Place {
    Global(u64),
    Shared(u32),
}

impl Warp<'_> {
    fn place(&self, space: u8, address: u64) -> Option<Place> {
        let window = match space {
            space::GLOBAL => Window::Global,
            space::SHARED => Window::Shared,
            space::GENERIC => Window::of(address),
            _ => return None,
        };
        match window {
            Window::Global => Some(Place::Global(address)),
            Window::Shared => Some(Place::Shared((address as u32).wrapping_sub(SHARED_BASE))),
            _ => None,
        }
    }

    fn key(&self, place: Place) -> u64 {
        match place {
            Place::Global(address) => address,
            Place::Shared(offset) => 1 << 63 | self.block << 20 | u64::from(offset),
        }
    }

    /// The bytes at a place, which is in bounds.
    fn peek(&self, place: Place, bytes: u32) -> u64 {
        let [low, high] = match place {
            Place::Global(address) => {
                let Some(allocation) = self.launch.table.find(address) else {
                    return 0;
                };
                let at = (address - allocation.base) as usize;
                match bytes {
                    8 => allocation.words::<2>(at),
                    _ => [allocation.part(at, bytes as usize), 0],
                }
            }
            Place::Shared(offset) => match bytes {
                8 => self.shared.bytes.words::<2>(offset),
                _ => [self.shared.bytes.part(offset, bytes), 0],
            },
        };
        u64::from(high) << 32 | u64::from(low)
    }

    fn poke(&mut self, place: Place, bytes: u32, value: u64) {
        let words = [value as u32, (value >> 32) as u32];
        match place {
            Place::Global(address) => {
                let Some(allocation) = self.launch.table.find(address) else {
                    return;
                };
                let at = (address - allocation.base) as usize;
                match bytes {
                    8 => allocation.set_words(at, words),
                    _ => allocation.set_part(at, bytes as usize, words[0]),
                }
            }
            Place::Shared(offset) => match bytes {
                8 => self.shared.bytes.set_words(offset, words),
                _ => self.shared.bytes.set_part(offset, bytes, words[0]),
            },
        }
    }

    fn strong(&self, manner: Manner, lane: usize) -> Strong {
        Strong {
            slot: self.slot,
            block: self.block,
            warp: self.index,
            lane,
            scope: manner.scope,
            acquire: manner.acquire,
            release: manner.release,
        }
    }

    /// A strong load of vectors of elements of `bytes` bytes.
    pub(crate) fn load_strong<const W: usize>(
        &mut self,
        (space, bytes, total): (u8, u32, u32),
        manner: Manner,
        addresses: &Addresses,
        mask: u32,
    ) -> Result<Words<W>, Box<Fault>> {
        self.domain.order.synchronising = true;
        self.manner = manner.scope;
        let mut got: Words<W> = self.load_from(space, addresses, mask, total)?;
        self.manner = scope::WEAK;
        for lane in lanes_of(mask) {
            for offset in (0..total).step_by(bytes as usize) {
                let address = addresses.at[lane] + u64::from(offset);
                let Some(place) = self.place(space, address) else {
                    continue;
                };
                if matches!(place, Place::Global(at) if self.launch.hostile.holds(at, 1)) {
                    continue;
                }
                let memory = self.peek(place, bytes);
                let (key, who) = (self.key(place), self.strong(manner, lane));
                let domain = &mut *self.domain;
                let value = domain.locations.load(
                    &mut domain.order,
                    self.random,
                    (key, bytes),
                    &who,
                    memory,
                );
                put(&mut got.words[lane], offset, bytes, value);
            }
        }
        Ok(got)
    }

    /// A strong store of vectors of elements of `bytes` bytes.
    pub(crate) fn store_strong<const W: usize>(
        &mut self,
        (space, bytes, total): (u8, u32, u32),
        manner: Manner,
        (addresses, mask): (&Addresses, u32),
        data: &Words<W>,
    ) -> Result<(), Box<Fault>> {
        self.domain.order.synchronising = true;
        // What each element's place holds, as the lanes write it one after the other.
        let mut held: Vec<(u64, Place, u64)> = Vec::new();
        let offsets = (0..total).step_by(bytes as usize);
        let table = self.launch.table;
        for (lane, offset) in lanes_of(mask).flat_map(|l| offsets.clone().map(move |o| (l, o))) {
            let place = self.place(space, addresses.at[lane].wrapping_add(u64::from(offset)));
            let inside = |place: &Place| match place {
                Place::Global(address) => table.find(*address).is_some(),
                Place::Shared(_) => true,
            };
            if let Some(place) = place.filter(inside) {
                let key = self.key(place);
                // Lanes that store to one place share what it holds.
                if held.iter().all(|(known, ..)| *known != key) {
                    held.push((key, place, self.peek(place, bytes)));
                }
            }
        }
        self.manner = manner.scope;
        self.store_to(space, addresses, mask, total, data)?;
        self.manner = scope::WEAK;
        let (lanes, count) = self.shuffled(mask);
        for lane in lanes[..count].iter().map(|lane| usize::from(*lane)) {
            for offset in offsets.clone() {
                let address = addresses.at[lane] + u64::from(offset);
                let Some(place) = self.place(space, address) else {
                    continue;
                };
                let (key, who) = (self.key(place), self.strong(manner, lane));
                let value = take(&data.words[lane], offset, bytes);
                let Some(entry) = held.iter_mut().find(|entry| entry.0 == key) else {
                    continue;
                };
                let domain = &mut *self.domain;
                let landed = domain.locations.store(
                    &mut domain.order,
                    self.random,
                    (key, bytes),
                    &who,
                    (entry.2, value),
                );
                if landed == Landed::Last {
                    entry.2 = value;
                }
            }
        }
        for (_, place, value) in held {
            self.poke(place, bytes, value);
        }
        if manner.release != scope::WEAK {
            self.domain.order.released(self.slot, self.index);
        }
        Ok(())
    }

    /// Whether a lane comes after a strong write that it conflicts with, because it or one whose doings it
    /// knows of has read what was written: then the write precedes the read in observation order, and with
    /// it all that comes behind (the model's causality order, its second rule).
    #[cold]
    pub(super) fn observed(
        &self,
        conflict: &Conflict,
        (window, at, bytes): (Window, u64, u32),
        lane: usize,
    ) -> bool {
        let (Some(other), true) = (conflict.lane, conflict.strong != scope::WEAK) else {
            return false;
        };
        let place = match window {
            Window::Shared => Place::Shared(at as u32),
            _ => Place::Global(at),
        };
        let order = &self.domain.order;
        let who = order.who(self.slot, self.index, self.pc, self.manner);
        let after = |(block, thread, tick): (u32, u16, u32)| {
            let (warp, other) = (u32::from(thread) / 32, u32::from(thread) % 32);
            let own = (warp as usize, other as usize) == (self.index, lane);
            u64::from(block) == self.block && (own || who.after(warp, tick))
                || who.told(lane as u32, block, warp, Some(other), tick)
        };
        let thread = (conflict.warp * 32 + other) as u16;
        let write = (conflict.block, thread, conflict.tick);
        // The write may have been to any element of what is accessed now.
        (0..u64::from(bytes))
            .step_by(4)
            .map(|n| self.key(place) + n)
            .any(|key| {
                let mut observers = self.domain.locations.observers(key, write);
                observers.any(after)
            })
    }

    /// Plain stores are about to change what strong reads can see.
    #[inline(always)]
    pub(super) fn overwrite(
        &mut self,
        window: Window,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
    ) {
        if self.domain.order.synchronising && self.manner == scope::WEAK {
            for lane in lanes_of(mask) {
                let place = match window {
                    Window::Shared => {
                        Place::Shared((addresses.at[lane] as u32).wrapping_sub(SHARED_BASE))
                    }
                    _ => Place::Global(addresses.at[lane]),
                };
                let key = self.key(place);
                self.domain.locations.overwrite(key, bytes);
            }
        }
    }

    /// The same, of bytes of shared memory.
    pub(super) fn overwrite_shared(&mut self, offset: u32, bytes: u32) {
        let key = self.key(Place::Shared(offset));
        self.domain.locations.overwrite(key, bytes);
    }

    /// An atomic operation of a lane has turned `old` into `new`.
    pub(crate) fn updated(
        &mut self,
        (space, bytes): (u8, u32),
        manner: Manner,
        (address, lane): (u64, usize),
        (old, new): (u64, u64),
    ) {
        let plain = manner.acquire == scope::WEAK && manner.release == scope::WEAK;
        if plain && !self.domain.order.synchronising {
            return;
        }
        self.domain.order.synchronising = true;
        let Some(place) = self.place(space, address) else {
            return;
        };
        let (key, who) = (self.key(place), self.strong(manner, lane));
        let domain = &mut *self.domain;
        let values = (old, new);
        domain
            .locations
            .update(&mut domain.order, (key, bytes), &who, values);
    }
}

/// The element at byte `offset` of a lane's words.
fn take<const W: usize>(words: &[u32; W], offset: u32, bytes: u32) -> u64 {
    let word = |n: u32| u64::from(words.get(n as usize).copied().unwrap_or(0));
    match bytes {
        8 => word(offset / 4 + 1) << 32 | word(offset / 4),
        4 => word(offset / 4),
        _ => word(offset / 4) >> (offset % 4 * 8) & ((1 << (bytes * 8)) - 1),
    }
}

/// Replaces the element at byte `offset` of a lane's words.
fn put<const W: usize>(words: &mut [u32; W], offset: u32, bytes: u32, value: u64) {
    let at = offset as usize / 4;
    match bytes {
        8 => {
            for (n, word) in words.iter_mut().skip(at).take(2).enumerate() {
                *word = (value >> (32 * n)) as u32;
            }
        }
        _ => {
            let mask = if bytes == 4 {
                u32::MAX
            } else {
                (1 << (bytes * 8)) - 1
            };
            let shift = offset % 4 * 8;
            if let Some(word) = words.get_mut(at) {
                *word = *word & !(mask << shift) | (value as u32 & mask) << shift;
            }
        }
    }
}
