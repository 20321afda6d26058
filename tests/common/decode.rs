//! Cases of attention, run by the decode kernels.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, PrefillArgs};
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{Device, Float, StatusWord, Stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::spec::{Source, Spec};
use super::{AnyCase, Case, Lengths, Outcome};

impl<T: Float> Case<T> {
    /// Whether no offsets are needed to tell where each sequence's queries are.
    pub fn has_even_queries(&self) -> bool {
        let lengths = self
            .offsets_q
            .windows(2)
            .map(|pair| i64::from(pair[1]) - i64::from(pair[0]));
        let even = lengths
            .clone()
            .all(|length| Some(length) == lengths.clone().next());
        even && self.offsets_q[0] == 0 && self.offsets_q.last() == Some(&(self.rows_q() as i32))
    }

    /// Runs the case by the decode kernels, the work shared by so many blocks.
    pub fn decode(&self, device: &Device, blocks: usize) -> Result<Outcome<T>, Box<dyn Error>> {
        let problem = DecodeProblem::of(self.problem.clone()).blocks(blocks);
        // Cases that could go without offsets do, but for those that want them unchecked.
        let uniform = !self.device_offsets && self.has_even_queries();
        self.run_by(device, |stream, args| {
            let plan = DecodePlan::new(device, &problem)?;
            run(&plan, stream, args, uniform)?;
            Ok(plan.entry())
        })
    }

    /// Runs the case and judges every element; the margins of output and log-sum-exp.
    pub fn check_decode(
        &self,
        device: &Device,
        blocks: usize,
    ) -> Result<(Margin, Margin), Box<dyn Error>> {
        let outcome = self.decode(device, blocks)?;
        self.judge(&outcome)
    }
}

/// Runs a plan on the operands of a prefill, with a workspace that is full of NaN.
pub fn run(
    plan: &DecodePlan,
    stream: &Stream,
    args: PrefillArgs<'_>,
    uniform: bool,
) -> Result<(), Box<dyn Error>> {
    let elements = plan.workspace_elements();
    let mut workspace = stream.upload(&vec![f32::NAN; elements])?;
    let status: &StatusWord = args.status;
    let mut decode = DecodeArgs::new(
        args.q,
        args.kv,
        args.out,
        workspace.tensor_mut([elements])?,
        status,
    );
    decode.lse = args.lse;
    decode.seqlens_q = (!uniform).then_some(args.seqlens_q);
    (decode.alibi, decode.sinks, decode.mask) = (args.alibi, args.sinks, args.mask);
    Ok(plan.run(stream, decode)?)
}

/// Head dimensions of keys and values: those of entries, and odd multiples of 8.
const DIMS: [(usize, usize); 8] = [
    (64, 64),
    (128, 128),
    (128, 128),
    (96, 96),
    (40, 72),
    (128, 64),
    (8, 8),
    (112, 112),
];

/// A case of its seed, of every kind of shape, layout and option, and how many blocks share it.
pub fn random(seed: u64) -> (AnyCase, usize) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut spec = Spec::random(rng);
    // Half of the cases have no option: they take the lean entries.
    if seed.is_multiple_of(2) {
        spec.alibi = false;
        spec.sinks = false;
        spec.mask = false;
        spec.softcap = None;
        spec.window = infer_kernels::attention::prefill::Window::ALL;
        spec.dims = [(64, 64), (128, 128)][rng.random_range(0..2)];
    } else {
        spec.dims = DIMS[rng.random_range(0..DIMS.len())];
    }
    spec.ratio = [1, 2, 3, 4, 5, 7, 8, 16, 17][rng.random_range(0..9)];
    if spec.source == Source::Ragged {
        spec.source = Source::Rows(rng.random_range(1..70));
    }
    let kv = if spec.ratio > 4 {
        1
    } else {
        rng.random_range(1..=3)
    };
    let batch = rng.random_range(1..=5);
    let most = [1, 1, 1, 2, 5, 9][rng.random_range(0..6)];
    let even = rng.random_bool(0.6);
    let lengths = Lengths {
        q: (0..batch)
            .map(|_| {
                if even {
                    most
                } else {
                    rng.random_range(0..=most)
                }
            })
            .collect(),
        k: (0..batch)
            .map(|_| match rng.random_range(0..6) {
                0 => rng.random_range(0..4),
                1 => [31, 32, 33, 127, 128, 129, 255, 256, 257][rng.random_range(0..9)],
                2 => rng.random_range(0..700),
                _ => rng.random_range(0..200),
            })
            .collect(),
        lead: if rng.random_bool(0.2) { 3 } else { 0 },
        trail: if rng.random_bool(0.2) { 2 } else { 0 },
    };
    let blocks = [1, 2, 3, 5, 7, 16, 40][rng.random_range(0..7)];
    (spec.case(seed, kv, &lengths), blocks)
}

/// Runs and judges a case of either type.
pub fn check(
    case: &AnyCase,
    device: &Device,
    blocks: usize,
) -> Result<(Margin, Margin), Box<dyn Error>> {
    match case {
        AnyCase::F16(case) => case.check_decode(device, blocks),
        AnyCase::Bf16(case) => case.check_decode(device, blocks),
    }
}

/// Plain attention of bf16 in pages of 16: so many heads and keys for each sequence, one query each.
pub fn plain(seed: u64, heads: HeadShape, queries: usize, keys: &[usize]) -> Case<bf16> {
    plain_of(seed, heads, &Lengths::of(&vec![queries; keys.len()], keys))
}

/// The same with any lengths.
pub fn plain_of(seed: u64, heads: HeadShape, lengths: &Lengths) -> Case<bf16> {
    let spec = Spec {
        dtype: infer_kernels::DType::BF16,
        dims: (heads.dim, heads.dim),
        ratio: heads.query / heads.kv,
        source: Source::Rows(16),
        causal: true,
        ..Spec::of(&super::spec::LEVELS.map(|_| 0))
    };
    let mut case = spec.typed::<bf16>(seed, heads.kv, lengths);
    case.device_offsets = false;
    if let Some(pages) = &mut case.pages {
        pages.layout = super::PoolLayout::Nhd { pad: 0 };
    }
    case
}

/// One small case of either type, with a log-sum-exp.
pub fn smoke<T: Float>(seed: u64, dim: usize, sinks: bool) -> Case<T> {
    let spec = Spec {
        dims: (dim, dim),
        ratio: 3,
        source: Source::Csr(5),
        sinks,
        lse: true,
        ..Spec::of(&super::spec::LEVELS.map(|_| 0))
    };
    spec.typed::<T>(seed, 2, &Lengths::of(&[1, 3, 0], &[70, 140, 0]))
}
