//! Asynchronous copies of every form: cache operator, name of the space, hint, size, and what limits the source.

use super::{input, lanes};

/// Bytes that a copy leaves alone.
const BEFORE: u8 = 0xee;

/// What limits the source: text of the operand, and bytes that are read of `size` by each lane.
type Limit = (&'static str, fn(usize, usize) -> usize);

const LIMITS: [Limit; 5] = [
    ("", |_, size| size),
    (", %r9", |lane, size| lane % (size + 1)),
    (", 2", |_, _| 2),
    (", %p1", |lane, size| if lane % 3 == 0 { 0 } else { size }),
    (", !%p1", |lane, size| if lane % 3 == 0 { size } else { 0 }),
];

#[test]
fn forms_of_copies() {
    let sizes = [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)];
    for (cache, size) in sizes {
        for space in ["shared", "shared::cta"] {
            for prefetch in ["", ".L2::64B", ".L2::128B", ".L2::256B"] {
                for (hint, policy) in [("", ""), (".L2::cache_hint", ", %d7")] {
                    for (limit, reads) in LIMITS {
                        let copy = format!(
                            "cp.async.{cache}.{space}.global{hint}{prefetch} [%r2+16], [%d2+32], {size}{limit}{policy};"
                        );
                        check(&copy, size, reads);
                    }
                }
            }
        }
    }
}

fn check(copy: &str, size: usize, reads: fn(usize, usize) -> usize) {
    let word = u32::from_le_bytes([BEFORE; 4]);
    let fill: String = (0..16)
        .map(|n| format!("st.shared.u32 [%r2+{}], {word};", 4 * n))
        .collect();
    let fetch: String = (0..16)
        .map(|n| {
            let at = 4 * n;
            format!("ld.shared.u32 %r8, [%r2+{at}]; st.global.u32 [%d1+{at}], %r8;")
        })
        .collect();
    let body = format!(
        "{fill} createpolicy.fractional.L2::evict_first.b64 %d7, 0f3F800000; rem.u32 %r9, %r1, {};
         rem.u32 %r10, %r1, 3; setp.eq.u32 %p1, %r10, 0; {copy} cp.async.wait_all; {fetch}",
        size + 1
    );
    for (lane, got) in lanes(&body).iter().enumerate() {
        let mut expected = [BEFORE; 64];
        expected[16..16 + size].fill(0);
        let from = 64 * lane + 32;
        let read = reads(lane, size);
        expected[16..16 + read].copy_from_slice(&input()[from..from + read]);
        assert_eq!(got[..], expected, "lane {lane}: {copy}");
    }
}
