//! Prefill attention of one layer of a model over a ragged batch.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, KvLayout, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, SoftCap, Window,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{
    HostKv, HostPages, PrefillInputs, prefill, prefill_rounded,
};
use infer_kernels::{DType, Device, StatusWord, catalog};

use crate::Steps;
use crate::operands::{Normal, offsets, page_table};
use crate::report::{Report, Run, attention_margins};

pub const STEPS: u64 = 5;

/// What a layer computes.
struct Layer {
    heads: HeadShape,
    v_dim: usize,
    /// Queries of each sequence.
    queries: &'static [usize],
    /// Keys of each sequence.
    keys: &'static [usize],
    options: fn(PrefillProblem) -> PrefillProblem,
}

/// Prompts of a batch: 601 tokens, one prompt a single token.
const PROMPTS: &[usize] = &[283, 1, 197, 64, 56];

pub fn llama_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let layer = Layer {
        heads: HeadShape {
            query: 32,
            kv: 8,
            dim: 128,
        },
        v_dim: 128,
        queries: PROMPTS,
        keys: PROMPTS,
        options: |problem| problem,
    };
    run(device, steps, &layer)
}

/// Chunks of longer prompts, whose earlier keys are in the cache already.
pub fn gemma_2(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let layer = Layer {
        heads: HeadShape {
            query: 16,
            kv: 8,
            dim: 256,
        },
        v_dim: 256,
        queries: &[90, 1, 64],
        keys: &[250, 131, 64],
        options: |problem| {
            let window = Window::left(127);
            let softcap = SoftCap::Approx(50.0);
            problem.paged(16).window(window).softcap(softcap)
        },
    };
    run(device, steps, &layer)
}

pub fn deepseek_v2(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let layer = Layer {
        heads: HeadShape {
            query: 8,
            kv: 8,
            dim: 192,
        },
        v_dim: 128,
        queries: &[120, 77],
        keys: &[120, 77],
        options: |problem| problem,
    };
    run(device, steps, &layer)
}

fn run(device: &Device, steps: &Steps, layer: &Layer) -> Result<Report, Box<dyn Error>> {
    let (HeadShape { query, kv, dim }, v_dim) = (layer.heads, layer.v_dim);
    let (queries, batch) = (layer.queries.iter().sum(), layer.queries.len());
    let longest = layer.queries.iter().copied().max().unwrap_or(0);
    let problem = PrefillProblem::new(DType::BF16, layer.heads, batch, longest);
    let problem = (layer.options)(problem.v_dim(v_dim).causal(true).lse(true));

    steps.next("making operands");
    let mut normal = Normal::new(8);
    let page = match problem.kv {
        KvLayout::Ragged => 1,
        KvLayout::Paged { page_size } => page_size,
    };
    let (table, most) = page_table(layer.keys, page);
    let (paged, keys) = (problem.kv != KvLayout::Ragged, layer.keys.iter().sum());
    let rows = if paged { table.len() * page } else { keys };
    let (q, k, v) = (
        normal.bf16s(queries * query * dim, 1.0),
        normal.bf16s(rows * kv * dim, 1.0),
        normal.bf16s(rows * kv * v_dim, 1.0),
    );
    let (shape_q, shape_out) = ([queries, query, dim], [queries, query, v_dim]);
    let (shape_k, shape_v) = ([rows, kv, dim], [rows, kv, v_dim]);
    let pool = |[rows, kv, dim]: [usize; 3]| [rows / page, page, kv, dim];

    steps.next("loading the kernel");
    let stream = device.stream();
    let lens = [layer.queries, layer.keys].map(|lens| SeqLens::from_lengths(&stream, lens));
    let [lens_q, lens_k] = lens;
    let (lens_q, lens_k) = (lens_q?, lens_k?);
    let plan = PrefillPlan::new(device, &problem)?;

    steps.next("running it");
    let seqlens: Vec<i32> = layer.keys.iter().map(|&n| n as i32).collect();
    let (q_device, k_device, v_device) =
        (stream.upload(&q)?, stream.upload(&k)?, stream.upload(&v)?);
    let (table_device, seqlens_device) = (stream.upload(&table)?, stream.upload(&seqlens)?);
    let mut out = stream.alloc::<bf16>(queries * query * v_dim)?;
    let mut lse = stream.alloc::<f32>(queries * query)?;
    let status = StatusWord::new(&stream)?;
    let run = Run::of(device, &stream, || {
        let kv = match paged {
            false => Kv::Ragged {
                k: k_device.tensor(shape_k)?,
                v: v_device.tensor(shape_v)?,
                seqlens: (&lens_k).into(),
            },
            true => Kv::Paged {
                k: k_device.tensor(pool(shape_k))?,
                v: v_device.tensor(pool(shape_v))?,
                pages: PageTable::Rows(table_device.tensor([batch, most])?),
                seqlens: seqlens_device.tensor([batch])?,
            },
        };
        let (q, out) = (q_device.tensor(shape_q)?, out.tensor_mut(shape_out)?);
        let args = PrefillArgs::new(q, kv, out, &lens_q, &status);
        plan.run(&stream, args.lse(lse.tensor_mut([query, queries])?))
    })?;
    let (out, lse) = (out.download()?, lse.download()?);

    steps.next("the reference in f64");
    let (offsets_q, offsets_k) = (offsets(layer.queries), offsets(layer.keys));
    let kv = match paged {
        false => HostKv::Ragged {
            k: HostTensor::new(&k, shape_k)?,
            v: HostTensor::new(&v, shape_v)?,
            offsets: &offsets_k,
        },
        true => HostKv::Paged {
            k: HostTensor::new(&k, pool(shape_k))?,
            v: HostTensor::new(&v, pool(shape_v))?,
            pages: HostPages::Rows(HostTensor::new(&table, [batch, most])?),
            seqlens: &seqlens,
        },
    };
    let inputs = PrefillInputs::new(HostTensor::new(&q, shape_q)?, kv, &offsets_q);
    let exact = prefill(&problem, inputs)?;

    steps.next("the reference that rounds as the kernel does");
    let tile_k = catalog::find(plan.entry()).map_or(64, |entry| entry.tile_k as usize);
    let rounded = prefill_rounded(&problem, inputs, tile_k)?;
    let [of_k, of_v] = [shape_k, shape_v].map(|shape| match paged {
        false => format!("{shape:?} bf16"),
        true => format!("{:?} bf16", pool(shape)),
    });
    Ok(Report {
        shapes: vec![
            ("q", format!("{shape_q:?} bf16")),
            ("k", of_k),
            ("v", of_v),
            ("out", format!("{shape_out:?} bf16")),
            ("lse", format!("{:?} f32", [query, queries])),
            ("queries", format!("{:?}", layer.queries)),
            ("keys", format!("{:?}", layer.keys)),
        ],
        plan: plan.to_string(),
        margins: attention_margins(&out, &lse, [&exact, &rounded], [dim, v_dim])?,
        status: status.read()?,
        operand_bytes: plan.operand_bytes(queries, keys),
        run,
    })
}
