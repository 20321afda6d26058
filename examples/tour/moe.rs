//! A mixture of experts, from the router's logits to the output.

use std::error::Error;

use half::bf16;
use infer_kernels::moe::{
    GroupRank, Groups, MoeArgs, MoePlan, MoeProblem, RouteArgs, RoutePlan, Routing, Scoring,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::moe::{MoeInputs, layer, layer_rounded};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, StatusWord};

use crate::Steps;
use crate::operands::Normal;
use crate::report::{Report, Run};

pub const STEPS: u64 = 5;

pub fn deepseek_v3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (tokens, hidden, intermediate, experts) = (96, 112, 32, 256);
    let groups = Groups {
        count: 8,
        top: 4,
        rank: GroupRank::SumOfTwo,
    };
    let routing = Routing::new(experts, 8)
        .scoring(Scoring::Sigmoid, true)
        .bias(true)
        .scale(2.5)
        .shared(1, false)
        .groups(Some(groups));
    let problem = MoeProblem::new(DType::BF16, routing.clone(), tokens, hidden, intermediate);
    let here = problem.experts().here();

    steps.next("making operands");
    let mut normal = Normal::new(10);
    let mut f32s = |len: usize, scale: f64| -> Vec<f32> {
        let numbers = normal.numbers(len).into_iter();
        numbers.map(|x| (x * scale) as f32).collect()
    };
    let (logits, bias) = (f32s(tokens * experts, 1.0), f32s(experts, 0.1));
    let x = normal.bf16s(tokens * hidden, 1.0);
    let each = here * hidden * intermediate;
    let [w_gate, w_up, w_down] =
        [hidden, hidden, intermediate].map(|k| normal.bf16s(each, 1.0 / (k as f64).sqrt()));

    steps.next("loading the kernels");
    let plan = MoePlan::new(device, &problem)?;
    let route = RoutePlan::new(device, &routing)?;

    steps.next("running them");
    let stream = device.stream();
    let (shape, slots) = ([tokens, hidden], [tokens, routing.slots()]);
    let (up, down) = ([here, intermediate, hidden], [here, hidden, intermediate]);
    let (x_device, logits_device) = (stream.upload(&x)?, stream.upload(&logits)?);
    let bias_device = stream.upload(&bias)?;
    let (gate_device, up_device) = (stream.upload(&w_gate)?, stream.upload(&w_up)?);
    let down_device = stream.upload(&w_down)?;
    let mut y = stream.alloc::<bf16>(tokens * hidden)?;
    let mut workspace = stream.alloc::<u8>(plan.workspace_bytes())?;
    let status = StatusWord::new(&stream)?;
    let run = Run::of_several(device, &stream, || {
        let args = MoeArgs::new(
            x_device.tensor(shape)?,
            logits_device.tensor([tokens, experts])?,
            gate_device.tensor(up)?,
            down_device.tensor(down)?,
            y.tensor_mut(shape)?,
            workspace.tensor_mut([plan.workspace_bytes()])?,
            &status,
        );
        let (w_up, choice_bias) = (
            Some(up_device.tensor(up)?),
            Some(bias_device.tensor([experts])?),
        );
        let args = MoeArgs {
            w_up,
            choice_bias,
            ..args
        };
        Ok::<_, Box<dyn Error>>(plan.run(&stream, args)?)
    })?;
    let y = y.download()?;

    steps.next("routing alone");
    let (mut ids, mut weights) = (
        stream.alloc::<i32>(slots[0] * slots[1])?,
        stream.alloc::<f32>(slots[0] * slots[1])?,
    );
    let args = RouteArgs {
        logits: logits_device.tensor([tokens, experts])?,
        bias: Some(bias_device.tensor([experts])?),
        shared_gate: None,
        ids: ids.tensor_mut(slots)?,
        weights: weights.tensor_mut(slots)?,
        status: &status,
    };
    route.run(&stream, args)?;
    let (ids, weights) = (ids.download()?, weights.download()?);

    steps.next("the reference in f64");
    let inputs = MoeInputs {
        x: HostTensor::new(&x, shape)?,
        w_gate: HostTensor::new(&w_gate, up)?,
        w_up: Some(HostTensor::new(&w_up, up)?),
        w_down: HostTensor::new(&w_down, down)?,
        bias_gate: None,
        bias_up: None,
        bias_down: None,
    };
    let exact = layer(&problem, &ids, &weights, inputs);
    let rounded = layer_rounded(&problem, &ids, &weights, inputs);
    let comparison = Comparison {
        got: &y,
        exact: &exact.y,
        rounded: &rounded.y,
        terms: &exact.terms,
        allowed: &vec![0.0; y.len()],
    };
    let steps = (hidden + intermediate) / 16 + 16;
    Ok(Report {
        shapes: vec![
            ("x, y", format!("{shape:?} bf16")),
            ("logits", format!("{:?} f32", [tokens, experts])),
            ("gate, up", format!("{up:?} bf16")),
            ("down", format!("{down:?} bf16")),
        ],
        plan: plan.to_string(),
        margins: vec![(
            "y",
            comparison.judge(Rule::truncated(steps).in_rows_of(hidden))?,
        )],
        status: status.read()?,
        operand_bytes: here as u128 * plan.expert_bytes()
            + (2 * 2 * tokens * hidden + 4 * tokens * experts) as u128,
        run,
    })
}
