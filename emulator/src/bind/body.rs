//! Bodies: statements to drafts of instructions, with scopes, labels, variables and calls.

use std::collections::HashMap;

use super::allocate::allocate;
use super::call::{Frame, Outline};
use super::graph;
use super::renew::Expansion;
use super::scope::{Changing, Scopes, Symbol};
use super::{
    About, Bank, Draft, LoadError, ModuleSymbols, Parameter, Place, Program, Site, align_of,
    size_of,
};
use crate::ast::{self, Function, Instruction, Operand, Space, Statement, Type, Variable};
use crate::isa::{self, Flow, Form, Inst, Together};
use crate::memory::{LOCAL_BASE, SHARED_BASE};
use crate::warp::{Constants, Register};

/// Instructions of one kernel, calls expanded.
const MAX_INSTRUCTIONS: usize = 1 << 22;

/// State of binding one kernel.
pub(super) struct Binder<'a> {
    pub(super) module: &'a ast::Module,
    pub(super) sm: u32,
    pub(super) scopes: Scopes,
    pub(super) drafts: Vec<Draft>,
    /// Position of each label.
    pub(super) labels: Vec<Option<u32>>,
    constants: Constants,
    known: HashMap<(Bank, u64), u32>,
    shared: u32,
    /// Start of dynamic shared memory; 0 if there is none.
    dynamic_at: u32,
    kernel: String,
    local: u32,
    pub(super) source: Option<(u32, u32)>,
    pub(super) depth: u32,
    /// Where `ret` of the function being expanded goes.
    pub(super) return_to: Option<u32>,
    communicates: bool,
    /// Whether it has `alloca`.
    stacks: bool,
    pub(super) tables: Vec<Vec<u32>>,
    /// Functions that were expanded.
    pub(super) expansions: Vec<Expansion>,
    /// Functions with a place of their own, and calls of them.
    pub(super) outlines: Vec<Outline>,
    pub(super) sites: Vec<Site>,
    /// That of the one being bound.
    pub(super) frame: Option<Frame>,
    /// Variables that the binder has made up.
    pub(super) temporaries: u32,
    /// Whether there are registers that are several.
    pub(super) vectors: bool,
    /// Sizes of the variables in local memory, by address or offset in the frame.
    pub(super) sizes: HashMap<u32, u32>,
}

pub(super) fn align_up(value: u32, align: u64) -> Option<u32> {
    u32::try_from(u64::from(value).checked_next_multiple_of(align)?).ok()
}

impl<'a> Binder<'a> {
    pub(super) fn new(module: &'a ast::Module, symbols: &ModuleSymbols, sm: u32) -> Binder<'a> {
        let mut binder = Binder {
            module,
            sm,
            scopes: Scopes::default(),
            drafts: Vec::new(),
            labels: Vec::new(),
            constants: Constants::default(),
            known: HashMap::new(),
            shared: 0,
            dynamic_at: 0,
            kernel: String::new(),
            local: 0,
            source: None,
            depth: 0,
            return_to: None,
            communicates: false,
            stacks: false,
            tables: Vec::new(),
            expansions: Vec::new(),
            outlines: Vec::new(),
            sites: Vec::new(),
            frame: None,
            temporaries: 0,
            vectors: false,
            sizes: HashMap::new(),
        };
        binder.scopes.open(true);
        for (name, address) in &symbols.functions {
            binder.scopes.define(name, Symbol::Function(*address));
        }
        for (name, (space, address)) in &symbols.addresses {
            binder.scopes.define(
                name,
                Symbol::Variable {
                    space: *space,
                    address: *address,
                },
            );
        }
        binder
    }

    /// Lays out the module's shared variables and the kernel's parameters.
    pub(super) fn parameters(
        &mut self,
        kernel: &Function,
    ) -> Result<(Vec<Parameter>, u32), LoadError> {
        self.kernel = kernel.name.clone();
        // The module's shared variables, which its functions see too.
        let module = self.module;
        let shared = |variable: &&Variable| variable.space == Space::Shared;
        for variable in module.variables.iter().filter(shared) {
            self.variable(variable)?;
        }
        self.scopes.open(true);
        self.layout(kernel)
    }

    /// Binds the kernel's body, and the functions that it calls.
    pub(super) fn body(&mut self, kernel: &'a Function) -> Result<(), LoadError> {
        self.outline_all(&graph::outlined(self.module, kernel))?;
        let Some(body) = &kernel.body else {
            return Err(LoadError::new(
                kernel.line,
                &kernel.name,
                "the kernel has no body",
            ));
        };
        self.block(body)?;
        self.instruction(&plain(&["exit"], vec![], kernel.line))
    }

    pub(super) fn finish(
        mut self,
        kernel: &Function,
        symbols: &ModuleSymbols,
        params: Vec<Parameter>,
        param_bytes: u32,
        max_threads: Option<u32>,
        required_block: Option<[u32; 3]>,
    ) -> Result<Program, LoadError> {
        self.resolve()?;
        self.renew()?;
        let counts = [Bank::B32, Bank::B64, Bank::Pred].map(|bank| self.scopes.registers(bank));
        let about: Vec<About> = self.drafts.iter().map(|draft| draft.about).collect();
        let owned: Vec<_> = self.outlines.iter().map(|o| o.registers.clone()).collect();
        let (mut insts, layout, mut slots) = allocate(self.drafts, counts, &self.tables, &owned)
            .map_err(|message| LoadError::new(kernel.line, &kernel.name, message))?;
        straighten(&mut insts, &about);
        let mut functions = Vec::new();
        for (outline, (slots, frame)) in self.outlines.into_iter().zip(slots.drain(..)) {
            let entry = self.labels.get(outline.label as usize).copied().flatten();
            let address = symbols.functions.get(&outline.name).copied();
            functions.push(outline.finish(entry.unwrap_or(0), address, slots, frame));
        }
        Ok(Program {
            name: kernel.name.clone(),
            insts,
            about,
            layout,
            constants: self.constants,
            tables: self.tables,
            params,
            param_bytes,
            static_shared: self.shared,
            dynamic_shared: self.dynamic_at.checked_sub(SHARED_BASE),
            local_bytes: self.local,
            max_threads,
            required_block,
            stacks: self.stacks || !functions.is_empty(),
            communicates: self.communicates,
            approximate: Vec::new(),
            functions,
            sites: self.sites,
        })
    }

    /// Changes the instruction that was bound last.
    pub(super) fn last_inst(&mut self, f: impl FnOnce(&mut Inst)) {
        if let Some(last) = self.drafts.last_mut() {
            f(&mut last.inst);
        }
    }

    pub(super) fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        self.labels.len() as u32 - 1
    }

    pub(super) fn place_label(&mut self, label: u32) {
        if let Some(place) = self.labels.get_mut(label as usize) {
            *place = Some(self.drafts.len() as u32);
        }
    }

    /// A block's statements, in a scope that is already open; labels first, since they may be
    /// used before they stand.
    pub(super) fn block(&mut self, statements: &[Statement]) -> Result<(), LoadError> {
        for statement in statements {
            match statement {
                Statement::Label(name, _) => {
                    let label = self.new_label();
                    self.scopes.define(name, Symbol::Label(label));
                }
                Statement::Table {
                    label, kind, items, ..
                } if matches!(kind.as_str(), "branchtargets" | "calltargets") => {
                    self.scopes.define(label, Symbol::Targets(items.clone()));
                }
                Statement::Prototype {
                    label,
                    returns,
                    params,
                    ..
                } => {
                    let formals = Box::new((returns.clone(), params.clone()));
                    self.scopes.define(label, Symbol::Prototype(formals));
                }
                _ => {}
            }
        }
        for statement in statements {
            match statement {
                Statement::Label(name, _) => {
                    if let Some(Symbol::Label(label)) = self.scopes.find(name) {
                        self.place_label(label);
                    }
                }
                Statement::Variable(variable) if variable.space == Space::Reg => {
                    self.declare(variable)?;
                }
                Statement::Variable(variable) => self.variable(variable)?,
                Statement::Block(inner) => {
                    self.scopes.open(false);
                    self.block(inner)?;
                    self.scopes.close();
                }
                Statement::Instruction(inst) => self.instruction(inst)?,
                Statement::Loc { file, line, .. } => self.source = Some((*file, *line)),
                Statement::Pragma(..) | Statement::Table { .. } | Statement::Prototype { .. } => {}
            }
        }
        Ok(())
    }

    /// Gives a variable its address: shared and local memory are laid out in the order of the text.
    pub(super) fn variable(&mut self, variable: &Variable) -> Result<(), LoadError> {
        let wrong = |message: &str| LoadError::new(variable.line, &variable.name, message);
        let big = || wrong("the variables of this space are too big");
        let align = align_of(variable);
        let size = size_of(variable)
            .map(|size| u32::try_from(size).map_err(|_| big()))
            .transpose()?;
        if let (Some(frame), Space::Local | Space::Param) = (&mut self.frame, variable.space) {
            let size = size.ok_or_else(|| wrong("a variable without a size"))?;
            let offset = align_up(frame.size, align).ok_or_else(big)?;
            let end = offset.checked_add(size).filter(|end| *end <= 1 << 30);
            frame.size = end.ok_or_else(big)?;
            frame.align = frame.align.max(align as u32);
            self.sizes.insert(offset, size);
            self.scopes.define(&variable.name, Symbol::Frame { offset });
            return Ok(());
        }
        let (used, first) = match variable.space {
            Space::Shared if variable.linkage == Some(ast::Linkage::Extern) || size.is_none() => {
                let address = u64::from(self.dynamic_base(align).ok_or_else(big)?);
                self.dynamic_at = self.dynamic_at.max(address as u32);
                self.scopes.define(
                    &variable.name,
                    Symbol::Variable {
                        space: Space::Shared,
                        address,
                    },
                );
                return Ok(());
            }
            Space::Shared => (&mut self.shared, SHARED_BASE),
            Space::Local | Space::Param => (&mut self.local, LOCAL_BASE),
            _ => return Err(wrong("a variable of this space cannot be declared here")),
        };
        let size = size.ok_or_else(|| wrong("a variable without a size"))?;
        let offset = align_up(*used, align).ok_or_else(big)?;
        *used = offset
            .checked_add(size)
            .filter(|end| *end <= 1 << 30)
            .ok_or_else(big)?;
        self.sizes.insert(first + offset, size);
        let address = u64::from(first + offset);
        let space = if variable.space == Space::Param {
            Space::Local
        } else {
            variable.space
        };
        self.scopes
            .define(&variable.name, Symbol::Variable { space, address });
        Ok(())
    }

    /// Where dynamic shared memory starts: behind the static variables of the module, of the
    /// kernel, and of every function that it could call.
    fn dynamic_base(&self, align: u64) -> Option<u32> {
        fn total(statements: &[Statement], end: u64) -> u64 {
            statements
                .iter()
                .fold(end, |end, statement| match statement {
                    Statement::Variable(variable) => add(variable, end),
                    Statement::Block(inner) => total(inner, end),
                    _ => end,
                })
        }
        fn add(variable: &Variable, end: u64) -> u64 {
            let fixed =
                variable.space == Space::Shared && variable.linkage != Some(ast::Linkage::Extern);
            match size_of(variable).filter(|_| fixed) {
                Some(size) => end
                    .checked_next_multiple_of(align_of(variable))
                    .unwrap_or(u64::MAX)
                    .saturating_add(size),
                None => end,
            }
        }
        let mut end = self
            .module
            .variables
            .iter()
            .fold(0, |end, variable| add(variable, end));
        for function in self
            .module
            .functions
            .iter()
            .filter(|f| !f.entry || f.name == self.kernel)
        {
            end = function.body.iter().fold(end, |end, body| total(body, end));
        }
        u32::try_from(end.checked_next_multiple_of(align.max(16))?)
            .ok()?
            .checked_add(SHARED_BASE)
    }

    /// A literal as an operand.
    pub(super) fn constant(&mut self, ty: Type, bits: u64, line: u32) -> Result<Place, LoadError> {
        let Some(bank @ (Bank::B32 | Bank::B64)) = Bank::of(ty) else {
            return Err(LoadError::new(
                line,
                ty.token(),
                "no constant can have this type",
            ));
        };
        let bits = if ty.bits() < 64 {
            bits & ((1 << ty.bits()) - 1)
        } else {
            bits
        };
        if let Some(index) = self.known.get(&(bank, bits)) {
            return Ok(Place::Constant(bank, *index));
        }
        let index = if bank == Bank::B32 {
            self.constants.k32.push(Register::constant(bits as u32));
            self.constants.k32.len() - 1
        } else {
            self.constants.k64.push(Register::constant(bits));
            self.constants.k64.len() - 1
        };
        self.known.insert((bank, bits), index as u32);
        Ok(Place::Constant(bank, index as u32))
    }

    /// Reads a changing special register into a register of its own.
    pub(super) fn read_changing(&mut self, changing: Changing, bank: Bank, line: u32) -> Place {
        let place = self.scopes.fresh(bank);
        let row = &isa::control::READ_CLOCK;
        let inst = Inst {
            exec: isa::control::read_clock(),
            nd: 1,
            aux: changing as u64,
            ..blank()
        };
        self.drafts.push(Draft {
            inst,
            guard: Place::True,
            d: vec![place],
            s: vec![],
            label: None,
            labels: vec![],
            about: About {
                row,
                ty: Type::Pred,
                line,
                source: self.source,
            },
        });
        place
    }

    pub(super) fn instruction(&mut self, inst: &Instruction) -> Result<(), LoadError> {
        if self.drafts.len() >= MAX_INSTRUCTIONS {
            return Err(LoadError::new(inst.line, "", "the kernel is too long"));
        }
        match inst.opcode.first().map(String::as_str) {
            Some("call") => return self.call(inst),
            Some("ret") if let Some(label) = self.return_to => {
                return self.jump(inst, label);
            }
            Some("ret") if self.frame.is_some() => return self.leave(inst),
            Some("brx") => return self.indexed_branch(inst),
            _ => {}
        }
        if self.vectors
            && let Some(parts) = self.spread(inst)
        {
            return parts
                .iter()
                .try_for_each(|part| self.instruction_of_scalars(part));
        }
        self.instruction_of_scalars(inst)
    }

    fn instruction_of_scalars(&mut self, inst: &Instruction) -> Result<(), LoadError> {
        let found = isa::matching::find(inst).map_err(|mismatch| LoadError {
            line: inst.line,
            token: mismatch.token,
            message: mismatch.message,
            alternatives: mismatch.alternatives,
        })?;
        // Rows that differ only in what their operands are: the first that takes them.
        let guard = self.guard(inst)?;
        let mut refusal = None;
        let mut bound = None;
        for found in found {
            match self.operands(inst, &found) {
                Ok(resolved) => {
                    bound = Some((found, resolved));
                    break;
                }
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
        }
        let Some((found, resolved)) = bound else {
            let unknown = || LoadError::new(inst.line, &inst.opcode.join("."), "no row fits");
            return Err(refusal.unwrap_or_else(unknown));
        };
        let (sm, ptx) = found.row.since;
        if self.sm < sm || self.module.version < ptx {
            let needs = format!("needs sm_{sm} and PTX {}.{}", ptx.0, ptx.1);
            return Err(LoadError::new(inst.line, &inst.opcode.join("."), needs));
        }
        let mut form = Form {
            types: found.types,
            chosen: found.chosen,
            row: found.row,
            imm: &resolved.imm,
            dst_bits: &resolved.dst_bits,
            src_bits: &resolved.src_bits,
            base: resolved.base,
            aux: 0,
        };
        let ty = form.ty(0);
        #[cfg(not(ptx_mutation))]
        let exec = (found.row.exec)(&mut form);
        #[cfg(ptx_mutation)]
        let exec = crate::isa::mutation::pick(&mut form);
        let exec = exec.ok_or_else(|| {
            let message = "these modifiers, types and operands do not go together";
            LoadError::new(inst.line, &inst.opcode.join("."), message)
        })?;
        let mut bound = Inst {
            exec,
            aux: form.aux,
            negated: resolved.negated,
            ..blank()
        };
        #[cfg(ptx_mutation)]
        crate::isa::mutation::bend(&mut bound, found.row, &resolved.dst_bits);
        if found.row.bound.is_some() {
            bound.aux = crate::isa::perturb::aux(form.ty(0));
        }
        bound.together = found.row.together;
        bound.always = found.row.always;
        for (to, from) in bound.imm.iter_mut().zip(&resolved.imm) {
            *to = *from;
        }
        self.communicates |= communicates(inst);
        self.stacks |= graph::sizes_its_stack(inst);
        self.drafts.push(Draft {
            inst: bound,
            guard,
            d: resolved.d,
            s: resolved.s,
            label: resolved.label,
            labels: vec![],
            about: About {
                row: found.row,
                ty,
                line: inst.line,
                source: self.source,
            },
        });
        if let Some(last) = self.drafts.last_mut() {
            (last.inst.nd, last.inst.ns) = (last.d.len() as u8, last.s.len() as u8);
            last.inst.guard_flip = if inst.guard.as_ref().is_some_and(|g| g.1) {
                u32::MAX
            } else {
                0
            };
        }
        Ok(())
    }

    fn guard(&self, inst: &Instruction) -> Result<Place, LoadError> {
        let Some((name, _)) = &inst.guard else {
            return Ok(Place::True);
        };
        match self.scopes.find(name) {
            Some(Symbol::Register(Type::Pred, number)) => Ok(Place::Register(Bank::Pred, number)),
            _ => Err(LoadError::new(
                inst.line,
                name,
                "the guard is not a predicate register",
            )),
        }
    }

    /// A branch to a label that has no name, under the guard of `inst`.
    pub(super) fn jump(&mut self, inst: &Instruction, label: u32) -> Result<(), LoadError> {
        let name = " return";
        self.scopes.define(name, Symbol::Label(label));
        let target = Operand::Name {
            name: name.to_string(),
            negated: false,
        };
        let branch = Instruction {
            guard: inst.guard.clone(),
            ..plain(&["bra"], vec![target], inst.line)
        };
        self.instruction(&branch)
    }

    /// `brx.idx r, table;`
    fn indexed_branch(&mut self, inst: &Instruction) -> Result<(), LoadError> {
        let wrong = |token: &str, message: &str| LoadError::new(inst.line, token, message);
        let [index, Operand::Name { name, .. }] = inst.operands.as_slice() else {
            return Err(wrong("brx", "takes an index and a table of labels"));
        };
        let Some(Symbol::Targets(items)) = self.scopes.find(name) else {
            return Err(wrong(name, "not a table of labels"));
        };
        let labels = items.iter().map(|item| match self.scopes.find(item) {
            Some(Symbol::Label(label)) => Ok(label),
            _ => Err(wrong(item, "no such label")),
        });
        let labels: Vec<u32> = labels.collect::<Result<_, _>>()?;
        let inner = Instruction {
            guard: inst.guard.clone(),
            ..plain(&["brx idx"], vec![index.clone()], inst.line)
        };
        self.instruction(&inner)?;
        if let Some(last) = self.drafts.last_mut() {
            last.labels = labels;
        }
        Ok(())
    }
}

pub(super) fn plain(opcode: &[&str], operands: Vec<Operand>, line: u32) -> Instruction {
    let opcode = opcode.iter().map(ToString::to_string).collect();
    Instruction {
        guard: None,
        opcode,
        operands,
        line,
        span: 0..0,
    }
}

/// An instruction without operands.
pub(super) fn blank() -> Inst {
    Inst {
        exec: |_, _, _| Flow::Next,
        guard: 0,
        guard_flip: 0,
        d: [0; 8],
        s: [0; 12],
        nd: 0,
        ns: 0,
        negated: 0,
        imm: [0; 3],
        aux: 0,
        target: 0,
        together: Together::No,
        always: false,
        straight: 0,
        #[cfg(ptx_mutation)]
        right: (None, [0; 2]),
    }
}

/// Notes where straight lines of instructions start that only compute, and how long they are.
fn straighten(insts: &mut [Inst], about: &[About]) {
    let mut straight: u16 = 0;
    for (inst, about) in insts.iter_mut().zip(about).rev() {
        let computes = about.row.class.computes() && inst.together == Together::No;
        straight = match computes && inst.guard == 0 && !inst.always {
            true => straight.saturating_add(1),
            false => 0,
        };
        inst.straight = straight;
    }
}

/// Whether the instruction lets blocks watch or overtake each other.
fn communicates(inst: &Instruction) -> bool {
    let has = |token: &str| inst.opcode.iter().any(|piece| piece == token);
    let shared = has("shared") || has("shared::cta");
    match inst.opcode.first().map(String::as_str) {
        Some("atom") => !shared,
        Some("red") => {
            !shared
                && (has("f32")
                    || has("f64")
                    || has("f16x2")
                    || has("f16")
                    || has("bf16x2")
                    || has("bf16")
                    || has("exch"))
        }
        Some("ld" | "st") => {
            !shared
                && ["volatile", "relaxed", "acquire", "release", "mmio"]
                    .iter()
                    .any(|t| has(t))
        }
        _ => false,
    }
}
