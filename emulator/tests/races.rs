//! Races in global memory: planted bugs are found, right idioms stay quiet.

mod common;

use common::{Shape, bytes, kind, run, violation};
use ptx_emulator::{Access, Checks, Kind};

/// Seeds under which a bug has to be found, and a right program has to stay quiet.
const SEEDS: u64 = 16;

/// `%r1` thread, `%r2` block, `%d1 = out + 4 (thread + block * threads)`, `%d2` the same in `in`.
const INDEX: &str = "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %d0, %r4, 4; add.s64 %d1, %out, %d0; add.s64 %d2, %in, %d0;";

fn body(rest: &str) -> String {
    format!("{INDEX}\n{rest}")
}

fn is_race(kind: &Kind) -> bool {
    matches!(kind, Kind::GlobalRace { .. })
}

/// Runs a right program under many seeds, on one thread and on several.
fn quiet(rest: &str, shape: &Shape, input: &[u8]) {
    for seed in 0..SEEDS {
        for threads in [1, 2] {
            let mut shape = shape.clone().seed(seed);
            shape.config.threads = threads;
            run(&body(rest), &shape, input);
        }
    }
}

/// Runs a wrong program under many seeds; the same race is found on one thread and on several.
fn races(rest: &str, shape: &Shape, input: &[u8]) {
    for seed in 0..SEEDS {
        let mut shape = shape.clone().seed(seed);
        shape.config.threads = 1;
        let one = violation(&body(rest), &shape, input);
        assert!(is_race(&one.kind), "seed {seed}: {one}");
        shape.config.threads = 3;
        let many = violation(&body(rest), &shape, input);
        assert_eq!(one.to_string(), many.to_string(), "seed {seed}");
        shape.config.checks = Checks::NONE;
        run(&body(rest), &shape, input);
    }
}

#[test]
fn threads_that_update_halves_of_a_word_in_place_are_quiet() {
    let input = bytes(&[7; 256]);
    let shape = Shape::threads(64);
    let half = "cvt.u64.u32 %d3, %r4; add.s64 %d4, %out, %d3; add.s64 %d4, %d4, %d3; st.global.u16 [%d4], %r1; bar.sync 0;";
    quiet(
        &format!("{half} ld.global.u16 %r5, [%d4]; add.u32 %r5, %r5, 1; st.global.u16 [%d4], %r5;"),
        &shape,
        &input,
    );
    // The neighbour's half is another matter.
    races(
        &format!(
            "{half} xor.b32 %r6, %r4, 1; cvt.u64.u32 %d3, %r6; add.s64 %d5, %out, %d3; add.s64 %d5, %d5, %d3;
            ld.global.u16 %r5, [%d5]; st.global.u16 [%d4], %r5;"
        ),
        &shape,
        &input,
    );
}

#[test]
fn blocks_that_write_apart_are_quiet() {
    let input = bytes(&[7; 256]);
    let shape = Shape::threads(64).blocks(4);
    quiet(
        "ld.global.u32 %r5, [%d2]; st.global.u32 [%d1], %r5;",
        &shape,
        &input,
    );
    // Neighbouring bytes and halves are not the same place.
    quiet(
        "cvt.u64.u32 %d3, %r4; add.s64 %d4, %out, %d3; st.global.u8 [%d4], %r1; add.s64 %d5, %d4, %d3; st.global.u16 [%d5+256], %r1;",
        &shape,
        &input,
    );
    // All read what nobody writes.
    quiet(
        "ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%in]; st.global.u32 [%d1], %r5;",
        &shape,
        &input,
    );
    // Integer reductions from everywhere.
    quiet(
        "red.global.add.u32 [%in], 1; red.relaxed.gpu.global.max.u32 [%in+4], %r4;",
        &shape,
        &input,
    );
}

#[test]
fn blocks_that_touch_what_another_writes_race() {
    let input = bytes(&[7; 256]);
    let shape = Shape::threads(32).blocks(4);
    races(
        "setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%out], %r2;",
        &shape,
        &input,
    );
    // A reader of what another block writes, whoever comes first.
    races(
        "setp.eq.u32 %p1, %r2, 2; setp.eq.u32 %p2, %r4, 1; @%p1 ld.global.u32 %r5, [%in]; @%p2 st.global.u32 [%in], 1;",
        &shape,
        &input,
    );
    races(
        "setp.eq.u32 %p1, %r2, 1; setp.eq.u32 %p2, %r4, 96; @%p1 ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%in]; @%p2 st.global.u8 [%in+7], 1;",
        &shape,
        &input,
    );
    // A reduction and a plain access.
    races(
        "red.global.add.u32 [%in], 1; setp.eq.u32 %p1, %r4, 70; @%p1 ld.global.u32 %r5, [%in];",
        &shape,
        &input,
    );
    // A reduction whose scope ends with the block.
    races("red.relaxed.cta.global.add.u32 [%in], 1;", &shape, &input);
    // What a copy reads.
    races(
        ".shared .align 16 .b8 s[512]; shl.b32 %r6, %r1, 4; mov.u32 %r7, s; add.u32 %r6, %r6, %r7;
         cp.async.ca.shared.global [%r6], [%in+16], 16; cp.async.wait_all; setp.eq.u32 %p1, %r4, 40; @%p1 st.global.u32 [%in+20], 1;",
        &shape,
        &input,
    );
}

#[test]
fn within_a_block_a_barrier_orders_and_nothing_less() {
    let with = |barrier: &str| {
        format!(
            "st.global.u32 [%d1], %r1; {barrier} xor.b32 %r5, %r4, 32; mul.wide.u32 %d3, %r5, 4; add.s64 %d4, %out, %d3;
             ld.global.u32 %r6, [%d4];"
        )
    };
    let shape = Shape::threads(64).blocks(3);
    quiet(&with("bar.sync 0;"), &shape, &[]);
    for missing in ["", "bar.warp.sync -1;", "membar.gl;", "fence.acq_rel.gpu;"] {
        races(&with(missing), &shape, &[]);
    }
    let lanes =
        |barrier: &str| with(barrier).replace("xor.b32 %r5, %r4, 32", "xor.b32 %r5, %r4, 1");
    quiet(&lanes("bar.warp.sync -1;"), &shape, &[]);
    quiet(&lanes("bar.sync 0;"), &shape, &[]);
    races(&lanes(""), &shape, &[]);
}

#[test]
fn a_warp_barrier_orders_its_members_only() {
    // Lanes 0 to 3 meet; then each reads what its neighbour wrote.
    for (space, address) in [("global", "%d4"), ("shared", "%d5")] {
        let body = |mask: u32, partner: u32| {
            let other = if space == "global" {
                "mul.wide.u32 %d3, %r5, 4; add.s64 %d4, %out, %d3;"
            } else {
                "mul.wide.u32 %d3, %r5, 4; mov.u64 %d5, s; add.s64 %d5, %d5, %d3;"
            };
            let own = if space == "global" { "[%d1]" } else { "[%d6]" };
            body(&format!(
                ".shared .align 16 .b8 s[128]; mov.u64 %d6, s; add.s64 %d6, %d6, %d0; st.{space}.u32 {own}, %r1;
                 setp.lt.u32 %p1, %r1, 4; @!%p1 bra E; bar.warp.sync {mask}; xor.b32 %r5, %r1, {partner}; {other}
                 ld.{space}.u32 %r6, [{address}]; E:"
            ))
        };
        run(&body(15, 1), &Shape::threads(32), &[]);
        run(&body(15, 3), &Shape::threads(32), &[]);
        let found = kind(&body(15, 4), &Shape::threads(32), &[]);
        assert!(
            matches!(found, Kind::GlobalRace { .. } | Kind::SharedRace { .. }),
            "{found}"
        );
    }
    // What lane 1 learnt from lane 0 it passes on to lane 2.
    let chain = |second: &str| {
        body(&format!(
            "st.global.u32 [%d1], %r1; setp.lt.u32 %p1, %r1, 2; setp.gt.u32 %p2, %r1, 2; @%p2 bra E; @!%p1 bra A; bar.warp.sync 3;
             setp.eq.u32 %p3, %r1, 0; @%p3 bra E; A: {second} setp.eq.u32 %p3, %r1, 2; @%p3 ld.global.u32 %r6, [%out]; E:"
        ))
    };
    run(&chain("bar.warp.sync 6;"), &Shape::threads(32), &[]);
    let found = kind(&chain(""), &Shape::threads(32), &[]);
    assert!(is_race(&found), "{found}");
}

#[test]
fn reading_through_the_read_only_cache_what_the_launch_writes() {
    let shape = Shape::threads(32).blocks(2);
    let input = bytes(&[3; 64]);
    let stale = |rest: &str| {
        for seed in 0..SEEDS {
            let mut shape = shape.clone().seed(seed);
            let one = violation(&body(rest), &shape, &input).to_string();
            shape.config.threads = 2;
            let many = violation(&body(rest), &shape, &input);
            assert!(matches!(many.kind, Kind::NonCoherent { .. }), "{many}");
            assert_eq!(one, many.to_string());
        }
    };
    // Not even a barrier helps, or that it is the same thread.
    stale("st.global.u32 [%d2], 1; bar.sync 0; ld.global.nc.u32 %r5, [%d2];");
    stale("ld.global.nc.u32 %r5, [%d2]; bar.sync 0; st.global.u32 [%d2], 1;");
    stale(
        "setp.eq.u32 %p1, %r2, 1; @%p1 ld.global.nc.v2.u32 {%r5, %r6}, [%in]; setp.eq.u32 %p2, %r4, 5; @%p2 st.global.u32 [%in+4], 1;",
    );
    quiet(
        "setp.eq.u32 %p1, %r2, 1; @%p1 ld.global.nc.u32 %r5, [%in]; setp.eq.u32 %p2, %r4, 5; @%p2 st.global.u32 [%in+4], 1;",
        &shape,
        &input,
    );
}

#[test]
fn a_race_names_both_accesses() {
    let text = body(
        "setp.eq.u32 %p1, %r2, 1;\n@%p1 st.global.u32 [%out], 1;\nbar.sync 0;\n@!%p1 ld.global.u32 %r6, [%out];",
    );
    let found = violation(&text, &Shape::threads(1).blocks(2).seed(5), &[]);
    let Kind::GlobalRace {
        access,
        other,
        thread,
        line,
        missing,
    } = &found.kind
    else {
        panic!("{found}")
    };
    assert_eq!((*access, *other), (Access::Write, Access::Read));
    assert_eq!((found.line, *line), (17, 19), "{found}");
    assert_eq!(thread, "warp 0 lane 0 of block (0, 0, 0)");
    assert_eq!(found.block, [1, 0, 0]);
    assert!(missing.contains("release and an acquire"), "{found}");
}

/// Thread 0 of each block hands a word to the next block through a flag.
fn handover(store: &str, load: &str) -> String {
    body(&format!(
        "setp.ne.u32 %p1, %r1, 0; mul.wide.u32 %d3, %r2, 4; add.s64 %d4, %in, %d3; add.s64 %d5, %out, %d3;
         mov.u32 %r7, 0; @%p1 bra D; setp.eq.u32 %p2, %r2, 0; @%p2 bra W;
         L: {load} setp.eq.u32 %p3, %r6, 0; @%p3 bra L;
         ld.global.u32 %r7, [%d5+-4];
         W: add.u32 %r7, %r7, %r2; st.global.u32 [%d5], %r7; {store} D:"
    ))
}

#[test]
fn release_and_acquire_order_blocks_and_less_does_not() {
    let shape = Shape::threads(32).blocks(4).out(16);
    let input = bytes(&[0; 8]);
    let right = [
        (
            "st.release.gpu.global.u32 [%d4+4], 1;",
            "ld.acquire.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d4+4], 1;",
            "ld.relaxed.gpu.global.u32 %r6, [%d4]; fence.acq_rel.gpu;",
        ),
        (
            "membar.gl; st.volatile.global.u32 [%d4+4], 1;",
            "ld.volatile.global.u32 %r6, [%d4]; membar.gl;",
        ),
        (
            "fence.acq_rel.sys; red.relaxed.sys.global.add.u32 [%d4+4], 1;",
            "ld.acquire.sys.global.u32 %r6, [%d4];",
        ),
        (
            "atom.release.gpu.global.exch.b32 %r8, [%d4+4], 1;",
            "atom.acquire.gpu.global.or.b32 %r6, [%d4], 0;",
        ),
    ];
    for (store, load) in right {
        for seed in 0..SEEDS {
            let result = run(&handover(store, load), &shape.clone().seed(seed), &input);
            assert_eq!(result.words(), [0, 1, 3, 6], "{store} {load}, seed {seed}");
        }
    }
    let wrong = [
        // No release, no acquire, neither.
        (
            "st.relaxed.gpu.global.u32 [%d4+4], 1;",
            "ld.acquire.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "st.release.gpu.global.u32 [%d4+4], 1;",
            "ld.relaxed.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "st.volatile.global.u32 [%d4+4], 1;",
            "ld.volatile.global.u32 %r6, [%d4];",
        ),
        // Scopes that end with the block: of the accesses, or of a fence.
        (
            "st.release.cta.global.u32 [%d4+4], 1;",
            "ld.acquire.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "membar.cta; st.relaxed.gpu.global.u32 [%d4+4], 1;",
            "ld.acquire.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "st.release.gpu.global.u32 [%d4+4], 1;",
            "ld.relaxed.gpu.global.u32 %r6, [%d4]; fence.acq_rel.cta;",
        ),
        // The fence on the wrong side.
        (
            "st.relaxed.gpu.global.u32 [%d4+4], 1; fence.acq_rel.gpu;",
            "ld.acquire.gpu.global.u32 %r6, [%d4];",
        ),
        (
            "st.release.gpu.global.u32 [%d4+4], 1;",
            "fence.acq_rel.gpu; ld.relaxed.gpu.global.u32 %r6, [%d4];",
        ),
        // A flag without any order.
        (
            "membar.gl; st.global.u32 [%d4+4], 1;",
            "ld.volatile.global.u32 %r6, [%d4]; membar.gl;",
        ),
    ];
    for (store, load) in wrong {
        for seed in 0..SEEDS {
            let found = kind(&handover(store, load), &shape.clone().seed(seed), &input);
            assert!(is_race(&found), "{store} {load}, seed {seed}: {found}");
        }
    }
}

#[test]
fn what_one_lane_acquires_the_others_have_to_be_told() {
    let kernel = |barrier: &str| {
        body(&format!(
            "setp.ne.u32 %p2, %r2, 0; setp.ne.u32 %p1, %r1, 0; @%p2 bra C; @%p1 bra E; st.global.u32 [%out], 5; st.release.gpu.global.u32 [%in], 1; bra E;
             C: @%p1 bra J; L: ld.acquire.gpu.global.u32 %r6, [%in]; setp.eq.u32 %p3, %r6, 0; @%p3 bra L;
             J: {barrier} ld.global.u32 %r7, [%out]; E:"
        ))
    };
    let shape = Shape::threads(32).blocks(2);
    for seed in 0..SEEDS {
        run(
            &kernel("bar.warp.sync -1;"),
            &shape.clone().seed(seed),
            &bytes(&[0]),
        );
        run(
            &kernel("bar.sync 0;"),
            &shape.clone().seed(seed),
            &bytes(&[0]),
        );
        let found = kind(&kernel(""), &shape.clone().seed(seed), &bytes(&[0]));
        assert!(is_race(&found), "seed {seed}: {found}");
    }
}
