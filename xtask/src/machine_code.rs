//! Assembles PTX with ptxas, and takes out of the result what the hardware executes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

/// A ptxas.
pub struct Assembler {
    /// CUDA release, e.g. `11.8`.
    pub release: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Newest PTX version that it knows.
    pub ptx_version: (u32, u32),
    /// Compute capabilities that it is asked for, times ten.
    pub architectures: &'static [u32],
}

/// What came out for one kernel on one architecture.
pub struct Assembled {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes stored to and loaded from spill slots, over all functions of the module.
    pub spills: (u32, u32),
    /// Bytes of statically allocated shared memory.
    pub static_smem: u32,
    /// Name → bytes of every section that holds instructions or constants.
    pub sections: BTreeMap<String, Vec<u8>>,
}

impl Assembler {
    /// Assembles a text for `sm_<architecture>`.
    pub fn assemble(&self, text: &Path, architecture: &str, output: &Path) -> Result<Assembled> {
        let run = Command::new(&self.path)
            .args(["-v", "-O3", "-arch"])
            .arg(architecture)
            .arg(text)
            .arg("-o")
            .arg(output)
            .output()
            .with_context(|| format!("cannot run {}", self.path.display()))?;
        let log = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        if !run.status.success() {
            bail!(
                "ptxas {} for {architecture} refuses {}:\n{log}",
                self.release,
                text.display()
            );
        }
        let file = std::fs::read(output)?;
        std::fs::remove_file(output)?;
        Ok(Assembled {
            registers: number_before(&log, " registers")
                .into_iter()
                .max()
                .unwrap_or(0),
            spills: (
                number_before(&log, " bytes spill stores").iter().sum(),
                number_before(&log, " bytes spill loads").iter().sum(),
            ),
            static_smem: number_before(&log, " bytes smem").iter().sum(),
            sections: sections(&file)?,
        })
    }
}

/// Every number that stands right before these words.
fn number_before(log: &str, words: &str) -> Vec<u32> {
    let ends = log.match_indices(words).map(|(at, _)| &log[..at]);
    ends.filter_map(|text| {
        text.rsplit(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    })
    .collect()
}

/// The sections of a cubin that hold instructions and constants.
fn sections(file: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let elf = object::File::parse(file)?;
    let mut sections = BTreeMap::new();
    for section in elf.sections() {
        let name = section.name()?;
        if name.starts_with(".text.") || name.starts_with(".nv.constant") {
            sections.insert(name.to_owned(), section.data()?.to_vec());
        }
    }
    if !sections.keys().any(|name| name.starts_with(".text.")) {
        bail!("the assembler's output holds no code");
    }
    Ok(sections)
}
