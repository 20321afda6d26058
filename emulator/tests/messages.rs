//! Violations as they read, word for word.

mod common;

use common::{Shape, bytes, launch, module};
use ptx_emulator::LaunchError;

fn message(ptx: &str, shape: &Shape) -> String {
    match launch(ptx, shape, &bytes(&[7; 16])) {
        Err(LaunchError::Violation(violation)) => violation.to_string(),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn out_of_bounds() {
    let body = "mov.u32 %r1, %tid.x;\nmul.wide.u32 %d0, %r1, 4;\nadd.s64 %d1, %in, %d0;\n@%p1 bra E;\nld.global.u32 %r2, [%d1+32];\nE:"
        .replace("@%p1 bra E;\n", "");
    let text = message(&module(&body), &Shape::threads(32).seed(9));
    assert_eq!(
        text,
        "read of 4 bytes out of bounds in global memory
  --> k, PTX line 17: ld.global.u32 %r2, [%d1+32];
   by  block (0, 0, 0), warp 0, lanes 0x00000100 (lane 8)
   address 0x7000002004c0: 0 bytes behind the allocation of 64 bytes at 0x700000200480
   replay with seed 9"
            .replace("0x7000002004c0", &address(&text, 0))
            .replace("0x700000200480", &address(&text, 1))
    );
}

/// The `n`-th address in a message: where allocations lie is not what is tested.
fn address(text: &str, n: usize) -> String {
    let long = |word: &&str| word.starts_with("0x") && word.len() > 12;
    let words = text.split([' ', ':', '\n']).filter(long);
    words.map(ToString::to_string).nth(n).unwrap_or_default()
}

/// A kernel with lines of a CUDA source.
fn with_lines(body: &str) -> String {
    let ptx = module(body);
    format!("{ptx}\n.file 1 \"/src/sum.cu\"\n")
}

#[test]
fn race_in_shared_memory() {
    let body = ".shared .align 4 .b8 s[256];\nmov.u32 %r1, %tid.x;\nshl.b32 %r2, %r1, 2;\nmov.u32 %r3, s;\nadd.u32 %r4, %r3, %r2;
.loc 1 12 5\nst.shared.u32 [%r4], %r1;\n.loc 1 14 9\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 bra E;\nld.shared.u32 %r5, [s+20];\nE:";
    let text = message(&with_lines(body), &Shape::threads(64).seed(1));
    let expected = [
        // Whoever comes first under this seed.
        "race in shared memory: this read and a write by warp 0 lane 5 at PTX line 20 are not ordered by a barrier
  --> k, PTX line 24: ld.shared.u32 %r5, [s+20];
   at  /src/sum.cu:14
   by  block (0, 0, 0), warp 1, lanes 0x00000001 (lane 0)
  and  PTX line 20: st.shared.u32 [%r4], %r1;
   at  /src/sum.cu:12
   by  block (0, 0, 0), warp 0, lane 5
   address 0x1000000000414: shared memory of 256 bytes starts at 0x400
   replay with seed 1",
        "race in shared memory: this write and a read by warp 1 at PTX line 24 are not ordered by a barrier
  --> k, PTX line 20: st.shared.u32 [%r4], %r1;
   at  /src/sum.cu:12
   by  block (0, 0, 0), warp 0, lanes 0x00000020 (lane 5)
  and  PTX line 24: ld.shared.u32 %r5, [s+20];
   at  /src/sum.cu:14
   by  block (0, 0, 0), warp 1
   address 0x1000000000414: shared memory of 256 bytes starts at 0x400
   replay with seed 1",
    ];
    assert!(expected.contains(&text.as_str()), "{text}");
}

#[test]
fn race_in_global_memory() {
    let body = "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 0;\n.loc 1 7 3\n@%p1 st.global.u32 [%out+4], %r1;
.loc 1 9 3\n@!%p1 ld.global.v2.u32 {%r2, %r3}, [%out];";
    let mut shape = Shape::threads(1).blocks(2).seed(4);
    shape.config.threads = 2;
    let text = message(&with_lines(body), &shape);
    assert_eq!(
        text,
        "race in global memory: this read and a write by warp 0 lane 0 of block (0, 0, 0) at PTX line 17 \
         are not ordered: blocks need a release and an acquire in between, both of .gpu scope at least
  --> k, PTX line 19: @!%p1 ld.global.v2.u32 {%r2, %r3}, [%out];
   at  /src/sum.cu:9
   by  block (1, 0, 0), warp 0, lanes 0x00000001 (lane 0)
  and  PTX line 17: @%p1 st.global.u32 [%out+4], %r1;
   at  /src/sum.cu:7
   by  block (0, 0, 0), warp 0, lane 0
   address 0x700000000100: at offset 0 in the allocation of 8 bytes at 0x700000000100
   replay with seed 4"
            .replace("0x700000000100", &address(&text, 0))
    );
}
