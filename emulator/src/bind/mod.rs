//! Binding: a kernel's text to a program that the machine can run.
//!
//! Names become slots of registers, labels become positions, opcodes become rows of the instruction
//! table and their functions. Calls of functions are expanded in place. All that a module could
//! have wrong with it is found here, before anything runs, as a [`LoadError`].

mod allocate;
mod body;
mod call;
mod graph;
mod operand;
mod renew;
mod scope;
mod vector;

use std::collections::HashMap;

use crate::ast::{self, Type};
use crate::isa::perturb::Bound;
use crate::isa::{ExecFn, Inst, Row};
use crate::warp::Constants;

pub(crate) use allocate::Layout;
pub(crate) use scope::Special;

/// A PTX text that cannot be loaded: what is wrong, where, and what could have stood there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadError {
    /// Line in the PTX text, from 1; 0 if it concerns no line.
    pub line: u32,
    /// The offending token.
    pub token: String,
    /// What is wrong with it.
    pub message: String,
    /// What could have stood there.
    pub alternatives: Vec<String>,
}

impl LoadError {
    pub(crate) fn new(line: u32, token: &str, message: impl Into<String>) -> LoadError {
        LoadError {
            line,
            token: token.to_string(),
            message: message.into(),
            alternatives: Vec::new(),
        }
    }
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line != 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "{}: `{}`", self.message, self.token)?;
        if !self.alternatives.is_empty() {
            write!(f, "; possible here: {}", self.alternatives.join(" "))?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

impl From<crate::parse::ParseError> for LoadError {
    fn from(error: crate::parse::ParseError) -> LoadError {
        LoadError {
            line: error.line,
            token: error.token,
            message: error.message,
            alternatives: error.expected.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A bank of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bank {
    B32 = 0,
    B64 = 1,
    Pred = 2,
}

impl Bank {
    /// The bank that holds this type, if any does.
    pub(crate) fn of(ty: Type) -> Option<Bank> {
        match ty.bits() {
            1 => Some(Bank::Pred),
            8 | 16 | 32 => Some(Bank::B32),
            64 => Some(Bank::B64),
            _ => None,
        }
    }
}

/// Where an operand is, before registers have got their slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A register of the program, by number.
    Register(Bank, u32),
    /// A literal, by index of [`Constants`].
    Constant(Bank, u32),
    /// A special register.
    Special(Special),
    /// A destination that is thrown away.
    Sink(Bank),
    /// The predicate that is always true.
    True,
}

/// An instruction before registers have got their slots.
pub(crate) struct Draft {
    pub inst: Inst,
    pub guard: Place,
    pub d: Vec<Place>,
    pub s: Vec<Place>,
    /// Label that a branch goes to.
    pub label: Option<u32>,
    /// Labels of an indexed branch.
    pub labels: Vec<u32>,
    pub about: About,
}

/// Where an instruction comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    pub row: &'static Row,
    /// The form's first type; `Pred` if it has none.
    pub ty: Type,
    /// Line in the PTX text.
    pub line: u32,
    /// File number and line of the CUDA source.
    pub source: Option<(u32, u32)>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Offset in the parameter buffer, in bytes.
    pub offset: u32,
    /// Size, in bytes.
    pub size: u32,
    /// Alignment, in bytes.
    pub align: u32,
}

/// A kernel, ready to run.
pub(crate) struct Program {
    pub name: String,
    pub insts: Vec<Inst>,
    pub about: Vec<About>,
    pub layout: Layout,
    pub constants: Constants,
    /// Branch targets of indexed branches.
    pub tables: Vec<Vec<u32>>,
    pub params: Vec<Parameter>,
    pub param_bytes: u32,
    /// Statically declared shared memory.
    pub static_shared: u32,
    /// Where the shared memory that the launch sizes starts, if the kernel uses any.
    pub dynamic_shared: Option<u32>,
    /// Local memory per thread.
    pub local_bytes: u32,
    /// `.maxntid`, as a product, and `.reqntid`.
    pub max_threads: Option<u32>,
    pub required_block: Option<[u32; 3]>,
    /// Whether it needs a stack: for functions that are not expanded, or for `alloca`.
    pub stacks: bool,
    /// Whether blocks can watch each other, so that their order must be the seed's.
    pub communicates: bool,
    /// What approximate functions do when they are not disturbed, and how much they may be.
    pub approximate: Vec<(ExecFn, Bound)>,
    /// Functions that are not expanded where they are called.
    pub functions: Vec<Callable>,
    /// Calls of them, by the instruction's spare word.
    pub sites: Vec<Site>,
}

/// A function with a place of its own: called through a pointer, or while it runs.
#[derive(Debug, Clone)]
pub(crate) struct Callable {
    pub name: String,
    /// Its address, if it is taken.
    pub address: Option<u64>,
    /// Position of its first instruction.
    pub entry: u32,
    /// Slots of its registers, by bank: nobody else's, and saved while it runs again.
    pub slots: [Vec<u16>; 3],
    /// Slot of the register that holds its frame's address.
    pub frame: Option<u16>,
    /// Size and alignment of its frame in local memory.
    pub bytes: u32,
    pub align: u32,
    /// Offset in the frame and size of each return parameter, and of each parameter.
    pub returns: Vec<(u32, u32)>,
    pub params: Vec<(u32, u32)>,
}

/// A call of a [`Callable`].
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// What it may mean; if it is not indirect, there is one.
    pub candidates: Vec<u16>,
    pub indirect: bool,
    /// Place and size of each actual return parameter, and of each actual parameter; places are
    /// relative to the instruction's first source.
    pub returns: Vec<(u32, u32)>,
    pub arguments: Vec<(u32, u32)>,
}

/// Addresses of a module's variables, known once it is loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModuleSymbols {
    /// `.global` and `.const` variables.
    pub addresses: HashMap<String, (ast::Space, u64)>,
    /// Functions.
    pub functions: HashMap<String, u64>,
}

/// Size in bytes of a variable; `None` for `[]`.
pub(crate) fn size_of(variable: &ast::Variable) -> Option<u64> {
    let element = u64::from(variable.ty.bits().max(8) / 8) * u64::from(variable.vector.max(1));
    variable.dims.iter().try_fold(element, |size, dim| {
        dim.and_then(|dim| size.checked_mul(dim))
    })
}

/// Alignment in bytes of a variable.
pub(crate) fn align_of(variable: &ast::Variable) -> u64 {
    let natural = u64::from(variable.ty.bits().max(8) / 8) * u64::from(variable.vector.max(1));
    variable.align.unwrap_or(natural).max(1)
}

/// Binds a kernel of a module.
pub(crate) fn bind<'a>(
    module: &'a ast::Module,
    symbols: &ModuleSymbols,
    kernel: &'a ast::Function,
    sm: u32,
) -> Result<Program, LoadError> {
    let mut binder = body::Binder::new(module, symbols, sm);
    let (params, param_bytes) = binder.parameters(kernel)?;
    binder.body(kernel)?;
    let number = |name: &str| {
        kernel
            .directives
            .iter()
            .find(|(directive, _)| directive == name)
            .map(|(_, numbers)| {
                let axis = |n: usize| {
                    numbers
                        .get(n)
                        .copied()
                        .unwrap_or(1)
                        .min(u64::from(u32::MAX)) as u32
                };
                [axis(0), axis(1), axis(2)]
            })
    };
    let max_threads = number("maxntid").map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z));
    let required_block = number("reqntid");
    binder.finish(
        kernel,
        symbols,
        params,
        param_bytes,
        max_threads,
        required_block,
    )
}
