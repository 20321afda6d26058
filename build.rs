//! Gives the library the text of its kernels.
//!
//! `ptx/` holds the text that `cuda/` compiles to. As long as the hashes in `ptx/manifest.toml`
//! are those of `cuda/`, that text is used and nothing is run. What was edited since is compiled
//! with nvcc; without nvcc the build fails and says what to do. The variable `INFER_KERNELS_PTX`
//! chooses otherwise: `prebuilt` takes the checked-in text whatever the hashes say, `compile`
//! compiles everything. On docs.rs the checked-in text is taken.

use std::env;
use std::path::{Path, PathBuf};

use kernels::Result;
use kernels::declaration::{Declaration, Declarations};
use kernels::info::Info;
use kernels::manifest::Manifest;
use kernels::nvcc::{NVCC_VARIABLE, Nvcc, SEARCH_VARIABLES, in_parallel};
use kernels::sources::{Fingerprint, Sources, sha256};

#[path = "build/catalog.rs"]
mod catalog;
#[allow(dead_code, reason = "xtask uses the rest")]
#[path = "build/mod.rs"]
mod kernels;

const MODE_VARIABLE: &str = "INFER_KERNELS_PTX";

/// Which text to take.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Auto,
    Prebuilt,
    Compile,
}

/// One entry on its way into the catalog.
struct Job {
    entry: Declaration,
    fingerprint: Fingerprint,
    /// Why the checked-in text cannot be taken; empty if it can.
    reasons: Vec<String>,
}

fn main() {
    if let Err(message) = run() {
        // Cargo fails the build on these, and shows nothing else.
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("run this with cargo")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("run this with cargo")?);
    for name in [MODE_VARIABLE, NVCC_VARIABLE, "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for name in ["cuda/kernels.toml", "ptx/manifest.toml"] {
        println!("cargo::rerun-if-changed={name}");
    }
    let mode = mode()?;
    let declarations = Declarations::read(&root)?;
    let manifest = Manifest::read(&root)?;
    let mut sources = Sources::default();
    let mut jobs = Vec::new();
    for entry in &declarations.entries {
        let entry = entry.clone();
        let fingerprint = sources.fingerprint(&root, &declarations.compiler, &entry)?;
        let reasons = match mode {
            Mode::Auto => manifest.differences(&declarations.compiler, &entry, &fingerprint),
            Mode::Prebuilt => Vec::new(),
            Mode::Compile => vec![format!("{MODE_VARIABLE}=compile")],
        };
        jobs.push(Job {
            entry,
            fingerprint,
            reasons,
        });
    }
    for (path, _) in sources.hashes() {
        println!("cargo::rerun-if-changed={path}");
    }

    let (prebuilt, stale): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.reasons.is_empty());
    let mut rows = Vec::new();
    for job in prebuilt {
        rows.push(checked_in(&root, &manifest, &job.entry)?);
    }
    if !stale.is_empty() {
        rows.extend(compile(&root, &out, &declarations, &stale)?);
    }
    rows.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    kernels::write(&out.join("catalog.rs"), &catalog::generate(&rows))
}

fn mode() -> Result<Mode> {
    if env::var_os("DOCS_RS").is_some() {
        return Ok(Mode::Prebuilt);
    }
    match env::var(MODE_VARIABLE).as_deref() {
        Err(_) | Ok("" | "auto") => Ok(Mode::Auto),
        Ok("prebuilt") => Ok(Mode::Prebuilt),
        Ok("compile") => Ok(Mode::Compile),
        Ok(other) => Err(format!(
            "{MODE_VARIABLE}={other}: use auto, prebuilt or compile"
        )),
    }
}

/// Takes an entry's text from `ptx/`.
fn checked_in(root: &Path, manifest: &Manifest, entry: &Declaration) -> Result<catalog::Row> {
    let path = format!("ptx/{}", entry.path());
    println!("cargo::rerun-if-changed={path}");
    let text = kernels::read(&root.join(&path))?;
    let record = manifest
        .record(&entry.name)
        .ok_or(format!("{path} is not in the manifest"))?;
    if sha256(&text) != record.ptx_sha256 {
        return Err(format!(
            "{path} is not the text that ptx/manifest.toml describes: restore it, or run \
             `cargo xtask ptx`"
        ));
    }
    let info = Info::read(&text, entry)?;
    Ok(catalog::Row {
        entry: entry.clone(),
        info,
        folder: "CARGO_MANIFEST_DIR",
        path,
    })
}

/// Compiles what the checked-in text does not match, in parallel, once for each fingerprint.
fn compile(
    root: &Path,
    out: &Path,
    declarations: &Declarations,
    stale: &[&Job],
) -> Result<Vec<catalog::Row>> {
    for name in SEARCH_VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let pinned = &declarations.compiler.nvcc;
    let nvcc = Nvcc::find(root, pinned)?.ok_or_else(|| no_nvcc(pinned, stale))?;
    if nvcc.version != *pinned {
        println!(
            "cargo::warning=compiling kernels with nvcc {} ({}); ptx/ is made with {pinned}",
            nvcc.version,
            nvcc.path.display()
        );
    }
    let scratch = out.join("ptx");
    std::fs::create_dir_all(&scratch).map_err(|e| e.to_string())?;
    let threads = env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    in_parallel(stale, threads, |job| {
        let path = format!("ptx/{}", job.entry.name);
        let made_with = format!("{} {}\n", job.fingerprint.key, nvcc.version);
        let stamp = out.join(format!("{path}.key"));
        let output = out.join(format!("{path}.ptx"));
        if std::fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_with) {
            let text = kernels::read(&output)?;
            return row(&job.entry, &text, path);
        }
        let mut compiler = declarations.compiler.clone();
        compiler.nvcc.clone_from(&nvcc.version);
        let text = nvcc.shipped(root, &compiler, &job.entry, &scratch)?;
        let row = row(&job.entry, &text, path)?;
        kernels::write(&output, &text)?;
        kernels::write(&stamp, &made_with)?;
        Ok(row)
    })
    .into_iter()
    .collect()
}

fn row(entry: &Declaration, text: &str, path: String) -> Result<catalog::Row> {
    let info = Info::read(text, entry)?;
    Ok(catalog::Row {
        entry: entry.clone(),
        info,
        folder: "OUT_DIR",
        path: path + ".ptx",
    })
}

/// What to say when there is something to compile and nothing to compile it with.
fn no_nvcc(pinned: &str, stale: &[&Job]) -> String {
    let mut message = "kernels must be compiled, and there is no nvcc:\n".to_owned();
    for job in stale {
        message += &format!("  {}: {}\n", job.entry.name, job.reasons.join(", "));
    }
    message
        + &format!(
            "do one of these:\n  \
             scripts/setup-nvcc.sh              puts nvcc {pinned} into .tools/, where it is found\n  \
             {NVCC_VARIABLE}=/path/to/nvcc   names one (CUDA_HOME, CUDA_PATH, PATH are looked at too)\n  \
             {MODE_VARIABLE}=prebuilt         takes the text in ptx/, which is older than cuda/"
        )
}
