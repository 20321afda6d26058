//! What a launch did that works but should not be relied on.

use std::collections::BTreeMap;
use std::fmt;

/// Kinds of warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WarningKind {
    /// Threads ended before the `cp.async` that they had issued were waited for: what those copies
    /// bring, nobody may read.
    PendingCopies,
    /// Lanes of a warp came to an `.aligned` instruction in different groups. They were waited for
    /// here; hardware is free not to.
    NotConverged,
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WarningKind::PendingCopies => "threads end with copies under way",
            WarningKind::NotConverged => {
                "lanes come to an `.aligned` instruction from different branches"
            }
        })
    }
}

/// A warning of a launch, with where and how often. Of the blocks concerned it names the first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// What.
    pub kind: WarningKind,
    /// Line in the PTX text.
    pub line: u32,
    /// File and line of the CUDA source, if the PTX has `.loc` rows.
    pub source_line: Option<(String, u32)>,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Mask of the lanes concerned.
    pub lanes: u32,
    /// How many times it happened in all.
    pub count: u64,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at PTX line {}", self.kind, self.line)?;
        if let Some((file, line)) = &self.source_line {
            write!(f, " ({file}:{line})")?;
        }
        let [x, y, z] = self.block;
        write!(
            f,
            ": block ({x}, {y}, {z}), warp {}, lanes {:#010x}; {} times",
            self.warp, self.lanes, self.count
        )
    }
}

/// Where a warning was met first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met {
    pub block: u64,
    pub warp: usize,
    pub lanes: u32,
    pub count: u64,
}

/// The warnings of a worker, by kind and position of the instruction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Warnings {
    pub met: BTreeMap<(u32, WarningKind), Met>,
}

impl Warnings {
    #[cold]
    pub(crate) fn note(&mut self, kind: WarningKind, pc: u32, met: Met) {
        let first = self
            .met
            .entry((pc, kind))
            .or_insert(Met { count: 0, ..met });
        let count = first.count + met.count;
        // Workers meet blocks in any order; the first of them is the same for all.
        if met.block < first.block {
            *first = met;
        }
        first.count = count;
    }

    pub(crate) fn add(&mut self, other: &Warnings) {
        for ((pc, kind), met) in &other.met {
            self.note(*kind, *pc, *met);
        }
    }
}
