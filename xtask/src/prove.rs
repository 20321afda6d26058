//! `cargo xtask ptx --prove`: the shipped text is accepted by old and new assemblers for every
//! architecture, and lowering its version changed nothing in the machine code.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use crate::generate::{Project, threads};
use crate::kernels::declaration::Declaration;
use crate::kernels::info::Info;
use crate::kernels::nvcc::in_parallel;
use crate::kernels::ship::without_path_hash;
use crate::machine_code::{Assembled, Assembler};

/// The architectures that a kernel for `sm_80` is proved on.
const ARCHITECTURES: &[u32] = &[80, 86, 89, 90, 100, 120];

/// The assemblers, newest first. Drivers assemble with their own, and those differ.
fn assemblers(project: &Project) -> Result<Vec<Assembler>> {
    let tools = project.root.join(".tools");
    let old = |release: &str| tools.join(format!("ptxas-{release}/nvidia/cuda_nvcc/bin/ptxas"));
    let current = project.nvcc.path.with_file_name("ptxas");
    let to_90 = &ARCHITECTURES[..4];
    let assemblers = [
        ("13.0", current, (9, 0), ARCHITECTURES),
        ("12.9", old("12.9"), (8, 8), ARCHITECTURES),
        ("12.4", old("12.4"), (8, 4), to_90),
        ("12.0", old("12.0"), (8, 0), to_90),
        ("11.8", old("11.8"), (7, 8), to_90),
    ];
    assemblers
        .into_iter()
        .map(|(release, path, ptx_version, architectures)| {
            ensure!(
                path.is_file(),
                "there is no ptxas {release}: run scripts/setup-nvcc.sh --old-assemblers"
            );
            Ok(Assembler {
                release,
                path,
                ptx_version,
                architectures,
            })
        })
        .collect()
}

/// One run of one assembler.
struct Job<'a> {
    entry: &'a Declaration,
    assembler: &'a Assembler,
    architecture: String,
}

/// Proves every entry, or the one named, and prints what the assemblers made of them.
pub fn prove(root: &Path, only: Option<&str>) -> Result<()> {
    let project = Project::open(root)?;
    let assemblers = assemblers(&project)?;
    let chosen = |entry: &&Declaration| only.is_none_or(|name| name == entry.name);
    let entries: Vec<_> = project.declarations.entries.iter().filter(chosen).collect();
    ensure!(
        !entries.is_empty() || only.is_none(),
        "cuda/kernels.toml has no such entry"
    );

    let raw: Vec<PathBuf> = in_parallel(&entries, threads(), |entry| raw_file(&project, entry))
        .into_iter()
        .collect::<Result<_>>()?;
    let mut jobs = Vec::new();
    for (entry, raw) in entries.iter().zip(&raw) {
        for assembler in &assemblers {
            for architecture in architectures(entry, assembler) {
                jobs.push((
                    Job {
                        entry,
                        assembler,
                        architecture,
                    },
                    raw.as_path(),
                ));
            }
        }
    }
    let results = in_parallel(&jobs, threads(), |(job, raw)| run(&project, job, raw));

    let mut wrong = Vec::new();
    println!(
        "{:40} {:>5} {:8} {:>9} {:>13} {:>12}",
        "entry", "ptxas", "arch", "registers", "spill st/ld", "smem bytes"
    );
    for ((job, _), result) in jobs.iter().zip(results) {
        match result {
            Ok(line) => println!("{line}"),
            Err(e) => wrong.push(format!("{} {}: {e:#}", job.entry.name, job.architecture)),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} failed:\n  {}",
        wrong.len(),
        jobs.len(),
        wrong.join("\n  ")
    );
    println!(
        "{} entries, {} runs of ptxas: all accepted, machine code unchanged",
        entries.len(),
        jobs.len()
    );
    Ok(())
}

/// Compiles an entry again, and keeps what nvcc wrote.
fn raw_file(project: &Project, entry: &Declaration) -> Result<PathBuf> {
    let path = project
        .scratch
        .join(format!("{}.unlowered.ptx", entry.name));
    let text = without_path_hash(&project.raw(entry)?);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What an assembler is asked to assemble an entry for.
fn architectures(entry: &Declaration, assembler: &Assembler) -> Vec<String> {
    if entry.version() > Some(assembler.ptx_version) {
        return Vec::new();
    }
    if entry.target.ends_with(['a', 'f']) {
        return vec![entry.target.clone()];
    }
    let lowest = entry.capability().unwrap_or(0);
    let known = assembler
        .architectures
        .iter()
        .filter(|architecture| **architecture >= lowest);
    known
        .map(|architecture| format!("sm_{architecture}"))
        .collect()
}

/// Assembles one text, and with the current assembler nvcc's own text too, which must become the
/// same machine code. The line for the table.
fn run(project: &Project, job: &Job, raw: &Path) -> Result<String> {
    let Job {
        entry,
        assembler,
        architecture,
    } = job;
    let text = project.root.join("ptx").join(entry.path());
    let output = |kind: &str| {
        let name = format!(
            "{}.{architecture}.{}.{kind}.cubin",
            entry.name, assembler.release
        );
        project.scratch.join(name)
    };
    let made = assembler.assemble(&text, architecture, &output("shipped"))?;
    if assembler.release == "13.0" {
        let unlowered = assembler.assemble(raw, architecture, &output("unlowered"))?;
        same_code(&made, &unlowered)?;
    }
    let (stored, loaded) = made.spills;
    ensure!(
        !entry.hot || (stored, loaded) == (0, 0),
        "ptxas {} spills: {stored} bytes stored, {loaded} loaded",
        assembler.release
    );
    let info = std::fs::read_to_string(&text)
        .map_err(|e| anyhow!(e))
        .and_then(|text| {
            Info::read(&text, entry)
                .map_err(|e| anyhow!(e))
                .context("the checked-in text")
        })?;
    let mut line = String::new();
    write!(
        line,
        "{:40} {:>5} {:8} {:>9} {:>13} {:>12}",
        entry.name,
        assembler.release,
        architecture,
        made.registers,
        format!("{stored}/{loaded}"),
        format!("{}+{}", made.static_smem, info.smem_bytes),
    )?;
    Ok(line)
}

fn same_code(shipped: &Assembled, unlowered: &Assembled) -> Result<()> {
    for (name, bytes) in &unlowered.sections {
        let found = shipped
            .sections
            .get(name)
            .with_context(|| format!("{name} is missing"))?;
        ensure!(
            found == bytes,
            "{name} is not the machine code of nvcc's own text"
        );
    }
    ensure!(
        shipped.sections.len() == unlowered.sections.len(),
        "sections were added"
    );
    Ok(())
}
