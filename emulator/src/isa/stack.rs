//! `alloca` and its like: memory of the present function that is sized while it runs.
//!
//! It lies behind the frames of [`super::call`], and ends with the function that has taken it: one that
//! does has a frame, wherever it is called. The ISA's stack grows down and this one up; a program cannot
//! tell, since what `stacksave` gives is for `stackrestore` alone.

use super::call::{Stack, overflow, top_of};
use super::prelude::*;
use crate::memory::LOCAL_BASE;
use crate::memory::access::lanes_of;

const ALLOCA: &str = "Stack Manipulation Instructions: alloca";
const SAVE: &str = "Stack Manipulation Instructions: stacksave";
const RESTORE: &str = "Stack Manipulation Instructions: stackrestore";
/// Least alignment, and the default.
const ALIGN: i64 = 8;
const MOST_ALIGN: i64 = 1 << 23;

pub(super) static ROWS: &[Row] = &[
    row("alloca", ALLOCA, Class::Int)
        .mods(&[types(&[U32, U64])])
        .args(&[D(T0), S(T0), Opt(&I)])
        .since(52, 7, 3)
        .exec(|f| {
            let align = f.imm.first().copied().unwrap_or(ALIGN);
            let allowed = (1..=MOST_ALIGN).contains(&align) && align.count_ones() == 1;
            f.aux = align.max(ALIGN) as u64;
            match f.ty(0) {
                _ if !allowed => None,
                U64 => Some(exec!(cold | w, i, m | allocate::<u64>(w, i, m))),
                _ => Some(exec!(cold | w, i, m | allocate::<u32>(w, i, m))),
            }
        }),
    row("stacksave", SAVE, Class::Move)
        .mods(&[types(&[U32, U64])])
        .args(&[D(T0)])
        .since(52, 7, 3)
        .exec(|f| match f.ty(0) {
            U64 => Some(exec!(cold | w, i, m | save::<u64>(w, i, m))),
            _ => Some(exec!(cold | w, i, m | save::<u32>(w, i, m))),
        }),
    row("stackrestore", RESTORE, Class::Move)
        .mods(&[types(&[U32, U64])])
        .args(&[S(T0)])
        .since(52, 7, 3)
        .exec(|f| match f.ty(0) {
            U64 => Some(exec!(cold | w, i, m | restore::<u64>(w, i, m))),
            _ => Some(exec!(cold | w, i, m | restore::<u32>(w, i, m))),
        }),
];

/// A register that holds an address of local memory.
trait Address: Lane + Into<u64> {
    fn of(address: u32) -> Self;
}

impl Address for u32 {
    fn of(address: u32) -> u32 {
        address
    }
}

impl Address for u64 {
    fn of(address: u32) -> u64 {
        u64::from(address)
    }
}

fn allocate<T: Address>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    w.need(m, w.valid::<T>(i.s[0]), "the size of an allocation")?;
    let sizes = w.get::<T>(i.s[0]);
    let mut places = [T::of(0); 32];
    for lane in lanes_of(m) {
        let Stack { top, .. } = top_of(w, lane);
        let first = top.next_multiple_of(i.aux as u32);
        let room = w.local.get(lane).map_or(0, |local| local.size()) + LOCAL_BASE;
        let size: u64 = sizes[lane].into();
        let end = u64::from(first).saturating_add(size);
        if end > u64::from(room) {
            return Err(overflow(w, lane, &format!("alloca of {size} bytes")));
        }
        set_top(w, lane, end as u32);
        forget(w, lane, (first, end as u32));
        places[lane] = T::of(first);
    }
    w.put(i.d[0], m, u32::MAX, places);
    Ok(Flow::Next)
}

fn save<T: Address>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let mut tops = [T::of(0); 32];
    for lane in lanes_of(m) {
        tops[lane] = T::of(top_of(w, lane).top);
    }
    w.put(i.d[0], m, u32::MAX, tops);
    Ok(Flow::Next)
}

fn restore<T: Address>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    w.need(m, w.valid::<T>(i.s[0]), "the stack pointer")?;
    let tops = w.get::<T>(i.s[0]);
    for lane in lanes_of(m) {
        let Stack { bottom, top } = top_of(w, lane);
        let new: u64 = tops[lane].into();
        if !(u64::from(bottom)..=u64::from(top)).contains(&new) {
            let text = format!("{new:#x} is no stack pointer that stacksave has given here");
            return Err(w.fault(Kind::BadOperand(text), 1 << lane));
        }
        set_top(w, lane, new as u32);
        forget(w, lane, (new as u32, top));
    }
    Ok(Flow::Next)
}

fn set_top(w: &mut Warp<'_>, lane: usize, top: u32) {
    w.regs.calls.resize(32, Vec::new());
    match w.regs.calls[lane].last_mut() {
        Some(frame) => frame.end = top,
        None => {
            w.regs.stack.resize(32, 0);
            w.regs.stack[lane] = top;
        }
    }
}

/// Nothing is known any more of what lies between two addresses.
fn forget(w: &mut Warp<'_>, lane: usize, (first, end): (u32, u32)) {
    if let Some(local) = w.local.get_mut(lane) {
        for at in first..end {
            local.mark(at - LOCAL_BASE, 1, false);
        }
    }
}
