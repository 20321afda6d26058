//! Results of steps, kept in a file.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The last result of each step that was ever run.
#[derive(Deserialize, Serialize, Default)]
pub struct Results {
    #[serde(default, rename = "result")]
    all: Vec<Outcome>,
}

/// How a step ended.
#[derive(Deserialize, Serialize)]
pub struct Outcome {
    pub part: String,
    pub step: String,
    /// Hash of all that decided it.
    pub sources: String,
    pub passed: bool,
    pub date: String,
    pub seconds: u64,
    pub machine: String,
}

const RESULTS: &str = ".ci/nightly-results.toml";

impl Results {
    pub fn read(root: &Path) -> Result<Self> {
        match std::fs::read_to_string(root.join(RESULTS)) {
            Ok(text) => toml::from_str(&text).context(RESULTS),
            Err(_) => Ok(Self::default()),
        }
    }

    pub fn passed(&self, part: &str, step: &str, sources: &str) -> bool {
        let same = |o: &&Outcome| o.part == part && o.step == step && o.sources == sources;
        self.all
            .iter()
            .find(same)
            .is_some_and(|outcome| outcome.passed)
    }

    /// Replaces what was known about a step, and writes the file.
    pub fn keep(&mut self, root: &Path, outcome: Outcome) -> Result<()> {
        self.all
            .retain(|o| (&o.part, &o.step) != (&outcome.part, &outcome.step));
        self.all.push(outcome);
        self.all
            .sort_by(|a, b| (&a.part, &a.step).cmp(&(&b.part, &b.step)));
        let text = format!(
            "# Written by `cargo xtask nightly PART`.\n\n{}",
            toml::to_string(self)?
        );
        std::fs::write(root.join(RESULTS), text).context(RESULTS)
    }
}

/// Today in UTC, as `2026-11-23`.
pub fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_secs());
    let mut days = seconds / 86_400;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

/// Processor, number of cores and operating system.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{model} {}, {cores} cores, {}",
        std::env::consts::ARCH,
        std::env::consts::OS
    )
    .trim()
    .to_owned()
}
