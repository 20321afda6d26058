//! What works but should not be relied on: warnings, and orders that the seed draws.

mod common;

use std::collections::BTreeSet;

use common::{Shape, bytes, run};
use ptx_emulator::{Warning, WarningKind};

fn warnings(body: &str, threads: u32) -> Vec<Warning> {
    run(body, &Shape::threads(threads), &bytes(&[1; 64]))
        .stats
        .warnings
}

#[test]
fn copies_that_nobody_waits_for_are_told() {
    let copy = |behind: &str| {
        format!(
            ".shared .align 16 .b8 s[64]; mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 5; @%p1 bra E;
             cp.async.ca.shared.global [s], [%in], 16; cp.async.commit_group; {behind} E:"
        )
    };
    let found = warnings(&copy(""), 64);
    assert_eq!(found.len(), 1, "{found:?}");
    let [
        Warning {
            kind,
            warp,
            lanes,
            count,
            ..
        },
    ] = found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!(kind, WarningKind::PendingCopies);
    assert_eq!((warp, lanes, count), (0, 1 << 5, 1));
    assert!(found[0].to_string().contains("lanes 0x00000020; 1 times"));
    assert_eq!(warnings(&copy("cp.async.wait_all;"), 64), []);
    assert_eq!(warnings(&copy("cp.async.wait_group 0;"), 64), []);
}

#[test]
fn aligned_instructions_reached_from_different_branches_are_told() {
    let kinds = |instruction: &str, branch: &str, converged: bool| {
        let body = format!(
            ".shared .align 16 .b8 s[512]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 4; mov.u32 %r3, s; add.u32 %r3, %r3, %r2;
             st.shared.v4.u32 [%r3], {{%r1, %r1, %r1, %r1}}; bar.warp.sync -1; setp.lt.u32 %p1, %r1, 7;
             {}", branch.replace("HERE", instruction)
        );
        let mut shape = Shape::threads(32);
        shape.config.checks.converged = converged;
        let found = run(&body, &shape, &bytes(&[1; 64])).stats.warnings;
        found
            .iter()
            .map(|found| (found.kind, found.lanes))
            .collect::<Vec<_>>()
    };
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r3];";
    let joined = "@%p1 bra A; add.u32 %r9, %r1, 1; A: HERE";
    let apart = "@%p1 bra A; J: HERE bra E; A: add.u32 %r9, %r1, 1; bra J; E:";
    let told = [(WarningKind::NotConverged, !0x7f)];
    assert_eq!(kinds(load, joined, true), []);
    assert_eq!(kinds(load, apart, true), told);
    assert_eq!(kinds("bar.sync 0;", apart, true), told);
    assert_eq!(kinds(load, apart, false), []);
    // `shfl.sync` and `barrier.sync` are there for lanes that come one by one.
    assert_eq!(
        kinds("shfl.sync.bfly.b32 %r8, %r1, 1, 31, -1;", apart, true),
        []
    );
    assert_eq!(kinds("barrier.sync 0;", apart, true), []);
}

#[test]
fn lanes_of_one_atomic_take_effect_in_every_order() {
    for place in ["global", "shared"] {
        let address = if place == "global" { "%in" } else { "s" };
        let body = format!(
            ".shared .align 16 .b8 s[16]; mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [s], 0;
             bar.warp.sync 15; atom.{place}.add.u32 %r2, [{address}], 1;
             mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r2;"
        );
        let mut first = BTreeSet::new();
        let mut reversed = false;
        for seed in 0..64 {
            let order = run(&body, &Shape::threads(4).seed(seed), &bytes(&[0])).words();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3], "seed {seed}");
            reversed |= order == [3, 2, 1, 0];
            first.insert(order.iter().position(|old| *old == 0));
        }
        assert_eq!(
            first.len(),
            4,
            "{place}: every lane comes first under some seed"
        );
        assert!(reversed, "{place}: under 64 seeds, one of 24 orders");
    }
}
