//! Changes PTX, one instruction at a time, to see whether a kernel's tests notice.
//!
//! [`mutants`] lists what could be wrong with a text: a barrier left out, a guard turned around, an
//! address one element off. [`sample`] draws from the list, every [`Kind`] as often as it can, spread
//! over the lines of the source. Each [`Mutant`] makes a text that differs in one instruction and keeps
//! every line number. Whoever runs them counts what was noticed into a [`Score`].
//!
//! ```
//! use ptx_emulator::mutate::{Kind, mutants, sample};
//!
//! let ptx = "
//!     .version 7.0
//!     .target sm_80
//!     .visible .entry add(.param .u64 data) {
//!         .reg .b64 %rd; .reg .b32 %r;
//!         ld.param.u64 %rd, [data];
//!         ld.global.u32 %r, [%rd+4];
//!         add.u32 %r, %r, 1;
//!         st.global.u32 [%rd], %r;
//!         ret;
//!     }";
//! let mut all = mutants(ptx)?;
//! // Only lines that ran are worth it: `LaunchStats::lines` knows them.
//! all.retain(|mutant| mutant.line == 7);
//! let offsets: Vec<&str> = all.iter().map(|mutant| mutant.after.as_str()).collect();
//! assert_eq!(offsets, ["ld.global.u32 %r, [%rd+8];", "ld.global.u32 %r, [%rd];", ""]);
//! assert!(all[0].apply(ptx).contains("%r, [%rd+8];"));
//! assert_eq!(sample(&all, 2, 0).len(), 2);
//! # Ok::<(), ptx_emulator::parse::ParseError>(())
//! ```
//!
//! `ptxrun mutate` is this from a shell. A command that it tests finds the changed text through
//! [`Handover`].

mod control;
mod data;
mod handover;
mod sample;
mod score;
mod site;

pub use handover::Handover;
pub use sample::sample;
pub use score::{Score, at_least};

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::ast::{Function, Statement};
use crate::parse::{ParseError, parse};
use site::Site;

/// What is changed. The kinds are the strata of [`sample`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A barrier, or an arrival at one, is left out, or waits for a warp instead of the block.
    Barrier,
    /// A wait for asynchronous copies or for an mbarrier is left out, or waits for one group less.
    Wait,
    /// A fence is left out, is weaker, or has a narrower scope.
    Fence,
    /// A strong access or atomic acquires or releases nothing, or has a narrower scope.
    Order,
    /// A branch or an exit is always taken, never, or when it should not be.
    Branch,
    /// An instruction's guard is turned around, or gone.
    Guard,
    /// A comparison includes its limit, or does not, or is turned around.
    Comparison,
    /// Predicates are combined in another way.
    Logic,
    /// A selection takes the other value.
    Select,
    /// Lanes exchange with other lanes, or vote in another way.
    Exchange,
    /// A constant in an address is one access off.
    Address,
    /// A constant elsewhere is one off, or twice as big.
    Constant,
    /// Registers of a fragment or vector change places; a matrix is transposed.
    Fragment,
    /// Rounds to the other side, or does not saturate.
    Rounding,
    /// Reads an operand as another type: signed as unsigned, f16 as bf16.
    Type,
    /// Another operation of the same form, or operands that change places.
    Arithmetic,
    /// A copy to shared memory fills with other bytes, or is shorter.
    Copy,
    /// A store, reduction or copy is left out.
    Store,
    /// An instruction that only computes is left out.
    Deletion,
    /// Another cache operator or hint. What a kernel computes does not depend on these, so they are
    /// [not drawn by default](Kind::by_default).
    Cache,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 20] = [
        Kind::Barrier,
        Kind::Wait,
        Kind::Fence,
        Kind::Order,
        Kind::Branch,
        Kind::Guard,
        Kind::Comparison,
        Kind::Logic,
        Kind::Select,
        Kind::Exchange,
        Kind::Address,
        Kind::Constant,
        Kind::Fragment,
        Kind::Rounding,
        Kind::Type,
        Kind::Arithmetic,
        Kind::Copy,
        Kind::Store,
        Kind::Deletion,
        Kind::Cache,
    ];

    /// Its name: `barrier`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Barrier => "barrier",
            Kind::Wait => "wait",
            Kind::Fence => "fence",
            Kind::Order => "order",
            Kind::Branch => "branch",
            Kind::Guard => "guard",
            Kind::Comparison => "comparison",
            Kind::Logic => "logic",
            Kind::Select => "select",
            Kind::Exchange => "exchange",
            Kind::Address => "address",
            Kind::Constant => "constant",
            Kind::Fragment => "fragment",
            Kind::Rounding => "rounding",
            Kind::Type => "type",
            Kind::Arithmetic => "arithmetic",
            Kind::Copy => "copy",
            Kind::Store => "store",
            Kind::Deletion => "deletion",
            Kind::Cache => "cache",
        }
    }

    /// Whether a test could notice: all but [`Kind::Cache`].
    pub fn by_default(self) -> bool {
        self != Kind::Cache
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("{text:?} is no kind of mutant: expected one of {names}")
        })
    }
}

/// A text with one instruction changed or left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mutant {
    /// What is changed.
    pub kind: Kind,
    /// Line of the PTX text, from 1: that of the opcode.
    pub line: u32,
    /// File and line of the CUDA source, where `.loc` tells.
    pub source: Option<(String, u32)>,
    /// File and line of the call that was inlined here, where `.loc` tells.
    pub caller: Option<(String, u32)>,
    /// The instruction as it is.
    pub before: String,
    /// The instruction instead; nothing if it is left out.
    pub after: String,
    span: Range<usize>,
}

impl Mutant {
    /// The changed text. `text` is the one that [`mutants`] was given.
    ///
    /// # Panics
    /// If it is another, and shorter.
    pub fn apply(&self, text: &str) -> String {
        // What comes behind keeps its lines.
        let lines = |text: &str| text.matches('\n').count();
        let lost = lines(&self.before) - lines(&self.after);
        let mut changed = String::with_capacity(text.len() + 32);
        changed += &text[..self.span.start];
        changed += &self.after;
        changed.extend(std::iter::repeat_n('\n', lost));
        changed += &text[self.span.end..];
        changed
    }
}

/// Every change that is known for every instruction of a text, in the order of the text.
///
/// What cannot make a difference is left out where that can be seen from the instruction alone.
///
/// # Errors
/// As of [`parse`].
pub fn mutants(text: &str) -> Result<Vec<Mutant>, ParseError> {
    let module = parse(text)?;
    let mut walk = Walk {
        text,
        files: &module.files,
        loc: None,
        caller: None,
        all: Vec::new(),
    };
    for Function { body, .. } in &module.functions {
        (walk.loc, walk.caller) = (None, None);
        if let Some(body) = body {
            walk.statements(body);
        }
    }
    let mut seen = HashSet::new();
    walk.all
        .retain(|mutant| seen.insert((mutant.span.start, mutant.after.clone())));
    Ok(walk.all)
}

struct Walk<'a> {
    text: &'a str,
    files: &'a [(u32, String)],
    loc: Option<(u32, u32)>,
    caller: Option<(u32, u32)>,
    all: Vec<Mutant>,
}

impl Walk<'_> {
    fn statements(&mut self, statements: &[Statement]) {
        for (at, statement) in statements.iter().enumerate() {
            let instruction = match statement {
                Statement::Block(inner) => {
                    self.statements(inner);
                    continue;
                }
                Statement::Loc {
                    file,
                    line,
                    inlined_at,
                    ..
                } => {
                    self.loc = Some((*file, *line));
                    self.caller = inlined_at.map(|[file, line, _]| (file, line));
                    continue;
                }
                Statement::Instruction(instruction) => instruction,
                _ => continue,
            };
            let span = instruction.span.start as usize..instruction.span.end as usize;
            let Some(site) = Site::new(&self.text[span.clone()]) else {
                continue;
            };
            let mut changes = Changes::default();
            control::changes(&site, &statements[at + 1..], &mut changes);
            data::changes(&site, &mut changes);
            let place = |(file, line)| (self.file(file), line);
            let (source, caller) = (self.loc.map(place), self.caller.map(place));
            for (kind, after) in changes.0 {
                if after != site.text {
                    self.all.push(Mutant {
                        kind,
                        line: instruction.line,
                        source: source.clone(),
                        caller: caller.clone(),
                        before: site.text.to_string(),
                        after,
                        span: span.clone(),
                    });
                }
            }
        }
    }

    fn file(&self, number: u32) -> String {
        let known = self.files.iter().find(|(n, _)| *n == number);
        known.map_or_else(|| format!("file {number}"), |(_, name)| name.clone())
    }
}

/// What an instruction could be instead.
#[derive(Default)]
struct Changes(Vec<(Kind, String)>);

impl Changes {
    fn push(&mut self, kind: Kind, after: impl Into<Option<String>>) {
        if let Some(after) = after.into() {
            self.0.push((kind, after));
        }
    }

    /// The instruction is left out.
    fn delete(&mut self, kind: Kind) {
        self.0.push((kind, String::new()));
    }
}
