//! Launches: limits of devices, errors of loading, and results that do not depend on threads.

mod common;

use common::{Shape, launch, module};
use ptx_emulator::{Config, ConfigError, Emulator, Gpu, LaunchConfig, LaunchError, LoadError};

fn config_error(
    device: &Emulator,
    body: &str,
    config: LaunchConfig,
    params: &[&[u8]],
) -> ConfigError {
    let kernel = device
        .load(body)
        .unwrap()
        .kernel("k")
        .unwrap_or_else(|error| panic!("{error}"));
    match device.launch(&kernel, &config, params) {
        Err(LaunchError::Config(error)) => error,
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn limits_are_those_of_the_model() {
    let device = |gpu: Gpu| {
        Emulator::new(Config {
            gpu,
            ..Config::default()
        })
    };
    let shape = LaunchConfig {
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_smem: 0,
    };
    let pointer = 0u64.to_le_bytes();
    let params: &[&[u8]] = &[&pointer, &pointer];
    let ptx = module(".shared .b8 s[1024];")
        .replace(".visible", ".extern .shared .align 16 .b8 d[];\n.visible");
    let ptx = ptx.replace(
        ".shared .b8 s[1024];",
        ".shared .b8 s[1024]; mov.u32 %r1, d;",
    );
    for (gpu, most) in [
        (Gpu::A100, 163 << 10),
        (Gpu::RTX_3090, 99 << 10),
        (Gpu::H100, 227 << 10),
    ] {
        let device = device(gpu);
        let kernel = device.load(&ptx).unwrap().kernel("k").unwrap();
        let fits = LaunchConfig {
            dynamic_smem: most - 1024,
            ..shape
        };
        assert!(device.launch(&kernel, &fits, params).is_ok());
        let error = config_error(
            &device,
            &ptx,
            LaunchConfig {
                dynamic_smem: most - 1023,
                ..shape
            },
            params,
        );
        assert!(
            matches!(error, ConfigError::SharedMemory { bytes, limit, .. } if bytes == u64::from(most) + 1 && limit == most)
        );
    }
    let device = device(Gpu::A100);
    let plain = module("");
    let error = config_error(
        &device,
        &plain,
        LaunchConfig {
            block: [1024, 2, 1],
            ..shape
        },
        params,
    );
    assert!(matches!(error, ConfigError::Block { threads: 1024, .. }));
    let error = config_error(
        &device,
        &plain,
        LaunchConfig {
            block: [1, 1, 65],
            ..shape
        },
        params,
    );
    assert!(matches!(error, ConfigError::Block { .. }));
    for grid in [[0, 1, 1], [1, 65536, 1], [1, 1, 65536], [0x8000_0000, 1, 1]] {
        let error = config_error(&device, &plain, LaunchConfig { grid, ..shape }, params);
        assert!(matches!(error, ConfigError::Grid { .. }));
    }
    let narrow = plain.replace(")\n{", ") .maxntid 16, 1, 1\n{");
    assert!(matches!(
        config_error(&device, &narrow, shape, params),
        ConfigError::BlockOfKernel { .. }
    ));
    let error = config_error(&device, &plain, shape, &[&pointer]);
    assert_eq!(
        error,
        ConfigError::Parameters {
            expected: vec![8, 8],
            got: vec![8]
        }
    );
    let error = config_error(&device, &plain, shape, &[&pointer, &[0; 4]]);
    assert_eq!(
        error,
        ConfigError::Parameters {
            expected: vec![8, 8],
            got: vec![8, 4]
        }
    );
    let wide = plain.replace(".param .u64 in", ".param .align 8 .b8 in[4096]");
    let error = config_error(&device, &wide, shape, &[&pointer, &[0; 4096]]);
    assert!(matches!(
        error,
        ConfigError::ParameterBytes { bytes: 4104, .. }
    ));
    let other = Emulator::new(Config::default());
    let kernel = other.load(&plain).unwrap().kernel("k").unwrap();
    let error = device.launch(&kernel, &shape, params).err().unwrap();
    assert!(matches!(
        error,
        LaunchError::Config(ConfigError::OtherDevice)
    ));
}

fn load_error(ptx: &str) -> LoadError {
    let device = Emulator::new(Config::default());
    device
        .load(ptx)
        .and_then(|module| module.kernel("k"))
        .err()
        .unwrap()
}

#[test]
fn what_cannot_be_loaded_is_named() {
    for (body, token, message) in [
        ("\nadd.s33 %r1, %r1, %r1;", "s33", "modifier"),
        ("\nfrobnicate.b32 %r1, %r1;", "frobnicate", "opcode"),
        ("\nadd.s32 %r1, %r1;", "add.s32", "operands"),
        ("\nadd.s32 %r1, %r99, %r1;", "%r99", "unknown register"),
        ("\nadd.s32 %d1, %r1, %r1;", "%d1", ".b64"),
        ("\nbra NOWHERE;", "NOWHERE", "label"),
        ("\n@%r1 ret;", "%r1", "guard"),
        (
            "\nldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1, %r2, %r3}, [%r4];",
            "x3",
            "modifier",
        ),
        (
            "\ntex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%r1, {%f1, %f2}];",
            "tex",
            "opcode",
        ),
        ("\nadd.f32 %f1, %f1, 1;", "1", "integer"),
    ] {
        let error = load_error(&module(body));
        assert_eq!((error.token.as_str(), error.line), (token, 15), "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    assert!(
        load_error(&module("add.s33 %r1, %r1, %r1;"))
            .alternatives
            .contains(&".s32".to_string())
    );
    assert!(
        load_error(".version 7.0\n.target sm_80\n.address_size 64\n")
            .message
            .contains("no such kernel")
    );
    let newer = module("").replace("sm_80", "sm_90");
    let error = Emulator::new(Config::default()).load(&newer).err().unwrap();
    assert!(error.message.contains("A100"), "{error}");
}

/// A kernel whose blocks work alone: squares, through shared memory.
const SQUARES: &str = ".shared .b32 s[64]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r1;
    shl.b32 %r5, %r1, 2; mov.u32 %r6, s; add.u32 %r5, %r5, %r6; mul.lo.u32 %r7, %r4, %r4; st.shared.u32 [%r5], %r7; bar.sync 0;
    ld.shared.u32 %r8, [%r5]; mul.wide.u32 %d0, %r4, 4; add.s64 %d1, %out, %d0; st.global.u32 [%d1], %r8;";

#[test]
fn results_and_counts_do_not_depend_on_host_threads() {
    let mut shape = Shape::threads(64).blocks(40);
    let first = launch(&module(SQUARES), &shape, &[]).unwrap();
    assert_eq!(
        first.words(),
        (0..2560u32).map(|n| n * n).collect::<Vec<_>>()
    );
    for threads in [2, 3, 7] {
        shape.config.threads = threads;
        let again = launch(&module(SQUARES), &shape, &[]).unwrap();
        assert_eq!(
            (again.out, again.stats),
            (first.out.clone(), first.stats.clone())
        );
    }
}

#[test]
fn blocks_that_communicate_do_so_in_the_seeds_order() {
    // Every block takes a ticket: who gets which is the seed's choice, whatever the threads.
    let body = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0;
        atom.global.add.u32 %r2, [%in], 1; st.global.u32 [%d1], %r2;";
    let mut orders = std::collections::HashSet::new();
    for seed in 0..8 {
        let mut shape = Shape::threads(1).blocks(16).seed(seed);
        let first = launch(&module(body), &shape, &[0; 4]).unwrap().words();
        shape.config.threads = 4;
        assert_eq!(
            launch(&module(body), &shape, &[0; 4]).unwrap().words(),
            first
        );
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..16).collect::<Vec<u32>>());
        orders.insert(first);
    }
    assert!(orders.len() > 4, "the order of blocks is the seed's");
}

#[test]
fn a_block_may_wait_for_another_that_runs_beside_it() {
    // Block 0 waits for block 1 to raise a flag.
    let body = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 1; @%p0 bra RAISE;
        L: ld.acquire.gpu.global.u32 %r2, [%in]; setp.eq.u32 %p1, %r2, 0; @%p1 bra L; st.global.u32 [%out], 5; bra E;
        RAISE: st.release.gpu.global.u32 [%in], 1; st.global.u32 [%out+4], 6; E:";
    for seed in 0..8 {
        let shape = Shape::threads(1).blocks(2).seed(seed);
        assert_eq!(
            launch(&module(body), &shape, &[0; 4]).unwrap().words(),
            [5, 6]
        );
    }
}

#[test]
fn the_first_block_that_fails_is_the_one_reported() {
    let body = "mov.u32 %r1, %ctaid.x; setp.ge.u32 %p0, %r1, 9; @%p0 trap;";
    for threads in [1, 4] {
        let mut shape = Shape::threads(32).blocks(64);
        shape.config.threads = threads;
        let Err(LaunchError::Violation(found)) = launch(&module(body), &shape, &[]) else {
            panic!()
        };
        assert_eq!(found.block, [9, 0, 0]);
    }
}

#[test]
fn atomics_of_every_type() {
    let cases: &[(&str, u32, u32)] = &[
        ("atom.global.add.u32 %r2, [%in], 5;", 7, 12),
        ("atom.global.min.s32 %r2, [%in], -5;", 7, -5i32 as u32),
        ("atom.global.max.u32 %r2, [%in], -5;", 7, -5i32 as u32),
        ("atom.global.and.b32 %r2, [%in], 5;", 7, 5),
        ("atom.global.or.b32 %r2, [%in], 8;", 7, 15),
        ("atom.global.xor.b32 %r2, [%in], 1;", 7, 6),
        ("atom.global.exch.b32 %r2, [%in], 1;", 7, 1),
        ("atom.global.inc.u32 %r2, [%in], 7;", 7, 0),
        ("atom.global.dec.u32 %r2, [%in], 5;", 7, 5),
        ("atom.global.cas.b32 %r2, [%in], 7, 9;", 7, 9),
        ("atom.cas.b32 %r2, [%in], 6, 9;", 7, 7),
        (
            "atom.global.add.f32 %f2, [%in], 0f40000000;",
            1f32.to_bits(),
            3f32.to_bits(),
        ),
        (
            "atom.add.noftz.f16x2 %r2, [%in], 0x3c004000;",
            0x3c00_3c00,
            0x4000_4200,
        ),
        (
            "atom.global.cas.b16 %h2, [%in], 7, 9;",
            0x0001_0007,
            0x0001_0009,
        ),
        ("red.relaxed.gpu.global.or.b32 [%in], 0x100;", 7, 0x107),
        (
            "red.global.add.noftz.bf16x2 [%in], 0x3f803f80;",
            0x3f80_3f80,
            0x4000_4000,
        ),
    ];
    for (text, before, after) in cases {
        let body = format!("{text} ld.global.u32 %r3, [%in]; st.global.u32 [%out], %r3;");
        let (mut ptx, mut shape) = (module(&body), Shape::threads(1));
        if text.contains("bf16") {
            ptx = ptx.replace("sm_80", "sm_90");
            shape.config.gpu = Gpu::H100;
        }
        let result = launch(&ptx, &shape, &before.to_le_bytes());
        assert_eq!(
            result.unwrap_or_else(|error| panic!("{error}")).words(),
            [*after],
            "{text}"
        );
    }
    let wide = "atom.global.max.u64 %d2, [%in], 0xfedcba9876543210; red.global.add.u64 [%in], 1; ld.global.u64 %d3, [%in]; st.global.u64 [%out], %d3;";
    let result = launch(&module(wide), &Shape::threads(1).out(8), &[0; 8]).unwrap();
    assert_eq!(result.words(), [0x7654_3211, 0xfedc_ba98]);
}
