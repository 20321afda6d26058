//! `ptxrun mutate`.

mod command;
mod compare;
mod equivalent;
mod report;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ptx_emulator::mutate::{self, Kind, Mutant};

use crate::Failure;
use crate::run::{self, Run, read};
use command::TestCommand;
use compare::{Comparison, Expected};
use equivalent::Equivalents;

/// What to change, and who should notice.
#[derive(Args)]
#[command(
    mut_arg("grid", |arg| arg.required(false).required_unless_present("test")),
    mut_arg("block", |arg| arg.required(false).required_unless_present("test")),
)]
pub struct MutateArguments {
    #[command(flatten)]
    launch: run::Arguments,
    /// Mutants to draw: of each kind as many, spread over the lines of the source
    #[arg(long, value_name = "N", default_value_t = 400)]
    sample: usize,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    draw: u64,
    /// Kinds to draw from: all but cache, or some of barrier, wait, fence, order, branch, guard,
    /// comparison, logic, select, exchange, address, constant, fragment, rounding, type, arithmetic,
    /// copy, store, deletion, cache
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// An array that OUT.npy, an output of an --arg, has to be, instead of what the unchanged kernel
    /// gives
    #[arg(long, value_name = "OUT.npy=FILE.npy", value_parser = compare::expected)]
    expect: Vec<Expected>,
    /// Elements may be off by this much of what is expected
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    rtol: f64,
    /// ... plus this much
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    atol: f64,
    /// A command that fails if it notices, instead of a launch. It finds the file to replace in
    /// PTXRUN_ORIGINAL, the one to load instead in PTXRUN_MUTANT, and may append the numbers of PTX
    /// lines that it ran to the file PTXRUN_EXECUTED
    #[arg(long, value_name = "COMMAND", conflicts_with_all =
        ["grid", "block", "entry", "smem", "values", "expect", "rtol", "atol", "seed", "seeds", "budget"])]
    test: Option<String>,
    /// A mutant that takes this many times the steps of the unchanged kernel (with --test: the time of
    /// the command) does not end, and is noticed
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..))]
    limit: u64,
    /// Mutants to run at the same time; 0: one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// A list of mutants that compute the same, with reasons; they are not drawn. A line each:
    /// PTX_LINE: BEFORE => AFTER # REASON, where * stands for anything
    #[arg(long, value_name = "FILE")]
    equivalent: Option<PathBuf>,
    /// End well if the lower bound of the score is at least this, in percent; otherwise, if no mutant
    /// survives
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    at_least: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let value = text
        .parse::<f64>()
        .ok()
        .filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| "expected a number from 0 to 100".into())
}

/// How a mutant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// A rule was broken.
    Violation,
    /// It does not load, or cannot be launched.
    Refused,
    /// The output is another.
    Output,
    /// It took too many steps, or too long.
    Endless,
    /// The command failed.
    Test,
    /// Nothing happened.
    Survived,
}

/// Draws mutants, runs them and tells which survive.
pub fn mutate(arguments: &MutateArguments) -> Result<(), Failure> {
    let launch = &arguments.launch;
    let text = read(&launch.file)?;
    let named = |problem: String| format!("{}: {problem}", launch.file.display());
    let mut all = mutate::mutants(&text).map_err(|error| named(error.to_string()))?;
    let judge = Judge::new(arguments, &text)?;
    let known = all.len();
    all.retain(|mutant| match &arguments.kinds[..] {
        [] => mutant.kind.by_default(),
        kinds => kinds.contains(&mutant.kind),
    });
    if let Some(executed) = judge.executed() {
        all.retain(|mutant| executed.contains(&mutant.line));
    }
    let equivalents = match &arguments.equivalent {
        Some(file) => Equivalents::read(file)?,
        None => Equivalents::default(),
    };
    let argued = equivalents.split(&mut all);
    if all.is_empty() {
        let executed = judge.executed().map_or(0, std::collections::BTreeSet::len);
        return Err(Failure::Usage(named(format!(
            "no mutants: {known} are known, {executed} lines were executed, {} are listed as equivalent",
            argued.len()
        ))));
    }
    let sample = mutate::sample(&all, arguments.sample, arguments.draw);
    let verdicts = run_all(&sample, arguments.jobs(), |mutant| {
        judge.judge(&text, mutant)
    })?;
    let report = report::Report {
        population: &all,
        sample: &sample,
        verdicts: &verdicts,
        argued: &argued,
        unused: equivalents.unused(&argued),
        every_line: judge.executed().is_none(),
        draw: arguments.draw,
    };
    print!("{report}");
    if let Some(path) = &launch.json {
        let json = format!("{:#}\n", report.json());
        std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let enough = match arguments.at_least {
        Some(percent) => 100.0 * report.score().at_least() >= percent,
        None => verdicts.iter().all(|verdict| *verdict != Verdict::Survived),
    };
    if enough {
        Ok(())
    } else {
        Err(Failure::Violation)
    }
}

impl MutateArguments {
    fn jobs(&self) -> usize {
        match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        }
    }
}

/// Judges every mutant, several at a time, and shows how far it is.
fn run_all(
    sample: &[Mutant],
    jobs: usize,
    judge: impl Fn(&Mutant) -> Result<Verdict, String> + Sync,
) -> Result<Vec<Verdict>, String> {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} mutants, {msg} survive, {eta} left");
    let bar = ProgressBar::new(sample.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message("0");
    let (next, survivors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(vec![Ok(Verdict::Survived); sample.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(sample.len()) {
            scope.spawn(|| {
                while let Some((at, mutant)) = take(&next, sample) {
                    let verdict = judge(mutant);
                    if verdict == Ok(Verdict::Survived) {
                        let survivors = 1 + survivors.fetch_add(1, Ordering::Relaxed);
                        bar.set_message(survivors.to_string());
                    }
                    bar.inc(1);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[at] = verdict;
                }
            });
        }
    });
    bar.finish_and_clear();
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().collect()
}

fn take<'a>(next: &AtomicUsize, sample: &'a [Mutant]) -> Option<(usize, &'a Mutant)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    sample.get(at).map(|mutant| (at, mutant))
}

/// Who says whether a mutant is noticed.
enum Judge<'a> {
    Launch(Box<Comparison<'a>>),
    Command(TestCommand),
}

impl<'a> Judge<'a> {
    /// Sees what the unchanged text does.
    fn new(arguments: &'a MutateArguments, text: &str) -> Result<Judge<'a>, Failure> {
        Ok(match &arguments.test {
            Some(command) => Judge::Command(TestCommand::new(
                command,
                &arguments.launch.file,
                arguments.limit,
            )?),
            None => Judge::Launch(Box::new(Comparison::new(arguments, text)?)),
        })
    }

    /// The lines that were executed, if that is known.
    fn executed(&self) -> Option<&std::collections::BTreeSet<u32>> {
        match self {
            Judge::Launch(comparison) => Some(&comparison.executed),
            Judge::Command(command) => command.executed.as_ref(),
        }
    }

    fn judge(&self, text: &str, mutant: &Mutant) -> Result<Verdict, String> {
        let text = mutant.apply(text);
        match self {
            Judge::Launch(comparison) => Ok(comparison.judge(&text)),
            Judge::Command(command) => command.judge(&text),
        }
    }
}

/// A run of the unchanged kernel or of a mutant: quiet, and on one thread, since mutants are many.
fn quiet(arguments: &run::Arguments, seed: u64) -> Run {
    Run {
        print: false,
        threads: 1,
        ..arguments.once(seed)
    }
}
