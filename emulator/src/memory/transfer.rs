//! The loads and stores themselves, per space.

use super::access::{Addresses, Words, each_lane, lanes_of, space, space_name};
use super::banks::row;
use super::{LOCAL_BASE, SHARED_BASE, Window};
use crate::violation::{Access, Fault, Kind};
use crate::warp::Warp;

impl Warp<'_> {
    /// Loads `bytes` bytes per lane: 1, 2, or all of the `W` words.
    #[inline(always)]
    pub(crate) fn load<const W: usize, const SPACE: u8>(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
    ) -> Result<Words<W>, Box<Fault>> {
        let mut out = Words::EMPTY;
        self.load_into::<W, SPACE>(addresses, mask, bytes, &mut out)?;
        Ok(out)
    }

    /// [`Warp::load`] into words that are [`Words::EMPTY`], which saves copying them.
    #[inline(always)]
    pub(crate) fn load_into<const W: usize, const SPACE: u8>(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
        out: &mut Words<W>,
    ) -> Result<(), Box<Fault>> {
        let bytes = if W > 1 { 4 * W as u32 } else { bytes };
        self.aligned(SPACE, Access::Read, addresses, mask, bytes)?;
        let mut low = [0; 32];
        match SPACE {
            space::SHARED => {
                let offsets = self.checked_offsets(Access::Read, addresses, (mask, bytes))?;
                return self.read_shared(&offsets, mask, bytes, out);
            }
            space::LOCAL => {
                let window = (
                    LOCAL_BASE,
                    self.local.first().map_or(0, |local| local.size()),
                );
                let offsets =
                    self.offsets(SPACE, Access::Read, addresses, (mask, bytes), window)?;
                each_lane(mask, |lane| {
                    let (at, memory) = (offsets[lane], &self.local[lane]);
                    out.words[lane] = memory.words(at & !3);
                    if !memory.initialised(at, bytes) {
                        clear(out, lane, |n| memory.initialised(at + 4 * n, 4));
                    }
                });
                low = offsets;
            }
            space::PARAM => {
                let params = self.launch.params;
                let window = (0, params.len() as u32);
                let offsets =
                    self.offsets(SPACE, Access::Read, addresses, (mask, bytes), window)?;
                let byte = |at: usize| params.get(at).copied().unwrap_or(0);
                each_lane(mask, |lane| {
                    let at = offsets[lane] as usize & !3;
                    out.words[lane] = std::array::from_fn(|n| {
                        u32::from_le_bytes(std::array::from_fn(|b| byte(at + 4 * n + b)))
                    });
                });
                low = offsets;
            }
            _ => {
                let (words, low) = (&mut *out, &mut low);
                self.each_global(
                    SPACE,
                    Access::Read,
                    addresses,
                    mask,
                    bytes,
                    |lane, memory, at| {
                        low[lane] = at as u32;
                        words.words[lane] = memory.words(at & !3);
                        if !memory.initialised(at, bytes as usize) {
                            clear(words, lane, |n| memory.initialised(at + 4 * n as usize, 4));
                        }
                    },
                )?;
            }
        }
        let global = matches!(SPACE, space::GLOBAL | space::GENERIC);
        if global && !self.launch.hostile.0.is_empty() {
            self.garble(addresses, mask, bytes, out);
        }
        if bytes < 4 {
            narrow(out, &low, bytes);
        }
        Ok(())
    }

    /// Loads from offsets in shared memory that are aligned and in bounds.
    #[inline(always)]
    pub(crate) fn read_shared<const W: usize>(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
        out: &mut Words<W>,
    ) -> Result<(), Box<Fault>> {
        let bytes = if W > 1 { 4 * W as u32 } else { bytes };
        let row = row(offsets, mask, bytes);
        self.touch_row::<W>(Access::Read, offsets, (mask, bytes, row))?;
        let memory = &self.shared.bytes;
        if row && let Some(row) = memory.row(offsets[0], 32 * W) {
            out.words.as_flattened_mut().copy_from_slice(row);
            return Ok(());
        }
        // Lanes of which not every byte is initialised.
        let mut doubtful = 0;
        each_lane(mask, |lane| {
            let at = offsets[lane];
            out.words[lane] = memory.words(at & !3);
            doubtful |= u32::from(!memory.initialised(at, bytes)) << lane;
        });
        for lane in lanes_of(doubtful) {
            if self.shared.keeps != 0 {
                self.not_kept(Access::Read, offsets[lane], bytes, lane)?;
            }
            clear(out, lane, |n| memory.initialised(offsets[lane] + 4 * n, 4));
        }
        if bytes < 4 {
            narrow(out, offsets, bytes);
        }
        Ok(())
    }

    /// Stores to offsets in shared memory that are aligned and in bounds.
    #[inline(always)]
    pub(crate) fn write_shared<const W: usize>(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
        data: &Words<W>,
    ) -> Result<(), Box<Fault>> {
        let bytes = if W > 1 { 4 * W as u32 } else { bytes };
        let valid = data.valid.iter().fold(mask, |all, valid| all & valid) == mask;
        let row = row(offsets, mask, bytes);
        self.touch_row::<W>(Access::Write, offsets, (mask, bytes, row))?;
        if self.domain.order.synchronising {
            self.overwrite_lanes(offsets, mask, bytes);
        }
        let memory = &mut self.shared.bytes;
        if valid && row && memory.set_row(offsets[0], data.words.as_flattened()) {
            return Ok(());
        }
        each_lane(mask, |lane| {
            let at = offsets[lane];
            if bytes >= 4 {
                memory.set_words(at, data.words[lane]);
            } else {
                memory.set_part(at, bytes, data.words[lane][0]);
            }
            each_part(data, valid, lane, bytes, |n, bytes, valid| {
                memory.mark(at + 4 * n, bytes, valid);
            });
        });
        Ok(())
    }

    /// Tells strong accesses what plain stores to shared memory change.
    #[cold]
    fn overwrite_lanes(&mut self, offsets: &[u32; 32], mask: u32, bytes: u32) {
        let at = offsets.map(|offset| u64::from(offset) + u64::from(SHARED_BASE));
        self.overwrite(Window::Shared, &Addresses::new(at, mask), mask, bytes);
    }

    /// Stores `bytes` bytes per lane: 1, 2, or all of the `W` words.
    #[inline(always)]
    pub(crate) fn store<const W: usize, const SPACE: u8>(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
        data: &Words<W>,
    ) -> Result<(), Box<Fault>> {
        let bytes = if W > 1 { 4 * W as u32 } else { bytes };
        self.aligned(SPACE, Access::Write, addresses, mask, bytes)?;
        let valid = data.valid.iter().fold(mask, |all, valid| all & valid) == mask;
        match SPACE {
            space::SHARED => {
                let offsets = self.checked_offsets(Access::Write, addresses, (mask, bytes))?;
                self.write_shared(&offsets, mask, bytes, data)?;
            }
            space::LOCAL => {
                let window = (
                    LOCAL_BASE,
                    self.local.first().map_or(0, |local| local.size()),
                );
                let offsets =
                    self.offsets(SPACE, Access::Write, addresses, (mask, bytes), window)?;
                each_lane(mask, |lane| {
                    let (at, memory) = (offsets[lane], &mut self.local[lane]);
                    if bytes >= 4 {
                        memory.set_words(at, data.words[lane]);
                    } else {
                        memory.set_part(at, bytes, data.words[lane][0]);
                    }
                    each_part(data, valid, lane, bytes, |n, bytes, valid| {
                        memory.mark(at + 4 * n, bytes, valid);
                    });
                });
            }
            space::PARAM | space::CONST => {
                let kind = Kind::ReadOnly {
                    space: space_name(SPACE),
                    access: Access::Write,
                };
                return Err(self.fault_at(kind, mask, addresses.least));
            }
            _ => {
                self.each_global(
                    SPACE,
                    Access::Write,
                    addresses,
                    mask,
                    bytes,
                    |lane, memory, at| {
                        if bytes >= 4 {
                            memory.set_words(at, data.words[lane]);
                        } else {
                            memory.set_part(at, bytes as usize, data.words[lane][0]);
                        }
                        each_part(data, valid, lane, bytes, |n, bytes, valid| {
                            memory.mark(at + 4 * n as usize, bytes as usize, valid);
                        });
                    },
                )?;
                self.overwrite(Window::Global, addresses, mask, bytes);
            }
        }
        Ok(())
    }

    /// [`Warp::load`] for the spaces that inner loops do not live on, and for generic addresses.
    #[inline(never)]
    pub(crate) fn load_from<const W: usize>(
        &mut self,
        space: u8,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
    ) -> Result<Words<W>, Box<Fault>> {
        match space {
            space::GLOBAL => return self.load::<W, { space::GLOBAL }>(addresses, mask, bytes),
            space::SHARED => return self.load::<W, { space::SHARED }>(addresses, mask, bytes),
            space::LOCAL => return self.load::<W, { space::LOCAL }>(addresses, mask, bytes),
            space::PARAM => return self.load::<W, { space::PARAM }>(addresses, mask, bytes),
            space::CONST => return self.load::<W, { space::CONST }>(addresses, mask, bytes),
            _ => {}
        }
        let mut out = Words::EMPTY;
        self.by_window(addresses, mask, |warp, window, addresses, mask| {
            let part: Words<W> = warp.load_from(space_of(window), addresses, mask, bytes)?;
            for lane in lanes_of(mask) {
                out.words[lane] = part.words[lane];
            }
            for n in 0..W {
                out.valid[n] &= part.valid[n] | !mask;
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// [`Warp::store`] for the spaces that inner loops do not live on, and for generic addresses.
    #[inline(never)]
    pub(crate) fn store_to<const W: usize>(
        &mut self,
        space: u8,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
        data: &Words<W>,
    ) -> Result<(), Box<Fault>> {
        match space {
            space::GLOBAL => self.store::<W, { space::GLOBAL }>(addresses, mask, bytes, data),
            space::SHARED => self.store::<W, { space::SHARED }>(addresses, mask, bytes, data),
            space::LOCAL => self.store::<W, { space::LOCAL }>(addresses, mask, bytes, data),
            space::PARAM => self.store::<W, { space::PARAM }>(addresses, mask, bytes, data),
            space::CONST => self.store::<W, { space::CONST }>(addresses, mask, bytes, data),
            _ => self.by_window(addresses, mask, |warp, window, addresses, mask| {
                warp.store_to(space_of(window), addresses, mask, bytes, data)
            }),
        }
    }
}

/// Cuts the bytes that were asked for out of each lane's word.
#[inline(always)]
fn narrow<const W: usize>(out: &mut Words<W>, offsets: &[u32; 32], bytes: u32) {
    for lane in 0..32 {
        let word = &mut out.words[lane][0];
        *word = *word >> (offsets[lane] % 4 * 8) & ((1 << (bytes * 8)) - 1);
    }
}

fn space_of(window: Window) -> u8 {
    match window {
        Window::Global => space::GLOBAL,
        Window::Shared => space::SHARED,
        Window::Local => space::LOCAL,
        Window::Param => space::PARAM,
    }
}

/// Notes which words of a lane are not initialised.
#[cold]
fn clear<const W: usize>(out: &mut Words<W>, lane: usize, initialised: impl Fn(u32) -> bool) {
    for n in 0..W {
        if W == 1 || !initialised(n as u32) {
            out.valid[n] &= !(1 << lane);
        }
    }
}

/// Calls `f` with word number, bytes, and validity of what a lane stores.
#[inline(always)]
fn each_part<const W: usize>(
    data: &Words<W>,
    all: bool,
    lane: usize,
    bytes: u32,
    mut f: impl FnMut(u32, u32, bool),
) {
    if all {
        f(0, bytes, true);
    } else {
        for n in 0..W {
            f(n as u32, bytes.min(4), data.valid[n] >> lane & 1 != 0);
        }
    }
}
