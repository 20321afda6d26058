//! Loads and stores of all spaces, and what they must not do.

mod common;

use common::{Shape, bytes, kind, run};
use ptx_emulator::{Access, Kind, Space};

/// `%d1 = out + 4 * tid`, `%d2 = in + 4 * tid`, `%r1 = tid`.
const INDEX: &str = "mov.u32 %r1, %tid.x; add.u32 %r2, %r1, %r1; add.u32 %r2, %r2, %r2;
    mov.b64 %d0, {%r2, 0}; add.s64 %d1, %out, %d0; add.s64 %d2, %in, %d0;";

#[test]
fn every_thread_copies_its_word() {
    let input: Vec<u32> = (0..70).map(|n| n * 0x0101_0101).collect();
    let body = format!("{INDEX} ld.global.u32 %r3, [%d2]; st.global.u32 [%d1], %r3;");
    let result = run(&body, &Shape::threads(70), &bytes(&input));
    assert_eq!(result.words(), input);
    assert!(result.initialised);
    assert_eq!(result.stats.global_bytes, 2 * 70 * 4);
}

#[test]
fn vectors_and_narrow_types_extend_as_their_signs_say() {
    let body = "ld.global.v4.u8 {%h0, %h1, %h2, %h3}, [%in]; ld.global.s8 %r4, [%in+3]; ld.global.s16 %d4, [%in+2];
        mov.b32 %r5, {%h3, %h0}; mov.b64 {%r6, %r7}, %d4; ld.global.v2.b64 {%d5, %d6}, [%in+16];
        mov.b64 {%r8, %r9}, %d6;
        st.global.v4.b32 [%out], {%r4, %r5, %r6, %r7}; st.global.v2.u32 [%out+16], {%r8, %r9};
        st.global.u8 [%out+24], %r4; st.global.u16 [%out+26], %h3; st.global.u8 [%out+25], 7;";
    let input: Vec<u8> = (0..32).map(|n| n * 8 + 1).chain([0; 0]).collect();
    let mut input = input;
    input[3] = 0x90;
    let result = run(body, &Shape::threads(1).out(28), &input);
    let words = result.words();
    assert_eq!(words[0], 0xffff_ff90);
    assert_eq!(words[1], 0x0001_0090);
    assert_eq!(words[2], 0xffff_9011);
    assert_eq!(words[3], 0xffff_ffff);
    assert_eq!(
        words[4],
        u32::from_le_bytes(input[24..28].try_into().unwrap())
    );
    assert_eq!(
        words[5],
        u32::from_le_bytes(input[28..32].try_into().unwrap())
    );
    assert_eq!(words[6], 0x0090_0790);
}

#[test]
fn shared_and_local_memory_hold_what_was_stored() {
    let body = format!(
        ".shared .align 16 .b8 s[512]; .local .align 8 .b8 l[64]; {INDEX}
         mov.u32 %r3, s; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1; bar.sync 0;
         mov.u32 %r4, 508; sub.u32 %r4, %r4, %r2; mov.u32 %r5, s; add.u32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4];
         st.local.v2.u32 [l+8], {{%r6, %r1}}; cvta.shared.u64 %d4, %d4;"
    )
    .replace("cvta.shared.u64 %d4, %d4;", "mov.u64 %d4, l; cvta.local.u64 %d5, %d4; ld.u32 %r7, [%d5+8]; st.global.u32 [%d1], %r7;");
    let result = run(&body, &Shape::threads(128), &[]);
    let expected: Vec<u32> = (0..128).rev().collect();
    assert_eq!(result.words(), expected);
}

#[test]
fn generic_addresses_find_their_space() {
    let body = format!(
        ".shared .align 16 .b8 s[512]; {INDEX} mov.u64 %d3, s; cvta.shared.u64 %d3, %d3; add.s64 %d3, %d3, %d0;
         st.u32 [%d3], %r1; ld.u32 %r3, [%d3]; cvta.to.shared.u64 %d4, %d3; ld.shared.u32 %r4, [%d4];
         add.u32 %r3, %r3, %r4; isspacep.shared %p0, %d3; @!%p0 trap; isspacep.global %p0, %d3; @%p0 trap;
         st.u32 [%d1], %r3;"
    );
    let result = run(&body, &Shape::threads(32), &[]);
    let expected: Vec<u32> = (0..32).map(|n| 2 * n).collect();
    assert_eq!(result.words(), expected);
}

#[test]
fn out_of_bounds_is_found_to_the_byte() {
    let body = format!("{INDEX} ld.global.u32 %r3, [%d2]; st.global.u32 [%d1], %r3;");
    let found = common::violation(&body, &Shape::threads(64), &bytes(&[1; 63]));
    assert_eq!(
        found.kind,
        Kind::OutOfBounds {
            space: Space::Global,
            access: Access::Read,
            bytes: 4
        }
    );
    assert_eq!((found.warp, found.lanes), (1, 1 << 31));
    assert!(
        found.place.as_ref().unwrap().starts_with("0 bytes behind"),
        "{found}"
    );
    let body = "st.global.u32 [%out+4], 1;";
    let access = Kind::OutOfBounds {
        space: Space::Global,
        access: Access::Write,
        bytes: 4,
    };
    assert_eq!(kind(body, &Shape::threads(1), &[]), access);
    let body = "mov.u64 %d0, 0; ld.u8 %h0, [%d0];";
    let access = Kind::OutOfBounds {
        space: Space::Global,
        access: Access::Read,
        bytes: 1,
    };
    assert_eq!(kind(body, &Shape::threads(1), &[]), access);
    let body = ".shared .b32 s[4]; st.shared.u32 [s+16], 1;";
    let access = Kind::OutOfBounds {
        space: Space::Shared,
        access: Access::Write,
        bytes: 4,
    };
    assert_eq!(kind(body, &Shape::threads(1), &[]), access);
}

#[test]
fn vectors_have_to_be_aligned_as_a_whole() {
    let body = "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%in+8];";
    let access = Kind::Misaligned {
        space: Space::Global,
        access: Access::Read,
        bytes: 16,
    };
    assert_eq!(kind(body, &Shape::threads(1), &[0; 64]), access);
}

#[test]
fn constants_are_read_only_and_initialised() {
    let ptx = |access: &str| {
        common::module(&format!(
            "mov.u64 %d0, table; {access} st.global.u32 [%out], %r0;"
        ))
        .replace(
            ".visible .entry",
            ".const .align 4 .u32 table[3] = {5, 6, 7};\n.visible .entry",
        )
    };
    let shape = Shape::threads(1);
    let good = common::launch(&ptx("ld.const.u32 %r0, [table+8];"), &shape, &[]).unwrap();
    assert_eq!(good.words(), [7]);
    let good = common::launch(
        &ptx("cvta.const.u64 %d1, %d0; ld.u32 %r0, [%d1+4];"),
        &shape,
        &[],
    )
    .unwrap();
    assert_eq!(good.words(), [6]);
    let error = common::launch(&ptx("mov.u32 %r0, 1; st.global.u32 [%d0], 1;"), &shape, &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[test]
fn uninitialised_bytes_spread_but_only_decisions_fail() {
    let shape = Shape::threads(1).out(8);
    let copied = run(
        "ld.global.u32 %r0, [%out+4]; add.u32 %r0, %r0, 1; st.global.u32 [%out], %r0;",
        &shape,
        &[],
    );
    assert!(!copied.initialised);
    let address = "ld.global.u64 %d0, [%out]; ld.global.u32 %r0, [%d0];";
    assert_eq!(
        kind(address, &shape, &[]),
        Kind::Uninitialised {
            what: "the address"
        }
    );
    let register = "add.s64 %d0, %d1, 1; st.global.u32 [%d0], 0;";
    assert_eq!(
        kind(register, &shape, &[]),
        Kind::Uninitialised {
            what: "the address"
        }
    );
    assert_eq!(
        kind("@%p3 trap;", &shape, &[]),
        Kind::Uninitialised {
            what: "the guard of the instruction"
        }
    );
}
