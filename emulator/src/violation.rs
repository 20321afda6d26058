//! What a program can do wrong, and how it is told.

use std::fmt;

/// What is wrong, as found by the instruction that met it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// What.
    pub kind: Kind,
    /// Lanes concerned.
    pub lanes: u32,
    /// Address concerned (of the first lane).
    pub address: Option<u64>,
    /// The access that this one conflicts with.
    pub other: Option<crate::memory::race::Conflict>,
}

/// State space of an access, as violations name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Global,
    Shared,
    Local,
    Param,
    Const,
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Param => "parameter",
            Space::Const => "constant",
            Space::Generic => "generic",
        })
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads and writes at once.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic access",
        })
    }
}

/// Kinds of violations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// An access outside of everything that was allocated.
    #[error("{access} of {bytes} bytes out of bounds in {space} memory")]
    OutOfBounds {
        /// Where.
        space: Space,
        /// What.
        access: Access,
        /// Bytes per lane.
        bytes: u32,
    },
    /// An access to an allocation that has been freed.
    #[error("{access} of {bytes} bytes in memory that has been freed")]
    UseAfterFree {
        /// What.
        access: Access,
        /// Bytes per lane.
        bytes: u32,
    },
    /// An access whose address is no multiple of its size.
    #[error(
        "{access} of {bytes} bytes at an address that is no multiple of {bytes} in {space} memory"
    )]
    Misaligned {
        /// Where.
        space: Space,
        /// What.
        access: Access,
        /// Bytes per lane.
        bytes: u32,
    },
    /// A write to memory that may only be read.
    #[error("{access} in {space} memory, which is read-only")]
    ReadOnly {
        /// Where.
        space: Space,
        /// What.
        access: Access,
    },
    /// An address in another space than the instruction works on.
    #[error("a generic address where one in {expected} memory is needed")]
    WrongSpace {
        /// Space that the instruction works on.
        expected: Space,
    },
    /// A decision, an address or a tensor operation made of bytes that were never written.
    #[error("{what} is uninitialised")]
    Uninitialised {
        /// What the value is used for.
        what: &'static str,
    },
    /// Two accesses to shared memory with nothing that orders them.
    #[error(
        "race in shared memory: this {access} and a {other} by {thread} at PTX line {line} \
         are not ordered by a barrier"
    )]
    SharedRace {
        /// What this access does.
        access: Access,
        /// What the other one did.
        other: Access,
        /// Who made the other one.
        thread: String,
        /// Line of the other one; 0 if no longer known.
        line: u32,
    },
    /// Two accesses to global memory with nothing that orders them.
    #[error(
        "race in global memory: this {access} and a {other} by {thread} at PTX line {line} \
         are not ordered: {missing}"
    )]
    GlobalRace {
        /// What this access does.
        access: Access,
        /// What the other one did.
        other: Access,
        /// Who made the other one.
        thread: String,
        /// Line of the other one; 0 if no longer known.
        line: u32,
        /// What would order them.
        missing: &'static str,
    },
    /// Bytes that are read through the read-only cache, and written by the same launch.
    #[error(
        "{access} of bytes that the same launch accesses by a {other} by {thread} at PTX line {line}: \
         ld.global.nc may return anything once they are written"
    )]
    NonCoherent {
        /// What this access does.
        access: Access,
        /// What the other one did; one of both is a read by `ld.global.nc`.
        other: Access,
        /// Who made the other one.
        thread: String,
        /// Line of the other one.
        line: u32,
    },
    /// An access to bytes that a `cp.async` is still writing.
    #[error("{access} of shared memory that a cp.async issued by {thread} may still be writing")]
    AsyncPending {
        /// What.
        access: Access,
        /// Who issued the copy.
        thread: String,
    },
    /// A plain access to bytes that are an `mbarrier` object.
    #[error(
        "{access} of bytes that are an mbarrier, which only mbarrier instructions may access until it is invalidated"
    )]
    MbarrierBytes {
        /// What.
        access: Access,
    },
    /// An `mbarrier` that is used in a way that it is not for.
    #[error("mbarrier: {reason}")]
    BadMbarrier {
        /// What is wrong.
        reason: String,
    },
    /// An integer division by zero, whose result PTX leaves open.
    #[error("integer division by zero")]
    DivisionByZero,
    /// Lanes that can never arrive at an instruction that waits for them.
    #[error("waits for lanes {missing:#010x}, which can never arrive: {reason}")]
    LanesMissing {
        /// The lanes.
        missing: u32,
        /// Why they cannot.
        reason: String,
    },
    /// A lane that is not in the mask of its own collective instruction.
    #[error("the executing lane is not in its own member mask {mask:#010x}")]
    NotInMask {
        /// The mask.
        mask: u32,
    },
    /// A barrier used with wrong or contradictory arguments.
    #[error("barrier {id}: {reason}")]
    BadBarrier {
        /// Its number.
        id: u32,
        /// What is wrong.
        reason: String,
    },
    /// No thread of the block can go on.
    #[error("deadlock: {waiting}")]
    Deadlock {
        /// Where each warp waits.
        waiting: String,
    },
    /// An argument that the instruction does not allow.
    #[error("{0}")]
    BadOperand(String),
    /// `trap`.
    #[error("trap")]
    Trap,
    /// A failed `assert`.
    #[error("assertion failed: {0}")]
    Assert(String),
    /// Blocks that run and write nothing, while others have no room to start.
    #[error(
        "no progress: for long no block has written anything, and {left} of {blocks} blocks have not \
         started, since the device holds {resident} at once. One that runs may be waiting for one that \
         cannot start"
    )]
    NotResident {
        /// Blocks that have not started.
        left: u64,
        /// Blocks of the grid.
        blocks: u64,
        /// Blocks that the device holds at once.
        resident: u64,
    },
    /// More instructions than the launch may take: an endless loop, or too small a budget.
    #[error("the block has run {0} warp instructions without an end")]
    Budget(u64),
}

/// A rule that the program broke, with where and by whom.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Violation {
    /// What.
    pub kind: Kind,
    /// Kernel.
    pub kernel: String,
    /// Line in the PTX text.
    pub line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// File and line of the CUDA source, if the PTX has `.loc` rows.
    pub source_line: Option<(String, u32)>,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Mask of the lanes concerned.
    pub lanes: u32,
    /// Address concerned, of the first of the lanes.
    pub address: Option<u64>,
    /// Where the address lies with respect to the next allocation.
    pub place: Option<String>,
    /// The access that this one conflicts with, for a race.
    pub other: Option<OtherAccess>,
    /// Seed that replays it.
    pub seed: u64,
}

/// An access that another one conflicts with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherAccess {
    /// Line in the PTX text; 0 if it is no longer known.
    pub line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// File and line of the CUDA source, if the PTX has `.loc` rows.
    pub source_line: Option<(String, u32)>,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lane, unless several of the warp did the same.
    pub lane: Option<u32>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kind)?;
        writeln!(
            f,
            "  --> {}, PTX line {}: {}",
            self.kernel, self.line, self.instruction
        )?;
        if let Some((file, line)) = &self.source_line {
            writeln!(f, "   at  {file}:{line}")?;
        }
        let [x, y, z] = self.block;
        write!(
            f,
            "   by  block ({x}, {y}, {z}), warp {}, lanes {:#010x}",
            self.warp, self.lanes
        )?;
        match self.lanes.count_ones() {
            1 => writeln!(f, " (lane {})", self.lanes.trailing_zeros())?,
            _ => writeln!(f)?,
        }
        if let Some(other) = &self.other {
            writeln!(f, "  and  PTX line {}: {}", other.line, other.instruction)?;
            if let Some((file, line)) = &other.source_line {
                writeln!(f, "   at  {file}:{line}")?;
            }
            let [x, y, z] = other.block;
            write!(f, "   by  block ({x}, {y}, {z}), warp {}", other.warp)?;
            match other.lane {
                Some(lane) => writeln!(f, ", lane {lane}")?,
                None => writeln!(f)?,
            }
        }
        if let Some(address) = self.address {
            write!(f, "   address {address:#x}")?;
            match &self.place {
                Some(place) => writeln!(f, ": {place}")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "   replay with seed {}", self.seed)
    }
}

impl std::error::Error for Violation {}

/// A failure of the emulator itself, never of the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the emulator failed: {0}")]
pub struct EmulatorError(pub(crate) String);
