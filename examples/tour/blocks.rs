//! A projection of one layer of a model, with weights in blocks as a GGUF file has them.

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::blocks::{BlockArgs, BlockFormat, BlockPlan, BlockProblem, BlockWeight};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::blocks::{BlockInputs, blocks};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float, StatusReport};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::Steps;
use crate::report::{Report, Run};

pub const STEPS: u64 = 4;

/// The file of `scripts/fetch-model.sh`.
#[cfg(feature = "gguf")]
const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/gemma-3-270m-q4_k_m.gguf"
);

/// Weights of the first layer of the real model, if its file is there.
#[cfg(feature = "gguf")]
fn from_file(k: usize, n: usize) -> Result<Option<BlockWeight>, Box<dyn Error>> {
    use infer_kernels::gguf::GgufFile;

    let Ok(bytes) = std::fs::read(FILE) else {
        return Ok(None);
    };
    let weights = GgufFile::parse(&bytes)?.blocks("blk.0.ffn_down.weight", k, n)?;
    Ok(Some(weights))
}

#[cfg(not(feature = "gguf"))]
fn from_file(_: usize, _: usize) -> Result<Option<BlockWeight>, Box<dyn Error>> {
    Ok(None)
}

/// Blocks of any codes and scales, with scales of a usual size.
fn random(rng: &mut StdRng, k: usize, n: usize) -> Result<BlockWeight, Box<dyn Error>> {
    let format = BlockFormat::Q6_K;
    let mut bytes = vec![0; n * k / format.rows() * format.bytes()];
    rng.fill(&mut bytes[..]);
    for block in bytes.chunks_mut(format.bytes()) {
        let scale = f16::from_f32(rng.random_range(0.5..1.0) / 65536.0);
        block[208..].copy_from_slice(&scale.to_le_bytes());
    }
    Ok(BlockWeight::pack(format, k, n, &bytes)?)
}

/// A down projection, for 4 sequences.
pub fn gemma_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (m, n, k) = (4, 640, 2048);
    steps.next("making and packing operands");
    let mut rng = StdRng::seed_from_u64(9);
    let (w, from) = match from_file(k, n)? {
        Some(w) => (w, "of the real model"),
        None => (random(&mut rng, k, n)?, "random"),
    };
    let x = StandardNormal.sample_iter(&mut rng).take(m * k);
    let x: Vec<bf16> = x.map(|x: f64| bf16::nearest(x)).collect();

    steps.next("loading the kernel");
    let stream = device.stream();
    let problem = BlockProblem::of(&w, DType::BF16, m);
    let plan = BlockPlan::new(device, &problem)?;

    steps.next("running it");
    let (x_device, w_device) = (stream.upload(&x)?, w.upload(&stream)?);
    let mut y = stream.alloc::<bf16>(m * n)?;
    let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
    let run = Run::of(device, &stream, || {
        let (x, y) = (x_device.tensor([m, k])?, y.tensor_mut([m, n])?);
        let args = BlockArgs {
            workspace: Some(workspace.tensor_mut([plan.workspace_elements()])?),
            ..BlockArgs::new(x, w_device.tensors(), y)
        };
        Ok::<_, Box<dyn Error>>(plan.run(&stream, args)?)
    })?;
    let y = y.download()?;

    steps.next("the reference in f64");
    let inputs = BlockInputs {
        x: HostTensor::new(&x, [m, k])?,
        w: &w,
        w_up: None,
        bias: None,
        bias_up: None,
        residual: None,
    };
    let exact = blocks(&problem, inputs);
    let rounded: Vec<f64> = exact.y.iter().map(|&y| bf16::nearest(y).to_f64()).collect();
    let comparison = Comparison {
        got: &y,
        exact: &exact.y,
        rounded: &rounded,
        terms: &exact.terms,
        allowed: &vec![0.0; y.len()],
    };
    Ok(Report {
        shapes: vec![
            ("x", format!("{:?} bf16", [m, k])),
            ("w", format!("{:?}, {}, {from}", [k, n], w.format())),
            ("y", format!("{:?} bf16", [m, n])),
        ],
        plan: plan.to_string(),
        margins: vec![(
            "y",
            comparison.judge(Rule::truncated(k / 16).in_rows_of(n))?,
        )],
        status: StatusReport::default(),
        operand_bytes: (plan.weight_bytes() + 2 * (m * k + m * n)) as u128,
        run,
    })
}
