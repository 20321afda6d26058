//! Norms, gates, embeddings and sampling: kernel times on a GPU; without one, what the host itself does, and what
//! no GPU can beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::elementwise::{
    EmbedArgs, EmbedPlan, EmbedProblem, NormArgs, NormPlan, NormProblem, PointwiseArgs,
    PointwisePlan, PointwiseProblem, SampleArgs, SamplePlan, SampleProblem, Table,
};
use infer_kernels::gemm::Activation;
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};

/// Rows: tokens of a batch.
const ROWS: [usize; 3] = [1, 256, 4096];
/// Llama 3 8B.
const HIDDEN: usize = 4096;
const FEED_FORWARD: usize = 14336;
const VOCABULARY: usize = 128_256;

/// One of the operations, with all that it needs.
enum Operation {
    Norm(NormPlan),
    Gate(PointwisePlan),
    Embed(EmbedPlan),
    Sample(SamplePlan),
}

impl Operation {
    fn all(device: &Device) -> [Operation; 4] {
        let norm = NormProblem::new(DType::BF16, HIDDEN, 1e-5).residual(true);
        let gate = PointwiseProblem::gated(DType::BF16, FEED_FORWARD, Activation::Silu);
        let embed = EmbedProblem::new(DType::BF16, HIDDEN);
        let sample = SampleProblem::new(DType::BF16, VOCABULARY);
        [
            Operation::Norm(NormPlan::new(device, &norm).unwrap()),
            Operation::Gate(PointwisePlan::new(device, &gate).unwrap()),
            Operation::Embed(EmbedPlan::new(device, &embed).unwrap()),
            Operation::Sample(SamplePlan::new(device, &sample).unwrap()),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Operation::Norm(_) => "residual sum and norm",
            Operation::Gate(_) => "gate",
            Operation::Embed(_) => "embedding",
            Operation::Sample(_) => "sampling, greedy",
        }
    }

    fn bytes(&self, rows: usize) -> u64 {
        let bytes = match self {
            Operation::Norm(plan) => plan.row_bytes(rows),
            Operation::Gate(plan) => plan.row_bytes(rows),
            Operation::Embed(plan) => plan.row_bytes(rows),
            Operation::Sample(plan) => plan.row_bytes(rows),
        };
        bytes as u64
    }
}

/// Memory for any of the operations.
struct Operands {
    stream: Stream,
    rows: usize,
    x: Buffer<bf16>,
    second: Buffer<bf16>,
    y: Buffer<bf16>,
    weight: Buffer<bf16>,
    table: Buffer<bf16>,
    ids: Buffer<i32>,
    tokens: Buffer<i32>,
    status: StatusWord,
}

impl Operands {
    /// Of so many rows; the table has so many.
    fn new(device: &Device, rows: usize, vocabulary: usize) -> Operands {
        let stream = device.stream();
        let alloc = |len: usize| stream.alloc::<bf16>(len).unwrap();
        let ids: Vec<i32> = (0..rows).map(|i| (i * 31 % vocabulary) as i32).collect();
        Operands {
            rows,
            x: alloc(rows * FEED_FORWARD),
            second: alloc(rows * FEED_FORWARD),
            y: alloc(rows * FEED_FORWARD),
            weight: alloc(HIDDEN),
            table: alloc(vocabulary * HIDDEN),
            ids: stream.upload(&ids).unwrap(),
            tokens: stream.alloc(rows).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            stream,
        }
    }

    fn run(&mut self, operation: &Operation) {
        let rows = self.rows;
        match operation {
            Operation::Norm(plan) => {
                let shape = [rows, 1, HIDDEN];
                let x = self.x.tensor(shape).unwrap();
                let args = NormArgs::new(x, self.y.tensor_mut(shape).unwrap())
                    .weight(self.weight.tensor([HIDDEN]).unwrap())
                    .residual(self.second.tensor_mut(shape).unwrap());
                plan.run(&self.stream, args).unwrap();
            }
            Operation::Gate(plan) => {
                let shape = [rows, FEED_FORWARD];
                let x = self.x.tensor(shape).unwrap();
                let args = PointwiseArgs::new(x, self.y.tensor_mut(shape).unwrap())
                    .second(self.second.tensor(shape).unwrap());
                plan.run(&self.stream, args).unwrap();
            }
            Operation::Embed(plan) => {
                let vocabulary = self.table.len() / HIDDEN;
                let args = EmbedArgs {
                    table: Table::Float(self.table.tensor([vocabulary, HIDDEN]).unwrap()),
                    ids: self.ids.tensor([rows]).unwrap(),
                    y: self.y.tensor_mut([rows, HIDDEN]).unwrap(),
                    status: &self.status,
                };
                plan.run(&self.stream, args).unwrap();
            }
            Operation::Sample(plan) => {
                // The table's memory has HIDDEN rows of logits.
                let args = SampleArgs {
                    logits: self.table.tensor([rows, VOCABULARY]).unwrap(),
                    sampling: None,
                    tokens: self.tokens.tensor_mut([rows]).unwrap(),
                    status: &self.status,
                };
                plan.run(&self.stream, args).unwrap();
            }
        }
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}");
    for operation in Operation::all(device) {
        let mut group = c.benchmark_group(format!("{}, bf16", operation.name()));
        for rows in ROWS {
            let mut operands = Operands::new(device, rows, VOCABULARY);
            group.throughput(Throughput::Bytes(operation.bytes(rows)));
            group.bench_function(format!("{rows} rows"), |bencher| {
                let stream = operands.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || operands.run(&operation)));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let mut group = c.benchmark_group("elementwise, host side");
    let problem = NormProblem::new(DType::BF16, HIDDEN, 1e-5);
    group.bench_function("plan, kernel already loaded", |bencher| {
        bencher.iter(|| NormPlan::new(device, black_box(&problem)).unwrap());
    });
    // Operations without rows are checked like any other, and then have nothing to launch.
    let mut nothing = Operands::new(device, 0, 1);
    for operation in Operation::all(device) {
        let name = format!("run {}, checks only", operation.name());
        group.bench_function(name, |bencher| bencher.iter(|| nothing.run(&operation)));
    }
    group.finish();
}

/// The time below which no kernel can be, by its operands' bytes.
fn speed_of_light(device: &Device) {
    bounds_of("rows", "operation");
    for operation in Operation::all(device) {
        for rows in ROWS {
            bounds(rows, 0.0, operation.bytes(rows) as f64, operation.name());
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(elementwise, benches);
criterion_main!(elementwise);
