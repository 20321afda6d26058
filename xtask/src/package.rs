//! `cargo xtask package`: what would be published, and whether it is small enough and complete.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Largest package, compressed.
const PACKAGE_BYTES: u64 = 4 << 20;

/// What the library's package must hold to build without anything else.
const NEEDED: &[&str] = &[
    "README.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "build.rs",
    "build/mod.rs",
    "cuda/kernels.toml",
    "ptx/manifest.toml",
    "src/lib.rs",
];

/// Makes the packages, builds each from its archive alone, and checks their content and size.
pub fn check(root: &Path) -> Result<()> {
    let files = cargo(
        root,
        &["package", "--list", "--allow-dirty", "-p", "infer-kernels"],
    )?;
    for needed in NEEDED {
        ensure!(
            files.lines().any(|file| file == *needed),
            "the package lacks {needed}"
        );
    }
    for entry in crate::generate::files_below(root, "ptx")? {
        ensure!(
            files.lines().any(|file| file == entry),
            "the package lacks {entry}"
        );
    }
    cargo(
        root,
        &[
            "package",
            "--workspace",
            "--exclude",
            "xtask",
            "--features",
            "ptx-emulator/cli",
            "--allow-dirty",
            // That it builds is the question, not how fast it runs.
            "--config",
            "profile.dev.package.ptx-emulator.opt-level=0",
        ],
    )?;
    let folder = root.join("target/package");
    for name in ["infer-kernels", "ptx-emulator", "ptx-emulator-libcuda"] {
        let file = folder.join(format!("{name}-{}.crate", env!("CARGO_PKG_VERSION")));
        let bytes = std::fs::metadata(&file)
            .with_context(|| file.display().to_string())?
            .len();
        println!("{name}: {bytes} bytes packaged, of at most {PACKAGE_BYTES}");
        ensure!(bytes <= PACKAGE_BYTES, "{name} is too large");
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .output()?;
    ensure!(
        output.status.success(),
        "cargo {}:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
