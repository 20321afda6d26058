//! How a program that tests a kernel gets the changed text.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::{Kernel, LaunchStats};

/// What `ptxrun mutate --test` tells the program that it starts, in three environment variables.
///
/// A program that loads PTX asks [`Handover::get`], loads [`Handover::replace`] of its text, and,
/// if it can, tells with [`Handover::record`] what a launch has executed: only that is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    original: String,
    mutant: String,
    executed: Option<PathBuf>,
}

impl Handover {
    /// File of the text that is to be replaced.
    pub const ORIGINAL: &'static str = "PTXRUN_ORIGINAL";
    /// File of the text to load instead.
    pub const MUTANT: &'static str = "PTXRUN_MUTANT";
    /// File to which the numbers of lines that were executed are appended, one a line. Not set unless
    /// they are wanted.
    pub const EXECUTED: &'static str = "PTXRUN_EXECUTED";

    /// What the environment says; nothing in a program that was not started to test a mutant.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn from_env() -> io::Result<Option<Handover>> {
        let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
        match (file(Self::ORIGINAL), file(Self::MUTANT)) {
            (Some(original), Some(mutant)) => {
                Handover::read(&original, &mutant, file(Self::EXECUTED)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What the environment said when it was first asked.
    ///
    /// # Errors
    /// As of [`Handover::from_env`].
    pub fn get() -> Result<Option<&'static Handover>, &'static str> {
        static HANDOVER: LazyLock<Result<Option<Handover>, String>> =
            LazyLock::new(|| Handover::from_env().map_err(|error| error.to_string()));
        HANDOVER
            .as_ref()
            .map(Option::as_ref)
            .map_err(String::as_str)
    }

    fn read(original: &Path, mutant: &Path, executed: Option<PathBuf>) -> io::Result<Handover> {
        let read = |path: &Path| {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            std::fs::read_to_string(path).map_err(named)
        };
        Ok(Handover {
            original: read(original)?,
            mutant: read(mutant)?,
            executed,
        })
    }

    /// Whether this is the text that is to be replaced.
    pub fn concerns(&self, ptx: &str) -> bool {
        // Drivers get texts with a NUL at the end.
        ptx.trim_end_matches('\0') == self.original.trim_end_matches('\0')
    }

    /// The text to load instead of this one.
    pub fn replace<'a>(&'a self, ptx: &'a str) -> &'a str {
        if self.concerns(ptx) {
            &self.mutant
        } else {
            ptx
        }
    }

    /// Tells which lines a launch has executed, if that is wanted and the kernel is one of the text that
    /// was loaded instead.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, kernel: &Kernel, stats: &LaunchStats) -> io::Result<()> {
        let Some(path) = &self.executed else {
            return Ok(());
        };
        if kernel.source() != self.mutant {
            return Ok(());
        }
        let executed = stats
            .lines()
            .iter()
            .filter(|line| line.counts.executions > 0);
        let lines: BTreeSet<u32> = executed.map(|line| line.line).collect();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // At once, since others may append too.
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(text.as_bytes())
    }
}
