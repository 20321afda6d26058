//! What names stand for.

use std::collections::HashMap;

use super::{Bank, LoadError, Place};
use crate::ast::{Space, Type, Variable};

/// A special register whose value stays the same as long as a warp runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicShared,
    TotalShared,
}

/// A special register that has to be read anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changing {
    Clock,
    ClockHigh,
    Clock64,
    Timer,
    TimerLow,
    TimerHigh,
}

/// A name's meaning.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Symbol {
    /// A register of this type.
    Register(Type, u32),
    /// A variable at a fixed address of its space; `.param` ones of calls are local memory.
    Variable { space: Space, address: u64 },
    /// A parameter of the kernel, at this offset.
    Parameter { offset: u64 },
    /// A variable of a function that has frames, at this offset in them.
    Frame { offset: u32 },
    /// A register that is this many.
    Vector(u32),
    /// A function, by its address.
    Function(u64),
    /// A label.
    Label(u32),
    /// A list of labels or functions.
    Targets(Vec<String>),
    /// Return parameters and parameters of the functions that a call may mean.
    Prototype(Box<(Vec<Variable>, Vec<Variable>)>),
}

/// `name<count>` registers, the first of which has the number `first`.
struct Range {
    ty: Type,
    count: u32,
    first: u32,
}

/// The names of nested scopes, innermost last.
#[derive(Default)]
pub(super) struct Scopes {
    scopes: Vec<Scope>,
    registers: [u32; 3],
}

#[derive(Default)]
struct Scope {
    names: HashMap<String, Symbol>,
    ranges: HashMap<String, Range>,
    /// Nothing outside of this scope is visible (but for what is in the outermost one).
    function: bool,
}

impl Scopes {
    pub(super) fn open(&mut self, function: bool) {
        self.scopes.push(Scope {
            function,
            ..Scope::default()
        });
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    pub(super) fn define(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_string(), symbol);
        }
    }

    /// A register that no name stands for.
    pub(super) fn fresh(&mut self, bank: Bank) -> Place {
        let counter = &mut self.registers[bank as usize];
        *counter += 1;
        Place::Register(bank, *counter - 1)
    }

    /// How many registers of a bank were declared.
    pub(super) fn registers(&self, bank: Bank) -> u32 {
        self.registers[bank as usize]
    }

    pub(super) fn declare_register(&mut self, variable: &Variable) -> Result<(), LoadError> {
        let (ty, bank) = (variable.ty, Bank::of(variable.ty));
        let (Some(bank), 1, true) = (bank, variable.vector, variable.dims.is_empty()) else {
            return Err(LoadError::new(
                variable.line,
                &variable.name,
                "registers of this type are not supported",
            ));
        };
        let first = self.registers[bank as usize];
        let count = variable.count.unwrap_or(1);
        self.registers[bank as usize] = first
            .checked_add(count)
            .filter(|total| *total < 1 << 24)
            .ok_or_else(|| {
            LoadError::new(variable.line, &variable.name, "too many registers")
        })?;
        let Some(scope) = self.scopes.last_mut() else {
            return Ok(());
        };
        match variable.count {
            None => {
                scope
                    .names
                    .insert(variable.name.clone(), Symbol::Register(ty, first));
            }
            Some(count) => {
                scope
                    .ranges
                    .insert(variable.name.clone(), Range { ty, count, first });
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<Symbol> {
        let split = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, digits) = name.split_at(split);
        let canonical = digits == "0" || !digits.starts_with('0');
        let number = digits.parse::<u32>().ok().filter(|_| canonical);
        let mut hidden = false;
        for (depth, scope) in self.scopes.iter().enumerate().rev() {
            if hidden && depth != 0 {
                continue;
            }
            if let Some(symbol) = scope.names.get(name) {
                return Some(symbol.clone());
            }
            if let (Some(range), Some(number)) = (scope.ranges.get(prefix), number)
                && number < range.count
            {
                return Some(Symbol::Register(range.ty, range.first + number));
            }
            hidden |= scope.function;
        }
        None
    }
}

/// The special register of this name.
pub(super) fn special(name: &str) -> Option<Special> {
    let axis = |rest: &str| match rest {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    for (prefix, make) in [
        ("%tid", Special::Tid as fn(usize) -> Special),
        ("%ntid", Special::Ntid),
        ("%ctaid", Special::Ctaid),
        ("%nctaid", Special::Nctaid),
    ] {
        if let Some(axis) = name.strip_prefix(prefix).and_then(axis) {
            return Some(make(axis));
        }
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}

/// The changing special register of this name.
pub(super) fn changing(name: &str) -> Option<(Changing, Bank)> {
    Some(match name {
        "%clock" => (Changing::Clock, Bank::B32),
        "%clock_hi" => (Changing::ClockHigh, Bank::B32),
        "%clock64" => (Changing::Clock64, Bank::B64),
        "%globaltimer" => (Changing::Timer, Bank::B64),
        "%globaltimer_lo" => (Changing::TimerLow, Bank::B32),
        "%globaltimer_hi" => (Changing::TimerHigh, Bank::B32),
        _ => return None,
    })
}
