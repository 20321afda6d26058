//! Operands: from what is written to a place.

use super::body::{Binder, plain};
use super::scope::{Symbol, changing, special};
use super::{Bank, LoadError, Place};
use crate::ast::{Instruction, Operand, Space, Type};
use crate::isa::matching::{Match, count};
use crate::isa::{Arg, Ty};

/// What an instruction's operands come to.
#[derive(Default)]
pub(super) struct Resolved {
    pub d: Vec<Place>,
    pub s: Vec<Place>,
    pub imm: Vec<i64>,
    pub dst_bits: Vec<u32>,
    pub src_bits: Vec<u32>,
    pub negated: u16,
    pub label: Option<u32>,
    /// Space of the variable that an address starts from.
    pub base: Option<Space>,
}

/// The type that an operand has in a form.
fn type_of(ty: Ty, found: &Match) -> Type {
    let nth = |n: u8| {
        found
            .types
            .get(usize::from(n))
            .copied()
            .unwrap_or(Type::B32)
    };
    match ty {
        Ty::Is(ty) => ty,
        Ty::T(n) => nth(n),
        Ty::Wide(n) => match nth(n) {
            Type::U16 => Type::U32,
            Type::S16 => Type::S32,
            Type::U32 => Type::U64,
            Type::S32 => Type::S64,
            other => other,
        },
    }
}

impl Binder<'_> {
    pub(super) fn operands(
        &mut self,
        inst: &Instruction,
        found: &Match,
    ) -> Result<Resolved, LoadError> {
        let mut out = Resolved::default();
        for (arg, operand) in found.row.args.iter().zip(&inst.operands) {
            let arg = if let Arg::Opt(inner) = arg {
                inner
            } else {
                arg
            };
            self.operand(*arg, operand, found, inst.line, &mut out)?;
        }
        if out.d.len() > 8 || out.s.len() > 12 || out.imm.len() > 3 {
            return Err(LoadError::new(
                inst.line,
                &inst.opcode.join("."),
                "too many operands",
            ));
        }
        Ok(out)
    }

    fn operand(
        &mut self,
        arg: Arg,
        operand: &Operand,
        found: &Match,
        line: u32,
        out: &mut Resolved,
    ) -> Result<(), LoadError> {
        match arg {
            Arg::D(ty) => self.destination(operand, type_of(ty, found), false, line, out),
            Arg::DW(ty) => self.destination(operand, type_of(ty, found), true, line, out),
            Arg::Pair(first, second) => {
                let (a, b) = match operand {
                    Operand::Pair(a, b) => (&**a, &**b),
                    single => (single, &Operand::Sink),
                };
                self.destination(a, type_of(first, found), false, line, out)?;
                self.destination(b, type_of(second, found), false, line, out)
            }
            Arg::DV(ty, n) => {
                let items = match operand {
                    Operand::Vector(items) => items.as_slice(),
                    single => std::slice::from_ref(single),
                };
                debug_assert!(count(found, n).is_none_or(|n| n == items.len()));
                items.iter().try_for_each(|item| {
                    self.destination(item, type_of(ty, found), true, line, out)
                })
            }
            Arg::S(ty) => self.source(operand, type_of(ty, found), false, line, out),
            Arg::SW(ty) => self.source(operand, type_of(ty, found), true, line, out),
            Arg::SV(ty, _) => {
                let items = match operand {
                    Operand::Vector(items) => items.as_slice(),
                    single => std::slice::from_ref(single),
                };
                items
                    .iter()
                    .try_for_each(|item| self.source(item, type_of(ty, found), true, line, out))
            }
            Arg::A => self.address(operand, line, out),
            Arg::I => {
                if let Operand::Int(value) = operand {
                    out.imm.push(narrow(*value, line)?);
                }
                Ok(())
            }
            Arg::Label => {
                let Operand::Name { name, .. } = operand else {
                    return Ok(());
                };
                match self.scopes.find(name) {
                    Some(Symbol::Label(label)) => out.label = Some(label),
                    _ => return Err(LoadError::new(line, name, "no such label")),
                }
                Ok(())
            }
            Arg::Opt(_) => Ok(()),
        }
    }

    fn destination(
        &mut self,
        operand: &Operand,
        ty: Type,
        wider: bool,
        line: u32,
        out: &mut Resolved,
    ) -> Result<(), LoadError> {
        let bank = Bank::of(ty).ok_or_else(|| {
            LoadError::new(line, ty.token(), "operands of this type are not supported")
        })?;
        let (place, bits) = match operand {
            Operand::Name { name, .. } => match self.scopes.find(name) {
                Some(Symbol::Register(declared, number)) => (
                    self.register(name, declared, number, ty, wider, line)?,
                    declared.bits(),
                ),
                Some(_) => {
                    return Err(LoadError::new(
                        line,
                        name,
                        "not a register, so it cannot be written",
                    ));
                }
                None => return Err(self.unknown(name, line)),
            },
            _ => (Place::Sink(bank), ty.bits()),
        };
        out.d.push(place);
        out.dst_bits.push(bits);
        Ok(())
    }

    /// A register used as `ty`, if its width allows that.
    fn register(
        &self,
        name: &str,
        declared: Type,
        number: u32,
        ty: Type,
        wider: bool,
        line: u32,
    ) -> Result<Place, LoadError> {
        let (have, want) = (declared.bits(), ty.bits());
        let fits = have == want || wider && have > want && want > 1;
        match Bank::of(declared) {
            Some(bank) if fits => Ok(Place::Register(bank, number)),
            _ => Err(LoadError::new(
                line,
                name,
                format!(
                    "a .{} register where .{} is needed",
                    declared.token(),
                    ty.token()
                ),
            )),
        }
    }

    fn unknown(&self, name: &str, line: u32) -> LoadError {
        let message = if name.starts_with('%') {
            "unknown register"
        } else {
            "unknown name"
        };
        LoadError::new(line, name, message)
    }

    fn source(
        &mut self,
        operand: &Operand,
        ty: Type,
        wider: bool,
        line: u32,
        out: &mut Resolved,
    ) -> Result<(), LoadError> {
        let mut bits = ty.bits();
        let place = match operand {
            Operand::Name { name, negated } => {
                if *negated {
                    if ty != Type::Pred {
                        return Err(LoadError::new(line, name, "only predicates can be negated"));
                    }
                    out.negated |= 1 << out.s.len();
                }
                if let Some(Symbol::Register(declared, _)) = self.scopes.find(name) {
                    bits = declared.bits();
                }
                self.named_source(name, 0, ty, wider, line)?
            }
            Operand::NamePlus { name, offset } => {
                self.named_source(name, *offset, ty, wider, line)?
            }
            // `mov.pred p, -1;`: any number but zero is true.
            Operand::Int(value) if ty == Type::Pred => {
                if *value == 0 {
                    out.negated |= 1 << out.s.len();
                }
                Place::True
            }
            Operand::Int(value) => {
                if matches!(ty, Type::F32 | Type::F64) {
                    let message = format!("an integer where .{} is needed", ty.token());
                    return Err(LoadError::new(line, &value.to_string(), message));
                }
                if i128::from(i64::MIN) > *value || i128::from(u64::MAX) < *value {
                    return Err(LoadError::new(
                        line,
                        &value.to_string(),
                        "the number is too big",
                    ));
                }
                self.constant(ty, *value as u64, line)?
            }
            Operand::Float { value, bits32 } => {
                let raw = match ty {
                    Type::F64 | Type::B64 => value.to_bits(),
                    Type::F32 | Type::B32 | Type::TF32 => {
                        u64::from(bits32.unwrap_or_else(|| (*value as f32).to_bits()))
                    }
                    _ => {
                        let message =
                            format!("a floating-point number where .{} is needed", ty.token());
                        return Err(LoadError::new(line, &value.to_string(), message));
                    }
                };
                self.constant(ty, raw, line)?
            }
            _ => return Err(LoadError::new(line, "", "not a source operand")),
        };
        out.s.push(place);
        out.src_bits.push(bits);
        Ok(())
    }

    fn named_source(
        &mut self,
        name: &str,
        offset: i64,
        ty: Type,
        wider: bool,
        line: u32,
    ) -> Result<Place, LoadError> {
        if let Some(special) = special(name) {
            return match Bank::of(ty) {
                Some(Bank::B32) => Ok(Place::Special(special)),
                // The one that has 64 bits, of which 32 may be read too.
                Some(Bank::B64) if name == "%gridid" => self.widened(name, line),
                _ => Err(LoadError::new(
                    line,
                    name,
                    format!("a .u32 register where .{} is needed", ty.token()),
                )),
            };
        }
        if let Some((changing, bank)) = changing(name) {
            return match Bank::of(ty) {
                Some(wanted) if wanted == bank => Ok(self.read_changing(changing, bank, line)),
                _ => Err(LoadError::new(
                    line,
                    name,
                    format!("does not fit where .{} is needed", ty.token()),
                )),
            };
        }
        if name == "WARP_SZ" {
            return self.constant(ty, 32, line);
        }
        match self.scopes.find(name) {
            Some(Symbol::Register(declared, number)) if offset == 0 => {
                self.register(name, declared, number, ty, wider, line)
            }
            Some(Symbol::Variable { address, .. }) => {
                self.constant(ty, address.wrapping_add_signed(offset), line)
            }
            Some(Symbol::Parameter { offset: at }) => {
                self.constant(ty, at.wrapping_add_signed(offset), line)
            }
            Some(Symbol::Frame { offset: at }) => {
                self.frame_address(i64::from(at).wrapping_add(offset), ty, line)
            }
            Some(Symbol::Function(address)) if offset == 0 && ty.bits() == 64 => {
                self.constant(ty, address, line)
            }
            Some(_) => Err(LoadError::new(line, name, "its address cannot be taken")),
            None => Err(self.unknown(name, line)),
        }
    }

    /// A special register in one of 64 bits.
    fn widened(&mut self, special: &str, line: u32) -> Result<Place, LoadError> {
        let (wide, place) = (" wide", self.scopes.fresh(Bank::B64));
        if let Place::Register(_, number) = place {
            let symbol = Symbol::Register(Type::U64, number);
            self.scopes.define(wide, symbol);
        }
        let named = |name: &str| Operand::Name {
            name: name.to_string(),
            negated: false,
        };
        let operands = vec![named(wide), named(special)];
        self.instruction(&plain(&["cvt", "u64", "u32"], operands, line))?;
        Ok(place)
    }

    fn address(
        &mut self,
        operand: &Operand,
        line: u32,
        out: &mut Resolved,
    ) -> Result<(), LoadError> {
        let Operand::Address { base, offset } = operand else {
            return Ok(());
        };
        let (place, bits) = match base {
            None => (self.constant(Type::U64, 0, line)?, 64),
            Some(name) => match self.scopes.find(name) {
                Some(Symbol::Register(ty, number)) if matches!(ty.bits(), 32 | 64) => {
                    let bank = if ty.bits() == 64 {
                        Bank::B64
                    } else {
                        Bank::B32
                    };
                    (Place::Register(bank, number), ty.bits())
                }
                Some(Symbol::Variable { space, address }) => {
                    out.base.get_or_insert(space);
                    (self.constant(Type::U64, address, line)?, 64)
                }
                Some(Symbol::Frame { offset: at }) => {
                    let Some(frame) = &self.frame else {
                        return Err(LoadError::new(line, name, "not an address"));
                    };
                    out.base.get_or_insert(Space::Local);
                    out.s.push(Place::Register(Bank::B64, frame.register));
                    out.src_bits.push(64);
                    out.imm.push(offset.wrapping_add(i64::from(at)));
                    return Ok(());
                }
                Some(Symbol::Parameter { offset }) => {
                    out.base.get_or_insert(Space::Param);
                    (self.constant(Type::U64, offset, line)?, 64)
                }
                Some(_) => return Err(LoadError::new(line, name, "not an address")),
                None => return Err(self.unknown(name, line)),
            },
        };
        out.s.push(place);
        out.src_bits.push(bits);
        out.imm.push(*offset);
        Ok(())
    }
}

fn narrow(value: i128, line: u32) -> Result<i64, LoadError> {
    i64::try_from(value)
        .or_else(|_| u64::try_from(value).map(|value| value as i64))
        .map_err(|_| LoadError::new(line, &value.to_string(), "the number is too big"))
}
