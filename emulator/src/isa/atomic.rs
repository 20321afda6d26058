//! Atomic operations and reductions in memory.
//!
//! Lanes of one instruction take effect one after the other, in an order that the seed draws.

use half::{bf16, f16};

use super::prelude::*;
use crate::memory::access::{Addresses, space};
use crate::memory::global::Allocation;
use crate::memory::hostile::garbage;
use crate::memory::strong::{Manner, manner};
use crate::memory::{SHARED_BASE, Window};
use crate::violation::{Access, Fault};

const ATOM: &str = "Parallel Synchronization and Communication Instructions: atom";
const RED: &str = "Parallel Synchronization and Communication Instructions: red";
const ORDER: Mod = maybe("order", &["relaxed", "acquire", "release", "acq_rel"]);
const SCOPE: Mod = maybe("scope", &["cta", "cluster", "gpu", "sys"]);
const SPACE: Mod = maybe("space", &["global", "shared", "shared::cta"]);
const HINT: Mod = maybe("hint", &["L2::cache_hint"]);
const OPERATION: Mod = one(
    "op",
    &[
        "add", "min", "max", "inc", "dec", "and", "or", "xor", "exch",
    ],
);
const REDUCTION: Mod = one(
    "op",
    &["add", "min", "max", "inc", "dec", "and", "or", "xor"],
);
const TYPES: Mod = types(&[U32, S32, U64, S64, B32, B64, F32, F64, F16, F16x2]);
const BRAINS: Mod = types(&[BF16, BF16x2]);
const RED_ORDER: Mod = maybe("order", &["relaxed", "release"]);

pub(super) static ROWS: &[Row] = &[
    row("atom", ATOM, Class::Atomic)
        .mods(&[ORDER, SCOPE, SPACE, OPERATION, flag("noftz"), HINT, TYPES])
        .args(&[D(T0), A, S(T0), Opt(&S(Is(B64)))])
        .exec(|f| atomic(f, 0)),
    row("atom", ATOM, Class::Atomic)
        .mods(&[
            ORDER,
            SCOPE,
            SPACE,
            need("cas"),
            HINT,
            types(&[B16, B32, B64]),
        ])
        .args(&[D(T0), A, S(T0), S(T0), Opt(&S(Is(B64)))])
        .exec(|f| atomic(f, 0)),
    row("red", RED, Class::Atomic)
        .mods(&[
            RED_ORDER,
            SCOPE,
            SPACE,
            REDUCTION,
            flag("noftz"),
            HINT,
            TYPES,
        ])
        .args(&[A, S(T0), Opt(&S(Is(B64)))])
        .exec(|f| atomic(f, 1)),
    row("atom", ATOM, Class::Atomic)
        .mods(&[
            ORDER,
            SCOPE,
            SPACE,
            one("op", &["add"]),
            need("noftz"),
            HINT,
            BRAINS,
        ])
        .args(&[D(T0), A, S(T0), Opt(&S(Is(B64)))])
        .since(90, 7, 8)
        .exec(|f| atomic(f, 0)),
    row("red", RED, Class::Atomic)
        .mods(&[
            RED_ORDER,
            SCOPE,
            SPACE,
            one("op", &["add"]),
            need("noftz"),
            HINT,
            BRAINS,
        ])
        .args(&[A, S(T0), Opt(&S(Is(B64)))])
        .since(90, 7, 8)
        .exec(|f| atomic(f, 1)),
];

/// What an atomic operation does to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    /// With subnormal numbers flushed, as in global memory.
    AddFlushed,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
}

const OPS: [Op; 11] = [
    Op::Add,
    Op::AddFlushed,
    Op::Min,
    Op::Max,
    Op::Inc,
    Op::Dec,
    Op::And,
    Op::Or,
    Op::Xor,
    Op::Exchange,
    Op::CompareAndSwap,
];
const VALUES: [Type; 13] = [
    U32, S32, U64, S64, B16, B32, B64, F32, F64, F16, F16x2, BF16, BF16x2,
];

fn atomic(f: &mut Form<'_>, reduction: u64) -> Option<ExecFn> {
    let ty = f.ty(0);
    let half = matches!(ty, F16 | F16x2 | BF16 | BF16x2);
    let (op, fits) = match f.one("op") {
        None => (Op::CompareAndSwap, true),
        Some("add") => {
            let whole = matches!(ty, U32 | S32 | U64 | F32 | F64);
            (Op::Add, whole && !f.has("noftz") || half && f.has("noftz"))
        }
        Some("min") => (Op::Min, matches!(ty, U32 | S32 | U64 | S64)),
        Some("max") => (Op::Max, matches!(ty, U32 | S32 | U64 | S64)),
        Some("inc") => (Op::Inc, ty == U32),
        Some("dec") => (Op::Dec, ty == U32),
        Some("and") => (Op::And, matches!(ty, B32 | B64)),
        Some("or") => (Op::Or, matches!(ty, B32 | B64)),
        Some("xor") => (Op::Xor, matches!(ty, B32 | B64)),
        Some(_) => (Op::Exchange, matches!(ty, B32 | B64)),
    };
    if !fits || f.has("noftz") && !half {
        return None;
    }
    let place = match f.one("space") {
        Some("global") => space::GLOBAL,
        Some(_) => space::SHARED,
        None => space::GENERIC,
    };
    let op = OPS.iter().position(|known| *known == op)? as u64;
    let value = VALUES.iter().position(|known| *known == ty)? as u64;
    let address = 0;
    let wide = u64::from(f.src_bits.get(address) == Some(&64));
    let manner = manner(f.one("order").or(Some("relaxed")), f.one("scope"))?;
    f.aux = op
        | value << 8
        | u64::from(place) << 16
        | wide << 24
        | reduction << 25
        | u64::from(manner.scope) << 32
        | u64::from(manner.acquire) << 40
        | u64::from(manner.release) << 48;
    Some(exec!(cold | w, i, m | run(w, i, m)))
}

/// An atomic operation with its operands.
struct Operation {
    op: Op,
    manner: Manner,
    ty: Type,
    bytes: u32,
    b: [u64; 32],
    c: [u64; 32],
    valid: u32,
}

fn run(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let op = OPS.get(i.aux as usize & 0xff).copied().unwrap_or(Op::Add);
    let ty = VALUES
        .get((i.aux >> 8) as usize & 0xff)
        .copied()
        .unwrap_or(U32);
    let place = (i.aux >> 16) as u8;
    let addresses = w.addresses(i, 0, 0, i.aux >> 24 & 1 != 0, m)?;
    let bytes = ty.bits() / 8;
    let source = |w: &Warp<'_>, k: usize| match bytes {
        8 => (w.get::<u64>(i.s[k]), w.valid::<u64>(i.s[k])),
        _ => (w.get::<u32>(i.s[k]).map(u64::from), w.valid::<u32>(i.s[k])),
    };
    let (b, valid) = source(w, 1);
    let (c, valid) = match op {
        Op::CompareAndSwap => {
            let (c, more) = source(w, 2);
            (c, valid & more)
        }
        _ => (b, valid),
    };
    let manner = Manner {
        scope: (i.aux >> 32) as u8,
        acquire: (i.aux >> 40) as u8,
        release: (i.aux >> 48) as u8,
    };
    let operation = Operation {
        op,
        manner,
        ty,
        bytes,
        b,
        c,
        valid,
    };
    let mut old = [0; 32];
    let mut known = 0;
    w.aligned(place, Access::Atomic, &addresses, m, bytes)?;
    w.manner = manner.scope;
    match place {
        space::GLOBAL => global(w, &addresses, m, &operation, &mut old, &mut known)?,
        space::SHARED => shared(w, &addresses, m, &operation, &mut old, &mut known)?,
        _ => w.by_window(&addresses, m, |w, window, addresses, m| match window {
            Window::Global => global(w, addresses, m, &operation, &mut old, &mut known),
            Window::Shared => shared(w, addresses, m, &operation, &mut old, &mut known),
            _ => {
                let kind = Kind::WrongSpace {
                    expected: crate::violation::Space::Global,
                };
                Err(w.fault_at(kind, m, addresses.least))
            }
        })?,
    }
    w.manner = 0;
    if manner.release != 0 {
        w.domain.order.released(w.slot, w.index);
    }
    if i.aux >> 25 & 1 == 0 {
        match bytes {
            8 => w.put(i.d[0], m, known, old),
            _ => w.put(i.d[0], m, known, old.map(|old| old as u32)),
        }
    }
    Ok(Flow::Next)
}

fn global(
    w: &mut Warp<'_>,
    addresses: &Addresses,
    m: u32,
    operation: &Operation,
    old: &mut [u64; 32],
    known: &mut u32,
) -> Result<(), Box<Fault>> {
    w.count_global(addresses, m, u64::from(operation.bytes * m.count_ones()));
    let op = if operation.op == Op::Add && operation.ty == F32 {
        Op::AddFlushed
    } else {
        operation.op
    };
    let (lanes, count) = w.shuffled(m);
    for lane in lanes[..count].iter().map(|lane| usize::from(*lane)) {
        let address = addresses.at[lane];
        let memory = w.launch.memory;
        let bytes = operation.bytes;
        w.allocation(space::GLOBAL, Access::Atomic, address, bytes, lane)?;
        if w.launch.checks.race {
            w.touch_global(Access::Atomic, &addresses.at, 1 << lane, bytes)?;
        }
        let allocation = w.allocation(space::GLOBAL, Access::Atomic, address, bytes, lane)?;
        let at = (address - allocation.base) as usize;
        let apply = |old: u64| apply(op, operation.ty, old, operation.b[lane], operation.c[lane]);
        let before = allocation.initialised(at, operation.bytes as usize);
        if operation.bytes == 8 {
            let _serial = memory.lock(address);
            let [low, high] = allocation.words::<2>(at);
            old[lane] = u64::from(high) << 32 | u64::from(low);
            let new = apply(old[lane]);
            allocation.set_words(at, [new as u32, (new >> 32) as u32]);
        } else {
            old[lane] = update(allocation, at, operation.bytes, apply);
        }
        *known |= u32::from(before) << lane;
        let valid = operation.valid >> lane & 1 != 0 && (before || op == Op::Exchange);
        allocation.mark(at, operation.bytes as usize, valid);
        let values = (old[lane], apply(old[lane]));
        w.domain.changes += u64::from(values.0 != values.1);
        w.updated(
            (space::GLOBAL, bytes),
            operation.manner,
            (address, lane),
            values,
        );
        if w.launch.hostile.holds(address, u64::from(bytes)) {
            let [low, high] = [old[lane], old[lane] >> 32].map(|w| w as u32);
            let [low, high] = [low, high].map(|word| garbage(w.random, word));
            old[lane] = u64::from(high) << 32 | u64::from(low);
        }
    }
    Ok(())
}

/// Changes up to 4 bytes in one step, and returns what they were.
fn update(allocation: &Allocation, at: usize, bytes: u32, apply: impl Fn(u64) -> u64) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    let (shift, mask) = (at % 4 * 8, if bytes == 4 { u32::MAX } else { 0xffff });
    let Some(word) = allocation.word(at) else {
        return 0;
    };
    let change = |word: u32| {
        let new = apply(u64::from(word >> shift & mask)) as u32 & mask;
        Some(word & !(mask << shift) | new << shift)
    };
    let (Ok(word) | Err(word)) = word.fetch_update(Relaxed, Relaxed, change);
    u64::from(word >> shift & mask)
}

fn shared(
    w: &mut Warp<'_>,
    addresses: &Addresses,
    m: u32,
    operation: &Operation,
    old: &mut [u64; 32],
    known: &mut u32,
) -> Result<(), Box<Fault>> {
    let bytes = operation.bytes;
    let memory = (SHARED_BASE, w.shared.bytes.size());
    let offsets = w.offsets(space::SHARED, Access::Atomic, addresses, (m, bytes), memory)?;
    w.touch_shared::<1>(Access::Atomic, &offsets, m, bytes)?;
    let (lanes, count) = w.shuffled(m);
    for lane in lanes[..count].iter().map(|lane| usize::from(*lane)) {
        let at = offsets[lane];
        let memory = &mut w.shared.bytes;
        old[lane] = if bytes == 8 {
            let [low, high] = memory.words::<2>(at);
            u64::from(high) << 32 | u64::from(low)
        } else {
            u64::from(memory.part(at, bytes))
        };
        let new = apply(
            operation.op,
            operation.ty,
            old[lane],
            operation.b[lane],
            operation.c[lane],
        );
        if bytes == 8 {
            memory.set_words(at, [new as u32, (new >> 32) as u32]);
        } else {
            memory.set_part(at, bytes, new as u32);
        }
        let before = memory.initialised(at, bytes);
        *known |= u32::from(before) << lane;
        let valid = operation.valid >> lane & 1 != 0 && (before || operation.op == Op::Exchange);
        memory.mark(at, bytes, valid);
        let (place, who) = ((space::SHARED, bytes), (addresses.at[lane], lane));
        w.updated(place, operation.manner, who, (old[lane], new));
    }
    Ok(())
}

/// The value that replaces `old`.
fn apply(op: Op, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let flush = |value: f32| {
        if value.is_subnormal() {
            0f32.copysign(value)
        } else {
            value
        }
    };
    let (old32, b32) = (old as u32, b as u32);
    let float = f32::from_bits;
    match (op, ty) {
        (Op::AddFlushed, _) => u64::from(canonical(flush(flush(float(old32)) + flush(float(b32))))),
        (Op::Add, F32) => u64::from(canonical(float(old32) + float(b32))),
        (Op::Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Op::Add, F16) => u64::from(add_f16(old as u16, b as u16)),
        (Op::Add, BF16) => u64::from(add_bf16(old as u16, b as u16)),
        (Op::Add, F16x2) => u64::from(pairwise(old32, b32, add_f16)),
        (Op::Add, BF16x2) => u64::from(pairwise(old32, b32, add_bf16)),
        (Op::Add, U64) => old.wrapping_add(b),
        (Op::Add, _) => u64::from(old32.wrapping_add(b32)),
        (Op::Min, U32) => u64::from(old32.min(b32)),
        (Op::Min, S32) => (old32 as i32).min(b32 as i32) as u32 as u64,
        (Op::Min, S64) => (old as i64).min(b as i64) as u64,
        (Op::Min, _) => old.min(b),
        (Op::Max, U32) => u64::from(old32.max(b32)),
        (Op::Max, S32) => (old32 as i32).max(b32 as i32) as u32 as u64,
        (Op::Max, S64) => (old as i64).max(b as i64) as u64,
        (Op::Max, _) => old.max(b),
        (Op::Inc, _) => {
            if old32 >= b32 {
                0
            } else {
                u64::from(old32) + 1
            }
        }
        (Op::Dec, _) => {
            if old32 == 0 || old32 > b32 {
                u64::from(b32)
            } else {
                u64::from(old32) - 1
            }
        }
        (Op::And, _) => old & b,
        (Op::Or, _) => old | b,
        (Op::Xor, _) => old ^ b,
        (Op::Exchange, _) => b,
        (Op::CompareAndSwap, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

fn canonical(value: f32) -> u32 {
    if value.is_nan() {
        0x7fff_ffff
    } else {
        value.to_bits()
    }
}

// The sum of two halves, rounded to f32 first, rounds to the same half as the exact sum: f32 has more
// than twice the bits and two.
fn add_f16(a: u16, b: u16) -> u16 {
    let sum = f16::from_bits(a).to_f32() + f16::from_bits(b).to_f32();
    if sum.is_nan() {
        0x7fff
    } else {
        f16::from_f32(sum).to_bits()
    }
}

fn add_bf16(a: u16, b: u16) -> u16 {
    let sum = bf16::from_bits(a).to_f32() + bf16::from_bits(b).to_f32();
    if sum.is_nan() {
        0x7fff
    } else {
        bf16::from_f32(sum).to_bits()
    }
}

fn pairwise(a: u32, b: u32, f: fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}
