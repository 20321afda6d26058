//! Registers that are several: vectors (`.reg .v4 .f32 v`, with elements `v.x`), and those of 128 bits,
//! which are two of 64.

use super::LoadError;
use super::body::{Binder, plain};
use super::scope::Symbol;
use crate::ast::{Instruction, Operand, Type, Variable};

/// Registers of 128 bits that one declaration may have.
const MAX_WIDE: u32 = 1 << 12;

impl Binder<'_> {
    /// Declares registers of any type.
    pub(super) fn declare(&mut self, variable: &Variable) -> Result<(), LoadError> {
        let Variable { name, line, .. } = variable;
        let several = variable.vector > 1 && variable.ty != Type::Pred && variable.count.is_none();
        if variable.ty == Type::B128 && variable.vector == 1 {
            if self.sm < 70 || self.module.version < (8, 3) {
                return Err(LoadError::new(*line, "b128", "needs sm_70 and PTX 8.3"));
            }
            let names = match variable.count {
                None => vec![name.clone()],
                Some(count) if count <= MAX_WIDE => {
                    (0..count).map(|n| format!("{name}{n}")).collect()
                }
                Some(_) => return Err(LoadError::new(*line, name, "too many registers")),
            };
            for name in names {
                self.vector(&name, Type::B64, 2, variable)?;
            }
            return Ok(());
        }
        if !several || !matches!(variable.vector, 2 | 4) {
            return self.scopes.declare_register(variable);
        }
        self.vector(name, variable.ty, variable.vector, variable)?;
        let places = ["xr", "yg", "zb", "wa"];
        for (n, letters) in places.iter().take(variable.vector as usize).enumerate() {
            if let Some(element) = self.scopes.find(&element(name, n as u32)) {
                for letter in letters.chars() {
                    self.scopes
                        .define(&format!("{name}.{letter}"), element.clone());
                }
            }
        }
        Ok(())
    }

    fn vector(
        &mut self,
        name: &str,
        ty: Type,
        count: u32,
        like: &Variable,
    ) -> Result<(), LoadError> {
        for n in 0..count {
            let name = element(name, n);
            let variable = Variable {
                name,
                ty,
                vector: 1,
                count: None,
                ..like.clone()
            };
            self.scopes.declare_register(&variable)?;
        }
        self.scopes.define(name, Symbol::Vector(count));
        self.vectors = true;
        Ok(())
    }

    /// The instructions without such registers that an instruction with them stands for.
    pub(super) fn spread(&self, inst: &Instruction) -> Option<Vec<Instruction>> {
        let mut inst = inst.clone();
        let mut any = false;
        for operand in &mut inst.operands {
            let Operand::Name {
                name,
                negated: false,
            } = operand
            else {
                continue;
            };
            if let Some(Symbol::Vector(count)) = self.scopes.find(name) {
                let names = (0..count).map(|n| element(name, n));
                let names = names.map(|name| Operand::Name {
                    name,
                    negated: false,
                });
                *operand = Operand::Vector(names.collect());
                any = true;
            }
        }
        if !any {
            return None;
        }
        let wide = inst.opcode.iter().position(|token| token == "b128");
        let Some(at) = wide else {
            return Some(vec![inst]);
        };
        match (
            inst.opcode.first().map(String::as_str),
            inst.operands.as_slice(),
        ) {
            (Some("ld" | "st"), _)
                if !inst
                    .opcode
                    .iter()
                    .any(|t| t.starts_with('v') && t != "volatile") =>
            {
                inst.opcode[at] = "b64".to_string();
                inst.opcode.insert(at, "v2".to_string());
                Some(vec![inst])
            }
            (Some("mov"), [Operand::Vector(to), Operand::Vector(from)])
                if to.len() == 2 && from.len() == 2 =>
            {
                let halves = to.iter().zip(from).filter(|(to, _)| **to != Operand::Sink);
                let half = |(to, from): (&Operand, &Operand)| Instruction {
                    guard: inst.guard.clone(),
                    ..plain(&["mov", "b64"], vec![to.clone(), from.clone()], inst.line)
                };
                Some(halves.map(half).collect())
            }
            _ => Some(vec![inst]),
        }
    }
}

/// What an element is called where nobody can name it.
fn element(name: &str, n: u32) -> String {
    format!(" {name}.{n}")
}
