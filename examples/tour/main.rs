//! Every operation once, at the shapes of a real model, compared with the mathematics.
//!
//! ```sh
//! cargo run --example tour
//! ```
//!
//! Runs on a GPU if there is one, else on the emulator. Adding an operation: a file beside this
//! one, and a row in `OPERATIONS`.

mod blocks;
mod decode;
mod elementwise;
mod gemm;
mod int4;
mod kv;
mod mla;
mod moe;
mod operands;
mod prefill;
mod report;

use std::error::Error;
use std::time::Duration;

use clap::{Arg, Command};
use indicatif::{ProgressBar, ProgressStyle};
use infer_kernels::{BackendKind, Device};

use report::Report;

/// Computes an operation and its reference, and compares them.
type Run = fn(&Device, &Steps) -> Result<Report, Box<dyn Error>>;

/// An operation of the tour.
struct Operation {
    name: &'static str,
    /// The model and the shapes.
    at: &'static str,
    /// How many times `run` calls [`Steps::next`].
    steps: u64,
    run: Run,
}

/// The table: what the tour shows.
const OPERATIONS: &[Operation] = &[
    Operation {
        name: "prefill attention",
        at: "Llama 3 8B: 32 query heads, 8 kv heads, head dim 128, bf16, causal",
        steps: prefill::STEPS,
        run: prefill::llama_3,
    },
    Operation {
        name: "prefill attention, chunked, from pages",
        at: "Gemma 2 9B: 16 query heads, 8 kv heads, head dim 256, bf16, soft-cap, window",
        steps: prefill::STEPS,
        run: prefill::gemma_2,
    },
    Operation {
        name: "prefill attention, values of another size",
        at: "DeepSeek-V2: 8 of its heads, dims 192 and 128, bf16, causal",
        steps: prefill::STEPS,
        run: prefill::deepseek_v2,
    },
    Operation {
        name: "decode attention, from pages",
        at: "Llama 3 8B: 32 query heads, 8 kv heads, head dim 128, bf16, one token each",
        steps: decode::STEPS,
        run: decode::llama_3,
    },
    Operation {
        name: "latent attention, from pages",
        at: "DeepSeek-V2-Lite: 16 heads, latents of 512, rotary keys of 64, bf16, one token each",
        steps: mla::STEPS,
        run: mla::deepseek_v2_lite,
    },
    Operation {
        name: "matrix product, gate and up",
        at: "Llama 3 8B: 256 of 14336 columns, 64 tokens of 4096, bf16, SwiGLU",
        steps: gemm::STEPS,
        run: gemm::gate_and_up,
    },
    Operation {
        name: "mixture of experts",
        at: "DeepSeek-V3: 8 of 256 experts and a shared one, sizes divided by 64, 96 tokens, bf16",
        steps: moe::STEPS,
        run: moe::deepseek_v3,
    },
    Operation {
        name: "append to a KV cache",
        at: "Llama 3 8B: 32 query heads, 8 kv heads, head dim 128, bf16 to E4M3, rotated",
        steps: kv::STEPS,
        run: kv::llama_3,
    },
    Operation {
        name: "merge of attention states",
        at: "Llama 3 8B: 32 query heads, head dim 128, bf16",
        steps: kv::STEPS,
        run: kv::merged,
    },
    Operation {
        name: "4-bit weights",
        at: "Llama 3 8B: the keys' projection, 4096 to 1024, groups of 128 with zero points, 16 rows, bf16",
        steps: int4::STEPS,
        run: int4::llama_3,
    },
    Operation {
        name: "residual sum and norm",
        at: "Gemma 3 4B: 256 tokens of 2560, bf16, by 1 + weight",
        steps: elementwise::STEPS,
        run: elementwise::gemma_3,
    },
    Operation {
        name: "weights of a GGUF file",
        at: "Gemma 3 270M: a down projection, 2048 to 640, Q6_K, 4 rows, bf16",
        steps: blocks::STEPS,
        run: blocks::gemma_3,
    },
];

/// The progress of one operation.
struct Steps(ProgressBar);

impl Steps {
    fn new(operation: &Operation) -> Steps {
        let bar = ProgressBar::new(operation.steps);
        let style = ProgressStyle::with_template("  {bar:24} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Steps(bar)
    }

    /// Says what is done next.
    fn next(&self, what: &'static str) {
        if !self.0.message().is_empty() {
            self.0.inc(1);
        }
        self.0.set_message(what);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let matches = Command::new("tour")
        .about(
            "Every operation once, at the shapes of a real model, compared with an f64 reference",
        )
        .arg(
            Arg::new("device")
                .long("device")
                .default_value("auto")
                .help("auto, gpu, emulator, cudarc[:ordinal] or cust[:ordinal]"),
        )
        .arg(
            Arg::new("operation")
                .long("operation")
                .help("only operations with this in their name"),
        )
        .get_matches();
    let name = matches
        .get_one::<String>("device")
        .map_or("auto", String::as_str);
    let filter = matches
        .get_one::<String>("operation")
        .map_or("", String::as_str);

    let device = Device::named(name)?;
    println!("device     {device}");
    if device.kind() == BackendKind::Emulator
        && name == "auto"
        && let Err(reason) = Device::require_gpu()
    {
        println!("           {reason}");
    }

    let mut failed = 0;
    for operation in OPERATIONS
        .iter()
        .filter(|operation| operation.name.contains(filter))
    {
        println!("\n{}\n           {}", operation.name, operation.at);
        let steps = Steps::new(operation);
        let report = (operation.run)(&device, &steps);
        steps.0.finish_and_clear();
        match report {
            Ok(report) => print!("{report}"),
            Err(error) => {
                failed += 1;
                println!("FAILED     {error}");
            }
        }
    }
    if failed > 0 {
        return Err(format!("{failed} operations failed").into());
    }
    Ok(())
}
