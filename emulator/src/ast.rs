//! What the parser hands to the binder: PTX as written, with every name still a name.
//!
//! Nothing here knows which opcodes exist; that is the business of the instruction table. An instruction
//! is its opcode with its modifiers in the order of the text, and its operands. Every node keeps
//! the line it came from, so that later stages can point at it.

use std::ops::Range;

/// One PTX file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target` with its options, e.g. `["sm_80", "debug"]`.
    pub target: Vec<String>,
    /// `.address_size`: 64, also where it is not written (32 is refused by the parser).
    pub address_size: u32,
    /// `.file N "path"` rows: number and path.
    pub files: Vec<(u32, String)>,
    /// Module-scope variables (`.const`, `.global`, `.shared`, `.extern .shared`), in order.
    pub variables: Vec<Variable>,
    /// Kernels (`.entry`) and device functions (`.func`), in order; prototypes have no body.
    pub functions: Vec<Function>,
    /// Module-scope `.pragma` texts with their lines.
    pub pragmas: Vec<(String, u32)>,
    /// `.alias name, aliasee;` rows.
    pub aliases: Vec<(String, String)>,
}

/// State space of a variable, parameter or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`
    Reg,
    /// `.param`
    Param,
    /// `.const`
    Const,
    /// `.global`
    Global,
    /// `.shared` (also `.shared::cta`)
    Shared,
    /// `.local`
    Local,
}

/// A fundamental type without its dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    Pred,
}

/// A declared variable or parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name, `%` included where written.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// `.v2`/`.v4`: 2 or 4, else 1.
    pub vector: u32,
    /// Array dimensions; empty for a scalar; `None` for `[]`.
    pub dims: Vec<Option<u64>>,
    /// `.align`, in bytes, if written.
    pub align: Option<u64>,
    /// For `name<N>`, which declares `name0 .. name(N-1)`: N.
    pub count: Option<u32>,
    /// Initialiser elements, flattened: rows that the text leaves short are filled with zeros.
    /// Elements beyond its end are zero; empty if there is no initialiser.
    pub init: Vec<Init>,
    /// `.extern`, `.visible`, `.weak`, `.common` as written.
    pub linkage: Option<Linkage>,
    /// For `.param .u64 .ptr .global .align 16 p`: pointed-to space and alignment (4 if unwritten).
    pub ptr: Option<(Option<Space>, u64)>,
    /// `.attribute(.managed)` and its like: the texts between the parentheses.
    pub attributes: Vec<String>,
    /// Line of the declaration.
    pub line: u32,
}

/// Linking directive of a module-scope name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Linkage {
    Extern,
    Visible,
    Weak,
    Common,
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Integer.
    Int(i128),
    /// Floating literal, as its `f64` value (`0f` and `0d` forms are converted exactly).
    Float(f64),
    /// Address of a variable or function plus offset; `generic(x)` sets the flag.
    Address {
        /// What it is the address of.
        name: String,
        /// Byte offset.
        offset: i64,
        /// Written as `generic(name)`.
        generic: bool,
        /// For `0xff00(name)`: the bits of the address that the element holds, shifted down.
        mask: Option<u64>,
    },
}

/// A `.entry` or `.func`.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// True for `.entry`.
    pub entry: bool,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// Parameters.
    pub params: Vec<Variable>,
    /// `.maxntid 128, 1, 1`, `.minnctapersm 2`, `.noreturn`, ...: name without dot, and numbers.
    pub directives: Vec<(String, Vec<u64>)>,
    /// `.pragma` texts between the parameters and the body.
    pub pragmas: Vec<String>,
    /// Linking directive.
    pub linkage: Option<Linkage>,
    /// Body, or `None` for a prototype.
    pub body: Option<Vec<Statement>>,
    /// Line of the name.
    pub line: u32,
}

/// A statement of a body. Scopes nest, since inline assembly opens `{ .reg ... }` blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `name:`
    Label(String, u32),
    /// A variable or register declaration.
    Variable(Variable),
    /// `{ ... }`
    Block(Vec<Statement>),
    /// An instruction.
    Instruction(Instruction),
    /// `.loc file line column`, applying to the instructions that follow.
    Loc {
        /// Number from a `.file` row.
        file: u32,
        /// Source line.
        line: u32,
        /// Source column.
        column: u32,
        /// Where the call stands that was inlined here: file, line and column.
        inlined_at: Option<[u32; 3]>,
    },
    /// `.pragma "text"`.
    Pragma(String, u32),
    /// `name: .branchtargets a, b;` or `.calltargets`: kind and names.
    Table {
        /// Label in front of it.
        label: String,
        /// Directive without dot.
        kind: String,
        /// Names in the list.
        items: Vec<String>,
        /// Line.
        line: u32,
    },
    /// `name: .callprototype (returns) _ (params);`
    Prototype {
        /// Label in front of it.
        label: String,
        /// Return parameters.
        returns: Vec<Variable>,
        /// Parameters.
        params: Vec<Variable>,
        /// Line.
        line: u32,
    },
}

/// `@!p opcode.mods operands;`
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Guard predicate: name, and true for `@!p`.
    pub guard: Option<(String, bool)>,
    /// Opcode and modifiers split at dots (`::` kept inside a piece):
    /// `["ld", "shared::cta", "v4", "b32"]`.
    pub opcode: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Line in the PTX text, from 1: that of the opcode.
    pub line: u32,
    /// Bytes of the PTX text, from guard to semicolon.
    pub span: Range<u32>,
}

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// Register, special register (`%tid.x`), variable, label or function name; `!p` has `negated`.
    Name {
        /// As written, dots of special registers included.
        name: String,
        /// Written as `!p`.
        negated: bool,
    },
    /// Integer literal (constant expressions are folded by the parser).
    Int(i128),
    /// Floating literal: decimal, or its bits behind `0f` (of an `f32`) or `0d` (of an `f64`).
    Float {
        /// Value.
        value: f64,
        /// The exact 32 bits, where written as `0f`.
        bits32: Option<u32>,
    },
    /// `{a, b, _}`: vector of operands.
    Vector(Vec<Operand>),
    /// `p|q`: pair of destinations.
    Pair(Box<Operand>, Box<Operand>),
    /// `[base + offset]`.
    Address {
        /// Register or variable; `None` for an immediate address.
        base: Option<String>,
        /// Byte offset.
        offset: i64,
    },
    /// `[name, {a, b}]`: textures and tensors.
    Indexed {
        /// Texture, tensor map or register.
        base: String,
        /// What follows the comma.
        index: Box<Operand>,
    },
    /// `name+offset` outside brackets (as `mov` takes), offset not zero.
    NamePlus {
        /// Variable.
        name: String,
        /// Byte offset.
        offset: i64,
    },
    /// `_`
    Sink,
    /// `(a, b)`: argument and return lists of `call`.
    List(Vec<Operand>),
}
