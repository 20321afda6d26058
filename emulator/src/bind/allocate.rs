//! Registers to slots.

use super::{Bank, Draft, Place, Special};
use crate::isa::Inst;

/// How the registers of a warp are laid out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// Slots per bank.
    pub slots: [u16; 3],
    /// Slots that hold special registers.
    pub specials: Vec<(Special, u16)>,
}

/// Gives every register a slot and completes the instructions.
pub(super) fn allocate(
    drafts: Vec<Draft>,
    counts: [u32; 3],
    _tables: &[Vec<u32>],
) -> Result<(Vec<Inst>, Layout), &'static str> {
    let mut specials: Vec<Special> = Vec::new();
    for place in drafts.iter().flat_map(|draft| &draft.s) {
        if let Place::Special(special) = place
            && !specials.contains(special)
        {
            specials.push(*special);
        }
    }
    // 32-bit: what is thrown away, special registers, registers; 64-bit: what is thrown away,
    // registers; predicates: true, what is thrown away, registers. Constants lie behind all.
    let first = [1 + specials.len() as u32, 1, 2];
    let mut slots = [0; 3];
    for bank in 0..3 {
        slots[bank] = u16::try_from(first[bank] + counts[bank])
            .map_err(|_| "the kernel has too many registers")?;
    }
    let slot = |place: &Place| -> Result<u16, &'static str> {
        let slot = match place {
            Place::Register(bank, number) => first[*bank as usize] + number,
            Place::Constant(bank, index) => u32::from(slots[*bank as usize]) + index,
            Place::Special(special) => {
                1 + specials.iter().position(|s| s == special).unwrap_or(0) as u32
            }
            Place::Sink(Bank::Pred) => 1,
            Place::Sink(_) | Place::True => 0,
        };
        u16::try_from(slot).map_err(|_| "the kernel has too many constants")
    };
    let mut insts = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let mut inst = draft.inst;
        inst.guard = slot(&draft.guard)?;
        for (to, place) in inst.d.iter_mut().zip(&draft.d) {
            *to = slot(place)?;
        }
        for (to, place) in inst.s.iter_mut().zip(&draft.s) {
            *to = slot(place)?;
        }
        insts.push(inst);
    }
    let specials = specials.into_iter().zip(1..).collect();
    Ok((insts, Layout { slots, specials }))
}
