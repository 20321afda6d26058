//! Decode: kernel times on a GPU; without one, what the host itself does, and what no GPU can beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, SoftCap, Window};
use infer_kernels::kv::{Format, Scales};
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream, Tensor};

/// A layer of a model, and the queries of each sequence.
struct Layer {
    name: &'static str,
    heads: HeadShape,
    queries: usize,
    format: Format,
    options: fn(DecodeProblem) -> DecodeProblem,
}

const fn heads(query: usize, kv: usize, dim: usize) -> HeadShape {
    HeadShape { query, kv, dim }
}

const LAYERS: [Layer; 8] = [
    Layer {
        name: "Llama 3 8B",
        heads: heads(32, 8, 128),
        queries: 1,
        format: Format::Same,
        options: |p| p,
    },
    Layer {
        name: "Llama 3 8B, 4 tokens to verify",
        heads: heads(32, 8, 128),
        queries: 4,
        format: Format::Same,
        options: |p| p,
    },
    Layer {
        name: "Llama 3 8B, cache in E4M3",
        heads: heads(32, 8, 128),
        queries: 1,
        format: Format::E4m3,
        options: |p| p,
    },
    Layer {
        name: "Llama 3 8B, cache in int8",
        heads: heads(32, 8, 128),
        queries: 1,
        format: Format::Int8,
        options: |p| p,
    },
    Layer {
        name: "Llama 3 70B",
        heads: heads(64, 8, 128),
        queries: 1,
        format: Format::Same,
        options: |p| p,
    },
    Layer {
        name: "Phi-3-mini, window 2048",
        heads: heads(32, 32, 96),
        queries: 1,
        format: Format::Same,
        options: |p| p.window(Window::left(2047)),
    },
    Layer {
        name: "Gemma 2 9B, soft-cap 50",
        heads: heads(16, 8, 256),
        queries: 1,
        format: Format::Same,
        options: |p| p.softcap(SoftCap::Approx(50.0)),
    },
    Layer {
        name: "gpt-oss 20B, sinks",
        heads: heads(64, 8, 64),
        queries: 1,
        format: Format::Same,
        options: |p| p.sinks(true),
    },
];

/// Sequences and their keys.
const BATCHES: [(usize, usize); 3] = [(1, 32_768), (16, 4096), (128, 1024)];
const PAGE: usize = 16;

impl Layer {
    fn problem(&self, batch: usize) -> DecodeProblem {
        let problem = DecodeProblem::new(DType::BF16, self.heads, batch, PAGE).format(self.format);
        (self.options)(problem.max_queries(self.queries))
    }

    /// Keys that a sequence's queries see.
    fn seen(&self, keys: usize) -> usize {
        let window = self.problem(1).attention().window.left;
        window.map_or(keys, |left| keys.min(left + self.queries))
    }

    /// Two products, each a multiplication and an addition.
    fn flops(&self, batch: usize, keys: usize) -> f64 {
        let HeadShape { query, dim, .. } = self.heads;
        (4 * dim * query * self.queries * batch * self.seen(keys)) as f64
    }
}

/// Operands of one run.
struct Set {
    q: Buffer<bf16>,
    k: Pool,
    v: Pool,
    out: Buffer<bf16>,
}

/// Keys or values in pages.
enum Pool {
    Wide(Buffer<bf16>),
    Bytes(Buffer<u8>),
}

impl Pool {
    fn new(stream: &Stream, format: Format, elements: usize) -> Pool {
        match format {
            Format::Same => Pool::Wide(stream.alloc(elements).unwrap()),
            _ => Pool::Bytes(stream.alloc(elements).unwrap()),
        }
    }

    fn tensor(&self, shape: [usize; 4]) -> Tensor<'_, 4> {
        match self {
            Pool::Wide(buffer) => buffer.tensor(shape).unwrap(),
            Pool::Bytes(buffer) => buffer.tensor(shape).unwrap(),
        }
    }
}

/// A decode with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: DecodePlan,
    rows: usize,
    /// Taken in turn, so that no run finds its operands in the cache.
    sets: Vec<Set>,
    next: usize,
    table: Buffer<u32>,
    seqlens: Buffer<i32>,
    sinks: Buffer<f32>,
    scales: Buffer<f32>,
    workspace: Buffer<f32>,
    status: StatusWord,
}

impl Prepared {
    fn new(device: &Device, layer: &Layer, batch: usize, keys: usize, sets: usize) -> Prepared {
        let stream = device.stream();
        let plan = DecodePlan::new(device, &layer.problem(batch)).unwrap();
        let HeadShape { query, kv, dim } = layer.heads;
        let pages = batch * keys.div_ceil(PAGE);
        let rows = batch * layer.queries;
        let alloc = |elements| stream.alloc(elements).unwrap();
        let set = || Set {
            q: alloc(rows * query * dim),
            k: Pool::new(&stream, layer.format, pages * PAGE * kv * dim),
            v: Pool::new(&stream, layer.format, pages * PAGE * kv * dim),
            out: alloc(rows * query * dim),
        };
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        Prepared {
            rows,
            sets: (0..sets).map(|_| set()).collect(),
            next: 0,
            table: stream.upload(&table).unwrap(),
            seqlens: stream.upload(&vec![keys as i32; batch]).unwrap(),
            sinks: stream.alloc(query).unwrap(),
            scales: stream.upload(&vec![1.0; kv]).unwrap(),
            workspace: stream.alloc(plan.workspace_elements()).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            plan,
            stream,
        }
    }

    fn run(&mut self) {
        let problem = self.plan.problem().attention();
        let HeadShape { query, kv, dim } = problem.heads;
        let (batch, pages) = (problem.batch, self.table.len());
        let at = self.next;
        self.next = (at + 1) % self.sets.len();
        let Set { q, k, v, out } = &mut self.sets[at];
        let elements = self.plan.workspace_elements();
        let mut args = DecodeArgs::new(
            q.tensor([self.rows, query, dim]).unwrap(),
            Kv::Paged {
                k: k.tensor([pages, PAGE, kv, dim]),
                v: v.tensor([pages, PAGE, kv, dim]),
                pages: PageTable::Rows(self.table.tensor([batch, pages / batch.max(1)]).unwrap()),
                seqlens: self.seqlens.tensor([batch]).unwrap(),
            },
            out.tensor_mut([self.rows, query, dim]).unwrap(),
            self.workspace.tensor_mut([elements]).unwrap(),
            &self.status,
        );
        if self.plan.problem().cache_format() != Format::Same {
            let of_heads = self.scales.tensor([kv]).unwrap();
            args.scales = Some(Scales {
                k: of_heads,
                v: of_heads,
            });
        }
        if problem.sinks {
            args.sinks = Some(self.sinks.tensor([query]).unwrap());
        }
        self.plan.run(&self.stream, args).unwrap();
    }

    fn bytes(&self, layer: &Layer, keys: usize) -> u128 {
        let batch = self.plan.problem().attention().batch;
        self.plan.operand_bytes(self.rows, batch * layer.seen(keys))
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}; bytes are those of all operands, each counted once");
    for layer in &LAYERS {
        let mut group = c.benchmark_group(format!("decode, bf16, {}", layer.name));
        for (batch, keys) in BATCHES {
            let mut prepared = Prepared::new(device, layer, batch, keys, 3);
            group.throughput(Throughput::Bytes(prepared.bytes(layer, keys) as u64));
            group.bench_function(format!("{batch} x {keys}"), |bencher| {
                let stream = prepared.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || prepared.run()));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let layer = &LAYERS[0];
    let mut group = c.benchmark_group(format!("decode, host side, {}", layer.name));
    let problem = layer.problem(16);
    group.bench_function("supports", |bencher| {
        bencher.iter(|| black_box(&problem).supports())
    });
    group.bench_function("plan, kernels already loaded", |bencher| {
        bencher.iter(|| DecodePlan::new(device, black_box(&problem)).unwrap());
    });
    // A batch without sequences is checked like any other, and then has nothing to launch.
    let mut nothing = Prepared::new(device, layer, 0, 16, 1);
    group.bench_function("run, checks only", |bencher| bencher.iter(|| nothing.run()));
    group.finish();
}

/// The time below which no kernel can be, by its operands' bytes.
fn speed_of_light(device: &Device) {
    bounds_of("sequences", "layer, entry");
    for layer in &LAYERS {
        for (batch, keys) in BATCHES {
            let plan = DecodePlan::new(device, &layer.problem(batch)).unwrap();
            let bytes = plan.operand_bytes(batch * layer.queries, batch * layer.seen(keys)) as f64;
            let about = format!("{}, {}", layer.name, plan.entry());
            bounds(
                format!("{batch} x {keys}"),
                layer.flops(batch, keys),
                bytes,
                &about,
            );
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(decode, benches);
criterion_main!(decode);
