//! Loads, stores and addresses.
//!
//! Cache operators and eviction priorities are checked and have no effect. `.volatile` is `.relaxed.sys`;
//! what strong accesses may return and whom they synchronise, `memory::location` says.

use super::prelude::*;
use crate::ast::Space;
use crate::memory::Window;
use crate::memory::access::{Addresses, Words, lanes_of, space};
use crate::memory::order::scope;
use crate::memory::strong::{Manner, manner};
use crate::violation::Access;

const SPACES: &[&str] = &[
    "global",
    "shared",
    "shared::cta",
    "local",
    "param",
    "param::entry",
    "param::func",
    "const",
];
const SHARED: &[&str] = &["shared", "shared::cta"];
/// [`SPACES`] but for those of [`SHARED`], which keep another unit busy.
const NOT_SHARED: &[&str] = &[
    "global",
    "local",
    "param",
    "param::entry",
    "param::func",
    "const",
];
const LOADABLE: &[Type] = &[
    B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64,
];
const EVICTION: &[&str] = &[
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
];
const PREFETCH: &[&str] = &["L2::64B", "L2::128B", "L2::256B"];
const LOAD_CACHE: &[&str] = &["ca", "cg", "cs", "lu", "cv"];
const STORE_CACHE: &[&str] = &["wb", "cg", "cs", "wt"];
const SCOPES: &[&str] = &["cta", "cluster", "gpu", "sys"];
const LOAD_ORDER: &[&str] = &["weak", "volatile", "relaxed", "acquire"];
const STORE_ORDER: &[&str] = &["weak", "volatile", "relaxed", "release"];
const VECTORS: &[&str] = &["v2", "v4"];

pub(super) static ROWS: &[Row] = &[
    row(
        "ld",
        "Data Movement and Conversion Instructions: ld",
        Class::Memory,
    )
    .mods(&[
        flag("mmio"),
        maybe("order", LOAD_ORDER),
        maybe("scope", SCOPES),
        maybe("space", NOT_SHARED),
        flag("nc"),
        maybe("cache", LOAD_CACHE),
        maybe("eviction", EVICTION),
        maybe("hint", &["L2::cache_hint"]),
        maybe("prefetch", PREFETCH),
        maybe("vector", VECTORS),
        types(LOADABLE),
    ])
    .args(&[DV(T0, Count::Group("vector")), A, Opt(&S(Is(B64)))])
    .exec(load),
    row(
        "ld",
        "Data Movement and Conversion Instructions: ld",
        Class::Shared,
    )
    .mods(&[
        maybe("order", LOAD_ORDER),
        maybe("scope", SCOPES),
        one("space", SHARED),
        maybe("cache", LOAD_CACHE),
        maybe("vector", VECTORS),
        types(LOADABLE),
    ])
    .args(&[DV(T0, Count::Group("vector")), A])
    .exec(load),
    row(
        "ldu",
        "Data Movement and Conversion Instructions: ldu",
        Class::Memory,
    )
    .mods(&[
        maybe("space", &["global"]),
        maybe("vector", VECTORS),
        types(LOADABLE),
    ])
    .args(&[DV(T0, Count::Group("vector")), A])
    .exec(load),
    row(
        "st",
        "Data Movement and Conversion Instructions: st",
        Class::Memory,
    )
    .mods(&[
        flag("mmio"),
        maybe("order", STORE_ORDER),
        maybe("scope", SCOPES),
        maybe("space", NOT_SHARED),
        maybe("cache", STORE_CACHE),
        maybe("eviction", EVICTION),
        maybe("hint", &["L2::cache_hint"]),
        maybe("vector", VECTORS),
        types(LOADABLE),
    ])
    .args(&[A, SV(T0, Count::Group("vector")), Opt(&S(Is(B64)))])
    .exec(store),
    row(
        "st",
        "Data Movement and Conversion Instructions: st",
        Class::Shared,
    )
    .mods(&[
        maybe("order", STORE_ORDER),
        maybe("scope", SCOPES),
        one("space", SHARED),
        maybe("cache", STORE_CACHE),
        maybe("vector", VECTORS),
        types(LOADABLE),
    ])
    .args(&[A, SV(T0, Count::Group("vector"))])
    .exec(store),
    row(
        "discard",
        "Data Movement and Conversion Instructions: discard",
        Class::Memory,
    )
    .mods(&[maybe("space", &["global"]), need("L2")])
    .args(&[A, I])
    .since(80, 7, 4)
    .exec(discard),
    row(
        "cvta",
        "Data Movement and Conversion Instructions: cvta",
        Class::Int,
    )
    .mods(&[flag("to"), one("space", SPACES), types(&[U32, U64])])
    .args(&[D(T0), S(T0)])
    .exec(convert_address),
    row(
        "isspacep",
        "Data Movement and Conversion Instructions: isspacep",
        Class::Int,
    )
    .mods(&[one("space", SPACES)])
    .args(&[D(Is(Pred)), S(Is(U64))])
    .exec(|f| {
        f.aux = window(f.one("space")?) as u64;
        Some(exec!(|w, i, m| {
            let addresses = w.get::<u64>(i.s[0]);
            let inside = |lane: &usize| Window::of(addresses[*lane]) as u64 == i.aux;
            let bits = (0..32)
                .filter(inside)
                .fold(0, |bits, lane| bits | 1 << lane);
            let valid = w.valid::<u64>(i.s[0]);
            w.put_pred(i.d[0], m, valid, bits);
            Ok(Flow::Next)
        }))
    }),
];

/// How an access is laid out: `inst.aux` of loads and stores.
#[derive(Clone, Copy)]
struct Layout(u64);

impl Layout {
    fn new(
        bytes: u32,
        signed: bool,
        wide_register: bool,
        wide_address: bool,
        elements: usize,
        space: u8,
    ) -> Layout {
        let flags =
            u64::from(signed) | u64::from(wide_register) << 1 | u64::from(wide_address) << 2;
        Layout(u64::from(bytes) | flags << 8 | (elements as u64) << 16 | u64::from(space) << 24)
    }
    /// Marks an access as strong, or as one through the read-only cache.
    fn with(self, manner: Manner) -> Layout {
        let [scope, acquire, release] =
            [manner.scope, manner.acquire, manner.release].map(u64::from);
        Layout(self.0 | scope << 32 | acquire << 40 | release << 48)
    }
    #[inline(always)]
    fn scope(self) -> u8 {
        (self.0 >> 32) as u8
    }
    fn manner(self) -> Manner {
        Manner {
            scope: self.scope(),
            acquire: (self.0 >> 40) as u8,
            release: (self.0 >> 48) as u8,
        }
    }
    /// Bytes of the whole access.
    #[inline(always)]
    fn total(self) -> u32 {
        self.bytes() * self.elements() as u32
    }
    #[inline(always)]
    fn space(self) -> u8 {
        (self.0 >> 24) as u8
    }
    /// Bytes of an element.
    #[inline(always)]
    fn bytes(self) -> u32 {
        self.0 as u32 & 0xff
    }
    #[inline(always)]
    fn signed(self) -> bool {
        self.0 >> 8 & 1 != 0
    }
    /// Whether registers have 64 bits (elements may have less).
    #[inline(always)]
    fn wide_register(self) -> bool {
        self.0 >> 9 & 1 != 0
    }
    #[inline(always)]
    fn wide_address(self) -> bool {
        self.0 >> 10 & 1 != 0
    }
    #[inline(always)]
    fn elements(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }
}

/// Whether a load or store acquires or releases.
pub(crate) fn orders(inst: &Inst) -> bool {
    let manner = Layout(inst.aux).manner();
    manner.acquire != scope::WEAK || manner.release != scope::WEAK
}

/// Whether the address of a load or store has 64 bits.
pub(crate) fn wide_address(inst: &Inst) -> bool {
    Layout(inst.aux).wide_address()
}

fn window(space: &str) -> Window {
    match space {
        "shared" | "shared::cta" => Window::Shared,
        "local" => Window::Local,
        "param" | "param::entry" | "param::func" => Window::Param,
        _ => Window::Global,
    }
}

/// The space that an access works on; parameters of calls are local memory.
fn space_of(f: &Form<'_>) -> u8 {
    match f.one("space") {
        Some("global") => space::GLOBAL,
        Some("shared" | "shared::cta") => space::SHARED,
        Some("local") => space::LOCAL,
        Some("const") => space::CONST,
        Some(_) if f.base == Some(Space::Local) => space::LOCAL,
        Some(_) => space::PARAM,
        None => space::GENERIC,
    }
}

/// Bytes of an access, and its [`Layout`], given the width of its registers.
fn layout(f: &Form<'_>, registers: &[u32], address: usize) -> Option<(u32, Layout)> {
    let bytes = f.ty(0).bits() / 8;
    let elements = f
        .one("vector")
        .map_or(1, |vector| if vector == "v2" { 2 } else { 4 });
    let wide = registers.first().is_some_and(|bits| *bits == 64);
    if registers.iter().any(|bits| (*bits == 64) != wide) {
        return None;
    }
    // Only where a load has room for a sign does it matter whether there is one.
    let loads = f.dst_bits.iter().any(|bits| *bits > 8 * bytes);
    let signed = matches!(f.ty(0), S8 | S16 | S32) && loads;
    let wide_address = *f.src_bits.get(address)? == 64;
    let layout = Layout::new(bytes, signed, wide, wide_address, elements, space_of(f));
    let total = bytes * elements as u32;
    (total <= 16).then_some((total, layout))
}

/// Instantiates for the number of words of an access, and picks a body by its space: those that inner
/// loops live on have their own.
macro_rules! per_shape {
    ($words:expr, $space:expr, $global:expr, $shared:expr, $cold:expr) => {
        match $words {
            1 => {
                const WORDS: usize = 1;
                per_space!($space, $global, $shared, $cold)
            }
            2 => {
                const WORDS: usize = 2;
                per_space!($space, $global, $shared, $cold)
            }
            4 => {
                const WORDS: usize = 4;
                per_space!($space, $global, $shared, $cold)
            }
            _ => None,
        }
    };
}

macro_rules! per_space {
    ($space:expr, $global:expr, $shared:expr, $cold:expr) => {
        Some(match $space {
            space::GLOBAL => $global,
            space::SHARED => $shared,
            _ => $cold,
        })
    };
}

/// The order and scope of an access, if it is strong; an error if they do not go together.
fn strong(f: &Form<'_>) -> Result<Option<Manner>, ()> {
    let (order, within) = (f.one("order"), f.one("scope"));
    match order {
        None | Some("weak") => within.map_or(Ok(None), |_| Err(())),
        Some("volatile") if within.is_some() || f.has("nc") => Err(()),
        Some("relaxed" | "acquire" | "release") if within.is_none() || f.has("nc") => Err(()),
        Some(_) => manner(order, within).map(Some).ok_or(()),
    }
}

/// Whether the modifiers that are about sharing and caches go with each other and with the space.
fn consistent(f: &Form<'_>) -> bool {
    let space = f.one("space");
    let shareable = matches!(space, None | Some("global" | "shared" | "shared::cta"));
    let cached = matches!(space, None | Some("global"));
    let strong = !matches!(f.one("order"), None | Some("weak"));
    let hints = ["eviction", "prefetch", "hint"];
    let device = f.one("order") == Some("relaxed")
        && f.one("scope") == Some("sys")
        && f.one("vector").is_none()
        && cached;
    (shareable || !strong)
        && (cached || hints.iter().all(|group| f.one(group).is_none()))
        && (device || !f.has("mmio"))
}

fn load(f: &mut Form<'_>) -> Option<ExecFn> {
    if !consistent(f) {
        return None;
    }
    let (bytes, mut layout) = layout(f, f.dst_bits, 0)?;
    if let Some(manner) = strong(f).ok()? {
        f.aux = layout.with(manner).0;
        return match bytes.div_ceil(4) {
            1 => Some(exec!(cold | w, i, m | load_strong::<1>(w, i, m))),
            2 => Some(exec!(cold | w, i, m | load_strong::<2>(w, i, m))),
            4 => Some(exec!(cold | w, i, m | load_strong::<4>(w, i, m))),
            _ => None,
        };
    }
    if f.has("nc") {
        let (acquire, release) = (scope::WEAK, scope::WEAK);
        layout = layout.with(Manner {
            scope: scope::NON_COHERENT,
            acquire,
            release,
        });
    }
    f.aux = layout.0;
    per_shape!(
        bytes.div_ceil(4),
        layout.space(),
        exec!(|w, i, m| {
            let layout = Layout(i.aux);
            let (mut addresses, mut got) = (Addresses::EMPTY, Words::EMPTY);
            w.addresses_into(i, (0, 0), layout.wide_address(), m, &mut addresses)?;
            w.manner = layout.scope();
            w.load_into::<WORDS, { space::GLOBAL }>(&addresses, m, layout.total(), &mut got)?;
            w.manner = scope::WEAK;
            deliver(w, i, m, layout, &got);
            Ok(Flow::Next)
        }),
        exec!(|w, i, m| {
            let layout = Layout(i.aux);
            let (wide, what) = (layout.wide_address(), (m, layout.total()));
            let (mut offsets, mut got) = ([0; 32], Words::<WORDS>::EMPTY);
            w.shared_offsets(i, wide, Access::Read, what, &mut offsets)?;
            w.read_shared(&offsets, m, layout.total(), &mut got)?;
            deliver(w, i, m, layout, &got);
            Ok(Flow::Next)
        }),
        exec!(
            cold | w,
            i,
            m | {
                let layout = Layout(i.aux);
                let addresses = w.addresses(i, 0, 0, layout.wide_address(), m)?;
                w.manner = layout.scope();
                let got = w.load_from::<WORDS>(layout.space(), &addresses, m, layout.total())?;
                w.manner = scope::WEAK;
                deliver(w, i, m, layout, &got);
                Ok(Flow::Next)
            }
        )
    )
}

fn load_strong<const W: usize>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let layout = Layout(i.aux);
    let addresses = match w.deferred.settling.take() {
        Some(addresses) => *addresses,
        None => {
            let addresses = w.addresses(i, 0, 0, layout.wide_address(), m)?;
            if layout.manner().acquire == scope::WEAK && w.defer(&addresses, m) {
                return Ok(Flow::Next);
            }
            addresses
        }
    };
    let shape = (layout.space(), layout.bytes(), layout.total());
    let got = w.load_strong::<W>(shape, layout.manner(), &addresses, m)?;
    deliver(w, i, m, layout, &got);
    Ok(Flow::Next)
}

fn store_strong<const W: usize>(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let layout = Layout(i.aux);
    let addresses = w.addresses(i, 0, 0, layout.wide_address(), m)?;
    let data = collect::<W>(w, i, layout);
    let shape = (layout.space(), layout.bytes(), layout.total());
    w.store_strong::<W>(shape, layout.manner(), (&addresses, m), &data)?;
    Ok(Flow::Next)
}

/// Writes loaded words to the destination registers.
#[inline(always)]
fn deliver<const W: usize>(w: &mut Warp<'_>, i: &Inst, m: u32, layout: Layout, got: &Words<W>) {
    if layout.bytes() == 4 && !layout.wide_register() {
        let mut out = [[0; 32]; W];
        // Lane by lane, so that the compiler sees a transposition.
        for lane in 0..32 {
            for n in 0..W {
                out[n][lane] = got.words[lane][n];
            }
        }
        for n in 0..W {
            w.set32(i.d[n], m, got.valid[n], &out[n]);
        }
        return;
    }
    if layout.bytes() == 8 {
        for n in 0..W / 2 {
            let mut out = [0; 32];
            for lane in 0..32 {
                let words = &got.words[lane];
                out[lane] = u64::from(words[2 * n + 1]) << 32 | u64::from(words[2 * n]);
            }
            w.set64(i.d[n], m, got.valid[2 * n] & got.valid[2 * n + 1], &out);
        }
        return;
    }
    let bits = layout.bytes() * 8;
    for element in 0..layout.elements().min(8) {
        let at = element as u32 * bits;
        let (word, shift) = (at as usize / 32 % W, at % 32);
        let mut out = [0; 32];
        for lane in 0..32 {
            let raw = u64::from(got.words[lane][word] >> shift) << (64 - bits);
            out[lane] = if layout.signed() {
                (raw as i64 >> (64 - bits)) as u64
            } else {
                raw >> (64 - bits)
            };
        }
        if layout.wide_register() {
            w.set64(i.d[element], m, got.valid[word], &out);
        } else {
            w.set32(
                i.d[element],
                m,
                got.valid[word],
                &out.map(|value| value as u32),
            );
        }
    }
}

fn store(f: &mut Form<'_>) -> Option<ExecFn> {
    if !consistent(f) || f.one("space") == Some("const") {
        return None;
    }
    // Behind the address come the values, and perhaps a cache policy.
    let elements = f
        .one("vector")
        .map_or(1, |vector| if vector == "v2" { 2 } else { 4 });
    let registers = f.src_bits.get(1..1 + elements)?;
    let (bytes, layout) = layout(f, registers, 0)?;
    if let Some(manner) = strong(f).ok()? {
        f.aux = layout.with(manner).0;
        return match bytes.div_ceil(4) {
            1 => Some(exec!(cold | w, i, m | store_strong::<1>(w, i, m))),
            2 => Some(exec!(cold | w, i, m | store_strong::<2>(w, i, m))),
            4 => Some(exec!(cold | w, i, m | store_strong::<4>(w, i, m))),
            _ => None,
        };
    }
    f.aux = layout.0;
    per_shape!(
        bytes.div_ceil(4),
        layout.space(),
        exec!(|w, i, m| {
            let layout = Layout(i.aux);
            let mut addresses = Addresses::EMPTY;
            w.addresses_into(i, (0, 0), layout.wide_address(), m, &mut addresses)?;
            let data = collect::<WORDS>(w, i, layout);
            w.store::<WORDS, { space::GLOBAL }>(&addresses, m, layout.total(), &data)?;
            Ok(Flow::Next)
        }),
        exec!(|w, i, m| {
            let layout = Layout(i.aux);
            let (wide, what) = (layout.wide_address(), (m, layout.total()));
            let mut offsets = [0; 32];
            w.shared_offsets(i, wide, Access::Write, what, &mut offsets)?;
            let data = collect::<WORDS>(w, i, layout);
            w.write_shared(&offsets, m, layout.total(), &data)?;
            Ok(Flow::Next)
        }),
        exec!(
            cold | w,
            i,
            m | {
                let layout = Layout(i.aux);
                let addresses = w.addresses(i, 0, 0, layout.wide_address(), m)?;
                let data = collect::<WORDS>(w, i, layout);
                w.store_to::<WORDS>(layout.space(), &addresses, m, layout.total(), &data)?;
                Ok(Flow::Next)
            }
        )
    )
}

/// Bytes that `discard` works on.
const DISCARDED: u32 = 128;

/// `discard`: a weak write of something that nobody knows.
fn discard(f: &mut Form<'_>) -> Option<ExecFn> {
    if f.imm.get(1) != Some(&i64::from(DISCARDED)) {
        return None;
    }
    let wide = *f.src_bits.first()? == 64;
    let place = match f.one("space") {
        Some(_) => space::GLOBAL,
        None => space::GENERIC,
    };
    f.aux = Layout::new(16, false, false, wide, 1, place).0;
    Some(exec!(
        cold | w,
        i,
        m | {
            let layout = Layout(i.aux);
            let first = w.addresses(i, 0, 0, layout.wide_address(), m)?;
            if let Some(lane) =
                lanes_of(m).find(|lane| Window::of(first.at[*lane]) != Window::Global)
            {
                let kind = Kind::WrongSpace {
                    expected: crate::violation::Space::Global,
                };
                return Err(w.fault_at(kind, 1 << lane, first.at[lane]));
            }
            w.aligned(layout.space(), Access::Write, &first, m, DISCARDED)?;
            for offset in (0..u64::from(DISCARDED)).step_by(16) {
                let addresses = Addresses::new(first.at.map(|at| at.wrapping_add(offset)), m);
                let unknown = Words {
                    words: std::array::from_fn(|_| std::array::from_fn(|_| w.random.next() as u32)),
                    valid: [0; 4],
                };
                w.store_to::<4>(space::GLOBAL, &addresses, m, layout.total(), &unknown)?;
            }
            Ok(Flow::Next)
        }
    ))
}

/// The words that a store writes.
#[inline(always)]
fn collect<const W: usize>(w: &Warp<'_>, i: &Inst, layout: Layout) -> Words<W> {
    let mut data = Words::EMPTY;
    if layout.bytes() == 4 && !layout.wide_register() {
        let mut sources = [w.r32(i.s[1]); W];
        for n in 0..W {
            sources[n] = w.r32(i.s[1 + n]);
            data.valid[n] = w.valid32(i.s[1 + n]);
        }
        // Lane by lane, so that the compiler sees a transposition.
        for lane in 0..32 {
            for n in 0..W {
                data.words[lane][n] = sources[n].0[lane];
            }
        }
        return data;
    }
    if layout.bytes() == 8 {
        for n in 0..W / 2 {
            let source = w.r64(i.s[1 + n]);
            for lane in 0..32 {
                data.words[lane][2 * n] = source.0[lane] as u32;
                data.words[lane][2 * n + 1] = (source.0[lane] >> 32) as u32;
            }
            let valid = w.valid64(i.s[1 + n]);
            data.valid[2 * n] = valid;
            data.valid[2 * n + 1] = valid;
        }
        return data;
    }
    let bits = layout.bytes() * 8;
    for element in 0..layout.elements().min(8) {
        let at = element as u32 * bits;
        let (word, shift) = (at as usize / 32 % W, at % 32);
        let slot = i.s[1 + element];
        let (raw, valid) = if layout.wide_register() {
            (w.r64(slot).0.map(|value| value as u32), w.valid64(slot))
        } else {
            (w.r32(slot).0, w.valid32(slot))
        };
        for lane in 0..32 {
            data.words[lane][word] |= (raw[lane] & (u32::MAX >> (32 - bits))) << shift;
        }
        data.valid[word] &= valid;
    }
    data
}

/// Adds (or, towards the space, subtracts) the base of a window.
macro_rules! lanes_offset {
    ($TO:ident) => {
        exec!(|w, i, m| {
            let mut addresses = w.get::<u64>(i.s[0]);
            let valid = w.valid::<u64>(i.s[0]);
            for address in &mut addresses {
                *address = if $TO {
                    address.wrapping_sub(i.aux)
                } else {
                    address.wrapping_add(i.aux)
                };
            }
            w.put(i.d[0], m, valid, addresses);
            Ok(Flow::Next)
        })
    };
}

fn convert_address(f: &mut Form<'_>) -> Option<ExecFn> {
    if f.ty(0) != U64 {
        return None;
    }
    let window = window(f.one("space")?);
    if window == Window::Global {
        return Some(exec!(|w, i, m| {
            let addresses = w.get::<u64>(i.s[0]);
            let valid = w.valid::<u64>(i.s[0]);
            w.put(i.d[0], m, valid, addresses);
            Ok(Flow::Next)
        }));
    }
    f.aux = window.base();
    per_flag!(f.has("to"), TO => Some(lanes_offset!(TO)))
}
