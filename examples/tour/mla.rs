//! Latent attention of one layer of a model: one new token for each sequence, over a paged cache.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::mla::{MlaArgs, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::MlaCache;
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::HostPages;
use infer_kernels::reference::mla::{MlaInputs, mla, mla_rounded};
use infer_kernels::{BackendKind, DType, Device, StatusWord, catalog};

use crate::Steps;
use crate::operands::{Normal, page_table};
use crate::report::{Report, Run, attention_margins};

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
    let mut normal = Normal::new(10);
    let (table, most) = page_table(&TOKENS, PAGE);
    let dim = LATENT + ROPE;
    let (q_shape, pool) = ([batch, HEADS, dim], [table.len(), PAGE, dim]);
    let (q, cache) = (
        normal.bf16s(q_shape.iter().product(), 1.0),
        normal.bf16s(pool.iter().product(), 1.0),
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
    Ok(Report {
        shapes: vec![
            ("q", format!("{q_shape:?} bf16")),
            ("cache", format!("{pool:?} bf16")),
            ("out", format!("{shape:?} bf16")),
            ("lse", format!("{:?} f32", [HEADS, batch])),
            ("tokens", format!("{TOKENS:?}")),
        ],
        plan: plan.to_string(),
        margins: attention_margins(&out, &lse, [&exact, &rounded], [dim, LATENT])?,
        status: status.read()?,
        operand_bytes: plan.operand_bytes(batch, TOKENS.iter().sum()),
        run,
    })
}
