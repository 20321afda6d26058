//! Copies that run by themselves: `cp.async` and its groups.
//!
//! From the instruction to the wait of the thread that issued it, the destination is poisoned: nobody
//! may touch it. The source is read at the wait, as late as the hardware could, so that a source
//! changed in between is seen.
//!
//! Copies that an `mbarrier` tracks land when it is told so. They are not the doing of the thread that
//! issued them: who has not waited, be it that thread, races with them.

use super::prelude::*;
use crate::memory::SHARED_BASE;
use crate::memory::access::{Addresses, lanes_of, space};
use crate::memory::global::Allocation;
use crate::memory::hostile::garbage;
use crate::memory::race::Touch;
use crate::memory::shared::Kept;
use crate::violation::{Access, Fault};

const TITLE: &str = "Data Movement and Conversion Instructions: cp.async";
const CACHE: Mod = one("cache", &["ca", "cg"]);
const TO: Mod = one("to", &["shared", "shared::cta"]);
const PREFETCH: Mod = maybe("prefetch", &["L2::64B", "L2::128B", "L2::256B"]);

/// What the operand behind the size means: `inst.aux`.
const SOURCE_SIZE: u64 = 1;
const IGNORE_SOURCE: u64 = 2;

pub(super) static ROWS: &[Row] = &[
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), PREFETCH])
        .args(&[A, A, I])
        .since(80, 7, 0)
        .exec(|f| copy(f, 0)),
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), PREFETCH])
        .args(&[A, A, I, S(Is(U32))])
        .since(80, 7, 0)
        .exec(|f| copy(f, SOURCE_SIZE)),
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), PREFETCH])
        .args(&[A, A, I, S(Is(Pred))])
        .since(80, 7, 0)
        .exec(|f| copy(f, IGNORE_SOURCE)),
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), need("L2::cache_hint"), PREFETCH])
        .args(&[A, A, I, S(Is(B64))])
        .since(80, 7, 4)
        .exec(|f| copy(f, 0)),
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), need("L2::cache_hint"), PREFETCH])
        .args(&[A, A, I, S(Is(U32)), S(Is(B64))])
        .since(80, 7, 4)
        .exec(|f| copy(f, SOURCE_SIZE)),
    row("cp.async", TITLE, Class::Async)
        .mods(&[CACHE, TO, need("global"), need("L2::cache_hint"), PREFETCH])
        .args(&[A, A, I, S(Is(Pred)), S(Is(B64))])
        .since(80, 7, 4)
        .exec(|f| copy(f, IGNORE_SOURCE)),
    row(
        "cp.async.commit_group",
        "cp.async.commit_group",
        Class::Async,
    )
    .since(80, 7, 0)
    .exec(|_| {
        Some(exec!(
            cold | w,
            _i,
            m | {
                w.own_copies().commit(m);
                Ok(Flow::Next)
            }
        ))
    }),
    row("cp.async.wait_group", "cp.async.wait_group", Class::Async)
        .args(&[I])
        .since(80, 7, 0)
        .exec(|f| {
            let &[groups] = f.imm else { return None };
            (groups >= 0).then(|| exec!(cold | w, i, m | complete(w, m, Some(i.imm[0] as u64))))
        }),
    row("cp.async.wait_all", "cp.async.wait_all", Class::Async)
        .since(80, 7, 0)
        .exec(|_| Some(exec!(cold | w, _i, m | complete(w, m, None)))),
];

/// A copy that a warp has issued and not yet waited for.
#[derive(Debug, Clone)]
struct Pending {
    /// Lanes that have not waited for it.
    lanes: u32,
    /// Group of each lane, counted from its first.
    group: [u64; 32],
    source: [u64; 32],
    /// Offset in shared memory.
    target: [u32; 32],
    /// Bytes to write.
    size: u32,
    /// Bytes to read; zeros follow.
    take: [u8; 32],
    /// Where it comes in the order of the warp's copies.
    number: u64,
    /// Its instruction.
    pc: u32,
    /// Lanes for which an `mbarrier` tracks it.
    tracked: u32,
}

/// Asynchronous copies of a warp that are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    pending: Vec<Pending>,
    /// How many groups each lane has committed.
    committed: [u64; 32],
    /// How many copies the warp has issued.
    issued: u64,
}

impl Copies {
    pub(crate) fn reset(&mut self) {
        self.pending.clear();
        self.committed = [0; 32];
        self.issued = 0;
    }

    /// Lanes that have copies under way of which nobody else knows.
    pub(crate) fn lanes(&self) -> u32 {
        self.pending
            .iter()
            .fold(0, |lanes, copy| lanes | copy.lanes & !copy.tracked)
    }

    /// An `mbarrier` tracks all copies of these lanes so far: those with a number below what this returns.
    pub(crate) fn track(&mut self, lanes: u32) -> u64 {
        for copy in &mut self.pending {
            copy.tracked |= lanes;
        }
        self.issued
    }

    fn commit(&mut self, mask: u32) {
        for lane in lanes_of(mask) {
            self.committed[lane] += 1;
        }
    }
}

fn copy(f: &mut Form<'_>, behind: u64) -> Option<ExecFn> {
    let size = *f.imm.get(2)?;
    let allowed = if f.has("cg") {
        size == 16
    } else {
        matches!(size, 4 | 8 | 16)
    };
    if !allowed {
        return None;
    }
    let wide = |k: usize| u64::from(f.src_bits.get(k) == Some(&64));
    f.aux = behind | wide(0) << 2 | wide(1) << 3;
    Some(exec!(cold | w, i, m | issue(w, i, m)))
}

#[inline(always)]
fn issue(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let size = i.imm[2] as u32;
    let target = w.addresses(i, 0, 0, i.aux & 4 != 0, m)?;
    let source = w.addresses(i, 1, 1, i.aux & 8 != 0, m)?;
    w.aligned(space::SHARED, Access::Write, &target, m, size)?;
    w.aligned(space::GLOBAL, Access::Read, &source, m, size)?;
    let take = sizes(w, i, m, size)?;
    let shared = (SHARED_BASE, w.shared.bytes.size());
    let offsets = w.offsets(space::SHARED, Access::Write, &target, (m, size), shared)?;
    check_sources(w, &source, m, &take)?;
    match size {
        16 => w.touch_shared::<4>(Access::Write, &offsets, m, size)?,
        8 => w.touch_shared::<2>(Access::Write, &offsets, m, size)?,
        _ => w.touch_shared::<1>(Access::Write, &offsets, m, size)?,
    }
    for lane in lanes_of(m) {
        let thread = w.index as u32 * 32 + lane as u32;
        w.shared.keep(offsets[lane], size, Kept::Copy(thread));
    }
    let pc = w.pc;
    let copies = w.own_copies();
    copies.pending.push(Pending {
        lanes: m,
        group: copies.committed,
        source: source.at,
        target: offsets,
        size,
        take,
        number: copies.issued,
        pc,
        tracked: 0,
    });
    copies.issued += 1;
    Ok(Flow::Next)
}

/// Bytes that each lane reads.
#[inline(always)]
fn sizes(w: &Warp<'_>, i: &Inst, m: u32, size: u32) -> Result<[u8; 32], Box<Fault>> {
    match i.aux & 3 {
        SOURCE_SIZE => {
            w.need(m, w.valid::<u32>(i.s[2]), "the source size of a copy")?;
            let sizes = w.get::<u32>(i.s[2]);
            if let Some(lane) = lanes_of(m).find(|lane| sizes[*lane] > size) {
                let text = format!("a copy of {size} bytes that reads {}", sizes[lane]);
                return Err(w.fault(Kind::BadOperand(text), 1 << lane));
            }
            Ok(sizes.map(|size| size as u8))
        }
        IGNORE_SOURCE => {
            w.need(m, w.valid_pred(i.s[2]), "the predicate of a copy")?;
            let ignore = w.pred(i, 2);
            Ok(std::array::from_fn(|lane| {
                if ignore >> lane & 1 != 0 {
                    0
                } else {
                    size as u8
                }
            }))
        }
        _ => Ok([size as u8; 32]),
    }
}

/// Fails if a source does not lie in global memory as far as it is read.
#[inline(always)]
fn check_sources(
    w: &mut Warp<'_>,
    source: &Addresses,
    m: u32,
    take: &[u8; 32],
) -> Result<(), Box<Fault>> {
    let reads = lanes_of(m)
        .filter(|lane| take[*lane] != 0)
        .fold(0, |reads, lane| reads | 1 << lane);
    if reads == 0 {
        return Ok(());
    }
    let addresses = Addresses::new(source.at, reads);
    w.count_global(
        &addresses,
        reads,
        lanes_of(reads).map(|lane| u64::from(take[lane])).sum(),
    );
    let table = w.launch.table;
    let end = addresses.greatest.saturating_add(16);
    let inside = |allocation: &Allocation| allocation.base + allocation.size >= end;
    if !table.find(addresses.least).is_some_and(inside) {
        for lane in lanes_of(reads) {
            let bytes = u32::from(take[lane]);
            w.allocation(space::GLOBAL, Access::Read, source.at[lane], bytes, lane)?;
        }
    }
    read_sources(w, &source.at, reads, take)
}

/// Records that copies read their sources, and fails if that races.
#[inline(always)]
fn read_sources(
    w: &mut Warp<'_>,
    source: &[u64; 32],
    m: u32,
    take: &[u8; 32],
) -> Result<(), Box<Fault>> {
    if !w.launch.checks.race {
        return Ok(());
    }
    for size in [16, 8, 4] {
        let same = lanes_of(m).filter(|lane| u32::from(take[*lane]) == size);
        let same = same.fold(0, |same, lane| same | 1 << lane);
        w.touch_global(Access::Read, source, same, size)?;
    }
    // Sources of odd lengths, byte by byte.
    for lane in lanes_of(m).filter(|lane| !matches!(take[*lane], 4 | 8 | 16)) {
        for byte in 0..u64::from(take[lane]) {
            let at = source.map(|source| source.wrapping_add(byte));
            w.touch_global(Access::Read, &at, 1 << lane, 1)?;
        }
    }
    Ok(())
}

/// Lands the copies of the lanes that wait: all but those of the `keep` latest groups, or all.
fn complete(w: &mut Warp<'_>, m: u32, keep: Option<u64>) -> Step {
    let committed = w.own_copies().committed;
    let due = |copy: &Pending| {
        let due = |lane: &usize| {
            keep.is_none_or(|keep| copy.group[*lane].saturating_add(keep) < committed[*lane])
        };
        let due = lanes_of(copy.lanes & m).filter(due);
        due.fold(0, |due, lane| due | 1 << lane)
    };
    land_all(w, due)?;
    w.domain.order.waited(w.slot, w.index, m);
    Ok(Flow::Next)
}

/// Lands the copies of a lane that an `mbarrier` tracks: those with a number below `before`.
pub(crate) fn complete_tracked(
    w: &mut Warp<'_>,
    lane: usize,
    before: u64,
) -> Result<(), Box<Fault>> {
    land_all(w, |copy| match copy.number < before {
        true => copy.lanes & 1 << lane,
        false => 0,
    })
}

/// Lands the warp's copies of the lanes that `due` says.
fn land_all(w: &mut Warp<'_>, due: impl Fn(&Pending) -> u32) -> Result<(), Box<Fault>> {
    let mut pending = std::mem::take(&mut w.own_copies().pending);
    for copy in &mut pending {
        let due = due(copy);
        let (tracked, own) = (due & copy.tracked, due & !copy.tracked);
        if own != 0 {
            land(w, copy, own)?;
        }
        if tracked != 0 {
            let pc = std::mem::replace(&mut w.pc, copy.pc);
            w.domain.order.begin_copy(w.slot, w.index, tracked);
            w.copying = true;
            land(w, copy, tracked)?;
            (w.copying, w.pc) = (false, pc);
        }
        copy.lanes &= !due;
    }
    pending.retain(|copy| copy.lanes != 0);
    w.own_copies().pending = pending;
    Ok(())
}

/// Writes what lanes of a copy have copied.
fn land(w: &mut Warp<'_>, copy: &Pending, done: u32) -> Result<(), Box<Fault>> {
    let read = lanes_of(done).filter(|lane| copy.take[*lane] != 0);
    let read = read.fold(0, |read, lane| read | 1 << lane);
    read_sources(w, &copy.source, read, &copy.take)?;
    let launch = w.launch;
    let first = copy.source[done.trailing_zeros() as usize % 32];
    let mut allocation = launch.table.find(first);
    for lane in lanes_of(done) {
        let (at, take) = (copy.target[lane], u32::from(copy.take[lane]));
        let source = copy.source[lane];
        if take != 0 && !allocation.is_some_and(|a| a.holds(source, u64::from(take))) {
            allocation = launch.table.find(source);
        }
        let bytes = &mut w.shared.bytes;
        match allocation {
            Some(allocation) if take == copy.size && take == 16 => {
                let from = (source - allocation.base) as usize;
                bytes.set_words::<4>(at, allocation.words(from));
                if allocation.initialised(from, 16) {
                    bytes.mark(at, 16, true);
                } else {
                    for byte in 0..16 {
                        bytes.mark(
                            at + byte,
                            1,
                            allocation.initialised(from + byte as usize, 1),
                        );
                    }
                }
            }
            _ => {
                for byte in 0..copy.size {
                    let from = allocation.filter(|_| byte < take);
                    let from =
                        from.map(|a| (a, (source.wrapping_sub(a.base) + u64::from(byte)) as usize));
                    let value = from.map_or(0, |(a, from)| a.part(from, 1));
                    bytes.set_part(at + byte, 1, value);
                    bytes.mark(
                        at + byte,
                        1,
                        from.is_none_or(|(a, from)| a.initialised(from, 1)),
                    );
                }
            }
        }
        if take != 0 && launch.hostile.holds(source, u64::from(take)) {
            for word in (0..take / 4).map(|n| at + 4 * n) {
                let [real] = w.shared.bytes.words::<1>(word);
                let value = garbage(w.random, real);
                w.shared.bytes.set_words(word, [value]);
            }
        }
        w.shared.let_go(at, copy.size);
    }
    if launch.checks.race {
        let shared = &mut *w.shared;
        let who = w.domain.order.who(w.slot, w.index, w.pc, 0);
        let who = if w.copying { who.copying() } else { who };
        let what = (done, copy.size, false);
        let conflict = shared
            .shadow
            .touch_lanes(&who, &copy.target, what, Touch::Write);
        if let Some((conflict, lane)) = conflict {
            return Err(w.race(Access::Write, conflict, lane, copy.target[lane]));
        }
    }
    Ok(())
}
