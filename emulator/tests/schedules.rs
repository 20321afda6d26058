//! Schedules: lanes and blocks that wait for each other, and those that wait in vain.

mod common;

use common::{Shape, bytes, launch, module, run, violation};
use ptx_emulator::{Kind, LaunchError};

/// A shape whose lanes stay apart once they have diverged.
fn scattered(shape: Shape, seed: u64) -> Shape {
    let mut shape = shape.seed(seed);
    shape.config.reconverge = false;
    shape
}

#[test]
fn a_spin_lock_between_lanes_of_a_warp_ends() {
    // Each lane takes the lock by itself, and adds one to what the lock protects.
    let body = "L: atom.acquire.gpu.global.cas.b32 %r1, [%in], 0, 1; setp.ne.u32 %p0, %r1, 0; @%p0 bra L;
        ld.global.u32 %r2, [%in+4]; add.u32 %r2, %r2, 1; st.global.u32 [%in+4], %r2;
        atom.release.gpu.global.exch.b32 %r3, [%in], 0; bar.warp.sync -1; ld.global.u32 %r4, [%in+4];
        mov.u32 %r5, %tid.x; mul.wide.u32 %d0, %r5, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r4;";
    for seed in 0..2 {
        for shape in [
            Shape::threads(32).seed(seed),
            scattered(Shape::threads(32), seed),
        ] {
            assert_eq!(
                run(body, &shape, &bytes(&[0, 0])).words(),
                [32; 32],
                "seed {seed}"
            );
        }
    }
}

#[test]
fn lanes_that_stay_apart_give_the_same_results() {
    // Loops of different lengths, collectives, a barrier, and an exit on the way.
    let body = ".shared .align 16 .b8 s[256]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, 0; and.b32 %r4, %r1, 7;
        L: setp.ge.u32 %p0, %r2, %r4; @%p0 bra J; add.u32 %r2, %r2, 1; add.u32 %r3, %r3, %r2; bra L;
        J: shfl.sync.bfly.b32 %r5, %r3, 1, 31, -1; shl.b32 %r6, %r1, 2; mov.u32 %r7, s; add.u32 %r6, %r6, %r7; st.shared.u32 [%r6], %r5;
        bar.sync 0; mov.u32 %r8, 252; sub.u32 %r8, %r8, %r6; add.u32 %r8, %r8, %r7; add.u32 %r8, %r8, %r7; ld.shared.u32 %r9, [%r8];
        mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r9; setp.lt.u32 %p1, %r4, 3; @%p1 exit;
        add.u32 %r9, %r9, 100; st.global.u32 [%d1], %r9;";
    let expected = run(body, &Shape::threads(64), &[]).words();
    for seed in 0..24 {
        let result = run(body, &scattered(Shape::threads(64), seed), &[]);
        assert_eq!(result.words(), expected, "seed {seed}");
    }
}

#[test]
fn what_counts_on_lanes_being_together_shows() {
    // Half of the lanes count first; without a barrier the rest may look before that. The accesses
    // are atomic, so it is no race, only wrong.
    let body = |barrier: &str| {
        format!(
            "mov.u32 %r1, %tid.x; setp.ge.u32 %p0, %r1, 16; @%p0 bra J; atom.global.add.u32 %r2, [%in], 1;
             J: {barrier} atom.global.add.u32 %r3, [%in+4], 0; atom.global.or.b32 %r3, [%in], 0;
             mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r3;"
        )
    };
    let all = |barrier: &str, shape: Shape| {
        let result = run(&body(barrier), &shape, &bytes(&[0, 0]));
        result.words().iter().all(|seen| *seen == 16)
    };
    let mut missed = 0;
    for seed in 0..24 {
        assert!(
            all("", Shape::threads(32).seed(seed)),
            "lanes meet where branches join"
        );
        assert!(
            all("bar.warp.sync -1;", scattered(Shape::threads(32), seed)),
            "seed {seed}"
        );
        missed += u32::from(!all("", scattered(Shape::threads(32), seed)));
    }
    assert!(missed > 6, "shown under {missed} of 24 seeds");
}

#[test]
fn a_block_that_waits_for_one_without_room_is_told() {
    // The last block raises the flag. With 100 KiB of shared memory, an A100 holds one block per
    // multiprocessor: 108 in all.
    let body = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; sub.u32 %r2, %r2, 1; setp.ne.u32 %p0, %r1, %r2; @%p0 bra L;
        st.release.gpu.global.u32 [%in], 1; bra E;
        L: ld.acquire.gpu.global.u32 %r3, [%in]; setp.eq.u32 %p1, %r3, 0; @%p1 bra L; E:";
    let mut shape = Shape::threads(1).blocks(108).smem(100 << 10);
    shape.config.budget = 10_000;
    run(body, &shape, &bytes(&[0]));
    let shape = Shape {
        grid: [109, 1, 1],
        ..shape
    };
    let found = violation(body, &shape, &bytes(&[0]));
    let (left, blocks, resident) = (1, 109, 108);
    assert_eq!(
        found.kind,
        Kind::NotResident {
            left,
            blocks,
            resident
        }
    );
    assert!(
        found
            .to_string()
            .contains("1 of 109 blocks have not started, since the device holds 108")
    );
    // A loop without an end is a loop without an end.
    let body = "L: ld.volatile.global.u32 %r3, [%in]; setp.eq.u32 %p1, %r3, 0; @%p1 bra L;";
    let mut shape = Shape::threads(1).blocks(2);
    shape.config.budget = 5000;
    match launch(&module(body), &shape, &bytes(&[0])) {
        Err(LaunchError::Violation(found)) => assert!(matches!(found.kind, Kind::Budget(_))),
        other => panic!("{:?}", other.err()),
    }
}
