//! Prefill attention of one layer of Llama 3 8B over a ragged batch.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{HeadShape, Kv, PrefillArgs, PrefillPlan, PrefillProblem};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{HostKv, PrefillInputs, prefill, prefill_rounded};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float, StatusWord, catalog};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use crate::Steps;
use crate::report::{Report, Run};

pub const STEPS: u64 = 5;

const HEADS: HeadShape = HeadShape {
    query: 32,
    kv: 8,
    dim: 128,
};
/// Prompts of a batch: 601 tokens, one prompt a single token.
const LENGTHS: [usize; 5] = [283, 1, 197, 64, 56];

pub fn run(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    steps.next("making operands");
    let tokens: usize = LENGTHS.iter().sum();
    let mut rng = StdRng::seed_from_u64(8);
    let mut normal = |heads: usize| -> Vec<bf16> {
        let len = tokens * heads * HEADS.dim;
        StandardNormal
            .sample_iter(&mut rng)
            .take(len)
            .map(|x: f64| bf16::nearest(x))
            .collect()
    };
    let (q, k, v) = (normal(HEADS.query), normal(HEADS.kv), normal(HEADS.kv));
    let shape_q = [tokens, HEADS.query, HEADS.dim];
    let shape_kv = [tokens, HEADS.kv, HEADS.dim];

    steps.next("loading the kernel");
    let stream = device.stream();
    let lens = SeqLens::from_lengths(&stream, &LENGTHS)?;
    let problem = PrefillProblem::new(DType::BF16, HEADS, lens.batch(), lens.max_len())
        .causal(true)
        .lse(true);
    let plan = PrefillPlan::new(device, &problem)?;

    steps.next("running it");
    let (q_device, k_device, v_device) =
        (stream.upload(&q)?, stream.upload(&k)?, stream.upload(&v)?);
    let mut out = stream.alloc::<bf16>(q.len())?;
    let mut lse = stream.alloc::<f32>(tokens * HEADS.query)?;
    let status = StatusWord::new(&stream)?;
    let run = Run::of(device, &stream, || {
        plan.run(
            &stream,
            PrefillArgs::new(
                q_device.tensor(shape_q)?,
                Kv::Ragged {
                    k: k_device.tensor(shape_kv)?,
                    v: v_device.tensor(shape_kv)?,
                    seqlens: (&lens).into(),
                },
                out.tensor_mut(shape_q)?,
                &lens,
                &status,
            )
            .lse(lse.tensor_mut([HEADS.query, tokens])?),
        )
    })?;
    let (out, lse) = (out.download()?, lse.download()?);

    steps.next("the reference in f64");
    let offsets: Vec<i32> = std::iter::once(0)
        .chain(LENGTHS.iter().scan(0, |end, &len| {
            *end += len as i32;
            Some(*end)
        }))
        .collect();
    let kv = HostKv::Ragged {
        k: HostTensor::new(&k, shape_kv)?,
        v: HostTensor::new(&v, shape_kv)?,
        offsets: &offsets,
    };
    let inputs = PrefillInputs::new(HostTensor::new(&q, shape_q)?, kv, &offsets);
    let exact = prefill(&problem, inputs)?;

    steps.next("the reference that rounds as the kernel does");
    let tile_k = catalog::find(plan.entry()).map_or(64, |entry| entry.tile_k as usize);
    let rounded = prefill_rounded(&problem, inputs, tile_k)?;
    let out = Comparison {
        got: &out,
        exact: &exact.out,
        rounded: &rounded.out,
        terms: &exact.out_terms,
        allowed: &exact.out_allowed,
    };
    let lse = Comparison {
        got: &lse,
        exact: &exact.lse,
        rounded: &rounded.lse,
        terms: &exact.lse_terms,
        allowed: &exact.lse_allowed,
    };
    Ok(Report {
        shapes: vec![
            ("q, out", format!("{shape_q:?} bf16")),
            ("k, v", format!("{shape_kv:?} bf16")),
            ("lse", format!("{:?} f32", [HEADS.query, tokens])),
            ("sequences", format!("{LENGTHS:?} tokens")),
        ],
        plan: plan.to_string(),
        margins: vec![
            ("out", out.judge(Rule::ROUNDED.in_rows_of(HEADS.dim))?),
            ("lse", lse.judge(Rule::truncated(HEADS.dim / 16))?),
        ],
        status: status.read()?,
        operand_bytes: plan.operand_bytes(tokens, tokens),
        run,
    })
}
