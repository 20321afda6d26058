//! How fast the host packs 4-bit weights: bytes of codes per second, on all processors.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use infer_kernels::int4::load::{Awq, Gptq, GptqVersion};

fn packing(criterion: &mut Criterion) {
    let (k, n) = (4096, 4096);
    let words: Vec<i32> = (0..k * n / 8)
        .map(|i: usize| (i as i32).wrapping_mul(0x9e37_79b1u32 as i32))
        .collect();
    let zeros = &words[..k / 128 * n / 8];
    let scales = vec![f16::ONE; k / 128 * n];
    let g_idx: Vec<i32> = (0..k as i32).map(|row| row % (k as i32 / 128)).collect();
    let mut group = criterion.benchmark_group("pack 4096 by 4096");
    group.throughput(Throughput::Bytes((k * n / 2) as u64));
    for (name, g_idx) in [("GPTQ", None), ("GPTQ, act-order", Some(&g_idx[..]))] {
        let layer = Gptq {
            k,
            n,
            group: Some(128),
            qweight: &words,
            qzeros: zeros,
            scales: &scales,
            g_idx,
            version: GptqVersion::V1,
        };
        group.bench_function(name, |bencher| bencher.iter(|| layer.pack().unwrap()));
    }
    let layer = Awq {
        k,
        n,
        group: Some(128),
        qweight: &words,
        qzeros: zeros,
        scales: &scales,
    };
    group.bench_function("AWQ", |bencher| bencher.iter(|| layer.pack().unwrap()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = packing
}
criterion_main!(benches);
