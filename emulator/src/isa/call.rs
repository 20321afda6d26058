//! Calls of functions that have a place of their own, and returns from them.
//!
//! Each lane has a stack of frames in its local memory. Parameters are copied from the caller's
//! variables to the new frame, and back. The registers of the function are saved, since it may be
//! running already, and are uninitialised again.

use super::prelude::*;
use crate::bind::Callable;
use crate::memory::{LOCAL_BASE, bytes::Bytes};

pub(super) static ROWS: &[Row] = &[
    // What places of variables are relative to, and the address of the function.
    row(" call", "Control Flow Instructions: call", Class::Control)
        .args(&[S(Is(U64)), Opt(&S(Is(U64)))])
        .exec(|_| Some(exec!(cold | w, i, m | call(w, i, m)))),
    row(" return", "Control Flow Instructions: ret", Class::Control)
        .exec(|_| Some(exec!(cold | w, _i, m | leave(w, m)))),
];

/// The row of the instruction that makes registers uninitialised where a function is expanded.
pub(crate) static FRESH: Row = row(" fresh", "Control Flow Instructions: call", Class::Control);

/// Makes the destinations uninitialised, whose banks `inst.aux` says.
pub(crate) fn fresh() -> ExecFn {
    exec!(
        cold | w,
        i,
        m | {
            let regs = &mut *w.regs;
            for (at, slot) in i.d[..usize::from(i.nd)].iter().enumerate() {
                let slot = usize::from(*slot);
                let valid = match i.aux >> (2 * at) & 3 {
                    0 => regs.r32.get_mut(slot).map(|register| &mut register.valid),
                    1 => regs.r64.get_mut(slot).map(|register| &mut register.valid),
                    _ => regs.vp.get_mut(slot),
                };
                if let Some(valid) = valid {
                    *valid &= !m;
                }
            }
            Ok(Flow::Next)
        }
    )
}

/// A call that a lane has not come back from.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    function: usize,
    /// Address of its variables, and of the end of them and of what `alloca` has added.
    base: u32,
    pub(super) end: u32,
    return_to: u32,
    /// Where what it returns goes.
    returns: Vec<u32>,
    /// Registers as they were: 32-bit ones, 64-bit ones, predicates; with their validity.
    saved: Vec<(u64, bool)>,
}

fn call(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let program = w.launch.program;
    let Some(site) = program.sites.get(i.aux as usize) else {
        return Ok(Flow::Next);
    };
    let bases = w.get::<u64>(i.s[0]);
    let targets = w.get::<u64>(i.s[1]);
    if site.indirect {
        w.need(m, w.valid::<u64>(i.s[1]), "the address of a function")?;
    }
    w.regs.calls.resize(32, Vec::new());
    for lane in (0..32).filter(|lane| m >> lane & 1 != 0) {
        let functions = site.candidates.iter().map(|index| usize::from(*index));
        let mut functions = functions.filter_map(|at| Some((at, program.functions.get(at)?)));
        let wanted = |f: &Callable| !site.indirect || f.address == Some(targets[lane]);
        let Some((function, callable)) = functions.find(|(_, f)| wanted(f)) else {
            let text = format!(
                "call of {:#x}, where no function is that it may mean",
                targets[lane]
            );
            return Err(w.fault(Kind::BadOperand(text), 1 << lane));
        };
        let sizes =
            |places: &[(u32, u32)]| places.iter().map(|(_, size)| *size).collect::<Vec<_>>();
        if sizes(&site.arguments) != sizes(&callable.params)
            || sizes(&site.returns) != sizes(&callable.returns)
        {
            let text = format!("call of {}, which has other parameters", callable.name);
            return Err(w.fault(Kind::BadOperand(text), 1 << lane));
        }
        enter(w, lane, function, site, bases[lane] as u32)?;
    }
    Ok(Flow::Scatter)
}

/// Lets a lane enter a function.
fn enter(
    w: &mut Warp<'_>,
    lane: usize,
    function: usize,
    site: &crate::bind::Site,
    caller: u32,
) -> Result<(), Box<crate::violation::Fault>> {
    let program = w.launch.program;
    let callable = &program.functions[function];
    let depth = w.regs.calls[lane].len();
    let Stack { top, .. } = top_of(w, lane);
    let base = top.next_multiple_of(callable.align.max(16));
    // Even a function without variables needs room for where to return to.
    let end = base.saturating_add(callable.bytes.max(16));
    let local = w.local.get(lane).map_or(0, |local| local.size());
    if end > local.saturating_add(LOCAL_BASE) {
        let what = format!("{} at depth {}", callable.name, depth + 1);
        return Err(overflow(w, lane, &what));
    }
    let saved = exchange(w, lane, &callable.slots, None);
    if let Some(slot) = callable.frame {
        let mut addresses = w.get::<u64>(slot);
        addresses[lane] = u64::from(base);
        w.put::<u64>(slot, 1 << lane, u32::MAX, addresses);
    }
    if let Some(local) = w.local.get_mut(lane) {
        for offset in 0..end - base {
            local.mark(base - LOCAL_BASE + offset, 1, false);
        }
        for ((from, size), (to, _)) in site.arguments.iter().zip(&callable.params) {
            copy(local, caller.wrapping_add(*from), base + to, *size);
        }
    }
    let returns = site.returns.iter().map(|(to, _)| caller.wrapping_add(*to));
    w.regs.calls[lane].push(Frame {
        function,
        base,
        end,
        return_to: w.pc + 1,
        returns: returns.collect(),
        saved,
    });
    w.targets[lane] = callable.entry;
    Ok(())
}

/// Memory of the function that a lane is in, as far as its size is not fixed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack {
    /// Where it starts.
    pub bottom: u32,
    /// Where the next frame would.
    pub top: u32,
}

pub(super) fn top_of(w: &Warp<'_>, lane: usize) -> Stack {
    let program = w.launch.program;
    match w.regs.calls.get(lane).and_then(|calls| calls.last()) {
        Some(frame) => {
            let function = program.functions.get(frame.function);
            let bytes = function.map_or(0, |function| function.bytes);
            Stack {
                bottom: frame.base + bytes,
                top: frame.end,
            }
        }
        None => {
            let bottom = LOCAL_BASE + program.local_bytes.next_multiple_of(16);
            let top = w.regs.stack.get(lane).copied().unwrap_or(0).max(bottom);
            Stack { bottom, top }
        }
    }
}

/// There is no room for `what`.
pub(super) fn overflow(w: &Warp<'_>, lane: usize, what: &str) -> Box<crate::violation::Fault> {
    let stack = w.launch.stack;
    let text = format!("stack overflow: {what}, with {stack} bytes");
    w.fault(Kind::BadOperand(text), 1 << lane)
}

fn leave(w: &mut Warp<'_>, m: u32) -> Step {
    let program = w.launch.program;
    for lane in (0..32).filter(|lane| m >> lane & 1 != 0) {
        let Some(frame) = w.regs.calls.get_mut(lane).and_then(Vec::pop) else {
            let text = "return from a function that was not called".to_string();
            return Err(w.fault(Kind::BadOperand(text), 1 << lane));
        };
        let callable = &program.functions[frame.function];
        if let Some(local) = w.local.get_mut(lane) {
            for (to, (from, size)) in frame.returns.iter().zip(&callable.returns) {
                copy(local, frame.base + from, *to, *size);
            }
        }
        exchange(w, lane, &callable.slots, Some(&frame.saved));
        w.targets[lane] = frame.return_to;
    }
    Ok(Flow::Scatter)
}

/// Copies bytes of a lane's local memory with their validity.
fn copy(local: &mut Bytes, from: u32, to: u32, size: u32) {
    for n in 0..size {
        let (from, to) = (from - LOCAL_BASE + n, to - LOCAL_BASE + n);
        let (byte, written) = (local.part(from, 1), local.initialised(from, 1));
        local.set_part(to, 1, byte);
        local.mark(to, 1, written);
    }
}

/// Reads a lane's registers, and sets them: to `new`, or to be uninitialised.
fn exchange(
    w: &mut Warp<'_>,
    lane: usize,
    slots: &[Vec<u16>; 3],
    new: Option<&[(u64, bool)]>,
) -> Vec<(u64, bool)> {
    let mut old = Vec::new();
    let bit = 1 << lane;
    let set = |mask: &mut u32, on: bool| *mask = if on { *mask | bit } else { *mask & !bit };
    let mut next = |value: u64, valid: u32| {
        let new = new.and_then(|new| new.get(old.len()).copied());
        old.push((value, valid & bit != 0));
        new.unwrap_or((value, false))
    };
    let regs = &mut *w.regs;
    for slot in slots[0].iter().map(|slot| usize::from(*slot)) {
        if let Some(register) = regs.r32.get_mut(slot) {
            let (value, valid) = next(u64::from(register.lanes.0[lane]), register.valid);
            register.lanes.0[lane] = value as u32;
            set(&mut register.valid, valid);
        }
    }
    for slot in slots[1].iter().map(|slot| usize::from(*slot)) {
        if let Some(register) = regs.r64.get_mut(slot) {
            let (value, valid) = next(register.lanes.0[lane], register.valid);
            register.lanes.0[lane] = value;
            set(&mut register.valid, valid);
        }
    }
    for slot in slots[2].iter().map(|slot| usize::from(*slot)) {
        if let (Some(bits), Some(seen)) = (regs.p.get_mut(slot), regs.vp.get_mut(slot)) {
            let (value, valid) = next(u64::from(*bits & bit != 0), *seen);
            set(bits, value != 0);
            set(seen, valid);
        }
    }
    old
}
