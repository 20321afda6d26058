//! What loads and what does not: the opcodes that kernels use, and those that are refused by name.

use ptx_emulator::{Config, Emulator, Gpu, LoadError};

/// Opcodes of kernels for sm_80.
const USED: &str = include_str!("opcodes.ptx");

fn load(text: &str, gpu: Gpu) -> Result<(), LoadError> {
    let config = Config {
        gpu,
        ..Config::default()
    };
    let device = Emulator::new(config);
    device.load(text)?.kernel("k").map(|_| ())
}

#[test]
fn every_opcode_that_kernels_use_loads() {
    let (head, rest) = USED.split_once("n;\n").expect("a head");
    let (body, tail) = rest.split_once("L:\n").expect("a tail");
    let one = |line: &str| format!("{head}n;\n{line}\nL:\n{tail}");
    let refused: Vec<String> = body
        .lines()
        .filter_map(|line| {
            load(&one(line), Gpu::A100)
                .err()
                .map(|e| format!("{line} {e}"))
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(body.lines().count() > 330);
    // All of them at once, too.
    load(USED, Gpu::A100).unwrap_or_else(|error| panic!("{error}"));
}

/// A kernel with one instruction, in line 14.
fn kernel(version: &str, target: &str, instruction: &str) -> String {
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n.global .align 16 .b8 g[64];\n\
         .visible .entry k(.param .b64 p)\n{{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<16>;\n\
         .reg .b64 %d<16>;\n.reg .f32 %f<16>;\n.reg .f64 %fd<4>;\n.reg .b128 %q<4>;\n{instruction}\nret;\n}}\n"
    )
}

#[test]
fn what_is_not_emulated_is_refused_by_name() {
    let mut wrong = Vec::new();
    for (instruction, token) in [
        (
            "tex.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [g, {%f5,%f6}];",
            "tex",
        ),
        (
            "tld4.r.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [g, {%f5,%f6}];",
            "tld4",
        ),
        ("txq.width.b32 %r1, [g];", "txq"),
        ("suld.b.1d.b32.trap %r1, [g, {%r2}];", "suld"),
        ("sust.b.1d.b32.trap [g, {%r2}], %r1;", "sust"),
        ("sured.b.add.1d.u32.trap [g, {%r2}], %r1;", "sured"),
        ("suq.width.b32 %r1, [g];", "suq"),
        (
            "wmma.load.a.sync.aligned.m16n16k16.row.f16 {%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8}, [%d1];",
            "wmma",
        ),
        (
            "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f1}, {%r1}, {%r2}, {%f1};",
            "wmma",
        ),
        (
            "mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r8}, {%r1,%r2,%r3,%r4};",
            "f16",
        ),
        ("wgmma.fence.sync.aligned;", "wgmma"),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, %d1, %d2, 1, 1, 1, 0, 0;",
            "wgmma",
        ),
        ("setmaxnreg.inc.sync.aligned.u32 64;", "setmaxnreg"),
        ("elect.sync %r1|%p1, -1;", "elect"),
        ("mapa.u64 %d1, %d2, 1;", "mapa"),
        ("getctarank.u32 %r1, %d1;", "getctarank"),
        ("griddepcontrol.wait;", "griddepcontrol"),
        (
            "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};",
            "stmatrix",
        ),
        ("barrier.cluster.arrive.aligned;", "cluster"),
        ("cp.async.bulk.commit_group;", "bulk"),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d1], 16, [%r2];",
            "bulk",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1], [%r1], 16;",
            "reduce",
        ),
        (
            "multimem.ld_reduce.relaxed.sys.global.add.f32 %f1, [%d1];",
            "multimem",
        ),
        ("fence.proxy.async;", "proxy"),
        (
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3];",
            "async",
        ),
        (
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3];",
            "async",
        ),
        (
            "tensormap.replace.tile.rank.global.b1024.b32 [%d1], 2;",
            "tensormap",
        ),
        ("tcgen05.fence::before_thread_sync;", "tcgen05"),
        ("atom.global.exch.b128 %q1, [%d1], %q2;", "b128"),
        ("atom.global.v2.f32.add {%f1,%f2}, [%d1], {%f3,%f4};", "v2"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%fd1}, {%fd1}, {%fd1}, {%fd1};",
            "f64",
        ),
        ("redux.sync.max.f32 %f1, %f2, -1;", "f32"),
        ("cvt.rn.satfinite.e2m1x2.f32 %h1, %f1, %f2;", "e2m1x2"),
        ("vadd.s32.s32.s32 %r1, %r2, %r3;", "vadd"),
        ("nonsense.u32 %r1, %r2;", "nonsense"),
    ] {
        let error = load(&kernel("9.0", "sm_90", instruction), Gpu::H100).expect_err(instruction);
        assert_eq!(error.line, 14, "{instruction}: {error}");
        if !error.token.split('.').any(|part| part == token) {
            wrong.push(format!("{instruction} {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_target_lacks_is_refused_with_what_it_needs() {
    for (target, instruction, needs) in [
        (
            "sm_80",
            "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
            "sm_89",
        ),
        (
            "sm_80",
            "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;",
            "sm_89",
        ),
        (
            "sm_75",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
            "sm_80",
        ),
        ("sm_75", "redux.sync.add.s32 %r1, %r2, -1;", "sm_80"),
    ] {
        let gpu = if target == "sm_75" {
            Gpu::T4
        } else {
            Gpu::A100
        };
        let error = load(&kernel("8.8", target, instruction), gpu).expect_err(instruction);
        assert!(error.message.contains(needs), "{instruction}: {error}");
        assert_eq!(error.line, 14);
    }
}
