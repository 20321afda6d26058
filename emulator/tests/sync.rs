//! Barriers, and races in shared memory: planted bugs are found, right idioms stay quiet.

mod common;

use common::{Shape, kind, launch, module, run};
use ptx_emulator::{Access, Checks, Kind, LaunchError};

/// `%d1 = out + 4 tid`, `%r1 = tid`, `%r3 = s + 4 tid`, `%r4 = s + 4 (tid ^ 32)`.
const INDEX: &str = ".shared .align 16 .b8 s[4096]; mov.u32 %r1, %tid.x; mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0;
    shl.b32 %r2, %r1, 2; mov.u32 %r5, s; add.u32 %r3, %r5, %r2; xor.b32 %r4, %r2, 128; add.u32 %r4, %r4, %r5;";

fn body(rest: &str) -> String {
    format!("{INDEX} {rest}")
}

/// Seeds under which a bug has to be found.
const SEEDS: u64 = 8;

fn is_race(kind: &Kind) -> bool {
    matches!(kind, Kind::SharedRace { .. })
}

#[test]
fn a_barrier_between_write_and_read_is_needed_and_enough() {
    let with = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r3], %r1; {barrier} ld.shared.u32 %r6, [%r4]; st.global.u32 [%d1], %r6;"
        ))
    };
    for seed in 0..SEEDS {
        let shape = Shape::threads(64).seed(seed);
        for barrier in [
            "bar.sync 0;",
            "barrier.sync 0;",
            "barrier.sync.aligned 3, 64;",
            "bar.red.popc.u32 %r9, 1, %p1;",
        ] {
            let set = "setp.eq.u32 %p1, %r1, 0;";
            let expected: Vec<u32> = (0..64).map(|n| n ^ 32).collect();
            assert_eq!(
                run(&with(&format!("{set} {barrier}")), &shape, &[]).words(),
                expected
            );
        }
        let found = kind(&with(""), &shape, &[]);
        assert!(is_race(&found), "{found}");
        let found = kind(&with("bar.warp.sync -1;"), &shape, &[]);
        assert!(
            is_race(&found),
            "a warp's barrier orders no other warp: {found}"
        );
    }
}

#[test]
fn lanes_of_a_warp_need_a_barrier_too() {
    let with = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r3], %r1; {barrier} xor.b32 %r6, %r2, 4; add.u32 %r6, %r6, %r5; ld.shared.u32 %r7, [%r6];"
        ))
    };
    run(&with("bar.warp.sync -1;"), &Shape::threads(32), &[]);
    let found = kind(&with(""), &Shape::threads(32), &[]);
    assert!(is_race(&found), "{found}");
    let same = "st.shared.u32 [s], %r1;";
    let found = kind(&body(same), &Shape::threads(32), &[]);
    let Kind::SharedRace {
        access: Access::Write,
        other: Access::Write,
        ..
    } = found
    else {
        panic!("{found}")
    };
    run(
        &body("setp.eq.u32 %p0, %r1, 3; @%p0 st.shared.u32 [s], %r1;"),
        &Shape::threads(32),
        &[],
    );
}

#[test]
fn overwriting_what_others_may_still_read_is_a_race() {
    let with = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u32 %r6, [%r4]; {barrier} st.shared.u32 [%r3], 0;"
        ))
    };
    for seed in 0..SEEDS {
        run(&with("bar.sync 0;"), &Shape::threads(64).seed(seed), &[]);
        let found = kind(&with(""), &Shape::threads(64).seed(seed), &[]);
        assert!(is_race(&found), "{found}");
        let shape = Shape::threads(64).seed(seed).checks(Checks::NONE);
        run(&with(""), &shape, &[]);
    }
}

#[test]
fn producers_and_consumers_hand_over_with_named_barriers() {
    // Warp 0 fills a buffer that warp 1 reads, three times: 1 says full, 2 says empty.
    let kernel = |full: &str, empty: &str| {
        body(&format!(
            "mov.u32 %r20, 0; setp.lt.u32 %p0, %r1, 32; @%p0 bra P;
             C: bar.sync 1, 64; ld.shared.u32 %r6, [%r4]; {empty} add.u32 %r20, %r20, 1; setp.lt.u32 %p1, %r20, 3; @%p1 bra C;
             st.global.u32 [%d1], %r6; bra E;
             P: st.shared.u32 [%r3], %r20; {full} bar.sync 2, 64; add.u32 %r20, %r20, 1; setp.lt.u32 %p1, %r20, 3; @%p1 bra P;
             st.global.u32 [%d1], %r20; E:"
        ))
    };
    for seed in 0..SEEDS {
        let shape = Shape::threads(64).seed(seed);
        let result = run(
            &kernel("bar.arrive 1, 64;", "bar.arrive 2, 64;"),
            &shape,
            &[],
        );
        let expected: Vec<u32> = (0..64).map(|n| if n < 32 { 3 } else { 2 }).collect();
        assert_eq!(result.words(), expected);
    }
    // Without waiting for the buffer to be empty, it is overwritten while it is read.
    let racy = kernel("bar.arrive 1, 64;", "").replace("bar.sync 2, 64;", "");
    let found: Vec<Kind> = (0..SEEDS)
        .map(|seed| kind(&racy, &Shape::threads(64).seed(seed), &[]))
        .collect();
    assert!(
        found
            .iter()
            .all(|kind| is_race(kind)
                || matches!(kind, Kind::BadBarrier { .. } | Kind::Deadlock { .. })),
        "{found:?}"
    );
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_plain_accesses() {
    let start = "setp.eq.u32 %p0, %r1, 0; @%p0 st.shared.u32 [s], 0; bar.sync 0; atom.shared.add.u32 %r6, [s], 1;";
    let result = run(
        &body(&format!(
            "{start} bar.sync 0; ld.shared.u32 %r6, [s]; st.global.u32 [%d1], %r6;"
        )),
        &Shape::threads(64),
        &[],
    );
    assert_eq!(result.words(), [64; 64]);
    let found = kind(
        &body(&format!("{start} ld.shared.u32 %r6, [s];")),
        &Shape::threads(64),
        &[],
    );
    assert!(is_race(&found), "{found}");
}

#[test]
fn every_thread_writes_its_own_byte_or_half() {
    let bytes = "add.u32 %r6, %r5, %r1; st.shared.u8 [%r6], 7; add.u32 %r7, %r6, %r1; st.shared.u16 [%r7+128], 3; bar.sync 0; ld.shared.u32 %r8, [%r3];";
    run(&body(bytes), &Shape::threads(64), &[]);
}

#[test]
fn reductions_over_a_barrier_reach_everybody() {
    let count = "setp.lt.u32 %p0, %r1, 50; bar.red.popc.u32 %r6, 0, %p0; st.global.u32 [%d1], %r6;";
    assert_eq!(
        run(&body(count), &Shape::threads(96), &[]).words(),
        [50; 96]
    );
    for (op, limit, expected) in [("and", 96, 1), ("and", 95, 0), ("or", 1, 1), ("or", 0, 0)] {
        let text = format!(
            "setp.lt.u32 %p0, %r1, {limit}; barrier.red.{op}.aligned.pred %p1, 0, %p0; selp.u32 %r6, 1, 0, %p1; st.global.u32 [%d1], %r6;"
        );
        let text = text
            .replace("barrier.red.and.aligned", "barrier.red.aligned.and")
            .replace("barrier.red.or.aligned", "barrier.red.aligned.or");
        assert_eq!(
            run(&body(&text), &Shape::threads(96), &[]).words(),
            [expected; 96],
            "{op} {limit}"
        );
    }
}

#[test]
fn barriers_that_not_everybody_reaches_are_found() {
    let shape = Shape::threads(64);
    // One warp leaves out the barrier, and waits at another one.
    let text = "setp.lt.u32 %p0, %r1, 32; @%p0 bar.sync 0; @!%p0 bar.sync 1;";
    let found = kind(&body(text), &shape, &[]);
    assert!(
        matches!(&found, Kind::Deadlock { waiting } if waiting.contains("barrier 0") && waiting.contains("barrier 1")),
        "{found}"
    );
    // Lanes of a warp at different barriers.
    let text = "setp.lt.u32 %p0, %r1, 16; @%p0 bra A; bar.sync 0; bra E; A: bar.sync 0; E:";
    let found = kind(&body(text), &shape, &[]);
    assert!(matches!(found, Kind::LanesMissing { .. }), "{found}");
    // Threads that have exited are not waited for.
    let text = "setp.lt.u32 %p0, %r1, 20; @%p0 exit; bar.sync 0; st.global.u32 [%d1], 1;";
    run(&body(text), &shape, &[]);
    // A barrier for more threads than there are.
    let found = kind(&body("bar.sync 0, 96;"), &shape, &[]);
    assert!(matches!(found, Kind::Deadlock { .. }), "{found}");
    for wrong in [
        "bar.sync 16;",
        "bar.sync 0, 40;",
        "setp.lt.u32 %p0, %r1, 32; selp.u32 %r6, 32, 64, %p0; bar.sync 0, %r6; bar.sync 0, 64;",
    ] {
        let found = kind(&body(wrong), &shape, &[]);
        assert!(
            matches!(found, Kind::BadBarrier { .. } | Kind::Deadlock { .. }),
            "{wrong}: {found}"
        );
    }
}

#[test]
fn a_violation_says_where_and_can_be_replayed() {
    let text = module(&body(
        "st.shared.u32 [%r3], %r1;\nld.shared.u32 %r6, [%r4];",
    ));
    let shape = Shape::threads(64).seed(77);
    let messages: Vec<String> = (0..2)
        .map(|_| match launch(&text, &shape, &[]) {
            Err(error @ LaunchError::Violation(_)) => error.to_string(),
            other => panic!("{:?}", other.err()),
        })
        .collect();
    assert_eq!(messages[0], messages[1]);
    for part in [
        "race in shared memory",
        "PTX line 15",
        "PTX line 16",
        "block (0, 0, 0)",
        "seed 77",
    ] {
        assert!(messages[0].contains(part), "{part} in {}", messages[0]);
    }
}
