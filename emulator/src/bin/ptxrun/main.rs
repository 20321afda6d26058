//! `ptxrun`: runs kernels from a shell, on the emulator. See `docs/ptxrun.md`.

mod list;
mod mutate;
mod npy;
mod profile;
mod run;
mod values;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Runs CUDA's PTX without a GPU, and reports what one would silently get wrong
#[derive(Parser)]
#[command(name = "ptxrun", version, about, long_about = None, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Exit status: 0 if the run is clean, 1 if the program breaks a rule or mutants survive, 2 for wrong
usage or PTX that is not supported.

Examples:
  ptxrun list kernels.ptx
  ptxrun run saxpy.ptx --entry saxpy --grid 4 --block 256 \\
      --arg f32:2 --arg in:x.npy --arg inout:y.npy:out.npy --arg u32:1000
  ptxrun run reduce.ptx --entry reduce --grid 64 --block 128 --seeds 20 \\
      --arg in:x.npy --arg zeros:f32:1
  ptxrun profile gemm.ptx --entry gemm --grid 8,8 --block 128 --smem 65536 --gpu h100 \\
      --arg in:a.npy --arg in:b.npy --arg out:f32:512x512:c.npy
  ptxrun mutate saxpy.ptx --entry saxpy --grid 4 --block 256 \\
      --arg f32:2 --arg in:x.npy --arg inout:y.npy:out.npy --arg u32:1000
  ptxrun mutate kernels.ptx --test 'cargo test' --sample 200";

#[derive(Subcommand)]
enum Command {
    /// Run a kernel and check it
    Run(run::Arguments),
    /// Run a kernel and show where its instructions and bytes go, and what bounds it on the model
    Profile(profile::ProfileArguments),
    /// Change one instruction at a time, and see whether the result or a test shows it
    Mutate(Box<mutate::MutateArguments>),
    /// List the kernels of a file: parameters, resources, and what would not load
    List {
        /// PTX text
        file: PathBuf,
        /// Model of GPU
        #[arg(long, default_value = "a100", value_parser = run::gpu)]
        gpu: ptx_emulator::Gpu,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a command that did not end well ended.
enum Failure {
    /// The program broke a rule, or mutants survived: what was said about it has been said.
    Violation,
    /// The command cannot be carried out, and why.
    Usage(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Usage(message)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Profile(arguments) => profile::profile(&arguments),
        Command::Mutate(arguments) => mutate::mutate(&arguments),
        Command::List { file, gpu } => list::list(&file, gpu),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ptxrun", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Violation) => ExitCode::from(1),
        Err(Failure::Usage(message)) => {
            eprintln!("ptxrun: {message}");
            ExitCode::from(2)
        }
    }
}
