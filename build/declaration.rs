//! `cuda/kernels.toml`: which entries there are and how each is compiled.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;

/// The whole of `cuda/kernels.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declarations {
    /// The compiler that `ptx/` is made with.
    pub compiler: Compiler,
    /// Every entry, in the order of the file.
    #[serde(default, rename = "entry")]
    pub entries: Vec<Declaration>,
}

/// The pinned compiler and the flags that every entry gets.
#[derive(Deserialize, Serialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Compiler {
    /// Version as `nvcc --version` prints it after the `V`.
    pub nvcc: String,
    /// Flags besides `-ptx`, `-arch`, `-I` and the defines.
    pub flags: Vec<String>,
}

/// One entry: a kernel source with the values that make it a particular kernel.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Name of the `extern "C"` entry, and stem of its PTX file.
    pub name: String,
    /// The `.cu` file, relative to `cuda/`.
    pub source: String,
    /// Family: which Rust wrapper launches it.
    pub kernel: String,
    /// Architecture in the text, e.g. `sm_80`.
    pub target: String,
    /// PTX version that the text is lowered to, e.g. `7.2`.
    pub ptx_version: String,
    /// Macros, besides `INFER_ENTRY`, which is always the name.
    #[serde(default)]
    pub defines: BTreeMap<String, Define>,
    /// Element type of the operands.
    pub dtype: String,
    /// Head dimension; 0 where the kernel has none.
    #[serde(default)]
    pub head_dim: u32,
    /// Head dimension of the values; 0 where the kernel has none.
    #[serde(default)]
    pub v_dim: u32,
    /// Which of a family's entries of one type and head dimension.
    #[serde(default)]
    pub variant: String,
    /// Hot kernels may not spill registers.
    #[serde(default)]
    pub hot: bool,
}

/// Value of a macro.
#[derive(Deserialize, Serialize, Clone, PartialEq, Eq)]
#[serde(untagged)]
pub enum Define {
    /// `NAME = 1`
    Number(i64),
    /// `NAME = "text"`: the text without quotes becomes the macro's body.
    Text(String),
}

impl std::fmt::Display for Define {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Define::Number(n) => n.fmt(f),
            Define::Text(t) => t.fmt(f),
        }
    }
}

impl Declarations {
    /// Reads `cuda/kernels.toml` under `root` and checks what does not need a compiler to check.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("cuda/kernels.toml");
        let all: Self =
            toml::from_str(&super::read(&path)?).map_err(|e| format!("{}: {e}", path.display()))?;
        for (i, entry) in all.entries.iter().enumerate() {
            let wrong = |what: &str| Err(format!("cuda/kernels.toml: {}: {what}", entry.name));
            if all.entries[..i].iter().any(|e| e.name == entry.name) {
                return wrong("this name is declared twice");
            }
            if entry.capability().is_none() {
                return wrong("target must read sm_NN, e.g. sm_80");
            }
            if entry.version().is_none() {
                return wrong("ptx_version must read M.N, e.g. 7.2");
            }
        }
        Ok(all)
    }
}

impl Declaration {
    /// `sm_80` → 80. Architecture-specific targets (`sm_90a`) give their number too.
    pub fn capability(&self) -> Option<u32> {
        let digits = self.target.strip_prefix("sm_")?;
        digits.trim_end_matches(['a', 'f']).parse().ok()
    }

    /// `7.2` → (7, 2).
    pub fn version(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.ptx_version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Where the text lies below `ptx/`.
    pub fn path(&self) -> String {
        format!("{}/{}.ptx", self.target, self.name)
    }

    /// Command-line arguments that are this entry's own.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("-arch={}", self.target.replace("sm_", "compute_")),
            format!("-DINFER_ENTRY={}", self.name),
        ];
        arguments.extend(
            self.defines
                .iter()
                .map(|(name, value)| format!("-D{name}={value}")),
        );
        arguments
    }
}
