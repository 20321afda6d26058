//! Hostile buffers: every load of one may return something else, so what is checked has to be what is
//! used.

mod common;

use ptx_emulator::{Config, Emulator, Kind, LaunchConfig, LaunchError, MemoryError};

const SEEDS: u64 = 64;

/// Runs a kernel that has an index in `in` and a table of 16 words in `out`, under many seeds; the
/// violations.
fn violations(body: &str, mark: bool) -> Vec<Kind> {
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        let device = Emulator::new(Config {
            seed,
            threads: 1,
            ..Config::default()
        });
        let (table, index) = (device.alloc(64).unwrap(), device.alloc(64).unwrap());
        device.fill(table, 0, 64).unwrap();
        device.fill(index, 3, 64).unwrap();
        device.write(index, &3u32.to_le_bytes()).unwrap();
        if mark {
            device.mark_hostile(index, 64).unwrap();
        }
        let kernel = device
            .load(&common::module(body))
            .unwrap()
            .kernel("k")
            .unwrap();
        let shape = LaunchConfig {
            grid: [1; 3],
            block: [32, 1, 1],
            dynamic_smem: 0,
        };
        match device.launch(
            &kernel,
            &shape,
            &[&table.to_le_bytes(), &index.to_le_bytes()],
        ) {
            Ok(_) => {}
            Err(LaunchError::Violation(violation)) => found.push(violation.kind),
            Err(error) => panic!("{error}"),
        }
        // What the host reads is what it wrote.
        let mut back = [0; 4];
        device.read(index, &mut back).unwrap();
        assert_eq!(back, 3u32.to_le_bytes());
    }
    found
}

/// Uses the index in `%r1`.
const USE: &str = "mul.wide.u32 %d0, %r1, 4; add.s64 %d1, %out, %d0; ld.global.u32 %r2, [%d1];";

#[test]
fn an_index_that_is_loaded_once_and_checked_is_safe() {
    for load in [
        "ld.global.u32 %r1, [%in];",
        "ld.global.nc.v4.u32 {%r1, %r3, %r4, %r5}, [%in];",
        "ld.relaxed.gpu.global.u32 %r1, [%in];",
        "ld.volatile.global.u32 %r1, [%in];",
        "atom.global.or.b32 %r1, [%in], 0;",
        ".shared .align 16 .b8 s[512]; mov.u32 %r6, %tid.x; shl.b32 %r6, %r6, 4; mov.u32 %r7, s; add.u32 %r6, %r6, %r7;
         cp.async.ca.shared.global [%r6], [%in], 16; cp.async.wait_all; ld.shared.u32 %r1, [%r6];",
    ] {
        let checked = format!("{load} setp.ge.u32 %p0, %r1, 16; @%p0 bra E; {USE} E:");
        assert_eq!(violations(&checked, true), [], "{load}");
        let unchecked = format!("{load} {USE}");
        let found = violations(&unchecked, true);
        assert!(found.len() as u64 > SEEDS / 2, "{load}: found under {} seeds", found.len());
        assert!(found.iter().all(|kind| matches!(kind, Kind::OutOfBounds { .. })), "{found:?}");
        assert_eq!(violations(&unchecked, false), [], "{load}");
    }
}

#[test]
fn an_index_that_is_loaded_twice_is_not() {
    let twice = format!(
        "ld.global.u32 %r1, [%in]; setp.ge.u32 %p0, %r1, 16; @%p0 bra E; ld.global.u32 %r1, [%in]; {USE} E:"
    );
    assert_eq!(violations(&twice, false), []);
    let found = violations(&twice, true);
    assert!(
        found.len() as u64 > SEEDS / 2,
        "found under {} seeds",
        found.len()
    );
    // A signed comparison lets negative ones through.
    let signed =
        format!("ld.global.u32 %r1, [%in]; setp.ge.s32 %p0, %r1, 16; @%p0 bra E; {USE} E:");
    assert!(violations(&signed, true).len() as u64 > SEEDS / 2);
}

#[test]
fn what_is_marked_lies_in_one_allocation_and_can_be_unmarked() {
    let device = Emulator::new(Config::default());
    let memory = device.alloc(64).unwrap();
    let outside = MemoryError::OutOfBounds {
        address: memory + 32,
        len: 64,
    };
    assert_eq!(device.mark_hostile(memory + 32, 64), Err(outside));
    device.mark_hostile(memory, 64).unwrap();
    device.clear_hostile();
    device.fill(memory, 3, 64).unwrap();
    let body = "ld.global.u32 %r1, [%in]; setp.ne.u32 %p0, %r1, 0x03030303; @%p0 trap;";
    let kernel = device
        .load(&common::module(body))
        .unwrap()
        .kernel("k")
        .unwrap();
    let shape = LaunchConfig {
        grid: [1; 3],
        block: [256, 1, 1],
        dynamic_smem: 0,
    };
    let memory = memory.to_le_bytes();
    device.launch(&kernel, &shape, &[&memory, &memory]).unwrap();
}
