//! Registers to slots.
//!
//! A kernel declares thousands of registers, of which few are alive at a time. Those that are never
//! alive together share a slot, so that a warp's registers stay in the cache. Each lane runs the
//! program by itself as far as its registers go, so what holds for one thread holds for a warp. A
//! register that might be read before it is written keeps a slot of its own: then the slot is
//! uninitialised exactly if the register is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::{Bank, Draft, Place, Special};
use crate::isa::Inst;

/// The slot of a register that no instruction names.
const UNUSED: u32 = u32::MAX;

/// How the registers of a warp are laid out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// Slots per bank.
    pub slots: [u16; 3],
    /// Slots that hold special registers.
    pub specials: Vec<(Special, u16)>,
}

/// Slots of a function's own registers by bank, and that of its first 64-bit one.
pub(super) type Owned = ([Vec<u16>; 3], Option<u16>);

/// Gives every register a slot and completes the instructions. The registers in `owned` get slots
/// that nobody else has, which are returned.
pub(super) fn allocate(
    drafts: Vec<Draft>,
    counts: [u32; 3],
    tables: &[Vec<u32>],
    owned: &[[Range<u32>; 3]],
) -> Result<(Vec<Inst>, Layout, Vec<Owned>), &'static str> {
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
    let numbering = Numbering::new(counts);
    let (chosen, used) = share(&drafts, &numbering, tables, owned);
    let mut slots = [0; 3];
    for bank in 0..3 {
        let total = u16::try_from(first[bank] + used[bank]);
        slots[bank] = total.map_err(|_| "the kernel has too many registers alive at once")?;
    }
    let slot = |place: &Place| -> Result<u16, &'static str> {
        let slot = match place {
            Place::Register(bank, number) => {
                let slot = chosen
                    .get(numbering.id(*bank, *number))
                    .copied()
                    .filter(|slot| *slot != UNUSED)
                    .unwrap_or(0);
                first[*bank as usize] + slot
            }
            Place::Constant(bank, index) => u32::from(slots[*bank as usize]) + index,
            Place::Special(special) => {
                1 + specials.iter().position(|s| s == special).unwrap_or(0) as u32
            }
            Place::Sink(Bank::Pred) => 1,
            Place::Sink(_) | Place::True => 0,
        };
        u16::try_from(slot).map_err(|_| "the kernel has too many constants")
    };
    let mut functions = Vec::new();
    for ranges in owned {
        let mut slots: [Vec<u16>; 3] = Default::default();
        let mut frame = None;
        for (bank, range) in [Bank::B32, Bank::B64, Bank::Pred].into_iter().zip(ranges) {
            for number in range.clone() {
                if chosen.get(numbering.id(bank, number)) == Some(&UNUSED) {
                    continue;
                }
                let slot = slot(&Place::Register(bank, number))?;
                slots[bank as usize].push(slot);
                if bank == Bank::B64 && number == range.start {
                    frame = Some(slot);
                }
            }
        }
        functions.push((slots, frame));
    }
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
    Ok((insts, Layout { slots, specials }, functions))
}

/// All registers of all banks in one row.
struct Numbering {
    first: [usize; 4],
}

impl Numbering {
    fn new(counts: [u32; 3]) -> Numbering {
        let mut first = [0; 4];
        for bank in 0..3 {
            first[bank + 1] = first[bank] + counts[bank] as usize;
        }
        Numbering { first }
    }

    fn total(&self) -> usize {
        self.first[3]
    }

    fn id(&self, bank: Bank, number: u32) -> usize {
        self.first[bank as usize] + number as usize
    }

    fn of(&self, place: &Place) -> Option<usize> {
        match place {
            Place::Register(bank, number) => Some(self.id(*bank, *number)),
            _ => None,
        }
    }

    fn bank(&self, id: usize) -> usize {
        (0..3)
            .rev()
            .find(|bank| id >= self.first[*bank])
            .unwrap_or(0)
    }
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(size: usize) -> Set {
        Set(vec![0; size.div_ceil(64)])
    }

    fn insert(&mut self, id: usize) {
        self.0[id / 64] |= 1 << (id % 64);
    }

    fn contains(&self, id: usize) -> bool {
        self.0[id / 64] >> (id % 64) & 1 != 0
    }

    fn each(&self, mut f: impl FnMut(usize)) {
        for (index, word) in self.0.iter().enumerate() {
            let mut left = *word;
            while left != 0 {
                f(index * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

/// Instructions that run one after the other.
struct Stretch {
    start: usize,
    /// The last one.
    end: usize,
    next: Vec<usize>,
    /// Read before it is written here.
    used: Set,
    /// Written here for sure.
    defined: Set,
    alive: Set,
}

/// The registers that might be read before they are written.
pub(super) fn unwritten(
    drafts: &[Draft],
    counts: [u32; 3],
    tables: &[Vec<u32>],
) -> Vec<(Bank, u32)> {
    let numbering = Numbering::new(counts);
    let stretches = analyse(drafts, &numbering, tables);
    let mut found = Vec::new();
    if let Some(first) = stretches.first() {
        first.alive.each(|id| {
            let bank = [Bank::B32, Bank::B64, Bank::Pred][numbering.bank(id)];
            found.push((bank, (id - numbering.first[bank as usize]) as u32));
        });
    }
    found
}

/// The slot of each register, and how many slots each bank needs.
fn share(
    drafts: &[Draft],
    numbering: &Numbering,
    tables: &[Vec<u32>],
    owned: &[[Range<u32>; 3]],
) -> (Vec<u32>, [u32; 3]) {
    let stretches = analyse(drafts, numbering, tables);
    // From where to where a register is alive, in half steps: sources are read before
    // destinations are written.
    let mut spans = vec![(usize::MAX, 0); numbering.total()];
    let mut extend = |id: usize, at: usize| {
        let span: &mut (usize, usize) = &mut spans[id];
        *span = (span.0.min(at), span.1.max(at));
    };
    for stretch in &stretches {
        stretch.alive.each(|id| extend(id, 2 * stretch.start));
        for next in &stretch.next {
            stretches[*next]
                .alive
                .each(|id| extend(id, 2 * stretch.end + 1));
        }
    }
    for (pc, draft) in drafts.iter().enumerate() {
        for id in draft
            .s
            .iter()
            .chain([&draft.guard])
            .filter_map(|place| numbering.of(place))
        {
            extend(id, 2 * pc);
        }
        for id in draft.d.iter().filter_map(|place| numbering.of(place)) {
            extend(id, 2 * pc + 1);
        }
    }
    let mut order: Vec<usize> = (0..spans.len())
        .filter(|id| spans[*id].0 != usize::MAX)
        .collect();
    order.sort_unstable_by_key(|id| spans[*id]);
    let mut kept = vec![false; spans.len()];
    for ranges in owned {
        for (bank, range) in [Bank::B32, Bank::B64, Bank::Pred].into_iter().zip(ranges) {
            for number in range.clone() {
                kept[numbering.id(bank, number)] = true;
            }
        }
    }
    let mut chosen = vec![UNUSED; spans.len()];
    let mut used = [0; 3];
    let mut busy: [BinaryHeap<Reverse<(usize, u32)>>; 3] = Default::default();
    for id in order {
        let bank = numbering.bank(id);
        let (start, end) = spans[id];
        let first = stretches.first();
        let own = kept[id] || first.is_some_and(|stretch| stretch.alive.contains(id));
        let free = match busy[bank].peek() {
            Some(Reverse((end, slot))) if *end < start && !own => Some(*slot),
            _ => None,
        };
        let slot = match free {
            Some(slot) => {
                busy[bank].pop();
                slot
            }
            None => {
                used[bank] += 1;
                used[bank] - 1
            }
        };
        chosen[id] = slot;
        if !own {
            busy[bank].push(Reverse((end, slot)));
        }
    }
    (chosen, used)
}

/// Finds which registers are alive at the start of each stretch.
fn analyse(drafts: &[Draft], numbering: &Numbering, tables: &[Vec<u32>]) -> Vec<Stretch> {
    let targets = |draft: &Draft| -> Vec<usize> {
        match draft.about.row.opcode {
            "bra" => vec![draft.inst.target as usize],
            "brx idx" => {
                let table = tables.get(draft.inst.aux as usize);
                table.map_or(Vec::new(), |table| {
                    table.iter().map(|target| *target as usize).collect()
                })
            }
            _ => Vec::new(),
        }
    };
    let ends = |draft: &Draft| {
        matches!(
            draft.about.row.opcode,
            "bra" | "brx idx" | "exit" | "ret" | " return"
        )
    };
    let mut leaders = vec![false; drafts.len() + 1];
    leaders[0] = true;
    for (pc, draft) in drafts.iter().enumerate() {
        if ends(draft) {
            leaders[pc + 1] = true;
            for target in targets(draft) {
                leaders[target.min(drafts.len())] = true;
            }
        }
    }
    let starts: Vec<usize> = (0..drafts.len()).filter(|pc| leaders[*pc]).collect();
    let index = |pc: usize| starts.binary_search(&pc).ok();
    let mut stretches = Vec::with_capacity(starts.len());
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).map_or(drafts.len(), |next| *next) - 1;
        let mut used = Set::new(numbering.total());
        let mut defined = Set::new(numbering.total());
        for draft in &drafts[*start..=end] {
            for id in draft
                .s
                .iter()
                .chain([&draft.guard])
                .filter_map(|place| numbering.of(place))
            {
                if !defined.contains(id) {
                    used.insert(id);
                }
            }
            for id in draft.d.iter().filter_map(|place| numbering.of(place)) {
                if draft.guard == Place::True {
                    defined.insert(id);
                } else if !defined.contains(id) {
                    // What is written only perhaps keeps what it had.
                    used.insert(id);
                }
            }
        }
        let last = &drafts[end];
        let mut next: Vec<usize> = targets(last).into_iter().filter_map(index).collect();
        if !ends(last) || last.guard != Place::True {
            next.extend(index(end + 1));
        }
        let alive = used.clone();
        stretches.push(Stretch {
            start: *start,
            end,
            next,
            used,
            defined,
            alive,
        });
    }
    let mut changed = true;
    while changed {
        changed = false;
        for at in (0..stretches.len()).rev() {
            let mut alive = stretches[at].used.clone();
            for next in &stretches[at].next {
                let words = alive
                    .0
                    .iter_mut()
                    .zip(&stretches[*next].alive.0)
                    .zip(&stretches[at].defined.0);
                for ((alive, after), defined) in words {
                    *alive |= after & !defined;
                }
            }
            if alive != stretches[at].alive {
                stretches[at].alive = alive;
                changed = true;
            }
        }
    }
    stretches
}
