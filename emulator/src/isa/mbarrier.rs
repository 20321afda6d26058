//! `mbarrier`: barriers in shared memory.
//!
//! What they do, [`crate::memory::mbarrier`] says.

use super::matrix::shared_addresses;
use super::prelude::*;
use crate::memory::SHARED_BASE;
use crate::memory::access::{lanes_of, space};
use crate::memory::mbarrier::{Arrival, BYTES, Phase};
use crate::violation::{Access, Fault};

const INIT: &str = "Parallel Synchronization and Communication Instructions: mbarrier.init";
const INVAL: &str = "Parallel Synchronization and Communication Instructions: mbarrier.inval";
const ARRIVE: &str = "Parallel Synchronization and Communication Instructions: mbarrier.arrive";
const DROP: &str = "Parallel Synchronization and Communication Instructions: mbarrier.arrive_drop";
const TEST: &str = "Parallel Synchronization and Communication Instructions: mbarrier.test_wait";
const PENDING: &str =
    "Parallel Synchronization and Communication Instructions: mbarrier.pending_count";
const COPIES: &str =
    "Parallel Synchronization and Communication Instructions: cp.async.mbarrier.arrive";

const SPACE: Mod = maybe("space", &["shared", "shared::cta"]);
const B64_ONLY: Mod = types(&[B64]);

/// Operands of an arrival, without and with a count.
const ONE: &[Arg] = &[D(T0), A];
const COUNTED: &[Arg] = &[D(T0), A, S(Is(U32))];

/// An arrival: `.release` and `.cta`, which it always is, may be written from PTX 8.0 on.
const fn arrive(
    opcode: &'static str,
    title: &'static str,
    mods: &'static [Mod],
    args: &'static [Arg],
) -> Row {
    row(opcode, title, Class::Sync)
        .mods(mods)
        .args(args)
        .since(80, 7, 0)
        .exec(arrival)
}

const PLAIN: &[Mod] = &[SPACE, B64_ONLY];
const PLAIN_SPELT: &[Mod] = &[need("release"), need("cta"), SPACE, B64_ONLY];
const OPEN: &[Mod] = &[need("noComplete"), SPACE, B64_ONLY];
const OPEN_SPELT: &[Mod] = &[
    need("noComplete"),
    need("release"),
    need("cta"),
    SPACE,
    B64_ONLY,
];

pub(super) static ROWS: &[Row] = &[
    row("mbarrier.init", INIT, Class::Sync)
        .mods(&[SPACE, B64_ONLY])
        .args(&[A, S(Is(U32))])
        .since(80, 7, 0)
        .exec(|f| {
            f.aux = address(f);
            Some(exec!(cold | w, i, m | init(w, i, m)))
        }),
    row("mbarrier.inval", INVAL, Class::Sync)
        .mods(&[SPACE, B64_ONLY])
        .args(&[A])
        .since(80, 7, 0)
        .exec(|f| {
            f.aux = address(f);
            Some(exec!(cold | w, i, m | inval(w, i, m)))
        }),
    arrive("mbarrier.arrive", ARRIVE, PLAIN, ONE),
    arrive("mbarrier.arrive", ARRIVE, PLAIN_SPELT, ONE).since(80, 8, 0),
    arrive("mbarrier.arrive", ARRIVE, PLAIN, COUNTED).since(90, 7, 8),
    arrive("mbarrier.arrive", ARRIVE, OPEN, COUNTED),
    arrive("mbarrier.arrive", ARRIVE, OPEN_SPELT, COUNTED).since(80, 8, 0),
    arrive("mbarrier.arrive_drop", DROP, PLAIN, ONE),
    arrive("mbarrier.arrive_drop", DROP, PLAIN_SPELT, ONE).since(80, 8, 0),
    arrive("mbarrier.arrive_drop", DROP, PLAIN, COUNTED).since(90, 7, 8),
    arrive("mbarrier.arrive_drop", DROP, OPEN, COUNTED),
    arrive("mbarrier.arrive_drop", DROP, OPEN_SPELT, COUNTED).since(80, 8, 0),
    row("mbarrier.test_wait", TEST, Class::Sync)
        .mods(&[SPACE, B64_ONLY])
        .args(&[D(Is(Pred)), A, S(Is(B64))])
        .since(80, 7, 0)
        .exec(by_state),
    row("mbarrier.test_wait", TEST, Class::Sync)
        .mods(&[need("acquire"), need("cta"), SPACE, B64_ONLY])
        .args(&[D(Is(Pred)), A, S(Is(B64))])
        .since(80, 8, 0)
        .exec(by_state),
    row("mbarrier.test_wait.parity", TEST, Class::Sync)
        .mods(&[SPACE, B64_ONLY])
        .args(&[D(Is(Pred)), A, S(Is(U32))])
        .since(80, 7, 1)
        .exec(by_parity),
    row("mbarrier.test_wait.parity", TEST, Class::Sync)
        .mods(&[need("acquire"), need("cta"), SPACE, B64_ONLY])
        .args(&[D(Is(Pred)), A, S(Is(U32))])
        .since(80, 8, 0)
        .exec(by_parity),
    row("mbarrier.pending_count", PENDING, Class::Sync)
        .mods(&[B64_ONLY])
        .args(&[D(Is(U32)), S(T0)])
        .since(80, 7, 0)
        .exec(|_| Some(exec!(cold | w, i, m | pending(w, i, m)))),
    row("cp.async.mbarrier.arrive", COPIES, Class::Async)
        .mods(&[flag("noinc"), SPACE, B64_ONLY])
        .args(&[A])
        .since(80, 7, 0)
        .exec(|f| {
            f.aux = address(f) | u64::from(f.has("noinc")) << 2;
            Some(exec!(cold | w, i, m | track(w, i, m)))
        }),
];

/// How the address is written: its width, and whether it is generic.
fn address(f: &Form<'_>) -> u64 {
    let wide = f.src_bits.first() == Some(&64);
    let generic = f.one("space").is_none() && f.base != Some(crate::ast::Space::Shared);
    u64::from(wide) | u64::from(generic) << 1
}

/// Offsets in shared memory of the objects that lanes name.
fn offsets(w: &Warp<'_>, i: &Inst, m: u32) -> Result<[u32; 32], Box<Fault>> {
    let mut addresses = w.addresses(i, 0, 0, i.aux & 1 != 0, m)?;
    if i.aux & 2 != 0 {
        addresses = shared_addresses(w, &addresses, m)?;
    }
    w.aligned(space::SHARED, Access::Atomic, &addresses, m, BYTES)?;
    let memory = (SHARED_BASE, w.shared.bytes.size());
    w.offsets(
        space::SHARED,
        Access::Atomic,
        &addresses,
        (m, BYTES),
        memory,
    )
}

/// The counts in source `k`.
fn counts(w: &Warp<'_>, i: &Inst, m: u32, k: usize) -> Result<[u32; 32], Box<Fault>> {
    w.need(m, w.valid::<u32>(i.s[k]), "the count of an mbarrier")?;
    Ok(w.get::<u32>(i.s[k]))
}

fn init(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (offsets, counts) = (offsets(w, i, m)?, counts(w, i, m, 1)?);
    w.mbarrier_init(&offsets, m, &counts)?;
    Ok(Flow::Next)
}

fn inval(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let offsets = offsets(w, i, m)?;
    w.mbarrier_inval(&offsets, m)?;
    Ok(Flow::Next)
}

fn arrival(f: &mut Form<'_>) -> Option<ExecFn> {
    let drop = f.row.opcode.ends_with("drop");
    f.aux = address(f) | u64::from(drop) << 2 | u64::from(f.has("noComplete")) << 3;
    Some(exec!(
        cold | w,
        i,
        m | {
            let offsets = offsets(w, i, m)?;
            let counts = match i.ns {
                0 | 1 => [1; 32],
                _ => counts(w, i, m, 1)?,
            };
            let how = Arrival {
                drop: i.aux & 4 != 0,
                no_complete: i.aux & 8 != 0,
            };
            let states = w.mbarrier_arrive(&offsets, m, &counts, how)?;
            w.put(i.d[0], m, u32::MAX, states);
            Ok(Flow::Next)
        }
    ))
}

fn by_state(f: &mut Form<'_>) -> Option<ExecFn> {
    f.aux = address(f);
    Some(exec!(
        cold | w,
        i,
        m | {
            let offsets = offsets(w, i, m)?;
            w.need(m, w.valid::<u64>(i.s[1]), "the state of an mbarrier")?;
            let states = w.get::<u64>(i.s[1]);
            let done = w.mbarrier_test(&offsets, m, |lane| Phase::State(states[lane]))?;
            w.put_pred(i.d[0], m, u32::MAX, done);
            Ok(Flow::Next)
        }
    ))
}

fn by_parity(f: &mut Form<'_>) -> Option<ExecFn> {
    f.aux = address(f);
    Some(exec!(
        cold | w,
        i,
        m | {
            let offsets = offsets(w, i, m)?;
            w.need(m, w.valid::<u32>(i.s[1]), "the parity of a phase")?;
            let parities = w.get::<u32>(i.s[1]);
            let done = w.mbarrier_test(&offsets, m, |lane| Phase::Parity(parities[lane]))?;
            w.put_pred(i.d[0], m, u32::MAX, done);
            Ok(Flow::Next)
        }
    ))
}

fn pending(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    w.need(m, w.valid::<u64>(i.s[0]), "the state of an mbarrier")?;
    let states = w.get::<u64>(i.s[0]);
    let mut counts = [0u32; 32];
    for lane in lanes_of(m) {
        counts[lane] = w.mbarrier_pending(lane, states[lane])?;
    }
    w.put(i.d[0], m, u32::MAX, counts);
    Ok(Flow::Next)
}

fn track(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let offsets = offsets(w, i, m)?;
    w.mbarrier_track(&offsets, m, i.aux & 4 == 0)?;
    Ok(Flow::Next)
}
