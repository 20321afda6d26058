//! Rows of memory, form by form: what each type, width and space makes of the same bytes, and what each
//! order makes of the same handshake.

#[path = "../common/mod.rs"]
mod common;

use common::{Shape, launch, module, run};
use ptx_emulator::{Config, Gpu, Kind, LaunchError};

/// `%r1` lane, `%d1 = out + 64 lane`, `%d2 = in + 64 lane`; `%r2`, `%d3` and `%d4` are the lane's 64 bytes of
/// shared, local and generic memory.
const LANE: &str = ".shared .align 16 .b8 s[2048]; .local .align 16 .b8 l[64]; mov.u32 %r1, %tid.x; shl.b32 %r3, %r1, 6; cvt.u64.u32 %d5, %r3;
    add.u64 %d1, %out, %d5; add.u64 %d2, %in, %d5; mov.u32 %r2, s; add.u32 %r2, %r2, %r3; mov.u64 %d3, l; cvt.u64.u32 %d4, %r2; cvta.shared.u64 %d4, %d4;";

/// Bytes of which no two of a lane's are alike, every other one with its highest bit set.
fn input() -> Vec<u8> {
    (0..2048u32)
        .map(|n| (n * 0x8d + n / 64 * 7 + 0x41) as u8)
        .collect()
}

/// Types with their width in bits and whether they have a sign.
const TYPES: [(&str, usize, bool); 14] = [
    ("b8", 8, false),
    ("u8", 8, false),
    ("s8", 8, true),
    ("b16", 16, false),
    ("u16", 16, false),
    ("s16", 16, true),
    ("b32", 32, false),
    ("u32", 32, false),
    ("s32", 32, true),
    ("f32", 32, false),
    ("b64", 64, false),
    ("u64", 64, false),
    ("s64", 64, true),
    ("f64", 64, false),
];

/// Registers of this width that take a type of that one, by their letter.
fn registers(ty: &str, bits: usize) -> Vec<(&'static str, usize)> {
    let all = [("h", 16), ("r", 32), ("d", 64)];
    let exact = ty.starts_with('f');
    let fits = |width: usize| if exact { width == bits } else { width >= bits };
    all.into_iter().filter(|(_, width)| fits(*width)).collect()
}

/// `{%r10, %r11}`, or one of them without braces.
fn vector(register: &str, count: usize) -> String {
    let names: Vec<String> = (10..10 + count)
        .map(|n| format!("%{register}{n}"))
        .collect();
    match count {
        1 => names[0].clone(),
        _ => format!("{{{}}}", names.join(", ")),
    }
}

fn suffix(count: usize) -> &'static str {
    ["", "", ".v2", "", ".v4"][count]
}

/// Runs a body for 32 lanes, each of which writes 64 bytes.
fn lanes(body: &str) -> Vec<Vec<u8>> {
    let text = format!("{LANE} {body}");
    let out = run(&text, &Shape::threads(32).out(2048), &input()).out;
    out.chunks(64).map(<[u8]>::to_vec).collect()
}

/// What a register of `width` bits holds after a load of these bytes, as 64 bits.
fn extended(bytes: &[u8], signed: bool, width: usize) -> u64 {
    let bits = 8 * bytes.len();
    let value = bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    let value = match signed {
        true => ((value << (64 - bits)) as i64 >> (64 - bits)) as u64,
        false => value,
    };
    value & (u64::MAX >> (64 - width))
}

/// Loads of every type and vector into every register that takes them, by this opcode from this place.
fn check_loads(opcode: &str, fill: &str, place: &str) {
    for (ty, bits, signed) in TYPES {
        for (register, width) in registers(ty, bits) {
            for count in [1, 2, 4].into_iter().filter(|count| count * bits <= 128) {
                let to64 = |n: usize| match width {
                    64 => format!("mov.b64 %d19, %d{};", 10 + n),
                    _ => format!("cvt.u64.u{width} %d19, %{register}{};", 10 + n),
                };
                let store = |n: usize| format!("{} st.global.u64 [%d1+{}], %d19;", to64(n), 8 * n);
                let body = format!(
                    "{fill} {opcode}{}.{ty} {}, [{place}+16]; {}",
                    suffix(count),
                    vector(register, count),
                    (0..count).map(store).collect::<String>()
                );
                let size = bits / 8;
                for (lane, got) in lanes(&body).iter().enumerate() {
                    for n in 0..count {
                        let first = 64 * lane + 16 + n * size;
                        let expected = extended(&input()[first..first + size], signed, width);
                        let got = u64::from_le_bytes(got[8 * n..8 * n + 8].try_into().unwrap());
                        assert_eq!(got, expected, "lane {lane}: {body}");
                    }
                }
            }
        }
    }
}

/// Stores of every type and vector from every register that they take: the bytes meant and no others.
fn check_stores(opcode: &str, place: &str, fetch: &str) {
    for (ty, bits, _) in TYPES {
        for (register, width) in registers(ty, bits) {
            for count in [1, 2, 4].into_iter().filter(|count| count * bits <= 128) {
                let load = |n: usize| match width {
                    64 => format!("ld.global.b64 %d{}, [%d2+{}];", 10 + n, 8 * n),
                    _ => format!("ld.global.b{width} %{register}{}, [%d2+{}];", 10 + n, 8 * n),
                };
                let loads: String = (0..count).map(load).collect();
                let clear: String = (0..8)
                    .map(|n| {
                        format!(
                            "mov.b64 %d9, -1; st{} [{place}+{}], %d9;",
                            fetch.replacen("ld", "", 1),
                            8 * n
                        )
                    })
                    .collect();
                let copy: String = (0..8)
                    .map(|n| {
                        format!(
                            "{fetch} %d9, [{place}+{}]; st.global.b64 [%d1+{}], %d9;",
                            8 * n,
                            8 * n
                        )
                    })
                    .collect();
                let body = format!(
                    "{clear} {loads} {opcode}{}.{ty} [{place}+16], {}; {copy}",
                    suffix(count),
                    vector(register, count)
                );
                let size = bits / 8;
                for (lane, got) in lanes(&body).iter().enumerate() {
                    let mut expected = vec![0xff; 64];
                    for n in 0..count {
                        let from = 64 * lane + 8 * n;
                        expected[16 + n * size..][..size]
                            .copy_from_slice(&input()[from..from + size]);
                    }
                    assert_eq!(*got, expected, "lane {lane}: {body}");
                }
            }
        }
    }
}

/// Copies a lane's 64 bytes to `place`, by `store`.
fn copied(store: &str, place: &str) -> String {
    let word = |n: usize| {
        format!(
            "ld.global.b64 %d9, [%d2+{0}]; {store} [{place}+{0}], %d9;",
            8 * n
        )
    };
    (0..8).map(word).collect()
}

#[test]
fn loads_of_every_type_from_global_memory() {
    for cache in [
        "",
        ".ca",
        ".cg",
        ".cs",
        ".lu",
        ".cv",
        ".nc",
        ".nc.L1::no_allocate",
        ".L1::evict_last.L2::128B",
    ] {
        check_loads(&format!("ld.global{cache}"), "", "%d2");
    }
}

#[test]
fn loads_of_every_type_by_generic_addresses() {
    check_loads("ld", "", "%d2");
    check_loads("ld.weak", &copied("st.shared.b64", "%r2"), "%d4");
}

#[test]
fn loads_of_every_type_from_local_memory() {
    check_loads("ld.local", &copied("st.local.b64", "%d3"), "%d3");
}

#[test]
fn loads_of_every_type_from_shared_memory() {
    let fill = copied("st.shared.b64", "%r2");
    for form in ["shared", "shared::cta", "weak.shared", "shared.ca"] {
        check_loads(&format!("ld.{form}"), &fill, "%r2");
    }
}

#[test]
fn strong_loads_of_every_type() {
    for order in ["volatile", "relaxed.cta", "relaxed.gpu", "acquire.sys"] {
        check_loads(&format!("ld.{order}.global"), "", "%d2");
        check_loads(
            &format!("ld.{order}.shared"),
            &copied("st.shared.b64", "%r2"),
            "%r2",
        );
    }
}

#[test]
fn loads_of_every_type_that_are_uniform() {
    check_loads("ldu.global", "", "%d2");
    check_loads("ldu", "", "%d2");
}

#[test]
fn stores_of_every_type_to_global_memory() {
    for cache in ["", ".wb", ".cg", ".cs", ".wt", ".L1::evict_first"] {
        check_stores(&format!("st.global{cache}"), "%d1", "ld.global.b64");
    }
}

#[test]
fn stores_of_every_type_by_generic_addresses() {
    check_stores("st", "%d4", "ld.b64");
    check_stores("st.weak", "%d1", "ld.b64");
}

#[test]
fn stores_of_every_type_to_local_memory() {
    check_stores("st.local", "%d3", "ld.local.b64");
}

#[test]
fn stores_of_every_type_to_shared_memory() {
    for form in ["shared", "shared::cta", "weak.shared", "shared.wb"] {
        check_stores(&format!("st.{form}"), "%r2", "ld.shared.b64");
    }
}

#[test]
fn strong_stores_of_every_type() {
    for order in ["volatile", "relaxed.cta", "relaxed.gpu", "release.sys"] {
        check_stores(&format!("st.{order}.global"), "%d1", "ld.global.b64");
        check_stores(&format!("st.{order}.shared"), "%r2", "ld.shared.b64");
    }
}

/// Two warps of a block: warp 0 writes a word, then a flag by `write`; warp 1 waits for the flag by `read` and
/// reads the word. Whether that races.
fn handshake(write: &str, read: &str, space: &str) -> bool {
    let (data, flag) = match space {
        "shared" => ("s", "s+128"),
        _ => ("%in", "%in+128"),
    };
    let body = format!(
        "{LANE} setp.ge.u32 %p1, %r1, 32; setp.ne.u32 %p2, %r1, 0; setp.ne.u32 %p3, %r1, 32; mov.u32 %r9, 0;
         @!%p2 st.{space}.u32 [{flag}], %r9; bar.sync 0; mov.u32 %r9, 7; mov.u32 %r10, 1; @%p1 bra READ; @%p2 bra E;
         st.{space}.u32 [{data}], %r9; {write}.{space}.u32 [{flag}], %r10; bra E;
         READ: @%p3 bra E; {read}.{space}.u32 %r8, [{flag}]; setp.eq.u32 %p4, %r8, 0; @%p4 bra READ;
         ld.{space}.u32 %r8, [{data}]; st.global.u32 [%out], %r8; E:"
    );
    let races = |seed| {
        let done = launch(
            &module(&body),
            &Shape::threads(64).out(4).seed(seed),
            &[0; 256],
        );
        match done {
            Ok(run) => {
                assert_eq!(run.words(), [7], "{write} {read} {space}");
                false
            }
            Err(LaunchError::Violation(violation)) => {
                let race = matches!(
                    violation.kind,
                    Kind::SharedRace { .. } | Kind::GlobalRace { .. }
                );
                assert!(race, "{write} {read} {space}: {violation}");
                true
            }
            Err(error) => panic!("{error}"),
        }
    };
    let found: Vec<bool> = (0..6).map(races).collect();
    assert!(
        found.iter().all(|race| *race == found[0]),
        "{write} {read} {space}: {found:?}"
    );
    found[0]
}

#[test]
fn orders_of_loads_and_stores_within_a_block() {
    for space in ["shared", "global"] {
        for (write, releases) in [
            ("st", None),
            ("st.weak", None),
            ("st.volatile", Some(false)),
            ("st.relaxed.cta", Some(false)),
            ("st.relaxed.sys", Some(false)),
            ("st.release.cta", Some(true)),
            ("st.release.gpu", Some(true)),
            ("st.release.sys", Some(true)),
        ] {
            for (read, acquires) in [
                ("ld", None),
                ("ld.weak", None),
                ("ld.volatile", Some(false)),
                ("ld.relaxed.cta", Some(false)),
                ("ld.relaxed.sys", Some(false)),
                ("ld.acquire.cta", Some(true)),
                ("ld.acquire.gpu", Some(true)),
                ("ld.acquire.sys", Some(true)),
            ] {
                let fine = releases == Some(true) && acquires == Some(true);
                // A weak access races with the strong one to the flag itself, too.
                assert_eq!(
                    handshake(write, read, space),
                    !fine,
                    "{write} {read} {space}"
                );
            }
        }
    }
}

#[test]
fn strong_accesses_by_themselves_do_not_race() {
    // All threads store and load the same word.
    for (space, place) in [("shared", "s"), ("global", "%in")] {
        for (store, load, fine) in [
            ("st.volatile", "ld.volatile", true),
            ("st.relaxed.cta", "ld.relaxed.cta", true),
            ("st.relaxed.gpu", "ld.volatile", true),
            ("st.release.gpu", "ld.acquire.cta", true),
            ("st.volatile", "ld", false),
            ("st.volatile", "ld.weak", false),
            ("st", "ld.volatile", false),
            ("st.weak", "ld.relaxed.cta", false),
        ] {
            let body = format!(
                "{LANE} mov.u32 %r9, 5; {store}.{space}.u32 [{place}], %r9; {load}.{space}.u32 %r8, [{place}]; st.global.u32 [%d1], %r8;"
            );
            let shape = Shape::threads(64).out(4096);
            let done = launch(&module(&body), &shape, &[0; 64]);
            assert_eq!(
                done.is_ok(),
                fine,
                "{store} {load} {space}: {:?}",
                done.err()
            );
        }
    }
}

#[test]
fn addresses_know_their_space() {
    let variables = [
        ("shared", "s", true),
        ("shared::cta", "s", true),
        ("local", "l", true),
        ("global", "g", true),
        ("const", "c", true),
        ("param", "in", true),
        ("param::entry", "in", true),
    ];
    for (space, variable, _) in variables {
        for (asked, other, _) in variables {
            let inside = variable == other
                || matches!((space, asked), ("global", "const") | ("const", "global"));
            let body = format!(
                "{LANE} mov.u64 %d10, {variable}; add.u64 %d10, %d10, %d5; cvta.{space}.u64 %d11, %d10; isspacep.{asked} %p1, %d11;
                 cvta.to.{space}.u64 %d12, %d11; selp.u64 %d13, 1, 0, %p1; sub.u64 %d12, %d12, %d10;
                 st.global.v2.b64 [%d1], {{%d12, %d13}};"
            );
            let text = module(&body)
                .replace(
                    ".visible",
                    ".global .align 8 .b8 g[64]; .const .align 8 .b8 c[64];\n.visible",
                )
                .replace("7.8", "8.3");
            let done = launch(&text, &Shape::threads(32).out(2048), &input());
            let out = done
                .unwrap_or_else(|error| panic!("{space} {asked}: {error}"))
                .out;
            for (lane, got) in out.chunks(64).enumerate() {
                let word = |n: usize| u64::from_le_bytes(got[8 * n..8 * n + 8].try_into().unwrap());
                assert_eq!(
                    (word(0), word(1)),
                    (0, u64::from(inside)),
                    "lane {lane}: {space} {asked}"
                );
            }
        }
    }
    // A generic address of shared memory is where the variable is.
    let body = format!(
        "{LANE} mov.u32 %r9, 77; st.shared.u32 [%r2], %r9; ld.u32 %r8, [%d4]; st.global.u32 [%d1], %r8;"
    );
    let out = run(&body, &Shape::threads(32).out(2048), &input()).words();
    assert!(out.iter().step_by(16).all(|word| *word == 77));
}

mod atomics;
mod collectives;
mod copies;
mod moves;
