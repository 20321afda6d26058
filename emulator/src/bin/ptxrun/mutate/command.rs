//! Mutants judged by a command that is given their text.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use process_wrap::std::{ChildWrapper, CommandWrap};
use ptx_emulator::mutate::Handover;
use tempfile::TempDir;

use super::Verdict;
use crate::Failure;

pub struct TestCommand {
    command: String,
    original: PathBuf,
    limit: Duration,
    /// The lines that it told of, if it did.
    pub executed: Option<BTreeSet<u32>>,
}

impl TestCommand {
    /// Runs the command with the unchanged text, which it has to be content with.
    pub fn new(command: &str, original: &Path, limit: u64) -> Result<TestCommand, Failure> {
        let absolute = std::path::absolute(original).map_err(|error| error.to_string())?;
        let mut test = TestCommand {
            command: command.to_string(),
            original: absolute,
            limit: Duration::MAX,
            executed: None,
        };
        let folder = folder()?;
        let record = folder.path().join("executed");
        let start = Instant::now();
        let status = test.run(&test.original, Some(&record))?;
        // What is quick may be held up by others.
        test.limit = (start.elapsed() * limit as u32).max(Duration::from_secs(10));
        if status.is_none_or(|status| !status.success()) {
            return Err(Failure::Usage(format!(
                "--test: the command fails with the unchanged text: {command}"
            )));
        }
        if let Ok(lines) = std::fs::read_to_string(&record) {
            test.executed = Some(lines.lines().filter_map(|line| line.parse().ok()).collect());
        }
        Ok(test)
    }

    pub fn judge(&self, text: &str) -> Result<Verdict, String> {
        let folder = folder()?;
        let file = folder.path().join("mutant.ptx");
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(match self.run(&file, None)? {
            None => Verdict::Endless,
            Some(status) if status.success() => Verdict::Survived,
            Some(_) => Verdict::Test,
        })
    }

    /// How the command ends; nothing if it takes too long.
    fn run(&self, mutant: &Path, executed: Option<&Path>) -> Result<Option<ExitStatus>, String> {
        let mut command = if cfg!(windows) {
            let mut command = Command::new("cmd");
            command.arg("/C");
            command
        } else {
            let mut command = Command::new("sh");
            command.arg("-c");
            command
        };
        command
            .arg(&self.command)
            .env(Handover::ORIGINAL, &self.original)
            .env(Handover::MUTANT, mutant)
            .env_remove(Handover::EXECUTED)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(path) = executed {
            command.env(Handover::EXECUTED, path);
        }
        let failed = |error: io::Error| format!("--test: {error}: {}", self.command);
        // What the command starts ends with it.
        let mut command = CommandWrap::from(command);
        #[cfg(unix)]
        command.wrap(process_wrap::std::ProcessGroup::leader());
        let child = command.spawn().map_err(failed)?;
        wait(child, self.limit).map_err(failed)
    }
}

fn folder() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("a folder for mutants: {error}"))
}

/// Looks often at first, since many commands take no time.
fn wait(mut child: Box<dyn ChildWrapper>, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Whatever the shell started is gone too.
    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let folder = folder().unwrap();
        let file = folder.path().join("late");
        let test = TestCommand {
            command: format!("(sleep 2; touch {}) & wait", file.display()),
            original: PathBuf::new(),
            limit: Duration::from_millis(100),
            executed: None,
        };
        let start = Instant::now();
        assert_eq!(test.run(Path::new(""), None).unwrap(), None);
        assert!(start.elapsed() < Duration::from_millis(1900));
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!file.exists());
    }
}
