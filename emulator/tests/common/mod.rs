//! Runs small kernels.
#![allow(dead_code)]

use ptx_emulator::{
    Checks, Config, Emulator, Kind, LaunchConfig, LaunchError, LaunchStats, Violation,
};

/// A module for `sm_80` with one kernel `k(.param .u64 out, .param .u64 in)`: its body has `%out` and
/// `%in` in 64-bit registers, and `%r`, `%d`, `%h`, `%f`, `%p` registers at hand.
pub fn module(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .b64 %out, %in;\n.reg .b32 %r<40>;\n.reg .b64 %d<20>;\n.reg .b16 %h<20>;\n\
         .reg .f32 %f<40>;\n.reg .pred %p<10>;\n\
         ld.param.u64 %out, [out];\nld.param.u64 %in, [in];\n{body}\nret;\n}}\n"
    )
}

/// A launch and what it left in memory.
pub struct Run {
    pub out: Vec<u8>,
    pub stats: LaunchStats,
    /// Whether all bytes of `out` are initialised.
    pub initialised: bool,
}

impl Run {
    pub fn words(&self) -> Vec<u32> {
        self.out
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    pub fn floats(&self) -> Vec<f32> {
        self.words().into_iter().map(f32::from_bits).collect()
    }
}

/// Shape of a test launch.
#[derive(Clone)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub smem: u32,
    pub out_bytes: u64,
    pub config: Config,
}

impl Shape {
    pub fn threads(threads: u32) -> Shape {
        Shape {
            grid: [1, 1, 1],
            block: [threads, 1, 1],
            smem: 0,
            out_bytes: u64::from(threads) * 4,
            config: Config {
                threads: 1,
                budget: 1_000_000,
                ..Config::default()
            },
        }
    }

    pub fn smem(mut self, bytes: u32) -> Shape {
        self.smem = bytes;
        self
    }

    pub fn blocks(mut self, blocks: u32) -> Shape {
        self.grid = [blocks, 1, 1];
        self.out_bytes *= u64::from(blocks);
        self
    }

    pub fn out(mut self, bytes: u64) -> Shape {
        self.out_bytes = bytes;
        self
    }

    pub fn seed(mut self, seed: u64) -> Shape {
        self.config.seed = seed;
        self
    }

    pub fn checks(mut self, checks: Checks) -> Shape {
        self.config.checks = checks;
        self
    }
}

/// Runs a whole module's kernel `k`.
pub fn launch(ptx: &str, shape: &Shape, input: &[u8]) -> Result<Run, LaunchError> {
    let device = Emulator::new(shape.config.clone());
    let out = device.alloc(shape.out_bytes).unwrap();
    let data = device.alloc(input.len() as u64).unwrap();
    device.write(data, input).unwrap();
    let kernel = device
        .load(ptx)
        .and_then(|module| module.kernel("k"))
        .unwrap_or_else(|error| panic!("{error}"));
    let config = LaunchConfig {
        grid: shape.grid,
        block: shape.block,
        dynamic_smem: shape.smem,
    };
    let stats = device.launch(&kernel, &config, &[&out.to_le_bytes(), &data.to_le_bytes()])?;
    let mut bytes = vec![0; shape.out_bytes as usize];
    device.read(out, &mut bytes).unwrap();
    let initialised = device.initialised(out, shape.out_bytes).unwrap();
    Ok(Run {
        out: bytes,
        stats,
        initialised,
    })
}

/// Runs a body that has to run without a violation.
pub fn run(body: &str, shape: &Shape, input: &[u8]) -> Run {
    launch(&module(body), shape, input).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a body that has to break a rule.
pub fn violation(body: &str, shape: &Shape, input: &[u8]) -> Violation {
    match launch(&module(body), shape, input) {
        Err(LaunchError::Violation(violation)) => *violation,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the planted bug was not found"),
    }
}

/// The kind of the rule that a body breaks.
pub fn kind(body: &str, shape: &Shape, input: &[u8]) -> Kind {
    violation(body, shape, input).kind
}

pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
