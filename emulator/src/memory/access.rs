//! Loads and stores of a warp.
//!
//! Bounds and alignment are checked once for all lanes (by the least and the greatest address, and by
//! the low bits of all); only if that fails are the lanes looked at one by one.

use super::banks::{row, wavefronts};
use super::global::Allocation;
use super::order::{COPIES, scope};
use super::pages::Breach;
use super::race::{Conflict, Touch};
use super::shared::Kept;
use super::{SHARED_BASE, Window};
use crate::counters::sectors;
use crate::isa::Inst;
use crate::memory::global::Kind as AllocationKind;
use crate::violation::{Access, Fault, Kind, Space};
use crate::warp::Warp;

/// [`Space`]s as constants, for code that is compiled per space.
pub(crate) mod space {
    pub(crate) const GLOBAL: u8 = 0;
    pub(crate) const SHARED: u8 = 1;
    pub(crate) const LOCAL: u8 = 2;
    pub(crate) const PARAM: u8 = 3;
    pub(crate) const CONST: u8 = 4;
    pub(crate) const GENERIC: u8 = 5;
}

pub(super) fn space_name(space: u8) -> Space {
    match space {
        space::SHARED => Space::Shared,
        space::LOCAL => Space::Local,
        space::PARAM => Space::Param,
        space::CONST => Space::Const,
        space::GENERIC => Space::Generic,
        _ => Space::Global,
    }
}

fn touch_of(access: Access) -> Touch {
    match access {
        Access::Read => Touch::Read,
        Access::Write => Touch::Write,
        Access::Atomic => Touch::Atomic,
    }
}

fn access_of(touch: Touch) -> Access {
    match touch {
        Touch::Read => Access::Read,
        Touch::Write => Access::Write,
        Touch::Atomic => Access::Atomic,
    }
}

/// What a load brings: the words of each lane, and which lanes of each word are initialised.
#[derive(Clone, Copy)]
pub(crate) struct Words<const W: usize> {
    pub words: [[u32; W]; 32],
    pub valid: [u32; W],
}

impl<const W: usize> Words<W> {
    pub(crate) const EMPTY: Words<W> = Words {
        words: [[0; W]; 32],
        valid: [u32::MAX; W],
    };
}

/// The lanes of a mask.
#[inline(always)]
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// Calls `f` for the lanes of a mask.
#[inline(always)]
pub(crate) fn each_lane(mask: u32, mut f: impl FnMut(usize)) {
    if mask == u32::MAX {
        for lane in 0..32 {
            f(lane);
        }
    } else {
        for lane in lanes_of(mask) {
            f(lane);
        }
    }
}

/// Addresses of all lanes; inactive lanes repeat an active one, so that loops need not ask.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub at: [u64; 32],
    pub least: u64,
    pub greatest: u64,
    pub low_bits: u64,
}

impl Warp<'_> {
    /// Addresses from source operand `k` and constant `n`; `wide` if the register has 64 bits.
    #[inline(always)]
    pub(crate) fn addresses(
        &self,
        inst: &Inst,
        k: usize,
        n: usize,
        wide: bool,
        mask: u32,
    ) -> Result<Addresses, Box<Fault>> {
        let mut out = Addresses::EMPTY;
        self.addresses_into(inst, (k, n), wide, mask, &mut out)?;
        Ok(out)
    }

    /// [`Warp::addresses`] without copying them.
    #[inline(always)]
    pub(crate) fn addresses_into(
        &self,
        inst: &Inst,
        (k, n): (usize, usize),
        wide: bool,
        mask: u32,
        out: &mut Addresses,
    ) -> Result<(), Box<Fault>> {
        let offset = inst.imm[n] as u64;
        if wide {
            self.need(mask, self.valid64(inst.s[k]), "the address")?;
            let base = self.r64(inst.s[k]);
            for lane in 0..32 {
                out.at[lane] = base.0[lane].wrapping_add(offset);
            }
        } else {
            self.need(mask, self.valid32(inst.s[k]), "the address")?;
            let base = self.r32(inst.s[k]);
            for lane in 0..32 {
                out.at[lane] = u64::from(base.0[lane].wrapping_add(offset as u32));
            }
        }
        out.finish(mask);
        Ok(())
    }
}

impl Addresses {
    pub(crate) const EMPTY: Addresses = Addresses {
        at: [0; 32],
        least: 0,
        greatest: 0,
        low_bits: 0,
    };

    #[inline(always)]
    pub(crate) fn new(at: [u64; 32], mask: u32) -> Addresses {
        let mut out = Addresses {
            at,
            ..Addresses::EMPTY
        };
        out.finish(mask);
        out
    }

    /// Fills in the rest once the addresses of the lanes in `mask` are there.
    #[inline(always)]
    fn finish(&mut self, mask: u32) {
        let first = self.at[mask.trailing_zeros() as usize % 32];
        if mask != u32::MAX {
            for lane in 0..32 {
                self.at[lane] = if mask >> lane & 1 != 0 {
                    self.at[lane]
                } else {
                    first
                };
            }
        }
        let (mut differ, mut low_bits) = (0, 0);
        for lane in 0..32 {
            differ |= self.at[lane] ^ first;
            low_bits |= self.at[lane];
        }
        self.low_bits = low_bits;
        if differ >> 32 == 0 {
            // Mostly they have their upper halves in common, and 32 bits compare faster.
            let (mut least, mut greatest) = (u32::MAX, 0);
            for lane in 0..32 {
                least = least.min(self.at[lane] as u32);
                greatest = greatest.max(self.at[lane] as u32);
            }
            let upper = first >> 32 << 32;
            (self.least, self.greatest) = (upper | u64::from(least), upper | u64::from(greatest));
        } else {
            self.far();
        }
    }

    #[cold]
    fn far(&mut self) {
        self.least = self.at.iter().copied().min().unwrap_or(0);
        self.greatest = self.at.iter().copied().max().unwrap_or(0);
    }
}

impl Warp<'_> {
    /// Counts an access to global memory of `bytes` bytes in all.
    #[inline(always)]
    pub(crate) fn count_global(&mut self, addresses: &Addresses, mask: u32, bytes: u64) {
        let (sectors, distinct) = sectors(&addresses.at, mask);
        let lanes = u64::from(mask.count_ones()).max(1);
        if let Some(site) = self.counters.site(self.pc) {
            site.global_bytes += bytes;
            site.global_sectors += sectors;
            site.global_ideal += (bytes * distinct).div_ceil(32 * lanes);
        }
        self.counters
            .access(self.launch, self.block, self.pc, &addresses.at);
    }

    /// The allocation that one lane accesses, or what is wrong with that.
    pub(crate) fn allocation(
        &self,
        space: u8,
        access: Access,
        address: u64,
        bytes: u32,
        lane: usize,
    ) -> Result<&Allocation, Box<Fault>> {
        let allocation = self
            .launch
            .table
            .find(address)
            .filter(|a| a.holds(address, u64::from(bytes)));
        let fault = match allocation {
            Some(allocation)
                if space == space::CONST && allocation.kind != AllocationKind::Const =>
            {
                Kind::WrongSpace {
                    expected: Space::Const,
                }
            }
            Some(allocation)
                if access != Access::Read && allocation.kind == AllocationKind::Const =>
            {
                Kind::ReadOnly {
                    space: Space::Const,
                    access,
                }
            }
            Some(allocation) => return Ok(allocation),
            None if self.launch.table.was_freed(address) => Kind::UseAfterFree { access, bytes },
            None => Kind::OutOfBounds {
                space: space_name(space),
                access,
                bytes,
            },
        };
        Err(self.fault_at(fault, 1 << lane, address))
    }

    /// Calls `f` for each active lane with its allocation and offset, all of them in bounds.
    #[inline(always)]
    pub(super) fn each_global(
        &mut self,
        space: u8,
        access: Access,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
        mut f: impl FnMut(usize, &Allocation, usize),
    ) -> Result<(), Box<Fault>> {
        self.count_global(addresses, mask, u64::from(bytes * mask.count_ones()));
        let special = space == space::CONST || access != Access::Read;
        self.domain.changes += u64::from(access != Access::Read);
        let launch = self.launch;
        match launch.table.find(addresses.least) {
            Some(allocation)
                if allocation.holds(addresses.greatest, u64::from(bytes))
                    && (!special
                        || allocation.kind != AllocationKind::Const && space != space::CONST) =>
            {
                if launch.checks.race {
                    self.touch_global(access, &addresses.at, mask, bytes)?;
                }
                each_lane(mask, |lane| {
                    f(
                        lane,
                        allocation,
                        (addresses.at[lane] - allocation.base) as usize,
                    );
                });
            }
            _ => {
                for lane in lanes_of(mask) {
                    let at = addresses.at[lane];
                    self.allocation(space, access, at, bytes, lane)?;
                    if launch.checks.race && space != space::CONST {
                        self.touch_global(access, &addresses.at, 1 << lane, bytes)?;
                    }
                    let allocation = self.allocation(space, access, at, bytes, lane)?;
                    f(lane, allocation, (at - allocation.base) as usize);
                }
            }
        }
        Ok(())
    }

    /// Records accesses to global memory, and fails if one breaks a rule.
    #[inline(always)]
    pub(crate) fn touch_global(
        &mut self,
        access: Access,
        addresses: &[u64; 32],
        mask: u32,
        bytes: u32,
    ) -> Result<(), Box<Fault>> {
        let launch = self.launch;
        let save = |number| {
            if let Some(journal) = &launch.journal {
                journal.save(launch.table, number);
            }
        };
        let mut left = mask;
        loop {
            let domain = &mut *self.domain;
            let order = &domain.order;
            let who = order.who(self.slot, self.index, self.pc, self.manner);
            let who = if self.copying { who.copying() } else { who };
            let pages = &mut domain.pages;
            let found = pages.touch_lanes(&who, addresses, (left, bytes), touch_of(access), save);
            let Some((breach, lane)) = found else {
                return Ok(());
            };
            let place = (Window::Global, addresses[lane], bytes);
            match &breach {
                Breach::Race(conflict) if self.observed(conflict, place, lane) => {
                    self.domain.pages.forget_write(addresses[lane], bytes);
                    left &= u32::MAX << lane;
                }
                _ => return Err(self.breach(access, &breach, lane, addresses[lane])),
            }
        }
    }

    #[cold]
    fn breach(&self, access: Access, breach: &Breach, lane: usize, address: u64) -> Box<Fault> {
        let (Breach::Race(conflict) | Breach::Stale(conflict)) = breach;
        let near = u64::from(conflict.block) == self.block;
        let mut thread = Self::thread_name(conflict.warp, conflict.lane);
        if !near {
            let [x, y, z] = self.launch.coordinates(u64::from(conflict.block));
            thread = format!("{thread} of block ({x}, {y}, {z})");
        }
        let (other, line) = (access_of(conflict.touch), u32::from(conflict.pc));
        let kind = match breach {
            Breach::Stale(_) => Kind::NonCoherent {
                access,
                other,
                thread,
                line,
            },
            Breach::Race(_) => Kind::GlobalRace {
                access,
                other,
                thread,
                line,
                missing: self.missing(conflict, near),
            },
        };
        let mut fault = self.fault_at(kind, 1 << lane, address);
        fault.other = Some(*conflict);
        fault
    }

    /// What would order an access and the one that it conflicts with.
    fn missing(&self, conflict: &Conflict, near: bool) -> &'static str {
        match (self.manner, conflict.strong) {
            (scope::WEAK, scope::WEAK) if near && conflict.warp as usize == self.index => {
                "lanes of a warp need a bar.warp.sync in between"
            }
            (scope::WEAK, scope::WEAK) if near => {
                "warps of a block need a barrier in between, or a release and an acquire"
            }
            (scope::WEAK, scope::WEAK) => {
                "blocks need a release and an acquire in between, both of .gpu scope at least"
            }
            (scope::WEAK, _) | (_, scope::WEAK) => {
                "one of them is weak, so a release and an acquire have to come in between"
            }
            _ => "both are strong, but the scope of one does not include the thread of the other",
        }
    }

    /// Fails if an address is no multiple of `bytes`.
    #[inline(always)]
    pub(crate) fn aligned(
        &self,
        space: u8,
        access: Access,
        addresses: &Addresses,
        mask: u32,
        bytes: u32,
    ) -> Result<(), Box<Fault>> {
        if addresses.low_bits & u64::from(bytes - 1) == 0 {
            return Ok(());
        }
        let wrong =
            lanes_of(mask).filter(|lane| !addresses.at[*lane].is_multiple_of(u64::from(bytes)));
        let lanes: u32 = wrong.fold(0, |lanes, lane| lanes | 1 << lane);
        let kind = Kind::Misaligned {
            space: space_name(space),
            access,
            bytes,
        };
        Err(self.fault_at(
            kind,
            lanes,
            addresses.at[lanes.trailing_zeros() as usize % 32],
        ))
    }

    /// Offsets in a memory of `size` bytes that starts at `base`.
    #[inline(always)]
    pub(crate) fn offsets(
        &self,
        space: u8,
        access: Access,
        addresses: &Addresses,
        (mask, bytes): (u32, u32),
        (base, size): (u32, u32),
    ) -> Result<[u32; 32], Box<Fault>> {
        let (first, end) = (u64::from(base), u64::from(base) + u64::from(size));
        let within = |address: u64| {
            address >= first
                && address
                    .checked_add(u64::from(bytes))
                    .is_some_and(|e| e <= end)
        };
        if !within(addresses.least) || !within(addresses.greatest) {
            let wrong = lanes_of(mask).filter(|lane| !within(addresses.at[*lane]));
            let lanes: u32 = wrong.fold(0, |lanes, lane| lanes | 1 << lane);
            let address = addresses.at[lanes.trailing_zeros() as usize % 32];
            let kind = Kind::OutOfBounds {
                space: space_name(space),
                access,
                bytes,
            };
            let shown = if space == space::SHARED {
                address | Window::Shared.base()
            } else {
                address
            };
            return Err(self.fault_at(kind, lanes, shown));
        }
        let mut offsets = [0; 32];
        for lane in 0..32 {
            offsets[lane] = (addresses.at[lane] as u32).wrapping_sub(base);
        }
        Ok(offsets)
    }

    /// Name of a thread of the block.
    pub(crate) fn thread_name(warp: u32, lane: Option<u32>) -> String {
        let copy = match warp < COPIES {
            true => "",
            false => "a cp.async of ",
        };
        let warp = warp % COPIES;
        match lane {
            Some(lane) => format!("{copy}warp {warp} lane {lane}"),
            None => format!("{copy}warp {warp}"),
        }
    }

    #[cold]
    pub(crate) fn race(
        &self,
        access: Access,
        conflict: Conflict,
        lane: usize,
        offset: u32,
    ) -> Box<Fault> {
        let other = access_of(conflict.touch);
        let thread = Self::thread_name(conflict.warp, conflict.lane);
        let kind = Kind::SharedRace {
            access,
            other,
            thread,
            line: u32::from(conflict.pc),
        };
        let address = Window::Shared.base() + u64::from(offset + SHARED_BASE);
        let mut fault = self.fault_at(kind, 1 << lane, address);
        fault.other = Some(conflict);
        fault
    }

    /// Offsets in shared memory of accesses whose address is source operand 0; `wide` if its register has
    /// 64 bits. Fills in those of all lanes.
    #[inline(always)]
    pub(crate) fn shared_offsets(
        &self,
        inst: &Inst,
        wide: bool,
        access: Access,
        (mask, bytes): (u32, u32),
        out: &mut [u32; 32],
    ) -> Result<(), Box<Fault>> {
        if mask != u32::MAX || wide || !self.quick_offsets(inst, bytes, out) {
            *out = self.slow_offsets(inst, wide, access, (mask, bytes))?;
        }
        Ok(())
    }

    /// The offsets of all lanes, from a register of 32 bits; false if something is wrong with one.
    #[inline(always)]
    fn quick_offsets(&self, inst: &Inst, bytes: u32, out: &mut [u32; 32]) -> bool {
        let register = self.register32(inst.s[0]);
        let base = (inst.imm[0] as u32).wrapping_sub(SHARED_BASE);
        let (mut greatest, mut bits) = (0, 0);
        for lane in 0..32 {
            let offset = register.lanes.0[lane].wrapping_add(base);
            out[lane] = offset;
            greatest = offset.max(greatest);
            bits |= offset;
        }
        let last = self.shared.bytes.size().checked_sub(bytes);
        register.valid == u32::MAX
            && bits & (bytes - 1) == 0
            && last.is_some_and(|last| greatest <= last)
    }

    #[inline(never)]
    fn slow_offsets(
        &self,
        inst: &Inst,
        wide: bool,
        access: Access,
        (mask, bytes): (u32, u32),
    ) -> Result<[u32; 32], Box<Fault>> {
        let addresses = self.addresses(inst, 0, 0, wide, mask)?;
        self.checked_offsets(access, &addresses, (mask, bytes))
    }

    /// Offsets in shared memory, if the addresses are aligned and in bounds.
    #[inline(always)]
    pub(crate) fn checked_offsets(
        &self,
        access: Access,
        addresses: &Addresses,
        (mask, bytes): (u32, u32),
    ) -> Result<[u32; 32], Box<Fault>> {
        self.aligned(space::SHARED, access, addresses, mask, bytes)?;
        let window = (SHARED_BASE, self.shared.bytes.size());
        self.offsets(space::SHARED, access, addresses, (mask, bytes), window)
    }

    /// Records accesses to shared memory, and fails if one races.
    #[inline(always)]
    pub(crate) fn touch_shared<const W: usize>(
        &mut self,
        access: Access,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
    ) -> Result<(), Box<Fault>> {
        let row = row(offsets, mask, bytes);
        self.touch_row::<W>(access, offsets, (mask, bytes, row))
    }

    /// [`Warp::touch_shared`] where it is known whether the accesses make a [`row`].
    #[inline(always)]
    pub(super) fn touch_row<const W: usize>(
        &mut self,
        access: Access,
        offsets: &[u32; 32],
        (mask, bytes, row): (u32, u32, bool),
    ) -> Result<(), Box<Fault>> {
        self.count_shared::<W>(offsets, (mask, row));
        if self.shared.keeps != 0 && access != Access::Read {
            for lane in lanes_of(mask) {
                if self.shared.kept(offsets[lane], bytes).is_some() {
                    self.not_kept(access, offsets[lane], bytes, lane)?;
                }
            }
        }
        self.order_shared(access, offsets, (mask, bytes, row))
    }

    /// Counts passes through shared memory.
    #[inline(always)]
    pub(super) fn count_shared<const W: usize>(
        &mut self,
        offsets: &[u32; 32],
        (mask, row): (u32, bool),
    ) {
        let (passes, ideal) = match row {
            true => (W as u64, W as u64),
            false => wavefronts::<W>(offsets, mask),
        };
        if let Some(site) = self.counters.site(self.pc) {
            site.shared_wavefronts += passes;
            site.shared_ideal += ideal;
        }
    }

    /// Fails if an access to shared memory races.
    #[inline(always)]
    pub(super) fn order_shared(
        &mut self,
        access: Access,
        offsets: &[u32; 32],
        what: (u32, u32, bool),
    ) -> Result<(), Box<Fault>> {
        let ((_, bytes, _), mut what) = (what, what);
        while self.launch.checks.race {
            let order = &self.domain.order;
            let who = order.who(self.slot, self.index, self.pc, self.manner);
            let shadow = &mut self.shared.shadow;
            let found = shadow.touch_lanes(&who, offsets, what, touch_of(access));
            let Some((conflict, lane)) = found else {
                break;
            };
            let offset = offsets[lane];
            let place = (Window::Shared, u64::from(offset), bytes);
            if !self.observed(&conflict, place, lane) {
                return Err(self.race(access, conflict, lane, offset));
            }
            self.shared.shadow.forget_write(offset, bytes);
            // Those before it are done.
            what = (what.0 & u32::MAX << lane, bytes, false);
        }
        Ok(())
    }

    /// Fails if these bytes are an `mbarrier`, or a copy is under way to them.
    #[cold]
    pub(crate) fn not_kept(
        &self,
        access: Access,
        offset: u32,
        bytes: u32,
        lane: usize,
    ) -> Result<(), Box<Fault>> {
        let kind = match self.shared.kept(offset, bytes) {
            Some(Kept::Copy(thread)) => {
                let thread = Self::thread_name(thread / 32, Some(thread % 32));
                Kind::AsyncPending { access, thread }
            }
            Some(Kept::Mbarrier) => Kind::MbarrierBytes { access },
            None => return Ok(()),
        };
        let address = Window::Shared.base() + u64::from(offset + SHARED_BASE);
        Err(self.fault_at(kind, 1 << lane, address))
    }

    /// Calls `f` for each window that the addresses lie in, with the lanes concerned and their
    /// addresses within the window.
    pub(crate) fn by_window(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        mut f: impl FnMut(&mut Self, Window, &Addresses, u32) -> Result<(), Box<Fault>>,
    ) -> Result<(), Box<Fault>> {
        let mut left = mask;
        while left != 0 {
            let window = Window::of(addresses.at[left.trailing_zeros() as usize]);
            let same = lanes_of(left).filter(|lane| Window::of(addresses.at[*lane]) == window);
            let same = same.fold(0, |same, lane| same | 1 << lane);
            let within = match window {
                Window::Global => addresses.at,
                _ => addresses.at.map(|address| address & 0xffff_ffff),
            };
            f(self, window, &Addresses::new(within, same), same)?;
            left &= !same;
        }
        Ok(())
    }
}
