//! A warp as its instructions see it: registers by slot, and the world around.
//!
//! Registers live in three banks: 32-bit (which also holds 8- and 16-bit registers, zero-extended),
//! 64-bit, and predicates as masks of lanes. The kernel's constants stand behind the registers that it
//! writes, so literals and registers are read alike. Every register has a mask of the
//! lanes that were ever written, beside its values: one look finds both.

use crate::counters::Counters;
use crate::isa::Inst;
use crate::isa::async_copy::Copies;
use crate::isa::call::Frame;
use crate::machine::{Domain, Launch, Random, Request};
use crate::memory::LOCAL_BASE;
use crate::memory::bytes::Bytes;
use crate::memory::defer::Deferred;
use crate::memory::shared::Shared;
use crate::violation::{Fault, Kind};
use crate::warning::{Met, WarningKind};

/// One value per lane, aligned for vector loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
pub(crate) struct Lanes<T>(pub [T; 32]);

/// The values of a register, and which lanes were ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register<T> {
    pub lanes: Lanes<T>,
    pub valid: u32,
}

impl<T: Copy + Default> Register<T> {
    /// A register that was never written.
    pub(crate) fn unwritten() -> Register<T> {
        Register {
            lanes: Lanes([T::default(); 32]),
            valid: 0,
        }
    }

    /// Writes the lanes of `mask`; `valid` says which of the new values are initialised.
    #[inline(always)]
    fn set(&mut self, mask: u32, valid: u32, new: &[T; 32]) {
        if mask == u32::MAX {
            self.lanes.0 = *new;
            self.valid = valid;
        } else {
            self.set_some(mask, valid, new);
        }
    }

    /// The part of [`Register::set`] for warps that are not full: once for all instructions.
    #[inline(never)]
    fn set_some(&mut self, mask: u32, valid: u32, new: &[T; 32]) {
        for lane in 0..32 {
            let old = self.lanes.0[lane];
            let chosen = mask & 1 << lane != 0;
            self.lanes.0[lane] = if chosen { new[lane] } else { old };
        }
        self.valid = self.valid & !mask | valid & mask;
    }

    /// The same value in all lanes.
    pub(crate) const fn constant(value: T) -> Register<T> {
        Register {
            lanes: Lanes([value; 32]),
            valid: u32::MAX,
        }
    }
}

/// Registers of a warp, and behind them the constants of the kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registers {
    pub r32: Vec<Register<u32>>,
    pub r64: Vec<Register<u64>>,
    /// Predicates: slot 0 is always true, slot 1 takes what is thrown away.
    pub p: Vec<u32>,
    pub vp: Vec<u32>,
    /// The carry flag of `.cc`.
    pub carry: u32,
    /// Calls that each lane has not come back from; empty as long as there are none.
    pub calls: Vec<Vec<Frame>>,
    /// Where the local memory ends that the kernel itself has taken, by lane; empty if it has not.
    pub stack: Vec<u32>,
}

/// Values that a kernel reads and never writes: their slots come behind those of its registers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Constants {
    pub k32: Vec<Register<u32>>,
    pub k64: Vec<Register<u64>>,
}

static ZERO32: Register<u32> = Register::constant(0);
static ZERO64: Register<u64> = Register::constant(0);

/// What an instruction works on.
pub(crate) struct Warp<'a> {
    /// Its registers.
    pub regs: &'a mut Registers,
    /// What all blocks share.
    pub launch: &'a Launch<'a>,
    /// The block's shared memory.
    pub shared: &'a mut Shared,
    /// Local memory per lane; empty if the kernel has none.
    pub local: &'a mut [Bytes],
    /// What orders the blocks of the worker, and what they have touched.
    pub domain: &'a mut Domain,
    /// The block's slot in it.
    pub slot: usize,
    /// The [`scope`](crate::memory::order::scope) of the present access.
    pub manner: u8,
    /// Loads that take effect later.
    pub deferred: &'a mut Deferred,
    /// Whether the present accesses are those of copies that an `mbarrier` tracks.
    pub copying: bool,
    pub counters: &'a mut Counters,
    /// For what the hardware leaves open.
    pub random: &'a mut Random,
    /// Index of the block.
    pub block: u64,
    /// Number of the warp in its block.
    pub index: usize,
    /// Position of the instruction.
    pub pc: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Warp instructions that the block has run.
    pub clock: u64,
    /// Where lanes go after [`Flow::Scatter`](crate::isa::Flow::Scatter).
    pub targets: [u32; 32],
    /// What a barrier instruction asks for with [`Flow::Barrier`](crate::isa::Flow::Barrier).
    pub barrier: Request,
    /// What an instruction has met with [`Flow::Fault`](crate::isa::Flow::Fault).
    pub fault: Option<Box<Fault>>,
}

impl<'a> Warp<'a> {
    /// Its copies under way.
    pub(crate) fn own_copies(&mut self) -> &mut Copies {
        &mut self.shared.copies[self.index]
    }

    /// A clock that moves on with the block's instructions.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// The 8 bytes at an address of a lane's local memory.
    pub(crate) fn local_pointer(&self, lane: usize, address: i64) -> Option<u64> {
        let offset = u32::try_from(address).ok()?.checked_sub(LOCAL_BASE)?;
        let [low, high] = self.local.get(lane)?.words::<2>(offset);
        Some(u64::from(high) << 32 | u64::from(low))
    }

    /// Notes something of lanes at the present instruction that should not be relied on.
    #[cold]
    pub(crate) fn warn(&mut self, kind: WarningKind, lanes: u32) {
        let (block, warp, count) = (self.block, self.index, 1);
        let met = Met {
            block,
            warp,
            lanes,
            count,
        };
        self.counters.warnings.note(kind, self.pc, met);
    }

    /// The lanes of a mask in an order that the seed draws, and how many there are.
    pub(crate) fn shuffled(&mut self, mask: u32) -> ([u8; 32], usize) {
        let (mut lanes, mut count) = ([0; 32], 0);
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            lanes[count] = lane;
            count += 1;
        }
        self.random.shuffle(&mut lanes[..count]);
        (lanes, count)
    }

    /// Fails if a lane of `mask` is not among the `valid` ones.
    #[inline(always)]
    pub(crate) fn need(&self, mask: u32, valid: u32, what: &'static str) -> Result<(), Box<Fault>> {
        if mask & !valid != 0 && self.launch.checks.init {
            return Err(self.fault(Kind::Uninitialised { what }, mask & !valid));
        }
        Ok(())
    }

    /// The register in `slot`, or the constant.
    #[inline(always)]
    pub(crate) fn register32(&self, slot: u16) -> &Register<u32> {
        self.regs.r32.get(usize::from(slot)).unwrap_or(&ZERO32)
    }

    #[inline(always)]
    pub(crate) fn r32(&self, slot: u16) -> &Lanes<u32> {
        &self.register32(slot).lanes
    }

    #[inline(always)]
    pub(crate) fn valid32(&self, slot: u16) -> u32 {
        self.register32(slot).valid
    }

    /// The register in `slot`, or the constant.
    #[inline(always)]
    pub(crate) fn register64(&self, slot: u16) -> &Register<u64> {
        self.regs.r64.get(usize::from(slot)).unwrap_or(&ZERO64)
    }

    #[inline(always)]
    pub(crate) fn r64(&self, slot: u16) -> &Lanes<u64> {
        &self.register64(slot).lanes
    }

    #[inline(always)]
    pub(crate) fn valid64(&self, slot: u16) -> u32 {
        self.register64(slot).valid
    }

    /// Writes the lanes of `mask`; `valid` says which of the new values are initialised.
    #[inline(always)]
    pub(crate) fn set32(&mut self, slot: u16, mask: u32, valid: u32, new: &[u32; 32]) {
        if let Some(old) = self.regs.r32.get_mut(usize::from(slot)) {
            old.set(mask, valid, new);
        }
    }

    /// As [`Warp::set32`] for a 64-bit register.
    #[inline(always)]
    pub(crate) fn set64(&mut self, slot: u16, mask: u32, valid: u32, new: &[u64; 32]) {
        if let Some(old) = self.regs.r64.get_mut(usize::from(slot)) {
            old.set(mask, valid, new);
        }
    }

    /// The 32 lanes of a register.
    #[inline(always)]
    pub(crate) fn get<T: Lane>(&self, slot: u16) -> [T; 32] {
        T::get(self, slot)
    }

    /// Writes the lanes of `mask`; `valid` says which of the new values are initialised.
    #[inline(always)]
    pub(crate) fn put<T: Lane>(&mut self, slot: u16, mask: u32, valid: u32, new: [T; 32]) {
        T::put(self, slot, mask, valid, new);
    }

    /// Which lanes of a register of type `T` were ever written.
    #[inline(always)]
    pub(crate) fn valid<T: Lane>(&self, slot: u16) -> u32 {
        T::valid(self, slot)
    }

    /// Source operand `k`, a predicate, as a mask of lanes; `!p` is already applied.
    #[inline(always)]
    pub(crate) fn pred(&self, inst: &Inst, k: usize) -> u32 {
        let bits = self
            .regs
            .p
            .get(usize::from(inst.s[k]))
            .copied()
            .unwrap_or(0);
        if inst.negated >> k & 1 != 0 {
            !bits
        } else {
            bits
        }
    }

    /// Which lanes of the predicate in `slot` were ever written.
    #[inline(always)]
    pub(crate) fn valid_pred(&self, slot: u16) -> u32 {
        self.regs
            .vp
            .get(usize::from(slot))
            .copied()
            .unwrap_or(u32::MAX)
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub(crate) fn put_pred(&mut self, slot: u16, mask: u32, valid: u32, new: u32) {
        let slot = usize::from(slot);
        if let (Some(old), Some(seen)) = (self.regs.p.get_mut(slot), self.regs.vp.get_mut(slot)) {
            *old = *old & !mask | new & mask;
            *seen = *seen & !mask | valid & mask;
        }
    }

    /// A fault at an address.
    #[cold]
    pub(crate) fn fault_at(&self, kind: Kind, lanes: u32, address: u64) -> Box<Fault> {
        Box::new(Fault {
            kind,
            lanes,
            address: Some(address),
            other: None,
        })
    }

    /// A fault of the program in these lanes.
    #[cold]
    pub(crate) fn fault(&self, kind: Kind, lanes: u32) -> Box<Fault> {
        Box::new(Fault {
            kind,
            lanes,
            address: None,
            other: None,
        })
    }
}

/// A value that a register holds per lane.
pub(crate) trait Lane: Copy {
    /// Any value.
    const ZERO: Self;
    fn get(warp: &Warp<'_>, slot: u16) -> [Self; 32];
    fn put(warp: &mut Warp<'_>, slot: u16, mask: u32, valid: u32, new: [Self; 32]);
    fn valid(warp: &Warp<'_>, slot: u16) -> u32;
}

/// An operand of [`lanes!`](crate::isa::lanes): a [`Lane`], or `bool` for a predicate.
pub(crate) trait Source: Copy {
    const ZERO: Self;
    /// All lanes of one, where they are.
    type Fetched<'w>: Copy;
    /// The lanes of source operand `k`, and which were ever written.
    fn fetch<'w>(warp: &'w Warp<'_>, inst: &Inst, k: usize) -> (Self::Fetched<'w>, u32);
    fn lane(fetched: Self::Fetched<'_>, lane: usize) -> Self;
    fn store(warp: &mut Warp<'_>, slot: u16, mask: u32, valid: u32, out: [Self; 32]);
}

macro_rules! lane {
    ($($T:ty, $zero:expr, $reg:ident, $register:ident, $set:ident, $valid:ident, $Raw:ty,
       |$raw:ident| $from:expr, |$value:ident| $to:expr;)+) => {$(
        impl Lane for $T {
            const ZERO: $T = $zero;
            #[inline(always)]
            fn get(warp: &Warp<'_>, slot: u16) -> [$T; 32] {
                let lanes = warp.$reg(slot);
                let mut out = [$zero; 32];
                for lane in 0..32 {
                    let $raw = lanes.0[lane];
                    out[lane] = $from;
                }
                out
            }
            #[inline(always)]
            fn put(warp: &mut Warp<'_>, slot: u16, mask: u32, valid: u32, new: [$T; 32]) {
                let mut raw: [$Raw; 32] = [0; 32];
                for lane in 0..32 {
                    let $value = new[lane];
                    raw[lane] = $to;
                }
                warp.$set(slot, mask, valid, &raw);
            }
            #[inline(always)]
            fn valid(warp: &Warp<'_>, slot: u16) -> u32 {
                warp.$valid(slot)
            }
        }
        impl Source for $T {
            const ZERO: $T = $zero;
            type Fetched<'w> = &'w [$Raw; 32];
            #[inline(always)]
            fn fetch<'w>(warp: &'w Warp<'_>, inst: &Inst, k: usize) -> (&'w [$Raw; 32], u32) {
                let register = warp.$register(inst.s[k]);
                (&register.lanes.0, register.valid)
            }
            #[inline(always)]
            fn lane(fetched: &[$Raw; 32], lane: usize) -> $T {
                let $raw = fetched[lane];
                $from
            }
            #[inline(always)]
            fn store(warp: &mut Warp<'_>, slot: u16, mask: u32, valid: u32, out: [$T; 32]) {
                <$T as Lane>::put(warp, slot, mask, valid, out);
            }
        }
    )+};
}

lane! {
    u8, 0, r32, register32, set32, valid32, u32, |raw| raw as u8, |value| u32::from(value);
    i8, 0, r32, register32, set32, valid32, u32, |raw| raw as i8, |value| u32::from(value as u8);
    u16, 0, r32, register32, set32, valid32, u32, |raw| raw as u16, |value| u32::from(value);
    i16, 0, r32, register32, set32, valid32, u32, |raw| raw as i16, |value| u32::from(value as u16);
    u32, 0, r32, register32, set32, valid32, u32, |raw| raw, |value| value;
    i32, 0, r32, register32, set32, valid32, u32, |raw| raw as i32, |value| value as u32;
    f32, 0.0, r32, register32, set32, valid32, u32, |raw| f32::from_bits(raw), |value| value.to_bits();
    u64, 0, r64, register64, set64, valid64, u64, |raw| raw, |value| value;
    i64, 0, r64, register64, set64, valid64, u64, |raw| raw as i64, |value| value as u64;
    f64, 0.0, r64, register64, set64, valid64, u64, |raw| f64::from_bits(raw), |value| value.to_bits();
}

impl Source for bool {
    const ZERO: bool = false;
    type Fetched<'w> = u32;
    #[inline(always)]
    fn fetch(warp: &Warp<'_>, inst: &Inst, k: usize) -> (u32, u32) {
        (warp.pred(inst, k), warp.valid_pred(inst.s[k]))
    }
    #[inline(always)]
    fn lane(fetched: u32, lane: usize) -> bool {
        fetched >> lane & 1 != 0
    }
    #[inline(always)]
    fn store(warp: &mut Warp<'_>, slot: u16, mask: u32, valid: u32, out: [bool; 32]) {
        let mut bits = 0;
        for (lane, bit) in out.iter().enumerate() {
            bits |= u32::from(*bit) << lane;
        }
        warp.put_pred(slot, mask, valid, bits);
    }
}
