//! What a launch has to say, with names and lines.

use super::Kernel;
use crate::machine::{Failure, Launch};
use crate::memory::order::COPIES;
use crate::memory::{SHARED_BASE, Window};
use crate::violation::{Kind, OtherAccess, Violation};
use crate::warning::{Met, Warning, WarningKind, Warnings};

/// Tells a failure with all that is known about it.
pub(super) fn violation(launch: &Launch<'_>, kernel: &Kernel, failure: Failure) -> Violation {
    let program = launch.program;
    let line_of = |pc: u32| program.about.get(pc as usize).map_or(0, |about| about.line);
    let text_of = |line: u32| {
        let lines = &mut kernel.module.inner.source.lines();
        let text = lines.nth((line as usize).saturating_sub(1)).unwrap_or("");
        text.trim().to_string()
    };
    let mut kind = failure.fault.kind;
    if let Kind::SharedRace { line, .. }
    | Kind::GlobalRace { line, .. }
    | Kind::NonCoherent { line, .. } = &mut kind
    {
        *line = line_of(*line);
    }
    let line = line_of(failure.pc);
    let other = failure.fault.other.map(|other| {
        let pc = u32::from(other.pc);
        OtherAccess {
            line: line_of(pc),
            instruction: text_of(line_of(pc)),
            source_line: source_line(kernel, pc),
            block: launch.coordinates(u64::from(other.block)),
            warp: other.warp % COPIES,
            lane: other.lane,
        }
    });
    Violation {
        kind,
        kernel: program.name.clone(),
        line,
        instruction: text_of(line),
        source_line: source_line(kernel, failure.pc),
        block: launch.coordinates(failure.block),
        warp: failure.warp as u32,
        lanes: failure.fault.lanes,
        address: failure.fault.address,
        place: failure.fault.address.map(|address| place(launch, address)),
        other,
        seed: launch.seed,
    }
}

/// File and line of the CUDA source that an instruction comes from.
fn source_line(kernel: &Kernel, pc: u32) -> Option<(String, u32)> {
    let (file, line) = kernel.program.about.get(pc as usize)?.source?;
    let files = &kernel.module.inner.module.files;
    let name = files.iter().find(|(number, _)| *number == file);
    let name = name.map_or_else(|| format!("file {file}"), |(_, name)| name.clone());
    Some((name, line))
}

/// Tells the warnings of a launch.
pub(super) fn warnings(launch: &Launch<'_>, kernel: &Kernel, warnings: &Warnings) -> Vec<Warning> {
    let about = &launch.program.about;
    let tell = |((pc, kind), met): (&(u32, WarningKind), &Met)| Warning {
        kind: *kind,
        line: about.get(*pc as usize).map_or(0, |about| about.line),
        source_line: source_line(kernel, *pc),
        block: launch.coordinates(met.block),
        warp: met.warp as u32,
        lanes: met.lanes,
        count: met.count,
    };
    warnings.met.iter().map(tell).collect()
}

/// Where an address lies.
fn place(launch: &Launch<'_>, address: u64) -> String {
    if Window::of(address) == Window::Shared {
        let first = u64::from(SHARED_BASE);
        let size = launch.shared_bytes;
        return format!("shared memory of {size} bytes starts at {first:#x}");
    }
    let Some(allocation) = launch.table.nearest(address) else {
        return "nothing is allocated".to_string();
    };
    let name = match allocation.name.as_str() {
        "" => format!(
            "the allocation of {} bytes at {:#x}",
            allocation.size, allocation.base
        ),
        name => format!("variable {name} of {} bytes", allocation.size),
    };
    if launch.table.was_freed(address) {
        return "in an allocation that has been freed".to_string();
    }
    match address.checked_sub(allocation.base) {
        None => format!("{} bytes before {name}", allocation.base - address),
        Some(offset) if offset < allocation.size => format!("at offset {offset} in {name}"),
        Some(offset) => format!("{} bytes behind {name}", offset - allocation.size),
    }
}
