//! The first half of a gated feed-forward layer.

use std::error::Error;

use half::bf16;
use infer_kernels::gemm::{Activation, GemmArgs, GemmPlan, GemmProblem};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::gemm::{GemmInputs, gemm};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float, StatusReport};

use crate::Steps;
use crate::operands::Normal;
use crate::report::{Report, Run};

pub const STEPS: u64 = 4;

pub fn gate_and_up(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (m, n, k) = (64, 256, 4096);
    let problem = GemmProblem::new(DType::BF16, m, n, k)
        .activation(Activation::Silu)
        .gated(true)
        .tile(Some([64, 128])) // As the whole layer has it.
        .splits(Some(1));

    steps.next("making operands");
    let mut normal = Normal::new(9);
    let x = normal.bf16s(m * k, 1.0);
    let [w, w_up] = [(); 2].map(|()| normal.bf16s(n * k, 1.0 / (k as f64).sqrt()));

    steps.next("loading the kernel");
    let plan = GemmPlan::new(device, &problem)?;

    steps.next("running it");
    let stream = device.stream();
    let (x_device, w_device) = (stream.upload(&x)?, stream.upload(&w)?);
    let up_device = stream.upload(&w_up)?;
    let mut y = stream.alloc::<bf16>(m * n)?;
    let run = Run::of(device, &stream, || {
        let (x, w, up) = (
            x_device.tensor([m, k])?,
            w_device.tensor([n, k])?,
            up_device.tensor([n, k])?,
        );
        let args = GemmArgs::new(x, w, y.tensor_mut([m, n])?);
        let w_up = Some(up);
        Ok::<_, Box<dyn Error>>(plan.run(&stream, GemmArgs { w_up, ..args })?)
    })?;
    let y = y.download()?;

    steps.next("the reference in f64");
    let inputs = GemmInputs {
        x: HostTensor::new(&x, [m, k])?,
        w: HostTensor::new(&w, [n, k])?,
        w_up: Some(HostTensor::new(&w_up, [n, k])?),
        bias: None,
        bias_up: None,
        residual: None,
    };
    let exact = gemm(&problem, inputs);
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
            ("w, w_up", format!("{:?} bf16", [n, k])),
            ("y", format!("{:?} bf16", [m, n])),
        ],
        plan: plan.to_string(),
        margins: vec![(
            "y",
            comparison.judge(Rule::truncated(k / 16 + 8).in_rows_of(n))?,
        )],
        status: StatusReport::default(), // Products read no index from memory.
        operand_bytes: plan.weight_bytes() + 2 * (m * (n + k)) as u128,
        run,
    })
}
