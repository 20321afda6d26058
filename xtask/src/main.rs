//! The project's chores, run as `cargo xtask CHORE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

mod generate;
mod machine_code;
mod nightly;
mod package;
mod prove;
mod rows;
#[cfg(test)]
mod tests;

#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../../build/mod.rs"]
mod kernels;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Bring ptx/ up to date with cuda/
    Ptx(PtxArguments),
    /// Run a nightly part, or what is left of it
    Nightly(nightly::Arguments),
    /// Make the packages that would be published, and hold them to their budget
    Package,
    /// Break the emulator's instruction table row by row, and count what its tests notice
    Rows(rows::Arguments),
}

#[derive(clap::Args)]
struct PtxArguments {
    /// Compile everything and compare with ptx/, byte for byte, without writing
    #[arg(long)]
    check: bool,
    /// Assemble ptx/ for every architecture: it must be accepted, by old assemblers too, become the
    /// machine code of nvcc's own text, and hot kernels may not spill
    #[arg(long)]
    prove: bool,
    /// Compile what has not changed, too
    #[arg(long)]
    all: bool,
    /// Only this entry (with --prove)
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
}

fn main() -> ExitCode {
    match run(&root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path) -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Ptx(arguments) if arguments.check => generate::check(root),
        Chore::Ptx(arguments) if arguments.prove => prove::prove(root, arguments.entry.as_deref()),
        Chore::Ptx(arguments) => generate::refresh(root, arguments.all),
        Chore::Nightly(arguments) => nightly::run(root, &arguments),
        Chore::Package => package::check(root),
        Chore::Rows(arguments) => rows::run(root, &arguments),
    }
}

/// The repository.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
