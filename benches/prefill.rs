//! Prefill: kernel times on a GPU; without one, what the host itself does, and what no GPU can beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, KvLayout, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, SoftCap, Window,
};
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};

/// A layer of a model: heads, dimension of the values, and its options.
struct Layer {
    name: &'static str,
    heads: HeadShape,
    v_dim: usize,
    options: fn(PrefillProblem) -> PrefillProblem,
}

const fn heads(query: usize, kv: usize, dim: usize) -> HeadShape {
    HeadShape { query, kv, dim }
}

const LAYERS: [Layer; 8] = [
    Layer {
        name: "Llama 3 8B",
        heads: heads(32, 8, 128),
        v_dim: 128,
        options: |p| p,
    },
    Layer {
        name: "Llama 3 8B, pages of 16",
        heads: heads(32, 8, 128),
        v_dim: 128,
        options: |p| p.paged(16),
    },
    Layer {
        name: "Llama 3.2 1B",
        heads: heads(32, 8, 64),
        v_dim: 64,
        options: |p| p,
    },
    Layer {
        name: "Mistral 7B, window 4096",
        heads: heads(32, 8, 128),
        v_dim: 128,
        options: |p| p.window(Window::left(4095)),
    },
    Layer {
        name: "Phi-3-mini, window 2048",
        heads: heads(32, 32, 96),
        v_dim: 96,
        options: |p| p.window(Window::left(2047)),
    },
    Layer {
        name: "Gemma 2 9B, soft-cap 50, window 4096, pages of 16",
        heads: heads(16, 8, 256),
        v_dim: 256,
        options: |p| {
            let p = p.softcap(SoftCap::Approx(50.0)).paged(16);
            p.window(Window::left(4095))
        },
    },
    Layer {
        name: "gpt-oss 20B, sinks, window 128, pages of 16",
        heads: heads(64, 8, 64),
        v_dim: 64,
        options: |p| p.sinks(true).window(Window::left(127)).paged(16),
    },
    Layer {
        name: "DeepSeek-V2",
        heads: heads(128, 128, 192),
        v_dim: 128,
        options: |p| p,
    },
];

/// Prompts of a batch.
const BATCHES: [&[usize]; 3] = [&[512; 8], &[2048; 2], &[8192]];

impl Layer {
    fn problem(&self, lengths: &[usize]) -> PrefillProblem {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let problem = PrefillProblem::new(DType::BF16, self.heads, lengths.len(), longest);
        (self.options)(problem.v_dim(self.v_dim).causal(true))
    }

    /// Floating-point operations of the two products, for each pair of a query and a key it sees.
    fn flops(&self, lengths: &[usize]) -> u64 {
        let window = self.problem(lengths).window.left.unwrap_or(usize::MAX);
        let seen = |position: usize| position.min(window).saturating_add(1);
        let pairs: usize = lengths.iter().flat_map(|&n| (0..n).map(seen)).sum();
        (2 * pairs * self.heads.query * (self.heads.dim + self.v_dim)) as u64
    }
}

/// Operands of one run.
struct Set {
    q: Buffer<bf16>,
    k: Buffer<bf16>,
    v: Buffer<bf16>,
    out: Buffer<bf16>,
}

/// A causal prefill with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: PrefillPlan,
    tokens: usize,
    /// Taken in turn, so that no run finds its operands in the cache.
    sets: Vec<Set>,
    next: usize,
    lens: SeqLens,
    table: Buffer<u32>,
    /// Pages of each sequence.
    pages: usize,
    seqlens: Buffer<i32>,
    sinks: Buffer<f32>,
    status: StatusWord,
}

impl Prepared {
    fn new(device: &Device, layer: &Layer, lengths: &[usize], sets: usize) -> Prepared {
        let stream = device.stream();
        let problem = layer.problem(lengths);
        let page = match problem.kv {
            KvLayout::Ragged => 1,
            KvLayout::Paged { page_size } => page_size,
        };
        let tokens: usize = lengths.iter().sum();
        let pages = problem.max_seqlen_q.div_ceil(page);
        let keys = tokens.max(lengths.len() * pages * page);
        let HeadShape { query, kv, dim } = layer.heads;
        let alloc = |elements| stream.alloc(elements).unwrap();
        let set = || Set {
            q: alloc(tokens * query * dim),
            k: alloc(keys * kv * dim),
            v: alloc(keys * kv * layer.v_dim),
            out: alloc(tokens * query * layer.v_dim),
        };
        let table: Vec<u32> = (0..(lengths.len() * pages) as u32).rev().collect();
        let seqlens: Vec<i32> = lengths.iter().map(|&n| n as i32).collect();
        Prepared {
            plan: PrefillPlan::new(device, &problem).unwrap(),
            sets: (0..sets).map(|_| set()).collect(),
            next: 0,
            lens: SeqLens::from_lengths(&stream, lengths).unwrap(),
            table: stream.upload(&table).unwrap(),
            pages,
            seqlens: stream.upload(&seqlens).unwrap(),
            sinks: stream.alloc(query).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            tokens,
            stream,
        }
    }

    fn run(&mut self) {
        let problem = self.plan.problem();
        let (HeadShape { query, kv, dim }, v_dim) = (problem.heads, problem.v_dim);
        let at = self.next;
        self.next = (at + 1) % self.sets.len();
        let Set { q, k, v, out } = &mut self.sets[at];
        let kv = match problem.kv {
            KvLayout::Ragged => Kv::Ragged {
                k: k.tensor([self.tokens, kv, dim]).unwrap(),
                v: v.tensor([self.tokens, kv, v_dim]).unwrap(),
                seqlens: (&self.lens).into(),
            },
            KvLayout::Paged { page_size } => Kv::Paged {
                k: k.tensor([self.table.len(), page_size, kv, dim]).unwrap(),
                v: v.tensor([self.table.len(), page_size, kv, v_dim]).unwrap(),
                pages: PageTable::Rows(self.table.tensor([problem.batch, self.pages]).unwrap()),
                seqlens: self.seqlens.tensor([problem.batch]).unwrap(),
            },
        };
        let mut args = PrefillArgs::new(
            q.tensor([self.tokens, query, dim]).unwrap(),
            kv,
            out.tensor_mut([self.tokens, query, v_dim]).unwrap(),
            &self.lens,
            &self.status,
        );
        if problem.sinks {
            args = args.sinks(self.sinks.tensor([query]).unwrap());
        }
        self.plan.run(&self.stream, args).unwrap();
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}; elements per second are FLOP/s");
    for layer in &LAYERS {
        let mut group = c.benchmark_group(format!("prefill, causal, bf16, {}", layer.name));
        for lengths in BATCHES {
            let mut prepared = Prepared::new(device, layer, lengths, 4);
            group.throughput(Throughput::Elements(layer.flops(lengths)));
            group.bench_function(format!("{} x {}", lengths.len(), lengths[0]), |bencher| {
                let stream = prepared.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || prepared.run()));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    for layer in [&LAYERS[0], &LAYERS[5]] {
        let mut group = c.benchmark_group(format!("prefill, host side, {}", layer.name));
        let problem = layer.problem(&[283; 5]);
        group.bench_function("supports", |bencher| {
            bencher.iter(|| black_box(&problem).supports())
        });
        group.bench_function("plan, kernel already loaded", |bencher| {
            bencher.iter(|| PrefillPlan::new(device, black_box(&problem)).unwrap());
        });
        // A batch without queries is checked like any other, and then has nothing to launch.
        let mut nothing = Prepared::new(device, layer, &[0; 5], 1);
        group.bench_function("run, checks only", |bencher| bencher.iter(|| nothing.run()));
        group.finish();
    }
}

/// The time below which no kernel can be, by its tensor operations and its operands' bytes.
fn speed_of_light(device: &Device) {
    bounds_of("prompts", "layer, entry");
    for layer in &LAYERS {
        for lengths in BATCHES {
            let plan = PrefillPlan::new(device, &layer.problem(lengths)).unwrap();
            let tokens = lengths.iter().sum();
            let bytes = plan.operand_bytes(tokens, tokens) as f64;
            let prompts = format!("{} x {}", lengths.len(), lengths[0]);
            let about = format!("{}, {}", layer.name, plan.entry());
            bounds(prompts, layer.flops(lengths) as f64, bytes, &about);
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(prefill, benches);
criterion_main!(prefill);
