//! How fast the host packs the blocks of GGUF files: bytes of blocks per second, on all processors.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use infer_kernels::blocks::{BlockFormat, BlockWeight};

fn packing(criterion: &mut Criterion) {
    let (k, n) = (4096, 4096);
    let mut group = criterion.benchmark_group("pack 4096 by 4096");
    for format in BlockFormat::ALL {
        let bytes = vec![0x11; n * k / format.rows() * format.bytes()];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format.to_string(), |bencher| {
            bencher.iter(|| BlockWeight::pack(format, k, n, &bytes).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = packing
}
criterion_main!(benches);
