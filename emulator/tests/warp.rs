//! Lanes of a warp: divergence, and exchanges between them.

mod common;

use common::{Shape, kind, run, violation};
use ptx_emulator::Kind;

/// `%d1 = out + 4 tid`, `%r1 = tid`.
const INDEX: &str = "mov.u32 %r1, %tid.x; mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0;";

fn words(body: &str, threads: u32) -> Vec<u32> {
    run(
        &format!("{INDEX} {body} st.global.u32 [%d1], %r9;"),
        &Shape::threads(threads),
        &[],
    )
    .words()
}

fn expect(body: &str, lane: impl Fn(u32) -> u32) {
    let expected: Vec<u32> = (0..32).map(lane).collect();
    assert_eq!(words(body, 32), expected, "{body}");
}

#[test]
fn shuffles_move_values_within_their_segments() {
    expect("shfl.sync.bfly.b32 %r9, %r1, 5, 31, -1;", |lane| lane ^ 5);
    expect("shfl.sync.idx.b32 %r9, %r1, 7, 31, -1;", |_| 7);
    expect("shfl.sync.up.b32 %r9, %r1, 3, 0, -1;", |lane| {
        if lane < 3 { lane } else { lane - 3 }
    });
    expect("shfl.sync.down.b32 %r9, %r1, 3, 31, -1;", |lane| {
        if lane > 28 { lane } else { lane + 3 }
    });
    // Segments of 8 lanes: mask 0b11000 in bits 8 to 12, and the last lane of a segment as the clamp.
    expect("shfl.sync.idx.b32 %r9, %r1, 2, 0x1807, -1;", |lane| {
        lane / 8 * 8 + 2
    });
    expect("shfl.sync.down.b32 %r9, %r1, 1, 0x1807, -1;", |lane| {
        if lane % 8 == 7 { lane } else { lane + 1 }
    });
    expect("shfl.sync.up.b32 %r9, %r1, 1, 0x1800, -1;", |lane| {
        if lane % 8 == 0 { lane } else { lane - 1 }
    });
    // The predicate says whether the source was in range.
    expect(
        "shfl.sync.down.b32 %r8|%p0, %r1, 3, 31, -1; selp.u32 %r9, 1, 0, %p0;",
        |lane| u32::from(lane <= 28),
    );
    expect(
        "and.b32 %r2, %r1, 1; shfl.sync.idx.b32 %r9, %r1, %r2, 31, -1;",
        |lane| lane & 1,
    );
}

#[test]
fn votes_matches_and_reductions() {
    expect(
        "setp.lt.u32 %p0, %r1, 5; vote.sync.ballot.b32 %r9, %p0, -1;",
        |_| 31,
    );
    expect(
        "setp.lt.u32 %p0, %r1, 5; vote.sync.ballot.b32 %r9, !%p0, -1;",
        |_| !31,
    );
    expect(
        "setp.lt.u32 %p0, %r1, 5; vote.sync.any.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;",
        |_| 1,
    );
    expect(
        "setp.lt.u32 %p0, %r1, 5; vote.sync.all.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;",
        |_| 0,
    );
    expect(
        "setp.lt.u32 %p0, %r1, 99; vote.sync.uni.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;",
        |_| 1,
    );
    expect(
        "and.b32 %r2, %r1, 3; match.any.sync.b32 %r9, %r2, -1;",
        |lane| 0x1111_1111 << (lane & 3),
    );
    expect("match.all.sync.b32 %r9|%p0, %r1, -1;", |_| 0);
    expect("redux.sync.add.u32 %r9, %r1, -1;", |_| 496);
    expect(
        "sub.s32 %r2, %r1, 9; redux.sync.min.s32 %r9, %r2, -1;",
        |_| -9i32 as u32,
    );
    expect("redux.sync.xor.b32 %r9, %r1, -1;", |_| 0);
    expect("redux.sync.max.u32 %r9, %r1, -1;", |_| 31);
}

#[test]
fn lanes_diverge_and_meet_again() {
    // Both sides of a branch, nested; then all lanes are together for a shuffle.
    let body = "mov.u32 %r9, 0; setp.lt.u32 %p0, %r1, 10; @%p0 bra A;
        add.u32 %r9, %r9, 100; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; @%p1 bra B; add.u32 %r9, %r9, 10; B: bra C;
        A: add.u32 %r9, %r9, 1; C: shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1;";
    expect(body, |lane| {
        let other = lane ^ 1;
        if other < 10 {
            1
        } else {
            100 + 10 * (other & 1)
        }
    });
    // Each lane loops as often as its number says.
    let body = "mov.u32 %r9, 0; mov.u32 %r2, 0; L: setp.ge.u32 %p0, %r2, %r1; @%p0 bra E;
        add.u32 %r9, %r9, %r2; add.u32 %r2, %r2, 1; bra L; E: bar.warp.sync -1;";
    expect(body, |lane| lane * lane.wrapping_sub(1) / 2);
    expect(
        "mov.u32 %r9, 7; setp.gt.u32 %p0, %r1, 3; @%p0 st.global.u32 [%d1], 8; @%p0 exit; mov.u32 %r9, 9;",
        |lane| {
            if lane > 3 { 8 } else { 9 }
        },
    );
}

#[test]
fn indexed_branches_go_where_the_table_says() {
    let body = "and.b32 %r2, %r1, 3; T: .branchtargets A, B, C, A; brx.idx %r2, T;
        A: mov.u32 %r9, 1; bra E; B: mov.u32 %r9, 2; bra E; C: mov.u32 %r9, 3; E:";
    expect(body, |lane| [1, 2, 3, 1][lane as usize & 3]);
    let beyond = "T: .branchtargets A, B; brx.idx %r1, T; A: B:";
    assert!(matches!(
        kind(&format!("{INDEX} {beyond}"), &Shape::threads(3), &[]),
        Kind::BadOperand(_)
    ));
}

#[test]
fn a_spin_lock_between_lanes_of_a_warp_ends() {
    let body = ".shared .align 4 .b32 lock[2]; setp.ne.u32 %p0, %r1, 0; @%p0 bra S; st.shared.u32 [lock], 0; st.shared.u32 [lock+4], 0;
        S: bar.sync 0;
        L: atom.shared.cas.b32 %r2, [lock], 0, 1; setp.ne.u32 %p1, %r2, 0; @%p1 bra L;
        atom.shared.add.u32 %r9, [lock+4], 1; atom.shared.exch.b32 %r3, [lock], 0; bar.warp.sync -1;";
    let mut seen = words(body, 32);
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<u32>>());
}

#[test]
fn collectives_wait_for_lanes_that_come_by_another_way() {
    // The two halves come to the same shuffle one after the other.
    let body =
        "mov.u32 %r9, %r1; setp.lt.u32 %p0, %r1, 16; @%p0 bra A; add.u32 %r9, %r9, 100; bra B;
        A: add.u32 %r9, %r9, 200; B: shfl.sync.bfly.b32 %r9, %r9, 16, 31, -1;";
    expect(body, |lane| if lane < 16 { lane + 116 } else { lane + 184 });
    // Half masks: each half goes its own way.
    let body = "setp.lt.u32 %p0, %r1, 16; @%p0 bra A; shfl.sync.idx.b32 %r9, %r1, 20, 31, 0xffff0000; bra B;
        A: shfl.sync.idx.b32 %r9, %r1, 3, 31, 0xffff; B:";
    expect(body, |lane| if lane < 16 { 3 } else { 20 });
}

#[test]
fn lanes_that_cannot_arrive_are_named() {
    let exited = "setp.gt.u32 %p0, %r1, 7; @%p0 exit; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;";
    let found = kind(&format!("{INDEX} {exited}"), &Shape::threads(32), &[]);
    assert!(
        matches!(
            found,
            Kind::LanesMissing {
                missing: 0xffff_ff00,
                ..
            }
        ),
        "{found}"
    );
    let elsewhere =
        "setp.gt.u32 %p0, %r1, 7; @%p0 bra A; shfl.sync.idx.b32 %r9, %r1, 1, 31, -1; bra B;
        A: shfl.sync.idx.b32 %r9, %r1, 2, 31, -1; B:";
    let found = kind(&format!("{INDEX} {elsewhere}"), &Shape::threads(32), &[]);
    assert!(matches!(found, Kind::LanesMissing { .. }), "{found}");
    let mask = "shfl.sync.bfly.b32 %r9, %r1, 1, 31, 0xfffffff0;";
    let found = kind(&format!("{INDEX} {mask}"), &Shape::threads(32), &[]);
    assert_eq!(found, Kind::NotInMask { mask: 0xffff_fff0 });
}

#[test]
fn a_shuffle_from_a_lane_outside_of_the_mask_is_uninitialised() {
    let body = "setp.gt.u32 %p0, %r1, 15; @%p0 bra E; shfl.sync.idx.b32 %r9, %r1, 20, 31, 0xffff; st.global.u32 [%d1], %r9; E:";
    let result = run(&format!("{INDEX} {body}"), &Shape::threads(32).out(64), &[]);
    assert!(!result.initialised);
}

#[test]
fn endless_loops_and_failed_assertions_end_the_launch() {
    assert!(matches!(
        kind("L: bra L;", &Shape::threads(1), &[]),
        Kind::Budget(_)
    ));
    let found = violation(
        "mov.u32 %r1, %tid.x; setp.eq.u32 %p0, %r1, 33; @%p0 trap;",
        &Shape::threads(64),
        &[],
    );
    assert_eq!((found.kind, found.warp, found.lanes), (Kind::Trap, 1, 2));
}

#[test]
fn functions_are_called_with_parameters() {
    let ptx = common::module(
        "{ .param .b32 a; .param .b32 r; st.param.b32 [a], 20; call.uni (r), twice, (a); ld.param.b32 %r1, [r]; }
         { .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call (r), twice, (a); ld.param.b32 %r1, [r]; }
         st.global.u32 [%out], %r1;",
    )
    .replace(
        ".visible .entry",
        ".func (.param .b32 res) twice(.param .b32 x)\n{ .reg .b32 %r<3>; .reg .pred %p<2>; ld.param.b32 %r1, [x];
         setp.gt.s32 %p1, %r1, 30; @%p1 bra BIG; add.s32 %r2, %r1, %r1; st.param.b32 [res], %r2; ret;
         BIG: add.s32 %r2, %r1, 2; st.param.b32 [res], %r2; ret; }\n.visible .entry",
    );
    let result =
        common::launch(&ptx, &Shape::threads(1), &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(result.words(), [42]);
}
