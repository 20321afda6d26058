//! `cargo xtask nightly PART`: checks that take too long for every change.
//!
//! A part is a list of steps. A step's result is kept in `.ci/nightly-results.toml` under a hash of
//! the sources that it depends on. A step that passed with the same hash is not run again: a part
//! that was interrupted goes on where it was, and runs only what changed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use self::results::{Outcome, Results, machine, today};
use crate::kernels::declaration::{Declaration, Declarations};

mod results;
mod sources;

/// A nightly part. One row here is all that a new part needs.
struct Part {
    name: &'static str,
    about: &'static str,
    /// Files and folders whose content decides the result of every step.
    sources: &'static [&'static str],
    steps: fn(&Path) -> Result<Vec<Step>>,
}

/// What everything that runs kernels on the emulator depends on.
const EMULATED: &[&str] = &["Cargo.lock", "ptx", "src", "emulator/src", "tests"];

/// The same through the CUDA driver on the emulator.
const DRIVEN: &[&str] = &[
    "Cargo.lock",
    "ptx",
    "scripts",
    "src",
    "emulator/src",
    "emulator/libcuda/src",
    "tests",
];

const PARTS: &[Part] = &[
    Part {
        name: "ptxas",
        about: "every entry, assembled by CUDA 13.0, 12.9, 12.4, 12.0 and 11.8 for sm_80 to sm_120",
        sources: &[
            "build",
            "cuda/kernels.toml",
            "scripts/setup-nvcc.sh",
            "xtask/src/machine_code.rs",
            "xtask/src/prove.rs",
        ],
        steps: assemble_each_entry,
    },
    Part {
        name: "prefill-many",
        about: "prefill attention: 8000 random cases on 8 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("prefill", "random::random_cases", 8)),
    },
    Part {
        name: "prefill-three-wise",
        about: "prefill attention: every choice for any three of its options, in three models of tensor cores",
        sources: EMULATED,
        steps: |_| Ok(three_wise(8)),
    },
    Part {
        name: "prefill-hostile",
        about: "prefill attention: 20,000 launches on garbage lengths, page ids and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("prefill", "hostile::garbage", 10)),
    },
    Part {
        name: "decode-many",
        about: "decode attention: 8000 random cases on 8 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "random::random_cases", 8)),
    },
    Part {
        name: "decode-quantised",
        about: "decode attention over caches in 8 bits: 8000 random cases on 8 schedules",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "quantised::random_cases", 8)),
    },
    Part {
        name: "decode-quantised-hostile",
        about: "the same: 20,000 launches on garbage lengths, page ids and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "quantised::garbage", 10)),
    },
    Part {
        name: "decode-hostile",
        about: "decode attention: 20,000 launches on garbage lengths, page ids and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "hostile::garbage", 10)),
    },
    Part {
        name: "decode-invariant",
        about: "batch-invariant attention: 4000 random cases, and the bits of 4000 others cut and mixed anyhow",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "invariant::random_cases", 4)),
    },
    Part {
        name: "decode-invariant-hostile",
        about: "the same: 20,000 launches on garbage lengths, page ids and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("decode", "invariant::garbage", 10)),
    },
    Part {
        name: "mla-many",
        about: "latent attention: 4000 random cases on 4 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("mla", "random::random_cases", 4)),
    },
    Part {
        name: "mla-hostile",
        about: "latent attention: 8000 launches on garbage lengths, page ids and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("mla", "hostile::garbage", 4)),
    },
    Part {
        name: "gemm-many",
        about: "matrix products: 8000 random cases on 8 schedules and three models of tensor cores",
        sources: EMULATED,
        steps: |_| Ok(random_cases("gemm", "random::random_cases", 8)),
    },
    Part {
        name: "elementwise-many",
        about: "norms, pointwise operations, embeddings: 4000 random cases of each on 4 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("elementwise", "random::random", 4)),
    },
    Part {
        name: "sampling-many",
        about: "sampling: 4000 random batches on 4 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("elementwise", "sample::random", 4)),
    },
    Part {
        name: "kv-many",
        about: "KV cache: 4000 random appends on 4 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("kv", "append::random_cases", 4)),
    },
    Part {
        name: "kv-slots-hostile",
        about: "KV cache: 8000 appends to garbage slots and positions",
        sources: EMULATED,
        steps: |_| Ok(random_cases("kv", "append::garbage", 4)),
    },
    Part {
        name: "kv-pages-hostile",
        about: "KV cache: 8000 gathers from garbage offsets, page lists and page ids",
        sources: EMULATED,
        steps: |_| Ok(random_cases("kv", "pages::garbage", 4)),
    },
    Part {
        name: "moe-many",
        about: "mixtures of experts: 4000 random layers on 4 schedules and three models of tensor cores",
        sources: EMULATED,
        steps: |_| Ok(random_cases("moe", "layer::random_cases", 4)),
    },
    Part {
        name: "moe-hostile",
        about: "mixtures of experts: 30,000 launches on odd logits and garbage ids, orders and offsets",
        sources: EMULATED,
        steps: |_| Ok(random_cases("moe", "stages::random_", 10)),
    },
    Part {
        name: "int4-many",
        about: "4-bit weights: 8000 random products on 8 schedules and three models of tensor cores",
        sources: EMULATED,
        steps: |_| Ok(random_cases("int4", "random::random_cases", 8)),
    },
    Part {
        name: "blocks-many",
        about: "weights in GGUF's blocks: 4000 random products on 4 schedules of the emulator",
        sources: EMULATED,
        steps: |_| Ok(random_cases("blocks", "random::random_cases", 4)),
    },
    Part {
        name: "driver",
        about: "the suite through cudarc and through cust, on the emulator's CUDA driver; its own tests on 4 schedules",
        sources: DRIVEN,
        steps: |_| Ok(through_the_driver()),
    },
    Part {
        name: "mma-rounding",
        about: "tensor operations: a million random tiles against a model of the published rule",
        sources: &["Cargo.lock", "emulator/src", "emulator/tests/mma"],
        steps: |_| Ok(random_tiles(8)),
    },
    Part {
        name: "oracles",
        about: "conversions and half arithmetic against the vendor's headers on the host, all halves among them",
        sources: &[
            "Cargo.lock",
            "emulator/examples/oracles",
            "emulator/src",
            "scripts/setup-nvcc.sh",
        ],
        steps: |_| Ok(vec![against_headers()]),
    },
    Part {
        name: "model",
        about: "Gemma 3 270M, all of it: every logit of three prompts against f64, llama.cpp's logits, all checks",
        sources: &[
            "Cargo.lock",
            "examples/generate",
            "ptx",
            "src",
            "emulator/src",
            "tests/data",
            "tests/model",
        ],
        steps: |_| Ok(vec![whole_model()]),
    },
    Part {
        name: "rows",
        about: "the instruction table, broken row by row: at least 98 % has to be noticed",
        sources: &[
            "Cargo.lock",
            "emulator/src",
            "emulator/tests",
            "xtask/src/rows.rs",
        ],
        steps: |_| Ok(broken_rows(12)),
    },
    Part {
        name: "fuzz",
        about: "the emulator's parser, binder and machine, fuzzed 10.5 million times",
        sources: &[
            "emulator/fuzz/Cargo.lock",
            "emulator/src",
            "emulator/fuzz/fuzz_targets",
            "scripts/fuzz.sh",
        ],
        steps: |_| Ok([fuzz("text", 10, 1_000_000), fuzz("machine", 10, 50_000)].concat()),
    },
];

/// One command of a part.
#[derive(Clone)]
struct Step {
    name: String,
    command: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// What else decides the result of this step.
    sources: Vec<String>,
    /// The family whose tests it runs, if it is one's: files of others do not matter.
    family: Option<&'static str>,
}

impl Step {
    /// Hash of all that decides the result.
    fn hash(&self, root: &Path, part: &Part) -> Result<String> {
        let own = self.sources.iter().map(String::as_str);
        let all = part.sources.iter().copied().chain(own);
        sources::hash(root, all, self.family)
    }
}

fn assemble_each_entry(root: &Path) -> Result<Vec<Step>> {
    let declarations = Declarations::read(root).map_err(|e| anyhow!(e))?;
    let step = |entry: Declaration| Step {
        command: words("cargo xtask ptx --prove --entry", Some(&entry.name)),
        sources: vec![format!("ptx/{}", entry.path())],
        family: None,
        name: entry.name,
        variables: Vec::new(),
    };
    Ok(declarations.entries.into_iter().map(step).collect())
}

/// Steps of 1000 random cases of an integration test, each on another schedule of the emulator.
/// They begin where the quick run ends.
fn random_cases(test: &'static str, filter: &str, steps: u64) -> Vec<Step> {
    const CASES: u64 = 1000;
    let step = |seed: u64| {
        let cases = format!("{}..{}", seed * CASES, (seed + 1) * CASES);
        Step {
            name: format!("cases-{cases}"),
            command: words(&format!("cargo test --release --test {test}"), Some(filter)),
            variables: vec![
                ("INFER_KERNELS_CASES", cases),
                ("INFER_KERNELS_SEED", seed.to_string()),
            ],
            sources: Vec::new(),
            family: Some(test),
        }
    };
    (1..=steps).map(step).collect()
}

/// Shares of a covering array of strength three.
fn three_wise(shares: usize) -> Vec<Step> {
    let step = |share: usize| Step {
        name: format!("share-{share}"),
        command: words(
            "cargo test --release --test prefill",
            Some("options::options_meet"),
        ),
        variables: vec![
            ("INFER_KERNELS_STRENGTH", "3".to_owned()),
            ("INFER_KERNELS_SHARE", format!("{share}/{shares}")),
        ],
        sources: Vec::new(),
        family: Some("prefill"),
    };
    (0..shares).map(step).collect()
}

/// Steps of as many random tiles for each form and mode of `mma`, of which there are 48.
fn random_tiles(steps: u64) -> Vec<Step> {
    const TILES: u64 = 2816;
    let step = |seed: u64| Step {
        name: format!("seed-{seed}"),
        command: words(
            "cargo test --release -p ptx-emulator --test mma",
            Some("random_tiles"),
        ),
        variables: vec![
            ("EMULATOR_TILES", TILES.to_string()),
            ("EMULATOR_SEED", (1 + seed).to_string()),
        ],
        sources: Vec::new(),
        family: None,
    };
    (1..=steps).map(step).collect()
}

/// Fetches the model first: without it, the test would test nothing.
fn whole_model() -> Step {
    let test = "cargo test --release --features gguf --test model";
    let all = format!("scripts/fetch-model.sh && {test}");
    Step {
        name: "logits".to_owned(),
        command: words("bash -c", Some(&all)),
        variables: vec![("INFER_KERNELS_WHOLE_MODEL", "1".to_owned())],
        sources: Vec::new(),
        family: None,
    }
}

/// Mutants of the instruction table, in shares.
fn broken_rows(shares: usize) -> Vec<Step> {
    let step = |share: usize| Step {
        name: format!("share-{share:02}"),
        command: words(
            "cargo xtask rows --share",
            Some(&format!("{share}/{shares}")),
        ),
        variables: Vec::new(),
        sources: Vec::new(),
        family: None,
    };
    (0..shares).map(step).collect()
}

/// Runs of a fuzzer, each from another seed.
fn fuzz(target: &str, steps: u64, runs: u64) -> Vec<Step> {
    let step = |seed: u64| Step {
        name: format!("{target}-{seed:02}"),
        command: words(&format!("scripts/fuzz.sh {target} {runs} {seed}"), None),
        variables: Vec::new(),
        sources: Vec::new(),
        family: None,
    };
    (1..=steps).map(step).collect()
}

/// Tests of every family through each binding of the driver's API, and those of the driver itself on
/// several schedules of blocks and of streams.
fn through_the_driver() -> Vec<Step> {
    let step = |test: &'static str, device: Option<&str>, seed: u64| Step {
        name: [device.unwrap_or("both"), test, &seed.to_string()].join("-"),
        // Without those that make their own emulators.
        command: words(
            &format!(
                "scripts/with-emulated-libcuda.sh cargo test --release --package infer-kernels --all-features \
                 --test {test} -- --skip counters:: --skip entries::"
            ),
            None,
        ),
        variables: device
            .map(|device| ("INFER_KERNELS_DEVICE", device.to_owned()))
            .into_iter()
            .chain([
                ("PROFILE", "release".to_owned()),
                // Compiles the emulator once, with the features that it has for the tests.
                (
                    "BUILD_WITH",
                    "--package infer-kernels --all-features --lib --test driver".to_owned(),
                ),
                ("PTX_EMULATOR_SEED", seed.to_string()),
            ])
            .collect(),
        sources: Vec::new(),
        family: device.map(|_| test),
    };
    let suite = [
        "prefill",
        "decode",
        "mla",
        "kv",
        "gemm",
        "int4",
        "blocks",
        "elementwise",
        "moe",
    ];
    let on = |device| suite.map(|test| step(test, Some(device), 0));
    let of_the_driver = (0..4).map(|seed| step("driver", None, seed));
    [on("cudarc"), on("cust")]
        .into_iter()
        .flatten()
        .chain(of_the_driver)
        .collect()
}

fn against_headers() -> Step {
    let command = "scripts/setup-nvcc.sh && cargo run --release -p ptx-emulator --example oracles";
    Step {
        name: "headers".to_string(),
        command: ["sh", "-c", command].map(str::to_owned).to_vec(),
        variables: Vec::new(),
        sources: Vec::new(),
        family: None,
    }
}

fn words(command: &str, last: Option<&str>) -> Vec<String> {
    command.split(' ').chain(last).map(str::to_owned).collect()
}

/// Arguments of `cargo xtask nightly`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The part; without it, every part is listed with its state
    part: Option<String>,
    /// Start no step after this many minutes
    #[arg(long, default_value_t = 50)]
    minutes: u64,
}

/// Runs what is left of a part, or lists the parts.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let Some(name) = &arguments.part else {
        return list(root);
    };
    let part = PARTS
        .iter()
        .find(|part| part.name == name)
        .with_context(|| format!("no part is called {name}; `cargo xtask nightly` lists them"))?;
    let mut results = Results::read(root)?;
    let steps = (part.steps)(root)?;
    let start = Instant::now();
    let (mut ran, mut failed, mut left) = (0, 0, 0);
    for step in &steps {
        let sources = step.hash(root, part)?;
        if results.passed(part.name, &step.name, &sources) {
            continue;
        }
        if start.elapsed() > Duration::from_secs(arguments.minutes * 60) {
            left += 1;
            continue;
        }
        let (passed, seconds) = execute(root, step)?;
        ran += 1;
        failed += u32::from(!passed);
        let outcome = Outcome {
            part: part.name.to_owned(),
            step: step.name.clone(),
            sources,
            passed,
            date: today(),
            seconds,
            machine: machine(),
        };
        results.keep(root, outcome)?;
    }
    let known = steps.len() - ran - left;
    println!(
        "{}: {ran} of {} steps ran, {failed} failed, {known} had passed before, {left} left",
        part.name,
        steps.len()
    );
    ensure!(failed == 0, "{} failed", part.name);
    ensure!(left == 0, "no time was left for {left} steps: run it again");
    Ok(())
}

fn list(root: &Path) -> Result<()> {
    let results = Results::read(root)?;
    for part in PARTS {
        let steps = (part.steps)(root)?;
        let mut passed = 0;
        for step in &steps {
            let sources = step.hash(root, part)?;
            passed += u32::from(results.passed(part.name, &step.name, &sources));
        }
        println!(
            "{:16} {passed}/{} steps passed: {}",
            part.name,
            steps.len(),
            part.about
        );
    }
    Ok(())
}

fn execute(root: &Path, step: &Step) -> Result<(bool, u64)> {
    println!("--- {}: {}", step.name, step.command.join(" "));
    let start = Instant::now();
    let status = Command::new(&step.command[0])
        .args(&step.command[1..])
        .envs(step.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(root)
        .status()
        .with_context(|| step.command.join(" "))?;
    Ok((status.success(), start.elapsed().as_secs()))
}
