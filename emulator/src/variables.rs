//! Memory of a module's variables, and addresses of its functions.

use std::collections::HashMap;

use crate::ast::{self, Init, Space};
use crate::bind::{self, LoadError, ModuleSymbols};
use crate::memory::global::{Kind, Memory, MemoryError};

/// Bytes of one variable of a module at most.
const MAX_VARIABLE: u64 = 1 << 31;

/// Allocates and initialises the module's variables.
pub(crate) fn allocate(
    memory: &Memory,
    module: &ast::Module,
) -> Result<(ModuleSymbols, HashMap<String, u64>), LoadError> {
    let mut symbols = ModuleSymbols::default();
    let mut sizes = HashMap::new();
    let mut allocated = Vec::new();
    for variable in &module.variables {
        let kind = match variable.space {
            Space::Global => Kind::Global,
            Space::Const => Kind::Const,
            _ => continue,
        };
        let wrong = |message: String| LoadError::new(variable.line, &variable.name, message);
        let element = u64::from(variable.ty.bits().max(8) / 8);
        let size = bind::size_of(variable).unwrap_or(element * variable.init.len() as u64);
        if size > MAX_VARIABLE {
            return Err(wrong("the variable is too big".to_string()));
        }
        let allocation = memory
            .alloc(size, kind, &variable.name)
            .map_err(|error| wrong(error.to_string()))?;
        symbols
            .addresses
            .insert(variable.name.clone(), (variable.space, allocation.base));
        sizes.insert(variable.name.clone(), size);
        allocated.push((variable, allocation, size, element));
    }
    // A function's address is that of memory that nobody can use.
    for function in module
        .functions
        .iter()
        .filter(|f| !f.entry && f.body.is_some())
    {
        let wrong =
            |error: MemoryError| LoadError::new(function.line, &function.name, error.to_string());
        let allocation = memory.alloc(16, Kind::Const, &function.name);
        let address = allocation.map_err(wrong)?.base;
        symbols.functions.insert(function.name.clone(), address);
    }
    for (variable, allocation, size, element) in allocated {
        let mut bytes = Vec::new();
        for init in &variable.init {
            let value = initial(init, variable.ty, &symbols).ok_or_else(|| {
                LoadError::new(
                    variable.line,
                    &variable.name,
                    "unknown name in its initialiser",
                )
            })?;
            bytes.extend_from_slice(&value.to_le_bytes()[..element.min(16) as usize]);
        }
        // What has no initialiser is zero, as fresh memory is: PTX says so for both spaces.
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        allocation.mark_range(0, size, true);
        allocation.write(0, &bytes);
    }
    Ok((symbols, sizes))
}

/// Bits of an initialiser's element.
fn initial(init: &Init, ty: ast::Type, symbols: &ModuleSymbols) -> Option<u128> {
    Some(match init {
        Init::Int(value) => match ty {
            ast::Type::F32 => u128::from((*value as f32).to_bits()),
            ast::Type::F64 => u128::from((*value as f64).to_bits()),
            _ => *value as u128,
        },
        Init::Float(value) => match ty {
            ast::Type::F64 => u128::from(value.to_bits()),
            _ => u128::from((*value as f32).to_bits()),
        },
        Init::Address {
            name, offset, mask, ..
        } => {
            let variable = symbols.addresses.get(name).map(|(_, address)| address);
            let address = variable.or_else(|| symbols.functions.get(name))?;
            let address = address.wrapping_add_signed(*offset);
            u128::from(match mask {
                Some(mask) => (address & mask) >> mask.trailing_zeros().min(63),
                None => address,
            })
        }
    })
}
