//! New keys and values into the pages of a cache, and states of attention merged.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::merge::{MergeArgs, MergePlan, MergeProblem, State};
use infer_kernels::kv::{
    AppendArgs, AppendPlan, AppendProblem, CacheMut, Format, Pairing, Queries, Rotation, Scales,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::kv::{AppendInputs, append, append_rounded, decode};
use infer_kernels::reference::merge::merge;
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, StatusReport, StatusWord};

use crate::Steps;
use crate::operands::Normal;
use crate::report::{Report, Run};

/// How many times an operation here says what it does next.
pub const STEPS: u64 = 4;

/// A chunk of a prompt: rotated queries and keys, keys and values in 8 bits.
pub fn llama_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (tokens, heads, query_heads, dim) = (96, 8, 32, 128);
    let (pages, page) = (16, 16);
    let format = Format::E4m3;

    steps.next("making operands");
    let mut normal = Normal::new(8);
    let q = normal.bf16s(tokens * query_heads * dim, 1.0);
    let (k, v) = (
        normal.bf16s(tokens * heads * dim, 1.0),
        normal.bf16s(tokens * heads * dim, 1.0),
    );
    // From the last slot backwards, at positions from 100 on.
    let slots: Vec<i64> = (0..tokens).map(|t| (pages * page - 1 - t) as i64).collect();
    let positions: Vec<i64> = (0..tokens).map(|t| 100 + t as i64).collect();
    let rows = 100 + tokens;
    let angle = |row: usize, i: usize| row as f64 * 500_000f64.powf(-2.0 * i as f64 / dim as f64);
    let table = |of: fn(f64) -> f64| -> Vec<f32> {
        (0..rows * dim / 2)
            .map(|i| of(angle(i / (dim / 2), i % (dim / 2))) as f32)
            .collect()
    };
    let (cosines, sines) = (table(f64::cos), table(f64::sin));
    let scale = [0.02f32];

    steps.next("loading the kernel");
    let stream = device.stream();
    let problem = AppendProblem::new(DType::BF16, heads, dim)
        .query_heads(query_heads)
        .rope(Pairing::Halves, dim)
        .format(format);
    let plan = AppendPlan::new(device, &problem)?;

    steps.next("running it");
    let [q_device, k_device, v_device] = [&q, &k, &v].map(|rows| stream.upload(rows));
    let (q_device, k_device, v_device) = (q_device?, k_device?, v_device?);
    let (slots_device, positions_device) = (stream.upload(&slots)?, stream.upload(&positions)?);
    let (cosines_device, sines_device) = (stream.upload(&cosines)?, stream.upload(&sines)?);
    let scale_device = stream.upload(&scale)?;
    let elements = pages * page * heads * dim;
    let mut caches = [stream.alloc::<u8>(elements)?, stream.alloc::<u8>(elements)?];
    let mut out = stream.alloc::<bf16>(q.len())?;
    let status = StatusWord::new(&stream)?;
    let shape = [pages, page, heads, dim];
    let run = Run::of(device, &stream, || {
        let [k_cache, v_cache] = &mut caches;
        let cache = CacheMut::Rows {
            k: k_cache.tensor_mut(shape)?,
            v: v_cache.tensor_mut(shape)?,
        };
        let new = [tokens, heads, dim];
        let (k, v) = (k_device.tensor(new)?, v_device.tensor(new)?);
        let args = AppendArgs::new(k, v, cache, slots_device.tensor([tokens])?, &status)
            .queries(Queries::To {
                q: q_device.tensor([tokens, query_heads, dim])?,
                out: out.tensor_mut([tokens, query_heads, dim])?,
            })
            .rotation(Rotation {
                positions: positions_device.tensor([tokens])?,
                cosines: cosines_device.tensor([rows, dim / 2])?,
                sines: sines_device.tensor([rows, dim / 2])?,
            })
            .scales(Scales {
                k: scale_device.tensor([1])?,
                v: scale_device.tensor([1])?,
            });
        plan.run(&stream, args)
    })?;
    let out = out.download()?;
    let [k_cache, v_cache] = caches.map(|cache| cache.download());
    let caches = [k_cache?, v_cache?];

    steps.next("the references in f64 and in f32");
    let inputs = AppendInputs {
        q: Some(HostTensor::new(&q, [tokens, query_heads, dim])?),
        k: HostTensor::new(&k, [tokens, heads, dim])?,
        v: HostTensor::new(&v, [tokens, heads, dim])?,
        slots: &slots,
        num_slots: pages * page,
        positions: &positions,
        angles: Some([
            HostTensor::new(&cosines, [rows, dim / 2])?,
            HostTensor::new(&sines, [rows, dim / 2])?,
        ]),
        weights: [&[], &[]],
        scales: [&scale, &scale],
    };
    let (exact, rounded) = (append(&problem, inputs), append_rounded(&problem, inputs));
    let zeros = vec![0.0; exact.rows[0].len()];
    let queries = Comparison {
        got: &out,
        exact: &exact.rows[0],
        rounded: &rounded.rows[0],
        terms: &exact.terms[0],
        allowed: &zeros,
    };
    let mut margins = vec![("queries", queries.judge(Rule::ROUNDED)?)];
    for (part, name) in [(1, "keys"), (2, "values")] {
        let stored = |token: usize, i: usize| {
            let at = slots[token] as usize * heads * dim + i;
            decode(format, caches[part - 1][at]) as f32
        };
        let row = heads * dim;
        let got: Vec<f32> = (0..tokens * row)
            .map(|i| stored(i / row, i % row))
            .collect();
        // Half a step of three bits of mantissa, or of the smallest numbers.
        let step = |x: &f64| x.abs().max(2f64.powi(-6)) * 2f64.powi(-4);
        let allowed: Vec<f64> = exact.rows[part].iter().map(step).collect();
        let of_part = Comparison {
            got: &got,
            exact: &exact.rows[part],
            rounded: &rounded.rows[part],
            terms: &exact.terms[part],
            allowed: &allowed,
        };
        margins.push((name, of_part.judge(Rule::ROUNDED)?));
    }
    Ok(Report {
        shapes: vec![
            ("q", format!("{:?} bf16", [tokens, query_heads, dim])),
            ("k, v", format!("{:?} bf16", [tokens, heads, dim])),
            ("cache", format!("{shape:?} E4M3, twice")),
        ],
        plan: plan.to_string(),
        margins,
        status: status.read()?,
        operand_bytes: plan.row_bytes(tokens),
        run,
    })
}

/// Attention over a prefix that sequences share, and over what is their own.
pub fn merged(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let (tokens, heads, dim) = (64, 32, 128);

    steps.next("making operands");
    let mut normal = Normal::new(9);
    let outs = [
        normal.bf16s(tokens * heads * dim, 1.0),
        normal.bf16s(tokens * heads * dim, 1.0),
    ];
    let lses: [Vec<f32>; 2] = std::array::from_fn(|_| {
        let numbers = normal.numbers(heads * tokens).into_iter();
        numbers.map(|x| 8.0 + x as f32).collect()
    });

    steps.next("loading the kernel");
    let stream = device.stream();
    let plan = MergePlan::new(device, &MergeProblem::new(DType::BF16, heads, dim))?;

    steps.next("running it");
    let (shape, of_lse) = ([tokens, heads, dim], [heads, tokens]);
    let buffers = [
        (stream.upload(&outs[0])?, stream.upload(&lses[0])?),
        (stream.upload(&outs[1])?, stream.upload(&lses[1])?),
    ];
    let mut out = stream.alloc::<bf16>(tokens * heads * dim)?;
    let mut lse = stream.alloc::<f32>(heads * tokens)?;
    let mut states = vec![];
    for (out, lse) in &buffers {
        states.push(State {
            out: out.tensor(shape)?,
            lse: lse.tensor(of_lse)?,
        });
    }
    let (mut out_tensor, mut lse_tensor) = (out.tensor_mut(shape)?, lse.tensor_mut(of_lse)?);
    let run = Run::of(device, &stream, || {
        let args = MergeArgs {
            states: &states,
            out: out_tensor.reborrow(),
            lse: Some(lse_tensor.reborrow()),
        };
        plan.run(&stream, args)
    })?;

    steps.next("the reference in f64");
    let mut states = vec![];
    for (out, lse) in outs.iter().zip(&lses) {
        states.push((HostTensor::new(out, shape)?, HostTensor::new(lse, of_lse)?));
    }
    let exact = merge(shape, &states);
    let allowed: Vec<f64> = exact.out_terms.iter().map(|x| x * 2f64.powi(-18)).collect();
    let got = out.download()?;
    let of_out = Comparison {
        got: &got,
        exact: &exact.out,
        rounded: &exact.out,
        terms: &exact.out_terms,
        allowed: &allowed,
    };
    Ok(Report {
        shapes: vec![
            ("states", format!("2 of {shape:?} bf16 and {of_lse:?} f32")),
            ("out", format!("{shape:?} bf16")),
        ],
        plan: plan.to_string(),
        margins: vec![("out", of_out.judge(Rule::ROUNDED)?)],
        status: StatusReport::default(),
        operand_bytes: plan.row_bytes(tokens, 2),
        run,
    })
}
