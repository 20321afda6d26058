//! `ptxrun profile`.

mod page;
mod roofline;
mod source;

use std::path::PathBuf;

use clap::Args;
use ptx_emulator::{Gpu, LineStats};

use crate::Failure;
use crate::run::{self, Run, read, save};

/// What to launch, and what to show of it.
#[derive(Args)]
pub struct ProfileArguments {
    #[command(flatten)]
    launch: run::Arguments,
    /// Registers of a thread as an assembler gives them, for the occupancy of the model
    #[arg(long)]
    registers: Option<u32>,
    /// Rows of the table at most: the lines that are executed most
    #[arg(long, default_value_t = 20)]
    rows: usize,
    /// Write a page with all counters, a roofline plot and the source, line by line
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Models of GPU on the page: one that is emulated, or several
    #[arg(long, value_name = "MODEL", value_delimiter = ',', value_parser = run::gpu)]
    on: Vec<Gpu>,
    /// A folder in which files of the source may be, by their name in the PTX or by what it ends in
    #[arg(long, value_name = "FOLDER")]
    source: Vec<PathBuf>,
}

/// Runs once, prints the report of the model and the busiest lines, and writes the page.
pub fn profile(arguments: &ProfileArguments) -> Result<(), Failure> {
    let launch = &arguments.launch;
    let text = read(&launch.file)?;
    let run = Run {
        profile: true,
        ..launch.once(launch.seed)
    };
    let outcome = launch.launch(&text, &run)?;
    save(&outcome)?;
    let stats = match &outcome.result {
        Ok(stats) => stats,
        Err(violation) => {
            eprintln!("{violation}");
            return Err(Failure::Violation);
        }
    };
    if let Some(path) = &arguments.html {
        let page = page::page(arguments, &outcome.kernel, &text, stats);
        std::fs::write(path, page.into_string())
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    println!("{}", stats.speed_of_light(&launch.gpu, arguments.registers));
    let mut lines: Vec<&LineStats> = stats.lines().iter().collect();
    lines.sort_by_key(|line| (std::cmp::Reverse(line.counts.executions), line.line));
    println!(
        "\n{:>6} {:<16} {:>12} {:>6} {:>10} {:>8} {:>10}  source",
        "line", "opcode", "executed", "lanes", "sectors", "ideal", "conflicts"
    );
    for line in lines.iter().take(arguments.rows) {
        let counts = &line.counts;
        let source = line.source.as_ref();
        println!(
            "{:>6} {:<16} {:>12} {:>6.1} {:>10} {:>8} {:>10}  {}",
            line.line,
            line.opcode,
            counts.executions,
            counts.lanes_per_execution(),
            counts.global_sectors,
            counts.global_ideal_sectors,
            counts.bank_conflicts,
            source.map_or(String::new(), |(file, line)| format!("{file}:{line}")),
        );
    }
    if lines.len() > arguments.rows {
        println!("       and {} lines more", lines.len() - arguments.rows);
    }
    Ok(())
}
