//! Barriers in shared memory, as `cuda::barrier` and `cuda::pipeline` use them on sm_80.

use super::common::{Shape, bytes};
use super::{INDEX, Idiom};

/// `%r6` is the place of this thread's word in `s`, `%r7` that of its mirror image among 64 threads.
const PLACES: &str = ".shared .align 16 .b8 s[4096]; .shared .align 8 .b64 bar; .shared .align 8 .b64 more[8];
    mov.u32 %r6, s; shl.b32 %r7, %r1, 2; sub.u32 %r8, 252, %r7; add.u32 %r7, %r6, %r8; shl.b32 %r8, %r1, 2; add.u32 %r6, %r6, %r8;\n";

/// Thread 0 initialises `bar` for so many arrivals.
fn init(count: u32) -> String {
    format!(
        "{INDEX} {PLACES} setp.ne.u32 %p9, %r1, 0; @%p9 bra READY; mbarrier.init.shared.b64 [bar], {count};
         READY: bar.sync 0; // initialised\n"
    )
}

#[test]
fn arrive_and_wait() {
    let idiom = Idiom {
        body: format!(
            "{} st.shared.u32 [%r6], %r1; mbarrier.arrive.shared.b64 %d3, [bar];
             WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra WAIT;
             ld.shared.u32 %r9, [%r7]; st.global.u32 [%d1], %r9;",
            init(64)
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| 63 - n as u32,
    };
    idiom.stays_quiet();
    idiom.breaks("bar.sync 0; // initialised", "");
    idiom.breaks("@!%p1 bra WAIT;", "");
    idiom.breaks("[bar], 64;", "[bar], 65;");
    idiom.breaks("[bar], 64;", "[bar], 63;");
    idiom.breaks("[bar], 64;", "[bar], 32;");
    // What comes behind the arrival is not released by it.
    idiom.breaks(
        "st.shared.u32 [%r6], %r1; mbarrier.arrive.shared.b64 %d3, [bar];",
        "mbarrier.arrive.shared.b64 %d3, [bar]; st.shared.u32 [%r6], %r1;",
    );
    idiom.breaks("%p1, [bar], %d3;", "%p1, [bar], %d2;");
    idiom.breaks("mbarrier.init.shared.b64 [bar], 64;", "");
}

#[test]
fn work_between_arrival_and_wait_over_phases() {
    // Two buffers, so that one barrier for each phase is enough.
    let idiom = Idiom {
        body: format!(
            "{} mov.u32 %r10, 0; mov.u32 %r11, 0;
             L: and.b32 %r12, %r10, 1; shl.b32 %r12, %r12, 8; add.u32 %r13, %r6, %r12; add.u32 %r14, %r1, %r10; st.shared.u32 [%r13], %r14;
             mbarrier.arrive.shared.b64 %d3, [bar]; add.u32 %r11, %r11, 1000;
             WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra WAIT; // phase
             add.u32 %r13, %r7, %r12; ld.shared.u32 %r14, [%r13]; add.u32 %r11, %r11, %r14;
             add.u32 %r10, %r10, 1; setp.lt.u32 %p2, %r10, 5; @%p2 bra L; st.global.u32 [%d1], %r11;",
            init(64)
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| 5 * (63 - n as u32) + 10 + 5000,
    };
    idiom.stays_quiet();
    idiom.breaks("@!%p1 bra WAIT; // phase", "");
    // One buffer needs another barrier behind its readers.
    idiom.breaks("shl.b32 %r12, %r12, 8;", "mov.u32 %r12, 0;");
    idiom.breaks(
        "mbarrier.test_wait.shared.b64 %p1, [bar], %d3;",
        "mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0;",
    );
}

#[test]
fn full_and_empty_by_parity() {
    // Warp 0 fills two stages in turn, warp 1 empties them. Barriers 0 and 1 of `more` say full, 2 and 3 empty;
    // the producer starts with the parity of the phase before the first.
    let wait = |label: &str, barrier: &str, parity: &str| {
        format!(
            "{label}: mbarrier.test_wait.parity.shared::cta.b64 %p1, [{barrier}], {parity}; @!%p1 bra {label};"
        )
    };
    let idiom = Idiom {
        body: format!(
            "{INDEX} {PLACES} setp.ne.u32 %p9, %r1, 0; @%p9 bra READY; mov.u32 %r9, more;
             mbarrier.init.shared.b64 [%r9], 32; mbarrier.init.shared.b64 [%r9+8], 32;
             mbarrier.init.shared.b64 [%r9+16], 32; mbarrier.init.shared.b64 [%r9+24], 32; READY: bar.sync 0; // initialised
             mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r20, more; mov.u32 %r6, s; shl.b32 %r7, %r3, 2; add.u32 %r6, %r6, %r7; xor.b32 %r7, %r6, 4;
             setp.ge.u32 %p2, %r1, 32;
             L: and.b32 %r12, %r10, 1; shl.b32 %r13, %r12, 7; shl.b32 %r14, %r12, 3; add.u32 %r14, %r14, %r20; // full
             add.u32 %r15, %r14, 16; shr.u32 %r16, %r10, 1; and.b32 %r16, %r16, 1; xor.b32 %r17, %r16, 1; @%p2 bra C;
             {empty} add.u32 %r18, %r6, %r13; add.u32 %r19, %r10, %r3; st.shared.u32 [%r18], %r19; // fill
             mbarrier.arrive.shared.b64 _, [%r14]; bra N;
             C: {full} add.u32 %r18, %r7, %r13; ld.shared.u32 %r19, [%r18]; add.u32 %r11, %r11, %r19; // use
             mbarrier.arrive.shared.b64 _, [%r15]; // emptied
             N: add.u32 %r10, %r10, 1; setp.lt.u32 %p3, %r10, 7; @%p3 bra L; st.global.u32 [%d1], %r11;",
            empty = wait("WE", "%r15", "%r17"),
            full = wait("WF", "%r14", "%r16"),
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| match n {
            0..32 => 0,
            _ => 7 * ((n as u32 - 32) ^ 1) + 21,
        },
    };
    idiom.stays_quiet();
    idiom.breaks("bar.sync 0; // initialised", "");
    // The first wait of the producer for a buffer that nobody has emptied.
    idiom.breaks("[%r15], %r17;", "[%r15], %r16;");
    // The consumer forgets that parities change.
    idiom.breaks("[%r14], %r16;", "[%r14], 0;");
    idiom.breaks("@!%p1 bra WE;", "");
    idiom.breaks("@!%p1 bra WF;", "");
    idiom.breaks("mbarrier.arrive.shared.b64 _, [%r15]; // emptied", "");
    idiom.breaks("mbarrier.arrive.shared.b64 _, [%r14]; bra N;", "bra N;");
    idiom.breaks(
        "ld.shared.u32 %r19, [%r18]; add.u32 %r11, %r11, %r19; // use\n             mbarrier.arrive.shared.b64 _, [%r15]; // emptied",
        "mbarrier.arrive.shared.b64 _, [%r15]; ld.shared.u32 %r19, [%r18]; add.u32 %r11, %r11, %r19;",
    );
}

/// Threads copy 16 bytes each; the barrier tracks the copies.
fn copies(track: &str, count: u32) -> String {
    format!(
        "{} shl.b32 %r9, %r1, 4; mov.u32 %r10, s; add.u32 %r10, %r10, %r9; cvt.u64.u32 %d3, %r9; add.s64 %d3, %in, %d3;
         cp.async.cg.shared.global [%r10], [%d3], 16; {track} // track
         WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d4; @!%p1 bra WAIT; // landed
         sub.u32 %r11, 1008, %r9; mov.u32 %r10, s; add.u32 %r10, %r10, %r11; ld.shared.u32 %r12, [%r10]; st.global.u32 [%d1], %r12;",
        init(count)
    )
}

fn copied(body: String) -> Idiom<'static> {
    Idiom {
        body,
        shape: Shape::threads(64),
        input: bytes(&(0..256).collect::<Vec<u32>>()),
        expected: &|n| 4 * (63 - n as u32),
    }
}

#[test]
fn copies_that_a_barrier_tracks() {
    // The copies add an arrival of their own, besides the one of the thread.
    let plain = "cp.async.mbarrier.arrive.shared.b64 [bar]; mbarrier.arrive.shared.b64 %d4, [bar];";
    let idiom = copied(copies(plain, 64));
    idiom.stays_quiet();
    idiom.breaks("cp.async.mbarrier.arrive.shared.b64 [bar];", "");
    idiom.breaks("@!%p1 bra WAIT; // landed", "");
    idiom.breaks("[bar], 64;", "[bar], 128;");
    idiom.breaks(
        "cp.async.cg.shared.global [%r10], [%d3], 16; cp.async.mbarrier.arrive.shared.b64 [bar];",
        "cp.async.mbarrier.arrive.shared.b64 [bar]; cp.async.cg.shared.global [%r10], [%d3], 16;",
    );
    // They are counted when the barrier is made.
    let counted =
        "cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; mbarrier.arrive.shared.b64 %d4, [bar];";
    let idiom = copied(copies(counted, 128));
    idiom.stays_quiet();
    idiom.breaks("arrive.noinc", "arrive");
    // Some phase is over before all have landed, or a state is found too old.
    idiom.breaks("[bar], 128;", "[bar], 64;");
    // A barrier of the whole block instead is not one for its copies.
    idiom.breaks(
        "WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d4; @!%p1 bra WAIT; // landed",
        "bar.sync 0;",
    );
}

#[test]
fn copies_for_another_warp() {
    // Warp 0 copies and does nothing else, warp 1 waits and uses: only the barrier tells it.
    let idiom = Idiom {
        body: format!(
            "{} shl.b32 %r9, %r3, 4; mov.u32 %r10, s; add.u32 %r10, %r10, %r9; cvt.u64.u32 %d3, %r9; add.s64 %d3, %in, %d3;
             setp.ge.u32 %p2, %r1, 32; @%p2 bra C; st.global.u32 [%d1], 0;
             cp.async.cg.shared.global [%r10], [%d3], 16; cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; bra E;
             C: mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra C; // landed
             ld.shared.u32 %r12, [%r10+4]; st.global.u32 [%d3+4], 7; st.global.u32 [%d1], %r12; E:",
            init(32)
        ),
        shape: Shape::threads(64),
        input: bytes(&(0..128).collect::<Vec<u32>>()),
        expected: &|n| match n {
            0..32 => 0,
            _ => 4 * (n as u32 - 32) + 1,
        },
    };
    idiom.stays_quiet();
    idiom.breaks("@!%p1 bra C; // landed", "");
    // The thread that has issued a copy has to wait for it like any other.
    idiom.breaks("bra E;\n", "ld.shared.u32 %r13, [%r10]; bra E;\n");
}

#[test]
fn copies_release_nothing_but_themselves() {
    // Warp 0 copies one half and stores the other: for that it has to arrive itself.
    let idiom = Idiom {
        body: format!(
            "{} shl.b32 %r9, %r3, 2; mov.u32 %r10, s; add.u32 %r10, %r10, %r9; cvt.u64.u32 %d3, %r9; add.s64 %d3, %in, %d3;
             setp.ge.u32 %p2, %r1, 32; @%p2 bra C; st.global.u32 [%d1], 0; cp.async.ca.shared.global [%r10], [%d3], 4;
             cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; st.shared.u32 [%r10+128], %r3; mbarrier.arrive.shared.b64 _, [bar]; bra E;
             C: mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra C;
             ld.shared.u32 %r12, [%r10]; ld.shared.u32 %r13, [%r10+128]; add.u32 %r12, %r12, %r13; st.global.u32 [%d1], %r12; E:",
            init(64)
        ),
        shape: Shape::threads(64),
        input: bytes(&(100..132).collect::<Vec<u32>>()),
        expected: &|n| match n {
            0..32 => 0,
            _ => 2 * (n as u32 - 32) + 100,
        },
    };
    idiom.stays_quiet();
    idiom.breaks(
        "st.shared.u32 [%r10+128], %r3; mbarrier.arrive.shared.b64 _, [bar];",
        "mbarrier.arrive.shared.b64 _, [bar]; st.shared.u32 [%r10+128], %r3;",
    );
    idiom.breaks("mbarrier.arrive.shared.b64 _, [bar]; bra E;", "bra E;");
}

#[test]
fn some_leave_early() {
    // Warp 1 takes part in the first phase only.
    let idiom = Idiom {
        body: format!(
            "{} st.shared.u32 [%r6], %r1; st.global.u32 [%d1], 5; setp.ge.u32 %p2, %r1, 32; @%p2 bra LEAVE;
             mbarrier.arrive.shared.b64 %d3, [bar]; WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra WAIT;
             ld.shared.u32 %r9, [%r7]; st.shared.u32 [%r6+1024], %r9; mbarrier.arrive.shared.b64 %d3, [bar];
             AGAIN: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra AGAIN;
             xor.b32 %r10, %r6, 4; ld.shared.u32 %r9, [%r10+1024]; st.global.u32 [%d1], %r9; bra E;
             LEAVE: mbarrier.arrive_drop.shared.b64 %d3, [bar]; E:",
            init(64)
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| match n {
            0..32 => 63 - (n as u32 ^ 1),
            _ => 5,
        },
    };
    idiom.stays_quiet();
    idiom.breaks("mbarrier.arrive_drop", "mbarrier.arrive");
    idiom.breaks(
        "AGAIN: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra AGAIN;",
        "",
    );
    idiom.breaks(
        "LEAVE: mbarrier.arrive_drop.shared.b64 %d3, [bar];",
        "LEAVE:",
    );
}

#[test]
fn several_arrivals_by_one_thread() {
    // Lane 0 of each warp arrives for all of it: as one arrival cannot be many, all but one are of .noComplete.
    let idiom = Idiom {
        body: format!(
            "{} st.shared.u32 [%r6], %r1; bar.warp.sync -1; // warp
             setp.ne.u32 %p2, %r3, 0; @%p2 bra ALL;
             mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 31; mbarrier.arrive.shared.b64 %d3, [bar];
             mbarrier.pending_count.b64 %r13, %d4; setp.gt.u32 %p3, %r13, 31; @!%p3 trap;
             ALL: mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra ALL;
             ld.shared.u32 %r9, [%r7]; st.global.u32 [%d1], %r9;",
            init(64)
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| 63 - n as u32,
    };
    idiom.stays_quiet();
    idiom.breaks("bar.warp.sync -1; // warp", "");
    idiom.breaks(
        "[bar], 31; mbarrier.arrive.shared.b64 %d3, [bar];",
        "[bar], 31;",
    );
    idiom.breaks("[bar], 31;", "[bar], 32;");
    idiom.breaks(
        "pending_count.b64 %r13, %d4;",
        "pending_count.b64 %r13, %d3;",
    );
}

#[test]
fn memory_of_a_barrier_is_used_for_something_else() {
    let idiom = Idiom {
        body: format!(
            "{} mbarrier.arrive.shared.b64 %d3, [bar];
             WAIT: mbarrier.test_wait.shared.b64 %p1, [bar], %d3; @!%p1 bra WAIT; bar.sync 0; // over
             @%p9 bra ON; mbarrier.inval.shared.b64 [bar]; st.shared.u32 [bar+4], 7; ON: bar.sync 0;
             ld.shared.u32 %r9, [bar+4]; st.global.u32 [%d1], %r9;",
            init(64)
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|_| 7,
    };
    idiom.stays_quiet();
    idiom.breaks("mbarrier.inval.shared.b64 [bar];", "");
    idiom.breaks("bar.sync 0; // over", "");
    idiom.breaks(
        "mbarrier.inval.shared.b64 [bar];",
        "mbarrier.init.shared.b64 [bar], 2;",
    );
}
