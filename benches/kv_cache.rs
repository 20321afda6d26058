//! KV cache: kernel times on a GPU; without one, what the host itself does, and what no GPU can beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::merge::{MergeArgs, MergePlan, MergeProblem, State};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::{
    AppendArgs, AppendPlan, AppendProblem, Cache, CacheMut, CopyArgs, CopyPlan, Format, GatherArgs,
    GatherPlan, GatherProblem, Norm, Pages, Pairing, Queries, Rotation, Scales, Weights,
};
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};

const PAGE: usize = 16;

/// A layer of a model.
struct Layer {
    name: &'static str,
    query_heads: usize,
    heads: usize,
    dim: usize,
    norm: bool,
    format: Format,
}

const LAYERS: [Layer; 3] = [
    Layer {
        name: "Llama 3 8B",
        query_heads: 32,
        heads: 8,
        dim: 128,
        norm: false,
        format: Format::Same,
    },
    Layer {
        name: "Llama 3 8B, cache in E4M3",
        query_heads: 32,
        heads: 8,
        dim: 128,
        norm: false,
        format: Format::E4m3,
    },
    Layer {
        name: "Gemma 3 4B",
        query_heads: 8,
        heads: 4,
        dim: 256,
        norm: true,
        format: Format::Same,
    },
];

/// Tokens of a step: of a decoding batch, and of a chunk of prompts.
const TOKENS: [usize; 3] = [16, 256, 8192];

impl Layer {
    fn append(&self) -> AppendProblem {
        let problem = AppendProblem::new(DType::BF16, self.heads, self.dim)
            .query_heads(self.query_heads)
            .rope(Pairing::Halves, self.dim)
            .format(self.format);
        match self.norm {
            true => problem.norm(Norm {
                eps: 1e-6,
                plus_one: true,
            }),
            false => problem,
        }
    }

    fn gather(&self) -> GatherProblem {
        GatherProblem::new(DType::BF16, self.heads, self.dim).format(self.format)
    }
}

/// Everything that the operations on a layer's cache need.
struct Prepared<'l> {
    layer: &'l Layer,
    stream: Stream,
    tokens: usize,
    append: AppendPlan,
    copy: CopyPlan,
    gather: GatherPlan,
    merge: MergePlan,
    q: Buffer<bf16>,
    merged: Buffer<bf16>,
    lse: Buffer<f32>,
    rows: [Buffer<bf16>; 2],
    same: [Buffer<bf16>; 2],
    bytes: [Buffer<u8>; 2],
    slots: Buffer<i64>,
    numbers: Buffer<f32>,
    table: Buffer<u32>,
    pairs: Buffer<i32>,
    lens: SeqLens,
    status: StatusWord,
}

#[derive(Clone, Copy)]
enum Operation {
    Append,
    Copy,
    Gather,
    Merge,
}

const OPERATIONS: [(&str, Operation); 4] = [
    ("append", Operation::Append),
    ("copy of half its pages", Operation::Copy),
    ("gather", Operation::Gather),
    ("merge of two states", Operation::Merge),
];

impl<'l> Prepared<'l> {
    fn new(device: &Device, layer: &'l Layer, tokens: usize) -> Self {
        let stream = device.stream();
        let pages = tokens.div_ceil(PAGE).next_multiple_of(2);
        let (new, kept) = (
            tokens * layer.heads * layer.dim,
            pages * PAGE * layer.heads * layer.dim,
        );
        let queries = tokens * layer.query_heads * layer.dim;
        let of_format = |format| if layer.format == format { kept } else { 0 };
        let eighth = if layer.format == Format::Same {
            0
        } else {
            kept
        };
        let half = |elements| stream.alloc::<bf16>(elements).unwrap();
        let byte = |elements| stream.alloc::<u8>(elements).unwrap();
        let pairs: Vec<i32> = (0..pages as i32 / 2)
            .flat_map(|i| [i, i + pages as i32 / 2])
            .collect();
        Prepared {
            append: AppendPlan::new(device, &layer.append()).unwrap(),
            copy: CopyPlan::new(device).unwrap(),
            gather: GatherPlan::new(device, &layer.gather()).unwrap(),
            merge: MergePlan::new(
                device,
                &MergeProblem::new(DType::BF16, layer.query_heads, layer.dim),
            )
            .unwrap(),
            q: half(queries),
            merged: half(queries),
            lse: stream.alloc(layer.query_heads * tokens).unwrap(),
            rows: [half(new), half(new)],
            same: [half(of_format(Format::Same)), half(of_format(Format::Same))],
            bytes: [byte(eighth), byte(eighth)],
            slots: stream.upload(&Vec::from_iter(0..tokens as i64)).unwrap(),
            numbers: stream.alloc((tokens + 1) * layer.dim).unwrap(),
            table: stream.upload(&Vec::from_iter(0..pages as u32)).unwrap(),
            pairs: stream.upload(&pairs).unwrap(),
            lens: SeqLens::from_lengths(&stream, &[tokens]).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            layer,
            tokens,
            stream,
        }
    }

    /// The least bytes that the operation moves.
    fn bytes(&self, operation: Operation) -> u128 {
        match operation {
            Operation::Append => self.append.row_bytes(self.tokens),
            Operation::Copy => {
                let page = PAGE * self.layer.heads * self.layer.dim;
                (2 * 2 * (self.pairs.len() / 2) * page * self.layer.format.size(DType::BF16))
                    as u128
            }
            Operation::Gather => self.gather.row_bytes(self.tokens),
            Operation::Merge => self.merge.row_bytes(self.tokens, 2),
        }
    }

    fn run(&mut self, operation: Operation) {
        let (tokens, Layer { heads, dim, .. }) = (self.tokens, self.layer);
        let query = [tokens, self.layer.query_heads, *dim];
        let (new, shape) = (
            [tokens, *heads, *dim],
            [self.table.len(), PAGE, *heads, *dim],
        );
        let scale = self.numbers.tensor([1]).unwrap();
        let scales = (self.layer.format != Format::Same).then_some(Scales { k: scale, v: scale });
        let flat = [shape[0], PAGE * heads * dim];
        match operation {
            Operation::Append => {
                let cache = match self.layer.format {
                    Format::Same => {
                        let [k, v] = self.same.each_mut().map(|b| b.tensor_mut(shape).unwrap());
                        CacheMut::Rows { k, v }
                    }
                    _ => {
                        let [k, v] = self.bytes.each_mut().map(|b| b.tensor_mut(shape).unwrap());
                        CacheMut::Rows { k, v }
                    }
                };
                let table = self.numbers.tensor([tokens, dim / 2]).unwrap();
                let weights = self.numbers.tensor([*dim]).unwrap();
                let mut args = AppendArgs::new(
                    self.rows[0].tensor(new).unwrap(),
                    self.rows[1].tensor(new).unwrap(),
                    cache,
                    self.slots.tensor([tokens]).unwrap(),
                    &self.status,
                )
                .queries(Queries::InPlace(self.q.tensor_mut(query).unwrap()))
                .rotation(Rotation {
                    positions: self.slots.tensor([tokens]).unwrap(),
                    cosines: table,
                    sines: table,
                });
                if self.layer.norm {
                    args = args.weights(Weights {
                        k: weights,
                        q: Some(weights),
                    });
                }
                args.scales = scales;
                self.append.run(&self.stream, args).unwrap();
            }
            Operation::Copy => {
                let pages = match self.layer.format {
                    Format::Same => self.same.each_mut().map(|b| b.tensor_mut(flat).unwrap()),
                    _ => self.bytes.each_mut().map(|b| b.tensor_mut(flat).unwrap()),
                };
                let args = CopyArgs {
                    pages: Pages::Within(pages.into()),
                    pairs: self.pairs.tensor([self.pairs.len() / 2, 2]).unwrap(),
                    status: &self.status,
                };
                self.copy.run(&self.stream, args).unwrap();
            }
            Operation::Gather => {
                let cache = match self.layer.format {
                    Format::Same => {
                        let [k, v] = self.same.each_ref().map(|b| b.tensor(shape).unwrap());
                        Cache::Rows { k, v }
                    }
                    _ => {
                        let [k, v] = self.bytes.each_ref().map(|b| b.tensor(shape).unwrap());
                        Cache::Rows { k, v }
                    }
                };
                let [k, v] = self.rows.each_mut().map(|b| b.tensor_mut(new).unwrap());
                let args = GatherArgs {
                    cache,
                    pages: PageTable::Rows(self.table.tensor([1, self.table.len()]).unwrap()),
                    seqlens: (&self.lens).into(),
                    k,
                    v,
                    scales,
                    status: &self.status,
                };
                self.gather.run(&self.stream, args).unwrap();
            }
            Operation::Merge => {
                let state = State {
                    out: self.q.tensor(query).unwrap(),
                    lse: self.lse.tensor([query[1], tokens]).unwrap(),
                };
                let args = MergeArgs {
                    states: &[state, state],
                    out: self.merged.tensor_mut(query).unwrap(),
                    lse: None,
                };
                self.merge.run(&self.stream, args).unwrap();
            }
        }
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}; few tokens stay in its caches");
    for layer in &LAYERS {
        for tokens in TOKENS {
            let mut group = c.benchmark_group(format!("{}, {tokens} tokens", layer.name));
            let mut prepared = Prepared::new(device, layer, tokens);
            for (name, operation) in OPERATIONS {
                group.throughput(Throughput::Bytes(prepared.bytes(operation) as u64));
                group.bench_function(name, |bencher| {
                    let stream = prepared.stream.clone();
                    bencher.iter_custom(|n| timed(&stream, n, || prepared.run(operation)));
                });
            }
            group.finish();
        }
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let layer = &LAYERS[2];
    let mut group = c.benchmark_group(format!("KV cache, host side, {}", layer.name));
    group.bench_function("supports", |bencher| {
        let problem = layer.append();
        bencher.iter(|| black_box(&problem).supports())
    });
    // Without tokens everything is checked, and then there is nothing to launch.
    let mut nothing = Prepared::new(device, layer, 0);
    for (name, operation) in OPERATIONS {
        group.bench_function(format!("{name}, checks only"), |bencher| {
            bencher.iter(|| nothing.run(operation));
        });
    }
    group.finish();
}

/// The time below which no kernel can be, by the bytes that it has to move.
fn speed_of_light(device: &Device) {
    bounds_of("tokens", "operation, layer");
    for layer in &LAYERS {
        for tokens in TOKENS {
            let prepared = Prepared::new(device, layer, tokens);
            for (name, operation) in OPERATIONS {
                let about = format!("{name}, {}", layer.name);
                bounds(tokens, 0.0, prepared.bytes(operation) as f64, &about);
            }
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(kv_cache, benches);
criterion_main!(kv_cache);
