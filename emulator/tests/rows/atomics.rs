//! Atomic operations and reductions of every type in every space.

use super::common::{Run, Shape, launch, module};
use super::{Config, Gpu, Kind, LANE, LaunchError};
use ptx_emulator::{Emulator, LaunchConfig};

type Apply = fn(u64, u64) -> u64;

fn f32s(a: u64, b: u64, f: fn(f32, f32) -> f32) -> u64 {
    u64::from(f(f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits())
}

fn f64s(a: u64, b: u64, f: fn(f64, f64) -> f64) -> u64 {
    f(f64::from_bits(a), f64::from_bits(b)).to_bits()
}

/// The sum of two halves with so many bits of exponent and mantissa, of values whose sum is exact.
fn half(a: u64, b: u64, exponent: u32) -> u64 {
    let mantissa = 15 - exponent;
    let bias = (1i32 << (exponent - 1)) - 1;
    let value = |bits: u64| {
        let (e, m) = (
            bits >> mantissa & ((1 << exponent) - 1),
            bits & ((1 << mantissa) - 1),
        );
        let sign = if bits >> 15 & 1 != 0 { -1.0 } else { 1.0 };
        let one = 2f64.powi(mantissa as i32);
        match e {
            0 => sign * m as f64 / one * 2f64.powi(1 - bias),
            _ => sign * (1.0 + m as f64 / one) * 2f64.powi(e as i32 - bias),
        }
    };
    let sum = value(a & 0xffff) + value(b & 0xffff);
    (0..0x1_0000u64)
        .find(|bits| {
            let finite = bits >> mantissa & ((1 << exponent) - 1) != (1 << exponent) - 1;
            finite && value(*bits) == sum && (sum != 0.0 || bits >> 15 == 0)
        })
        .expect("the sum is a half")
}

fn pair(a: u64, b: u64, exponent: u32) -> u64 {
    half(a, b, exponent) | half(a >> 16, b >> 16, exponent) << 16
}

/// Operation, type, and what it makes of the old value and the operand; those that also return something only last.
const OPERATIONS: &[(&str, &str, Apply)] = &[
    ("add", "u32", |a, b| a.wrapping_add(b)),
    ("add", "s32", |a, b| a.wrapping_add(b)),
    ("add", "u64", |a, b| a.wrapping_add(b)),
    ("add", "f32", |a, b| f32s(a, b, |a, b| a + b)),
    ("add", "f64", |a, b| f64s(a, b, |a, b| a + b)),
    ("add.noftz", "f16", |a, b| half(a, b, 5)),
    ("add.noftz", "f16x2", |a, b| pair(a, b, 5)),
    ("min", "u32", |a, b| (a as u32).min(b as u32).into()),
    ("min", "s32", |a, b| (a as i32).min(b as i32) as u32 as u64),
    ("min", "u64", |a, b| a.min(b)),
    ("min", "s64", |a, b| (a as i64).min(b as i64) as u64),
    ("max", "u32", |a, b| (a as u32).max(b as u32).into()),
    ("max", "s32", |a, b| (a as i32).max(b as i32) as u32 as u64),
    ("max", "u64", |a, b| a.max(b)),
    ("max", "s64", |a, b| (a as i64).max(b as i64) as u64),
    (
        "inc",
        "u32",
        |a, b| if a as u32 >= b as u32 { 0 } else { a + 1 },
    ),
    ("dec", "u32", |a, b| {
        let (a, b) = (a as u32, b as u32);
        u64::from(if a == 0 || a > b { b } else { a - 1 })
    }),
    ("and", "b32", |a, b| a & b),
    ("and", "b64", |a, b| a & b),
    ("or", "b32", |a, b| a | b),
    ("or", "b64", |a, b| a | b),
    ("xor", "b32", |a, b| a ^ b),
    ("xor", "b64", |a, b| a ^ b),
];
const EXCHANGES: &[(&str, &str, Apply)] = &[("exch", "b32", |_, b| b), ("exch", "b64", |_, b| b)];
const BRAINS: &[(&str, &str, Apply)] = &[
    ("add.noftz", "bf16", |a, b| half(a, b, 8)),
    ("add.noftz", "bf16x2", |a, b| pair(a, b, 8)),
];

fn bits(ty: &str) -> usize {
    match ty {
        "f16x2" | "bf16x2" => 32,
        _ => ty
            .trim_start_matches(|c: char| c.is_alphabetic())
            .parse()
            .unwrap(),
    }
}

/// Old value and operand of each of 32 lanes: corners of integers, or values whose sums are exact.
fn values(ty: &str) -> Vec<(u64, u64)> {
    let pairs: Vec<(u64, u64)> = match ty {
        "f32" => [
            (1.5f32, 2.25),
            (-3.0, 1.0),
            (1e30, 1e30),
            (0.1, -0.1),
            (8.0, 0.5),
        ]
        .map(|(a, b): (f32, f32)| (u64::from(a.to_bits()), u64::from(b.to_bits())))
        .to_vec(),
        "f64" => [
            (1.5f64, 2.25),
            (-3.0, 1e-3),
            (1e300, 1e300),
            (5e-324, 5e-324),
        ]
        .map(|(a, b): (f64, f64)| (a.to_bits(), b.to_bits()))
        .to_vec(),
        // 1 + 2, 1.5 + (-0.5), the least subnormal twice; the upper half is another value.
        "f16" | "f16x2" => vec![
            (0x3c00_3c00, 0x4000_4000),
            (0x3c00_3e00, 0x4200_b800),
            (0x4000_0001, 0x3c00_0001),
        ],
        "bf16" | "bf16x2" => vec![
            (0x3f80_3f80, 0x4000_4000),
            (0x3f80_3fc0, 0x4040_bf00),
            (0x4000_0001, 0x3f80_0001),
        ],
        _ => {
            let corners = [
                0u64,
                1,
                5,
                0x7fff_ffff,
                0x8000_0000,
                0xffff_fffe,
                0xffff_ffff,
            ];
            let wide = |value: u64| match bits(ty) {
                64 => value << 32 | value >> 16 | value & 7,
                _ => value,
            };
            corners
                .iter()
                .flat_map(|a| corners.map(|b| (wide(*a), wide(b))))
                .collect()
        }
    };
    // A number of pairs that 32 lanes do not go through at once.
    (0..64).map(|n| pairs[n % pairs.len()]).collect()
}

/// Runs a module on a device that has all of it.
fn run(text: &str, input: &[u8], out: usize) -> Vec<u8> {
    let device = Emulator::new(Config {
        gpu: Gpu::H100,
        threads: 1,
        ..Config::default()
    });
    let memory = |bytes: &[u8]| {
        let at = device.alloc(bytes.len() as u64).unwrap();
        device.write(at, bytes).unwrap();
        at
    };
    let (to, from) = (memory(&vec![0; out]), memory(input));
    let module = device.load(text).unwrap_or_else(|error| panic!("{error}"));
    let kernel = module
        .kernel("k")
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let config = LaunchConfig {
        grid: [1, 1, 1],
        block: [32, 1, 1],
        dynamic_smem: 0,
    };
    let done = device.launch(&kernel, &config, &[&to.to_le_bytes(), &from.to_le_bytes()]);
    done.unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut bytes = vec![0; out];
    device.read(to, &mut bytes).unwrap();
    bytes
}

fn sm90(body: &str) -> String {
    module(body).replace("7.8", "8.0").replace("sm_80", "sm_90")
}

/// Checks `opcode.op.type` in a space: what is there afterwards and, for `atom`, what was there before.
fn check(opcode: &str, space: &str, (operation, ty, apply): (&str, &str, Apply)) {
    let width = bits(ty);
    let letter = ["", "h", "r", "", "d"][width / 16];
    let (place, spelt) = match space {
        "" => ("%d1+16", ""),
        "generic shared" => ("%d4+16", ""),
        "global" => ("%d1+16", ".global"),
        _ => ("%r2+16", space),
    };
    let plain = match space {
        "generic shared" => "",
        other => other.strip_prefix('.').map_or("", |_| space),
    };
    let pairs = values(ty);
    for round in 0..pairs.len() / 32 {
        let pairs = &pairs[32 * round..32 * round + 32];
        let input: Vec<u8> = pairs
            .iter()
            .flat_map(|(old, operand)| [old.to_le_bytes(), operand.to_le_bytes()].concat())
            .chain([0; 32 * 64 - 32 * 16])
            .collect();
        let spread: Vec<u8> = input[..512]
            .chunks(16)
            .flat_map(|pair| [pair, &[0; 48]].concat())
            .collect();
        let destination = match opcode.starts_with("atom") {
            true => format!("%{letter}10, "),
            false => String::new(),
        };
        let body = format!(
            "{LANE} mov.b{width} %{letter}10, 0; mov.b64 %d9, -1; st{plain}.b64 [{place}], %d9; ld.global.b{width} %{letter}12, [%d2]; st{plain}.b{width} [{place}], %{letter}12;
             ld.global.b{width} %{letter}11, [%d2+8]; {opcode}{spelt}.{operation}.{ty} {destination}[{place}], %{letter}11;
             ld{plain}.b64 %d9, [{place}]; st.global.b64 [%d1], %d9; st.global.b{width} [%d1+8], %{letter}10;"
        );
        let got = run(&sm90(&body), &spread, 2048);
        let mask = u64::MAX >> (64 - width);
        for (lane, got) in got.chunks(64).enumerate() {
            let (old, operand) = pairs[lane];
            let word = |n: usize| u64::from_le_bytes(got[8 * n..8 * n + 8].try_into().unwrap());
            let expected = !mask | apply(old & mask, operand & mask) & mask;
            assert_eq!(word(0), expected, "{old:#x} and {operand:#x}: {body}");
            if opcode.starts_with("atom") {
                assert_eq!(word(1), old & mask, "{old:#x} and {operand:#x}: {body}");
            }
        }
    }
}

const SPACES: [&str; 5] = ["", "global", ".shared", ".shared::cta", "generic shared"];

#[test]
fn atom_of_every_type_in_every_space() {
    for space in SPACES {
        for operation in OPERATIONS.iter().chain(EXCHANGES) {
            check("atom", space, *operation);
        }
    }
}

#[test]
fn red_of_every_type_in_every_space() {
    for space in SPACES {
        for operation in OPERATIONS {
            check("red", space, *operation);
        }
    }
}

#[test]
fn atom_of_bf16() {
    for space in SPACES {
        for operation in BRAINS {
            check("atom", space, *operation);
        }
    }
}

#[test]
fn red_of_bf16() {
    for space in SPACES {
        for operation in BRAINS {
            check("red", space, *operation);
        }
    }
}

#[test]
fn compare_and_swap_of_every_width() {
    for space in SPACES {
        for (width, letter) in [(16, "h"), (32, "r"), (64, "d")] {
            let (place, spelt) = match space {
                "" => ("%d1+16", ""),
                "generic shared" => ("%d4+16", ""),
                "global" => ("%d1+16", ".global"),
                _ => ("%r2+16", space),
            };
            let plain = if space.starts_with('.') { space } else { "" };
            // Odd lanes compare with what is there, even ones with something else in the highest bit.
            let body = format!(
                "{LANE} mov.b64 %d9, -1; st{plain}.b64 [{place}], %d9; ld.global.b{width} %{letter}12, [%d2]; st{plain}.b{width} [{place}], %{letter}12;
                 ld.global.b{width} %{letter}11, [%d2+8]; ld.global.b{width} %{letter}13, [%d2+16];
                 atom{spelt}.cas.b{width} %{letter}10, [{place}], %{letter}11, %{letter}13;
                 ld{plain}.b64 %d9, [{place}]; st.global.b64 [%d1], %d9; mov.b64 %d9, 0; st.global.b64 [%d1+8], %d9; st.global.b{width} [%d1+8], %{letter}10;"
            );
            let old = |lane: u64| 0x8123_4567_89ab_8def ^ lane << 3 ^ lane << 40;
            let new = |lane: u64| 0x1020_3040_5060_7080 ^ lane;
            let high = 1 << (width - 1);
            let input: Vec<u8> = (0..32u64)
                .flat_map(|lane| {
                    let asked = if lane % 2 == 1 {
                        old(lane)
                    } else {
                        old(lane) ^ high
                    };
                    let mut bytes = [old(lane), asked, new(lane)].map(u64::to_le_bytes).concat();
                    bytes.resize(64, 0);
                    bytes
                })
                .collect();
            let mask = u64::MAX >> (64 - width);
            for (lane, got) in run(&sm90(&body), &input, 2048).chunks(64).enumerate() {
                let lane = lane as u64;
                let word = |n: usize| u64::from_le_bytes(got[8 * n..8 * n + 8].try_into().unwrap());
                let after = if lane % 2 == 1 { new(lane) } else { old(lane) };
                assert_eq!(word(0), !mask | after & mask, "lane {lane}: {body}");
                assert_eq!(word(1), old(lane) & mask, "lane {lane}: {body}");
            }
        }
    }
}

#[test]
fn sums_of_subnormal_floats_are_flushed_in_global_memory_alone() {
    for (place, spelt, expected) in [
        ("%d1+16", ".global", 0),
        ("%d1+16", "", 0),
        ("%r2+16", ".shared", 3),
        ("%d4+16", "", 3),
    ] {
        let plain = if spelt == ".shared" { spelt } else { "" };
        for opcode in ["red", "atom"] {
            let destination = if opcode == "atom" { "%f10, " } else { "" };
            let body = format!(
                "{LANE} mov.b32 %r9, 1; st{plain}.b32 [{place}], %r9; mov.b32 %f11, 0f00000002; {opcode}{spelt}.add.f32 {destination}[{place}], %f11;
                 ld{plain}.b32 %r9, [{place}]; st.global.b32 [%d1], %r9;"
            );
            let got = run(&sm90(&body), &[0; 2048], 2048);
            assert!(
                got.chunks(64).all(|lane| lane[..4] == [expected, 0, 0, 0]),
                "{body}"
            );
        }
    }
}

fn fault(body: &str, shape: &Shape, seed: u64) -> Result<Run, Kind> {
    let mut shape = shape.clone().seed(seed);
    let text = if body.contains("bf16") {
        shape.config.gpu = Gpu::H100;
        sm90(body)
    } else {
        module(body)
    };
    match launch(&text, &shape, &[0; 256]) {
        Ok(run) => Ok(run),
        Err(LaunchError::Violation(violation)) => Err(violation.kind),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn scopes_say_which_blocks_are_atomic_to_each_other() {
    for opcode in ["atom", "red"] {
        for (order, scopes) in [
            ("", &["", ".gpu", ".sys", ".cta"][..]),
            (".relaxed", &[".gpu", ".sys", ".cta"][..]),
        ] {
            let forms = [("add.u32", "%r9", "%r1"), ("add.noftz.bf16", "%h9", "%h1")];
            for (scope, (form, to, from)) in scopes.iter().flat_map(|s| forms.map(|f| (s, f))) {
                let to = if opcode == "atom" {
                    format!("{to}, ")
                } else {
                    String::new()
                };
                let body = format!(
                    "mov.u32 %r1, 1; mov.b16 %h1, 1; {opcode}{order}{scope}.global.{form} {to}[%in], {from}; mov.u32 %r2, %ctaid.x;
                     mul.wide.u32 %d1, %r2, 4; add.u64 %d1, %out, %d1; st.global.u32 [%d1], %r1;"
                );
                for seed in 0..3 {
                    let fine = fault(&body, &Shape::threads(1).blocks(3), seed).is_ok();
                    assert_eq!(fine, *scope != ".cta", "{body}");
                }
            }
        }
    }
}

/// Block 0 writes a word, then a flag by `write`; block 1 waits for it by `read` and reads the word.
fn handshake(write: &str, read: &str) -> bool {
    let body = format!(
        "mov.u32 %r1, %ctaid.x; mov.u32 %r2, 1; mov.u32 %r9, 7; setp.eq.u32 %p1, %r1, 1; @%p1 bra READ;
         st.global.u32 [%in], %r9; {write}; bra E;
         READ: {read}; setp.eq.u32 %p2, %r3, 0; @%p2 bra READ; ld.global.u32 %r4, [%in]; st.global.u32 [%out], %r4; E:"
    );
    let found: Vec<bool> = (0..6)
        .map(
            |seed| match fault(&body, &Shape::threads(1).blocks(2).out(4), seed) {
                Ok(run) => run.words() != [7],
                Err(Kind::GlobalRace { .. }) => true,
                Err(other) => panic!("{write} {read}: {other}"),
            },
        )
        .collect();
    assert!(
        found.iter().all(|race| *race == found[0]),
        "{write} {read}: {found:?}"
    );
    found[0]
}

#[test]
fn orders_of_atomics_between_blocks() {
    let (acquire, release) = (
        "ld.acquire.gpu.global.u32 %r3, [%in+128]",
        "st.release.gpu.global.u32 [%in+128], %r2",
    );
    for (order, releases, acquires) in [
        ("", false, false),
        (".relaxed.gpu", false, false),
        (".acquire.gpu", false, true),
        (".release.gpu", true, false),
        (".acq_rel.gpu", true, true),
        (".acq_rel.sys", true, true),
        (".release.cta", false, false),
        (".acquire.cta", false, false),
    ] {
        let write = format!("atom{order}.global.exch.b32 %r5, [%in+128], %r2");
        assert_eq!(handshake(&write, acquire), !releases, "{write}");
        let write = format!("atom{order}.global.cas.b32 %r5, [%in+128], 0, %r2");
        assert_eq!(handshake(&write, acquire), !releases, "{write}");
        let read = format!("atom{order}.global.or.b32 %r3, [%in+128], 0");
        assert_eq!(handshake(release, &read), !acquires, "{read}");
        let read = format!("atom{order}.global.cas.b32 %r3, [%in+128], 5, 5");
        assert_eq!(handshake(release, &read), !acquires, "{read}");
        let half = "ld.acquire.gpu.global.b16 %h3, [%in+128]; cvt.u32.u16 %r3, %h3";
        let write =
            format!("mov.b16 %h2, 1; atom{order}.global.add.noftz.bf16 %h4, [%in+128], %h2");
        assert_eq!(handshake(&write, half), !releases, "{write}");
        let read = format!(
            "mov.b16 %h2, 0; atom{order}.global.add.noftz.bf16 %h3, [%in+128], %h2; cvt.u32.u16 %r3, %h3"
        );
        let flag = "mov.b16 %h2, 1; st.release.gpu.global.b16 [%in+128], %h2";
        assert_eq!(handshake(flag, &read), !acquires, "{read}");
        if !order.starts_with(".ac") {
            let write = format!("red{order}.global.or.b32 [%in+128], %r2");
            assert_eq!(handshake(&write, acquire), !releases, "{write}");
            let write = format!("mov.b16 %h2, 1; red{order}.global.add.noftz.bf16 [%in+128], %h2");
            assert_eq!(handshake(&write, half), !releases, "{write}");
        }
    }
}

#[test]
fn operations_take_their_types_and_no_others() {
    let types = [
        "u32", "s32", "u64", "s64", "b16", "b32", "b64", "f32", "f64", "f16", "f16x2", "bf16",
        "bf16x2",
    ];
    let device = Emulator::new(Config {
        gpu: Gpu::H100,
        ..Config::default()
    });
    for operation in [
        "add", "min", "max", "inc", "dec", "and", "or", "xor", "exch",
    ] {
        for noftz in ["", ".noftz"] {
            for ty in types {
                let full = format!("{operation}{noftz}");
                let all = [OPERATIONS, EXCHANGES, BRAINS].concat();
                let exists = all.iter().any(|known| (known.0, known.1) == (&full, ty));
                let register = match bits(ty) {
                    16 => "%h1",
                    32 => "%r1",
                    _ => "%d1",
                };
                let atom = format!("atom.global.{full}.{ty} {register}, [%in], {register};");
                let red = format!("red.global.{full}.{ty} [%in], {register};");
                for (text, exists) in [(atom, exists), (red, exists && operation != "exch")] {
                    let module = device.load(&sm90(&text)).unwrap();
                    let loads = module.kernel("k").is_ok();
                    assert_eq!(loads, exists, "{text}");
                }
            }
        }
    }
}

#[test]
fn orders_of_loads_and_stores_between_blocks() {
    let (acquire, release) = (
        "ld.acquire.gpu.global.u32 %r3, [%in+128]",
        "st.release.gpu.global.u32 [%in+128], %r2",
    );
    for space in ["", ".global"] {
        for scope in ["cta", "gpu", "sys"] {
            let fine = scope != "cta";
            let write = format!("st.release.{scope}{space}.u32 [%in+128], %r2");
            assert_eq!(handshake(&write, acquire), !fine, "{write}");
            let read = format!("ld.acquire.{scope}{space}.u32 %r3, [%in+128]");
            assert_eq!(handshake(release, &read), !fine, "{read}");
            // By themselves, relaxed accesses order nothing, but do not race with each other either.
            let body = format!(
                "mov.u32 %r1, %ctaid.x; mov.u32 %r2, 3; st.relaxed.{scope}{space}.u32 [%in], %r2;
                 ld.relaxed.{scope}{space}.u32 %r3, [%in]; mul.wide.u32 %d1, %r1, 4; add.u64 %d1, %out, %d1;
                 st.global.u32 [%d1], %r3;"
            );
            for seed in 0..3 {
                let quiet = fault(&body, &Shape::threads(1).blocks(3), seed).is_ok();
                assert_eq!(quiet, fine, "{body}");
            }
        }
    }
}
