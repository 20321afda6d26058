//! What an entry is made from: its source, every header that it includes, and its settings, as
//! hashes that can be compared with those of the checked-in text.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Result;
use super::declaration::{Compiler, Declaration};

/// The files below `cuda/` that have been read so far, with their hashes and their includes.
#[derive(Default)]
pub struct Sources {
    files: BTreeMap<String, File>,
}

struct File {
    sha256: String,
    includes: Vec<String>,
}

/// What one entry is made from.
pub struct Fingerprint {
    /// Files, relative to the repository, with their hashes, in order of their names.
    pub files: BTreeMap<String, String>,
    /// Hash over the files, the settings and the compiler's version.
    pub key: String,
}

impl Sources {
    /// Follows the includes of an entry. Only `#include "..."` is followed: what stands in angle
    /// brackets belongs to the toolkit, which the compiler's version stands for.
    pub fn fingerprint(
        &mut self,
        root: &Path,
        compiler: &Compiler,
        entry: &Declaration,
    ) -> Result<Fingerprint> {
        let mut files = BTreeMap::new();
        let mut pending = vec![entry.source.clone()];
        while let Some(name) = pending.pop() {
            let file = self.file(root, &name)?;
            if files
                .insert(format!("cuda/{name}"), file.sha256.clone())
                .is_none()
            {
                pending.extend(file.includes.iter().cloned());
            }
        }
        let mut key = Sha256::new();
        let mut part = |text: &str| {
            key.update((text.len() as u64).to_le_bytes());
            key.update(text);
        };
        part(super::ship::FORMAT);
        part(&compiler.nvcc);
        part(&entry.source);
        part(&entry.ptx_version);
        for argument in compiler.flags.iter().chain(&entry.arguments()) {
            part(argument);
        }
        for (path, sha256) in &files {
            part(path);
            part(sha256);
        }
        Ok(Fingerprint {
            files,
            key: hex(key),
        })
    }

    /// Every file seen so far, relative to the repository, with its hash.
    pub fn hashes(&self) -> impl Iterator<Item = (String, &str)> {
        self.files
            .iter()
            .map(|(name, file)| (format!("cuda/{name}"), file.sha256.as_str()))
    }

    fn file(&mut self, root: &Path, name: &str) -> Result<&File> {
        if !self.files.contains_key(name) {
            let text = super::read(&root.join("cuda").join(name))?;
            let includes = quoted_includes(&text)
                .map(|(line, include)| {
                    resolve(root, name, include).ok_or(format!(
                        "cuda/{name}:{line}: \"{include}\" is neither beside this file nor below \
                         cuda/ (write <{include}> if it belongs to the toolkit)"
                    ))
                })
                .collect::<Result<_>>()?;
            let file = File {
                sha256: sha256(&text),
                includes,
            };
            self.files.insert(name.to_owned(), file);
        }
        Ok(&self.files[name])
    }
}

/// Lower-case hex of the hash of a text.
pub fn sha256(text: &str) -> String {
    hex(Sha256::new_with_prefix(text))
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Line numbers and names of the `#include "..."` of a source.
fn quoted_includes(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(i, line)| {
        let directive = line.trim_start().strip_prefix('#')?.trim_start();
        let quoted = directive
            .strip_prefix("include")?
            .trim_start()
            .strip_prefix('"')?;
        Some((i + 1, quoted.split_once('"')?.0))
    })
}

/// Where the compiler finds a quoted include: beside the including file, else below `cuda/`.
/// The answer is relative to `cuda/`, with `..` taken out, so that a file has one name.
fn resolve(root: &Path, includer: &str, include: &str) -> Option<String> {
    let folder = includer.rsplit_once('/').map_or("", |(folder, _)| folder);
    [format!("{folder}/{include}"), include.to_owned()]
        .into_iter()
        .find_map(|name| {
            let mut parts = Vec::new();
            for part in name.split('/').filter(|part| !matches!(*part, "" | ".")) {
                match part {
                    ".." => drop(parts.pop()?),
                    _ => parts.push(part),
                }
            }
            let name = parts.join("/");
            root.join("cuda").join(&name).is_file().then_some(name)
        })
}
