//! Calls. A function is expanded where it is called, with parameters in local memory that caller and
//! callee share, but for those that are called through pointers or while they run: they have a
//! place of their own in the program, and frames in local memory.

use std::ops::Range;

use super::body::{Binder, plain};
use super::scope::Symbol;
use super::{Bank, Callable, LoadError, Parameter, Place, Site, align_of, size_of};
use crate::ast::{Function, Instruction, Operand, Space, Type, Variable};
use crate::isa;

/// Depth of calls that are expanded in place.
const MAX_DEPTH: u32 = 64;

/// The frame of the function that is being bound.
pub(super) struct Frame {
    pub size: u32,
    pub align: u32,
    /// Number of the 64-bit register that holds its address.
    pub register: u32,
    /// Return parameters in registers, and where in the frame they go.
    returns: Vec<(String, u32)>,
}

/// A function with a place of its own, before registers have got their slots.
pub(super) struct Outline {
    pub name: String,
    pub label: u32,
    /// Its registers' numbers, by bank; the first 64-bit one holds the frame's address.
    pub registers: [Range<u32>; 3],
    pub bytes: u32,
    pub align: u32,
    /// Offset and size in the frame of each return parameter and parameter.
    pub returns: Vec<(u32, u32)>,
    pub params: Vec<(u32, u32)>,
}

impl Outline {
    /// Completes it with what is known at the end.
    pub(super) fn finish(
        self,
        entry: u32,
        address: Option<u64>,
        slots: [Vec<u16>; 3],
        frame: Option<u16>,
    ) -> Callable {
        Callable {
            name: self.name,
            address,
            entry,
            slots,
            frame,
            bytes: self.bytes,
            align: self.align,
            returns: self.returns,
            params: self.params,
        }
    }
}

/// The parts of a `call`.
struct Parts<'a> {
    returns: &'a [Operand],
    target: &'a str,
    arguments: &'a [Operand],
    /// List of targets or prototype.
    list: Option<&'a str>,
}

fn parts(inst: &Instruction) -> Option<Parts<'_>> {
    let (returns, rest) = match inst.operands.as_slice() {
        [Operand::List(returns), rest @ ..] => (returns.as_slice(), rest),
        rest => (&[][..], rest),
    };
    let (target, rest) = match rest {
        [
            Operand::Name {
                name,
                negated: false,
            },
            rest @ ..,
        ] => (name, rest),
        _ => return None,
    };
    let (arguments, rest) = match rest {
        [Operand::List(arguments), rest @ ..] => (arguments.as_slice(), rest),
        rest => (&[][..], rest),
    };
    let list = match rest {
        [] => None,
        [
            Operand::Name {
                name,
                negated: false,
            },
        ] => Some(name.as_str()),
        _ => return None,
    };
    Some(Parts {
        returns,
        target,
        arguments,
        list,
    })
}

fn named(name: &str) -> Operand {
    Operand::Name {
        name: name.to_string(),
        negated: false,
    }
}

fn at(name: &str) -> Operand {
    Operand::Address {
        base: Some(name.to_string()),
        offset: 0,
    }
}

/// A parameter of a scalar type, as a formal that nobody declared.
fn scalar(ty: Type, line: u32) -> Variable {
    Variable {
        name: String::new(),
        space: Space::Param,
        ty,
        vector: 1,
        dims: Vec::new(),
        align: None,
        count: None,
        init: Vec::new(),
        linkage: None,
        ptr: None,
        attributes: Vec::new(),
        line,
    }
}

impl Binder<'_> {
    /// `call` in all its forms.
    pub(super) fn call(&mut self, inst: &Instruction) -> Result<(), LoadError> {
        let wrong = |token: &str, message: &str| LoadError::new(inst.line, token, message);
        let parts =
            parts(inst).ok_or_else(|| wrong("call", "takes a function and lists of operands"))?;
        if let Some(modifier) = inst
            .opcode
            .iter()
            .skip(1)
            .find(|modifier| *modifier != "uni")
        {
            return Err(wrong(modifier, "unknown or unsupported modifier"));
        }
        let module = self.module;
        let mut declared = module
            .functions
            .iter()
            .filter(|f| f.name == parts.target && !f.entry);
        let function = declared
            .clone()
            .find(|f| f.body.is_some())
            .or(declared.next_back());
        if let Some(Symbol::Register(..)) = self.scopes.find(parts.target) {
            return self.indirect(inst, &parts);
        }
        if let Some(builtin) = isa::control::builtin(parts.target) {
            return self.system_call(inst, &parts, builtin, function);
        }
        let Some(function) = function.filter(|f| f.body.is_some()) else {
            return Err(wrong(
                parts.target,
                "no such function, or it has no body here",
            ));
        };
        let same = parts.returns.len() == function.returns.len()
            && parts.arguments.len() == function.params.len();
        if !same {
            let message = "called with another number of parameters than it has";
            return Err(wrong(parts.target, message));
        }
        if let Some(index) = self.outlines.iter().position(|o| o.name == function.name) {
            let formals = (&function.returns[..], &function.params[..]);
            return self.outlined_call(inst, &parts, formals, vec![index as u16], None);
        }
        self.expand(inst, &parts, function)
    }

    /// A call of what the system provides: its operands are the parameters' addresses.
    fn system_call(
        &mut self,
        inst: &Instruction,
        parts: &Parts<'_>,
        builtin: &str,
        function: Option<&Function>,
    ) -> Result<(), LoadError> {
        let formal = |n: usize| function.and_then(|f| f.params.get(n)).cloned();
        let default = scalar(Type::B64, inst.line);
        let mut operands = Vec::new();
        // What lies behind the third one is of no interest.
        for (n, argument) in parts.arguments.iter().take(3).enumerate() {
            let formal = formal(n).unwrap_or_else(|| default.clone());
            operands.push(at(&self.actual(inst, argument, &formal, true)?));
        }
        let mut result = None;
        if let (true, Some(operand)) = (operands.len() < 3, parts.returns.first()) {
            let formal = scalar(Type::B32, inst.line);
            let place = self.actual(inst, operand, &formal, false)?;
            operands.push(at(&place));
            result = Some((operand, place, formal));
        }
        let guard = inst.guard.clone();
        self.instruction(&Instruction {
            guard,
            ..plain(&[builtin], operands, inst.line)
        })?;
        match result {
            Some((operand, place, formal)) => self.fetch(inst, operand, &place, &formal),
            None => Ok(()),
        }
    }

    /// The name of the local variable that holds an actual parameter: what is written, or a new
    /// one for a register or a constant.
    fn actual(
        &mut self,
        inst: &Instruction,
        operand: &Operand,
        formal: &Variable,
        input: bool,
    ) -> Result<String, LoadError> {
        if let Operand::Name { name, .. } = operand
            && let Some(
                Symbol::Variable {
                    space: Space::Local,
                    ..
                }
                | Symbol::Frame { .. },
            ) = self.scopes.find(name)
        {
            let place = match self.scopes.find(name) {
                Some(Symbol::Variable { address, .. }) => address as u32,
                Some(Symbol::Frame { offset }) => offset,
                _ => 0,
            };
            let size = self.sizes.get(&place).copied().map(u64::from);
            if !formal.name.is_empty() && size != size_of(formal) {
                let message = "not of the size of the parameter";
                return Err(LoadError::new(inst.line, name, message));
            }
            return Ok(name.clone());
        }
        if formal.vector != 1 || !formal.dims.is_empty() || Bank::of(formal.ty).is_none() {
            let message = "this parameter has to be a .param variable";
            return Err(LoadError::new(inst.line, &formal.name, message));
        }
        self.temporaries += 1;
        let name = format!(" actual{}", self.temporaries);
        let mut variable = scalar(formal.ty, inst.line);
        variable.name.clone_from(&name);
        self.variable(&variable)?;
        if input {
            let store = self.access("st", formal.ty, vec![at(&name), operand.clone()], inst);
            self.instruction(&store)?;
        }
        Ok(name)
    }

    /// Loads what a call has returned, if it goes to a register.
    fn fetch(
        &mut self,
        inst: &Instruction,
        operand: &Operand,
        place: &str,
        formal: &Variable,
    ) -> Result<(), LoadError> {
        if !place.starts_with(' ') || *operand == Operand::Sink {
            return Ok(());
        }
        let load = self.access("ld", formal.ty, vec![operand.clone(), at(place)], inst);
        self.instruction(&load)
    }

    /// `ld.local.bN` or `st.local.bN`, under the guard of `inst`.
    fn access(
        &self,
        opcode: &str,
        ty: Type,
        operands: Vec<Operand>,
        inst: &Instruction,
    ) -> Instruction {
        let ty = format!("b{}", ty.bits());
        let guard = inst.guard.clone();
        Instruction {
            guard,
            ..plain(&[opcode, "local", &ty], operands, inst.line)
        }
    }

    /// Puts a function's body where the call stands.
    fn expand(
        &mut self,
        inst: &Instruction,
        parts: &Parts<'_>,
        function: &Function,
    ) -> Result<(), LoadError> {
        if self.depth >= MAX_DEPTH {
            let message = "calls are nested too deeply";
            return Err(LoadError::new(inst.line, parts.target, message));
        }
        let (returns, arguments) =
            self.actuals(inst, parts, (&function.returns, &function.params))?;
        let end = self.new_label();
        if let Some((name, negated)) = &inst.guard {
            let guard = Some((name.clone(), !negated));
            self.jump(
                &Instruction {
                    guard,
                    ..inst.clone()
                },
                end,
            )?;
        }
        let found = |name: &String| self.scopes.find(name);
        let symbols: Vec<_> = returns.iter().chain(&arguments).map(found).collect();
        let here = plain(&[], vec![], inst.line);
        self.scopes.open(true);
        let expansion = self.begin_expansion();
        for (n, (formal, symbol)) in function
            .returns
            .iter()
            .chain(&function.params)
            .zip(symbols)
            .enumerate()
        {
            let Some(symbol) = symbol else { continue };
            if formal.space == Space::Reg {
                let place = format!(" formal{n}");
                self.scopes.declare_register(formal)?;
                self.scopes.define(&place, symbol);
                if n >= function.returns.len() {
                    let operands = vec![named(&formal.name), at(&place)];
                    self.instruction(&self.access("ld", formal.ty, operands, &here))?;
                }
            } else {
                self.scopes.define(&formal.name, symbol);
            }
        }
        let outer = self.return_to.replace(end);
        self.depth += 1;
        let source = self.source;
        if let Some(body) = &function.body {
            self.block(body)?;
        }
        self.source = source;
        self.depth -= 1;
        self.return_to = outer;
        self.end_expansion(expansion);
        self.place_label(end);
        for (n, formal) in function.returns.iter().enumerate() {
            if formal.space == Space::Reg {
                let operands = vec![at(&format!(" formal{n}")), named(&formal.name)];
                self.instruction(&self.access("st", formal.ty, operands, &here))?;
            }
        }
        self.scopes.close();
        for ((operand, place), formal) in parts.returns.iter().zip(&returns).zip(&function.returns)
        {
            self.fetch(inst, operand, place, formal)?;
        }
        Ok(())
    }

    /// The names of the variables that hold the actual parameters.
    fn actuals(
        &mut self,
        inst: &Instruction,
        parts: &Parts<'_>,
        formals: (&[Variable], &[Variable]),
    ) -> Result<(Vec<String>, Vec<String>), LoadError> {
        let mut returns = Vec::new();
        for (operand, formal) in parts.returns.iter().zip(formals.0) {
            returns.push(self.actual(inst, operand, formal, false)?);
        }
        let mut arguments = Vec::new();
        for (operand, formal) in parts.arguments.iter().zip(formals.1) {
            arguments.push(self.actual(inst, operand, formal, true)?);
        }
        Ok((returns, arguments))
    }

    /// A call through a pointer.
    fn indirect(&mut self, inst: &Instruction, parts: &Parts<'_>) -> Result<(), LoadError> {
        let wrong = |token: &str, message: &str| LoadError::new(inst.line, token, message);
        let list = parts
            .list
            .ok_or_else(|| wrong(parts.target, "an indirect call needs a list or a prototype"))?;
        let all = || (0..self.outlines.len() as u16).collect::<Vec<_>>();
        let module = self.module;
        let formals_of = |name: &str| {
            let function = module
                .functions
                .iter()
                .find(|f| f.name == name && f.body.is_some());
            function.map(|f| (f.returns.clone(), f.params.clone()))
        };
        let (candidates, formals) = match self.scopes.find(list) {
            Some(Symbol::Prototype(formals)) => (all(), Some(*formals)),
            Some(Symbol::Targets(names)) => {
                let index = |name: &String| self.outlines.iter().position(|o| o.name == *name);
                let indices = names.iter().map(|name| index(name).ok_or(name));
                let indices = indices.map(|index| match index {
                    Ok(index) => Ok(index as u16),
                    Err(name) => Err(wrong(name, "no such function, or it has no body here")),
                });
                let indices = indices.collect::<Result<Vec<_>, _>>()?;
                (indices, names.first().and_then(|name| formals_of(name)))
            }
            // A table of functions in memory.
            Some(Symbol::Variable { .. }) => {
                let names = module.variables.iter().find(|v| v.name == list);
                let first = names.and_then(|table| {
                    table.init.iter().find_map(|init| match init {
                        crate::ast::Init::Address { name, .. } => formals_of(name),
                        _ => None,
                    })
                });
                (all(), first)
            }
            _ => return Err(wrong(list, "neither a list of functions nor a prototype")),
        };
        let Some((returns, params)) = formals else {
            return Err(wrong(list, "it names no function"));
        };
        if returns.len() != parts.returns.len() || params.len() != parts.arguments.len() {
            return Err(wrong(
                list,
                "called with another number of parameters than it has",
            ));
        }
        let target = Some(named(parts.target));
        self.outlined_call(inst, parts, (&returns, &params), candidates, target)
    }

    /// A call of one of these functions that have a place of their own.
    fn outlined_call(
        &mut self,
        inst: &Instruction,
        parts: &Parts<'_>,
        formals: (&[Variable], &[Variable]),
        candidates: Vec<u16>,
        target: Option<Operand>,
    ) -> Result<(), LoadError> {
        let (returns, arguments) = self.actuals(inst, parts, formals)?;
        let place = |(name, formal): (&String, &Variable)| {
            let offset = match self.scopes.find(name) {
                Some(Symbol::Variable { address, .. }) => address as u32,
                Some(Symbol::Frame { offset }) => offset,
                _ => 0,
            };
            (offset, size_of(formal).unwrap_or(0) as u32)
        };
        let site = Site {
            candidates,
            indirect: target.is_some(),
            returns: returns.iter().zip(formals.0).map(place).collect(),
            arguments: arguments.iter().zip(formals.1).map(place).collect(),
        };
        // Variables' places are offsets in the frame, if there is one, and else addresses.
        let base = match &self.frame {
            Some(frame) => {
                let register = Symbol::Register(Type::U64, frame.register);
                self.scopes.define(" frame", register);
                named(" frame")
            }
            None => Operand::Int(0),
        };
        let mut operands = vec![base];
        operands.extend(target);
        let guard = inst.guard.clone();
        self.instruction(&Instruction {
            guard,
            ..plain(&[" call"], operands, inst.line)
        })?;
        self.sites.push(site);
        let number = self.sites.len() as u64 - 1;
        self.last_inst(|inst| inst.aux = number);
        for ((operand, place), formal) in parts.returns.iter().zip(&returns).zip(formals.0) {
            self.fetch(inst, operand, place, formal)?;
        }
        Ok(())
    }

    /// Binds functions that have a place of their own, in front of the kernel: lanes that are in
    /// them go first, and come back to the others.
    pub(super) fn outline_all(&mut self, functions: &[&Function]) -> Result<(), LoadError> {
        let Some(first) = functions.first() else {
            return Ok(());
        };
        let kernel = self.new_label();
        self.jump(&plain(&["bra"], vec![], first.line), kernel)?;
        for function in functions {
            let label = self.new_label();
            self.outlines.push(Outline {
                name: function.name.clone(),
                label,
                registers: Default::default(),
                bytes: 0,
                align: 16,
                returns: Vec::new(),
                params: Vec::new(),
            });
        }
        for (index, function) in functions.iter().enumerate() {
            self.outline(index, function)?;
        }
        self.place_label(kernel);
        Ok(())
    }

    fn outline(&mut self, index: usize, function: &Function) -> Result<(), LoadError> {
        let banks = [Bank::B32, Bank::B64, Bank::Pred];
        let first = banks.map(|bank| self.scopes.registers(bank));
        self.scopes.open(true);
        let Place::Register(_, register) = self.scopes.fresh(Bank::B64) else {
            return Ok(());
        };
        self.frame = Some(Frame {
            size: 0,
            align: 16,
            register,
            returns: Vec::new(),
        });
        let label = self.outlines[index].label;
        self.place_label(label);
        let here = plain(&[], vec![], function.line);
        let mut places = Vec::new();
        for (n, formal) in function.returns.iter().chain(&function.params).enumerate() {
            let mut variable = formal.clone();
            variable.space = Space::Param;
            if formal.space == Space::Reg {
                variable.name = format!(" formal{n}");
                self.scopes.declare_register(formal)?;
            }
            self.variable(&variable)?;
            let Some(Symbol::Frame { offset }) = self.scopes.find(&variable.name) else {
                continue;
            };
            places.push((offset, size_of(formal).unwrap_or(0) as u32));
            if formal.space == Space::Reg {
                if n < function.returns.len() {
                    let formal = (formal.name.clone(), n as u32);
                    self.frame
                        .iter_mut()
                        .for_each(|f| f.returns.push(formal.clone()));
                } else {
                    let operands = vec![named(&formal.name), at(&variable.name)];
                    self.instruction(&self.access("ld", formal.ty, operands, &here))?;
                }
            }
        }
        self.block(function.body.as_deref().unwrap_or(&[]))?;
        self.leave(&plain(&["ret"], vec![], function.line))?;
        self.scopes.close();
        let frame = self.frame.take();
        let outline = &mut self.outlines[index];
        for (bank, range) in outline.registers.iter_mut().enumerate() {
            *range = first[bank]..self.scopes.registers(banks[bank]);
        }
        outline.params = places.split_off(function.returns.len().min(places.len()));
        outline.returns = places;
        if let Some(frame) = frame {
            (outline.bytes, outline.align) = (frame.size, frame.align);
        }
        Ok(())
    }

    /// `ret` of a function that has a place of its own.
    pub(super) fn leave(&mut self, inst: &Instruction) -> Result<(), LoadError> {
        let returns = self
            .frame
            .as_ref()
            .map_or(Vec::new(), |frame| frame.returns.clone());
        for (name, n) in returns {
            if let Some(Symbol::Register(ty, _)) = self.scopes.find(&name) {
                let operands = vec![at(&format!(" formal{n}")), named(&name)];
                self.instruction(&self.access("st", ty, operands, inst))?;
            }
        }
        let guard = inst.guard.clone();
        self.instruction(&Instruction {
            guard,
            ..plain(&[" return"], vec![], inst.line)
        })
    }

    /// The address of a variable in the frame, in a register.
    pub(super) fn frame_address(
        &mut self,
        offset: i64,
        ty: Type,
        line: u32,
    ) -> Result<Place, LoadError> {
        let Some(frame) = &self.frame else {
            return Err(LoadError::new(line, "", "there is no frame here"));
        };
        self.scopes
            .define(" frame", Symbol::Register(Type::U64, frame.register));
        let fresh = |place: Place, ty: Type| match place {
            Place::Register(_, number) => Symbol::Register(ty, number),
            _ => Symbol::Label(0),
        };
        let place = self.scopes.fresh(Bank::B64);
        self.scopes.define(" address", fresh(place, Type::U64));
        let operands = vec![
            named(" address"),
            named(" frame"),
            Operand::Int(offset.into()),
        ];
        self.instruction(&plain(&["add", "u64"], operands, line))?;
        if Bank::of(ty) == Some(Bank::B64) {
            return Ok(place);
        }
        let short = self.scopes.fresh(Bank::B32);
        self.scopes.define(" short", fresh(short, Type::U32));
        let operands = vec![named(" short"), named(" address")];
        self.instruction(&plain(&["cvt", "u32", "u64"], operands, line))?;
        Ok(short)
    }

    /// Gives a kernel's parameters their places.
    pub(super) fn layout(&mut self, kernel: &Function) -> Result<(Vec<Parameter>, u32), LoadError> {
        let mut params = Vec::new();
        let mut end: u32 = 0;
        for param in &kernel.params {
            let wrong = |message: &str| LoadError::new(param.line, &param.name, message);
            let big = || wrong("parameters are too big");
            let size = size_of(param).and_then(|size| u32::try_from(size).ok());
            let size = size.ok_or_else(|| wrong("a parameter without a size"))?;
            let align = align_of(param);
            let offset = super::body::align_up(end, align).ok_or_else(big)?;
            end = offset.checked_add(size).ok_or_else(big)?;
            let symbol = Symbol::Parameter {
                offset: u64::from(offset),
            };
            self.scopes.define(&param.name, symbol);
            params.push(Parameter {
                name: param.name.clone(),
                offset,
                size,
                align: align as u32,
            });
        }
        Ok((params, end))
    }
}
