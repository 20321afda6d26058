//! Tensor operations against their definition.

mod common;

use common::{Shape, bytes, kind, launch, module};
use ptx_emulator::{Kind, MmaMode};

/// Small numbers that are exact in f16 and bf16, all different enough to find a swapped element.
fn element(seed: usize, row: usize, column: usize) -> f32 {
    ((row * 37 + column * 11 + seed * 5) % 29) as f32 / 4.0 - 3.0
}

fn half(value: f32) -> u32 {
    u32::from(half::f16::from_f32(value).to_bits())
}

fn brain(value: f32) -> u32 {
    u32::from(half::bf16::from_f32(value).to_bits())
}

/// Fragments of A (16 x k), B (k x 8) and C (16 x 8) by lane, as the ISA's figures lay them out.
fn fragments(k: usize, narrow: fn(f32) -> u32) -> Vec<u32> {
    let mut words = Vec::new();
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for r in 0..k / 4 {
            let (row, column) = (g + 8 * (r % 2), 2 * t + 8 * (r / 2));
            words.push(narrow(element(0, row, column)) | narrow(element(0, row, column + 1)) << 16);
        }
        for r in 0..k / 8 {
            let row = 2 * t + 8 * r;
            words.push(narrow(element(1, row, g)) | narrow(element(1, row + 1, g)) << 16);
        }
        for i in 0..4 {
            words.push(element(2, g + 8 * (i / 2), 2 * t + i % 2).to_bits());
        }
        words.resize((lane + 1) * 16, 0);
    }
    words
}

fn expected(k: usize, row: usize, column: usize) -> f32 {
    (0..k).fold(element(2, row, column), |sum, i| {
        sum + element(0, row, i) * element(1, i, column)
    })
}

/// `%d1` is the lane's place in the input and the output, 64 bytes for each.
const LANE: &str = "mov.u32 %r0, %laneid; mov.b64 %d0, {%r0, 0};
    add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0;
    add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0; add.u64 %d1, %in, %d0; add.u64 %d2, %out, %d0;
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1]; ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%d1+16];
    ld.global.v4.u32 {%r9, %r10, %r11, %r12}, [%d1+32];";

fn check(k: usize, ty: &str, narrow: fn(f32) -> u32, mode: MmaMode) {
    let a: Vec<String> = (1..=k / 4).map(|n| format!("%r{n}")).collect();
    let b: Vec<String> = (1..=k / 8).map(|n| format!("%r{}", k / 4 + n)).collect();
    let first = k / 4 + k / 8 + 1;
    let c: Vec<String> = (0..4).map(|n| format!("%f{n}")).collect();
    let moves: String = (0..4)
        .map(|n| format!("mov.b32 %f{n}, %r{};", first + n))
        .collect();
    let (a, b, c) = (a.join(","), b.join(","), c.join(","));
    let body = format!(
        "{LANE} {moves} mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {{{c}}}, {{{a}}}, {{{b}}}, {{{c}}};
         st.global.v4.f32 [%d2], {{{c}}};"
    );
    let mut shape = Shape::threads(32).out(32 * 64);
    shape.config.mma = mode;
    let result = launch(&module(&body), &shape, &bytes(&fragments(k, narrow))).unwrap();
    let out = result.floats();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            assert_eq!(
                out[16 * lane + i],
                expected(k, row, column),
                "{ty} k{k} {mode:?} ({row}, {column})"
            );
        }
    }
    assert_eq!(
        result
            .stats
            .mma
            .get(&format!("m16n8k{k}.f32.{ty}.{ty}.f32")),
        Some(&1)
    );
    assert_eq!(result.stats.tensor_flops, 2 * 16 * 8 * k as u64);
}

#[test]
fn products_with_f32_accumulators() {
    for mode in [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper] {
        for k in [8, 16] {
            check(k, "f16", half, mode);
            check(k, "bf16", brain, mode);
        }
    }
}

#[test]
fn products_with_f16_accumulators() {
    let body = format!(
        "{LANE} mov.b32 %r20, 0x40003c00;
         mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {{%r13, %r14}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%r20, %r20}};
         st.global.v2.u32 [%d2], {{%r13, %r14}};"
    );
    let result = common::run(
        &body,
        &Shape::threads(32).out(32 * 64),
        &bytes(&fragments(16, half)),
    );
    let out = result.words();
    for lane in 0..32 {
        for r in 0..2 {
            for odd in 0..2 {
                let (row, column) = (lane / 4 + 8 * r, 2 * (lane % 4) + odd);
                let sum = expected(16, row, column) - element(2, row, column)
                    + if odd == 0 { 1.0 } else { 2.0 };
                assert_eq!(out[16 * lane + r] >> (16 * odd) & 0xffff, half(sum));
            }
        }
    }
}

#[test]
fn an_uninitialised_row_poisons_its_row_of_the_result_and_no_more() {
    // Lanes 4 to 31 load A, B and C; the first row of A stays uninitialised.
    let body = format!(
        ".shared .align 16 .b8 s[512]; {LANE}
         mov.u32 %r30, s; mov.u64 %d4, %d2; add.u32 %r31, %r0, %r0; add.u32 %r31, %r31, %r31; add.u32 %r30, %r30, %r31;
         st.shared.u32 [%r30+16], %r1; bar.sync 0; ld.shared.u32 %r1, [%r30];
         mov.b32 %f0, 0f00000000;
         mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1,%f2,%f3,%f4}}, {{%r1,%r2,%r3,%r4}}, {{%r5,%r6}}, {{%f0,%f0,%f0,%f0}};
         st.global.f32 [%out], %f1; st.global.v4.f32 [%d4], {{%f1,%f2,%f3,%f4}};"
    )
    .replace("st.global.f32 [%out], %f1; ", "");
    let shape = Shape::threads(32).out(32 * 64);
    let device = ptx_emulator::Emulator::new(shape.config.clone());
    let (out, input) = (device.alloc(2048).unwrap(), device.alloc(2048).unwrap());
    device.write(input, &bytes(&fragments(16, half))).unwrap();
    let kernel = device.load(&module(&body)).unwrap().kernel("k").unwrap();
    let config = ptx_emulator::LaunchConfig {
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_smem: 0,
    };
    device
        .launch(
            &kernel,
            &config,
            &[&out.to_le_bytes(), &input.to_le_bytes()],
        )
        .unwrap();
    for lane in 0..32 {
        for i in 0..4 {
            let clean = device.initialised(out + 64 * lane + 4 * i, 4).unwrap();
            assert_eq!(clean, lane >= 4 || i >= 2, "lane {lane}, register {i}");
        }
    }
}

/// Fills 512 bytes of shared memory with halves 0, 1, .. and loads matrices whose rows lie in order.
fn load_matrices(instruction: &str) -> Vec<u32> {
    let body = format!(
        ".shared .align 16 .b8 s[512]; mov.u32 %r0, %laneid; mov.b64 %d0, {{%r0, 0}};
         add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0; add.u64 %d0, %d0, %d0;
         add.u64 %d1, %in, %d0; add.u64 %d2, %out, %d0; ld.global.v4.u32 {{%r1,%r2,%r3,%r4}}, [%d1];
         mov.b64 {{%r5, %r6}}, %d0; mov.u32 %r7, s; add.u32 %r7, %r7, %r5; st.shared.v4.u32 [%r7], {{%r1,%r2,%r3,%r4}};
         bar.sync 0; mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r4, 0;
         {instruction} st.global.v4.u32 [%d2], {{%r1,%r2,%r3,%r4}};"
    );
    let words: Vec<u32> = (0..128).map(|n| (2 * n) | ((2 * n + 1) << 16)).collect();
    common::run(&body, &Shape::threads(32).out(512), &bytes(&words)).words()
}

#[test]
fn ldmatrix_gives_each_lane_its_elements() {
    // Element (row, column) of matrix m is 64 m + 8 row + column.
    let plain = load_matrices("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1,%r2,%r3,%r4}, [%r7];");
    let trans =
        load_matrices("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1,%r2,%r3,%r4}, [%r7];");
    let two = load_matrices("ldmatrix.sync.aligned.m8n8.x2.shared::cta.b16 {%r1,%r2}, [%r7];");
    let one = load_matrices("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7];");
    for lane in 0..32u32 {
        for m in 0..4u32 {
            let at = (4 * lane + m) as usize;
            let (row, column) = (lane / 4, 2 * (lane % 4));
            let here = 64 * m + 8 * row + column;
            assert_eq!(plain[at], here | (here + 1) << 16);
            let there = 64 * m + 8 * column + row;
            assert_eq!(trans[at], there | (there + 8) << 16);
            assert_eq!(two[at], if m < 2 { plain[at] } else { 0 });
            assert_eq!(one[at], if m < 1 { plain[at] } else { 0 });
        }
    }
}

#[test]
fn ldmatrix_takes_addresses_of_any_window_from_as_many_lanes_as_there_are_rows() {
    let registers = ["%r1", "%r2", "%r3", "%r4"];
    for (count, trans) in [(1, ""), (2, ""), (4, ""), (1, ".trans"), (2, ".trans")] {
        let to = registers[..count].join(",");
        let known = |space: &str, at: &str| {
            format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {{{to}}}, [{at}];")
        };
        let plain = load_matrices(&known(".shared", "%r7"));
        // The other lanes' addresses lie nowhere.
        let nowhere = format!(
            "setp.ge.u32 %p1, %r0, {}; selp.b32 %r7, 0x7ffffff1, %r7, %p1;",
            8 * count
        );
        let few = load_matrices(&format!("{nowhere} {}", known(".shared", "%r7")));
        assert_eq!(few, plain, "x{count}{trans}");
        let generic = "mov.b64 %d5, {%r7, 0}; cvta.shared.u64 %d5, %d5;";
        let generic = load_matrices(&format!("{nowhere} {generic} {}", known("", "%d5")));
        assert_eq!(generic, plain, "x{count}{trans}, generic");
    }
}

#[test]
fn ldmatrix_wants_aligned_rows_and_all_lanes() {
    let rows =
        ".shared .align 16 .b8 s[512]; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [s+8];";
    assert!(matches!(
        kind(rows, &Shape::threads(32), &[]),
        Kind::Misaligned { bytes: 16, .. }
    ));
    let rows = ".shared .align 16 .b8 s[512]; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [s];";
    assert!(matches!(
        kind(rows, &Shape::threads(16), &[]),
        Kind::LanesMissing {
            missing: 0xffff_0000,
            ..
        }
    ));
}
