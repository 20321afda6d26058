//! What a prefill can be asked for: factors with a few levels each, and cases made from them.

use half::{bf16, f16};
use infer_kernels::attention::prefill::{HeadShape, PrefillProblem, SoftCap, Window};
use infer_kernels::{DType, Float};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{AnyCase, Arrangement, Case, Lengths, Pages, PoolLayout};

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Ragged,
    /// Pages of so many keys, found through a table with a row for each sequence.
    Rows(usize),
    /// The same through one list.
    Csr(usize),
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Spec {
    pub dtype: DType,
    /// Head dimension of keys and of values.
    pub dims: (usize, usize),
    /// Query heads for each kv head.
    pub ratio: usize,
    pub source: Source,
    /// Of ragged operands and of pages, by number.
    pub layout: usize,
    pub causal: bool,
    pub window: Window,
    pub softcap: Option<SoftCap>,
    pub alibi: bool,
    pub sinks: bool,
    pub mask: bool,
    pub lse: bool,
}

const DTYPES: [DType; 2] = [DType::F16, DType::BF16];
/// Each size that there is a kernel for, and odd multiples of 8 between them.
pub const DIMS: [(usize, usize); 14] = [
    (64, 64),
    (128, 128),
    (40, 40),
    (72, 72),
    (80, 80),
    (96, 96),
    (112, 112),
    (160, 160),
    (200, 200),
    (256, 256),
    (192, 128),
    (128, 64),
    (24, 104),
    (8, 8),
];
const RATIOS: [usize; 4] = [1, 3, 4, 8];
const SOURCES: [Source; 7] = [
    Source::Ragged,
    Source::Rows(1),
    Source::Rows(16),
    Source::Rows(64),
    Source::Csr(1),
    Source::Csr(5),
    Source::Csr(16),
];
const WINDOWS: [Window; 5] = [
    Window::ALL,
    Window::left(29),
    Window::new(50, 3),
    Window::new(0, 0),
    Window {
        left: None,
        right: Some(17),
    },
];
const SOFTCAPS: [Option<SoftCap>; 3] =
    [None, Some(SoftCap::Approx(1.5)), Some(SoftCap::Exact(0.75))];

/// The number of levels of each factor.
pub const LEVELS: [usize; 12] = [
    DTYPES.len(),
    DIMS.len(),
    RATIOS.len(),
    SOURCES.len(),
    3,
    2,
    WINDOWS.len(),
    SOFTCAPS.len(),
    2,
    2,
    2,
    2,
];

impl Spec {
    /// A level for each factor.
    pub fn of(levels: &[usize]) -> Spec {
        let &[
            dtype,
            dims,
            ratio,
            source,
            layout,
            causal,
            window,
            softcap,
            alibi,
            sinks,
            mask,
            lse,
        ] = levels
        else {
            panic!("{} levels instead of {}", levels.len(), LEVELS.len());
        };
        Spec {
            dtype: DTYPES[dtype],
            dims: DIMS[dims],
            ratio: RATIOS[ratio],
            source: SOURCES[source],
            layout,
            causal: causal == 1,
            window: WINDOWS[window],
            softcap: SOFTCAPS[softcap],
            alibi: alibi == 1,
            sinks: sinks == 1,
            mask: mask == 1,
            lse: lse == 1,
        }
    }

    /// Any levels; each option with a probability of a third.
    pub fn random(rng: &mut StdRng) -> Spec {
        let mut spec = Spec::of(&LEVELS.map(|n| rng.random_range(0..n)));
        let on = |rng: &mut StdRng| rng.random_bool(0.3);
        (spec.alibi, spec.sinks, spec.mask) = (on(rng), on(rng), on(rng));
        if !on(rng) {
            spec.softcap = None;
        }
        spec.window = Window::ALL;
        if on(rng) {
            let side = |rng: &mut StdRng| on(rng).then(|| rng.random_range(0..150));
            (spec.window.left, spec.window.right) = (side(rng), side(rng));
        }
        let page_size = rng.random_range(1..40);
        if let (Source::Rows(size) | Source::Csr(size), true) =
            (&mut spec.source, rng.random_bool(0.5))
        {
            *size = page_size;
        }
        spec
    }

    /// A case with random operands, and NaN and infinities wherever they may have no effect.
    pub fn case(&self, seed: u64, kv: usize, lengths: &Lengths) -> AnyCase {
        match self.dtype {
            DType::F16 => AnyCase::F16(self.typed::<f16>(seed, kv, lengths)),
            _ => AnyCase::Bf16(self.typed::<bf16>(seed, kv, lengths)),
        }
    }

    pub fn typed<T: Float>(&self, seed: u64, kv: usize, lengths: &Lengths) -> Case<T> {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (dim, v_dim) = self.dims;
        let query = self.ratio * kv;
        let heads = HeadShape { query, kv, dim };
        let longest = lengths.q.iter().copied().max().unwrap_or(0);
        let spare = if rng.random_bool(0.3) { 150 } else { 0 };
        let mut problem = PrefillProblem::new(T::DTYPE, heads, lengths.q.len(), longest + spare)
            .v_dim(v_dim)
            .causal(self.causal)
            .window(self.window)
            .softcap(self.softcap)
            .alibi(self.alibi)
            .sinks(self.sinks)
            .lse(self.lse);
        if rng.random_bool(0.3) {
            problem.scale = rng.random_range(0.01..0.5);
        }
        let arrangements = [(); 3].map(|()| Arrangement::of_kind(self.layout, rng));
        let mut case = Case::of(rng, problem, lengths, arrangements);
        if self.mask {
            case.random_mask(rng);
        }
        case.poison(rng);
        let paged = match self.source {
            Source::Ragged => None,
            Source::Rows(page_size) => Some((page_size, false)),
            Source::Csr(page_size) => Some((page_size, true)),
        };
        if let Some((page_size, csr)) = paged {
            let layout = PoolLayout::of_kind(self.layout, rng);
            let rows = case.k.shape[0];
            let pages = Pages::random(rng, page_size, csr, layout, &case.offsets_k, rows);
            case.put_in_pages(pages);
        }
        case
    }
}
