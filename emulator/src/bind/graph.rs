//! Which functions cannot be expanded where they are called.

use std::collections::HashMap;

use crate::ast::{Function, Init, Instruction, Module, Operand, Statement};

/// The functions that a kernel may call and that need a place of their own: those that may be
/// called while they run, that take memory while they run, and, if the kernel calls through pointers,
/// those whose address is taken.
pub(super) fn outlined<'a>(module: &'a Module, kernel: &'a Function) -> Vec<&'a Function> {
    let with_body = || module.functions.iter().filter(|f| f.body.is_some());
    let by_name: HashMap<&str, &Function> = with_body().map(|f| (f.name.as_str(), f)).collect();
    let mut taken = None;
    let mut found: Vec<&Function> = Vec::new();
    let mut add = |function: &'a Function| {
        if !found.iter().any(|f| f.name == function.name) {
            found.push(function);
        }
    };
    // Depth first, without recursion: each entry is a function with the calls that are left.
    let mut entered: HashMap<&str, bool> = HashMap::new();
    let mut path = vec![(kernel, calls(kernel))];
    entered.insert(&kernel.name, true);
    while let Some((function, left)) = path.last_mut() {
        let Some(name) = left.pop() else {
            entered.insert(&function.name, false);
            path.pop();
            continue;
        };
        let Some(callee) = by_name.get(name).filter(|callee| !callee.entry) else {
            if !by_name.contains_key(name) && !module.functions.iter().any(|f| f.name == name) {
                // A register: any function whose address is taken may be meant.
                let taken = taken.get_or_insert_with(|| address_taken(module, &by_name));
                for function in taken.iter() {
                    add(function);
                    if !entered.contains_key(function.name.as_str()) {
                        left.push(&function.name);
                    }
                }
            }
            continue;
        };
        match entered.get(callee.name.as_str()) {
            Some(true) => add(callee),
            Some(false) => {}
            None => {
                if takes_memory(callee) {
                    add(callee);
                }
                entered.insert(&callee.name, true);
                path.push((callee, calls(callee)));
            }
        }
    }
    found
}

/// Whether an instruction works on the stack of its function.
pub(super) fn sizes_its_stack(inst: &Instruction) -> bool {
    let opcode = inst.opcode.first().map(String::as_str);
    matches!(opcode, Some("alloca" | "stacksave" | "stackrestore"))
}

/// Whether a function itself takes memory while it runs, which ends with it.
fn takes_memory(function: &Function) -> bool {
    let mut takes = false;
    each(function.body.as_deref().unwrap_or(&[]), &mut |statement| {
        takes |= matches!(statement, Statement::Instruction(inst) if sizes_its_stack(inst));
    });
    takes
}

/// What a function's calls name: functions, or registers that hold one's address.
fn calls(function: &Function) -> Vec<&str> {
    let mut names = Vec::new();
    each(function.body.as_deref().unwrap_or(&[]), &mut |statement| {
        if let Statement::Instruction(inst) = statement
            && inst.opcode.first().is_some_and(|opcode| opcode == "call")
        {
            let target = inst.operands.iter().find_map(|operand| match operand {
                Operand::Name { name, .. } => Some(name.as_str()),
                _ => None,
            });
            names.extend(target);
        }
    });
    names
}

/// Functions that are named other than to call them.
fn address_taken<'a>(
    module: &'a Module,
    by_name: &HashMap<&str, &'a Function>,
) -> Vec<&'a Function> {
    let mut taken: Vec<&Function> = Vec::new();
    let mut note = |name: &str| {
        if let Some(function) = by_name.get(name).filter(|f| !f.entry)
            && !taken.iter().any(|f| f.name == name)
        {
            taken.push(function);
        }
    };
    for init in module.variables.iter().flat_map(|variable| &variable.init) {
        if let Init::Address { name, .. } = init {
            note(name);
        }
    }
    for function in &module.functions {
        each(
            function.body.as_deref().unwrap_or(&[]),
            &mut |statement| match statement {
                Statement::Instruction(inst) if inst.opcode.first().is_none_or(|o| o != "call") => {
                    for operand in &inst.operands {
                        if let Operand::Name { name, .. } = operand {
                            note(name);
                        }
                    }
                }
                Statement::Table { kind, items, .. } if kind == "calltargets" => {
                    items.iter().for_each(|item| note(item));
                }
                _ => {}
            },
        );
    }
    taken
}

/// Calls `f` with every statement, also in blocks, which the parser lets nest only so deep.
fn each<'a>(statements: &'a [Statement], f: &mut impl FnMut(&'a Statement)) {
    for statement in statements {
        match statement {
            Statement::Block(inner) => each(inner, f),
            other => f(other),
        }
    }
}
