//! Text by Gemma 3 270M, from its GGUF file, on these kernels.
//!
//! ```sh
//! scripts/fetch-model.sh
//! cargo run --release --example generate --features gguf -- --prompt "The capital of France is"
//! ```
//!
//! Runs on a GPU if there is one, else on the emulator. Several prompts are served as one batch, each
//! arriving some steps behind the one before.

#[cfg_attr(test, allow(dead_code, reason = "the test of the model uses the rest"))]
mod gemma;
mod report;
mod tokenizer;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use half::{bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};
use infer_kernels::gguf::GgufFile;
use infer_kernels::ptx_emulator::{Checks, Config};
use infer_kernels::{Device, Float};

use gemma::engine::{Draw, Engine, Options};
use gemma::schedule::{Event, Policy, Request, serve};
use gemma::weights::Model;
use report::Phase;
use tokenizer::{Text, Tokenizer};

/// Tokens of prompts in a step.
const CHUNK: usize = 64;
/// Rows of logits of a step: sequences, and drafts behind each.
const LOGITS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let matches = arguments().get_matches();
    match matches.get_one::<String>("dtype").map(String::as_str) {
        Some("bf16") => run::<bf16>(&matches),
        _ => run::<f16>(&matches),
    }
}

fn arguments() -> Command {
    let option = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let words = |values: [&'static str; 2]| PossibleValuesParser::new(values);
    Command::new("generate")
        .about("Text by Gemma 3 270M, from its GGUF file")
        .arg(
            option(
                "prompt",
                "The capital of France is",
                "what the text begins with; several make a batch",
            )
            .action(ArgAction::Append),
        )
        .arg(
            option(
                "model",
                "models/gemma-3-270m-q4_k_m.gguf",
                "the file; scripts/fetch-model.sh brings it",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option("max-tokens", "16", "new tokens of each text, at most")
                .value_parser(value_parser!(usize)),
        )
        .arg(option(
            "device",
            "auto",
            "auto, gpu, emulator, cudarc[:ordinal] or cust[:ordinal]",
        ))
        .arg(
            option("dtype", "f16", "the type of activations and cache")
                .value_parser(words(["f16", "bf16"])),
        )
        .arg(
            option("temperature", "0", "0 takes the most likely token")
                .value_parser(value_parser!(f32)),
        )
        .arg(
            option("top-k", "0", "draw from so many tokens; 0: from all")
                .value_parser(value_parser!(i32)),
        )
        .arg(
            option("top-p", "1", "draw from so much of the probability")
                .value_parser(value_parser!(f32)),
        )
        .arg(option("seed", "0", "of the draws").value_parser(value_parser!(u64)))
        .arg(
            option("arrive", "2", "steps after which the next prompt arrives")
                .value_parser(value_parser!(usize)),
        )
        .arg(
            option(
                "speculate",
                "0",
                "tokens to guess behind each, and to verify in the same step",
            )
            .value_parser(value_parser!(usize)),
        )
        .arg(
            option(
                "checks",
                "off",
                "of the emulator: uninitialised memory and races",
            )
            .value_parser(words(["off", "on"])),
        )
        .arg(
            option("threads", "0", "of the emulator; 0: all processors")
                .value_parser(value_parser!(usize)),
        )
        .arg(flag("int4", "quantise every matrix anew, to 4 bits"))
        .arg(flag("invariant", "bits that do not depend on the batch"))
        .arg(flag(
            "predict",
            "count the last step's memory traffic, and predict GPUs from it",
        ))
}

/// The value of an option that has a default.
fn value<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> T {
    matches
        .get_one::<T>(name)
        .expect("it has a default")
        .clone()
}

fn open(matches: &ArgMatches) -> Result<Device, Box<dyn Error>> {
    let name: String = value(matches, "device");
    if name == "auto"
        && let Ok(device) = Device::require_gpu()
    {
        return Ok(device);
    }
    if name != "auto" && name != "emulator" {
        return Ok(Device::named(&name)?);
    }
    let checks = match value::<String>(matches, "checks").as_str() {
        "on" => Checks::ALL,
        _ => Checks::NONE,
    };
    Ok(Device::emulator(Config {
        checks,
        threads: value(matches, "threads"),
        profile: matches.get_flag("predict"),
        ..Config::default()
    }))
}

fn run<T: Float>(matches: &ArgMatches) -> Result<(), Box<dyn Error>> {
    let path: PathBuf = value(matches, "model");
    let bytes = std::fs::read(&path).map_err(|error| {
        format!(
            "{}: {error}; scripts/fetch-model.sh brings the model",
            path.display()
        )
    })?;
    let file = GgufFile::parse(&bytes)?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let prompts: Vec<&String> = matches.get_many("prompt").into_iter().flatten().collect();
    let arrive: usize = value(matches, "arrive");
    let requests: Result<Vec<Request>, _> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            Ok::<_, Box<dyn Error>>(Request {
                prompt: tokenizer.encode(prompt)?,
                arrives: i * arrive,
                max_tokens: value(matches, "max-tokens"),
            })
        })
        .collect();
    let requests = requests?;

    let device = open(matches)?;
    println!("device     {device}");
    let timer = Instant::now();
    let mut model = Model::of(&file)?;
    if matches.get_flag("int4") {
        model = model.into_int4(T::DTYPE)?;
    }
    let drafts: usize = value(matches, "speculate");
    let longest = requests
        .iter()
        .map(|request| request.prompt.len() + request.max_tokens);
    let options = Options {
        sequences: requests.len().clamp(1, LOGITS / (1 + drafts).min(LOGITS)),
        max_keys: longest.max().unwrap_or(0) + 1,
        max_rows: CHUNK + LOGITS,
        max_logits: LOGITS,
        invariant: matches.get_flag("invariant"),
    };
    let mut engine = Engine::<T>::new(&device, &model, options)?;
    println!(
        "model      {} layers, {} MB of weights on the device, ready after {:.1} s",
        model.config.layers,
        model.bytes() / 1_000_000,
        timer.elapsed().as_secs_f64()
    );
    drop(model);
    let policy = Policy {
        draw: Draw {
            temperature: value(matches, "temperature"),
            top_k: value(matches, "top-k"),
            top_p: value(matches, "top-p"),
            seed: value(matches, "seed"),
        },
        end: tokenizer.end(),
        chunk: CHUNK,
        drafts: drafts.min(LOGITS - 1),
    };
    let mut watch = Watch::new(&tokenizer, &prompts, &requests);
    serve(&mut engine, &requests, policy, &mut |event| {
        watch.see(event)
    })?;
    watch.finish(&device);
    if matches.get_flag("predict") {
        let (result, launches) = device.launches(|| engine.step_again());
        result?;
        report::predictions(&launches);
    }
    Ok(())
}

/// Shows texts as they grow, and keeps the time.
struct Watch<'a> {
    tokenizer: &'a Tokenizer,
    prompts: &'a [&'a String],
    texts: Vec<(Text, String)>,
    bar: ProgressBar,
    timer: Instant,
    prefill: Phase,
    decode: Phase,
    /// Tokens of the step that is under way.
    tokens: usize,
    /// How many were guessed, and how many of those were right.
    drafts: [usize; 2],
}

impl<'a> Watch<'a> {
    fn new(tokenizer: &'a Tokenizer, prompts: &'a [&'a String], requests: &[Request]) -> Self {
        let tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
        let bar = ProgressBar::new(tokens as u64);
        let style =
            ProgressStyle::with_template("reading    {bar:24} {pos}/{len} tokens {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Watch {
            tokenizer,
            prompts,
            texts: prompts.iter().map(|_| Default::default()).collect(),
            bar,
            timer: Instant::now(),
            prefill: Phase::default(),
            decode: Phase::default(),
            tokens: 0,
            drafts: [0; 2],
        }
    }

    fn see(&mut self, event: Event) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Read { tokens } => {
                self.bar.inc(tokens as u64);
            }
            Event::Token { request, token } => {
                self.tokens += 1;
                let (text, all) = &mut self.texts[request];
                let piece = self.tokenizer.push(text, token)?;
                // One text is shown as it grows, several when they are done.
                if self.prompts.len() == 1 {
                    if all.is_empty() {
                        self.bar.finish_and_clear();
                        print!("\n{}", self.prompts[0]);
                    }
                    print!("{piece}");
                    std::io::stdout().flush()?;
                }
                all.push_str(&piece);
            }
            Event::Step {
                appended,
                prompts,
                drafts,
            } => {
                let phase = if prompts {
                    &mut self.prefill
                } else {
                    &mut self.decode
                };
                phase.steps += 1;
                phase.time += self.timer.elapsed();
                phase.tokens += if prompts {
                    appended
                } else {
                    std::mem::take(&mut self.tokens)
                };
                (self.timer, self.tokens) = (Instant::now(), 0);
                self.drafts[0] += drafts[0];
                self.drafts[1] += drafts[1];
            }
        }
        Ok(())
    }

    fn finish(self, device: &Device) {
        self.bar.finish_and_clear();
        if self.prompts.len() > 1 {
            for (prompt, (_, text)) in self.prompts.iter().zip(&self.texts) {
                print!("\n{prompt}{text}\n");
            }
        } else {
            println!();
        }
        println!();
        let on = if device.kind().is_gpu() {
            "this GPU"
        } else {
            "this host, emulating"
        };
        self.prefill.print("prefill", on);
        self.decode.print("decode", on);
        let [guessed, right] = self.drafts;
        if guessed > 0 {
            println!("drafts     {right} of {guessed} were right");
        }
    }
}
