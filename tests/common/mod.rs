//! A prefill case: operands in random layouts, run on a device and judged by the references.
#![allow(dead_code, reason = "each test file uses a part")]

use half::{bf16, f16};
use infer_kernels::attention::prefill::{HeadShape, PrefillArgs, PrefillPlan, PrefillProblem};
use infer_kernels::attention::{CuSeqLens, SeqLens};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{PrefillInputs, prefill, prefill_rounded};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{DType, Device, Float, StatusReport, StatusWord, Stream, catalog};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// The device that tests run on: an emulator, whatever the machine has, so that every rule that it
/// checks is checked. Long runs vary its schedule through `INFER_KERNELS_SEED`, or name another
/// device in `INFER_KERNELS_DEVICE`, such as `cudarc`.
pub fn device() -> Device {
    if let Ok(name) = std::env::var("INFER_KERNELS_DEVICE") {
        return Device::named(&name).unwrap();
    }
    let seed = std::env::var("INFER_KERNELS_SEED").map_or(0, |seed| seed.parse().unwrap());
    Device::emulator(ptx_emulator::Config {
        seed,
        ..Default::default()
    })
}

/// Where the elements of an operand lie in its allocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrangement {
    /// `[token, head, dim]` without gaps.
    Dense,
    /// Gaps behind each head and each token, and before the first.
    Padded {
        offset: usize,
        head_pad: usize,
        token_pad: usize,
    },
    /// `[head, token, dim]`, with gaps.
    HeadMajor { offset: usize, token_pad: usize },
}

impl Arrangement {
    pub fn random(rng: &mut StdRng) -> Arrangement {
        let mut eights = |most: usize| 8 * rng.random_range(0..=most);
        let (offset, head_pad, token_pad) = (eights(3), eights(2), eights(2));
        match rng.random_range(0..3) {
            0 => Arrangement::Dense,
            1 => Arrangement::Padded {
                offset,
                head_pad,
                token_pad,
            },
            _ => Arrangement::HeadMajor { offset, token_pad },
        }
    }

    /// Offset, strides and the length of the allocation.
    pub fn of(self, [tokens, heads, dim]: [usize; 3]) -> (usize, [i64; 3], usize) {
        let (offset, token, head) = match self {
            Arrangement::Dense => (0, heads * dim, dim),
            Arrangement::Padded {
                offset,
                head_pad,
                token_pad,
            } => (offset, heads * (dim + head_pad) + token_pad, dim + head_pad),
            Arrangement::HeadMajor { offset, token_pad } => {
                (offset, dim + token_pad, tokens * (dim + token_pad))
            }
        };
        let extent = tokens.saturating_sub(1) * token + heads.saturating_sub(1) * head + dim;
        (offset, [token as i64, head as i64, 1], offset + extent)
    }
}

/// An operand on the host, laid out as it will be on the device. Gaps hold NaN, so that reading
/// one shows, and a kernel that writes to one is found out.
#[derive(Clone, Debug)]
pub struct Operand<T> {
    pub data: Vec<T>,
    pub offset: usize,
    pub shape: [usize; 3],
    pub strides: [i64; 3],
}

impl<T: Float> Operand<T> {
    pub fn new(shape: [usize; 3], arrangement: Arrangement) -> Self {
        let (offset, strides, len) = arrangement.of(shape);
        Operand {
            data: vec![T::nearest(f64::NAN); len],
            offset,
            shape,
            strides,
        }
    }

    pub fn filled(
        shape: [usize; 3],
        arrangement: Arrangement,
        mut value: impl FnMut([usize; 3]) -> f64,
    ) -> Self {
        let mut operand = Self::new(shape, arrangement);
        for index in indices(shape) {
            let at = operand.at(index);
            operand.data[at] = T::nearest(value(index));
        }
        operand
    }

    pub fn at(&self, index: [usize; 3]) -> usize {
        let steps = index
            .iter()
            .zip(self.strides)
            .map(|(&i, stride)| i * stride as usize);
        self.offset + steps.sum::<usize>()
    }

    pub fn host(&self) -> HostTensor<'_, T, 3> {
        HostTensor::strided(&self.data, self.offset, self.shape, self.strides)
            .expect("an arrangement fits its allocation")
    }
}

pub fn indices([a, b, c]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

/// What to run, and on what.
#[derive(Clone, Debug)]
pub struct Case<T> {
    pub problem: PrefillProblem,
    pub q: Operand<T>,
    pub k: Operand<T>,
    pub v: Operand<T>,
    pub out: Arrangement,
    pub lse_pad: usize,
    pub offsets_q: Vec<i32>,
    pub offsets_k: Vec<i32>,
    /// Whether the device gets the offsets unchecked.
    pub device_offsets: bool,
}

/// Lengths of the sequences of a case, and rows that belong to none.
#[derive(Clone, Debug)]
pub struct Lengths {
    pub q: Vec<usize>,
    pub k: Vec<usize>,
    pub lead: usize,
    pub trail: usize,
}

impl Lengths {
    /// As many keys as queries, no spare rows.
    pub fn same(lengths: &[usize]) -> Lengths {
        Lengths {
            q: lengths.into(),
            k: lengths.into(),
            lead: 0,
            trail: 0,
        }
    }

    fn offsets(&self, lengths: &[usize]) -> Vec<i32> {
        let mut end = self.lead as i32;
        let mut offsets = vec![end];
        for &length in lengths {
            end += length as i32;
            offsets.push(end);
        }
        offsets
    }
}

impl<T: Float> Case<T> {
    /// Standard normal operands in random layouts.
    pub fn random(rng: &mut StdRng, heads: HeadShape, lengths: &Lengths) -> Case<T> {
        let offsets_q = lengths.offsets(&lengths.q);
        let offsets_k = lengths.offsets(&lengths.k);
        let rows = |offsets: &[i32]| offsets[offsets.len() - 1] as usize + lengths.trail;
        let (rows_q, rows_k) = (rows(&offsets_q), rows(&offsets_k));
        let longest = lengths.q.iter().copied().max().unwrap_or(0);
        // A plan may allow for longer sequences than there are.
        let max_seqlen_q = longest
            + if rng.random_bool(0.3) {
                rng.random_range(0..200)
            } else {
                0
            };
        let problem = PrefillProblem::new(T::DTYPE, heads, lengths.q.len(), max_seqlen_q)
            .causal(rng.random_bool(0.5))
            .lse(rng.random_bool(0.5));
        let problem = match rng.random_range(0..3) {
            0 => problem.scale(rng.random_range(0.01..0.5)),
            _ => problem,
        };
        let mut operand = |rows: usize, heads: usize, offsets: &[i32]| {
            let arrangement = Arrangement::random(rng);
            let used = offsets[0] as usize..offsets[offsets.len() - 1] as usize;
            Operand::filled(
                [rows, heads, problem.heads.dim],
                arrangement,
                |[row, ..]| {
                    let x: f64 = StandardNormal.sample(rng);
                    if used.contains(&row) { x } else { f64::NAN }
                },
            )
        };
        let q = operand(rows_q, heads.query, &offsets_q);
        let k = operand(rows_k, heads.kv, &offsets_k);
        let v = operand(rows_k, heads.kv, &offsets_k);
        Case {
            problem,
            q,
            k,
            v,
            out: Arrangement::random(rng),
            lse_pad: rng.random_range(0..4),
            offsets_q,
            offsets_k,
            device_offsets: rng.random_bool(0.5),
        }
    }

    pub fn inputs(&self) -> PrefillInputs<'_, T> {
        PrefillInputs {
            q: self.q.host(),
            k: self.k.host(),
            v: self.v.host(),
            offsets_q: &self.offsets_q,
            offsets_k: &self.offsets_k,
        }
    }

    pub fn rows_q(&self) -> usize {
        self.q.shape[0]
    }

    /// Runs the case and gathers what was written, checking that nothing else was.
    pub fn run(&self, device: &Device) -> Result<Outcome<T>, Box<dyn std::error::Error>> {
        let stream = device.stream();
        let plan = PrefillPlan::new(device, &self.problem)?;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|operand| stream.upload(&operand.data));
        let (q, k, v) = (q?, k?, v?);
        let heads = self.problem.heads;
        let shape = [self.rows_q(), heads.query, heads.dim];
        let (offset, strides, len) = self.out.of(shape);
        let untouched = T::nearest(-7.75);
        let mut out = stream.upload(&vec![untouched; len])?;
        let lse_pitch = self.rows_q() + self.lse_pad;
        let mut lse = stream.upload(&vec![-7.75f32; heads.query * lse_pitch])?;
        let status = StatusWord::new(&stream)?;
        let seqlens = [
            OnDevice::new(&stream, &self.offsets_q, self.device_offsets)?,
            OnDevice::new(&stream, &self.offsets_k, self.device_offsets)?,
        ];
        let lse_shape = [heads.query, self.rows_q()];
        plan.run(
            &stream,
            PrefillArgs {
                q: q.region()
                    .strided(self.q.offset, self.q.shape, self.q.strides)?,
                k: k.region()
                    .strided(self.k.offset, self.k.shape, self.k.strides)?,
                v: v.region()
                    .strided(self.v.offset, self.v.shape, self.v.strides)?,
                out: out.region_mut().strided(offset, shape, strides)?,
                lse: match self.problem.lse {
                    true => Some(
                        lse.region_mut()
                            .strided(0, lse_shape, [lse_pitch as i64, 1])?,
                    ),
                    false => None,
                },
                seqlens_q: seqlens[0].get()?,
                seqlens_k: seqlens[1].get()?,
                status: &status,
            },
        )?;

        let laid = Operand {
            data: out.download()?,
            offset,
            shape,
            strides,
        };
        let mut seen = vec![false; len];
        let dense = indices(shape)
            .map(|index| {
                seen[laid.at(index)] = true;
                laid.data[laid.at(index)]
            })
            .collect();
        let gap = seen
            .iter()
            .zip(&laid.data)
            .position(|(&seen, &x)| !seen && x != untouched);
        assert_eq!(gap, None, "the kernel wrote between the elements of out");
        let lse = lse.download()?;
        let lse_dense = lse
            .chunks(lse_pitch.max(1))
            .flat_map(|row| &row[..self.rows_q()])
            .copied()
            .collect();
        Ok(Outcome {
            out: dense,
            untouched,
            lse: lse_dense,
            status: status.read()?,
        })
    }

    /// Runs the case and judges every element; the margins of output and log-sum-exp.
    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn std::error::Error>> {
        let outcome = self.run(device)?;
        self.judge(&outcome)
    }

    pub fn tile_k(&self) -> usize {
        let entry = catalog::ENTRIES.iter().find(|entry| {
            entry.kernel == "prefill"
                && entry.variant == "lean"
                && entry.dtype == T::DTYPE.name()
                && entry.head_dim as usize == self.problem.heads.dim
        });
        entry.expect("the plan found one").tile_k as usize
    }

    pub fn judge(
        &self,
        outcome: &Outcome<T>,
    ) -> Result<(Margin, Margin), Box<dyn std::error::Error>> {
        let exact = prefill(&self.problem, self.inputs())?;
        let rounded = prefill_rounded(&self.problem, self.inputs(), self.tile_k())?;
        if outcome.status != exact.status {
            return Err(format!("status {}, expected {}", outcome.status, exact.status).into());
        }
        let HeadShape { query, dim, .. } = self.problem.heads;
        let row_of = |at: usize| at / (query * dim).max(1);
        let out = judge_written(
            &outcome.out,
            outcome.untouched,
            [&exact.out, &rounded.out, &exact.out_terms],
            |at| exact.written[row_of(at)],
            Rule::ROUNDED.in_rows_of(dim),
        )?;
        let lse = if self.problem.lse {
            let steps = dim.div_ceil(16);
            judge_written(
                &outcome.lse,
                -7.75f32,
                [&exact.lse, &rounded.lse, &exact.lse_terms],
                |at| exact.written[at % self.rows_q()],
                Rule::truncated(steps),
            )?
        } else {
            assert!(
                outcome.lse.iter().all(|&x| x == -7.75),
                "lse was written without being asked"
            );
            Margin::default()
        };
        Ok((out, lse))
    }
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// `[total_q, heads, dim]`.
    pub out: Vec<T>,
    /// What `out` held before.
    pub untouched: T,
    /// `[heads, total_q]`.
    pub lse: Vec<f32>,
    pub status: StatusReport,
}

fn judge_written<T: Float>(
    got: &[T],
    untouched: T,
    references: [&[f64]; 3],
    written: impl Fn(usize) -> bool,
    rule: Rule,
) -> Result<Margin, Box<dyn std::error::Error>> {
    let stray = (0..got.len()).find(|&at| !written(at) && got[at] != untouched);
    if let Some(at) = stray {
        return Err(format!("element {at} belongs to no sequence but was written").into());
    }
    let keep: Vec<usize> = (0..got.len()).filter(|&at| written(at)).collect();
    let got: Vec<T> = keep.iter().map(|&at| got[at]).collect();
    let [exact, rounded, terms] =
        references.map(|all| keep.iter().map(|&at| all[at]).collect::<Vec<f64>>());
    let comparison = Comparison {
        got: &got,
        exact: &exact,
        rounded: &rounded,
        terms: &terms,
    };
    comparison.judge(rule).map_err(|mut mismatch| {
        mismatch.index = keep[mismatch.index];
        mismatch.into()
    })
}

/// Offsets on the device, checked or not.
pub enum OnDevice {
    Checked(SeqLens),
    Unchecked(infer_kernels::Buffer<i32>),
}

impl OnDevice {
    pub fn new(
        stream: &Stream,
        offsets: &[i32],
        unchecked: bool,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(match unchecked {
            true => OnDevice::Unchecked(stream.upload(offsets)?),
            false => OnDevice::Checked(SeqLens::from_offsets(stream, offsets)?),
        })
    }

    pub fn get(&self) -> Result<CuSeqLens<'_>, infer_kernels::TensorError> {
        Ok(match self {
            OnDevice::Checked(checked) => checked.into(),
            OnDevice::Unchecked(buffer) => buffer.tensor([buffer.len()])?.into(),
        })
    }
}

/// A case of either element type.
#[derive(Clone, Debug)]
pub enum AnyCase {
    F16(Case<f16>),
    Bf16(Case<bf16>),
}

impl AnyCase {
    pub fn random(seed: u64, dtype: DType, heads: HeadShape, lengths: &Lengths) -> AnyCase {
        let rng = &mut StdRng::seed_from_u64(seed);
        match dtype {
            DType::F16 => AnyCase::F16(Case::random(rng, heads, lengths)),
            _ => AnyCase::Bf16(Case::random(rng, heads, lengths)),
        }
    }

    pub fn problem(&mut self) -> &mut PrefillProblem {
        match self {
            AnyCase::F16(case) => &mut case.problem,
            AnyCase::Bf16(case) => &mut case.problem,
        }
    }

    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn std::error::Error>> {
        match self {
            AnyCase::F16(case) => case.check(device),
            AnyCase::Bf16(case) => case.check(device),
        }
    }
}

/// `work` on every item, on as many threads as there are processors; panics of all are reported.
pub fn in_parallel<I: Send + Sync>(items: &[I], work: impl Fn(&I) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    work(item);
                }
            });
        }
    });
}
