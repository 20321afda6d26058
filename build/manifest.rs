//! `ptx/manifest.toml`: what each checked-in text was made from and what it says about itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;
use super::declaration::{Compiler, Declaration, Define};
use super::info::Info;
use super::sources::Fingerprint;

/// The whole of `ptx/manifest.toml`.
#[derive(Deserialize, Serialize)]
pub struct Manifest {
    /// The compiler that made every text.
    pub compiler: Compiler,
    /// Every file below `cuda/` that some entry is made from, with its SHA-256.
    pub sources: BTreeMap<String, String>,
    /// One row for each entry.
    #[serde(default, rename = "entry")]
    pub entries: Vec<Record>,
}

/// One checked-in text.
#[derive(Deserialize, Serialize)]
pub struct Record {
    /// Name of the entry.
    pub name: String,
    /// Hash over everything that the text depends on; see [`Fingerprint::key`].
    pub key: String,
    /// SHA-256 of the text.
    pub ptx_sha256: String,
    /// Family.
    pub kernel: String,
    /// `.target` of the text.
    pub target: String,
    /// `.version` of the text.
    pub ptx_version: String,
    /// Element type.
    pub dtype: String,
    /// Head dimension, 0 for none.
    pub head_dim: u32,
    /// Head dimension of the values, 0 for none.
    pub v_dim: u32,
    /// Which of a family's entries of one type and head dimension.
    pub variant: String,
    /// May not spill registers.
    pub hot: bool,
    /// The files it is made from.
    pub sources: Vec<String>,
    /// Macros it is made with.
    pub defines: BTreeMap<String, Define>,
    /// What was read out of the text.
    pub info: Info,
}

impl Manifest {
    /// Reads `ptx/manifest.toml` under `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("ptx/manifest.toml");
        toml::from_str(&super::read(&path)?).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The row of an entry.
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.entries.iter().find(|record| record.name == name)
    }

    /// Why the checked-in text of an entry is not what its sources would compile to now, in one
    /// line for each reason; nothing if it is.
    pub fn differences(
        &self,
        compiler: &Compiler,
        entry: &Declaration,
        now: &Fingerprint,
    ) -> Vec<String> {
        let Some(record) = self.record(&entry.name) else {
            return vec!["it is new: ptx/manifest.toml does not have it".to_owned()];
        };
        if record.key == now.key {
            return Vec::new();
        }
        let mut reasons = Vec::new();
        for (path, sha256) in &now.files {
            if !record.sources.contains(path) {
                reasons.push(format!("{path} is included now"));
            } else if self.sources.get(path) != Some(sha256) {
                reasons.push(format!("{path} was edited"));
            }
        }
        for path in record
            .sources
            .iter()
            .filter(|path| !now.files.contains_key(*path))
        {
            reasons.push(format!("{path} is not included any more"));
        }
        if self.compiler != *compiler {
            reasons.push("the compiler or its flags changed in cuda/kernels.toml".to_owned());
        }
        if reasons.is_empty() {
            reasons.push("its settings in cuda/kernels.toml were edited".to_owned());
        }
        reasons
    }
}
