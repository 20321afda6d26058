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
fn straight_lines_that_are_entered_in_the_middle() {
    // Lanes 0 to 7 come to the first line, and go round three times from the third on; so a straight line
    // is left by lanes with turns of their own, and joined behind its start.
    let ptx = module(
        "mov.u32 %r1, %tid.x;\nmov.u32 %r2, 0;\nsetp.ge.u32 %p1, %r1, 8;\n@%p1 bra L;
         \nadd.u32 %r3, %r1, 1;\nadd.u32 %r4, %r3, 2;\nL: xor.b32 %r5, %r1, 3;\nshl.b32 %r6, %r5, 4;
         \nadd.u32 %r2, %r2, 1;\nsetp.lt.u32 %p2, %r2, 3;\n@%p2 bra L;",
    );
    let stats = launch(&ptx, &Shape::threads(30), &[0; 64])
        .unwrap_or_else(|error| panic!("{error}"))
        .stats;
    let executions = |text: &str| {
        let counts = counts_of(&ptx, &stats, text);
        (counts.executions, counts.thread_executions, counts.partial)
    };
    assert_eq!(executions("mov.u32 %r2, 0;"), (1, 30, 1));
    assert_eq!(executions("setp.ge.u32"), (1, 30, 1));
    assert_eq!(executions("add.u32 %r3"), (1, 8, 1));
    assert_eq!(executions("add.u32 %r4"), (1, 8, 1));
    for text in ["L: xor.b32", "shl.b32", "add.u32 %r2", "setp.lt.u32"] {
        assert_eq!(executions(text), (3, 90, 3), "{text}");
    }
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
        .iter()
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

/// Blocks of 256 threads that each copy 4 bytes; in `%in` all blocks read what `shift` makes of their
/// number.
fn copy(shift: u32) -> String {
    module(&format!(
        "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; shl.b32 %r3, %r2, 8; add.u32 %r3, %r3, %r1;
        mul.wide.u32 %d0, %r3, 4; add.s64 %d0, %out, %d0; shr.u32 %r4, %r2, {shift}; shl.b32 %r4, %r4, 8; add.u32 %r4, %r4, %r1;
        mul.wide.u32 %d1, %r4, 4; add.s64 %d1, %in, %d1;\n.loc 1 7 1\nld.global.u32 %r5, [%d1];\n.loc 1 8 1\nst.global.u32 [%d0], %r5;"
    ))
    .replace(".visible", ".file 1 \"copy.cu\"\n.visible")
}

fn profiled(threads: u32, blocks: u32) -> Shape {
    let mut shape = Shape::threads(threads).blocks(blocks);
    shape.config.profile = true;
    shape
}

#[test]
fn traffic_counts_each_sector_once() {
    const BLOCKS: u32 = 40;
    let kib = 1024 * u64::from(BLOCKS);
    // All blocks read their own kilobyte, or eight blocks the same one.
    for (shift, read) in [(0, kib), (3, kib / 8)] {
        let ptx = copy(shift);
        let input = vec![0; 1024 * BLOCKS as usize];
        let stats = launch(&ptx, &profiled(256, BLOCKS), &input).unwrap().stats;
        let traffic = stats.traffic.unwrap();
        assert_eq!(
            (traffic.read_bytes, traffic.written_bytes),
            (read, kib),
            "shift {shift}"
        );
        assert_eq!(
            (traffic.fetched_bytes, traffic.written_back_bytes),
            (read, kib)
        );
        assert_eq!(stats.counts.global_sectors * 32, 2 * kib);
        let by_line: Vec<_> = stats
            .source_lines()
            .iter()
            .map(|l| (l.line, l.traffic.read_bytes, l.traffic.written_bytes))
            .collect();
        assert_eq!(by_line, [(7, read, 0), (8, 0, kib)]);
        assert_eq!(stats.source_lines()[0].traffic.fetched_bytes, read);
        let load = 1 + ptx
            .lines()
            .position(|l| l.starts_with("ld.global"))
            .unwrap() as u32;
        let load = stats.lines().iter().find(|l| l.line == load).unwrap();
        assert_eq!(
            (load.traffic.read_bytes, load.traffic.fetched_bytes),
            (read, read)
        );
        let by_allocation: Vec<_> = stats
            .allocations
            .iter()
            .map(|a| (a.size, a.read_bytes, a.written_bytes))
            .collect();
        assert_eq!(by_allocation, [(kib, 0, kib), (kib, read, 0)]);
    }
    let plain = Shape::threads(256).blocks(2);
    assert_eq!(
        launch(&copy(0), &plain, &[0; 2048]).unwrap().stats.traffic,
        None
    );
}

#[test]
fn what_does_not_fit_into_l2_is_fetched_again() {
    // One warp reads 128 KiB twice.
    let body = "mov.u32 %r1, %tid.x; mul.wide.u32 %d0, %r1, 16; mov.u32 %r2, 0;
        P: mov.u32 %r3, 0; add.s64 %d1, %in, %d0;
        L: ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%d1]; add.s64 %d1, %d1, 512; add.u32 %r3, %r3, 1; setp.lt.u32 %p0, %r3, 256; @%p0 bra L;
        add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 2; @%p0 bra P;";
    let input = vec![0; 128 << 10];
    let fetched = |l2: u64| {
        let mut shape = profiled(32, 1);
        shape.config.gpu.l2 = l2;
        let traffic = run(body, &shape, &input).stats.traffic.unwrap();
        assert_eq!(traffic.read_bytes, 128 << 10);
        traffic.fetched_bytes
    };
    assert_eq!(fetched(40 << 20), 128 << 10);
    assert!(fetched(32 << 10) > 250 << 10, "{}", fetched(32 << 10));
}

#[test]
fn traffic_does_not_depend_on_host_threads() {
    let input = vec![0; 60 << 10];
    let mut shape = profiled(256, 60);
    shape.config.gpu.l2 = 16 << 10;
    shape.config.gpu.sms = 1;
    let first = launch(&copy(2), &shape, &input).unwrap().stats;
    for threads in [2, 5] {
        shape.config.threads = threads;
        assert_eq!(launch(&copy(2), &shape, &input).unwrap().stats, first);
    }
    // A kernel whose blocks can watch each other runs interleaved: the same accesses, so the same.
    let watching = copy(2).replace("ld.global", "ld.relaxed.gpu.global");
    let other = launch(&watching, &shape, &input).unwrap().stats;
    assert_eq!(other.traffic, first.traffic);
}
