//! Pages of a cache: copied, swapped to the host and back, gathered.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Mutex;

use crate::common::cache::{HostCache, Indices, LAYOUTS, Layout};
use crate::common::{Arrangement, Operand, device, in_parallel, indices, seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::attention::CuSeqLens;
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::{
    CopyArgs, CopyPlan, Format, GatherArgs, GatherPlan, GatherProblem, Pages, Scales,
};
use infer_kernels::reference::kv::decode;
use infer_kernels::{Buffer, Device, Element, Float, Offence, StatusReport, StatusWord};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// What a run left behind, and what was reported.
type Outcome<T> = Result<(T, StatusReport), Box<dyn Error>>;

const FORMATS: [Format; 4] = [Format::Same, Format::E4m3, Format::E5m2, Format::Int8];

// ---- copies --------------------------------------------------------------------------------------

/// Caches of `pages` rows of `bytes`, `stride` apart.
struct Copy {
    caches: usize,
    pages: [usize; 2],
    bytes: usize,
    strides: [usize; 2],
    pairs: Vec<[i64; 2]>,
    wide: bool,
    within: bool,
    hostile: bool,
}

impl Copy {
    fn random(rng: &mut StdRng) -> Copy {
        let bytes = [1, 8, 16, 40, 512, 4096, 16384, 40000, 32768][rng.random_range(0..9)];
        let within = rng.random_bool(0.5);
        let from = rng.random_range(4..9);
        let pages = [from, if within { from } else { rng.random_range(4..9) }];
        let gap = [0, 0, 16, 5][rng.random_range(0..4)];
        let other = if within {
            gap
        } else {
            [0, 32][rng.random_range(0..2)]
        };
        // No page is both source and target, or target twice.
        let mut targets: Vec<i64> = (0..pages[1] as i64).collect();
        targets.shuffle(rng);
        let mut pairs = Vec::new();
        for _ in 0..rng.random_range(0..3) {
            let (Some(target), source) = (targets.pop(), rng.random_range(0..pages[0] as i64))
            else {
                break;
            };
            let source = if within { targets[0] } else { source };
            pairs.push([source, target]);
        }
        Copy {
            caches: rng.random_range(0..4),
            pages,
            bytes,
            strides: [bytes + gap, bytes + other],
            pairs,
            wide: rng.random_bool(0.5),
            within,
            hostile: false,
        }
    }

    /// What the caches hold afterwards, and what was reported.
    fn run(&self, device: &Device) -> Outcome<Vec<Vec<u8>>> {
        let stream = device.stream();
        let plan = CopyPlan::new(device)?;
        let status = StatusWord::new(&stream)?;
        let make = |side: usize, at: usize| stream.upload(&self.content(side, at));
        let sources: Vec<Buffer<u8>> = match self.within {
            true => vec![],
            false => (0..self.caches)
                .map(|at| make(0, at))
                .collect::<Result<_, _>>()?,
        };
        let mut targets: Vec<Buffer<u8>> = (0..self.caches)
            .map(|at| make(1, at))
            .collect::<Result<_, _>>()?;
        let flat: Vec<i64> = self.pairs.iter().flatten().copied().collect();
        let pairs = Indices::new(&stream, &flat, self.wide)?;
        if self.hostile
            && let Some(emulator) = device.as_emulator()
        {
            pairs.mark_hostile(emulator);
        }
        let shape = |side: usize| [self.pages[side], self.bytes];
        let strides = |side: usize| [self.strides[side] as i64, 1];
        let to = targets
            .iter_mut()
            .map(|to| to.region_mut().strided(0, shape(1), strides(1)).unwrap());
        let pages = match self.within {
            true => Pages::Within(to.collect()),
            false => {
                let from = sources.iter().map(|from| {
                    let region = from.region();
                    region.strided(0, shape(0), strides(0)).unwrap()
                });
                Pages::Between(from.zip(to).collect())
            }
        };
        let args = CopyArgs {
            pages,
            pairs: pairs.matrix([self.pairs.len(), 2])?,
            status: &status,
        };
        plan.run(&stream, args)?;
        let after = targets.iter().map(|to| to.download());
        Ok((after.collect::<Result<_, _>>()?, status.read()?))
    }

    fn content(&self, side: usize, at: usize) -> Vec<u8> {
        let len = self.pages[side] * self.strides[side];
        (0..len)
            .map(|i| (i * 31 + at * 7 + side * 13 + i / 256 + 1) as u8)
            .collect()
    }

    fn check(&self, device: &Device) -> Result<StatusReport, Box<dyn Error>> {
        let (after, status) = self.run(device)?;
        for (at, after) in after.iter().enumerate() {
            let source = self.content(usize::from(self.within), at);
            let mut expected = self.content(1, at);
            for &[from, to] in &self.pairs {
                let page = |id: i64, side: usize| {
                    usize::try_from(id).ok().filter(|&id| id < self.pages[side])
                };
                let (Some(from), Some(to)) = (page(from, 0), page(to, 1)) else {
                    continue;
                };
                let from = &source[from * self.strides[0]..][..self.bytes];
                expected[to * self.strides[1]..][..self.bytes].copy_from_slice(from);
            }
            if let Some(i) = (0..expected.len()).find(|&i| expected[i] != after[i]) {
                return Err(format!("cache {at}: byte {i} is {}", after[i]).into());
            }
        }
        Ok(status)
    }
}

#[test]
fn pages_are_copied() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..60).collect();
    in_parallel(&seeds, |&seed| {
        let copy = Copy::random(&mut StdRng::seed_from_u64(seed));
        let status = copy
            .check(&device)
            .unwrap_or_else(|error| panic!("case {seed}: {error}"));
        assert!(status.is_clean(), "case {seed}: {status}");
    });
}

#[test]
fn pages_that_do_not_exist_are_not_copied() {
    let copy = |pairs: Vec<[i64; 2]>| Copy {
        caches: 2,
        pages: [4, 6],
        bytes: 48,
        strides: [48, 48],
        pairs,
        wide: true,
        within: false,
        hostile: false,
    };
    let first = |pairs| copy(pairs).check(shared_device()).unwrap().first();
    assert_eq!(first(vec![[3, 5], [0, 0]]), None);
    assert_eq!(first(vec![[3, 5], [4, 0]]), Some((Offence::PagePair, 1)));
    assert_eq!(first(vec![[3, 6], [9, 0]]), Some((Offence::PagePair, 0)));
    assert_eq!(first(vec![[-1, 1]]), Some((Offence::PagePair, 0)));
    assert_eq!(first(vec![[1 << 32, 1]]), Some((Offence::PagePair, 0)));
    assert_eq!(first(vec![[1, i64::MIN]]), Some((Offence::PagePair, 0)));
    for seed in 0..20 {
        let mut copy = copy(vec![[3, 5], [1, 2], [0, 7]]);
        (copy.hostile, copy.wide) = (true, seed % 2 == 0);
        let (_, status) = copy.run(&device()).unwrap();
        assert!(
            status
                .offences()
                .all(|offence| offence == Offence::PagePair)
        );
    }
}

/// A page that is target twice, or source and target, is made of what its bytes had or got.
#[test]
fn pages_that_meet_are_made_of_either() {
    let copy = Copy {
        caches: 1,
        pages: [5, 5],
        bytes: 32768,
        strides: [32768, 32768],
        pairs: vec![[0, 1], [2, 1], [1, 3], [4, 4]],
        wide: true,
        within: true,
        hostile: false,
    };
    let (after, status) = copy.run(shared_device()).unwrap();
    assert!(status.is_clean());
    let before = copy.content(1, 0);
    let page = |id: usize| &before[id * 32768..][..32768];
    for i in 0..32768 {
        let known = [page(0)[i], page(2)[i], page(1)[i]];
        assert!(known[..2].contains(&after[0][32768 + i]));
        assert!(known.contains(&after[0][3 * 32768 + i]));
        assert_eq!(after[0][4 * 32768 + i], page(4)[i]);
    }
}

#[test]
fn pages_go_to_the_host_and_come_back() {
    let device = shared_device();
    let stream = device.stream();
    let plan = CopyPlan::new(device).unwrap();
    println!("{plan}");
    let content: Vec<bf16> = (0..6 * 96).map(|i| bf16::from_f32(i as f32)).collect();
    let mut cache = stream.upload(&content).unwrap();
    let mut host = vec![bf16::ZERO; 3 * 96];
    let pages = [4, 0, 5];
    let tensor = cache.tensor([6, 96]).unwrap();
    plan.to_host(&stream, tensor, &pages, &mut host).unwrap();
    for (i, page) in pages.into_iter().enumerate() {
        assert_eq!(host[i * 96..][..96], content[page * 96..][..96]);
    }
    let target = cache.tensor_mut([6, 96]).unwrap();
    plan.from_host(&stream, &host, &[1, 2, 3], target).unwrap();
    let after = cache.download().unwrap();
    assert_eq!(after[96..4 * 96], host);
    assert_eq!(after[..96], content[..96]);
    assert_eq!(after[4 * 96..], content[4 * 96..]);
}

// ---- gathers -------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Table {
    Rows {
        entries: Vec<u32>,
        columns: usize,
        stride: usize,
    },
    Csr {
        indptr: Vec<i32>,
        entries: Vec<u32>,
    },
}

/// Sequences of a cache whose bytes are anything.
#[derive(Clone, Debug)]
struct Gather {
    problem: GatherProblem,
    cache: HostCache,
    bytes: [Vec<u8>; 2],
    offsets: Vec<i32>,
    table: Table,
    tokens: usize,
    scales: [Vec<f32>; 2],
    arrangement: Arrangement,
    hostile: bool,
}

/// Where a token's rows come from.
enum Found {
    Slot(usize),
    Absent,
    Nobodys,
}

impl Gather {
    fn random<T: Float>(rng: &mut StdRng) -> Gather {
        let layout = LAYOUTS[rng.random_range(0..4)];
        let format = FORMATS[rng.random_range(0..4)];
        let dims = [16, 32, 64, 80, 96, 128, 256];
        let dim = dims[rng.random_range(0..7)];
        let v_dim = match layout {
            Layout::Combined => dim,
            _ => dims[rng.random_range(0..7)],
        };
        let heads = [1, 2, 3, 8][rng.random_range(0..4)];
        let page_size = [1, 3, 16, 32][rng.random_range(0..4)];
        let batch = rng.random_range(0..6);
        let lens: Vec<usize> = (0..batch).map(|_| rng.random_range(0..40)).collect();
        let mut offsets = vec![rng.random_range(0..3)];
        for len in &lens {
            offsets.push(offsets[offsets.len() - 1] + *len as i32);
        }
        let tokens = offsets[batch] as usize + rng.random_range(0..3);
        let pages_of = |len: &usize| len.div_ceil(page_size);
        let pages = lens.iter().map(pages_of).sum::<usize>() + 2;
        let mut ids: Vec<u32> = (0..pages as u32).collect();
        ids.shuffle(rng);
        let table = match rng.random_bool(0.5) {
            true => {
                let columns = lens.iter().map(pages_of).max().unwrap_or(0) + 1;
                let stride = columns + rng.random_range(0..3);
                // Behind a sequence's last page there is garbage that nobody looks at.
                let mut entries = vec![u32::MAX; (batch * stride).max(1)];
                for (b, len) in lens.iter().enumerate() {
                    for page in 0..pages_of(len) {
                        entries[b * stride + page] = ids.pop().unwrap();
                    }
                }
                Table::Rows {
                    entries,
                    columns,
                    stride,
                }
            }
            false => {
                let mut indptr = vec![0];
                for len in &lens {
                    indptr.push(indptr[indptr.len() - 1] + pages_of(len) as i32);
                }
                Table::Csr {
                    indptr,
                    entries: ids,
                }
            }
        };
        let size = format.size(T::DTYPE);
        let shape = [pages, page_size, heads];
        let cache = HostCache::new(layout, shape, [dim, v_dim], size, rng.random_range(0..2));
        let mut bytes = |len: usize| (0..len * size).map(|_| rng.random()).collect();
        let bytes = [bytes(cache.len[0]), bytes(cache.len[1])];
        let scale_len = match format {
            Format::Same => 0,
            _ => [1, heads][rng.random_range(0..2)],
        };
        let mut scales = || -> Vec<f32> {
            (0..scale_len)
                .map(|_| rng.random_range(0.001..2.0))
                .collect()
        };
        let scales = [scales(), scales()];
        Gather {
            problem: GatherProblem::new(T::DTYPE, heads, dim)
                .v_dim(v_dim)
                .format(format),
            cache,
            bytes,
            offsets,
            table,
            tokens,
            scales,
            arrangement: Arrangement::random(rng),
            hostile: false,
        }
    }

    /// Some offsets, page lists and ids become anything.
    fn corrupt(&mut self, rng: &mut StdRng) {
        let tokens = self.tokens as i32;
        let anything = |rng: &mut StdRng| match rng.random_range(0..6) {
            0 => -1,
            1 => i32::MIN,
            2 => i32::MAX,
            3 => tokens + 1,
            4 => rng.random(),
            _ => rng.random_range(0..=tokens),
        };
        for offset in &mut self.offsets {
            if rng.random_bool(0.2) {
                *offset = anything(rng);
            }
        }
        let entries = match &mut self.table {
            Table::Rows { entries, .. } => entries,
            Table::Csr { indptr, entries } => {
                for at in indptr.iter_mut() {
                    if rng.random_bool(0.2) {
                        *at = anything(rng);
                    }
                }
                entries
            }
        };
        for entry in entries {
            if rng.random_bool(0.1) {
                *entry = anything(rng) as u32;
            }
        }
    }

    /// The rules of the kernel, once more.
    fn find(&self, token: usize, status: &mut StatusReport) -> Found {
        let (token, batch) = (token as i64, self.offsets.len() - 1);
        let at = |b: usize| i64::from(self.offsets[b]);
        let (mut low, mut high) = (0, batch);
        if batch == 0 {
            return Found::Nobodys;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match at(middle) <= token {
                true => low = middle,
                false => high = middle,
            }
        }
        if at(low) > token || at(high) <= token {
            return Found::Nobodys;
        }
        let position = (token - at(low)) as usize;
        let page = position / self.cache.page_size;
        let entries: &[u32] = match &self.table {
            Table::Rows {
                entries,
                columns,
                stride,
            } => &entries[low * stride..][..*columns],
            Table::Csr { indptr, entries } => {
                let range = usize::try_from(indptr[low])
                    .ok()
                    .zip(usize::try_from(indptr[low + 1]).ok());
                range
                    .and_then(|(from, to)| entries.get(from..to))
                    .unwrap_or(&[])
            }
        };
        let mut report = |offence| {
            let mut one = status_of(offence, low as u64);
            std::mem::swap(&mut one, status);
            *status = join(one, *status);
        };
        match entries.get(page) {
            None => {
                report(Offence::PageRange);
                Found::Absent
            }
            Some(&id) if id as usize >= self.cache.pages => {
                report(Offence::PageId);
                Found::Absent
            }
            Some(&id) => {
                Found::Slot(id as usize * self.cache.page_size + position % self.cache.page_size)
            }
        }
    }

    fn status(&self) -> StatusReport {
        let mut status = StatusReport::default();
        if self.tokens > 0 {
            for (b, pair) in self.offsets.windows(2).enumerate() {
                if pair[0] < 0 || pair[1] < pair[0] || i64::from(pair[1]) > self.tokens as i64 {
                    status = join(status, status_of(Offence::SeqLensK, b as u64));
                }
            }
        }
        for token in 0..self.tokens {
            self.find(token, &mut status);
        }
        status
    }

    fn check<T: Float>(&self, device: &Device) -> Result<StatusReport, Box<dyn Error>> {
        let (outs, status) = match self.problem.format {
            Format::Same => self.run::<T, T>(device)?,
            _ => self.run::<T, u8>(device)?,
        };
        if self.hostile {
            return Ok(status);
        }
        if status != self.status() {
            return Err(format!("status {status}, expected {}", self.status()).into());
        }
        for (part, out) in outs.iter().enumerate() {
            let mut left = out.clone();
            for index in indices(out.shape) {
                let [token, head, d] = index;
                let (at, mut ignored) = (out.at(index), StatusReport::default());
                let got = out.data[at];
                left.data[at] = T::nearest(f64::NAN);
                let expected = match self.find(token, &mut ignored) {
                    Found::Nobodys => T::nearest(f64::NAN),
                    Found::Absent => T::nearest(0.0),
                    Found::Slot(slot) => {
                        let (allocation, at) = self.cache.index(part, slot, head, d);
                        let size = self.cache.size;
                        let bytes = &self.bytes[allocation][at * size..][..size];
                        match (self.problem.format, &self.scales[part][..]) {
                            (Format::Same, _) => bytemuck::pod_read_unaligned(bytes),
                            (format, scales) => {
                                let scale = scales[if scales.len() == 1 { 0 } else { head }];
                                let x = scale * decode(format, bytes[0]) as f32;
                                T::nearest(f64::from(x))
                            }
                        }
                    }
                };
                let nan = got.to_f64().is_nan() && expected.to_f64().is_nan();
                let exact = bytemuck::bytes_of(&got) == bytemuck::bytes_of(&expected);
                if !exact && (self.problem.format == Format::Same || !nan) {
                    let what = ["key", "value"][part];
                    return Err(format!("{what} {index:?} is {got:?}, not {expected:?}").into());
                }
            }
            if left.data.iter().any(|x| !x.to_f64().is_nan()) {
                return Err("a gap was written".into());
            }
        }
        Ok(status)
    }

    fn run<T: Float, E: Element>(&self, device: &Device) -> Outcome<[Operand<T>; 2]> {
        let stream = device.stream();
        let plan = GatherPlan::new(device, &self.problem)?;
        let status = StatusWord::new(&stream)?;
        let upload = |bytes: &[u8]| {
            let elements: Vec<E> = bytes
                .chunks(E::DTYPE.size())
                .map(bytemuck::pod_read_unaligned)
                .collect();
            stream.upload(&elements)
        };
        let mut caches = [upload(&self.bytes[0])?, upload(&self.bytes[1])?];
        let GatherProblem {
            heads, dim, v_dim, ..
        } = self.problem;
        let mut outs =
            [dim, v_dim].map(|dim| Operand::<T>::new([self.tokens, heads, dim], self.arrangement));
        let mut buffers = [stream.upload(&outs[0].data)?, stream.upload(&outs[1].data)?];
        let offsets = stream.upload(&self.offsets)?;
        let (entries, indptr) = match &self.table {
            Table::Rows { entries, .. } => (entries, vec![0]),
            Table::Csr { indptr, entries } => (entries, indptr.clone()),
        };
        let (entries, indptr) = (stream.upload(entries)?, stream.upload(&indptr)?);
        let scales = [
            stream.upload(&self.scales[0])?,
            stream.upload(&self.scales[1])?,
        ];
        if self.hostile
            && let Some(emulator) = device.as_emulator()
        {
            let hostile = [
                (offsets.tensor([0])?.address(), offsets.len()),
                (entries.tensor([0])?.address(), entries.len()),
                (indptr.tensor([0])?.address(), indptr.len()),
            ];
            for (address, len) in hostile {
                if len > 0 {
                    emulator.mark_hostile(address, 4 * len as u64)?;
                }
            }
        }
        {
            let [k, v] = &mut buffers;
            let [of_k, of_v] = &mut caches;
            let cache = self.cache.over([of_k, of_v]);
            let batch = self.offsets.len() - 1;
            let pages = match &self.table {
                Table::Rows {
                    columns, stride, ..
                } => PageTable::Rows(entries.region().strided(
                    0,
                    [batch, *columns],
                    [*stride as i64, 1],
                )?),
                Table::Csr { .. } => PageTable::Csr {
                    indptr: indptr.tensor([batch + 1])?,
                    pages: entries.tensor([entries.len()])?,
                },
            };
            let args = GatherArgs {
                cache: cache.as_ref(),
                pages,
                seqlens: CuSeqLens::Device(offsets.tensor([batch + 1])?),
                k: k.region_mut()
                    .strided(outs[0].offset, outs[0].shape, outs[0].strides)?,
                v: v.region_mut()
                    .strided(outs[1].offset, outs[1].shape, outs[1].strides)?,
                scales: match self.problem.format {
                    Format::Same => None,
                    _ => Some(Scales {
                        k: scales[0].tensor([self.scales[0].len()])?,
                        v: scales[1].tensor([self.scales[1].len()])?,
                    }),
                },
                status: &status,
            };
            plan.run(&stream, args)?;
        }
        for (out, buffer) in outs.iter_mut().zip(&buffers) {
            out.data = buffer.download()?;
        }
        Ok((outs, status.read()?))
    }
}

/// A report of one offence, as it is in memory.
fn status_of(offence: Offence, index: u64) -> StatusReport {
    StatusReport::decode([u64::from(offence.bit()), !((offence as u64) << 56 | index)])
}

/// The report of both.
fn join(a: StatusReport, b: StatusReport) -> StatusReport {
    let bits = |report: StatusReport| report.offences().map(|o| u64::from(o.bit())).sum::<u64>();
    let key = |report: StatusReport| {
        report
            .first()
            .map_or(0, |(offence, index)| !((offence as u64) << 56 | index))
    };
    StatusReport::decode([bits(a) | bits(b), key(a).max(key(b))])
}

#[test]
fn sequences_are_gathered() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..120).collect();
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let result = match seed % 2 {
            0 => Gather::random::<bf16>(rng).check::<bf16>(&device),
            _ => Gather::random::<f16>(rng).check::<f16>(&device),
        };
        let status = result.unwrap_or_else(|error| panic!("case {seed}: {error}"));
        assert!(status.is_clean(), "case {seed}: {status}");
    });
}

#[test]
fn garbage_in_tables_is_survived_and_reported() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..80).map(|seed| seed + (1 << 32)).collect();
    let offences = Mutex::new(BTreeMap::new());
    in_parallel(&seeds, |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut gather = Gather::random::<bf16>(rng);
        gather.corrupt(rng);
        let status = gather
            .check::<bf16>(&device)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for offence in status.offences() {
            *offences.lock().unwrap().entry(offence).or_insert(0) += 1;
        }
    });
    let offences = offences.into_inner().unwrap();
    println!("{offences:?}");
    assert_eq!(offences.len(), 3, "a kind never came up");
}

#[test]
fn garbage_in_tables_that_changes_is_survived() {
    let seeds: Vec<u64> = seeds(0..40).map(|seed| seed + (1 << 33)).collect();
    let of_a_thread: Vec<&[u64]> = seeds.chunks(10).collect();
    in_parallel(&of_a_thread, |seeds| {
        let device = device();
        for &seed in *seeds {
            let rng = &mut StdRng::seed_from_u64(seed);
            let mut gather = Gather::random::<bf16>(rng);
            gather.corrupt(rng);
            gather.hostile = true;
            let status = gather
                .check::<bf16>(&device)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let possible = [Offence::SeqLensK, Offence::PageRange, Offence::PageId];
            assert!(status.offences().all(|offence| possible.contains(&offence)));
        }
    });
}
