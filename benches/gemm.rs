//! Matrix products: kernel times on a GPU; without one, what the host itself does, and what no GPU can
//! beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::gemm::{Activation, GemmArgs, GemmPlan, GemmProblem};
use infer_kernels::{Buffer, DType, Device, Stream};

/// A linear layer of a model: columns of the result and of the input.
struct Layer {
    name: &'static str,
    n: usize,
    k: usize,
    gated: bool,
}

const LAYERS: [Layer; 5] = [
    Layer {
        name: "Llama 3 8B, queries, keys and values",
        n: 6144,
        k: 4096,
        gated: false,
    },
    Layer {
        name: "Llama 3 8B, gate and up",
        n: 14336,
        k: 4096,
        gated: true,
    },
    Layer {
        name: "Llama 3 8B, down",
        n: 4096,
        k: 14336,
        gated: false,
    },
    Layer {
        name: "Llama 3 70B, gate and up, one of eight GPUs",
        n: 3584,
        k: 8192,
        gated: true,
    },
    Layer {
        name: "square",
        n: 4096,
        k: 4096,
        gated: false,
    },
];

/// Rows: tokens of a batch.
const ROWS: [usize; 4] = [1, 16, 256, 4096];

impl Layer {
    fn problem(&self, m: usize) -> GemmProblem {
        let activation = if self.gated {
            Activation::Silu
        } else {
            Activation::None
        };
        GemmProblem::new(DType::BF16, m, self.n, self.k)
            .activation(activation)
            .gated(self.gated)
    }

    fn products(&self) -> u64 {
        if self.gated { 2 } else { 1 }
    }

    fn flops(&self, m: usize) -> u64 {
        2 * self.products() * (m * self.n * self.k) as u64
    }

    /// Operands and results, each counted once.
    fn bytes(&self, m: usize) -> u64 {
        2 * (self.products() * (self.n * self.k) as u64 + (m * (self.n + self.k)) as u64)
    }
}

/// A product with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: GemmPlan,
    x: Buffer<bf16>,
    /// Taken in turn, so that no run finds them in the cache.
    weights: Vec<Buffer<bf16>>,
    next: usize,
    y: Buffer<bf16>,
    workspace: Buffer<f32>,
}

impl Prepared {
    /// Of a plan for `max_m` rows, with `m` of them.
    fn new(device: &Device, layer: &Layer, max_m: usize, m: usize, sets: usize) -> Prepared {
        let stream = device.stream();
        let plan = GemmPlan::new(device, &layer.problem(max_m)).unwrap();
        let len = layer.products() as usize * layer.n * layer.k;
        Prepared {
            x: stream.alloc(m * layer.k).unwrap(),
            weights: (0..sets).map(|_| stream.alloc(len).unwrap()).collect(),
            next: 0,
            y: stream.alloc(m * layer.n).unwrap(),
            workspace: stream.alloc(plan.workspace_elements()).unwrap(),
            plan,
            stream,
        }
    }

    fn run(&mut self) {
        let GemmProblem { n, k, gated, .. } = *self.plan.problem();
        let m = self.y.len() / n;
        let weights = self.weights[self.next].region();
        self.next = (self.next + 1) % self.weights.len();
        let shape = [n, k];
        let strides = [k as i64, 1];
        let args = GemmArgs {
            w_up: gated.then(|| weights.strided(n * k, shape, strides).unwrap()),
            workspace: Some(self.workspace.tensor_mut([self.workspace.len()]).unwrap()),
            ..GemmArgs::new(
                self.x.tensor([m, k]).unwrap(),
                weights.tensor(shape).unwrap(),
                self.y.tensor_mut([m, n]).unwrap(),
            )
        };
        self.plan.run(&self.stream, args).unwrap();
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}; elements per second are FLOP/s");
    for layer in &LAYERS {
        let mut group = c.benchmark_group(format!("gemm, bf16, {}", layer.name));
        for m in ROWS {
            let mut prepared = Prepared::new(device, layer, m, m, 4);
            group.throughput(Throughput::Elements(layer.flops(m)));
            group.bench_function(format!("{m} rows"), |bencher| {
                let stream = prepared.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || prepared.run()));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let layer = Layer {
        name: "a small layer",
        n: 256,
        k: 256,
        gated: true,
    };
    let mut group = c.benchmark_group(format!("gemm, host side, {}", layer.name));
    let problem = layer.problem(64);
    group.bench_function("supports", |bencher| {
        bencher.iter(|| black_box(&problem).supports())
    });
    group.bench_function("plan, kernel already loaded", |bencher| {
        bencher.iter(|| GemmPlan::new(device, black_box(&problem)).unwrap());
    });
    // A product without rows is checked like any other, and then has nothing to launch.
    let mut nothing = Prepared::new(device, &layer, 64, 0, 1);
    group.bench_function("run, checks only", |bencher| bencher.iter(|| nothing.run()));
    group.finish();
}

/// The time below which no kernel can be, by its tensor operations and its operands' bytes.
fn speed_of_light(device: &Device) {
    bounds_of("rows", "layer, entry");
    for layer in &LAYERS {
        for m in ROWS {
            let plan = GemmPlan::new(device, &layer.problem(m)).unwrap();
            let (flops, bytes) = (layer.flops(m) as f64, layer.bytes(m) as f64);
            let about = format!("{}, {}", layer.name, plan.entry());
            bounds(m, flops, bytes, &about);
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(gemm, benches);
criterion_main!(gemm);
