//! Asynchronous copies: what they bring, and what may not be done meanwhile.

mod common;

use common::{Shape, bytes, kind, run, violation};
use ptx_emulator::{Access, Kind};

/// `%d1 = out + 4 tid`, `%d2 = in + 16 tid`, `%r3 = s + 16 tid`, `%r1 = tid`.
const INDEX: &str = ".shared .align 16 .b8 s[4096]; mov.u32 %r1, %tid.x; add.u32 %r2, %r1, %r1; add.u32 %r2, %r2, %r2;
    mov.b64 %d0, {%r2, 0}; add.s64 %d1, %out, %d0; add.s64 %d0, %d0, %d0; add.s64 %d0, %d0, %d0;
    add.s64 %d2, %in, %d0; mov.b64 {%r4, %r5}, %d0; mov.u32 %r3, s; add.u32 %r3, %r3, %r4;";

fn input() -> Vec<u8> {
    bytes(&(0..256).map(|n| n * 3 + 1).collect::<Vec<u32>>())
}

#[test]
fn a_copy_lands_at_the_wait() {
    let body = format!(
        "{INDEX} cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.commit_group; cp.async.wait_group 0;
         ld.shared.u32 %r6, [%r3+4]; st.global.u32 [%d1], %r6;"
    );
    let result = run(&body, &Shape::threads(64), &input());
    let expected: Vec<u32> = (0..64).map(|n| (4 * n + 1) * 3 + 1).collect();
    assert_eq!(result.words(), expected);
}

#[test]
fn short_sources_are_filled_with_zeros() {
    for (copy, expected) in [
        (
            "cp.async.ca.shared.global.L2::128B [%r3], [%d2], 8, 4;",
            [1, 0],
        ),
        ("cp.async.cg.shared.global [%r3], [%d2], 16, 0;", [0, 0]),
        (
            "mov.u32 %r7, 8; cp.async.cg.shared::cta.global [%r3], [%d2], 16, %r7;",
            [1, 4],
        ),
        (
            "isspacep.global %p0, %d2; cp.async.cg.shared.global [%r3], [%d2], 16, %p0;",
            [0, 0],
        ),
        (
            "isspacep.shared %p0, %d2; cp.async.cg.shared.global [%r3], [%d2], 16, %p0;",
            [1, 4],
        ),
        (
            "createpolicy.fractional.L2::evict_first.b64 %d4, 0f3F800000;
          cp.async.cg.shared.global.L2::cache_hint [%r3], [%d2], 16, %d4;",
            [1, 4],
        ),
    ] {
        let body = format!(
            "{INDEX} {copy} cp.async.wait_all; ld.shared.v2.u32 {{%r6, %r8}}, [%r3]; st.global.v2.u32 [%out], {{%r6, %r8}};"
        );
        assert_eq!(
            run(&body, &Shape::threads(1).out(8), &input()).words(),
            expected,
            "{copy}"
        );
    }
    // Nothing is read where nothing is taken: the address may be anywhere.
    let body =
        format!("{INDEX} cp.async.cg.shared.global [%r3], [%in+65536], 16, 0; cp.async.wait_all;");
    run(&body, &Shape::threads(1), &input());
}

#[test]
fn groups_complete_in_order_and_only_as_many_as_are_waited_for() {
    let copies = "cp.async.ca.shared.global [%r3], [%d2], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r3+16], [%d2+4], 4; cp.async.commit_group;";
    let first = format!(
        "{INDEX} {copies} cp.async.wait_group 1; ld.shared.u32 %r6, [%r3]; st.global.u32 [%out], %r6;"
    );
    assert_eq!(run(&first, &Shape::threads(1), &input()).words(), [1]);
    let second = format!("{INDEX} {copies} cp.async.wait_group 1; ld.shared.u32 %r6, [%r3+16];");
    let thread = "warp 0 lane 0".to_string();
    assert_eq!(
        kind(&second, &Shape::threads(1), &input()),
        Kind::AsyncPending {
            access: Access::Read,
            thread
        }
    );
}

#[test]
fn the_source_is_read_as_late_as_it_could_be() {
    let body = format!(
        "{INDEX} cp.async.ca.shared.global [%r3], [%d2], 4; st.global.u32 [%d2], 99; cp.async.wait_all;
         ld.shared.u32 %r6, [%r3]; st.global.u32 [%out], %r6;"
    );
    assert_eq!(run(&body, &Shape::threads(1), &input()).words(), [99]);
}

#[test]
fn nobody_may_touch_the_destination_meanwhile() {
    let copy =
        format!("{INDEX} cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.commit_group;");
    let shape = Shape::threads(64);
    for (access, then) in [
        (Access::Read, "ld.shared.u32 %r6, [%r3];"),
        (Access::Write, "st.shared.u32 [%r3], 0;"),
        (Access::Write, "cp.async.cg.shared.global [%r3], [%d2], 16;"),
    ] {
        match kind(&format!("{copy} {then}"), &shape, &input()) {
            Kind::AsyncPending { access: found, .. } => assert_eq!(found, access),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_wait_without_a_barrier_shows_the_copy_to_its_thread_alone() {
    let read = |barrier: &str| {
        format!(
            "{INDEX} cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.wait_all; {barrier}
             mov.u32 %r8, 1008; sub.u32 %r8, %r8, %r4; mov.u32 %r9, s; add.u32 %r8, %r8, %r9;
             ld.shared.u32 %r6, [%r8]; st.global.u32 [%d1], %r6;"
        )
    };
    let shape = Shape::threads(64);
    let result = run(&read("bar.sync 0;"), &shape, &input());
    let expected: Vec<u32> = (0..64).map(|n| 4 * (63 - n) * 3 + 1).collect();
    assert_eq!(result.words(), expected);
    for seed in 0..4 {
        let found = violation(&read(""), &shape.clone().seed(seed), &input()).kind;
        assert!(
            matches!(
                found,
                Kind::SharedRace { .. } | Kind::AsyncPending { .. } | Kind::Uninitialised { .. }
            ),
            "{found}"
        );
    }
}

#[test]
fn refilling_a_buffer_needs_a_barrier_behind_its_readers() {
    let kernel = |barrier: &str| {
        format!(
            "{INDEX} cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.wait_all; bar.sync 0;
             mov.u32 %r8, 1008; sub.u32 %r8, %r8, %r4; mov.u32 %r9, s; add.u32 %r8, %r8, %r9; ld.shared.u32 %r6, [%r8];
             {barrier} cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.wait_all;"
        )
    };
    run(&kernel("bar.sync 0;"), &Shape::threads(64), &input());
    for seed in 0..4 {
        let found = kind(&kernel(""), &Shape::threads(64).seed(seed), &input());
        assert!(
            matches!(found, Kind::SharedRace { .. } | Kind::AsyncPending { .. }),
            "{found}"
        );
    }
}

#[test]
fn sizes_are_checked_when_the_kernel_is_loaded() {
    let device = ptx_emulator::Emulator::new(ptx_emulator::Config::default());
    for copy in [
        "cp.async.cg.shared.global [%r3], [%d2], 8;",
        "cp.async.ca.shared.global [%r3], [%d2], 2;",
    ] {
        let error = device
            .load(&common::module(copy))
            .unwrap()
            .kernel("k")
            .err()
            .unwrap();
        assert!(error.token.starts_with("cp.async"), "{error}");
    }
}
