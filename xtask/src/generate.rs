//! `cargo xtask ptx` and `cargo xtask ptx --check`: from `cuda/` to `ptx/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::kernels::declaration::{Declaration, Declarations};
use crate::kernels::info::Info;
use crate::kernels::manifest::{Manifest, Record};
use crate::kernels::nvcc::{Nvcc, in_parallel};
use crate::kernels::sources::{Fingerprint, Sources, sha256};
use crate::kernels::{read, write};

/// Largest text of one module.
const MODULE_BYTES: usize = 384 << 10;
/// Largest text of all modules together.
const ALL_BYTES: usize = 16 << 20;
/// Longest time to compile one entry, on two cores that do nothing else.
const ENTRY_TIME: Duration = Duration::from_secs(60);
/// Longest time to compile all.
const ALL_TIME: Duration = Duration::from_secs(600);

/// What `ptx/` should hold: path below the repository → text.
type Tree = BTreeMap<String, String>;

/// Everything needed to compile.
pub struct Project {
    /// The repository.
    pub root: PathBuf,
    /// `cuda/kernels.toml`.
    pub declarations: Declarations,
    /// A compiler of the pinned version.
    pub nvcc: Nvcc,
    /// Folder for the compiler's files.
    pub scratch: PathBuf,
}

impl Project {
    /// Reads the declarations and finds the pinned compiler: with another one, `ptx/` would not
    /// be the same on every machine.
    pub fn open(root: &Path) -> Result<Self> {
        let declarations = Declarations::read(root).map_err(|e| anyhow!(e))?;
        let pinned = &declarations.compiler.nvcc;
        let nvcc = Nvcc::find(root, pinned).map_err(|e| anyhow!(e))?;
        let nvcc = nvcc
            .filter(|nvcc| nvcc.version == *pinned)
            .with_context(|| format!("needs nvcc {pinned}: run scripts/setup-nvcc.sh"))?;
        let scratch = root.join("target/xtask-ptx");
        std::fs::create_dir_all(&scratch)?;
        Ok(Self {
            root: root.to_owned(),
            declarations,
            nvcc,
            scratch,
        })
    }

    /// The text of an entry as nvcc writes it.
    pub fn raw(&self, entry: &Declaration) -> Result<String> {
        self.nvcc
            .compile(
                &self.root,
                &self.declarations.compiler,
                entry,
                &self.scratch,
            )
            .map_err(|e| anyhow!(e))
    }

    /// The text of an entry as it is shipped, and how long the compiler took.
    fn shipped(&self, entry: &Declaration) -> Result<(String, Duration)> {
        let start = Instant::now();
        let text = self
            .nvcc
            .shipped(
                &self.root,
                &self.declarations.compiler,
                entry,
                &self.scratch,
            )
            .map_err(|e| anyhow!(e))?;
        Ok((text, start.elapsed()))
    }
}

/// Number of compilers or assemblers to run at a time.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Brings `ptx/` up to date. What has not changed is compiled only if `all` is set.
pub fn refresh(root: &Path, all: bool) -> Result<()> {
    let project = Project::open(root)?;
    let old = if all { None } else { Manifest::read(root).ok() };
    let tree = compile(&project, old.as_ref())?;
    for path in files_below(root, "ptx")?.difference(&tree.keys().cloned().collect()) {
        std::fs::remove_file(root.join(path))?;
        println!("removed {path}");
    }
    for (path, text) in &tree {
        let file = root.join(path);
        if read(&file).ok().as_ref() != Some(text) {
            write(&file, text).map_err(|e| anyhow!(e))?;
            println!("wrote {path}");
        }
    }
    Ok(())
}

/// Compiles everything and fails if `ptx/` is not what comes out, or if a budget is exceeded.
pub fn check(root: &Path) -> Result<()> {
    let project = Project::open(root)?;
    let start = Instant::now();
    let tree = compile(&project, None)?;
    let time = start.elapsed();

    let mut wrong = Vec::new();
    for (path, text) in &tree {
        match read(&root.join(path)) {
            Err(_) => wrong.push(format!("{path} is missing")),
            Ok(found) if found != *text => wrong.push(first_difference(path, &found, text)),
            Ok(_) => {}
        }
        if text.len() > MODULE_BYTES && path.ends_with(".ptx") {
            wrong.push(format!(
                "{path} has {} bytes of at most {MODULE_BYTES}",
                text.len()
            ));
        }
    }
    for path in files_below(root, "ptx")?.difference(&tree.keys().cloned().collect()) {
        wrong.push(format!("{path} belongs to no entry of cuda/kernels.toml"));
    }
    let bytes: usize = tree.values().map(String::len).sum();
    if bytes > ALL_BYTES {
        wrong.push(format!("ptx/ has {bytes} bytes of at most {ALL_BYTES}"));
    }
    if time > ALL_TIME {
        wrong.push(format!(
            "compiling everything took {time:.1?} of at most {ALL_TIME:?}"
        ));
    }
    ensure!(
        wrong.is_empty(),
        "run `cargo xtask ptx`:\n  {}",
        wrong.join("\n  ")
    );
    println!(
        "ptx/ is what cuda/ compiles to: {} files, {bytes} bytes, {time:.1?}",
        tree.len()
    );
    Ok(())
}

/// Compiles, and puts together what `ptx/` should hold. What `old` describes and has not changed
/// since is taken from there.
fn compile(project: &Project, old: Option<&Manifest>) -> Result<Tree> {
    let Project {
        root, declarations, ..
    } = project;
    let mut sources = Sources::default();
    let mut jobs = Vec::new();
    for entry in &declarations.entries {
        let fingerprint = sources
            .fingerprint(root, &declarations.compiler, entry)
            .map_err(|e| anyhow!(e))?;
        jobs.push((entry, fingerprint));
    }
    let texts = in_parallel(&jobs, threads(), |(entry, fingerprint)| -> Result<String> {
        if let Some(text) = old.and_then(|old| unchanged(root, old, entry, fingerprint)) {
            return Ok(text);
        }
        let (text, time) = project.shipped(entry)?;
        println!("{:40} {:7} bytes {time:6.1?}", entry.name, text.len());
        if time > ENTRY_TIME {
            bail!(
                "{} took {time:.1?} to compile, of at most {ENTRY_TIME:?}",
                entry.name
            );
        }
        Ok(text)
    });
    let mut tree = Tree::new();
    let mut records = Vec::new();
    for ((entry, fingerprint), text) in jobs.iter().zip(texts) {
        let text = text?;
        let info = Info::read(&text, entry).map_err(|e| anyhow!(e))?;
        records.push(record(entry, fingerprint, &text, info));
        tree.insert(format!("ptx/{}", entry.path()), text);
    }
    let manifest = Manifest {
        compiler: declarations.compiler.clone(),
        sources: sources
            .hashes()
            .map(|(path, sha256)| (path, sha256.to_owned()))
            .collect(),
        entries: records,
    };
    let manifest = format!(
        "# Written by `cargo xtask ptx`: what each text was made from and what it says of itself.\n\n{}",
        toml::to_string(&manifest)?
    );
    tree.insert("ptx/manifest.toml".to_owned(), manifest);
    Ok(tree)
}

/// The checked-in text of an entry, if nothing that it depends on has changed.
fn unchanged(
    root: &Path,
    old: &Manifest,
    entry: &Declaration,
    fingerprint: &Fingerprint,
) -> Option<String> {
    let record = old
        .record(&entry.name)
        .filter(|record| record.key == fingerprint.key)?;
    let text = read(&root.join("ptx").join(entry.path())).ok()?;
    (sha256(&text) == record.ptx_sha256).then_some(text)
}

fn record(entry: &Declaration, made_from: &Fingerprint, text: &str, info: Info) -> Record {
    Record {
        name: entry.name.clone(),
        key: made_from.key.clone(),
        ptx_sha256: sha256(text),
        kernel: entry.kernel.clone(),
        target: entry.target.clone(),
        ptx_version: entry.ptx_version.clone(),
        dtype: entry.dtype.clone(),
        head_dim: entry.head_dim,
        v_dim: entry.v_dim,
        variant: entry.variant.clone(),
        hot: entry.hot,
        sources: made_from.files.keys().cloned().collect(),
        defines: entry.defines.clone(),
        info,
    }
}

/// Every file below a folder, relative to the repository. Git's own markers are not counted.
pub fn files_below(root: &Path, folder: &str) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let path = root.join(folder);
    if path.is_file() {
        files.insert(folder.to_owned());
    } else if path.is_dir() {
        for item in std::fs::read_dir(path)? {
            let name = item?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && name != "target" {
                files.extend(files_below(root, &format!("{folder}/{name}"))?);
            }
        }
    }
    Ok(files)
}

fn first_difference(path: &str, found: &str, made: &str) -> String {
    let lines = found.lines().zip(made.lines()).enumerate();
    match lines.into_iter().find(|(_, (found, made))| found != made) {
        Some((i, (found, made))) => {
            format!(
                "{path}:{} differs\n    is        {found}\n    should be {made}",
                i + 1
            )
        }
        None => format!("{path} has {} bytes, not {}", found.len(), made.len()),
    }
}
