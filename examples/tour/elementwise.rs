//! The step between two layers: attention's result joins the residual stream, which is normalised.

use std::error::Error;

use half::bf16;
use infer_kernels::elementwise::{NormArgs, NormPlan, NormProblem, NormWeight};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::elementwise::{NormInputs, norm};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float, StatusReport};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use crate::Steps;
use crate::report::{Report, Run};

pub const STEPS: u64 = 4;

pub fn gemma_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (rows, dim) = (256, 2560);
    let problem = NormProblem::new(DType::BF16, dim, 1e-6)
        .weight(NormWeight::PlusOne)
        .residual(true);

    steps.next("making operands");
    let mut rng = StdRng::seed_from_u64(10);
    let mut normal = |len: usize, scale: f64| -> Vec<bf16> {
        let numbers = StandardNormal.sample_iter(&mut rng).take(len);
        numbers.map(|x: f64| bf16::nearest(x * scale)).collect()
    };
    let (x, before, weight) = (
        normal(rows * dim, 1.0),
        normal(rows * dim, 20.0),
        normal(dim, 0.5),
    );

    steps.next("loading the kernel");
    let plan = NormPlan::new(device, &problem)?;

    steps.next("running it");
    let stream = device.stream();
    let (x_device, weight_device) = (stream.upload(&x)?, stream.upload(&weight)?);
    let mut residual = stream.upload(&before)?;
    let mut y = stream.alloc::<bf16>(rows * dim)?;
    let shape = [rows, 1, dim];
    let run = Run::of(device, &stream, || {
        let args = NormArgs::new(x_device.tensor(shape)?, y.tensor_mut(shape)?)
            .weight(weight_device.tensor([dim])?)
            .residual(residual.tensor_mut(shape)?);
        Ok::<_, Box<dyn Error>>(plan.run(&stream, args)?)
    })?;
    // Where runs are timed there were several: the last sum and its norm belong to one that has it all.
    residual.upload(&before)?;
    let args = NormArgs::new(x_device.tensor(shape)?, y.tensor_mut(shape)?)
        .weight(weight_device.tensor([dim])?)
        .residual(residual.tensor_mut(shape)?);
    plan.run(&stream, args)?;
    let y = y.download()?;

    steps.next("the reference in f64");
    let weight: Vec<f64> = weight.iter().map(|w| w.to_f64()).collect();
    let inputs = NormInputs {
        x: HostTensor::new(&x, shape)?,
        residual: Some(HostTensor::new(&before, shape)?),
        weight: &weight,
    };
    let exact = norm(&problem, inputs);
    let rounded: Vec<f64> = exact.y.iter().map(|&y| bf16::nearest(y).to_f64()).collect();
    let terms: Vec<f64> = exact.y.iter().map(|y| y.abs()).collect();
    let comparison = Comparison {
        got: &y,
        exact: &exact.y,
        rounded: &rounded,
        terms: &terms,
        allowed: &vec![0.0; y.len()],
    };
    let rule = Rule {
        per_term: 64.0 / (1u64 << 24) as f64,
        row: dim,
        ..Rule::ROUNDED
    };
    Ok(Report {
        shapes: vec![
            ("x, residual, y", format!("{:?} bf16", [rows, dim])),
            ("weight", format!("{:?} bf16", [dim])),
        ],
        plan: plan.to_string(),
        margins: vec![("y", comparison.judge(rule)?)],
        status: StatusReport::default(), // Norms read no index from memory.
        operand_bytes: plan.row_bytes(rows) + 2 * dim as u128,
        run,
    })
}
