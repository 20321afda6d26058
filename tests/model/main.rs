//! Whole models, composed of the public API.
//!
//! Gemma 3 270M needs the file that `scripts/fetch-model.sh` brings, or that `INFER_KERNELS_MODEL`
//! names; without it each test says so and tests nothing. What runs by default is cut short: the first
//! layers, the first tokens of the vocabulary. `INFER_KERNELS_WHOLE_MODEL=1` is the whole model over 64
//! tokens and more of three prompts: minutes.

#[path = "../../examples/generate/gemma/mod.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod gemma;
#[path = "../../examples/generate/tokenizer.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod tokenizer;

mod gemma2;
mod gemma3;
mod layers;
mod llama_cpp;
mod mixtral;

use std::error::Error;

use gemma::batch::Span;
use gemma::config::Config;
use gemma::engine::{Draw, Engine};
use gemma::weights::Model;
use half::f16;
use infer_kernels::Device;
use infer_kernels::gguf::GgufFile;
use infer_kernels::ptx_emulator::{Checks, Config as Emulation};

type Outcome = Result<(), Box<dyn Error>>;

/// The bytes of the file, if there is one. One that is named must be there.
fn file() -> Option<Vec<u8>> {
    if let Some(path) = std::env::var_os("INFER_KERNELS_MODEL") {
        return Some(std::fs::read(path).expect("INFER_KERNELS_MODEL names a file"));
    }
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/gemma-3-270m-q4_k_m.gguf"
    );
    let bytes = std::fs::read(path);
    if bytes.is_err() {
        eprintln!("NOT TESTED: there is no model at {path}; scripts/fetch-model.sh brings it");
    }
    bytes.ok()
}

/// The model of a file, cut as wanted.
fn model(bytes: &[u8], cut: impl Fn(&mut Config)) -> Result<Model, Box<dyn Error>> {
    let file = GgufFile::parse(bytes)?;
    let mut config = Config::of(&file)?;
    cut(&mut config);
    Model::with(&file, config)
}

/// Whether the whole model is to be run, not a part of it.
fn whole() -> bool {
    std::env::var_os("INFER_KERNELS_WHOLE_MODEL").is_some()
}

/// An emulator with or without the checks that need a shadow of memory.
fn device(checks: Checks) -> Device {
    Device::emulator(Emulation {
        checks,
        ..Emulation::default()
    })
}

/// The logits of all tokens, appended by steps of these lengths.
fn by_steps(
    engine: &mut Engine<f16>,
    tokens: &[u32],
    steps: &[usize],
) -> Result<Vec<f32>, Box<dyn Error>> {
    engine.truncate(0, 0);
    let (mut logits, mut rest) = (vec![], tokens);
    for &step in steps {
        let (tokens, behind) = rest.split_at(step);
        engine.step(&[Span {
            sequence: 0,
            tokens,
            logits: step,
        }])?;
        logits.extend(engine.logits()?);
        rest = behind;
    }
    assert!(rest.is_empty());
    engine.draw(Draw::default())?; // Reads the status word.
    Ok(logits)
}

fn furthest(got: impl IntoIterator<Item = f64>, exact: &[f64]) -> f64 {
    let distances = got
        .into_iter()
        .zip(exact)
        .map(|(got, exact)| (got - exact).abs());
    distances.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

/// The place of the largest number, and by how much it exceeds the second.
fn lead(row: impl IntoIterator<Item = f64>) -> (usize, f64) {
    let mut best = [(0, f64::NEG_INFINITY); 2];
    for (i, x) in row.into_iter().enumerate() {
        if x > best[0].1 {
            best = [(i, x), best[0]];
        } else if x > best[1].1 {
            best[1] = (i, x);
        }
    }
    (best[0].0, best[0].1 - best[1].1)
}
