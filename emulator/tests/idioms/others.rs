//! What kernels of other projects rely on, in small.

use super::common::{Shape, bytes, launch, module};
use super::{INDEX, Idiom};

/// Blocks add their parts to the same words in turn. Who is done counts a lock on; the last one resets it by
/// a plain store, which comes after all counting because its block has read the last count.
fn turns(reset: &str) -> Idiom<'static> {
    Idiom {
        body: format!(
            "{INDEX} setp.ne.u32 %p1, %r1, 0; mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0;
             @%p1 bra J; L: ld.acquire.gpu.global.u32 %r6, [%in]; setp.ne.u32 %p2, %r6, %r2; @%p2 bra L; J: bar.sync 0; // turn
             add.u32 %r7, %r1, %r2; setp.eq.u32 %p3, %r2, 0; @%p3 bra F; ld.global.u32 %r8, [%d1]; add.u32 %r7, %r7, %r8;
             F: st.global.u32 [%d1], %r7; bar.sync 0; // done
             setp.eq.u32 %p4, %r2, 4; @%p4 bra RESET; @%p1 bra E; fence.acq_rel.gpu; red.relaxed.gpu.global.add.s32 [%in], 1; bra E;
             RESET: {reset} E:"
        ),
        shape: Shape::threads(64).blocks(5).out(256),
        input: bytes(&[0]),
        expected: &|n| 5 * n as u32 + 10,
    }
}

#[test]
fn a_lock_that_the_last_block_resets_by_a_plain_store() {
    let idiom = turns("@%p1 bra E; mov.u32 %r9, 0; st.global.u32 [%in], %r9;");
    idiom.stays_quiet();
    idiom.breaks("fence.acq_rel.gpu; red.relaxed", "red.relaxed");
    idiom.breaks(
        "fence.acq_rel.gpu; red.relaxed",
        "fence.acq_rel.cta; red.relaxed",
    );
    idiom.breaks("red.relaxed.gpu", "red.relaxed.cta");
    idiom.breaks("ld.acquire.gpu", "ld.relaxed.gpu");
    idiom.breaks("ld.acquire.gpu", "ld.acquire.cta");
    idiom.breaks("@%p2 bra L; J:", "J:");
    // Another thread of the block knows by the barrier that its first one has read the count.
    let other = "setp.ne.u32 %p5, %r1, 37; @%p5 bra E; mov.u32 %r9, 0; st.global.u32 [%in], %r9;";
    let idiom = turns(other);
    idiom.stays_quiet();
    idiom.breaks("J: bar.sync 0; // turn", "J:");
    // So may the word be read by a plain load.
    turns("@%p1 bra E; ld.global.u32 %r9, [%in]; setp.ne.u32 %p5, %r9, 4; @%p5 trap;")
        .stays_quiet();
}

#[test]
fn locks_side_by_side() {
    // Each pair of blocks has a lock of its own, next to that of the other pair: that one is reset by a plain store
    // says nothing of its neighbour.
    let idiom = Idiom {
        body: format!(
            "{INDEX} shr.u32 %r6, %r2, 1; mul.wide.u32 %d3, %r6, 4; add.s64 %d4, %in, %d3; add.s64 %d5, %d4, 64; and.b32 %r7, %r2, 1; setp.eq.u32 %p1, %r7, 1; mov.u32 %r9, 7; mov.u32 %r10, 0; @%p1 bra READ;
             st.global.u32 [%d5], %r9; fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%d4], 1; bra E;
             READ: ld.acquire.gpu.global.u32 %r8, [%d4]; setp.eq.u32 %p2, %r8, 0; @%p2 bra READ; ld.global.u32 %r9, [%d5]; st.global.u32 [%d4], %r10; E: st.global.u32 [%d1], %r9;"
        ),
        shape: Shape::threads(1).blocks(16),
        input: bytes(&[0; 64]),
        expected: &|_| 7,
    };
    idiom.stays_quiet();
    idiom.breaks("fence.acq_rel.gpu; red", "red");
    idiom.breaks("ld.acquire", "ld.relaxed");
}

#[test]
fn the_last_stage_is_read_once_more_before_sums_are_written_over_it() {
    // What the second ldmatrix brings is used by nobody, but it is a read of what others write then.
    let idiom = Idiom {
        body: format!(
            "{INDEX} .shared .align 16 .b8 s[1024]; mov.u32 %r6, s; shl.b32 %r7, %r1, 4; add.u32 %r7, %r6, %r7; st.shared.v4.u32 [%r7], {{%r1, %r1, %r1, %r1}}; bar.sync 0;
             shl.b32 %r8, %r3, 4; add.u32 %r8, %r6, %r8; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r8];
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r14, %r15, %r16, %r17}}, [%r8+512]; bar.sync 0; // read
             xor.b32 %r9, %r7, 512; st.shared.u32 [%r9], %r10; bar.sync 0; ld.shared.u32 %r18, [%r7]; st.global.u32 [%d1], %r18;"
        ),
        shape: Shape::threads(64),
        input: vec![],
        // Word `lane % 4` of row `lane / 4` of the first 32, which all say the row's number, written by the
        // thread 32 from here.
        expected: &|n| n as u32 % 32 / 4,
    };
    idiom.stays_quiet();
    idiom.breaks("bar.sync 0; // read", "");
}

/// Block 0 publishes a value and that it is there in one store of 8 bytes; block 1 waits and adds 1000.
fn published(store: &str, load: &str) -> Vec<u32> {
    let body = format!(
        "{INDEX} setp.eq.u32 %p1, %r2, 1; mov.u32 %r6, 7; mov.u32 %r7, 1; @%p1 bra READ; mov.b64 %d3, {{%r6, %r7}}; {store}; bra E;
         READ: {load}; setp.eq.u32 %p2, %r9, 0; @%p2 bra READ; st.global.u32 [%out], %r8; E:"
    );
    let value = |seed| {
        let shape = Shape::threads(1).blocks(2).out(4).seed(seed);
        let done = launch(&module(&body), &shape, &[0; 8]);
        done.unwrap_or_else(|error| panic!("{error}")).words()[0]
    };
    (0..200).map(value).collect()
}

#[test]
fn a_vector_is_several_accesses_and_a_word_of_64_bits_is_one() {
    let word = published(
        "st.relaxed.gpu.global.b64 [%in], %d3",
        "ld.relaxed.gpu.global.b64 %d4, [%in]; mov.b64 {%r8, %r9}, %d4",
    );
    assert!(word.iter().all(|value| *value == 7));
    // As the elements of a vector come in any order, what says that the value is there may come first.
    let vector = published(
        "st.relaxed.gpu.global.v2.u32 [%in], {%r6, %r7}",
        "ld.relaxed.gpu.global.v2.u32 {%r8, %r9}, [%in]",
    );
    assert!(vector.contains(&7) && vector.contains(&0), "{vector:?}");
}
