//! Forms of instructions that compilers seldom write.

mod common;

use common::{Shape, bytes, kind, run};
use ptx_emulator::Kind;

const LANE: &str =
    "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %out, %d0; add.u64 %d2, %in, %d0;";

fn words(body: &str, shape: &Shape) -> Vec<u32> {
    let input: Vec<u32> = (0..128).collect();
    run(&format!("{LANE} {body}"), shape, &bytes(&input)).words()
}

#[test]
fn movmatrix_transposes() {
    // Element (row, column) is 8 row + column.
    let body = "mul.lo.u32 %r1, %r0, 0x20002; add.u32 %r1, %r1, 0x10000;
        movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; st.global.u32 [%d1], %r2;";
    let got = words(body, &Shape::threads(32));
    for lane in 0..32u32 {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        let element = |row: u32, column: u32| 8 * row + column;
        let expected = element(column, row) | element(column + 1, row) << 16;
        assert_eq!(got[lane as usize], expected, "lane {lane}");
    }
}

#[test]
fn reductions_over_the_threads_of_a_barrier() {
    // Two of three warps count, and then all of them, with and without `.aligned`.
    for name in ["bar.red", "barrier.red", "barrier.cta.red"] {
        let aligned = if name == "bar.red" { "" } else { ".aligned" };
        for aligned in ["", aligned] {
            let body = format!(
                "and.b32 %r1, %r0, 7; setp.eq.u32 %p0, %r1, 0; setp.lt.u32 %p1, %r0, 64; mov.u32 %r3, 0;
                 @!%p1 bra ALL; {name}.popc{aligned}.u32 %r3, 1, 64, %p0;
                 ALL: {name}.or{aligned}.pred %p2, 2, 96, !%p1; selp.u32 %r4, 100, 0, %p2;
                 {name}.popc{aligned}.u32 %r5, 3, %p0; add.u32 %r3, %r3, %r4; mad.lo.u32 %r3, %r5, 1000, %r3;
                 st.global.u32 [%d1], %r3;"
            );
            let got = words(&body, &Shape::threads(96));
            let expected = |thread: usize| 12_100 + if thread < 64 { 8 } else { 0 };
            assert_eq!(
                got,
                (0..96).map(expected).collect::<Vec<_>>(),
                "{name}{aligned}"
            );
        }
    }
    let body = format!("{LANE} setp.eq.u32 %p0, %r0, 0; bar.red.popc.u32 %r1, 1, 33, %p0;");
    assert!(matches!(
        kind(&body, &Shape::threads(64), &[0; 512]),
        Kind::BadBarrier { .. }
    ));
}

#[test]
fn hints_have_no_effect_and_accesses_of_devices_do() {
    let body = "createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %d3, 0.5;
        createpolicy.range.global.L2::evict_last.b64 %d4, [%d2], 64, 128;
        createpolicy.cvt.L2.b64 %d5, 0x14F0000000000000; pmevent 3; pmevent.mask 5;
        prefetch.global.L2 [%d2]; prefetch.global.L2::evict_last [%d2]; prefetchu.L1 [%d2];
        applypriority.global.L2::evict_normal [%in], 128;
        ld.global.L2::cache_hint.u32 %r1, [%d2], %d4; ld.mmio.relaxed.sys.global.u32 %r2, [%d2];
        add.u32 %r1, %r1, %r2; st.mmio.relaxed.sys.u32 [%d1], %r1;";
    let text = common::module(&format!("{LANE} {body}")).replace(".version 7.8", ".version 8.2");
    let input: Vec<u32> = (0..128).collect();
    let got = common::launch(&text, &Shape::threads(32), &bytes(&input)).unwrap();
    assert_eq!(got.words(), (0..32).map(|n| 2 * n).collect::<Vec<_>>());
}

#[test]
fn what_is_discarded_is_unknown() {
    // Each lane discards the first of its two rows of 128 bytes: the other one stays.
    let body = |then: &str| {
        format!(
            "mul.wide.u32 %d3, %r0, 256; add.u64 %d3, %in, %d3; discard.global.L2 [%d3], 128; discard.L2 [%d3], 128;
             ld.global.u32 %r1, [%d3+{then}"
        )
    };
    let input = bytes(&(0..2048).collect::<Vec<u32>>());
    let go = |body: &str| format!("{LANE} {body}");
    let kept = go(&body("128]; st.global.u32 [%d1], %r1;"));
    let expected: Vec<u32> = (0..32).map(|n| 64 * n + 32).collect();
    assert_eq!(run(&kept, &Shape::threads(32), &input).words(), expected);
    for offset in [0, 4, 124] {
        let used = go(&body(&format!(
            "{offset}]; setp.eq.u32 %p1, %r1, 0; @%p1 bra E; E:"
        )));
        let found = kind(&used, &Shape::threads(32), &input);
        assert!(matches!(found, Kind::Uninitialised { .. }), "{found}");
    }
    // It is a weak write: it races, and it has to be in bounds and aligned.
    let found = kind(
        &go("discard.global.L2 [%in], 128;"),
        &Shape::threads(64),
        &input,
    );
    assert!(matches!(found, Kind::GlobalRace { .. }), "{found}");
    let one = Shape::threads(1);
    let found = kind(&go("discard.global.L2 [%in+64], 128;"), &one, &input);
    assert!(
        matches!(found, Kind::Misaligned { bytes: 128, .. }),
        "{found}"
    );
    let found = kind(&go("discard.global.L2 [%in+8192], 128;"), &one, &input);
    assert!(matches!(found, Kind::OutOfBounds { .. }), "{found}");
    let found = kind(
        &go("cvta.shared.u64 %d3, 1024; discard.L2 [%d3], 128;"),
        &one,
        &input,
    );
    assert!(matches!(found, Kind::WrongSpace { .. }), "{found}");
}

#[test]
fn the_number_of_the_grid_has_64_bits() {
    let body = "mov.u64 %d3, %gridid; mov.u32 %r1, %gridid; mov.b64 {%r2, %r3}, %d3; sub.u32 %r1, %r1, %r2;
        or.b32 %r1, %r1, %r3; st.global.u32 [%d1], %r1;";
    assert_eq!(words(body, &Shape::threads(32)), [0; 32]);
}

#[test]
fn strong_stores_of_all_lanes_to_one_place() {
    for order in ["volatile", "relaxed.gpu", "relaxed.cta", "release.gpu"] {
        for seed in 0..8 {
            // The same value from all lanes, and another from each.
            let body = format!(
                "mov.u32 %r1, 5; st.{order}.global.u32 [%out], %r1; ld.volatile.global.u32 %r2, [%out];
                 add.u32 %r3, %r0, 100; st.{order}.global.u32 [%out+4], %r3; st.global.u32 [%d1+8], %r2;"
            );
            let got = words(&body, &Shape::threads(32).out(136).seed(seed));
            assert_eq!(got[0], 5, "{order}, seed {seed}");
            assert!((100..132).contains(&got[1]), "{order}, seed {seed}");
            assert_eq!(got[2..], [5; 32], "{order}, seed {seed}");
        }
    }
}
