//! Prefill: kernel times on a GPU; without one, only what the host itself does.
//!
//! An emulated run is never timed as if it were a GPU's: criterion's figures would be mistaken for
//! one.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{HeadShape, Kv, PrefillArgs, PrefillPlan, PrefillProblem};
use infer_kernels::{Buffer, DType, Device, StatusWord, Stream};

const LLAMA_3_8B: HeadShape = HeadShape {
    query: 32,
    kv: 8,
    dim: 128,
};

/// A causal prefill with all that it needs, ready to be run again and again.
struct Prepared {
    stream: Stream,
    plan: PrefillPlan,
    tokens: usize,
    q: Buffer<bf16>,
    k: Buffer<bf16>,
    v: Buffer<bf16>,
    out: Buffer<bf16>,
    lens: SeqLens,
    status: StatusWord,
}

impl Prepared {
    fn new(device: &Device, lengths: &[usize]) -> Prepared {
        let stream = device.stream();
        let lens = SeqLens::from_lengths(&stream, lengths).unwrap();
        let problem = PrefillProblem::new(DType::BF16, LLAMA_3_8B, lens.batch(), lens.max_len());
        let tokens = lens.end();
        let alloc = |heads| stream.alloc(tokens * heads * LLAMA_3_8B.dim).unwrap();
        Prepared {
            plan: PrefillPlan::new(device, &problem.causal(true)).unwrap(),
            q: alloc(LLAMA_3_8B.query),
            k: alloc(LLAMA_3_8B.kv),
            v: alloc(LLAMA_3_8B.kv),
            out: alloc(LLAMA_3_8B.query),
            status: StatusWord::new(&stream).unwrap(),
            tokens,
            lens,
            stream,
        }
    }

    fn run(&mut self) {
        let HeadShape { query, kv, dim } = LLAMA_3_8B;
        let args = PrefillArgs::new(
            self.q.tensor([self.tokens, query, dim]).unwrap(),
            Kv::Ragged {
                k: self.k.tensor([self.tokens, kv, dim]).unwrap(),
                v: self.v.tensor([self.tokens, kv, dim]).unwrap(),
                seqlens: (&self.lens).into(),
            },
            self.out.tensor_mut([self.tokens, query, dim]).unwrap(),
            &self.lens,
            &self.status,
        );
        self.plan.run(&self.stream, args).unwrap();
    }

    /// `n` launches, waited for once: the time of the GPU, unless launching takes longer.
    fn timed(&mut self, n: u64) -> Duration {
        self.stream.synchronize().unwrap();
        let timer = Instant::now();
        for _ in 0..n {
            self.run();
        }
        self.stream.synchronize().unwrap();
        timer.elapsed()
    }
}

fn on_the_gpu(c: &mut Criterion, device: &Device) {
    eprintln!("timing kernels on {device}");
    let mut group = c.benchmark_group("prefill causal bf16, 32:8 heads of 128");
    for lengths in [&[512; 8][..], &[2048; 2], &[8192]] {
        let mut prepared = Prepared::new(device, lengths);
        let pairs: usize = lengths.iter().map(|n| n * (n + 1) / 2).sum();
        // Two products of `dim` multiply-adds for each pair that is attended to.
        let flops = 4 * pairs * LLAMA_3_8B.query * LLAMA_3_8B.dim;
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function(format!("{} x {}", lengths.len(), lengths[0]), |bencher| {
            bencher.iter_custom(|n| prepared.timed(n));
        });
    }
    group.finish();
}

fn on_the_host(c: &mut Criterion, device: &Device) {
    let mut group = c.benchmark_group("prefill, host side");
    let problem = PrefillProblem::new(DType::BF16, LLAMA_3_8B, 5, 283).causal(true);
    group.bench_function("supports", |bencher| {
        bencher.iter(|| black_box(&problem).supports())
    });
    group.bench_function("plan, kernel already loaded", |bencher| {
        bencher.iter(|| PrefillPlan::new(device, black_box(&problem)).unwrap());
    });
    // A batch without queries is checked like any other, and then has nothing to launch.
    let mut nothing = Prepared::new(device, &[0; 5]);
    group.bench_function("run, checks only", |bencher| bencher.iter(|| nothing.run()));
    group.finish();
}

fn benches(c: &mut Criterion) {
    let device = match Device::require_gpu() {
        Ok(device) => {
            on_the_gpu(c, &device);
            device
        }
        Err(reason) => {
            eprintln!("{reason}: no kernel is timed, only what the host does");
            Device::emulator(Default::default())
        }
    };
    on_the_host(c, &device);
}

criterion_group!(prefill, benches);
criterion_main!(prefill);
