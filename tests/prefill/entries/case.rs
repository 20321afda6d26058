//! Problems, what they come to, and where they are in memory.

use half::{bf16, f16};
use infer_kernels::Offence;
use infer_kernels::attention::prefill::PrefillParams;
use infer_kernels::catalog::Entry;
use infer_kernels::ptx_emulator::Emulator;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

pub const NAN: f32 = f32::NAN;

/// By this, scores of normal numbers differ by more than a weight of any type has room for.
pub const STEEP: f32 = 128.0;

/// A problem for one entry, on the host. Keys and values are kept by sequence and position.
pub struct Case {
    pub entry: &'static Entry,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub v_dim: usize,
    pub q_lens: Vec<usize>,
    pub k_lens: Vec<i32>,
    pub causal: bool,
    pub window: [i32; 2],
    pub cap: Option<f32>,
    pub exact_cap: bool,
    /// Whether scores of some rows are [`STEEP`] times as large.
    pub steep: bool,
    pub slopes: Option<Vec<f32>>,
    pub sinks: Option<Vec<f32>>,
    /// For each sequence, `[q_len, k_len]`.
    pub masks: Option<Vec<Vec<bool>>>,
    pub pages: Option<Pages>,
    pub scale: f32,
    pub q: Vec<f32>,
    /// `[sequence][key][kv head][dim]`, NaN where nobody looks.
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
}

/// Pages of `size` keys; a list of ids for each sequence, some of them wrong.
pub struct Pages {
    pub size: usize,
    pub count: usize,
    pub csr: bool,
    pub lists: Vec<Vec<u32>>,
}

impl Case {
    /// One causal head of as many keys as queries, without options and without values yet.
    pub fn plain(entry: &'static Entry, tokens: usize) -> Case {
        Case {
            entry,
            heads: 1,
            kv_heads: 1,
            dim: entry.head_dim as usize,
            v_dim: entry.v_dim as usize,
            q_lens: vec![tokens],
            k_lens: vec![tokens as i32],
            causal: true,
            window: [-1, -1],
            cap: None,
            exact_cap: false,
            steep: false,
            slopes: None,
            sinks: None,
            masks: None,
            pages: None,
            scale: 0.1,
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
        }
    }

    pub fn random(entry: &'static Entry, seed: u64) -> Case {
        let rng = &mut StdRng::seed_from_u64(seed);
        let full = entry.variant == "full";
        let eighths = |rng: &mut StdRng, most: u32| 8 * rng.random_range(1..=most as usize / 8);
        let (mut dim, mut v_dim) = (entry.head_dim as usize, entry.v_dim as usize);
        if full && rng.random_bool(0.5) {
            (dim, v_dim) = (eighths(rng, entry.head_dim), eighths(rng, entry.v_dim));
        }
        let kv_heads = rng.random_range(1..=2);
        let heads = kv_heads * rng.random_range(1..=2);
        let batch = rng.random_range(1..=3);
        let length = |rng: &mut StdRng| match rng.random_range(0..8) {
            0 => 0,
            1 => rng.random_range(1..4),
            2..5 => rng.random_range(0..100),
            _ => rng.random_range(100..280),
        };
        let q_lens: Vec<usize> = (0..batch).map(|_| length(rng)).collect();
        let k_lens: Vec<i32> = (0..batch).map(|_| length(rng) as i32).collect();
        let option = |rng: &mut StdRng, p| full && rng.random_bool(p);
        let window = |rng: &mut StdRng| {
            if !option(rng, 0.4) {
                return -1;
            }
            let most = [3, 70, 300][rng.random_range(0..3)];
            rng.random_range(0..most)
        };
        let random_logits = |rng: &mut StdRng| -> Vec<f32> {
            (0..heads).map(|_| rng.random_range(-3.0..3.0)).collect()
        };
        let mut case = Case {
            entry,
            heads,
            kv_heads,
            dim,
            v_dim,
            causal: rng.random_bool(0.5),
            window: [window(rng), window(rng)],
            cap: option(rng, 0.3).then(|| rng.random_range(0.5..50.0)),
            exact_cap: rng.random_bool(0.5),
            steep: rng.random_bool(0.5),
            slopes: option(rng, 0.3)
                .then(|| (0..heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect()),
            sinks: option(rng, 0.3).then(|| random_logits(rng)),
            masks: None,
            pages: None,
            scale: rng.random_range(0.05..0.3),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            q_lens,
            k_lens,
        };
        if option(rng, 0.3) {
            let density = [0.1, 0.5, 0.9][rng.random_range(0..3)];
            let masks = case.q_lens.iter().zip(&case.k_lens).map(|(&q, &k)| {
                // Whole columns off, too: what they hold must not matter.
                let columns: Vec<bool> = (0..k).map(|_| rng.random_bool(0.8)).collect();
                (0..q * k as usize)
                    .map(|at| columns[at % k as usize] && rng.random_bool(density))
                    .collect()
            });
            case.masks = Some(masks.collect());
        }
        if entry.variant == "paged" || full && rng.random_bool(0.5) {
            case.pages = Some(Pages::random(rng, &case.k_lens));
        }
        case.fill(rng);
        case
    }

    pub fn fill(&mut self, rng: &mut StdRng) {
        let mut normal = |n: usize| -> Vec<f32> {
            let rounded = |x: f32| match self.entry.dtype {
                "f16" => f16::from_f32(x).to_f32(),
                _ => bf16::from_f32(x).to_f32(),
            };
            let sample = |_| rounded(StandardNormal.sample(rng));
            (0..n).map(sample).collect()
        };
        let rows_q: usize = self.q_lens.iter().sum();
        let mut q = normal(rows_q * self.heads * self.dim);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (b, &k_len) in self.k_lens.iter().enumerate() {
            let k_len = k_len as usize;
            let mut k = normal(k_len * self.kv_heads * self.dim);
            let mut v = normal(k_len * self.kv_heads * self.v_dim);
            for j in 0..k_len {
                if (0..self.q_lens[b]).any(|i| self.sees(b, i, j)) {
                    continue;
                }
                k[j * self.kv_heads * self.dim..][..self.kv_heads * self.dim].fill(NAN);
                v[j * self.kv_heads * self.v_dim..][..self.kv_heads * self.v_dim].fill(NAN);
            }
            keys.push(k);
            values.push(v);
        }
        // Some rows whose scores outgrow by far what those beside them need.
        if self.steep {
            for row in q.chunks_mut(self.dim).filter(|_| rng.random_bool(0.1)) {
                row.iter_mut().for_each(|x| *x *= STEEP);
            }
        }
        (self.q, self.k, self.v) = (q, keys, values);
    }

    /// Whether query `i` may see key `j` by causality and window.
    pub fn reaches(&self, b: usize, i: usize, j: usize) -> bool {
        let p = i as i64 + i64::from(self.k_lens[b]) - self.q_lens[b] as i64;
        let (j, [left, right]) = (j as i64, self.window);
        !(self.causal && j > p
            || left >= 0 && j < p - i64::from(left)
            || right >= 0 && j > p + i64::from(right))
    }

    pub fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let there = self
            .pages
            .as_ref()
            .is_none_or(|pages| pages.place(b, j).is_some());
        let k_len = self.k_lens[b] as usize;
        let masked = self.masks.as_ref().is_some_and(|m| !m[b][i * k_len + j]);
        there && !masked && self.reaches(b, i, j)
    }

    /// Output and log-sum-exp of one query, and the largest magnitude of a value it sees.
    pub fn attend(&self, b: usize, row: usize, i: usize, head: usize) -> (Vec<f64>, f64, f64) {
        let kv_head = head / (self.heads / self.kv_heads);
        let q = &self.q[(row * self.heads + head) * self.dim..][..self.dim];
        let p = i as f64 + f64::from(self.k_lens[b]) - self.q_lens[b] as f64;
        let mut scored = Vec::new();
        for j in (0..self.k_lens[b] as usize).filter(|&j| self.sees(b, i, j)) {
            let k = &self.k[b][(j * self.kv_heads + kv_head) * self.dim..][..self.dim];
            let dot: f64 = q
                .iter()
                .zip(k)
                .map(|(q, k)| f64::from(*q) * f64::from(*k))
                .sum();
            let mut score = dot * f64::from(self.scale);
            if let Some(cap) = self.cap {
                score = f64::from(cap) * (score / f64::from(cap)).tanh();
            }
            if let Some(slopes) = &self.slopes {
                score -= f64::from(slopes[head]) * (p - j as f64).abs();
            }
            scored.push((j, score));
        }
        let sink = self
            .sinks
            .as_ref()
            .map_or(f64::NEG_INFINITY, |s| s[head].into());
        let top = scored.iter().fold(sink, |top, &(_, s)| top.max(s));
        let mut out = vec![0.0; self.v_dim];
        if top == f64::NEG_INFINITY {
            return (out, top, 0.0);
        }
        let mut sum = (sink - top).exp();
        let mut most = 0.0f64;
        for (j, score) in scored {
            let p = (score - top).exp();
            sum += p;
            let v = &self.v[b][(j * self.kv_heads + kv_head) * self.v_dim..][..self.v_dim];
            for (out, &v) in out.iter_mut().zip(v) {
                *out += p * f64::from(v);
                most = most.max(f64::from(v.abs()));
            }
        }
        out.iter_mut().for_each(|out| *out /= sum);
        (out, top + sum.ln(), most)
    }

    /// What the kernel must report.
    pub fn status(&self) -> [bool; 6] {
        let mut bits = [false; 6];
        let Some(pages) = &self.pages else {
            return bits;
        };
        for (b, &q_len) in self.q_lens.iter().enumerate() {
            let k_len = self.k_lens[b] as usize;
            let there = k_len.min(pages.lists[b].len() * pages.size);
            bits[Offence::PageRange as usize] |= there < k_len;
            bits[Offence::PageId as usize] |= (0..there)
                .any(|j| pages.place(b, j).is_none() && (0..q_len).any(|i| self.reaches(b, i, j)));
        }
        bits
    }
}

impl Pages {
    pub fn random(rng: &mut StdRng, k_lens: &[i32]) -> Pages {
        let size = [1, 2, 5, 16, 32, 64, 100, 256][rng.random_range(0..8)];
        let csr = rng.random_bool(0.5);
        let mut next = 0;
        let broken = rng.random_bool(0.3);
        let spare = rng.random_range(0..3);
        let lists: Vec<Vec<u32>> = k_lens
            .iter()
            .map(|&k| {
                let mut list: Vec<u32> = (0..(k as usize).div_ceil(size))
                    .map(|_| {
                        next += 1;
                        next - 1
                    })
                    .collect();
                list.extend((0..spare).map(|_| u32::MAX));
                if broken && csr && rng.random_bool(0.3) {
                    list.pop();
                }
                list
            })
            .collect();
        let count = next as usize + 1;
        // The pages in another order, the last one free.
        let mut order: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        let lists = lists
            .into_iter()
            .map(|list| {
                list.into_iter()
                    .map(|id| {
                        let garbage = [u32::MAX, count as u32, 1 << 31][rng.random_range(0..3)];
                        let good = (id as usize) < count && !(broken && rng.random_bool(0.1));
                        if good { order[id as usize] } else { garbage }
                    })
                    .collect()
            })
            .collect();
        Pages {
            size,
            count,
            csr,
            lists,
        }
    }

    /// The row of a key in all pages.
    pub fn place(&self, b: usize, j: usize) -> Option<usize> {
        let id = *self.lists[b].get(j / self.size)? as usize;
        (id < self.count).then_some(id * self.size + j % self.size)
    }
}

/// Device memory with nothing behind its last byte.
pub struct Memory<'a>(pub &'a Emulator);

impl Memory<'_> {
    pub fn put(&self, bytes: &[u8]) -> u64 {
        let address = self.0.alloc(bytes.len().max(1) as u64).unwrap();
        self.0.write(address, bytes).unwrap();
        address
    }
    pub fn words<T: bytemuck::Pod>(&self, data: &[T]) -> u64 {
        self.put(bytemuck::cast_slice(data))
    }
    pub fn floats(&self, data: &[f32], dtype: &str) -> u64 {
        let bits: Vec<u16> = match dtype {
            "f16" => data.iter().map(|&x| f16::from_f32(x).to_bits()).collect(),
            _ => data.iter().map(|&x| bf16::from_f32(x).to_bits()).collect(),
        };
        self.words(&bits)
    }
}

pub fn offsets(lens: impl Iterator<Item = usize>) -> Vec<i32> {
    let mut all = vec![0];
    all.extend(lens.scan(0, |end, len| {
        *end += len as i32;
        Some(*end)
    }));
    all
}

/// Where `out`, `lse` and the status word are.
pub struct Results {
    pub out: u64,
    pub lse: u64,
    pub status: u64,
}

pub fn params(case: &Case, memory: &Memory) -> (PrefillParams, Results) {
    let (dtype, kv) = (case.entry.dtype, case.kv_heads);
    let rows_q: usize = case.q_lens.iter().sum();
    let (k, v, k_rows) = match &case.pages {
        None => {
            let rows = case.k_lens.iter().sum::<i32>() as usize;
            (case.k.concat(), case.v.concat(), rows)
        }
        Some(pages) => {
            let rows = pages.count * pages.size;
            let mut k = vec![NAN; rows * kv * case.dim];
            let mut v = vec![NAN; rows * kv * case.v_dim];
            for (b, &k_len) in case.k_lens.iter().enumerate() {
                for j in 0..k_len as usize {
                    let Some(row) = pages.place(b, j) else {
                        continue;
                    };
                    let (kn, vn) = (kv * case.dim, kv * case.v_dim);
                    k[row * kn..][..kn].copy_from_slice(&case.k[b][j * kn..][..kn]);
                    v[row * vn..][..vn].copy_from_slice(&case.v[b][j * vn..][..vn]);
                }
            }
            (k, v, rows)
        }
    };
    let results = Results {
        out: memory.put(&vec![0xa5; 2 * rows_q * case.heads * case.v_dim]),
        lse: memory.put(&vec![0xa5; 4 * rows_q * case.heads]),
        status: memory.put(&[0; 16]),
    };
    let log2e = std::f32::consts::LOG2_E;
    let strides = |heads: usize, dim: usize| ((heads * dim) as i64, dim as i64);
    let mut p = PrefillParams {
        q: memory.floats(&case.q, dtype),
        k: memory.floats(&k, dtype),
        v: memory.floats(&v, dtype),
        out: results.out,
        lse: results.lse,
        cu_seqlens_q: memory.words(&offsets(case.q_lens.iter().copied())),
        status: results.status,
        batch: case.q_lens.len() as i32,
        num_heads: case.heads as i32,
        num_kv_heads: kv as i32,
        total_q: rows_q as i32,
        total_k: k_rows as i32,
        max_seqlen_q: case.q_lens.iter().copied().max().unwrap() as i32,
        causal: case.causal.into(),
        scale_log2: case.cap.unwrap_or(case.scale) * log2e,
        page_size: 1,
        page_reciprocal: u32::MAX,
        head_dim: case.dim as i32,
        v_dim: case.v_dim as i32,
        window_left: case.window[0],
        window_right: case.window[1],
        softcap_scale: case.cap.map_or(0.0, |cap| case.scale / cap),
        exact_softcap: case.exact_cap.into(),
        lse_stride_head: rows_q as i64,
        ..Default::default()
    };
    (p.q_stride_token, p.q_stride_head) = strides(case.heads, case.dim);
    (p.out_stride_token, p.out_stride_head) = strides(case.heads, case.v_dim);
    (p.k_stride_token, p.k_stride_head) = strides(kv, case.dim);
    (p.v_stride_token, p.v_stride_head) = strides(kv, case.v_dim);
    match &case.pages {
        None => p.cu_seqlens_k = memory.words(&offsets(case.k_lens.iter().map(|&k| k as usize))),
        Some(pages) => {
            p.total_k = 1 << 30;
            p.seqlens_k = memory.words(&case.k_lens);
            p.page_size = pages.size as i32;
            p.page_reciprocal = u32::MAX / pages.size as u32;
            p.num_pages = pages.count as i32;
            p.k_stride_page = pages.size as i64 * p.k_stride_token;
            p.v_stride_page = pages.size as i64 * p.v_stride_token;
            let width = pages.lists.iter().map(Vec::len).max().unwrap();
            let table: Vec<u32> = match pages.csr {
                true => {
                    let list = pages.lists.iter().map(Vec::len);
                    p.page_indptr = memory.words(&offsets(list));
                    pages.lists.concat()
                }
                false => {
                    p.page_table_stride = width as i64;
                    let row = |list: &Vec<u32>| {
                        let mut row = list.clone();
                        row.resize(width, 0xdead_beef);
                        row
                    };
                    pages.lists.iter().flat_map(row).collect()
                }
            };
            p.page_table_len = if pages.csr { table.len() } else { width } as i32;
            p.page_table = memory.words(&table);
        }
    }
    if let Some(slopes) = &case.slopes {
        p.alibi_slopes = memory.words(slopes);
    }
    if let Some(sinks) = &case.sinks {
        p.sinks = memory.words(sinks);
    }
    if let Some(masks) = &case.masks {
        let packed: Vec<Vec<u8>> = masks.iter().map(|mask| packed(mask)).collect();
        p.mask_offsets = memory.words(&offsets(packed.iter().map(Vec::len)));
        p.mask_bytes = packed.iter().map(Vec::len).sum::<usize>() as i64;
        p.mask = memory.put(&packed.concat());
    }
    (p, results)
}

pub fn packed(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        let bit = |(i, &set): (usize, &bool)| u8::from(set) << i;
        bits.iter().enumerate().map(bit).sum()
    };
    bits.chunks(8).map(byte).collect()
}
