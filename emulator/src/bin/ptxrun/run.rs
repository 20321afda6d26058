//! `ptxrun run`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ptx_emulator::{
    Checks, Config, Emulator, Gpu, Kernel, LaunchConfig, LaunchError, LaunchStats, MmaMode,
    Violation,
};
use serde_json::{Value as Json, json};

use crate::Failure;
use crate::npy::Array;
use crate::values::{self, Buffer, Layout, Value};

/// What to launch, and how.
#[derive(Args)]
pub struct Arguments {
    /// PTX text
    pub file: PathBuf,
    /// The kernel; may be left out if there is one only
    #[arg(long)]
    pub entry: Option<String>,
    /// Blocks: X, or X,Y or X,Y,Z
    #[arg(long, value_parser = extents, required = true)]
    pub grid: Option<[u32; 3]>,
    /// Threads of a block: X, or X,Y or X,Y,Z
    #[arg(long, value_parser = extents, required = true)]
    pub block: Option<[u32; 3]>,
    /// Dynamic shared memory of a block, in bytes
    #[arg(long, default_value_t = 0)]
    pub smem: u32,
    /// A parameter, in the order of the kernel's: u8 i8 u16 i16 u32 i32 u64 i64 f16 bf16 f32 f64 with
    /// a value (f32:0.5); null; in:FILE.npy; inout:FILE.npy:OUT.npy; out:TYPE:EXTENTS:OUT.npy (fresh,
    /// uninitialised); zeros:TYPE:EXTENTS[:OUT.npy]; bytes:FILE.bin[,OFFSET=BUFFER...] (an aggregate
    /// with addresses of buffers written into it)
    #[arg(long = "arg", value_name = "VALUE", value_parser = values::value, allow_hyphen_values = true)]
    pub values: Vec<Value>,
    /// Model of GPU whose limits hold
    #[arg(long, default_value = "a100", value_parser = gpu)]
    pub gpu: Gpu,
    /// Rules to check: all; some of memory,init,race,sync; none, which is memory,sync, since these
    /// cannot be switched off; and converged, which is not among all
    #[arg(long, default_value = "all", value_parser = checks)]
    pub check: Checks,
    /// Seed of every order that is left open
    #[arg(long, default_value_t = 0, conflicts_with = "seeds")]
    pub seed: u64,
    /// Run with this many seeds, from 0, and compare what comes out
    #[arg(long)]
    pub seeds: Option<u64>,
    /// How tensor operations round
    #[arg(long, default_value = "fast", value_parser = mma)]
    pub mma: MmaMode,
    /// Let approximate functions be wrong by as much as the ISA allows, as the seed draws
    #[arg(long)]
    pub perturb: bool,
    /// Keep lanes that have diverged apart until an instruction waits for them, which is all that PTX
    /// promises
    #[arg(long)]
    pub no_reconverge: bool,
    /// Host threads; 0: one per processor
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Warp instructions after which a block is taken to loop endlessly
    #[arg(long)]
    pub budget: Option<u64>,
    /// Write what happened to this file, as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Reads a file whose errors name it.
pub fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn extents(text: &str) -> Result<[u32; 3], String> {
    let mut extents = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("at most three extents".into());
    }
    for (extent, part) in extents.iter_mut().zip(parts) {
        *extent = part.parse().map_err(|_| format!("{part:?} is no extent"))?;
    }
    Ok(extents)
}

/// A model by its name, whatever its case and spaces.
pub fn gpu(name: &str) -> Result<Gpu, String> {
    let plain = |name: &str| {
        let kept = name.chars().filter(char::is_ascii_alphanumeric);
        kept.collect::<String>().to_lowercase()
    };
    let found = Gpu::ALL.iter().find(|gpu| plain(gpu.name) == plain(name));
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = Gpu::ALL.iter().map(|gpu| gpu.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn checks(text: &str) -> Result<Checks, String> {
    let words: Vec<&str> = text.split(',').collect();
    let mut checks = match words[..] {
        ["none"] => return Ok(Checks::NONE),
        _ if words.contains(&"all") => Checks::ALL,
        _ => Checks::NONE,
    };
    for word in &words {
        match *word {
            "all" | "memory" | "sync" => (),
            "init" => checks.init = true,
            "race" => checks.race = true,
            "converged" => checks.converged = true,
            _ => {
                return Err(
                    "expected all, none, or some of memory,init,race,sync,converged".into(),
                );
            }
        }
    }
    let has = |word| words.contains(&word);
    let least = has("all") || has("memory") && has("sync");
    if !least {
        return Err(format!(
            "memory and sync cannot be switched off, without them a run could not go on: expected \
             all, none, or memory,sync,{}",
            words
                .iter()
                .filter(|word| !["memory", "sync"].contains(word))
                .copied()
                .collect::<Vec<_>>()
                .join(",")
        ));
    }
    Ok(checks)
}

/// What was not looked for, for whoever reads that a run is clean.
fn unchecked(checks: Checks) -> &'static str {
    match (checks.init, checks.race) {
        (true, true) => "",
        (true, false) => "; races were not looked for",
        (false, true) => "; uninitialised values were not looked for",
        (false, false) => "; neither races nor uninitialised values were looked for",
    }
}

fn mma(text: &str) -> Result<MmaMode, String> {
    match text {
        "fast" => Ok(MmaMode::Fast),
        "ampere" => Ok(MmaMode::Ampere),
        "hopper" => Ok(MmaMode::Hopper),
        _ => Err("expected fast, ampere or hopper".into()),
    }
}

/// Everything of one run.
pub struct Outcome {
    pub kernel: String,
    pub saved: Vec<Saved>,
    pub result: Result<LaunchStats, Box<Violation>>,
}

/// A file to write.
#[derive(Clone, PartialEq)]
pub struct Saved {
    pub path: PathBuf,
    pub layout: Layout,
    pub bytes: Vec<u8>,
    /// Elements with bytes that were never written, or were made of such; known if that is checked.
    pub unwritten: Vec<usize>,
}

/// What differs between runs of the same arguments.
pub struct Run {
    pub seed: u64,
    /// Trace memory.
    pub profile: bool,
    /// Show what the kernel prints.
    pub print: bool,
    pub threads: usize,
    pub budget: Option<u64>,
}

/// Memory with where it is.
struct Placed {
    address: u64,
    layout: Layout,
    save: Option<PathBuf>,
}

impl Arguments {
    /// The run that the arguments ask for, with a seed.
    pub fn once(&self, seed: u64) -> Run {
        Run {
            seed,
            profile: false,
            print: true,
            threads: self.threads,
            budget: self.budget,
        }
    }

    /// The seeds that are asked for.
    pub fn seeds(&self) -> Result<Range<u64>, String> {
        match self.seeds {
            Some(0) => Err("--seeds: at least 1".into()),
            Some(count) => Ok(0..count),
            None => Ok(self.seed..self.seed.saturating_add(1)),
        }
    }

    /// Runs the kernel once, on a device of its own.
    pub fn launch(&self, text: &str, run: &Run) -> Result<Outcome, String> {
        let mut config = Config {
            gpu: self.gpu.clone(),
            checks: self.check,
            seed: run.seed,
            threads: run.threads,
            mma: self.mma,
            perturb: self.perturb,
            reconverge: !self.no_reconverge,
            profile: run.profile,
            print: run.print,
            ..Config::default()
        };
        config.budget = run.budget.unwrap_or(config.budget);
        let device = Emulator::new(config);
        let kernel = self.kernel(&device, text)?;
        let mut placed = Vec::new();
        let params = self
            .values
            .iter()
            .map(|value| bytes_of(&device, value, &mut placed))
            .collect::<Result<Vec<_>, String>>()?;
        let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
        let shape = LaunchConfig {
            grid: self.grid.ok_or("--grid is not given")?,
            block: self.block.ok_or("--block is not given")?,
            dynamic_smem: self.smem,
        };
        let result = match device.launch(&kernel, &shape, &params) {
            Ok(stats) => Ok(stats),
            Err(LaunchError::Violation(violation)) => Err(violation),
            Err(other) => return Err(other.to_string()),
        };
        let saved = placed
            .into_iter()
            .filter_map(|memory| self.saved(&device, memory).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Outcome {
            kernel: kernel.info().name,
            saved,
            result,
        })
    }

    /// What a buffer holds, if it is to be saved.
    fn saved(&self, device: &Emulator, memory: Placed) -> Result<Option<Saved>, String> {
        let Placed {
            address,
            layout,
            save,
        } = memory;
        let Some(path) = save else {
            return Ok(None);
        };
        let failed = |error: ptx_emulator::MemoryError| error.to_string();
        let mut bytes = vec![0; layout.bytes];
        device.read(address, &mut bytes).map_err(failed)?;
        let mut unwritten = Vec::new();
        let all = layout.bytes as u64;
        if self.check.init && !device.initialised(address, all).map_err(failed)? {
            let size = layout.element_bytes();
            for element in 0..layout.bytes / size {
                let at = address + (element * size) as u64;
                if !device.initialised(at, size as u64).map_err(failed)? {
                    unwritten.push(element);
                }
            }
        }
        Ok(Some(Saved {
            path,
            layout,
            bytes,
            unwritten,
        }))
    }

    fn kernel(&self, device: &Emulator, text: &str) -> Result<Kernel, String> {
        let named = |error: ptx_emulator::LoadError| format!("{}: {error}", self.file.display());
        let module = device.load(text).map_err(named)?;
        let names: Vec<&str> = module.kernels().collect();
        let entry = match (&self.entry, &names[..]) {
            (Some(entry), _) => entry.as_str(),
            (None, [only]) => only,
            (None, _) => return Err(format!("--entry: expected one of {}", names.join(", "))),
        };
        let kernel = module.kernel(entry).map_err(named)?;
        let expected = kernel.info().params;
        if expected.len() != self.values.len() {
            let names: Vec<String> = expected
                .iter()
                .map(|p| format!("{} ({} bytes)", p.name, p.size))
                .collect();
            return Err(format!(
                "{entry} takes {} parameters, {} were given: {}",
                expected.len(),
                self.values.len(),
                names.join(", ")
            ));
        }
        Ok(kernel)
    }
}

/// Bytes of a parameter, after its buffers have been made.
fn bytes_of(device: &Emulator, value: &Value, placed: &mut Vec<Placed>) -> Result<Vec<u8>, String> {
    let mut place = |buffer: &Buffer| {
        let (contents, layout) = buffer.load()?;
        let failed = |error: ptx_emulator::MemoryError| error.to_string();
        // Memory of no bytes has an address too.
        let address = device.alloc(layout.bytes.max(1) as u64).map_err(failed)?;
        if let Some(bytes) = contents {
            device.write(address, &bytes).map_err(failed)?;
        }
        let save = buffer.save.clone();
        placed.push(Placed {
            address,
            layout,
            save,
        });
        Ok::<u64, String>(address)
    };
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::Address(buffer) => Ok(place(buffer)?.to_le_bytes().into()),
        Value::Aggregate { file, addresses } => {
            let named = |problem: String| format!("{}: {problem}", file.display());
            let mut bytes = std::fs::read(file).map_err(|error| named(error.to_string()))?;
            for (offset, buffer) in addresses {
                let address = place(buffer)?;
                let len = bytes.len();
                let end = offset.saturating_add(8);
                bytes
                    .get_mut(*offset..end)
                    .ok_or_else(|| named(format!("no address fits at {offset} of {len} bytes")))?
                    .copy_from_slice(&address.to_le_bytes());
            }
            Ok(bytes)
        }
    }
}

/// Runs with each seed, until a rule is broken; saves what the first left.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = read(&arguments.file)?;
    let seeds = arguments.seeds()?;
    let many = seeds.end - seeds.start;
    let bar = match many {
        1 => ProgressBar::hidden(),
        _ => ProgressBar::new(many).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
    };
    let mut first: Option<Outcome> = None;
    let mut differs = None;
    for seed in seeds.clone() {
        let outcome = arguments.launch(&text, &arguments.once(seed))?;
        bar.inc(1);
        if let Err(violation) = &outcome.result {
            bar.finish_and_clear();
            save(&outcome)?;
            write_json(arguments, &outcome, seed, differs)?;
            eprintln!("{violation}");
            return Err(Failure::Violation);
        }
        match &first {
            None => first = Some(outcome),
            Some(first) if first.saved != outcome.saved => {
                differs.get_or_insert(seed);
            }
            Some(_) => (),
        }
    }
    bar.finish_and_clear();
    let Some(outcome) = first else {
        return Ok(());
    };
    save(&outcome)?;
    write_json(arguments, &outcome, seeds.start, differs)?;
    if let Ok(stats) = &outcome.result {
        for warning in &stats.warnings {
            eprintln!("{warning}");
        }
        let runs = if many == 1 {
            format!("seed {}", seeds.start)
        } else {
            format!("{many} seeds")
        };
        println!(
            "{}: clean on an emulated {} with {runs}: {} warp instructions, {} bytes of global memory{}",
            outcome.kernel,
            arguments.gpu.name,
            stats.warp_instructions,
            stats.global_bytes,
            unchecked(arguments.check),
        );
    }
    for Saved {
        path,
        layout,
        unwritten,
        ..
    } in &outcome.saved
    {
        if let [first, ..] = unwritten[..] {
            println!(
                "{}: {} of {} elements were never written, or are made of what never was; the first is {first}",
                path.display(),
                unwritten.len(),
                layout.bytes / layout.element_bytes(),
            );
        }
    }
    if let Some(seed) = differs {
        println!(
            "what was saved differs: seed {seed} gives other bytes than seed {}",
            seeds.start
        );
    }
    Ok(())
}

/// Writes what was asked to be saved.
pub fn save(outcome: &Outcome) -> Result<(), String> {
    for saved in &outcome.saved {
        let array = Array {
            descr: saved.layout.descr.into(),
            shape: saved.layout.shape.clone(),
            bytes: saved.bytes.clone(),
        };
        array.write(&saved.path)?;
    }
    Ok(())
}

fn write_json(
    arguments: &Arguments,
    outcome: &Outcome,
    seed: u64,
    differs: Option<u64>,
) -> Result<(), String> {
    let Some(path) = &arguments.json else {
        return Ok(());
    };
    let violation = outcome
        .result
        .as_ref()
        .err()
        .map(|violation| violation_json(violation));
    let stats = outcome.result.as_ref().ok().map(stats_json);
    let never_written: Vec<_> = outcome
        .saved
        .iter()
        .filter(|saved| !saved.unwritten.is_empty())
        .map(|saved| json!({"file": saved.path, "elements": saved.unwritten}))
        .collect();
    let all = json!({
        "kernel": outcome.kernel,
        "gpu": arguments.gpu.name,
        "seed": seed,
        "perturb": arguments.perturb,
        "reconverge": !arguments.no_reconverge,
        "init_checked": arguments.check.init,
        "races_checked": arguments.check.race,
        "clean": violation.is_none(),
        "violation": violation,
        "stats": stats,
        "differs_at_seed": differs,
        "never_written": never_written,
    });
    std::fs::write(path, format!("{all:#}\n"))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn violation_json(violation: &Violation) -> Json {
    json!({
        "message": violation.kind.to_string(),
        "report": violation.to_string(),
        "ptx_line": violation.line,
        "instruction": violation.instruction,
        "source": violation.source_line.as_ref().map(|(file, line)| json!({"file": file, "line": line})),
        "block": violation.block,
        "warp": violation.warp,
        "lanes": violation.lanes,
        "address": violation.address,
        "place": violation.place,
        "seed": violation.seed,
    })
}

fn stats_json(stats: &LaunchStats) -> Json {
    let by_class: Vec<_> = stats
        .by_class
        .iter()
        .map(|(class, count)| json!({"class": format!("{class:?}"), "count": count}))
        .collect();
    json!({
        "warp_instructions": stats.warp_instructions,
        "by_class": by_class,
        "mma": stats.mma,
        "tensor_flops": stats.tensor_flops,
        "global_bytes": stats.global_bytes,
        "global_sectors": stats.global_sectors,
        "shared_wavefronts": stats.shared_wavefronts,
        "bank_conflicts": stats.bank_conflicts,
        "barriers": stats.barriers,
        "warnings": stats.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_that_are_named_or_refused() {
        let of = |init, race, converged| {
            let mut checks = Checks::NONE;
            (checks.init, checks.race, checks.converged) = (init, race, converged);
            Ok(checks)
        };
        for (text, expected) in [
            ("all", of(true, true, false)),
            ("all,converged", of(true, true, true)),
            ("none", of(false, false, false)),
            ("memory,sync", of(false, false, false)),
            ("sync,memory,race", of(false, true, false)),
            ("memory,init,race,sync", of(true, true, false)),
        ] {
            assert_eq!(checks(text), expected, "{text}");
        }
        for wrong in [
            "race",
            "init,race",
            "memory",
            "memory,init",
            "sync",
            "converged",
        ] {
            let error = checks(wrong).unwrap_err();
            assert!(error.contains("cannot be switched off"), "{wrong}: {error}");
        }
        for wrong in ["", "races", "none,race", "all,x"] {
            assert!(checks(wrong).is_err(), "{wrong}");
        }
    }
}
