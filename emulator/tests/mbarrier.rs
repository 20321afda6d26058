//! Barriers in shared memory: counts, phases, states, and what may not be done with them.

mod common;

use common::{Shape, bytes, kind, launch, module, run};
use ptx_emulator::{Access, Config, Emulator, Gpu, Kind, LaunchError};

/// `%r1` thread, `%d1 = out + 4 tid`; thread 0 has initialised `bar` for 3 arrivals.
const THREE: &str = ".shared .align 8 .b64 bar; .shared .align 16 .b8 s[64]; .shared .align 8 .b64 other; mov.u32 %r1, %tid.x;
    mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; setp.ne.u32 %p9, %r1, 0; @%p9 bra READY;
    mbarrier.init.shared.b64 [bar], 3; READY: bar.sync 0;\n";

/// What one thread writes, behind [`THREE`].
fn once(body: &str) -> Vec<u32> {
    let shape = Shape::threads(1).out(16);
    run(&format!("{THREE} {body}"), &shape, &bytes(&[1, 2, 3, 4])).words()
}

fn fault(body: &str) -> Kind {
    kind(
        &format!("{THREE} {body}"),
        &Shape::threads(1).out(16),
        &bytes(&[1, 2, 3, 4]),
    )
}

#[test]
fn phases_complete_when_all_have_arrived() {
    let ask = "mbarrier.test_wait.shared.b64 %p1, [bar], %d3; selp.u32 %r3, 1, 0, %p1; shl.b32 %r2, %r2, 1; or.b32 %r2, %r2, %r3;";
    let parity = |parity: u32, register: u32| {
        format!(
            "mbarrier.test_wait.parity.shared.b64 %p1, [bar], {parity}; selp.u32 %r{register}, 1, 0, %p1;"
        )
    };
    let next = "mbarrier.arrive.shared.b64 %d4, [bar];";
    let body = format!(
        "mov.u32 %r2, 0; mbarrier.arrive.shared.b64 %d3, [bar]; {ask} {} {} {next} {ask} {next} {ask} {ask}
         {} {} mov.b64 %d3, %d4; {next} {ask} mov.b64 %d3, %d4; {ask} {next} {next} {ask}
         st.global.v4.u32 [%out], {{%r2, %r4, %r5, %r6}};",
        parity(0, 4),
        parity(1, 5),
        parity(1, 6),
        parity(0, 7),
    );
    // Of the first phase: no, no, yes, yes; the last arrival belongs to it still; of the second: no, yes.
    // Before: phase 0 is not over, the one before it is. Behind: phase 1 is not.
    assert_eq!(once(&body), [0b001_1101, 0, 1, 0]);
}

#[test]
fn dropping_lowers_what_later_phases_wait_for() {
    let ask = "mbarrier.test_wait.shared.b64 %p1, [bar], %d3; selp.u32 %r3, 1, 0, %p1; shl.b32 %r2, %r2, 1; or.b32 %r2, %r2, %r3;";
    let body = format!(
        "mov.u32 %r2, 0; mbarrier.arrive_drop.shared.b64 %d3, [bar]; mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 1; {ask}
         mbarrier.arrive.shared.b64 %d4, [bar]; {ask} mbarrier.arrive.shared.b64 %d3, [bar]; {ask}
         mbarrier.arrive.shared.b64 %d4, [bar]; {ask}
         mbarrier.arrive_drop.noComplete.shared.b64 %d5, [bar], 1; mbarrier.pending_count.b64 %r4, %d5;
         mbarrier.arrive.shared.b64 %d3, [bar]; {ask} mbarrier.arrive.shared.b64 %d3, [bar]; {ask}
         st.global.v2.u32 [%out], {{%r2, %r4}};"
    );
    assert_eq!(once(&body)[..2], [0b010111, 2]);
}

#[test]
fn pending_counts_are_those_before_the_arrival() {
    let body = "mbarrier.arrive.noComplete.shared.b64 %d3, [bar], 1; mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 1;
        mbarrier.pending_count.b64 %r2, %d3; mbarrier.pending_count.b64 %r3, %d4; st.global.v2.u32 [%out], {%r2, %r3};";
    assert_eq!(once(body)[..2], [3, 2]);
}

#[test]
fn what_arrivals_may_be_written_like() {
    for arrive in [
        "mbarrier.arrive.b64 %d3, [%d5];",
        "mbarrier.arrive.shared::cta.b64 _, [bar];",
        "mbarrier.arrive.release.cta.shared.b64 %d3, [bar];",
        "mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %d3, [bar], 1;",
        "mbarrier.arrive_drop.b64 _, [%d5];",
        "mbarrier.arrive_drop.release.cta.shared.b64 %d3, [bar];",
        "mbarrier.arrive_drop.noComplete.release.cta.shared.b64 %d3, [bar], 1;",
        "cp.async.mbarrier.arrive.noinc.b64 [%d5];",
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r4];",
    ] {
        for wait in ["", ".acquire.cta"] {
            let body = format!(
                "{THREE} mov.u32 %r4, bar; cvt.u64.u32 %d5, %r4; cvta.shared.u64 %d5, %d5; mbarrier.arrive.shared.b64 _, [bar]; {arrive}
                 mbarrier.arrive.shared.b64 %d4, [bar];
                 L: mbarrier.test_wait{wait}.b64 %p1, [%d5], %d4; @!%p1 bra L;
                 M: mbarrier.test_wait.parity{wait}.shared.b64 %p1, [bar], 0; @!%p1 bra M; mbarrier.inval.b64 [%d5]; st.global.u32 [%out], 9;"
            );
            let text = module(&body).replace(".version 7.8", ".version 8.0");
            let done = launch(&text, &Shape::threads(1), &[]);
            let words = done
                .unwrap_or_else(|error| panic!("{arrive}: {error}"))
                .words();
            assert_eq!(words, [9], "{arrive}");
        }
    }
}

#[test]
fn misuse_is_told() {
    let arrive = "mbarrier.arrive.shared.b64 %d3, [bar];";
    for (body, expected) in [
        ("mbarrier.arrive.shared.b64 %d3, [other];", "there is none"),
        ("mbarrier.inval.shared.b64 [other];", "there is none"),
        ("mbarrier.test_wait.parity.shared.b64 %p1, [other], 1;", "there is none"),
        ("cp.async.mbarrier.arrive.shared.b64 [other];", "there is none"),
        ("mbarrier.inval.shared.b64 [bar]; mbarrier.arrive.shared.b64 %d3, [bar];", "there is none"),
        ("mbarrier.init.shared.b64 [bar], 3;", "initialised again"),
        ("mbarrier.init.shared.b64 [other], 0;", "a count of 0"),
        ("mbarrier.init.shared.b64 [other], 1048576;", "a count of 1048576"),
        ("mbarrier.arrive.noComplete.shared.b64 %d3, [bar], 0;", "a count of 0"),
        ("mbarrier.arrive.noComplete.shared.b64 %d3, [bar], 3;", "the last of phase 0"),
        ("mbarrier.arrive.noComplete.shared.b64 %d3, [bar], 4;", "phase 0 waits for 3"),
        ("mbarrier.arrive_drop.noComplete.shared.b64 %d3, [bar], 2; mbarrier.arrive.shared.b64 _, [bar];
          mbarrier.arrive_drop.shared.b64 _, [bar]; mbarrier.arrive.shared.b64 _, [bar];", "phase 2 waits for 0"),
        ("mbarrier.test_wait.parity.shared.b64 %p1, [bar], 2;", "a parity of 2"),
        ("mov.u64 %d4, 12345; mbarrier.test_wait.shared.b64 %p1, [bar], %d4;", "no arrival"),
        (&format!("{arrive} xor.b64 %d3, %d3, 0x100000; mbarrier.test_wait.shared.b64 %p1, [bar], %d3;"), "no arrival"),
        (&format!("mbarrier.init.shared.b64 [other], 3; {arrive} mbarrier.test_wait.shared.b64 %p1, [other], %d3;"), "no arrival"),
        (&format!("{arrive} mbarrier.inval.shared.b64 [bar]; mbarrier.init.shared.b64 [bar], 3; mbarrier.test_wait.shared.b64 %p1, [bar], %d3;"), "no arrival"),
        (&format!("{arrive} {0} {0} {0} {0} {0} mbarrier.test_wait.shared.b64 %p1, [bar], %d3;", "mbarrier.arrive.shared.b64 _, [bar];"), "nor of the one before"),
        (&format!("{arrive} mbarrier.pending_count.b64 %r2, %d3;"), "no arrival with .noComplete"),
        ("cp.async.mbarrier.arrive.shared.b64 [bar]; mbarrier.inval.shared.b64 [bar];", "copies are under way"),
    ] {
        let found = fault(body);
        assert!(matches!(found, Kind::BadMbarrier { .. }), "{body}: {found}");
        assert!(found.to_string().contains(expected), "{body}: {found}");
    }
}

#[test]
fn its_bytes_are_not_data() {
    for (access, body) in [
        (Access::Read, "ld.shared.u32 %r2, [bar];"),
        (Access::Read, "ld.shared.b8 %r2, [bar+7];"),
        (
            Access::Read,
            "cvta.shared.u64 %d3, 1024; ld.u64 %d4, [%d3];",
        ),
        (Access::Write, "st.shared.u64 [bar], 0;"),
        (Access::Write, "mov.u32 %r2, bar; st.shared.u8 [%r2+5], 0;"),
        (Access::Atomic, "atom.shared.add.u32 %r2, [bar], 1;"),
        (Access::Write, "cp.async.ca.shared.global [bar], [%in], 8;"),
        (Access::Read, "ld.relaxed.cta.shared.u32 %r2, [bar];"),
    ] {
        assert_eq!(fault(body), Kind::MbarrierBytes { access }, "{body}");
    }
    // What lies next to it is: `s` of which some bytes share 16 with another object.
    let body = "mbarrier.init.shared.b64 [s+8], 1; st.shared.v2.u32 [s], {5, 6}; st.shared.u32 [s+16], 7; ld.shared.u32 %r2, [s+4];
        mbarrier.arrive.shared.b64 _, [s+8]; ld.shared.u32 %r3, [s+16]; atom.shared.add.u32 %r4, [s], 1;
        st.global.v4.u32 [%out], {%r2, %r3, %r4, %r1};";
    assert_eq!(once(body), [6, 7, 5, 0]);
}

#[test]
fn addresses_are_checked() {
    let space = |body: &str| fault(body).to_string();
    assert!(space("mbarrier.arrive.b64 %d3, [%out];").contains("shared"));
    assert!(matches!(
        fault("mov.u32 %r2, bar; mbarrier.arrive.shared.b64 %d3, [%r2+4];"),
        Kind::Misaligned { bytes: 8, .. }
    ));
    assert!(matches!(
        fault("mov.u32 %r2, bar; mbarrier.arrive.shared.b64 %d3, [%r2+65536];"),
        Kind::OutOfBounds { bytes: 8, .. }
    ));
    for body in [
        "mbarrier.test_wait.shared.b64 %p1, [bar], %d9;",
        "mbarrier.test_wait.parity.shared.b64 %p1, [bar], %r9;",
        "mbarrier.arrive.noComplete.shared.b64 %d3, [bar], %r9;",
        "mbarrier.init.shared.b64 [other], %r9;",
        "mbarrier.pending_count.b64 %r2, %d9;",
        "mbarrier.inval.shared.b64 [%r9];",
    ] {
        assert!(matches!(fault(body), Kind::Uninitialised { .. }), "{body}");
    }
}

#[test]
fn who_waits_for_ever_is_told_at_once() {
    let wait = "L: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra L;";
    let shape = Shape::threads(64);
    for seed in 0..8 {
        // All but one of the warps' threads arrive twice as often as the phase waits for.
        let body = format!(
            "{THREE} setp.ne.u32 %p2, %r1, 5; @%p2 bra W; mbarrier.arrive.shared.b64 %d3, [bar]; {wait} W: bar.sync 0;"
        );
        let found = kind(&body, &shape.clone().seed(seed), &[]);
        assert!(
            matches!(found, Kind::Deadlock { .. }),
            "seed {seed}: {found}"
        );
        let text = found.to_string();
        for part in [
            "warp 0 lanes 0x00000020",
            "phase 0",
            "lacks 2 of 3 arrivals",
        ] {
            assert!(text.contains(part), "seed {seed}: {text}");
        }
    }
    // A wait that gives up is none.
    let body = format!(
        "{THREE} @%p9 bra E; mbarrier.arrive.shared.b64 %d3, [bar]; mov.u32 %r2, 0;
         L: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @%p1 bra E; add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 1000; @%p2 bra L;
         E: st.global.u32 [%d1], 3;"
    );
    assert_eq!(run(&body, &shape, &[]).words(), [3; 64]);
    // One that others end after a long time is none either.
    let body = format!(
        "{THREE} setp.ge.u32 %p2, %r1, 32; @%p2 bra W; @%p9 bra E; mbarrier.arrive.shared.b64 %d3, [bar]; {wait} bra E;
         W: mov.u32 %r2, 0; M: add.u32 %r2, %r2, 1; setp.lt.u32 %p3, %r2, 20000; @%p3 bra M;
         setp.ge.u32 %p3, %r1, 34; @%p3 bra E; mbarrier.arrive.shared.b64 _, [bar]; E: st.global.u32 [%d1], 3;"
    );
    assert_eq!(run(&body, &shape, &[]).words(), [3; 64]);
}

#[test]
fn copies_of_four_bytes_keep_their_own_bytes_only() {
    // Two copies to the same 16 bytes: one lands, the other is still under way; the rest is free.
    let body = "mov.u32 %r2, s; cp.async.ca.shared.global [s], [%in], 4; cp.async.commit_group;
        cp.async.ca.shared.global [s+4], [%in+4], 4; cp.async.commit_group; st.shared.u32 [s+8], 8; cp.async.wait_group 1;
        ld.shared.u32 %r3, [s]; ld.shared.u32 %r4, [s+8];";
    let through = format!("{body} cp.async.wait_all; st.global.v2.u32 [%out], {{%r3, %r4}};");
    assert_eq!(once(&through)[..2], [1, 8]);
    for access in ["st.shared.u32 [s+4], 1;", "ld.shared.u32 %r5, [s+4];"] {
        let found = fault(&format!("{body} {access}"));
        assert!(matches!(found, Kind::AsyncPending { .. }), "{found}");
    }
}

#[test]
fn what_later_architectures_have_is_refused_by_name() {
    let load = |target: &str, instruction: &str| {
        let gpu = if target == "sm_80" {
            Gpu::A100
        } else {
            Gpu::H100
        };
        let device = Emulator::new(Config {
            gpu,
            ..Config::default()
        });
        let text = module(&format!(".shared .align 8 .b64 bar; {instruction}"))
            .replace("7.8", "8.6")
            .replace("sm_80", target);
        device.load(&text)?.kernel("k").map(|_| ())
    };
    for (instruction, reason) in [
        (
            "mbarrier.arrive.shared.b64 %d1, [bar], 2;",
            "needs sm_90 and PTX 7.8",
        ),
        (
            "mbarrier.arrive_drop.shared.b64 %d1, [bar], %r2;",
            "needs sm_90 and PTX 7.8",
        ),
        ("fence.acquire.gpu;", "needs sm_90 and PTX 8.6"),
        ("fence.release.cta;", "needs sm_90 and PTX 8.6"),
    ] {
        let error = load("sm_80", instruction).unwrap_err();
        assert!(error.message.contains(reason), "{instruction}: {error}");
        load("sm_90", instruction).unwrap();
    }
    for (instruction, token) in [
        ("mbarrier.try_wait.shared.b64 %p1, [bar], %d1;", "try_wait"),
        (
            "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 4;",
            "expect_tx",
        ),
        (
            "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 4;",
            "complete_tx",
        ),
        (
            "mbarrier.arrive.expect_tx.shared.b64 %d1, [bar], 4;",
            "expect_tx",
        ),
        (
            "mbarrier.arrive.release.cluster.shared.b64 %d1, [bar];",
            "cluster",
        ),
        (
            "mbarrier.arrive.relaxed.cta.shared.b64 %d1, [bar];",
            "relaxed",
        ),
        (
            "mbarrier.test_wait.relaxed.cta.shared.b64 %p1, [bar], %d1;",
            "relaxed",
        ),
    ] {
        let error = load("sm_80", instruction).unwrap_err();
        assert_eq!(error.token, token, "{instruction}: {error}");
    }
    for wrong in [
        "mbarrier.arrive.noComplete.shared.b64 %d1, [bar];",
        "mbarrier.init.shared.u64 [bar], 1;",
        "mbarrier.test_wait.parity.shared.b64 %p1, [bar], %d1;",
    ] {
        assert!(load("sm_80", wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_seed_gives_other_states() {
    let body = format!("{THREE} mbarrier.arrive.shared.b64 %d3, [bar]; st.global.u64 [%out], %d3;");
    let state = |seed| {
        let shape = Shape::threads(1).out(8).seed(seed);
        match launch(&module(&body), &shape, &[]) {
            Ok(run) => run.words(),
            Err(LaunchError::Violation(violation)) => panic!("{violation}"),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(state(1), state(1));
    assert_ne!(state(1), state(2));
}
