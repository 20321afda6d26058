//! The instruction set, one table row and one function per instruction.
//!
//! # Adding an instruction
//!
//! An instruction lives in exactly one family file of this folder. Its [`Row`] says what the text
//! may look like; the function picked by `.exec(..)` is what it does to a warp. Nothing else has to
//! change: the binder, the error messages, the counters and the coverage page read the row.
//!
//! ```text
//! use super::prelude::*;
//!
//! pub(super) static ROWS: &[Row] = &[
//!     // add{.sat}.s32 d, a, b; and the plain form for every other integer type.
//!     row("add", "Integer Arithmetic Instructions: add", Class::Int)
//!         .mods(&[flag("sat"), types(&[U16, U32, U64, S16, S32, S64])])
//!         .args(&[D(T0), S(T0), S(T0)])
//!         .exec(|f| match (f.ty(0), f.has("sat")) {
//!             (S32, true) => Some(lanes!(|a: i32, b: i32| -> i32 { a.saturating_add(b) })),
//!             (_, true) => None, // a load error: `.sat` does not go with that type
//!             (t, false) => per_type!(t, T in [U16 U32 U64 S16 S32 S64] =>
//!                 lanes!(|a: T, b: T| -> T { a.wrapping_add(b) })),
//!         }),
//! ];
//! ```
//!
//! * **Modifiers** ([`Mod`]) are order-free, each group is used at most once: [`flag`]`("ftz")` may
//!   be there, [`need`]`("sync")` must, [`maybe`]`("rnd", &["rn", "rz"])` is at most one of them,
//!   [`one`]`("cmp", &[..])` exactly one. [`types`] lists what the next type may be; types bind from
//!   left to right, so `cvt.rn.f16.f32` has two of them. In `exec`, [`Form`] answers `f.ty(0)`,
//!   `f.has("ftz")` and `f.one("rnd") == Some("rz")`.
//! * **Operands** ([`Arg`]) give kind and type; the type is `T0`, `T1`, .. (the form's types),
//!   `Wide(0)` (twice as wide, for `mul.wide`) or `Is(B32)`. `S` takes a register, a special
//!   register, a literal (integer or floating) or the address of a variable, all of which reach the
//!   function as a slot: it never matters there which it was. Predicates are `D(Is(Pred))` and
//!   `S(Is(Pred))` (the latter may be written `!p`). `Pair(a, b)` is `d` or `d|p`: two destinations,
//!   of which the second is thrown away if not written. `DV(ty, Count)` and `SV(ty, Count)` are
//!   vectors in braces. `I` is an integer constant, found in `inst.imm`. `Opt(&..)` may be missing at
//!   the end. Registers must have exactly the width of the type, but for `DW`/`SW`, which take wider
//!   ones (ld, st, cvt); for these `f.dst_bits` / `f.src_bits` tell the register's width.
//! * **The function** is made by a macro:
//!   - [`lanes!`]`(|a: f32, b: f32| -> f32 { .. })` maps 1 to 4 sources to one destination, lane by
//!     lane. Element types: `u8 i8 u16 i16 u32 i32 u64 i64 f32 f64`, the bits of halves and their
//!     pairs as `u16` and `u32`, and `bool` for predicates, as source and as destination. Uninitialised
//!     lanes are tracked for you.
//!   - [`exec!`]`(|w, i, m| { .. Ok(Flow::Next) })` for all else: `w.get::<f32>(i.s[0])` gives 32
//!     lanes, `w.put(i.d[0], m, valid, lanes)` writes those of mask `m`; `w.valid::<f32>(i.s[0])` says
//!     which lanes were ever written; `w.pred(i, k)` is source `k` as a mask of lanes (with `!`
//!     applied), `w.put_pred(i.d[0], m, valid, bits)` writes one. `w.carry` is the `.cc` flag, one bit
//!     per lane. A fault of the program is `Err(w.fault(Kind.., lanes))`.
//!   - [`per_type!`]`(t, T in [S32 U32] => e)` instantiates `e` per type (`None` for any other) and
//!     [`per_flag!`]`(f.has("ftz"), FTZ => e)` per truth value: `T` and `const FTZ: bool` can be used
//!     inside `lanes!` and `exec!`.
//!   - Bodies are compiled twice, for the baseline and for AVX2 + FMA (see [`crate::simd`]), and the
//!     loops over lanes are vectorised by the compiler, so write them without branches where that is
//!     natural. Functions they call should be `#[inline(always)]`; then `f32::mul_add` is one `vfmadd`.
//! * **Approximate** instructions say with `.bound(..)` what they approximate and how well (see `perturb`).
//! * Rows whose class [computes](Class::computes) touch the registers of their own lanes and nothing else,
//!   and end with `Flow::Next`: straight lines of them run without being asked for anything in between.
//! * List the family's `ROWS` in [`FAMILIES`] below.

use crate::ast::Type;
use crate::warp::Warp;
use perturb::Bound;

pub(crate) mod async_copy;
mod atomic;
mod bits;
pub(crate) mod call;
mod compare;
#[cfg(test)]
mod conformance;
pub(crate) mod control;
mod convert;
mod exchange;
mod float;
#[cfg(any(test, fuzzing))]
pub mod generate;
mod half;
mod hints;
mod integer;
mod logic;
pub(crate) mod matching;
pub(crate) mod matrix;
mod mbarrier;
pub(crate) mod memory;
mod mma;
mod mma_integer;
mod moves;
#[cfg(ptx_mutation)]
pub mod mutation;
mod narrow;
pub(crate) mod perturb;
mod print;
mod special;
mod stack;
mod sync;

/// All rows, by family file.
static FAMILIES: &[&[Row]] = &[
    async_copy::ROWS,
    atomic::ROWS,
    exchange::ROWS,
    integer::ROWS,
    bits::ROWS,
    logic::ROWS,
    compare::ROWS,
    float::ROWS,
    half::ROWS,
    special::ROWS,
    convert::ROWS,
    narrow::ROWS,
    moves::ROWS,
    memory::ROWS,
    hints::ROWS,
    matrix::ROWS,
    mma::ROWS,
    mma_integer::ROWS,
    control::ROWS,
    call::ROWS,
    print::ROWS,
    sync::ROWS,
    mbarrier::ROWS,
    stack::ROWS,
];

/// What family files import.
pub(crate) mod prelude {
    pub(crate) use super::Arg::{A, D, DV, DW, I, Label, Opt, Pair, S, SV, SW};
    pub(crate) use super::Ty::{Is, Wide};
    pub(crate) use super::{
        Arg, Class, Count, ExecFn, Flow, Form, Inst, Mod, Row, Step, T0, T1, Together, exec, flag,
        lanes, maybe, need, one, per_flag, per_type, row, types,
    };
    pub(crate) use crate::ast::Type::{self, *};
    pub(crate) use crate::violation::Kind;
    pub(crate) use crate::warp::{Lane, Warp};
}

/// What an instruction does to the lanes in `mask` (guard already applied, never empty unless the
/// row is [`Row::always`]).
pub(crate) type ExecFn = fn(&mut Warp<'_>, &Inst, u32) -> Flow;

/// What becomes of the lanes after an instruction, or the fault that ends the launch.
pub(crate) type Step = Result<Flow, Box<crate::violation::Fault>>;

/// Where the lanes of an instruction go next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the next instruction.
    Next,
    /// The lanes of the mask go to `inst.target`, the others to the next instruction.
    Jump,
    /// Each lane of the mask goes to its entry of `warp.targets`.
    Scatter,
    /// The lanes of the mask end.
    Exit,
    /// The lanes wait at a barrier, and go on behind the instruction once released.
    Barrier,
    /// `warp.fault` ends the launch. Bodies return an error instead.
    Fault,
}

/// A body that [`crate::simd::select`] can compile for several processors.
pub(crate) trait Exec {
    /// See [`ExecFn`]; must be `#[inline(always)]`.
    fn run(warp: &mut Warp<'_>, inst: &Inst, mask: u32) -> Step;
}

/// Which execution unit an instruction keeps busy; the counters add up by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Moves, selects, and reads of special registers.
    Move,
    /// Integer and logic.
    Int,
    /// `f32`.
    Float,
    /// `f64`.
    Double,
    /// `f16`, `bf16` and their pairs.
    Half,
    /// Conversions.
    Convert,
    /// Approximate functions.
    Special,
    /// `mma`.
    Tensor,
    /// Loads and stores outside of shared memory.
    Memory,
    /// Loads and stores of shared memory, `ldmatrix`.
    Shared,
    /// Atomics and reductions.
    Atomic,
    /// Copies that run by themselves.
    Async,
    /// Shuffles, votes and other exchanges within a warp.
    Warp,
    /// Barriers and fences.
    Sync,
    /// Branches, calls, exits.
    Control,
}

impl Class {
    /// Every class, in the order of the counters.
    pub const ALL: [Class; 15] = [
        Class::Move,
        Class::Int,
        Class::Float,
        Class::Double,
        Class::Half,
        Class::Convert,
        Class::Special,
        Class::Tensor,
        Class::Memory,
        Class::Shared,
        Class::Atomic,
        Class::Async,
        Class::Warp,
        Class::Sync,
        Class::Control,
    ];

    /// Whether its instructions touch nothing but the registers of their own lanes, and always go on to
    /// the next one.
    pub(crate) fn computes(self) -> bool {
        use Class::*;
        matches!(self, Move | Int | Float | Double | Half | Convert | Special)
    }
}

/// Which lanes have to arrive before an instruction runs, at once for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Together {
    /// Each lane by itself.
    No,
    /// All 32 lanes of the warp, none of which may have exited (`mma`, `ldmatrix`).
    Warp,
    /// All lanes of the warp that have not exited (`bar.sync`).
    Live,
    /// The lanes named by the mask in source operand `.0` (`shfl.sync`).
    Mask(u8),
}

/// One instruction: how it is written and what it does. Made by [`row`].
pub(crate) struct Row {
    /// Opcode; may hold dots, where the first modifiers are fixed (`cp.async.commit_group`).
    pub opcode: &'static str,
    /// Title of its section in the PTX ISA (titles, since section numbers move).
    pub title: &'static str,
    /// Execution unit.
    pub class: Class,
    /// Modifiers.
    pub mods: &'static [Mod],
    /// Operands.
    pub args: &'static [Arg],
    /// Least `sm_` and least PTX version.
    pub since: (u32, (u32, u32)),
    /// Which lanes have to be there.
    pub together: Together,
    /// Whether it is run even if no lane passes the guard.
    pub always: bool,
    /// How wrong its results may be, if it is approximate.
    pub bound: Option<Bound>,
    /// Picks the function for a form; `None` if these modifiers and types do not go together.
    pub exec: fn(&mut Form<'_>) -> Option<ExecFn>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {}", self.opcode)
    }
}

/// What the table says of an instruction that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstructionInfo {
    /// Opcode with its required modifiers, e.g. `shfl.sync`.
    pub name: String,
    /// Title of its section in the PTX ISA.
    pub title: &'static str,
    /// Execution unit.
    pub class: Class,
    /// Least architecture: 80 for `sm_80`; 0 for all.
    pub sm: u32,
    /// Least PTX version.
    pub ptx: (u32, u32),
}

/// Every instruction that can be run, row by row of the table.
pub fn instructions() -> Vec<InstructionInfo> {
    let visible = |row: &&Row| !row.opcode.contains(' ');
    let describe = |row: &Row| {
        let needed = row.mods.iter().filter_map(|spec| match spec {
            Mod::Need(token) => Some(*token),
            _ => None,
        });
        let name = std::iter::once(row.opcode)
            .chain(needed)
            .collect::<Vec<_>>()
            .join(".");
        InstructionInfo {
            name,
            title: row.title,
            class: row.class,
            sm: row.since.0,
            ptx: row.since.1,
        }
    };
    FAMILIES
        .iter()
        .copied()
        .flatten()
        .filter(visible)
        .map(describe)
        .collect()
}

/// Starts a [`Row`].
pub(crate) const fn row(opcode: &'static str, title: &'static str, class: Class) -> Row {
    Row {
        opcode,
        title,
        class,
        mods: &[],
        args: &[],
        since: (0, (1, 0)),
        together: Together::No,
        always: false,
        bound: None,
        exec: |_| None,
    }
}

impl Row {
    /// Sets the modifiers.
    pub(crate) const fn mods(mut self, mods: &'static [Mod]) -> Row {
        self.mods = mods;
        self
    }

    /// Sets the operands.
    pub(crate) const fn args(mut self, args: &'static [Arg]) -> Row {
        self.args = args;
        self
    }

    /// Sets the least architecture (`80` for `sm_80`) and PTX version.
    pub(crate) const fn since(mut self, sm: u32, major: u32, minor: u32) -> Row {
        self.since = (sm, (major, minor));
        self
    }

    /// Sets which lanes have to arrive.
    pub(crate) const fn together(mut self, together: Together) -> Row {
        self.together = together;
        self
    }

    /// Sets how wrong the results may be.
    pub(crate) const fn bound(mut self, bound: Bound) -> Row {
        self.bound = Some(bound);
        self
    }

    /// Sets the function that picks the body.
    pub(crate) const fn exec(mut self, exec: fn(&mut Form<'_>) -> Option<ExecFn>) -> Row {
        self.exec = exec;
        self
    }
}

/// A modifier, or group of them, of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mod {
    /// May be written.
    Flag(&'static str),
    /// Must be written.
    Need(&'static str),
    /// At most one of them; name of the group and alternatives.
    Maybe(&'static str, &'static [&'static str]),
    /// Exactly one of them.
    One(&'static str, &'static [&'static str]),
    /// The next type.
    Types(&'static [Type]),
}

/// A modifier that may be written.
pub(crate) const fn flag(token: &'static str) -> Mod {
    Mod::Flag(token)
}

/// A modifier that must be written.
pub(crate) const fn need(token: &'static str) -> Mod {
    Mod::Need(token)
}

/// At most one of these.
pub(crate) const fn maybe(group: &'static str, tokens: &'static [&'static str]) -> Mod {
    Mod::Maybe(group, tokens)
}

/// Exactly one of these.
pub(crate) const fn one(group: &'static str, tokens: &'static [&'static str]) -> Mod {
    Mod::One(group, tokens)
}

/// The next type is one of these.
pub(crate) const fn types(types: &'static [Type]) -> Mod {
    Mod::Types(types)
}

/// Type of an operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ty {
    /// The form's n-th type.
    T(u8),
    /// The integer type twice as wide as the form's n-th.
    Wide(u8),
    /// Always this one.
    Is(Type),
}

/// The form's first type.
pub(crate) const T0: Ty = Ty::T(0);
/// The form's second type.
pub(crate) const T1: Ty = Ty::T(1);

/// Length of a vector operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// Always this many, in braces (for 1, braces may be left out).
    Fixed(u8),
    /// The digits of the modifier chosen in this group (`v4`, `x2`); a bare operand if none was.
    Group(&'static str),
}

/// An operand of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// Destination, or `_`: the next of `inst.d`.
    D(Ty),
    /// Destination whose register may be wider than the type.
    DW(Ty),
    /// Destination, or two of them as `d|p`: the next two of `inst.d`.
    Pair(Ty, Ty),
    /// Vector of destinations (registers may be wider), as many of `inst.d`.
    DV(Ty, Count),
    /// Source: the next of `inst.s`.
    S(Ty),
    /// Source whose register may be wider than the type.
    SW(Ty),
    /// Vector of sources (registers may be wider), as many of `inst.s`.
    SV(Ty, Count),
    /// Address in brackets: base register the next of `inst.s`, offset the next of `inst.imm`.
    A,
    /// Integer constant: the next of `inst.imm`.
    I,
    /// Label: `inst.target`.
    Label,
    /// May be missing.
    Opt(&'static Arg),
}

/// An instruction's modifiers and operands, as matched with its row.
pub(crate) struct Form<'a> {
    /// Types, from left to right.
    pub types: Vec<Type>,
    /// Tokens as chosen per entry of `row.mods` (`None` where an optional one is missing).
    pub chosen: Vec<Option<&'static str>>,
    /// The row.
    pub row: &'static Row,
    /// Integer constants of `I` operands and address offsets, in order.
    pub imm: &'a [i64],
    /// Width in bits of the registers among the destinations, in order.
    pub dst_bits: &'a [u32],
    /// Width in bits of the sources, in order: of the register, or of the type for anything else.
    pub src_bits: &'a [u32],
    /// Space of the variable that the first address starts from, if from one.
    pub base: Option<crate::ast::Space>,
    /// A word for the function: arrives as `inst.aux`.
    pub aux: u64,
}

impl Form<'_> {
    /// The n-th type; `Pred` beyond the last (which no row asks for).
    pub(crate) fn ty(&self, n: usize) -> Type {
        self.types.get(n).copied().unwrap_or(Type::Pred)
    }

    /// Whether this token is among the modifiers.
    pub(crate) fn has(&self, token: &str) -> bool {
        self.chosen.iter().flatten().any(|chosen| *chosen == token)
    }

    /// Which token of this group was chosen.
    pub(crate) fn one(&self, group: &str) -> Option<&'static str> {
        self.row
            .mods
            .iter()
            .zip(&self.chosen)
            .find_map(|(spec, chosen)| match spec {
                Mod::Maybe(name, _) | Mod::One(name, _) if *name == group => *chosen,
                _ => None,
            })
    }
}

/// A bound instruction. Slots index the warp's registers of the operand's width, see [`Warp`].
#[derive(Clone)]
pub(crate) struct Inst {
    /// What it does.
    pub exec: ExecFn,
    /// Predicate slot of the guard; slot 0 is always true.
    pub guard: u16,
    /// All ones for `@!p`, else 0.
    pub guard_flip: u32,
    /// Destinations.
    pub d: [u16; 8],
    /// Sources.
    pub s: [u16; 12],
    /// How many destinations there are.
    pub nd: u8,
    /// How many sources there are.
    pub ns: u8,
    /// Bit n: source n is written `!p`.
    pub negated: u16,
    /// Integer constants and address offsets.
    pub imm: [i64; 3],
    /// The form's word for the function.
    pub aux: u64,
    /// Where a branch goes.
    pub target: u32,
    /// Which lanes have to arrive.
    pub together: Together,
    /// Whether to run even if no lane passes the guard.
    pub always: bool,
    /// How many instructions from this one on do nothing but compute: whoever comes to the first
    /// runs all of them.
    pub straight: u16,
    /// What it does if nothing is wrong with its row, and widths of the first and last destination.
    #[cfg(ptx_mutation)]
    pub right: (Option<ExecFn>, [u32; 2]),
}

/// A function that maps sources to one destination, lane by lane.
///
/// `lanes!(cold |..| ..)` is compiled once, for the baseline, instead of once more for AVX2 + FMA:
/// for whatever inner loops do not live on, since the crate's compile time is mostly these bodies.
macro_rules! lanes {
    (cold |$($a:ident : $A:ty),+| -> $D:ty $body:block) => {
        $crate::isa::lanes!(@ baseline |$($a : $A),+| -> $D $body)
    };
    (|$($a:ident : $A:ty),+| -> $D:ty $body:block) => {
        $crate::isa::lanes!(@ select |$($a : $A),+| -> $D $body)
    };
    (@ $select:ident |$($a:ident : $A:ty),+| -> $D:ty $body:block) => {{
        struct Body;
        impl Body {
            #[inline(always)]
            fn lane($($a: $A),+) -> $D $body
        }
        impl $crate::isa::Exec for Body {
            #[inline(always)]
            fn run(
                warp: &mut $crate::warp::Warp<'_>,
                inst: &$crate::isa::Inst,
                mask: u32,
            ) -> $crate::isa::Step {
                #[allow(unused_imports)]
                use $crate::warp::Source;
                let mut _k = 0;
                let mut valid = u32::MAX;
                $(
                    let ($a, written) = <$A as Source>::fetch(warp, inst, _k);
                    valid &= written;
                    _k += 1;
                )+
                let mut out = [<$D as Source>::ZERO; 32];
                for lane in 0..32 {
                    out[lane] = Body::lane($(<$A as Source>::lane($a, lane)),+);
                }
                <$D as Source>::store(warp, inst.d[0], mask, valid, out);
                Ok($crate::isa::Flow::Next)
            }
        }
        $crate::simd::$select::<Body>()
    }};
}

/// A function written out over the warp; `cold` as for [`lanes!`].
macro_rules! exec {
    (cold |$w:ident, $i:ident, $m:ident| $body:expr) => {
        $crate::isa::exec!(@ baseline |$w, $i, $m| $body)
    };
    (|$w:ident, $i:ident, $m:ident| $body:expr) => {
        $crate::isa::exec!(@ select |$w, $i, $m| $body)
    };
    (@ $select:ident |$w:ident, $i:ident, $m:ident| $body:expr) => {{
        struct Body;
        impl $crate::isa::Exec for Body {
            #[inline(always)]
            fn run(
                $w: &mut $crate::warp::Warp<'_>,
                $i: &$crate::isa::Inst,
                $m: u32,
            ) -> $crate::isa::Step {
                $body
            }
        }
        $crate::simd::$select::<Body>()
    }};
}

/// Instantiates an expression for the type that a form has, and is `None` for any other type.
macro_rules! per_type {
    ($t:expr, $T:ident in [$($v:ident)+] => $e:expr) => {
        match $t {
            $($crate::ast::Type::$v => {
                type $T = $crate::isa::rust_type!($v);
                Some($e)
            })+
            _ => None,
        }
    };
}

/// Instantiates an expression for both values of a constant.
macro_rules! per_flag {
    ($value:expr, $NAME:ident => $e:expr) => {
        if $value {
            const $NAME: bool = true;
            $e
        } else {
            const $NAME: bool = false;
            $e
        }
    };
}

/// The Rust type of a lane of a PTX type.
#[rustfmt::skip]
macro_rules! rust_type {
    (B8) => { u8 }; (U8) => { u8 }; (S8) => { i8 };
    (B16) => { u16 }; (U16) => { u16 }; (S16) => { i16 };
    (B32) => { u32 }; (U32) => { u32 }; (S32) => { i32 };
    (B64) => { u64 }; (U64) => { u64 }; (S64) => { i64 };
    (F16) => { u16 }; (F16x2) => { u32 };
    (BF16) => { u16 }; (BF16x2) => { u32 };
    (F32) => { f32 }; (TF32) => { f32 }; (F64) => { f64 };
    (Pred) => { bool };
}

pub(crate) use {exec, lanes, per_flag, per_type, rust_type};
