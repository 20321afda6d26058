//! Barriers and fences.
use super::prelude::*;
use crate::machine::{Reduce, Request};
use crate::memory::order::scope;

const TITLE: &str = "Parallel Synchronization and Communication Instructions: bar, barrier";

/// `bar.sync a{, b}` and its like, with and without `.aligned`: `.cta` may be written.
const CTA: Mod = maybe("scope", &["cta"]);
const AND_OR: Mod = one("op", &["and", "or"]);

const POPC: &[Mod] = &[need("red"), need("popc"), CTA, types(&[U32])];
const POPC_ALIGNED: &[Mod] = &[
    need("red"),
    need("popc"),
    need("aligned"),
    CTA,
    types(&[U32]),
];
const LOGIC: &[Mod] = &[need("red"), AND_OR, CTA, types(&[Pred])];
const LOGIC_ALIGNED: &[Mod] = &[need("red"), need("aligned"), AND_OR, CTA, types(&[Pred])];

/// Operands of a reduction over all threads of the block, and over as many as the third one says.
const ALL: &[Arg] = &[D(T0), S(Is(U32)), S(Is(Pred))];
const SOME: &[Arg] = &[D(T0), S(Is(U32)), S(Is(U32)), S(Is(Pred))];

/// A row that counts the threads whose predicate is true.
const fn popc(opcode: &'static str, mods: &'static [Mod], args: &'static [Arg]) -> Row {
    row(opcode, TITLE, Class::Sync)
        .mods(mods)
        .args(args)
        .exec(|_| Some(exec!(cold | w, i, m | reduce(w, i, m, Reduce::Count))))
}

/// A row that says whether the predicate is true in all threads, or in any.
const fn logic(opcode: &'static str, mods: &'static [Mod], args: &'static [Arg]) -> Row {
    row(opcode, TITLE, Class::Sync)
        .mods(mods)
        .args(args)
        .exec(reduce_predicate)
}

pub(super) static ROWS: &[Row] = &[
    row("bar", TITLE, Class::Sync)
        .mods(&[need("sync"), CTA])
        .args(&[S(Is(U32)), Opt(&S(Is(U32)))])
        .together(Together::Live)
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, false)))),
    row("bar", TITLE, Class::Sync)
        .mods(&[need("arrive"), CTA])
        .args(&[S(Is(U32)), S(Is(U32))])
        .together(Together::Live)
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, true)))),
    row("barrier", TITLE, Class::Sync)
        .mods(&[need("sync"), need("aligned"), CTA])
        .args(&[S(Is(U32)), Opt(&S(Is(U32)))])
        .together(Together::Live)
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, false)))),
    row("barrier", TITLE, Class::Sync)
        .mods(&[need("sync"), CTA])
        .args(&[S(Is(U32)), Opt(&S(Is(U32)))])
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, false)))),
    row("barrier", TITLE, Class::Sync)
        .mods(&[need("arrive"), need("aligned"), CTA])
        .args(&[S(Is(U32)), S(Is(U32))])
        .together(Together::Live)
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, true)))),
    row("barrier", TITLE, Class::Sync)
        .mods(&[need("arrive"), CTA])
        .args(&[S(Is(U32)), S(Is(U32))])
        .exec(|_| Some(exec!(cold | w, i, m | barrier(w, i, m, true)))),
    popc("bar", POPC, ALL).together(Together::Live),
    popc("bar", POPC, SOME).together(Together::Live),
    logic("bar", LOGIC, ALL).together(Together::Live),
    logic("bar", LOGIC, SOME).together(Together::Live),
    popc("barrier", POPC_ALIGNED, ALL).together(Together::Live),
    popc("barrier", POPC_ALIGNED, SOME).together(Together::Live),
    logic("barrier", LOGIC_ALIGNED, ALL).together(Together::Live),
    logic("barrier", LOGIC_ALIGNED, SOME).together(Together::Live),
    popc("barrier", POPC, ALL),
    popc("barrier", POPC, SOME),
    logic("barrier", LOGIC, ALL),
    logic("barrier", LOGIC, SOME),
    row(
        "bar.warp.sync",
        "Parallel Synchronization and Communication Instructions: bar.warp.sync",
        Class::Sync,
    )
    .args(&[S(Is(B32))])
    .together(Together::Mask(0))
    .exec(|_| {
        Some(exec!(
            cold | w,
            _i,
            m | {
                let (slot, warp, live) = (w.slot, w.index, w.live);
                w.domain.order.pass(slot, warp, m, live);
                Ok(Flow::Next)
            }
        ))
    }),
    // From sm_70 on, `membar` is `fence.sc`.
    row(
        "membar",
        "Parallel Synchronization and Communication Instructions: membar",
        Class::Sync,
    )
    .mods(&[one("level", &["cta", "gl", "sys"])])
    .exec(|f| {
        f.aux = fence_aux(f.one("level")? == "cta", true);
        Some(exec!(cold | w, i, m | fence(w, i, m)))
    }),
    row(
        "fence",
        "Parallel Synchronization and Communication Instructions: fence",
        Class::Sync,
    )
    .mods(&[
        maybe("semantics", &["sc", "acq_rel"]),
        one("scope", &["cta", "gpu", "sys"]),
    ])
    .since(70, 6, 0)
    .exec(|f| {
        f.aux = fence_aux(f.one("scope")? == "cta", f.has("sc"));
        Some(exec!(cold | w, i, m | fence(w, i, m)))
    }),
    row(
        "fence",
        "Parallel Synchronization and Communication Instructions: fence",
        Class::Sync,
    )
    .mods(&[maybe("semantics", &["sc", "acq_rel"]), need("cluster")])
    .since(90, 7, 8)
    .exec(|f| {
        f.aux = fence_aux(true, f.has("sc"));
        Some(exec!(cold | w, i, m | fence(w, i, m)))
    }),
    row(
        "fence",
        "Parallel Synchronization and Communication Instructions: fence",
        Class::Sync,
    )
    .mods(&[
        one("semantics", &["acquire", "release"]),
        one("scope", &["cta", "cluster", "gpu", "sys"]),
    ])
    .since(90, 8, 6)
    .exec(|f| {
        let near = matches!(f.one("scope")?, "cta" | "cluster");
        let half = if f.has("acquire") { ACQUIRE } else { RELEASE };
        f.aux = fence_aux(near, false) | half;
        Some(exec!(cold | w, i, m | fence(w, i, m)))
    }),
];

fn fence_aux(near: bool, sc: bool) -> u64 {
    u64::from(if near { scope::BLOCK } else { scope::DEVICE }) | u64::from(sc) << 8
}

/// A fence that only acquires, or only releases.
const ACQUIRE: u64 = 1 << 9;
const RELEASE: u64 = 1 << 10;

fn fence(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let (slot, warp, scope) = (w.slot, w.index, i.aux as u8);
    let order = &mut w.domain.order;
    match i.aux & (ACQUIRE | RELEASE) {
        ACQUIRE => order.fence_acquire(slot, warp, m, scope),
        RELEASE => order.fence_release(slot, warp, m, scope),
        _ => order.fence(slot, warp, m, scope, i.aux >> 8 & 1 != 0),
    }
    Ok(Flow::Next)
}

fn reduce_predicate(f: &mut Form<'_>) -> Option<ExecFn> {
    Some(if f.has("and") {
        exec!(cold | w, i, m | reduce(w, i, m, Reduce::And))
    } else {
        exec!(cold | w, i, m | reduce(w, i, m, Reduce::Or))
    })
}

/// The value that all lanes of `m` have in source operand `k`.
fn uniform(w: &Warp<'_>, i: &Inst, m: u32, k: usize) -> Result<u32, Box<crate::violation::Fault>> {
    w.need(m, w.valid::<u32>(i.s[k]), "an operand of the barrier")?;
    let values = w.get::<u32>(i.s[k]);
    let first = values[m.trailing_zeros() as usize % 32];
    if (0..32).any(|lane| m >> lane & 1 != 0 && values[lane] != first) {
        let reason = "the lanes of a warp name different barriers or counts".to_string();
        return Err(w.fault(Kind::BadBarrier { id: first, reason }, m));
    }
    Ok(first)
}

/// The number of threads that a barrier is for, its second source.
fn count(w: &Warp<'_>, i: &Inst, m: u32, id: u32) -> Result<u32, Box<crate::violation::Fault>> {
    let count = uniform(w, i, m, 1)?;
    if count == 0 || !count.is_multiple_of(32) {
        let reason = format!("the number of threads, {count}, is no positive multiple of 32");
        return Err(w.fault(Kind::BadBarrier { id, reason }, m));
    }
    Ok(count)
}

fn barrier(w: &mut Warp<'_>, i: &Inst, m: u32, arrive: bool) -> Step {
    let id = uniform(w, i, m, 0)?;
    let mut threads = None;
    if i.ns > 1 {
        threads = Some(count(w, i, m, id)?);
    }
    w.barrier = Request {
        id,
        threads,
        arrive,
        ..Request::default()
    };
    Ok(Flow::Barrier)
}

fn reduce(w: &mut Warp<'_>, i: &Inst, m: u32, reduce: Reduce) -> Step {
    let id = uniform(w, i, m, 0)?;
    let last = usize::from(i.ns).saturating_sub(1);
    let threads = if last > 1 {
        Some(count(w, i, m, id)?)
    } else {
        None
    };
    w.need(m, w.valid_pred(i.s[last]), "the predicate of the barrier")?;
    let votes = w.pred(i, last) & m;
    w.barrier = Request {
        id,
        threads,
        reduce: Some(reduce),
        votes,
        slot: i.d[0],
        ..Request::default()
    };
    Ok(Flow::Barrier)
}
