//! Latent attention: kernel times on a GPU; without one, what the host itself does, and what no GPU can
//! beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::attention::mla::{MlaArgs, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::MlaCache;
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};

/// Heads on one GPU, and the queries of each sequence.
const LAYERS: [(&str, usize, usize); 4] = [
    ("DeepSeek-V2-Lite, or V3 on eight GPUs", 16, 1),
    ("DeepSeek-V3 on two GPUs", 64, 1),
    ("DeepSeek-V3", 128, 1),
    ("DeepSeek-V3, 2 tokens to verify", 128, 2),
];

/// Sequences and their tokens.
const BATCHES: [(usize, usize); 3] = [(1, 32_768), (16, 4096), (128, 4096)];
const PAGE: usize = 64;
const DIMS: [usize; 2] = [576, 512];

fn problem(heads: usize, queries: usize, batch: usize) -> MlaProblem {
    MlaProblem::new(DType::BF16, heads, batch, PAGE).max_queries(queries)
}

/// Queries, cache and output of one run.
type Set = [Buffer<bf16>; 3];

/// Latent attention with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: MlaPlan,
    /// Taken in turn, so that no run finds its operands in the cache.
    sets: Vec<Set>,
    next: usize,
    table: Buffer<u32>,
    seqlens: Buffer<i32>,
    workspace: Buffer<f32>,
    status: StatusWord,
}

impl Prepared {
    fn new(device: &Device, problem: &MlaProblem, tokens: usize, sets: usize) -> Prepared {
        let stream = device.stream();
        let plan = MlaPlan::new(device, problem).unwrap();
        let pages = problem.batch * tokens.div_ceil(PAGE);
        let rows = problem.batch * problem.max_queries * problem.heads;
        let elements = [rows * DIMS[0], pages * PAGE * DIMS[0], rows * DIMS[1]];
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        let set = || elements.map(|n| stream.alloc(n).unwrap());
        Prepared {
            sets: (0..sets).map(|_| set()).collect(),
            next: 0,
            table: stream.upload(&table).unwrap(),
            seqlens: stream.upload(&vec![tokens as i32; problem.batch]).unwrap(),
            workspace: stream.alloc(plan.workspace_elements()).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            plan,
            stream,
        }
    }

    fn run(&mut self) {
        let problem = self.plan.problem();
        let (batch, heads, pages) = (problem.batch, problem.heads, self.table.len());
        let rows = batch * problem.max_queries;
        let at = self.next;
        self.next = (at + 1) % self.sets.len();
        let [q, cache, out] = &mut self.sets[at];
        let elements = self.plan.workspace_elements();
        let table = [batch, pages / batch.max(1)];
        let args = MlaArgs {
            q: MlaQueries::Joined(q.tensor([rows, heads, DIMS[0]]).unwrap()),
            cache: MlaCache::Joined(cache.tensor([pages, PAGE, DIMS[0]]).unwrap()),
            pages: PageTable::Rows(self.table.tensor(table).unwrap()),
            seqlens_k: self.seqlens.tensor([batch]).unwrap(),
            out: out.tensor_mut([rows, heads, DIMS[1]]).unwrap(),
            lse: None,
            seqlens_q: None,
            workspace: self.workspace.tensor_mut([elements]).unwrap(),
            status: &self.status,
        };
        self.plan.run(&self.stream, args).unwrap();
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}; bytes are those of all operands, each counted once");
    for (name, heads, queries) in LAYERS {
        let mut group = c.benchmark_group(format!("MLA, bf16, {name}"));
        for (batch, tokens) in BATCHES {
            let mut prepared = Prepared::new(device, &problem(heads, queries, batch), tokens, 2);
            let bytes = prepared.plan.operand_bytes(batch * queries, batch * tokens);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(format!("{batch} x {tokens}"), |bencher| {
                let stream = prepared.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || prepared.run()));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let mut group = c.benchmark_group("MLA, host side");
    let some = problem(128, 1, 16);
    group.bench_function("plan, kernels already loaded", |bencher| {
        bencher.iter(|| MlaPlan::new(device, black_box(&some)).unwrap());
    });
    // A batch without sequences is checked like any other, and then has nothing to launch.
    let mut nothing = Prepared::new(device, &problem(128, 1, 0), 16, 1);
    group.bench_function("run, checks only", |bencher| bencher.iter(|| nothing.run()));
    group.finish();
}

/// The time below which no kernel can be, by its tensor operations and its operands' bytes.
fn speed_of_light(device: &Device) {
    bounds_of("sequences", "layer, entry");
    for (name, heads, queries) in LAYERS {
        for (batch, tokens) in BATCHES {
            let plan = MlaPlan::new(device, &problem(heads, queries, batch)).unwrap();
            let bytes = plan.operand_bytes(batch * queries, batch * tokens) as f64;
            // A multiplication and an addition for each element of both products.
            let flops = 2 * heads * queries * batch * tokens * (DIMS[0] + DIMS[1]);
            let about = format!("{name}, {}", plan.entry());
            bounds(format!("{batch} x {tokens}"), flops as f64, bytes, &about);
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(mla, benches);
criterion_main!(mla);
