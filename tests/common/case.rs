//! A prefill case: operands in random layouts, run on a device and judged by the references.

use std::error::Error;

use infer_kernels::attention::prefill::{
    HeadShape, Kv, KvLayout, Mask, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, Window,
};
use infer_kernels::attention::{CuSeqLens, SeqLens};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{
    HostKv, HostMask, PrefillInputs, PrefillOutput, prefill, prefill_rounded,
};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{
    Buffer, Device, Element, Float, StatusReport, StatusWord, Stream, Tensor, TensorError, catalog,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use super::operand::{Arrangement, Operand, indices};
use super::pages::{Pages, Pool, Table};

/// What to run, and on what.
#[derive(Clone, Debug)]
pub struct Case<T> {
    pub problem: PrefillProblem,
    pub q: Operand<T>,
    /// Keys as if they were ragged.
    pub k: Operand<T>,
    pub v: Operand<T>,
    /// Where the keys go if the problem is paged.
    pub pages: Option<Pages>,
    pub out: Arrangement,
    pub lse_pad: usize,
    pub offsets_q: Vec<i32>,
    pub offsets_k: Vec<i32>,
    /// Whether the device gets the offsets unchecked.
    pub device_offsets: bool,
    pub alibi: Vec<f32>,
    pub sinks: Vec<f32>,
    pub mask: Bits,
    /// Whether indices of keys and masks change with every look at them. On an emulator that nobody
    /// else uses meanwhile.
    pub hostile: bool,
}

/// Masks of all sequences.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    pub bits: Vec<u8>,
    pub offsets: Vec<i32>,
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
        Lengths::of(lengths, lengths)
    }

    /// No spare rows.
    pub fn of(q: &[usize], k: &[usize]) -> Lengths {
        Lengths {
            q: q.into(),
            k: k.into(),
            lead: 0,
            trail: 0,
        }
    }

    pub fn offsets(&self, lengths: &[usize]) -> Vec<i32> {
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
    /// Standard normal operands in random layouts; ragged keys and no option but causality.
    pub fn random(rng: &mut StdRng, heads: HeadShape, lengths: &Lengths) -> Case<T> {
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
        let arrangements = [(); 3].map(|()| Arrangement::random(rng));
        Case::of(rng, problem, lengths, arrangements)
    }

    /// Standard normal operands for `problem`, of which keys are still ragged, with queries, keys
    /// and values arranged as given.
    pub fn of(
        rng: &mut StdRng,
        problem: PrefillProblem,
        lengths: &Lengths,
        arrangements: [Arrangement; 3],
    ) -> Case<T> {
        let heads = problem.heads;
        let offsets_q = lengths.offsets(&lengths.q);
        let offsets_k = lengths.offsets(&lengths.k);
        let rows = |offsets: &[i32]| offsets[offsets.len() - 1] as usize + lengths.trail;
        let mut operand = |offsets: &[i32], heads: usize, dim: usize, arrangement: Arrangement| {
            let used = offsets[0] as usize..offsets[offsets.len() - 1] as usize;
            Operand::filled([rows(offsets), heads, dim], arrangement, |[row, ..]| {
                let x: f64 = StandardNormal.sample(rng);
                if used.contains(&row) { x } else { f64::NAN }
            })
        };
        let [of_q, of_k, of_v] = arrangements;
        let q = operand(&offsets_q, heads.query, heads.dim, of_q);
        let k = operand(&offsets_k, heads.kv, heads.dim, of_k);
        let v = operand(&offsets_k, heads.kv, problem.v_dim, of_v);
        let slope = |h: usize| 2f32.powf(-8.0 * (h + 1) as f32 / heads.query as f32);
        Case {
            q,
            k,
            v,
            pages: None,
            out: Arrangement::random(rng),
            lse_pad: rng.random_range(0..4),
            offsets_q,
            offsets_k,
            device_offsets: rng.random_bool(0.5),
            alibi: (0..heads.query).map(slope).collect(),
            sinks: (0..heads.query)
                .map(|_| rng.random_range(-2.0..4.0))
                .collect(),
            mask: Bits::default(),
            hostile: false,
            problem,
        }
    }

    /// Lengths of a sequence's queries and keys, as the offsets say.
    pub fn lengths(&self, b: usize) -> [usize; 2] {
        [&self.offsets_q, &self.offsets_k].map(|of| (of[b + 1] - of[b]) as usize)
    }

    /// Moves keys and values to pages.
    pub fn put_in_pages(&mut self, pages: Pages) {
        self.problem.kv = KvLayout::Paged {
            page_size: pages.page_size,
        };
        self.pages = Some(pages);
    }

    /// Masks with random bits, some rows without any and some with all, some keys that nobody
    /// sees, bytes of garbage between the sequences.
    pub fn random_mask(&mut self, rng: &mut StdRng) {
        self.problem.mask = true;
        let mut garbage =
            |n: usize| -> Vec<u8> { (0..n).map(|_| rng.random_range(0..=255)).collect() };
        let mut mask = Bits {
            bits: garbage(3),
            offsets: Vec::new(),
        };
        let sequences = self.offsets_q.len() - 1;
        let spare: Vec<Vec<u8>> = (0..sequences).map(|b| garbage(b % 3)).collect();
        for (b, spare) in spare.into_iter().enumerate() {
            mask.offsets.push(mask.bits.len() as i32);
            let [queries, keys] = self.lengths(b);
            let mut bits = vec![0u8; (queries * keys).div_ceil(8)];
            let hidden: Vec<bool> = (0..keys).map(|_| rng.random_bool(0.1)).collect();
            for i in 0..queries {
                let density = [0.0, 0.5, 0.5, 0.9, 1.0][rng.random_range(0..5)];
                for j in (0..keys).filter(|&j| !hidden[j]) {
                    let bit = i * keys + j;
                    bits[bit / 8] |= u8::from(rng.random_bool(density)) << (bit % 8);
                }
            }
            mask.bits.extend(bits);
            mask.bits.extend(spare);
        }
        mask.offsets.push(mask.bits.len() as i32);
        self.mask = mask;
    }

    /// Whether query `i` of sequence `b` may attend to its key `j`, told without the reference.
    pub fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let [queries, keys] = self.lengths(b);
        let Window { left, right } = self.problem.window;
        // The query's distance from the end equals that of the key it is aligned with.
        let (from_end, key_from_end) = (queries - 1 - i, keys - 1 - j);
        let ahead = key_from_end < from_end;
        let distance = key_from_end.abs_diff(from_end);
        let limit = if ahead { right } else { left };
        let bit = 8 * *self.mask.offsets.get(b).unwrap_or(&0) as usize + i * keys + j;
        let masked = self.problem.mask && self.mask.bits[bit / 8] >> (bit % 8) & 1 == 0;
        !(ahead && self.problem.causal || limit.is_some_and(|most| distance > most) || masked)
    }

    /// Fills every key and value that no query of its sequence may attend to with NaN or infinity.
    /// How many there are.
    pub fn poison(&mut self, rng: &mut StdRng) -> usize {
        let mut poisoned = 0;
        for b in 0..self.offsets_q.len() - 1 {
            let [queries, keys] = self.lengths(b);
            for j in 0..keys {
                if (0..queries).any(|i| self.sees(b, i, j)) {
                    continue;
                }
                let row = self.offsets_k[b] as usize + j;
                let poison = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
                self.k.set_row(row, poison[rng.random_range(0..3)]);
                self.v.set_row(row, poison[rng.random_range(0..3)]);
                poisoned += 1;
            }
        }
        poisoned
    }

    pub fn pools(&self) -> Option<[Pool<T>; 2]> {
        let pages = self.pages.as_ref()?;
        Some(pages.pools(&self.k, &self.v))
    }

    pub fn inputs<'a>(&'a self, pools: Option<&'a [Pool<T>; 2]>) -> PrefillInputs<'a, T> {
        let kv = match (&self.pages, pools) {
            (Some(pages), Some([k, v])) => {
                let of = |pool: &'a Pool<T>, data: &'a [T]| {
                    HostTensor::strided(data, pool.offset, pool.shape, pool.strides)
                        .expect("a pool holds its pages")
                };
                let v_data = if v.data.is_empty() { &k.data } else { &v.data };
                HostKv::Paged {
                    k: of(k, &k.data),
                    v: of(v, v_data),
                    pages: pages.host(),
                    seqlens: &pages.seqlens,
                }
            }
            _ => HostKv::Ragged {
                k: self.k.host(),
                v: self.v.host(),
                offsets: &self.offsets_k,
            },
        };
        let mut inputs = PrefillInputs::new(self.q.host(), kv, &self.offsets_q);
        inputs.alibi = self.problem.alibi.then_some(&self.alibi);
        inputs.sinks = self.problem.sinks.then_some(&self.sinks);
        inputs.mask = self.problem.mask.then_some(HostMask {
            bits: &self.mask.bits,
            offsets: &self.mask.offsets,
        });
        inputs
    }

    /// The exact result.
    pub fn exact(&self) -> PrefillOutput {
        let pools = self.pools();
        prefill(&self.problem, self.inputs(pools.as_ref())).unwrap()
    }

    pub fn rows_q(&self) -> usize {
        self.q.shape[0]
    }

    /// Runs the case and gathers what was written, checking that nothing else was.
    pub fn run(&self, device: &Device) -> Result<Outcome<T>, Box<dyn Error>> {
        self.run_by(device, |stream, args| {
            let plan = PrefillPlan::new(device, &self.problem)?;
            plan.run(stream, args)?;
            Ok(plan.entry())
        })
    }

    /// The same by any operation with these operands, which says what kernel it ran.
    pub fn run_by(
        &self,
        device: &Device,
        operation: impl FnOnce(&Stream, PrefillArgs<'_>) -> Result<&'static str, Box<dyn Error>>,
    ) -> Result<Outcome<T>, Box<dyn Error>> {
        let stream = device.stream();
        let staged = Staged::new(self, &stream)?;
        let q = stream.upload(&self.q.data)?;
        let shape = [self.rows_q(), self.problem.heads.query, self.problem.v_dim];
        let (offset, strides, len) = self.out.of(shape);
        let untouched = T::nearest(-7.75);
        let mut out = stream.upload(&vec![untouched; len])?;
        let lse_pitch = self.rows_q() + self.lse_pad;
        let mut lse = stream.upload(&vec![-7.75f32; shape[1] * lse_pitch])?;
        let status = StatusWord::new(&stream)?;
        let seqlens_q = OnDevice::new(&stream, &self.offsets_q, self.device_offsets)?;
        if self.hostile {
            staged.mark_hostile(device)?;
        }
        let mut args = PrefillArgs::new(
            q.region()
                .strided(self.q.offset, self.q.shape, self.q.strides)?,
            staged.kv(self)?,
            out.region_mut().strided(offset, shape, strides)?,
            seqlens_q.get()?,
            &status,
        );
        args.alibi = vector(&staged.alibi, self.problem.alibi)?;
        args.sinks = vector(&staged.sinks, self.problem.sinks)?;
        args.mask = match self.problem.mask {
            true => Some(Mask {
                bits: staged.bits.tensor([staged.bits.len()])?,
                offsets: staged.bit_offsets.tensor()?,
            }),
            false => None,
        };
        if self.problem.lse {
            let shape = [shape[1], self.rows_q()];
            let strides = [lse_pitch as i64, 1];
            args.lse = Some(lse.region_mut().strided(0, shape, strides)?);
        }
        let ran = operation(&stream, args);
        if self.hostile {
            device.as_emulator().expect("an emulator").clear_hostile();
        }
        let entry = ran?;

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
            entry,
            out: dense,
            untouched,
            lse: lse_dense,
            status: status.read()?,
        })
    }

    /// Runs the case and judges every element; the margins of output and log-sum-exp.
    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn Error>> {
        let outcome = self.run(device)?;
        self.judge(&outcome)
    }

    /// Judges every element. Where weights are rounded depends on the references of warps and blocks,
    /// which differ from those of the reference that rounds: its error is the largest over
    /// [`Case::neighbours`].
    pub fn judge(&self, outcome: &Outcome<T>) -> Result<(Margin, Margin), Box<dyn Error>> {
        let pools = self.pools();
        self.judge_of(outcome, self.inputs(pools.as_ref()), 0)
    }

    /// Elements that share the error of the reference that rounds: a row, and of neighbouring heads
    /// where one has fewer than 64.
    fn neighbours(&self) -> usize {
        let v_dim = self.problem.v_dim;
        v_dim * 64usize.div_ceil(v_dim)
    }

    /// The same with other keys and values, and scores that are rounded so many times more.
    pub fn judge_of(
        &self,
        outcome: &Outcome<T>,
        inputs: PrefillInputs<'_, T>,
        roundings: usize,
    ) -> Result<(Margin, Margin), Box<dyn Error>> {
        let exact = prefill(&self.problem, inputs)?;
        let rounded = prefill_rounded(&self.problem, inputs, outcome.tile_k())?;
        if outcome.status != exact.status {
            return Err(format!("status {}, expected {}", outcome.status, exact.status).into());
        }
        // A rounding of each weight. Where few count, the reference that rounds may be lucky with them.
        let unit = T::ulp(1.0) / 2.0;
        let of_weights = exact.out_spread.iter().map(|spread| unit * spread);
        let allowed: Vec<f64> = (of_weights.zip(&exact.out_allowed))
            .map(|(of_weights, allowed)| of_weights + allowed)
            .collect();
        let (HeadShape { query, dim, .. }, v_dim) = (self.problem.heads, self.problem.v_dim);
        let row_of = |at: usize| at / (query * v_dim).max(1);
        let out = judge_written(
            &outcome.out,
            outcome.untouched,
            [&exact.out, &rounded.out, &exact.out_terms, &allowed],
            |at| exact.written[row_of(at)],
            Rule::ROUNDED.in_rows_of(self.neighbours()),
        )?;
        if !self.problem.lse {
            let stray = outcome.lse.iter().any(|&x| x != -7.75);
            assert!(!stray, "lse was written without being asked");
            return Ok((out, Margin::default()));
        }
        let lse = judge_written(
            &outcome.lse,
            -7.75f32,
            [
                &exact.lse,
                &rounded.lse,
                &exact.lse_terms,
                &exact.lse_allowed,
            ],
            |at| exact.written[at % self.rows_q()],
            Rule::log_sum_exp(dim.div_ceil(16) + roundings),
        )?;
        Ok((out, lse))
    }
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// The kernel that ran.
    pub entry: &'static str,
    /// `[total_q, heads, v_dim]`.
    pub out: Vec<T>,
    /// What `out` held before.
    pub untouched: T,
    /// `[heads, total_q]`.
    pub lse: Vec<f32>,
    pub status: StatusReport,
}

impl<T> Outcome<T> {
    pub fn tile_k(&self) -> usize {
        let entry = catalog::find(self.entry).expect("the plan found it there");
        entry.tile_k as usize
    }
}

fn judge_written<T: Float>(
    got: &[T],
    untouched: T,
    references: [&[f64]; 4],
    written: impl Fn(usize) -> bool,
    rule: Rule,
) -> Result<Margin, Box<dyn Error>> {
    let stray = (0..got.len()).find(|&at| !written(at) && got[at] != untouched);
    if let Some(at) = stray {
        return Err(format!("element {at} belongs to no sequence but was written").into());
    }
    let keep: Vec<usize> = (0..got.len()).filter(|&at| written(at)).collect();
    let got: Vec<T> = keep.iter().map(|&at| got[at]).collect();
    let [exact, rounded, terms, allowed] =
        references.map(|all| keep.iter().map(|&at| all[at]).collect::<Vec<f64>>());
    let comparison = Comparison {
        got: &got,
        exact: &exact,
        rounded: &rounded,
        terms: &terms,
        allowed: &allowed,
    };
    comparison.judge(rule).map_err(|mut mismatch| {
        mismatch.index = keep[mismatch.index];
        mismatch.into()
    })
}

/// Keys, values and what options need, on the device.
struct Staged<T: Element> {
    k: Buffer<T>,
    /// `None`: in the same buffer as the keys.
    v: Option<Buffer<T>>,
    pools: Option<[Pool<T>; 2]>,
    offsets_k: OnDevice,
    table: Indices,
    indptr: Indices,
    seqlens: Indices,
    alibi: Buffer<f32>,
    sinks: Buffer<f32>,
    bits: Buffer<u8>,
    bit_offsets: Indices,
}

impl<T: Float> Staged<T> {
    fn new(case: &Case<T>, stream: &Stream) -> Result<Self, Box<dyn Error>> {
        let pools = case.pools();
        let (k, v) = match &pools {
            Some([k, v]) if v.data.is_empty() => (&k.data, None),
            Some([k, v]) => (&k.data, Some(&v.data)),
            None => (&case.k.data, Some(&case.v.data)),
        };
        let signed = case.pages.as_ref().is_none_or(|pages| pages.signed);
        let indices = |values: &[u32]| Indices::new(stream, values, signed);
        let (table, indptr, seqlens) = match &case.pages {
            None => (&[][..], vec![], &[][..]),
            Some(pages) => match &pages.table {
                Table::Rows { entries, .. } => (&entries[..], vec![], &pages.seqlens[..]),
                Table::Csr { indptr, entries } => {
                    (&entries[..], indptr.clone(), &pages.seqlens[..])
                }
            },
        };
        // Paged keys have no offsets, whatever the case says.
        let offsets_k = match &case.pages {
            Some(_) => OnDevice::new(stream, &[0], false)?,
            None => OnDevice::new(stream, &case.offsets_k, case.device_offsets)?,
        };
        let bits_of = |values: &[i32]| values.iter().map(|&x| x as u32).collect::<Vec<_>>();
        Ok(Staged {
            k: stream.upload(k)?,
            v: v.map(|v| stream.upload(v)).transpose()?,
            offsets_k,
            table: indices(table)?,
            indptr: indices(&bits_of(&indptr))?,
            seqlens: indices(&bits_of(seqlens))?,
            alibi: stream.upload(&case.alibi)?,
            sinks: stream.upload(&case.sinks)?,
            bits: stream.upload(&case.mask.bits)?,
            bit_offsets: indices(&bits_of(&case.mask.offsets))?,
            pools,
        })
    }

    fn kv<'a>(&'a self, case: &'a Case<T>) -> Result<Kv<'a>, TensorError> {
        let (Some(pages), Some([k, v])) = (&case.pages, &self.pools) else {
            let of = |buffer: &'a Buffer<T>, rows: &Operand<T>| {
                let region = buffer.region();
                region.strided(rows.offset, rows.shape, rows.strides)
            };
            return Ok(Kv::Ragged {
                k: of(&self.k, &case.k)?,
                v: of(self.v.as_ref().unwrap_or(&self.k), &case.v)?,
                seqlens: self.offsets_k.get()?,
            });
        };
        let of = |buffer: &'a Buffer<T>, pool: &Pool<T>| {
            let region = buffer.region();
            region.strided(pool.offset, pool.shape, pool.strides)
        };
        Ok(Kv::Paged {
            k: of(&self.k, k)?,
            v: of(self.v.as_ref().unwrap_or(&self.k), v)?,
            pages: match &pages.table {
                &Table::Rows {
                    offset,
                    stride,
                    len,
                    ..
                } => {
                    let shape = [pages.seqlens.len(), len];
                    PageTable::Rows(self.table.strided(offset, shape, [stride as i64, 1])?)
                }
                Table::Csr { .. } => PageTable::Csr {
                    indptr: self.indptr.tensor()?,
                    pages: self.table.tensor()?,
                },
            },
            seqlens: self.seqlens.tensor()?,
        })
    }

    /// Indices of keys and masks change with every look at them.
    fn mark_hostile(&self, device: &Device) -> Result<(), Box<dyn Error>> {
        let emulator = device.as_emulator().expect("an emulator");
        let tensors = [&self.table, &self.indptr, &self.seqlens, &self.bit_offsets];
        let mut indices = tensors.map(Indices::tensor).to_vec();
        if let CuSeqLens::Device(offsets) = self.offsets_k.get()? {
            indices.push(Ok(offsets));
        }
        indices.push(self.bits.tensor([self.bits.len()]));
        for tensor in indices {
            let tensor = tensor?;
            let bytes = tensor.shape()[0] * tensor.dtype().size();
            if bytes > 0 {
                emulator.mark_hostile(tensor.address(), bytes as u64)?;
            }
        }
        Ok(())
    }
}

fn vector(buffer: &Buffer<f32>, wanted: bool) -> Result<Option<Tensor<'_, 1>>, TensorError> {
    wanted.then(|| buffer.tensor([buffer.len()])).transpose()
}

/// Indices of either type.
enum Indices {
    Signed(Buffer<i32>),
    Unsigned(Buffer<u32>),
}

impl Indices {
    fn new(stream: &Stream, values: &[u32], signed: bool) -> Result<Self, Box<dyn Error>> {
        let of_signed = || values.iter().map(|&x| x as i32).collect::<Vec<_>>();
        Ok(match signed {
            true => Indices::Signed(stream.upload(&of_signed())?),
            false => Indices::Unsigned(stream.upload(values)?),
        })
    }

    fn tensor(&self) -> Result<Tensor<'_, 1>, TensorError> {
        match self {
            Indices::Signed(buffer) => buffer.tensor([buffer.len()]),
            Indices::Unsigned(buffer) => buffer.tensor([buffer.len()]),
        }
    }

    fn strided<const R: usize>(
        &self,
        offset: usize,
        shape: [usize; R],
        strides: [i64; R],
    ) -> Result<Tensor<'_, R>, TensorError> {
        match self {
            Indices::Signed(buffer) => buffer.region().strided(offset, shape, strides),
            Indices::Unsigned(buffer) => buffer.region().strided(offset, shape, strides),
        }
    }
}

/// Offsets on the device, checked or not.
enum OnDevice {
    Checked(SeqLens),
    Unchecked(Buffer<i32>),
}

impl OnDevice {
    fn new(stream: &Stream, offsets: &[i32], unchecked: bool) -> Result<Self, Box<dyn Error>> {
        Ok(match unchecked {
            true => OnDevice::Unchecked(stream.upload(offsets)?),
            false => OnDevice::Checked(SeqLens::from_offsets(stream, offsets)?),
        })
    }

    fn get(&self) -> Result<CuSeqLens<'_>, TensorError> {
        Ok(match self {
            OnDevice::Checked(checked) => checked.into(),
            OnDevice::Unchecked(buffer) => buffer.tensor([buffer.len()])?.into(),
        })
    }
}
