//! Cases of decode attention over caches in 8 bits: those over 16 bits, with keys and values as they
//! are stored.

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{Kv, Window};
use infer_kernels::kv::{Format, Scales};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{HostKv, PrefillInputs};
use infer_kernels::reference::kv::{decode, encode};
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{Buffer, DType, Device, Float, Tensor, TensorError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::spec::{LEVELS, Source, Spec};
use super::{Case, Lengths, Outcome, Pool, PoolLayout};

pub const FORMATS: [Format; 3] = [Format::E4m3, Format::E5m2, Format::Int8];

/// What to run, and how keys and values are stored.
#[derive(Clone, Debug)]
pub struct Quantised<T> {
    /// Its keys and values are what would be appended.
    pub case: Case<T>,
    pub format: Format,
    /// Of keys and of values: one, or one for each head.
    pub scales: [Vec<f32>; 2],
    /// What bytes are made with, if not these.
    pub stored_with: Option<[Vec<f32>; 2]>,
    /// Whether every byte of the format comes up, in place of what would be appended.
    pub every_byte: bool,
    /// Bytes that are stored instead, in rows of the case: keys (0) or values (1), row, element of all
    /// heads, byte.
    pub patches: Vec<(usize, usize, usize, u8)>,
    pub blocks: usize,
}

/// Bytes of keys or values in pages.
pub struct Bytes {
    pub data: Vec<u8>,
    pool: [usize; 5],
    strides: [i64; 4],
}

impl Bytes {
    /// Their pages, in a copy on a device.
    pub fn tensor<'b>(&self, buffer: &'b Buffer<u8>) -> Result<Tensor<'b, 4>, TensorError> {
        let [offset, pages, rows, heads, dim] = self.pool;
        let shape = [pages, rows, heads, dim];
        buffer.region().strided(offset, shape, self.strides)
    }

    /// The byte of an element: page, slot, head, dimension.
    pub fn at(&self, index: [usize; 4]) -> u8 {
        let steps = self.strides.map(|stride| stride as usize);
        let at: usize = index.iter().zip(steps).map(|(i, step)| i * step).sum();
        self.data[self.pool[0] + at]
    }
}

impl<T: Float> Quantised<T> {
    /// The same keys and values in 8 bits, with scales that lose little of standard normal numbers.
    pub fn of(mut case: Case<T>, format: Format, per_head: bool, blocks: usize) -> Self {
        if let Some(pages) = &mut case.pages {
            pages.layout = pages.layout.of_bytes();
        }
        let heads = if per_head { case.problem.heads.kv } else { 1 };
        let least = match format {
            Format::E4m3 => 0.01,
            Format::E5m2 => 1e-4,
            _ => 0.03,
        };
        let scales = |factor: f32| (0..heads).map(move |h| factor * least * (1 + h % 3) as f32);
        Quantised {
            case,
            format,
            scales: [scales(1.0).collect(), scales(1.7).collect()],
            stored_with: None,
            every_byte: false,
            patches: vec![],
            blocks,
        }
    }

    /// Keys and values as they are stored.
    pub fn bytes(&self) -> [Bytes; 2] {
        let pools = self.case.pools().expect("keys in pages");
        let joined = pools[1].data.is_empty();
        let with = self.stored_with.as_ref().unwrap_or(&self.scales);
        let halves = |half: usize| {
            let pool: &Pool<T> = &pools[half];
            // Values of one pool for both lie among the keys.
            let from = if joined { &pools[0].data } else { &pool.data };
            let mut data = vec![encode(self.format, self.filler()); from.len()];
            let [pages, rows, heads, dim] = pool.shape;
            let [page, row, of_head, _] = pool.strides.map(|stride| stride as usize);
            let scales = &with[half];
            for [at, head, d] in super::indices([pages * rows, heads, dim]) {
                let at = pool.offset + at / rows * page + at % rows * row + head * of_head + d;
                let scale = scales[if scales.len() == 1 { 0 } else { head }];
                let x = from[at].to_f64();
                data[at] = match self.every_byte && x.is_finite() {
                    true => any_byte(self.format, at + half),
                    false => encode(self.format, x / f64::from(scale)),
                };
            }
            for &(of, key, element, byte) in &self.patches {
                let homes = self.case.pages.as_ref().map(|pages| pages.home(key));
                if let (true, Some(Some([at, slot]))) = (of == half, homes) {
                    let (head, d) = (element / dim, element % dim);
                    data[pool.offset + at * page + slot * row + head * of_head + d] = byte;
                }
            }
            Bytes {
                data,
                pool: [pool.offset, pages, rows, heads, dim],
                strides: pool.strides,
            }
        };
        [halves(0), halves(1)]
    }

    /// With every byte of the format among keys and values, and scales that keep scores small.
    pub fn with_every_byte(mut self) -> Self {
        self.every_byte = true;
        let largest = match self.format {
            Format::E4m3 => 448.0,
            Format::E5m2 => 57344.0,
            _ => 128.0,
        };
        for scales in &mut self.scales {
            for (h, scale) in scales.iter_mut().enumerate() {
                *scale = (3 + h) as f32 / largest;
            }
        }
        self
    }

    fn filler(&self) -> f64 {
        self.case.pages.as_ref().map_or(0.0, |pages| pages.filler)
    }

    fn inputs<'a>(
        &'a self,
        pools: Option<&'a [Pool<T>; 2]>,
        bytes: &'a [Bytes; 2],
    ) -> PrefillInputs<'a, T> {
        let mut inputs = self.case.inputs(pools);
        let HostKv::Paged { pages, seqlens, .. } = inputs.kv else {
            panic!("keys in pages");
        };
        let [k, v] = bytes.each_ref().map(|bytes| {
            let [offset, pages, rows, heads, dim] = bytes.pool;
            let shape = [pages, rows, heads, dim];
            HostTensor::strided(&bytes.data, offset, shape, bytes.strides).expect("a pool")
        });
        inputs.kv = HostKv::Quantised {
            k,
            v,
            format: self.format,
            scales: [&self.scales[0], &self.scales[1]],
            pages,
            seqlens,
        };
        inputs
    }

    /// Runs the case.
    pub fn run(&self, device: &Device) -> Result<Outcome<T>, Box<dyn Error>> {
        let case = &self.case;
        let problem = DecodeProblem::of(case.problem.clone())
            .format(self.format)
            .blocks(self.blocks);
        let uniform = !case.device_offsets && case.has_even_queries();
        let bytes = self.bytes();
        case.run_by(device, |stream, args| {
            let plan = DecodePlan::new(device, &problem)?;
            let elements = plan.workspace_elements();
            let mut workspace = stream.upload(&vec![f32::NAN; elements])?;
            let pools = [
                stream.upload(&bytes[0].data)?,
                stream.upload(&bytes[1].data)?,
            ];
            let Kv::Paged { pages, seqlens, .. } = args.kv else {
                panic!("keys in pages");
            };
            let kv = Kv::Paged {
                k: bytes[0].tensor(&pools[0])?,
                v: bytes[1].tensor(&pools[1])?,
                pages,
                seqlens,
            };
            let scales = [
                stream.upload(&self.scales[0])?,
                stream.upload(&self.scales[1])?,
            ];
            let workspace = workspace.tensor_mut([elements])?;
            let mut decode = DecodeArgs::new(args.q, kv, args.out, workspace, args.status);
            decode.lse = args.lse;
            decode.seqlens_q = (!uniform).then_some(args.seqlens_q);
            (decode.alibi, decode.sinks, decode.mask) = (args.alibi, args.sinks, args.mask);
            decode.scales = Some(Scales {
                k: scales[0].tensor([scales[0].len()])?,
                v: scales[1].tensor([scales[1].len()])?,
            });
            plan.run(stream, decode)?;
            Ok(plan.entry())
        })
    }

    pub fn judge(&self, outcome: &Outcome<T>) -> Result<(Margin, Margin), Box<dyn Error>> {
        let (pools, bytes) = (self.case.pools(), self.bytes());
        let inputs = self.inputs(pools.as_ref(), &bytes);
        let case = &self.case;
        // Scores are multiplied by what has been divided out of them, and by a scale.
        case.judge_of(outcome, inputs, 1)
    }

    /// Runs the case and judges every element; the margins of output and log-sum-exp.
    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn Error>> {
        self.judge(&self.run(device)?)
    }
}

/// A finite number of the format, in no order.
fn any_byte(format: Format, at: usize) -> u8 {
    let byte = ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    match decode(format, byte).is_finite() {
        true => byte,
        false => byte & 0x83,
    }
}

/// A case with queries of either type.
#[derive(Clone, Debug)]
pub enum Any {
    F16(Quantised<f16>),
    Bf16(Quantised<bf16>),
}

impl Any {
    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn Error>> {
        match self {
            Any::F16(case) => case.check(device),
            Any::Bf16(case) => case.check(device),
        }
    }
}

/// What to ask for, of a format.
pub fn of_spec(
    spec: &Spec,
    seed: u64,
    kv: usize,
    lengths: &Lengths,
    format: Format,
    blocks: usize,
) -> Any {
    fn typed<T: Float>(case: Case<T>, seed: u64, format: Format, blocks: usize) -> Quantised<T> {
        let case = Quantised::of(case, format, !seed.is_multiple_of(3), blocks);
        match seed % 4 {
            1 => case.with_every_byte(),
            _ => case,
        }
    }
    match spec.dtype {
        DType::F16 => Any::F16(typed(spec.typed(seed, kv, lengths), seed, format, blocks)),
        _ => Any::Bf16(typed(spec.typed(seed, kv, lengths), seed, format, blocks)),
    }
}

/// Head dimensions of keys and values: those of entries, and others that they have room for.
pub const DIMS: [(usize, usize); 8] = [
    (64, 64),
    (128, 128),
    (128, 128),
    (256, 256),
    (96, 96),
    (48, 80),
    (128, 64),
    (16, 112),
];

/// A case of its seed, of every kind of format, shape, layout and option.
pub fn random(seed: u64) -> Any {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x8b17);
    let mut spec = Spec::random(rng);
    if seed.is_multiple_of(2) {
        (spec.alibi, spec.sinks, spec.mask) = (false, false, false);
        (spec.softcap, spec.window) = (None, Window::ALL);
    }
    spec.dims = DIMS[rng.random_range(0..DIMS.len())];
    spec.ratio = [1, 2, 3, 4, 5, 7, 8, 16, 17][rng.random_range(0..9)];
    if spec.source == Source::Ragged {
        spec.source = Source::Rows(rng.random_range(1..70));
    }
    let kv = if spec.ratio > 4 {
        1
    } else {
        rng.random_range(1..=3)
    };
    let batch = rng.random_range(1..=4);
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
            .map(|_| match rng.random_range(0..5) {
                0 => rng.random_range(0..4),
                1 => [31, 32, 33, 127, 128, 129, 255, 257][rng.random_range(0..8)],
                2 => rng.random_range(0..500),
                _ => rng.random_range(0..150),
            })
            .collect(),
        lead: if rng.random_bool(0.2) { 3 } else { 0 },
        trail: if rng.random_bool(0.2) { 2 } else { 0 },
    };
    let format = FORMATS[rng.random_range(0..3)];
    let blocks = [1, 2, 3, 5, 7, 16, 40][rng.random_range(0..7)];
    of_spec(&spec, seed, kv, &lengths, format, blocks)
}

/// Plain attention over pages of 16 in a format: so many heads and keys for each sequence.
pub fn plain<T: Float>(
    seed: u64,
    format: Format,
    heads: infer_kernels::attention::prefill::HeadShape,
    lengths: &Lengths,
    blocks: usize,
) -> Quantised<T> {
    let spec = Spec {
        dtype: T::DTYPE,
        dims: (heads.dim, heads.dim),
        ratio: heads.query / heads.kv,
        source: Source::Rows(16),
        causal: true,
        lse: true,
        ..Spec::of(&LEVELS.map(|_| 0))
    };
    let mut case = spec.typed::<T>(seed, heads.kv, lengths);
    case.device_offsets = false;
    if let Some(pages) = &mut case.pages {
        pages.layout = PoolLayout::Nhd { pad: 0 };
    }
    Quantised::of(case, format, true, blocks)
}
