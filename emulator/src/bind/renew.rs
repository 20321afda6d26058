//! Registers of functions that are expanded where they are called: new in every call, as those of a
//! function are that has a place of its own.
//!
//! It makes a difference only to registers that might be read before they are written. They get an
//! instruction at the function's entry that makes them uninitialised; hardly any function needs one.

use std::ops::Range;

use super::allocate::unwritten;
use super::body::{Binder, blank};
use super::{About, Bank, Draft, LoadError, Place};
use crate::ast::Type;
use crate::isa;

/// A function that was expanded.
pub(super) struct Expansion {
    /// Position of its first instruction.
    at: usize,
    /// Labels there were before its own.
    labels: usize,
    /// Its registers' numbers, by bank.
    registers: [Range<u32>; 3],
}

const BANKS: [Bank; 3] = [Bank::B32, Bank::B64, Bank::Pred];

impl Binder<'_> {
    /// A function is expanded from here on.
    pub(super) fn begin_expansion(&self) -> Expansion {
        Expansion {
            at: self.drafts.len(),
            labels: self.labels.len(),
            registers: BANKS.map(|bank| self.scopes.registers(bank)..0),
        }
    }

    /// That was all of it.
    pub(super) fn end_expansion(&mut self, mut expansion: Expansion) {
        for (range, bank) in expansion.registers.iter_mut().zip(BANKS) {
            range.end = self.scopes.registers(bank);
        }
        if expansion.registers.iter().any(|range| !range.is_empty()) {
            self.expansions.push(expansion);
        }
    }

    /// Gives branches the positions of their labels.
    pub(super) fn resolve(&mut self) -> Result<(), LoadError> {
        self.tables.clear();
        let at = |label: u32| self.labels.get(label as usize).copied().flatten();
        for draft in &mut self.drafts {
            let lost = || LoadError::new(draft.about.line, "", "the label has no place");
            if let Some(label) = draft.label {
                draft.inst.target = at(label).ok_or_else(lost)?;
            }
            if !draft.labels.is_empty() {
                let table = draft.labels.iter().map(|label| at(*label).ok_or_else(lost));
                draft.inst.aux = self.tables.len() as u64;
                self.tables.push(table.collect::<Result<_, _>>()?);
            }
        }
        Ok(())
    }

    /// Puts in what makes registers new, and resolves branches again if that was anything.
    pub(super) fn renew(&mut self) -> Result<(), LoadError> {
        if self.expansions.is_empty() {
            return Ok(());
        }
        let counts = BANKS.map(|bank| self.scopes.registers(bank));
        let unwritten = unwritten(&self.drafts, counts, &self.tables);
        let mut entries = Vec::new();
        for expansion in std::mem::take(&mut self.expansions) {
            let own = |(bank, number): &&(Bank, u32)| {
                expansion.registers[*bank as usize].contains(number)
            };
            let new: Vec<_> = unwritten.iter().filter(own).copied().collect();
            if !new.is_empty() {
                entries.push((expansion, new));
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        entries.sort_by_key(|(expansion, _)| (expansion.at, expansion.labels));
        let before = |label: usize, at: usize| {
            let counts = entries
                .iter()
                .filter(|(entry, _)| entry.at < at || entry.at == at && entry.labels <= label);
            counts.map(|(_, new)| new.len().div_ceil(8)).sum::<usize>()
        };
        for (label, place) in self.labels.iter_mut().enumerate() {
            if let Some(place) = place {
                *place += before(label, *place as usize) as u32;
            }
        }
        let mut entries = entries.into_iter().peekable();
        let old = std::mem::take(&mut self.drafts);
        for (at, draft) in old.into_iter().enumerate() {
            while let Some((_, new)) = entries.next_if(|(entry, _)| entry.at == at) {
                self.drafts
                    .extend(new.chunks(8).map(|new| fresh(new, &draft.about)));
            }
            self.drafts.push(draft);
        }
        self.resolve()
    }
}

/// The instruction that makes registers new, where `about` is.
fn fresh(registers: &[(Bank, u32)], about: &About) -> Draft {
    let mut inst = blank();
    // Two bits for the bank of each.
    inst.aux = (0..)
        .zip(registers)
        .fold(0, |aux, (at, (bank, _))| aux | (*bank as u64) << (2 * at));
    inst.exec = isa::call::fresh();
    inst.nd = registers.len() as u8;
    Draft {
        inst,
        guard: Place::True,
        d: registers
            .iter()
            .map(|(bank, number)| Place::Register(*bank, *number))
            .collect(),
        s: Vec::new(),
        label: None,
        labels: Vec::new(),
        about: About {
            row: &isa::call::FRESH,
            ty: Type::Pred,
            ..*about
        },
    }
}
