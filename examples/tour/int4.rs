//! A projection of one layer of a model, with 4-bit weights.

use std::error::Error;

use half::bf16;
use infer_kernels::gemm::GemmProblem;
use infer_kernels::int4::{Codes, Int4Args, Int4Plan, Int4Problem, Quantizer};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::int4::{Int4Inputs, int4, int4_rounding};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float, StatusReport};

use crate::Steps;
use crate::operands::Normal;
use crate::report::{Report, Run};

pub const STEPS: u64 = 5;

/// The keys' projection, for a batch of 16 sequences.
pub fn llama_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (m, n, k) = (16, 1024, 4096);
    steps.next("making and quantizing operands");
    let mut normal = Normal::new(8);
    let x = normal.bf16s(m * k, 1.0);
    let w = normal.numbers(n * k).into_iter();
    let w: Vec<f32> = w.map(|w| w as f32 / 64.0).collect();
    let quantizer = Quantizer::new(DType::BF16).meaning(Codes::ZeroPoints);
    let w = quantizer.search(false).quantize(&w, n, k)?;

    steps.next("loading the kernel");
    let stream = device.stream();
    let product = GemmProblem::new(DType::BF16, m, n, k).batch_invariant(true);
    let problem = Int4Problem::new(product, w.group(), w.meaning());
    let plan = Int4Plan::new(device, &problem)?;

    steps.next("running it");
    let (x_device, w_device) = (stream.upload(&x)?, w.upload(&stream)?);
    let mut y = stream.alloc::<bf16>(m * n)?;
    let run = Run::of(device, &stream, || {
        let (x, y) = (x_device.tensor([m, k])?, y.tensor_mut([m, n])?);
        let args = Int4Args::new(x, w_device.tensors(), y);
        Ok::<_, Box<dyn Error>>(plan.run(&stream, args)?)
    })?;
    let y = y.download()?;

    steps.next("the reference in f64");
    let inputs = Int4Inputs {
        x: HostTensor::new(&x, [m, k])?,
        w: &w,
        w_up: None,
        bias: None,
        bias_up: None,
        residual: None,
    };
    let exact = int4(&problem, inputs);

    steps.next("the reference that rounds as the kernel does");
    let rounded = int4_rounding(&problem, inputs).y;
    let rounded: Vec<f64> = rounded
        .into_iter()
        .map(|y| bf16::nearest(y).to_f64())
        .collect();
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
            (
                "w",
                format!(
                    "{:?}, 4 bits {} in groups of {}",
                    [k, n],
                    w.meaning(),
                    w.group()
                ),
            ),
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
