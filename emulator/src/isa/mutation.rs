//! Rows that are wrong on purpose: whether the tests notice says what the tests are worth.
//!
//! Compiled with `--cfg ptx_mutation` only. `PTX_EMULATOR_MUTANT` picks one of [`all`] by its number;
//! the row then reads a modifier or a type as another one, or does something else than it should. One
//! build serves all mutants. `PTX_EMULATOR_SEEN` names a file that gets a line for each row and test
//! that binds it, `PTX_EMULATOR_BENT` one that is made once an instruction is another one than it should be.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::{Arg, ExecFn, FAMILIES, Flow, Form, Inst, Mod, Row, Ty};
use crate::ast::Type;
use crate::warp::Warp;

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A flag is read as missing if it is written, and the other way around.
    Flag(usize),
    /// Of a group of modifiers, this one is read instead of what is written.
    Token(usize, &'static str),
    /// The type of this position in the row is read as this one.
    Type(usize, Type),
    /// It does nothing.
    Skip,
    /// The first lane is left out.
    LoseLane,
    /// The last bit of the first or the last destination is flipped.
    Flip {
        /// The last one.
        last: bool,
    },
    /// A source is taken for the one behind it, and the other way around.
    Swap(usize),
    /// The address is this far off.
    Offset(i64),
}

/// A row with one thing wrong.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    row: &'static Row,
    /// Number of its row.
    pub number: usize,
    /// What is wrong.
    pub change: Change,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row.opcode)?;
        for modifier in self.row.mods {
            match modifier {
                Mod::Need(token) => write!(f, ".{token}")?,
                Mod::One(group, _) => write!(f, ".<{group}>")?,
                Mod::Types(types) => write!(f, ".{}..", types[0].token())?,
                Mod::Flag(_) | Mod::Maybe(..) => {}
            }
        }
        match self.change {
            Change::Flag(at) => match self.row.mods[at] {
                Mod::Flag(token) => write!(f, ": flag {token}"),
                _ => Ok(()),
            },
            Change::Token(at, token) => match self.row.mods[at] {
                Mod::Maybe(group, _) | Mod::One(group, _) => write!(f, ": {group} as {token}"),
                _ => Ok(()),
            },
            Change::Type(nth, ty) => write!(f, ": type {nth} as {}", ty.token()),
            Change::Skip => f.write_str(": skipped"),
            Change::LoseLane => f.write_str(": a lane left out"),
            Change::Flip { last } => write!(
                f,
                ": {} result flipped",
                if last { "last" } else { "first" }
            ),
            Change::Swap(at) => write!(f, ": sources {at} and {} swapped", at + 1),
            Change::Offset(by) => write!(f, ": address {by} off"),
        }
    }
}

/// Every mutant; they are known by their position.
pub fn all() -> Vec<Mutant> {
    let mut all = Vec::new();
    for (number, row) in FAMILIES.iter().copied().flatten().enumerate() {
        let mut add = |change| {
            all.push(Mutant {
                row,
                number,
                change,
            })
        };
        let mut nth = 0;
        for (at, modifier) in row.mods.iter().enumerate() {
            match modifier {
                Mod::Need(_) => {}
                Mod::Flag(_) => add(Change::Flag(at)),
                Mod::Maybe(_, tokens) | Mod::One(_, tokens) => {
                    tokens
                        .iter()
                        .for_each(|token| add(Change::Token(at, token)));
                }
                Mod::Types(types) => {
                    types.iter().for_each(|ty| add(Change::Type(nth, *ty)));
                    nth += 1;
                }
            }
        }
        add(Change::Skip);
        add(Change::LoseLane);
        let kinds: Vec<&Arg> = row
            .args
            .iter()
            .map(|arg| if let Arg::Opt(arg) = arg { arg } else { arg })
            .collect();
        let destinations = kinds
            .iter()
            .filter(|arg| matches!(arg, Arg::D(_) | Arg::DW(_)));
        let many = kinds
            .iter()
            .any(|arg| matches!(arg, Arg::Pair(..) | Arg::DV(..)));
        if many || destinations.clone().count() > 0 {
            add(Change::Flip { last: false });
        }
        if many || destinations.count() > 1 {
            add(Change::Flip { last: true });
        }
        let sources: Vec<Ty> = kinds
            .iter()
            .filter_map(|arg| match arg {
                Arg::S(ty) | Arg::SW(ty) => Some(*ty),
                _ => None,
            })
            .collect();
        for at in 1..sources.len() {
            if format!("{:?}", sources[at - 1]) == format!("{:?}", sources[at])
                && kinds.iter().all(|arg| !matches!(arg, Arg::A | Arg::SV(..)))
            {
                add(Change::Swap(at - 1));
            }
        }
        if kinds.iter().any(|arg| matches!(arg, Arg::A)) {
            add(Change::Offset(16));
        }
    }
    all
}

static ACTIVE: LazyLock<Option<Mutant>> = LazyLock::new(|| {
    let number: usize = std::env::var("PTX_EMULATOR_MUTANT").ok()?.parse().ok()?;
    all().get(number).copied()
});

/// Whether a row is the one that is wrong, or none is.
#[cfg(test)]
pub(crate) fn concerns(row: &'static Row) -> bool {
    // By what it says: a family that is named elsewhere than in the table may be a copy of it.
    let text = |row: &Row| format!("{} {:?} {:?}", row.opcode, row.mods, row.args);
    ACTIVE.is_none_or(|mutant| text(mutant.row) == text(row))
}

/// Notes which test binds which row.
fn saw(row: &'static Row) {
    static SEEN: Mutex<Option<HashSet<(usize, String)>>> = Mutex::new(None);
    let Ok(path) = std::env::var("PTX_EMULATOR_SEEN") else {
        return;
    };
    let number = FAMILIES
        .iter()
        .copied()
        .flatten()
        .position(|other| std::ptr::eq(other, row));
    let test = std::thread::current().name().unwrap_or("?").to_string();
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(number) = number else { return };
    if seen.get_or_insert_default().insert((number, test.clone())) {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        file.and_then(|mut file| writeln!(file, "{number} {test}"))
            .expect("the file can be written");
    }
}

/// What [`Row::exec`] picks, for the form as the mutant reads it.
pub(crate) fn pick(form: &mut Form<'_>) -> Option<ExecFn> {
    saw(form.row);
    let right = (form.row.exec)(form);
    let Some(mutant) = ACTIVE.filter(|mutant| std::ptr::eq(mutant.row, form.row)) else {
        return right;
    };
    let mut other = Form {
        types: form.types.clone(),
        chosen: form.chosen.clone(),
        aux: 0,
        ..*form
    };
    match mutant.change {
        Change::Flag(at) => {
            let Mod::Flag(token) = form.row.mods[at] else {
                return right;
            };
            other.chosen[at] = if other.chosen[at].is_some() {
                None
            } else {
                Some(token)
            };
        }
        Change::Token(at, token) => other.chosen[at] = Some(token),
        Change::Type(nth, ty) => {
            if other.types[nth].bits() != ty.bits() {
                return right;
            }
            other.types[nth] = ty;
        }
        _ => return right,
    }
    let same = other.types == form.types && other.chosen == form.chosen;
    let Some(wrong) = (form.row.exec)(&mut other).filter(|_| !same) else {
        return right;
    };
    if right.is_some_and(|right| std::ptr::fn_addr_eq(right, wrong)) && other.aux == form.aux {
        return right;
    }
    bent();
    form.aux = other.aux;
    Some(wrong)
}

/// Notes that the mutant has an effect.
fn bent() {
    if let Ok(path) = std::env::var("PTX_EMULATOR_BENT") {
        std::fs::write(path, "").expect("the file can be written");
    }
}

/// Puts the mutant in the way of an instruction. `bits` are the widths of its destinations.
pub(crate) fn bend(inst: &mut Inst, row: &'static Row, bits: &[u32]) {
    let width = |at: Option<&u32>| at.copied().unwrap_or(0);
    inst.right = (Some(inst.exec), [width(bits.first()), width(bits.last())]);
    let Some(mutant) = ACTIVE.filter(|mutant| std::ptr::eq(mutant.row, row)) else {
        return;
    };
    if matches!(
        mutant.change,
        Change::Skip | Change::LoseLane | Change::Flip { .. } | Change::Swap(_) | Change::Offset(_)
    ) {
        bent();
        inst.exec = wrong;
    }
}

fn wrong(w: &mut Warp<'_>, inst: &Inst, mask: u32) -> Flow {
    let (Some(right), Some(mutant)) = (inst.right.0, *ACTIVE) else {
        return Flow::Next;
    };
    match mutant.change {
        Change::Skip => Flow::Next,
        Change::LoseLane => match mask & mask.wrapping_sub(1) {
            0 => Flow::Next,
            rest => right(w, inst, rest),
        },
        Change::Flip { last } => {
            let flow = right(w, inst, mask);
            let at = if last {
                usize::from(inst.nd.max(1)) - 1
            } else {
                0
            };
            let (slot, width) = (usize::from(inst.d[at]), inst.right.1[usize::from(last)]);
            match width {
                0 => {}
                1 => {
                    if let Some(bits) = w.regs.p.get_mut(slot).filter(|_| slot > 1) {
                        *bits ^= mask;
                    }
                }
                64 => {
                    if let Some(register) = w.regs.r64.get_mut(slot) {
                        (0..32)
                            .filter(|lane| mask >> lane & 1 != 0)
                            .for_each(|lane| register.lanes.0[lane] ^= 1);
                    }
                }
                _ => {
                    if let Some(register) = w.regs.r32.get_mut(slot) {
                        (0..32)
                            .filter(|lane| mask >> lane & 1 != 0)
                            .for_each(|lane| register.lanes.0[lane] ^= 1);
                    }
                }
            }
            flow
        }
        Change::Swap(at) => {
            let mut other = inst.clone();
            other.s.swap(at, at + 1);
            right(w, &other, mask)
        }
        Change::Offset(by) => {
            let mut other = inst.clone();
            other.imm[0] += by;
            right(w, &other, mask)
        }
        _ => right(w, inst, mask),
    }
}
