//! Time per warp instruction, by kind, on one thread: straight lines of the same instruction.
//!
//! `goals` are the figures that the project has set itself, each by its name. All but the one with two
//! threads are times of the processor and not of the clock on the wall, so that other work on the
//! machine disturbs them less.

mod cpu_time;
mod goals;

use cpu_time::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::{Checks, Config, Emulator, Kernel, LaunchConfig};

/// Instructions in a row; a warp runs them in each of its blocks.
const ROW: usize = 1000;
const BLOCKS: u32 = 20;

/// Name, what goes before, and the instructions to repeat.
const CASES: &[(&str, &str, &str)] = &[
    (
        "add.s32",
        "",
        "add.s32 %r1, %r1, %r2; add.s32 %r3, %r3, %r1;",
    ),
    (
        "add.s64",
        "",
        "add.s64 %d1, %d1, %d2; add.s64 %d3, %d3, %d1;",
    ),
    (
        "fma.rn.f32",
        "",
        "fma.rn.f32 %f1, %f2, %f3, %f1; fma.rn.f32 %f4, %f2, %f3, %f4;",
    ),
    ("mul.ftz.f32", "", "mul.ftz.f32 %f1, %f2, %f3;"),
    ("max.f32", "", "max.f32 %f1, %f2, %f1;"),
    ("ex2.approx.ftz.f32", "", "ex2.approx.ftz.f32 %f1, %f2;"),
    ("cvt.rn.bf16x2.f32", "", "cvt.rn.bf16x2.f32 %r1, %f1, %f2;"),
    ("cvt.rn.f16x2.f32", "", "cvt.rn.f16x2.f32 %r1, %f1, %f2;"),
    ("fma.rn.f16x2", "", "fma.rn.f16x2 %r1, %r2, %r3, %r1;"),
    ("fma.rn.bf16x2", "", "fma.rn.bf16x2 %r1, %r2, %r3, %r1;"),
    ("lop3.b32", "", "lop3.b32 %r1, %r2, %r3, %r4, 0x96;"),
    ("prmt.b32", "", "prmt.b32 %r1, %r2, %r3, 0x5410;"),
    ("setp.lt.s32", "", "setp.lt.s32 %p1, %r1, %r2;"),
    ("setp.gt.f32", "", "setp.gt.f32 %p1, %f1, %f2;"),
    ("selp.b32", "", "selp.b32 %r1, %r2, %r3, %p1;"),
    ("mul.wide.s32", "", "mul.wide.s32 %d1, %r2, %r3;"),
    ("shr.u32", "", "shr.u32 %r1, %r2, 3;"),
    (
        "ld.shared.u32",
        "",
        "ld.shared.u32 %r10, [%r20]; ld.shared.u32 %r11, [%r20+128];",
    ),
    (
        "ld.shared.v4.u32",
        "",
        "ld.shared.v4.u32 {%r10, %r11, %r12, %r13}, [%r21];",
    ),
    (
        "st.shared.v4.u32",
        "",
        "st.shared.v4.u32 [%r21], {%r10, %r11, %r12, %r13};",
    ),
    (
        "ld.global.v4.u32",
        "",
        "ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%d9];",
    ),
    (
        "ldmatrix.x4",
        "",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r21];",
    ),
    (
        "ldmatrix.x4.trans",
        "",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r10, %r11, %r12, %r13}, [%r21];",
    ),
    ("shfl.bfly", "", "shfl.sync.bfly.b32 %r10, %r1, 1, 31, -1;"),
    (
        "cp.async.cg",
        "",
        "cp.async.cg.shared.global [%r21], [%d9], 16; cp.async.commit_group; cp.async.wait_group 0;",
    ),
    (
        "mma.m16n8k16.f16",
        "",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f0,%f1,%f2,%f3};",
    ),
    (
        "mma.m16n8k16.bf16",
        "",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f0,%f1,%f2,%f3};",
    ),
];

fn kernel(device: &Emulator, before: &str, body: &str) -> Kernel {
    let per_body = body.matches(';').count();
    let body = body.repeat(ROW / per_body);
    let zeros: String = (0..20)
        .map(|n| format!("mov.u32 %r{n}, {n}; mov.f32 %f{n}, 0f00000000; mov.u64 %d{n}, {n};"))
        .collect();
    let ptx = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in)\n{{
         .shared .align 16 .b8 s[4096]; .reg .b32 %r<40>; .reg .b64 %d<40>; .reg .f32 %f<40>; .reg .pred %p<4>; setp.ne.u32 %p1, %laneid, 7;
         {zeros} ld.param.u64 %d9, [in]; mov.u32 %r20, %laneid; add.u32 %r20, %r20, %r20; add.u32 %r20, %r20, %r20;
         add.u32 %r21, %r20, %r20; add.u32 %r21, %r21, %r21; mov.b64 %d10, {{%r21, 0}}; add.s64 %d9, %d9, %d10;
         mov.u32 %r22, s; add.u32 %r20, %r20, %r22; add.u32 %r21, %r21, %r22; st.shared.v4.u32 [%r21], {{%r1,%r2,%r3,%r4}};
         bar.warp.sync -1; {before} {body} ret; }}"
    );
    device
        .load(&ptx)
        .and_then(|module| module.kernel("k"))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn instructions(criterion: &mut Criterion<CpuTime>) {
    for (level, checks) in [("all", Checks::ALL), ("none", Checks::NONE)] {
        let device = Emulator::new(Config {
            checks,
            threads: 1,
            ..Config::default()
        });
        let input = device.alloc(512).unwrap_or_else(|error| panic!("{error}"));
        device
            .fill(input, 1, 512)
            .unwrap_or_else(|error| panic!("{error}"));
        let mut group = criterion.benchmark_group(format!("checks-{level}"));
        for (name, before, body) in CASES {
            let kernel = std::cell::LazyCell::new(|| kernel(&device, before, body));
            let shape = LaunchConfig {
                grid: [BLOCKS, 1, 1],
                block: [32, 1, 1],
                dynamic_smem: 0,
            };
            group.throughput(Throughput::Elements(ROW as u64 * u64::from(BLOCKS)));
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    device
                        .launch(&kernel, &shape, &[&input.to_le_bytes()])
                        .unwrap_or_else(|error| panic!("{error}"))
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(10).measurement_time(std::time::Duration::from_millis(400)).warm_up_time(std::time::Duration::from_millis(100));
    targets = instructions, goals::goals
}
criterion_group! {
    name = wall;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(100));
    targets = goals::threads
}
criterion_main!(benches, wall);
