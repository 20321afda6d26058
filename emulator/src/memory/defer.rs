//! Relaxed loads that take effect later than they stand: what makes load buffering visible.
//!
//! A relaxed load is only ordered with what depends on it, with accesses to the same bytes, and with
//! fences and barriers. So the seed may put one off until then; meanwhile other threads run.

use super::access::{Addresses, lanes_of};
use crate::isa::{Class, Flow, Inst};
use crate::warp::Warp;

/// Loads put off by a warp at once.
const MOST: usize = 4;
/// Instructions after which a load takes effect at the latest.
const PATIENCE: u64 = 64;

/// A load that has not taken effect.
#[derive(Clone)]
struct Load {
    pc: u32,
    lanes: u32,
    addresses: Addresses,
    /// When it takes effect at the latest.
    until: u64,
}

/// The loads that a warp has put off.
#[derive(Clone, Default)]
pub(crate) struct Deferred {
    loads: Vec<Load>,
    /// Addresses of the load that takes effect now.
    pub settling: Option<Box<Addresses>>,
}

impl Deferred {
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        !self.loads.is_empty()
    }

    pub(crate) fn reset(&mut self) {
        self.loads.clear();
        self.settling = None;
    }
}

/// What to do before an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Run it.
    Go,
    /// Let others run first.
    Wait,
    /// A load has failed; see `warp.fault`.
    Fault,
}

impl Warp<'_> {
    /// Puts off the present load, if the seed says so.
    pub(crate) fn defer(&mut self, addresses: &Addresses, lanes: u32) -> bool {
        let full = self.deferred.loads.len() == MOST;
        if !self.domain.reorders || full || self.random.below(3) != 0 {
            return false;
        }
        let until = self.clock + self.random.below(PATIENCE);
        self.deferred.loads.push(Load {
            pc: self.pc,
            lanes,
            addresses: *addresses,
            until,
        });
        true
    }

    /// Lets those loads take effect that the instruction at the present position has to see.
    #[cold]
    pub(crate) fn settle(&mut self, inst: &Inst, lanes: u32) -> Before {
        let pc = self.pc;
        let launch = self.launch;
        let insts = &launch.program.insts;
        for at in (0..self.deferred.loads.len()).rev() {
            let load = &self.deferred.loads[at];
            let Some(loading) = insts.get(load.pc as usize) else {
                continue;
            };
            let late = load.until <= self.clock;
            let used = touches(inst, loading);
            if !late && !used && !self.must_settle(inst, &load.addresses, load.lanes, lanes) {
                continue;
            }
            if used && !late && self.random.below(2) == 0 {
                self.deferred.loads[at].until = 0;
                return Before::Wait;
            }
            let load = self.deferred.loads.remove(at);
            self.pc = load.pc;
            self.deferred.settling = Some(Box::new(load.addresses));
            let flow = (loading.exec)(self, loading, load.lanes);
            if flow == Flow::Fault {
                return Before::Fault;
            }
            self.pc = pc;
        }
        Before::Go
    }

    /// Whether a load has to take effect before this instruction, though it does not use its result.
    fn must_settle(&self, inst: &Inst, addresses: &Addresses, loading: u32, lanes: u32) -> bool {
        let Some(about) = self.launch.program.about.get(self.pc as usize) else {
            return true;
        };
        match (about.row.class, about.row.opcode) {
            (Class::Control, opcode) => !opcode.starts_with("bra"),
            (Class::Sync | Class::Atomic | Class::Async | Class::Warp, _) => true,
            (Class::Memory | Class::Shared, "ld" | "st") => {
                let ordered = crate::isa::memory::orders(inst);
                let other =
                    self.addresses(inst, 0, 0, crate::isa::memory::wide_address(inst), lanes);
                let near = |lane: usize, other: &Addresses| {
                    other.at[lane].abs_diff(addresses.at[lane]) < 16
                };
                ordered
                    || other.is_err()
                    || other
                        .is_ok_and(|other| lanes_of(loading & lanes).any(|lane| near(lane, &other)))
            }
            (Class::Memory | Class::Shared, _) => true,
            _ => false,
        }
    }
}

/// Whether an instruction reads or writes what a load writes. Registers of different banks may share
/// a number, in which case the load takes effect earlier than it had to.
fn touches(inst: &Inst, load: &Inst) -> bool {
    let written = &load.d[..usize::from(load.nd)];
    let used = inst.s[..usize::from(inst.ns)].iter();
    let mut all = used.chain(&inst.d[..usize::from(inst.nd)]);
    all.any(|slot| written.contains(slot))
}
