//! Mixtures of experts: times of whole layers on a GPU; without one, what the host itself does, and
//! what no GPU can beat.

mod common;

use std::hint::black_box;

use common::{bounds, bounds_of, on_what_there_is, timed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::moe::{MoeArgs, MoePlan, MoeProblem, Routing, Scoring};
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A layer of a model.
struct Layer {
    name: &'static str,
    routing: fn() -> Routing,
    hidden: usize,
    intermediate: usize,
}

const LAYERS: [Layer; 3] = [
    Layer {
        name: "Mixtral 8x7B",
        routing: || Routing::new(8, 2),
        hidden: 4096,
        intermediate: 14336,
    },
    Layer {
        name: "Qwen3-30B-A3B",
        routing: || Routing::new(128, 8).scoring(Scoring::Softmax, true),
        hidden: 2048,
        intermediate: 768,
    },
    Layer {
        name: "DeepSeek-V2-Lite",
        routing: || {
            Routing::new(64, 6)
                .scoring(Scoring::Softmax, false)
                .shared(2, false)
        },
        hidden: 2048,
        intermediate: 1408,
    },
];

const TOKENS: [usize; 4] = [1, 16, 256, 4096];

impl Layer {
    fn problem(&self, tokens: usize) -> MoeProblem {
        let routing = (self.routing)();
        MoeProblem::new(DType::BF16, routing, tokens, self.hidden, self.intermediate)
    }

    /// Floating-point operations of the three products of each expert of each token.
    fn flops(&self, tokens: usize) -> u64 {
        6 * (tokens * (self.routing)().slots() * self.hidden * self.intermediate) as u64
    }

    /// Weights of as many experts as tokens go to if they choose evenly, rows of tokens in and out.
    fn bytes(&self, tokens: usize) -> f64 {
        let routing = (self.routing)();
        let missed = (1.0 - routing.top_k as f64 / routing.experts as f64).powi(tokens as i32);
        let active = routing.experts as f64 * (1.0 - missed) + routing.shared as f64;
        2.0 * (3.0 * active * (self.hidden * self.intermediate) as f64
            + 2.0 * (tokens * self.hidden) as f64)
    }
}

/// A layer with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: MoePlan,
    x: Buffer<bf16>,
    logits: Buffer<f32>,
    /// Gate, up and down: one after the other.
    weights: Buffer<bf16>,
    y: Buffer<bf16>,
    workspace: Buffer<u8>,
    status: StatusWord,
}

impl Prepared {
    fn new(device: &Device, problem: &MoeProblem, tokens: usize) -> Prepared {
        let stream = device.stream();
        let plan = MoePlan::new(device, problem).unwrap();
        let (hidden, experts) = (problem.hidden, problem.routing.experts);
        let rng = &mut StdRng::seed_from_u64(1);
        let logits: Vec<f32> = (0..tokens * experts).map(|_| rng.random()).collect();
        let each = problem.experts().here() * hidden * problem.intermediate;
        Prepared {
            x: stream.alloc(tokens * hidden).unwrap(),
            logits: stream.upload(&logits).unwrap(),
            weights: stream.alloc(3 * each).unwrap(),
            y: stream.alloc(tokens * hidden).unwrap(),
            workspace: stream.alloc(plan.workspace_bytes()).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            plan,
            stream,
        }
    }

    fn run(&mut self) {
        let problem = self.plan.problem();
        let (hidden, intermediate) = (problem.hidden, problem.intermediate);
        let (here, experts) = (problem.experts().here(), problem.routing.experts);
        let tokens = self.y.len() / hidden;
        let each = here * hidden * intermediate;
        let weights = |at: usize, [n, k]: [usize; 2]| {
            let strides = [(n * k) as i64, k as i64, 1];
            let region = self.weights.region();
            region.strided(at * each, [here, n, k], strides).unwrap()
        };
        let args = MoeArgs {
            w_up: Some(weights(1, [intermediate, hidden])),
            ..MoeArgs::new(
                self.x.tensor([tokens, hidden]).unwrap(),
                self.logits.tensor([tokens, experts]).unwrap(),
                weights(0, [intermediate, hidden]),
                weights(2, [hidden, intermediate]),
                self.y.tensor_mut([tokens, hidden]).unwrap(),
                self.workspace.tensor_mut([self.workspace.len()]).unwrap(),
                &self.status,
            )
        };
        self.plan.run(&self.stream, args).unwrap();
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing layers on {device}; elements per second are FLOP/s");
    for layer in &LAYERS {
        let mut group = c.benchmark_group(format!("moe, bf16, {}", layer.name));
        for tokens in TOKENS {
            let mut prepared = Prepared::new(device, &layer.problem(tokens), tokens);
            group.throughput(Throughput::Elements(layer.flops(tokens)));
            group.bench_function(format!("{tokens} tokens"), |bencher| {
                let stream = prepared.stream.clone();
                bencher.iter_custom(|n| timed(&stream, n, || prepared.run()));
            });
        }
        group.finish();
    }
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let mut group = c.benchmark_group("moe, host side, a small layer");
    let problem = MoeProblem::new(DType::BF16, Routing::new(8, 2), 64, 128, 64);
    group.bench_function("supports", |bencher| {
        bencher.iter(|| black_box(&problem).supports())
    });
    group.bench_function("plan, kernels already loaded", |bencher| {
        bencher.iter(|| MoePlan::new(device, black_box(&problem)).unwrap());
    });
    group.finish();
}

/// The time below which no layer can be, by its tensor operations and its operands' bytes.
fn speed_of_light(_: &Device) {
    bounds_of("tokens", "layer");
    for layer in &LAYERS {
        for tokens in TOKENS {
            let (flops, bytes) = (layer.flops(tokens) as f64, layer.bytes(tokens));
            bounds(tokens, flops, bytes, layer.name);
        }
    }
}

fn benches(c: &mut Criterion) {
    on_what_there_is(c, on_the_gpu, speed_of_light, on_the_host);
}

criterion_group!(moe, benches);
criterion_main!(moe);
