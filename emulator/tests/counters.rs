//! What is counted, against figures worked out by hand.

mod common;

use common::{Shape, launch, module, run};
use ptx_emulator::{Class, Counts, LaunchStats};

/// Address of `%in` plus `stride` times the lane, in `%d1`.
fn strided(stride: u32, offset: u32) -> String {
    format!(
        "mov.u32 %r1, %tid.x; mul.wide.u32 %d0, %r1, {stride}; add.s64 %d1, %in, {offset}; add.s64 %d1, %d1, %d0;"
    )
}

/// Counts of the only instruction on a line of its own that starts with this text.
fn counts_of(ptx: &str, stats: &LaunchStats, text: &str) -> Counts {
    let line = 1 + ptx.lines().position(|l| l.starts_with(text)).unwrap() as u32;
    let found = stats.lines().iter().find(|l| l.line == line);
    found.unwrap_or_else(|| panic!("line {line}")).counts
}

/// Counts of the access in a body, on its own line.
fn access(before: &str, access: &str, threads: u32) -> Counts {
    let ptx = module(&format!(
        "mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u32 %r5, 0; {before}\n{access}"
    ));
    let result = launch(&ptx, &Shape::threads(threads), &[0; 4096])
        .unwrap_or_else(|error| panic!("{error}"));
    counts_of(&ptx, &result.stats, access)
}

#[test]
fn sectors_of_global_accesses() {
    // Stride and offset in bytes, access, bytes asked for, sectors, sectors at best.
    let cases: &[(u32, u32, &str, u64, u64, u64)] = &[
        (4, 0, "ld.global.u32 %r2, [%d1];", 128, 4, 4),
        (4, 16, "ld.global.u32 %r2, [%d1];", 128, 5, 4),
        (8, 0, "ld.global.u32 %r2, [%d1];", 128, 8, 4),
        (32, 0, "ld.global.u32 %r2, [%d1];", 128, 32, 4),
        (128, 0, "ld.global.u32 %r2, [%d1];", 128, 32, 4),
        (0, 0, "ld.global.u32 %r2, [%d1];", 128, 1, 1),
        (2, 0, "ld.global.u16 %r2, [%d1];", 64, 2, 2),
        (1, 0, "ld.global.u8 %r2, [%d1];", 32, 1, 1),
        (8, 0, "ld.global.v2.u32 {%r2, %r3}, [%d1];", 256, 8, 8),
        (16, 0, "ld.global.v2.u32 {%r2, %r3}, [%d1];", 256, 16, 8),
        (
            16,
            0,
            "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d1];",
            512,
            16,
            16,
        ),
        (
            64,
            0,
            "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d1];",
            512,
            32,
            16,
        ),
        (4, 0, "st.global.u32 [%d1], %r2;", 128, 4, 4),
        (64, 0, "st.global.u32 [%d1], %r2;", 128, 32, 4),
        (4, 0, "red.global.add.u32 [%d1], %r2;", 128, 4, 4),
        (0, 0, "red.global.add.u32 [%d1], %r2;", 128, 1, 1),
    ];
    for (stride, offset, text, bytes, sectors, ideal) in cases {
        let counts = access(&strided(*stride, *offset), text, 32);
        let got = (
            counts.global_bytes,
            counts.global_sectors,
            counts.global_ideal_sectors,
        );
        assert_eq!(
            got,
            (*bytes, *sectors, *ideal),
            "stride {stride}, offset {offset}: {text}"
        );
    }
}

#[test]
fn sectors_of_a_part_of_a_warp() {
    let counts = access(&strided(4, 0), "ld.global.u32 %r2, [%d1];", 10);
    let got = (
        counts.global_bytes,
        counts.global_sectors,
        counts.global_ideal_sectors,
    );
    assert_eq!(got, (40, 2, 2));
    assert_eq!((counts.executions, counts.thread_executions), (1, 10));
    assert_eq!(counts.partial, 1);
    assert!((counts.lanes_per_execution() - 10.0).abs() < 1e-12);
    // Every second lane, 32 bytes apart: a sector each, and 16 words would fit into 2.
    let before = format!(
        "{} and.b32 %r6, %r1, 1; setp.eq.u32 %p1, %r6, 0;",
        strided(32, 0)
    );
    let counts = access(&before, "@%p1 ld.global.u32 %r2, [%d1];", 32);
    let got = (
        counts.global_bytes,
        counts.global_sectors,
        counts.global_ideal_sectors,
    );
    assert_eq!(got, (64, 16, 2));
    assert!((counts.coalescing() - 2.0 / 16.0).abs() < 1e-12);
}

#[test]
fn conflicts_of_shared_accesses() {
    // Bytes per lane, stride of lanes in bytes, passes, conflicts.
    let one = "ld.shared.u32 %r2, [%r8];";
    let two = "ld.shared.v2.u32 {%r2, %r3}, [%r8];";
    let four = "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r8];";
    let cases = [
        (one, 4, 1, 0),
        (one, 0, 1, 0),
        (one, 8, 2, 1),
        (one, 12, 1, 0),
        (one, 16, 4, 3),
        (one, 32, 8, 7),
        (one, 128, 32, 31),
        (one, 132, 1, 0),
        (two, 8, 2, 0),
        (two, 16, 4, 2),
        (two, 32, 8, 6),
        (four, 16, 4, 0),
        (four, 32, 8, 4),
        (four, 64, 16, 12),
        (four, 128, 32, 28),
        (four, 144, 4, 0),
    ];
    for (text, stride, passes, conflicts) in cases {
        let before = format!(
            ".shared .align 16 .b8 s[8192]; mov.u32 %r1, %tid.x; mul.lo.u32 %r8, %r1, {stride}; mov.u32 %r9, s; add.u32 %r8, %r8, %r9;"
        );
        let counts = access(&before, text, 32);
        assert_eq!(
            (counts.shared_wavefronts, counts.bank_conflicts),
            (passes, conflicts),
            "stride {stride}: {text}"
        );
    }
}

#[test]
fn divergence() {
    let body = "mov.u32 %r1, %tid.x; setp.lt.u32 %p0, %r1, 12;\n@%p0 bra L;\nadd.u32 %r1, %r1, 1;\nL:\nadd.u32 %r1, %r1, 2;\nsetp.lt.u32 %p1, %r1, 1000;\n@%p1 bra M;\nM:\nexit;";
    let ptx = module(body);
    let result = launch(&ptx, &Shape::threads(64), &[0; 4]).unwrap();
    let stats = &result.stats;
    // Warp 0 splits 12 to 20, warp 1 does not; where all lanes jump, nothing diverges.
    let branch = counts_of(&ptx, stats, "@%p0 bra L");
    assert_eq!(
        (
            branch.executions,
            branch.divergent_branches,
            branch.thread_executions
        ),
        (2, 1, 12)
    );
    assert_eq!(counts_of(&ptx, stats, "@%p1 bra M").divergent_branches, 0);
    let skipped = counts_of(&ptx, stats, "add.u32 %r1, %r1, 1;");
    assert_eq!(
        (
            skipped.executions,
            skipped.thread_executions,
            skipped.partial
        ),
        (2, 52, 1)
    );
    let after = counts_of(&ptx, stats, "add.u32 %r1, %r1, 2;");
    assert_eq!(
        (after.executions, after.thread_executions, after.partial),
        (2, 64, 0)
    );
    assert_eq!(stats.counts.divergent_branches, 1);
}

#[test]
fn a_collective_counts_once_however_its_lanes_arrive() {
    let body = "mov.u32 %r1, %tid.x; setp.lt.u32 %p0, %r1, 7;\n@%p0 bra L;\nadd.u32 %r1, %r1, 1;\nL:\nshfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\nbar.sync 0;";
    let ptx = module(body);
    for seed in 0..4 {
        let stats = launch(&ptx, &Shape::threads(32).seed(seed), &[0; 4])
            .unwrap()
            .stats;
        let shuffle = counts_of(&ptx, &stats, "shfl");
        assert_eq!(
            (
                shuffle.executions,
                shuffle.thread_executions,
                shuffle.partial
            ),
            (1, 32, 0)
        );
        assert_eq!(counts_of(&ptx, &stats, "bar.sync").executions, 1);
    }
}

#[test]
fn operations_of_each_pipe() {
    let body = "mov.u32 %r1, %tid.x; mov.b32 %f1, 0; mov.b64 %d1, 0; mov.b32 %r2, 0; mov.b16 %h1, 0;
        fma.rn.f32 %f2, %f1, %f1, %f1; add.f32 %f2, %f1, %f1; mul.f32 %f2, %f1, %f1; sub.f32 %f2, %f1, %f1; max.f32 %f2, %f1, %f1;
        .reg .f64 %x<2>; mov.b64 %x0, %d1; fma.rn.f64 %x1, %x0, %x0, %x0; add.f64 %x1, %x0, %x0;
        fma.rn.f16x2 %r3, %r2, %r2, %r2; add.f16 %h2, %h1, %h1; fma.rn.bf16 %h2, %h1, %h1, %h1; mad.lo.u32 %r4, %r1, %r1, %r1;";
    let stats = run(body, &Shape::threads(48), &[0; 4]).stats;
    assert_eq!(stats.counts.f32_flops, 48 * 5);
    assert_eq!(stats.counts.f64_flops, 48 * 3);
    assert_eq!(stats.counts.half_flops, 48 * (4 + 1 + 2));
    assert_eq!(stats.counts.tensor_flops, 0);
    assert_eq!(stats.class(Class::Float), 2 * 5);
    assert_eq!(stats.by_opcode[&("fma", Class::Float)], 2);
    assert_eq!(stats.by_opcode[&("fma", Class::Half)], 4);
}

#[test]
fn lines_of_the_source_add_up() {
    let ptx = module(
        ".loc 1 10 3\nmov.u32 %r1, %tid.x;\nadd.u32 %r1, %r1, 1;\n.loc 1 11 1\nadd.u32 %r2, %r1, 1;\n.loc 1 10 9\nadd.u32 %r3, %r1, 1;",
    );
    let ptx = ptx.replace(".visible", ".file 1 \"dir/kernel.cu\"\n.visible");
    let stats = launch(&ptx, &Shape::threads(64), &[0; 4]).unwrap().stats;
    let by_line: Vec<_> = stats
        .source_lines()
        .into_iter()
        .map(|line| (line.file.to_string(), line.line, line.counts.executions))
        .collect();
    let file = "dir/kernel.cu".to_string();
    // `ret` belongs to line 10 as well. Reading %tid is no instruction of its own.
    assert_eq!(by_line, [(file.clone(), 10, 8), (file, 11, 2)]);
    let sum: u64 = stats
        .lines()
        .iter()
        .map(|line| line.counts.executions)
        .sum();
    assert_eq!(sum, stats.warp_instructions);
    assert_eq!((stats.blocks, stats.threads_per_block), (1, 64));
}

#[test]
fn counts_do_not_depend_on_host_threads() {
    let body = ".shared .b32 s[64]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; and.b32 %r3, %r2, 3; shl.b32 %r4, %r1, %r3;
        shl.b32 %r5, %r4, 2; and.b32 %r5, %r5, 255; mov.u32 %r6, s; add.u32 %r6, %r5, %r6; ld.shared.u32 %r7, [%r6];
        cvt.u64.u32 %d0, %r5; add.s64 %d1, %in, %d0; ld.global.u32 %r7, [%d1]; setp.lt.u32 %p0, %r1, %r2; @%p0 bra E; add.u32 %r1, %r1, 1; E:";
    let mut shape = Shape::threads(64).blocks(50);
    let first = run(body, &shape, &[0; 256]).stats;
    assert!(
        first.counts.divergent_branches > 0
            && first.bank_conflicts > 0
            && first.counts.coalescing() < 1.0
    );
    for threads in [2, 5] {
        shape.config.threads = threads;
        assert_eq!(run(body, &shape, &[0; 256]).stats, first);
    }
}
