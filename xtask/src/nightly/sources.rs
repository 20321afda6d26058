//! What decides the result of a step, as a hash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::generate::files_below;

/// Files that concern the tests of one family, and of those that use it.
///
/// A file that no family owns concerns all of them: one that is forgotten here costs time, and hides nothing.
struct Family {
    name: &'static str,
    /// How the paths of its files begin.
    owns: &'static [&'static str],
    uses: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    Family {
        name: "attention",
        owns: &[
            "src/attention/",
            "src/reference/attention/",
            "src/reference/merge.rs",
            "tests/common/case.rs",
            "tests/common/covering.rs",
            "tests/common/decode.rs",
            "tests/common/invariant.rs",
            "tests/common/quantised.rs",
            "tests/common/spec.rs",
        ],
        uses: &["kv"],
    },
    Family {
        name: "prefill",
        owns: &["ptx/sm_80/prefill_", "tests/prefill/"],
        uses: &["attention"],
    },
    Family {
        name: "decode",
        owns: &["ptx/sm_80/decode_", "ptx/sm_80/merge_", "tests/decode/"],
        uses: &["attention", "prefill"],
    },
    Family {
        name: "mla",
        owns: &[
            "ptx/sm_80/mla_",
            "src/reference/mla.rs",
            "tests/common/mla.rs",
            "tests/mla/",
        ],
        uses: &["attention"],
    },
    Family {
        name: "kv",
        owns: &[
            "ptx/sm_80/kv_",
            "src/kv/",
            "src/reference/kv.rs",
            "tests/common/cache.rs",
            "tests/common/kv.rs",
            "tests/kv/",
        ],
        uses: &[],
    },
    Family {
        name: "gemm",
        owns: &[
            "ptx/sm_80/gemm_",
            "src/gemm/",
            "src/reference/gemm.rs",
            "tests/common/gemm.rs",
            "tests/gemm/",
        ],
        uses: &[],
    },
    Family {
        name: "moe",
        owns: &[
            "ptx/sm_80/moe_",
            "src/moe/",
            "src/reference/moe.rs",
            "tests/common/moe.rs",
            "tests/moe/",
        ],
        uses: &["gemm", "int4"],
    },
    Family {
        name: "int4",
        owns: &[
            "ptx/sm_80/int4_",
            "src/int4/",
            "src/reference/int4.rs",
            "tests/common/int4.rs",
            "tests/common/int4_case.rs",
            "tests/int4/",
        ],
        uses: &["gemm"],
    },
    Family {
        name: "blocks",
        owns: &[
            "ptx/sm_80/blocks_",
            "src/blocks/",
            "src/reference/blocks.rs",
            "tests/blocks/",
            "tests/common/blocks.rs",
            "tests/common/blocks_case.rs",
        ],
        uses: &["gemm", "int4"],
    },
    Family {
        name: "elementwise",
        owns: &[
            "ptx/sm_80/embed_",
            "ptx/sm_80/norm_",
            "ptx/sm_80/pointwise_",
            "ptx/sm_80/sample",
            "src/elementwise/",
            "src/reference/elementwise.rs",
            "src/reference/sample.rs",
            "tests/common/elementwise.rs",
            "tests/common/sample.rs",
            "tests/elementwise/",
        ],
        uses: &["blocks", "gemm"],
    },
    // What no family's own tests run: other tests, and lists of what there is.
    Family {
        name: "none",
        owns: &[
            "ptx/manifest.toml",
            "src/gguf/",
            "src/lib.rs",
            "tests/data/",
            "tests/driver/",
            "tests/errors/",
            "tests/mutants/",
        ],
        uses: &[],
    },
];

/// A family and all that it uses.
fn used(name: &'static str) -> BTreeSet<&'static str> {
    let mut all = BTreeSet::new();
    let mut left = vec![name];
    while let Some(name) = left.pop() {
        if all.insert(name) {
            let family = FAMILIES.iter().find(|family| family.name == name);
            left.extend(family.into_iter().flat_map(|family| family.uses));
        }
    }
    all
}

/// Whether a file concerns the tests of these families.
fn concerns(path: &str, families: &BTreeSet<&str>) -> bool {
    let owns = |family: &&Family| family.owns.iter().any(|start| path.starts_with(start));
    let mut owners = FAMILIES.iter().filter(owns).peekable();
    owners.peek().is_none() || owners.any(|owner| families.contains(owner.name))
}

/// Hash over the names and contents of all files at or below these paths; of those that concern a family, if one is named.
pub fn hash<'a>(
    root: &Path,
    paths: impl Iterator<Item = &'a str>,
    family: Option<&'static str>,
) -> Result<String> {
    let families = family.map(used);
    let mut hash = Sha256::new();
    for path in paths {
        for file in files_below(root, path)? {
            if families.as_ref().is_some_and(|f| !concerns(&file, f)) {
                continue;
            }
            let content = std::fs::read(root.join(&file))?;
            let content = match file.as_str() {
                "Cargo.lock" => versions(std::str::from_utf8(&content)?)?.into_bytes(),
                _ => content,
            };
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(&file);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
    }
    let digest = hash.finalize();
    Ok(digest[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The packages that results depend on, with what they depend on.
const PACKAGES: &[&str] = &[
    "approx",
    "bytemuck",
    "gguf-rs-lib",
    "half",
    "kitoken",
    "ptx-emulator",
    "rand",
];

/// What `Cargo.lock` says of those.
fn versions(lock: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        #[serde(default)]
        dependencies: Vec<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let mut of: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in &lock.package {
        of.entry(&package.name).or_default().push(package);
    }
    let mut found = BTreeSet::new();
    let mut left = PACKAGES.to_vec();
    while let Some(name) = left.pop() {
        for package in of.get(name).into_iter().flatten() {
            if found.insert(format!("{name} {}\n", package.version)) {
                // A dependency is a name, or a name and a version.
                let names = package.dependencies.iter().map(|d| d.split(' ').next());
                left.extend(names.flatten());
            }
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_concerned_by_its_own_files_by_those_it_uses_and_by_those_of_no_family() {
        let blocks = used("blocks");
        for path in [
            "ptx/sm_80/blocks_f16_8bit_16x64.ptx",
            "src/int4/layout.rs",
            "src/gemm/plan.rs",
            "src/device/launch.rs",
            "tests/common/mod.rs",
            "emulator/src/lib.rs",
        ] {
            assert!(concerns(path, &blocks), "{path}");
        }
        for path in ["src/moe/route.rs", "src/lib.rs", "ptx/sm_80/kv_append.ptx"] {
            assert!(!concerns(path, &blocks), "{path}");
        }
    }

    #[test]
    fn every_path_of_a_family_has_a_file_and_every_use_a_family() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let files: Vec<String> = ["ptx", "src", "tests"]
            .iter()
            .flat_map(|path| files_below(root, path).unwrap())
            .collect();
        for family in FAMILIES {
            for start in family.owns {
                assert!(
                    files.iter().any(|file| file.starts_with(start)),
                    "{start} of {}",
                    family.name
                );
            }
            for name in family.uses {
                assert!(FAMILIES.iter().any(|family| family.name == *name), "{name}");
            }
        }
    }

    #[test]
    fn versions_are_those_of_packages_that_results_depend_on() {
        let lock = r#"
            [[package]]
            name = "rand"
            version = "0.9.1"
            dependencies = ["rand_core 0.9.3"]
            [[package]]
            name = "rand_core"
            version = "0.9.3"
            [[package]]
            name = "clap"
            version = "4.5.0"
        "#;
        assert_eq!(versions(lock).unwrap(), "rand 0.9.1\nrand_core 0.9.3\n");
    }
}
