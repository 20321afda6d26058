//! The ways in which kernels cooperate, done right: they stay quiet and give the right result under
//! every seed. And each of them with one thing left out, moved or narrowed: that is found.

#[path = "../common/mod.rs"]
mod common;
mod mbarrier;
mod others;

use common::{Shape, bytes, launch, module};
use ptx_emulator::{Kind, LaunchError};

/// Seeds under which a right program has to stay quiet.
const RIGHT: u64 = 24;
/// Seeds under which a wrong one has to be found; under each of them, unless it says otherwise.
const WRONG: u64 = 12;

/// An idiom: a kernel, what it needs, and what it gives.
struct Idiom<'a> {
    body: String,
    shape: Shape,
    input: Vec<u8>,
    expected: &'a dyn Fn(usize) -> u32,
}

impl Idiom<'_> {
    #[track_caller]
    fn stays_quiet(&self) {
        for seed in 0..RIGHT {
            let shape = self.shape.clone().seed(seed);
            let done = launch(&module(&self.body), &shape, &self.input);
            let words = done
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
                .words();
            let expected: Vec<u32> = (0..words.len()).map(self.expected).collect();
            assert_eq!(words, expected, "seed {seed}");
        }
    }

    /// Replaces the first `right` by `wrong`; the bug has to be found under at least `least` seeds.
    #[track_caller]
    fn breaks_under(&self, least: u64, right: &str, wrong: &str) {
        assert!(self.body.contains(right), "{right}");
        let body = module(&self.body.replacen(right, wrong, 1));
        let mut found = 0;
        for seed in 0..WRONG {
            let shape = self.shape.clone().seed(seed);
            match launch(&body, &shape, &self.input) {
                Ok(_) => {}
                Err(LaunchError::Violation(violation)) => {
                    let expected = matches!(
                        violation.kind,
                        Kind::GlobalRace { .. }
                            | Kind::SharedRace { .. }
                            | Kind::AsyncPending { .. }
                            | Kind::Uninitialised { .. }
                            | Kind::BadBarrier { .. }
                            | Kind::BadMbarrier { .. }
                            | Kind::MbarrierBytes { .. }
                            | Kind::Deadlock { .. }
                    );
                    assert!(expected, "seed {seed}: {violation}");
                    found += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert!(
            found >= least,
            "{right} -> {wrong:?}: found under {found} of {WRONG} seeds"
        );
    }

    #[track_caller]
    fn breaks(&self, right: &str, wrong: &str) {
        self.breaks_under(WRONG, right, wrong);
    }
}

/// `%r1` thread, `%r2` block, `%r3` lane, `%d1 = out + 4 (thread + block * threads)`.
const INDEX: &str = "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %laneid; mov.u32 %r4, %ntid.x; mad.lo.u32 %r5, %r2, %r4, %r1;
    mul.wide.u32 %d0, %r5, 4; add.s64 %d1, %out, %d0; add.s64 %d2, %in, %d0;\n";

#[test]
fn warp_synchronous_reduction() {
    // A tree over 32 words of shared memory, a bar.warp.sync between reads and writes.
    let mut steps = String::new();
    for offset in [16, 8, 4, 2, 1] {
        steps += &format!(
            "setp.lt.u32 %p1, %r3, {offset}; @%p1 ld.shared.u32 %r8, [%r7+{}]; bar.warp.sync -1;
             @%p1 add.u32 %r6, %r6, %r8; @%p1 st.shared.u32 [%r7], %r6; bar.warp.sync {offset:#x};\n",
            4 * offset
        )
        .replace(&format!("bar.warp.sync {offset:#x};"), &format!("bar.warp.sync -1; // {offset}"));
    }
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 16 .b8 s[128]; mov.u32 %r7, s; shl.b32 %r9, %r3, 2; add.u32 %r7, %r7, %r9;
             add.u32 %r6, %r3, 1; st.shared.u32 [%r7], %r6; bar.warp.sync -1; // start
             {steps} ld.shared.u32 %r10, [s]; st.global.u32 [%d1], %r10;"
        ),
        shape: Shape::threads(32),
        input: vec![],
        expected: &|_| 32 * 33 / 2,
    };
    idiom.stays_quiet();
    idiom.breaks("bar.warp.sync -1; // start", "");
    idiom.breaks("bar.warp.sync -1; // 8", "");
    idiom.breaks("bar.warp.sync -1; // 1\n", "");
}

#[test]
fn double_buffered_copies() {
    // Eight tiles of 512 bytes go through two buffers; a copy is under way while another tile is added.
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 16 .b8 s[1024]; mov.u32 %r6, s; shl.b32 %r7, %r1, 4; add.u32 %r7, %r6, %r7; // mine, to write
             shl.b32 %r8, %r1, 2; add.u32 %r8, %r6, %r8; shl.b32 %r9, %r1, 4; cvt.u64.u32 %d3, %r9; add.s64 %d4, %in, %d3; mov.u32 %r10, 0; mov.u32 %r11, 0;
             cp.async.cg.shared.global [%r7], [%d4], 16; cp.async.commit_group;
             L: add.u32 %r12, %r11, 1; setp.ge.u32 %p1, %r12, 8; @%p1 bra N;
             and.b32 %r13, %r12, 1; shl.b32 %r13, %r13, 9; add.u32 %r14, %r7, %r13; mul.wide.u32 %d5, %r12, 512; add.s64 %d6, %d4, %d5;
             cp.async.cg.shared.global [%r14], [%d6], 16;
             N: cp.async.commit_group; cp.async.wait_group 1; bar.sync 0; // filled
             and.b32 %r15, %r11, 1; shl.b32 %r15, %r15, 9; add.u32 %r16, %r8, %r15;
             ld.shared.u32 %r17, [%r16]; add.u32 %r10, %r10, %r17; ld.shared.u32 %r17, [%r16+128]; add.u32 %r10, %r10, %r17;
             bar.sync 0; // read
             add.u32 %r11, %r11, 1; setp.lt.u32 %p2, %r11, 8; @%p2 bra L; st.global.u32 [%d1], %r10;"
        ),
        shape: Shape::threads(32),
        input: bytes(&(0..1024).collect::<Vec<u32>>()),
        expected: &|n| (0..8).map(|tile| 2 * (tile * 128 + n as u32) + 32).sum(),
    };
    idiom.stays_quiet();
    idiom.breaks("bar.sync 0; // filled", "");
    idiom.breaks("bar.sync 0; // read", "");
    idiom.breaks("cp.async.wait_group 1;", "");
    idiom.breaks("cp.async.wait_group 1;", "cp.async.wait_group 2;");
    idiom.breaks("N: cp.async.commit_group;", "N:");
}

#[test]
fn decoupled_look_back_scan() {
    // Each block adds its 32 words, publishes the sum, and adds up the sums of those before it: a
    // status word says 1 for a sum and 2 for a prefix. Tiles are taken by ticket.
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 4 .b8 s[8]; setp.ne.u32 %p1, %r1, 0; @%p1 bra T;
             atom.relaxed.gpu.global.add.u32 %r6, [%in], 1; st.shared.u32 [s], %r6; T: bar.sync 0; // ticket
             ld.shared.u32 %r6, [s]; shl.b32 %r7, %r6, 5; add.u32 %r7, %r7, %r1; mul.wide.u32 %d0, %r7, 4; add.s64 %d1, %out, %d0;
             add.u32 %r8, %r7, 1; mov.u32 %r9, %r8; // value, inclusive sum
             {} shfl.sync.idx.b32 %r10, %r9, 31, 31, -1; // sum of the tile
             mul.wide.u32 %d3, %r6, 16; add.s64 %d3, %d3, %in; add.s64 %d3, %d3, 16; mov.u32 %r11, 0;
             @%p1 bra J; setp.eq.u32 %p2, %r6, 0; @%p2 bra P;
             st.global.u32 [%d3+4], %r10; fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d3], 1;
             mov.u64 %d4, %d3;
             B: add.s64 %d4, %d4, -16;
             S: ld.relaxed.gpu.global.u32 %r12, [%d4]; setp.eq.u32 %p3, %r12, 0; @%p3 bra S; fence.acq_rel.gpu; // seen
             setp.eq.u32 %p4, %r12, 2; @%p4 ld.global.u32 %r13, [%d4+8]; @!%p4 ld.global.u32 %r13, [%d4+4];
             add.u32 %r11, %r11, %r13; @!%p4 bra B;
             P: add.u32 %r14, %r11, %r10; st.global.u32 [%d3+8], %r14; fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d3], 2; // published
             st.shared.u32 [s+4], %r11; J: bar.sync 0; // prefix
             ld.shared.u32 %r11, [s+4]; add.u32 %r9, %r9, %r11; st.global.u32 [%d1], %r9;",
            [1, 2, 4, 8, 16].map(|d| format!("shfl.sync.up.b32 %r15|%p5, %r9, {d}, 0, -1; @%p5 add.u32 %r9, %r9, %r15;")).concat()
        ),
        shape: Shape::threads(32).blocks(6),
        input: bytes(&[0; 28]),
        expected: &|n| (n as u32 + 1) * (n as u32 + 2) / 2,
    };
    idiom.stays_quiet();
    idiom.breaks("T: bar.sync 0;", "T:");
    idiom.breaks("J: bar.sync 0;", "J:");
    idiom.breaks("fence.acq_rel.gpu; // seen", "");
    idiom.breaks("fence.acq_rel.gpu; // seen", "fence.acq_rel.cta;");
    idiom.breaks(
        "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d3], 2;",
        "st.relaxed.gpu.global.u32 [%d3], 2;",
    );
    idiom.breaks(
        "st.relaxed.gpu.global.u32 [%d3], 2;",
        "st.relaxed.cta.global.u32 [%d3], 2;",
    );
    idiom.breaks(
        "st.relaxed.gpu.global.u32 [%d3], 2;",
        "st.global.u32 [%d3], 2;",
    );
}

#[test]
fn stream_k_turns() {
    // Blocks add their parts to the same tile, one after the other: a word in memory says whose turn it is.
    let idiom = Idiom {
        body: format!(
            "{INDEX} setp.ne.u32 %p1, %r1, 0; mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0;
             @%p1 bra J; L: ld.acquire.gpu.global.u32 %r6, [%in]; setp.ne.u32 %p2, %r6, %r2; @%p2 bra L; J: bar.sync 0; // turn
             add.u32 %r7, %r1, %r2; setp.eq.u32 %p3, %r2, 0; @%p3 bra F; ld.global.u32 %r8, [%d1]; add.u32 %r7, %r7, %r8;
             F: st.global.u32 [%d1], %r7; bar.sync 0; // done
             add.u32 %r9, %r2, 1; @!%p1 st.release.gpu.global.u32 [%in], %r9;"
        ),
        shape: Shape::threads(64).blocks(5).out(256),
        input: bytes(&[0]),
        expected: &|n| 5 * n as u32 + 10,
    };
    idiom.stays_quiet();
    idiom.breaks("J: bar.sync 0;", "J:");
    idiom.breaks("bar.sync 0; // done", "");
    idiom.breaks("ld.acquire.gpu", "ld.relaxed.gpu");
    idiom.breaks("ld.acquire.gpu", "ld.acquire.cta");
    idiom.breaks("st.release.gpu", "st.relaxed.gpu");
    idiom.breaks("st.release.gpu", "st.release.cta");
    idiom.breaks("ld.acquire.gpu.global", "ld.global");
}

#[test]
fn spin_lock() {
    // Every thread 0 takes a lock to add to two words.
    let idiom = Idiom {
        body: format!(
            "{INDEX} setp.ne.u32 %p1, %r1, 0; @%p1 bra E;
             L: atom.acquire.gpu.global.cas.b32 %r6, [%in], 0, 1; setp.ne.u32 %p2, %r6, 0; @%p2 bra L;
             ld.global.u32 %r7, [%in+4]; add.u32 %r7, %r7, 1; st.global.u32 [%in+4], %r7;
             atom.release.gpu.global.exch.b32 %r8, [%in], 0; E: st.global.u32 [%d1], 7;"
        ),
        shape: Shape::threads(32).blocks(4),
        input: bytes(&[0, 0]),
        expected: &|_| 7,
    };
    idiom.stays_quiet();
    idiom.breaks("atom.acquire.gpu", "atom.relaxed.gpu");
    idiom.breaks("atom.release.gpu", "atom.relaxed.gpu");
    idiom.breaks("atom.release.gpu", "atom.release.cta");
    idiom.breaks(
        "atom.release.gpu.global.exch.b32 %r8, [%in], 0;",
        "st.global.u32 [%in], 0;",
    );
}

#[test]
fn last_block_adds_up() {
    // Each block writes its part, then counts itself; whoever counts last adds all parts.
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 4 .b8 s[4]; add.s64 %d3, %in, 16; mul.wide.u32 %d0, %r5, 4; add.s64 %d3, %d3, %d0; add.u32 %r6, %r5, 1;
             st.global.u32 [%d3], %r6; bar.sync 0; // all
             setp.ne.u32 %p1, %r1, 0; @%p1 bra J; membar.gl; // mine
             atom.global.inc.u32 %r7, [%in], 3; st.shared.u32 [s], %r7; fence.acq_rel.gpu; J: bar.sync 0; // told
             ld.shared.u32 %r7, [s]; setp.ne.u32 %p2, %r7, 3; @%p2 bra E; mov.u32 %r8, 0; mov.u32 %r9, 0; mul.wide.u32 %d4, %r1, 4; add.s64 %d5, %in, %d4;
             L: ld.global.u32 %r10, [%d5+16]; add.u32 %r8, %r8, %r10; add.s64 %d5, %d5, 128; add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 4; @%p3 bra L;
             mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r8; E:"
        ),
        shape: Shape::threads(32).blocks(4).out(128),
        input: bytes(&[0; 132]),
        expected: &|n| (0..4).map(|block| 32 * block + n as u32 + 1).sum(),
    };
    idiom.stays_quiet();
    // With a fence of each thread before the barrier, the order of `fence.sc` does it: were the last
    // block's fence before theirs, its count would come before the one that it has read.
    let classic = idiom
        .body
        .replacen("bar.sync 0; // all", "membar.gl; bar.sync 0;", 1);
    let classic = classic.replacen("membar.gl; // mine", "", 1);
    Idiom {
        body: classic.replacen("fence.acq_rel.gpu; J:", "membar.gl; J:", 1),
        shape: idiom.shape.clone(),
        input: idiom.input.clone(),
        expected: idiom.expected,
    }
    .stays_quiet();
    idiom.breaks("membar.gl; // mine", "");
    idiom.breaks("membar.gl; // mine", "membar.cta;");
    idiom.breaks("bar.sync 0; // all", "");
    idiom.breaks("J: bar.sync 0; // told", "J:");
    idiom.breaks(
        "st.shared.u32 [s], %r7; fence.acq_rel.gpu;",
        "st.shared.u32 [s], %r7;",
    );
    idiom.breaks(
        "st.shared.u32 [s], %r7; fence.acq_rel.gpu;",
        "st.shared.u32 [s], %r7; fence.acq_rel.cta;",
    );
    idiom.breaks("atom.global.inc", "atom.cta.global.inc");
    idiom.breaks("atom.global.inc", "atom.relaxed.cta.global.inc");
}

#[test]
fn one_fence_behind_a_barrier_speaks_for_the_block() {
    // As above, with the fences of thread 0 alone: what it has met at the barrier, its release passes on.
    let idiom = Idiom {
        body: format!(
            "{INDEX} add.s64 %d3, %in, 16; add.s64 %d3, %d3, %d0; add.u32 %r6, %r5, 1; st.global.u32 [%d3], %r6;
             bar.sync 0; // written
             setp.ne.u32 %p1, %r1, 0; @%p1 bra J; atom.acq_rel.gpu.global.add.u32 %r7, [%in], 1;
             L: ld.acquire.gpu.global.u32 %r7, [%in]; setp.ne.u32 %p2, %r7, 4; @%p2 bra L; J: bar.sync 0; // met
             sub.u32 %r8, 127, %r5; mul.wide.u32 %d4, %r8, 4; add.s64 %d5, %in, %d4; ld.global.u32 %r9, [%d5+16]; st.global.u32 [%d1], %r9;"
        ),
        shape: Shape::threads(32).blocks(4),
        input: bytes(&[0; 132]),
        expected: &|n| 128 - n as u32,
    };
    idiom.stays_quiet();
    idiom.breaks("bar.sync 0; // written", "");
    idiom.breaks("J: bar.sync 0; // met", "J:");
    idiom.breaks("atom.acq_rel.gpu", "atom.relaxed.gpu");
    idiom.breaks("atom.acq_rel.gpu", "atom.acquire.gpu");
    idiom.breaks("ld.acquire.gpu", "ld.relaxed.gpu");
    idiom.breaks("ld.acquire.gpu", "ld.acquire.cta");
}

#[test]
fn tickets() {
    // Who draws a ticket owns its slot.
    let idiom = Idiom {
        body: format!(
            "{INDEX} atom.global.add.u32 %r6, [%in], 1; mul.wide.u32 %d3, %r6, 4; add.s64 %d3, %out, %d3; st.global.u32 [%d3], 9;"
        ),
        shape: Shape::threads(64).blocks(3),
        input: bytes(&[0]),
        expected: &|_| 9,
    };
    idiom.stays_quiet();
    idiom.breaks("atom.global.add.u32 %r6, [%in], 1;", "ld.volatile.global.u32 %r6, [%in]; add.u32 %r7, %r6, 1; st.volatile.global.u32 [%in], %r7;");
    idiom.breaks("atom.global.add.u32", "atom.cta.global.add.u32");
}

#[test]
fn producer_and_consumer_warps() {
    // Warp 0 fills two buffers in turn, warp 1 empties them; barriers 1 and 2 say full, 3 and 4 empty.
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 16 .b8 s[256]; mov.u32 %r6, s; shl.b32 %r7, %r3, 2; add.u32 %r7, %r7, %r6; mov.u32 %r8, 0; mov.u32 %r9, 0;
             setp.ge.u32 %p1, %r1, 32; @%p1 bra C;
             P: and.b32 %r10, %r8, 1; add.u32 %r11, %r10, 1; add.u32 %r12, %r10, 3; setp.lt.u32 %p2, %r8, 2; @%p2 bra G; bar.sync %r12, 64; // empty
             G: shl.b32 %r13, %r10, 7; add.u32 %r14, %r7, %r13; add.u32 %r15, %r8, %r3; st.shared.u32 [%r14], %r15; bar.arrive %r11, 64; // full
             add.u32 %r8, %r8, 1; setp.lt.u32 %p3, %r8, 6; @%p3 bra P; st.global.u32 [%d1], 0; bra E;
             C: and.b32 %r10, %r8, 1; add.u32 %r11, %r10, 1; add.u32 %r12, %r10, 3; bar.sync %r11, 64; // wait
             xor.b32 %r16, %r7, 4; shl.b32 %r13, %r10, 7; add.u32 %r14, %r16, %r13; ld.shared.u32 %r15, [%r14]; add.u32 %r9, %r9, %r15;
             setp.ge.u32 %p2, %r8, 4; @%p2 bra H; bar.arrive %r12, 64; // free
             H: add.u32 %r8, %r8, 1; setp.lt.u32 %p3, %r8, 6; @%p3 bra C; st.global.u32 [%d1], %r9; E:"
        ),
        shape: Shape::threads(64),
        input: vec![],
        expected: &|n| match n {
            0..32 => 0,
            _ => 6 * ((n as u32 - 32) ^ 1) + 15,
        },
    };
    idiom.stays_quiet();
    idiom.breaks("@%p2 bra G; bar.sync %r12, 64; // empty", "");
    idiom.breaks("bar.sync %r11, 64; // wait", "");
    idiom.breaks("bar.arrive %r11, 64; // full", "");
    idiom.breaks("bar.arrive %r12, 64; // free", "");
}
