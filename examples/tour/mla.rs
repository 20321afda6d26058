//! Latent attention of one layer of a model: one new token for each sequence, over a paged cache.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::mla::{MlaArgs, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::MlaCache;
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::HostPages;
use infer_kernels::reference::mla::{MlaInputs, mla, mla_rounded};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{BackendKind, DType, Device, Float, StatusWord, catalog};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use crate::Steps;
use crate::report::{Report, Run};

pub const STEPS: u64 = 5;

const HEADS: usize = 16;
const LATENT: usize = 512;
const ROPE: usize = 64;
const PAGE: usize = 64;
/// Tokens of each sequence, the new one among them.
const TOKENS: [usize; 4] = [301, 1, 77, 128];

pub fn deepseek_v2_lite(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let batch = TOKENS.len();
    let problem = MlaProblem::new(DType::BF16, HEADS, batch, PAGE).lse(true);
    // One block does everything where launches are counted: there is one launch to count then.
    let one = (device.kind() == BackendKind::Emulator).then_some(1);
    let problem = problem.blocks(one);

    steps.next("making operands");
    let mut rng = StdRng::seed_from_u64(10);
    let mut normal = |elements: usize| -> Vec<bf16> {
        let numbers = StandardNormal.sample_iter(&mut rng).take(elements);
        numbers.map(|x: f64| bf16::nearest(x)).collect()
    };
    // Pages in no order: the first page of a sequence is the last of its part of the pool.
    let most = TOKENS.iter().map(|n| n.div_ceil(PAGE)).max().unwrap_or(0);
    let table: Vec<u32> = (0..(batch * most) as u32).rev().collect();
    let dim = LATENT + ROPE;
    let (q_shape, pool) = ([batch, HEADS, dim], [table.len(), PAGE, dim]);
    let (q, cache) = (
        normal(q_shape.iter().product()),
        normal(pool.iter().product()),
    );
    let shape = [batch, HEADS, LATENT];

    steps.next("loading the kernel");
    let stream = device.stream();
    let plan = MlaPlan::new(device, &problem)?;

    steps.next("running it");
    let lens: Vec<i32> = TOKENS.iter().map(|&n| n as i32).collect();
    let (q_device, cache_device) = (stream.upload(&q)?, stream.upload(&cache)?);
    let (table_device, lens_device) = (stream.upload(&table)?, stream.upload(&lens)?);
    let mut out = stream.alloc::<bf16>(shape.iter().product())?;
    let mut lse = stream.alloc::<f32>(batch * HEADS)?;
    let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
    let status = StatusWord::new(&stream)?;
    let run = Run::of(device, &stream, || {
        let args = MlaArgs {
            q: MlaQueries::Joined(q_device.tensor(q_shape)?),
            cache: MlaCache::Joined(cache_device.tensor(pool)?),
            pages: PageTable::Rows(table_device.tensor([batch, most])?),
            seqlens_k: lens_device.tensor([batch])?,
            out: out.tensor_mut(shape)?,
            lse: Some(lse.tensor_mut([HEADS, batch])?),
            seqlens_q: None,
            workspace: workspace.tensor_mut([plan.workspace_elements()])?,
            status: &status,
        };
        plan.run(&stream, args)
    })?;
    let (out, lse) = (out.download()?, lse.download()?);

    steps.next("the reference in f64");
    let offsets: Vec<i32> = (0..=batch as i32).collect();
    // Either part of a row that has both.
    let part = |data, [outer, inner, _]: [usize; 3], first, width| {
        let strides = [(inner * dim) as i64, dim as i64, 1];
        HostTensor::strided(data, first, [outer, inner, width], strides)
    };
    let inputs = MlaInputs {
        q_latent: part(&q, q_shape, 0, LATENT)?,
        q_rope: part(&q, q_shape, LATENT, ROPE)?,
        latent: part(&cache, pool, 0, LATENT)?,
        rope: part(&cache, pool, LATENT, ROPE)?,
        pages: HostPages::Rows(HostTensor::new(&table, [batch, most])?),
        seqlens: &lens,
        offsets_q: &offsets,
    };
    let exact = mla(&problem, inputs)?;

    steps.next("the reference that rounds as the kernel does");
    let tile_k = catalog::find(plan.entry()).map_or(32, |entry| entry.tile_k as usize);
    let rounded = mla_rounded(&problem, inputs, tile_k)?;
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
            ("q", format!("{q_shape:?} bf16")),
            ("cache", format!("{pool:?} bf16")),
            ("out", format!("{shape:?} bf16")),
            ("lse", format!("{:?} f32", [HEADS, batch])),
            ("tokens", format!("{TOKENS:?}")),
        ],
        plan: plan.to_string(),
        margins: vec![
            ("out", out.judge(Rule::ROUNDED.in_rows_of(LATENT))?),
            ("lse", lse.judge(Rule::truncated(dim / 16))?),
        ],
        status: status.read()?,
        operand_bytes: plan.operand_bytes(batch, TOKENS.iter().sum()),
        run,
    })
}
