//! Sizes that must not creep up: a driver compiles each module when it is first used.

use infer_kernels::catalog::ENTRIES;

#[test]
fn modules_are_small() {
    for entry in ENTRIES {
        let size = entry.ptx.len();
        assert!(
            size <= 512 << 10,
            "{}: {size} bytes of PTX, at most 512 KiB",
            entry.name
        );
    }
}

#[test]
fn all_text_together_is_small() {
    let size: usize = ENTRIES.iter().map(|entry| entry.ptx.len()).sum();
    assert!(
        size <= 16 << 20,
        "{size} bytes of PTX in all, at most 16 MiB"
    );
}

#[test]
fn modules_hold_one_entry_and_no_paths_of_the_machine_that_made_them() {
    for entry in ENTRIES {
        let entries = entry.ptx.matches(".visible .entry ").count();
        assert_eq!(entries, 1, "{}", entry.name);
        let absolute = entry.ptx.lines().find(|l| {
            let l = l.trim_start();
            l.starts_with(".file") && l.contains("\"/")
        });
        assert_eq!(absolute, None, "{}", entry.name);
    }
}
