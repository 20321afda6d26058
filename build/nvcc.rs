//! Finds nvcc and runs it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Result;
use super::declaration::{Compiler, Declaration};
use super::ship;

/// The variable that names an nvcc; nothing else is looked at when it is set.
pub const NVCC_VARIABLE: &str = "INFER_KERNELS_NVCC";

/// The other variables that decide which nvcc is found.
pub const SEARCH_VARIABLES: [&str; 5] = [
    "CUDA_HOME",
    "CUDA_PATH",
    "PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
];

/// An nvcc that answered.
#[derive(Clone)]
pub struct Nvcc {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, e.g. `13.0.88`.
    pub version: String,
}

impl Nvcc {
    /// The first nvcc of the pinned version, else the first that there is: in `CUDA_HOME`,
    /// `CUDA_PATH`, on `PATH`, in the active Python environment's packages, in the repository's
    /// `.tools/`.
    pub fn find(root: &Path, pinned: &str) -> Result<Option<Self>> {
        if let Some(path) = variable(NVCC_VARIABLE) {
            let path = PathBuf::from(path);
            return match Self::ask(&path) {
                Some(nvcc) => Ok(Some(nvcc)),
                None => Err(format!(
                    "{NVCC_VARIABLE}={} does not answer to --version",
                    path.display()
                )),
            };
        }
        let mut found: Vec<Self> = candidates(root)
            .iter()
            .filter_map(|path| Self::ask(path))
            .collect();
        let best = found
            .iter()
            .position(|nvcc| nvcc.version == pinned)
            .unwrap_or(0);
        Ok((best < found.len()).then(|| found.swap_remove(best)))
    }

    /// Runs `nvcc --version`.
    fn ask(path: &Path) -> Option<Self> {
        let output = Command::new(path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .rsplit_once(", V")?
            .1
            .split_whitespace()
            .next()?
            .to_owned();
        Some(Self {
            path: path.to_owned(),
            version,
        })
    }

    /// The folder that holds `bin/nvcc`.
    pub fn toolkit(&self) -> Option<&Path> {
        self.path.parent()?.parent()
    }

    /// Compiles an entry to PTX, as the compiler writes it. `scratch` is a folder for its files.
    pub fn compile(
        &self,
        root: &Path,
        compiler: &Compiler,
        entry: &Declaration,
        scratch: &Path,
    ) -> Result<String> {
        let raw = scratch.join(format!("{}.raw.ptx", entry.name));
        let mut command = Command::new(&self.path);
        command
            .current_dir(root)
            .args(["-ptx", "-I", "cuda"])
            .args(&compiler.flags)
            .args(entry.arguments())
            .arg(Path::new("cuda").join(&entry.source))
            .arg("-o")
            .arg(&raw);
        let output = command
            .output()
            .map_err(|e| format!("cannot run {}: {e}", self.path.display()))?;
        if !output.status.success() {
            return Err(format!(
                "nvcc refused {}\n{command:?}\n{}{}",
                entry.name,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            ));
        }
        super::read(&raw)
    }

    /// Compiles an entry to the text that is shipped.
    pub fn shipped(
        &self,
        root: &Path,
        compiler: &Compiler,
        entry: &Declaration,
        scratch: &Path,
    ) -> Result<String> {
        let raw = self.compile(root, compiler, entry, scratch)?;
        ship::ship(
            &raw,
            entry,
            &ship::Origin {
                root,
                toolkit: self.toolkit(),
                compiler,
            },
        )
        .map_err(|e| format!("{}: {e}", entry.name))
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Every place where an nvcc might be, in order of preference.
fn candidates(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(variable(name).map(|home| PathBuf::from(home).join("bin")));
    }
    folders.extend(variable("PATH").iter().flat_map(std::env::split_paths));
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(lib) = variable(name).map(|home| PathBuf::from(home).join("lib")) else {
            continue;
        };
        let pythons = std::fs::read_dir(lib).into_iter().flatten().flatten();
        folders.extend(pythons.map(|p| p.path().join("site-packages/nvidia/cu13/bin")));
    }
    folders.push(root.join(".tools/cuda/nvidia/cu13/bin"));
    let nvcc = format!("nvcc{}", std::env::consts::EXE_SUFFIX);
    folders
        .into_iter()
        .map(|folder| folder.join(&nvcc))
        .filter(|path| path.is_file())
        .collect()
}

/// Applies a function to every item on `threads` threads; results in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    f: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((i, item)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            items.get(i).map(|item| (i, item))
        } {
            done.push((i, f(item)));
        }
        done
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|w| {
                w.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}
