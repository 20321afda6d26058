//! `cargo xtask rows`: breaks the emulator's instruction table on purpose, and counts what its tests
//! notice.
//!
//! A mutant is a row with one thing wrong (`emulator/src/isa/mutation.rs`): a modifier or a type read
//! as another, a lane left out, a result flipped. The tests that bind the row run on it; it is noticed
//! if one of them fails. Forms that do not exist are no mutants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// Arguments of `cargo xtask rows`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only mutants whose description contains this
    #[arg(default_value = "")]
    filter: String,
    /// Only every N-th mutant, from the K-th: `0/12` is the first of twelve shares
    #[arg(long, value_name = "K/N", value_parser = share, default_value = "0/1")]
    share: (usize, usize),
    /// Share of mutants that has to be noticed, in percent
    #[arg(long, default_value_t = 98.0)]
    goal: f64,
}

fn share(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/');
    let numbers = numbers.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers
        .filter(|(k, n)| k < n)
        .ok_or_else(|| "a share is K/N with K below N".to_owned())
}

/// Mutants that do what the row does, or what another mutant does: start of the opcode, part of the description, and why.
const EQUIVALENT: &[(&str, &str, &str)] = &[
    (
        "",
        ": cache as ca",
        "where data is cached has no say in what it is",
    ),
    (
        "",
        ": cache as cg",
        "where data is cached has no say in what it is",
    ),
    ("", ": prefetch as L2::64B", "a hint"),
    ("", ": prefetch as L2::128B", "a hint"),
    ("", ": prefetch as L2::256B", "a hint"),
    ("", ": hint as L2::cache_hint", "a hint"),
    ("", ": flag uni", "a promise that nothing is made of"),
    ("", ": flag rn", "the rounding that is meant without it"),
    (
        "",
        ": to as shared::cta",
        "the same mutant as the one for shared",
    ),
    (
        "",
        ": space as shared::cta",
        "the same mutant as the one for shared",
    ),
    ("add", ": sources 0 and 1 swapped", "commutative"),
    ("mul", ": sources 0 and 1 swapped", "commutative"),
    ("mad", ": sources 0 and 1 swapped", "commutative"),
    ("fma", ": sources 0 and 1 swapped", "commutative"),
    ("min", ": sources 0 and 1 swapped", "commutative"),
    ("max", ": sources 0 and 1 swapped", "commutative"),
    ("and.", ": sources 0 and 1 swapped", "commutative"),
    ("or.", ": sources 0 and 1 swapped", "commutative"),
    ("xor", ": sources 0 and 1 swapped", "commutative"),
    ("sad", ": sources 0 and 1 swapped", "commutative"),
    (
        "add.u16",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "sub.u16",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "add.cc",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "addc",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "sub.cc",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "subc",
        ": type 0 as",
        "two's complement does not know of signs",
    ),
    (
        "cos",
        ": flag ftz",
        "the cosine of a subnormal number is that of zero, and none is subnormal",
    ),
    (
        "set.<cmp>",
        ": type 1 as b16",
        "of bits there is equality alone, which does not look at signs",
    ),
    (
        "cvt.<rnd>.u8",
        ": flag sat",
        "floats become integers with saturation in any case",
    ),
    (
        "cvt.<rnd>.u16",
        ": flag sat",
        "floats become integers with saturation in any case",
    ),
    (
        "cvt.<rnd>.f16..u8",
        ": flag ftz",
        "no integer is a subnormal number",
    ),
    (
        "ld.<space>",
        ": scope as",
        "shared memory belongs to one block, which every scope holds",
    ),
    (
        "st.<space>",
        ": scope as",
        "shared memory belongs to one block, which every scope holds",
    ),
    (
        "ldu",
        ": space as global",
        "reads nothing else, and its generic addresses are the same",
    ),
    (
        "discard",
        ": space as global",
        "is about nothing else, and its generic addresses are the same",
    ),
    ("createpolicy", "", "makes a hint, of which nothing is made"),
    ("applypriority", "", "a hint"),
    ("pmevent", "", "an event for a profiler that is not there"),
    ("prefetch", ": address 16 off", "a hint"),
    ("prefetch", ": skipped", "a hint"),
    ("prefetch", ": a lane left out", "a hint"),
];

/// Tests of a row that run at once on a mutant, one round after the other until one notices.
const ROUNDS: [usize; 4] = [1, 5, 12, 30];

/// Part of the names of tests that, on a mutant, check all forms of its row and nothing else.
const OF_ONE_ROW: &str = "::forms_of_";

/// The program whose tests do so for a few rows each.
const OF_FEW_ROWS: &str = "rows-";

/// Longest that a test may take before it counts as hanging, which is noticed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Mutant {
    number: usize,
    row: usize,
    about: String,
}

/// A test, in its program.
type Test = (PathBuf, String);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Noticed,
    /// No test has an instruction that this changes, or the change makes no difference.
    NoMutant,
    Survived,
}

/// Runs all mutants, and fails if the tests notice too few of them.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let programs = build(root)?;
    let seen = seen(root, &programs)?;
    let mut mutants = list(root, &programs)?;
    let (nth, of) = arguments.share;
    mutants.retain(|mutant| mutant.number % of == nth && mutant.about.contains(&arguments.filter));
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(BTreeMap::new());
    let bar = ProgressBar::new(mutants.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} {eta} {msg}",
    )?);
    let work = || -> Result<()> {
        while let Some(mutant) = mutants.get(next.fetch_add(1, Relaxed)) {
            let tests = seen.get(&mutant.row);
            let verdict = judge(root, mutant, tests.map_or(&[], Vec::as_slice))?;
            if verdict == Verdict::Survived {
                let tests = tests.map_or(0, Vec::len);
                let (about, number) = (&mutant.about, mutant.number);
                bar.suspend(|| println!("not noticed by {tests} tests: {about} (mutant {number})"));
            }
            *verdicts
                .lock()
                .expect("no thread panics")
                .entry(verdict)
                .or_insert(0usize) += 1;
            bar.inc(1);
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().expect("no thread panics")?;
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    let verdicts = verdicts.into_inner().expect("no thread panics");
    let count = |verdict| verdicts.get(&verdict).copied().unwrap_or(0);
    let (noticed, survived) = (count(Verdict::Noticed), count(Verdict::Survived));
    let score = 100.0 * noticed as f64 / (noticed + survived).max(1) as f64;
    println!(
        "{noticed} of {} mutants noticed: {score:.2} %",
        noticed + survived
    );
    ensure!(score >= arguments.goal, "the goal is {} %", arguments.goal);
    Ok(())
}

/// Builds the emulator's test programs with mutants in them.
fn build(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("cargo")
        .args("test --package ptx-emulator --no-run --lib --tests --message-format json".split(' '))
        .args(["--config", "profile.dev.package.ptx-emulator.opt-level=1"])
        .env("RUSTFLAGS", "--cfg ptx_mutation")
        .env("CARGO_TARGET_DIR", root.join("target/mutation"))
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout)?;
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let program = |value: serde_json::Value| {
        let path = value.get("executable")?.as_str()?;
        (value["profile"]["test"] == true).then(|| PathBuf::from(path))
    };
    Ok(text
        .lines()
        .filter_map(message)
        .filter_map(program)
        .collect())
}

/// Which tests bind which row. They all have to pass.
fn seen(root: &Path, programs: &[PathBuf]) -> Result<BTreeMap<usize, Vec<Test>>> {
    let notes = root.join("target/mutation/seen");
    let mut all: BTreeMap<usize, BTreeSet<Test>> = BTreeMap::new();
    for program in programs {
        let _ = std::fs::remove_file(&notes);
        let status = Command::new(program)
            .arg("--quiet")
            .env("PTX_EMULATOR_SEEN", &notes)
            .stdout(Stdio::null())
            .current_dir(root.join("emulator"))
            .status()?;
        ensure!(
            status.success(),
            "{} fails without mutants",
            program.display()
        );
        for line in std::fs::read_to_string(&notes).unwrap_or_default().lines() {
            let (row, test) = line.split_once(' ').context("a line of notes")?;
            let tests = all.entry(row.parse()?).or_default();
            tests.insert((program.clone(), test.to_owned()));
        }
    }
    let mut rows: BTreeMap<Test, usize> = BTreeMap::new();
    for test in all.values().flatten() {
        *rows.entry(test.clone()).or_default() += 1;
    }
    let few = |test: &Test| {
        let name = test.0.file_name().map(|name| name.to_string_lossy());
        test.1.contains(OF_ONE_ROW) || name.is_some_and(|name| name.starts_with(OF_FEW_ROWS))
    };
    // Behind those of few rows come those that bind the fewest.
    let sorted = |tests: BTreeSet<Test>| {
        let mut tests: Vec<Test> = tests.into_iter().collect();
        tests.sort_by_key(|test| (!few(test), rows.get(test).copied()));
        tests.truncate(ROUNDS.iter().sum());
        tests
    };
    Ok(all
        .into_iter()
        .map(|(row, tests)| (row, sorted(tests)))
        .collect())
}

fn list(root: &Path, programs: &[PathBuf]) -> Result<Vec<Mutant>> {
    let is_list = |program: &&PathBuf| {
        let name = program.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("mutants-"))
    };
    let program = programs
        .iter()
        .find(is_list)
        .context("no tests/mutants.rs")?;
    let output = Command::new(program)
        .args(["list", "--nocapture"])
        .current_dir(root)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mutant = |line: &str| {
        let mut fields = line.strip_prefix("mutant ")?.splitn(3, ' ');
        Some(Mutant {
            number: fields.next()?.parse().ok()?,
            row: fields.next()?.parse().ok()?,
            about: fields.next()?.to_owned(),
        })
    };
    let mutants: Vec<_> = text.lines().filter_map(mutant).collect();
    ensure!(!mutants.is_empty(), "no mutants are listed");
    Ok(mutants)
}

/// Runs the tests that bind the mutant's row.
fn judge(root: &Path, mutant: &Mutant, tests: &[Test]) -> Result<Verdict> {
    let about = &mutant.about;
    let same =
        |(start, part, _): &(&str, &str, &str)| about.starts_with(start) && about.contains(part);
    if EQUIVALENT.iter().any(same) {
        return Ok(Verdict::NoMutant);
    }
    let bent = root.join(format!("target/mutation/bent-{}", mutant.number));
    let mut noticed = false;
    let mut rest = tests;
    for count in ROUNDS {
        let some;
        (some, rest) = rest.split_at(count.min(rest.len()));
        let mut programs: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
        for (program, test) in some {
            programs.entry(program).or_default().push(test);
        }
        for (program, tests) in programs {
            noticed = noticed || !pass(root, mutant, program, &tests, &bent)?;
        }
        if noticed {
            break;
        }
    }
    let bent = std::fs::remove_file(&bent).is_ok();
    Ok(match (noticed, bent || tests.is_empty()) {
        (true, _) => Verdict::Noticed,
        (false, false) => Verdict::NoMutant,
        (false, true) => Verdict::Survived,
    })
}

/// Whether tests of a program pass with the mutant.
fn pass(root: &Path, mutant: &Mutant, program: &Path, tests: &[&str], bent: &Path) -> Result<bool> {
    let mut command = Command::new(program);
    command.args(["--exact", "--quiet", "--test-threads", "1"]);
    if !tests.contains(&"?") {
        command.args(tests);
    }
    let mut child = command
        .env("PTX_EMULATOR_MUTANT", mutant.number.to_string())
        .env("PTX_EMULATOR_BENT", bent)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(root.join("emulator"))
        .spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
