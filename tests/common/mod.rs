//! What tests share.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

pub mod blocks;
pub mod blocks_case;
pub mod cache;
mod case;
pub mod covering;
pub mod decode;
pub mod elementwise;
pub mod fuzz;
pub mod gemm;
pub mod int4;
pub mod int4_case;
pub mod invariant;
pub mod kv;
pub mod mla;
pub mod moe;
mod operand;
mod pages;
pub mod quantised;
pub mod sample;
pub mod spec;

pub use case::{Bits, Case, Lengths, Outcome};
pub use operand::{Arrangement, Operand, indices};
pub use pages::{Pages, Pool, PoolLayout, Table};

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::attention::prefill::{HeadShape, PrefillProblem};
use infer_kernels::ptx_emulator::mutate::Handover;
use infer_kernels::ptx_emulator::{Config, MmaMode};
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{DType, Device, catalog};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The device that tests run on: an emulator, whatever the machine has, so that every rule that it
/// checks is checked. Long runs vary its schedule through `INFER_KERNELS_SEED`, or name another
/// device in `INFER_KERNELS_DEVICE`, such as `cudarc`.
pub fn device() -> Device {
    device_with(Config::default())
}

/// One such device for all that share a process: kernels are loaded once.
pub fn shared_device() -> &'static Device {
    static DEVICE: std::sync::LazyLock<Device> = std::sync::LazyLock::new(device);
    &DEVICE
}

/// The same, if it is an emulator one that is as `config` says but for the seed.
pub fn device_with(config: Config) -> Device {
    if let Ok(name) = std::env::var("INFER_KERNELS_DEVICE") {
        return Device::named(&name).unwrap();
    }
    let seed = std::env::var("INFER_KERNELS_SEED").map_or(0, |seed| seed.parse().unwrap());
    Device::emulator(Config { seed, ..config })
}

/// Devices whose tensor cores round sums as each of the emulator's models does.
pub fn devices_of_all_models() -> [Device; 3] {
    [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper].map(|mma| {
        device_with(Config {
            mma,
            ..Config::default()
        })
    })
}

/// Whether a case that runs this entry is worth running: not if an instruction of another one has been
/// changed, to see whether the tests notice.
pub fn under_test(entry: &str) -> bool {
    match Handover::get().unwrap() {
        Some(handover) => catalog::find(entry).is_some_and(|entry| handover.concerns(entry.ptx)),
        None => true,
    }
}

/// The seeds of a test's cases: those that it names, or `FIRST..END` in `INFER_KERNELS_CASES`.
pub fn seeds(quick: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("INFER_KERNELS_CASES") else {
        return quick;
    };
    let (first, end) = range
        .split_once("..")
        .expect("INFER_KERNELS_CASES=FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}

/// Whether a plan with this description is to be run: if `INFER_KERNELS_ENTRY` names an entry, only what launches it.
pub fn wanted(plan: &impl std::fmt::Display) -> bool {
    let Ok(entry) = std::env::var("INFER_KERNELS_ENTRY") else {
        return true;
    };
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let plan = plan.to_string();
    plan.split(|c| !is_name(c)).any(|word| word == entry)
}

/// A case of either element type.
#[derive(Clone, Debug)]
pub enum AnyCase {
    F16(Case<f16>),
    Bf16(Case<bf16>),
}

impl AnyCase {
    pub fn random(seed: u64, dtype: DType, heads: HeadShape, lengths: &Lengths) -> AnyCase {
        let rng = &mut StdRng::seed_from_u64(seed);
        match dtype {
            DType::F16 => AnyCase::F16(Case::random(rng, heads, lengths)),
            _ => AnyCase::Bf16(Case::random(rng, heads, lengths)),
        }
    }

    pub fn problem(&mut self) -> &mut PrefillProblem {
        match self {
            AnyCase::F16(case) => &mut case.problem,
            AnyCase::Bf16(case) => &mut case.problem,
        }
    }

    pub fn check(&self, device: &Device) -> Result<(Margin, Margin), Box<dyn Error>> {
        match self {
            AnyCase::F16(case) => case.check(device),
            AnyCase::Bf16(case) => case.check(device),
        }
    }
}

/// `work` on every item, on as many threads as there are processors; panics of all are reported.
pub fn in_parallel<I: Send + Sync>(items: &[I], work: impl Fn(&I) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    work(item);
                }
            });
        }
    });
}

/// How much of their bounds the outputs of many cases used at most.
#[derive(Debug, Default)]
pub struct Worst(std::sync::Mutex<(f64, f64)>);

impl Worst {
    pub fn note(&self, (out, lse): (Margin, Margin)) {
        let mut worst = self.0.lock().unwrap();
        *worst = (worst.0.max(out.used), worst.1.max(lse.used));
    }
}

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, lse) = *self.0.lock().unwrap();
        let (out, lse) = (100.0 * out, 100.0 * lse);
        write!(
            f,
            "at most {out:.0} % of the bound used in outputs, {lse:.0} % in log-sum-exps"
        )
    }
}
