//! Decode attention of one layer of a model: one new token for each sequence, over a paged cache.

use std::error::Error;

use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::{
    HostKv, HostPages, PrefillInputs, prefill, prefill_rounded,
};
use infer_kernels::{BackendKind, DType, Device, StatusWord, catalog};

use crate::Steps;
use crate::operands::{Normal, page_table};
use crate::report::{Report, Run, attention_margins};

pub const STEPS: u64 = 5;

const HEADS: HeadShape = HeadShape {
    query: 32,
    kv: 8,
    dim: 128,
};
const PAGE: usize = 16;
/// Keys of each sequence, that of the new token among them.
const KEYS: [usize; 6] = [401, 1, 77, 256, 130, 18];

pub fn llama_3(device: &Device, steps: &Steps) -> Result<Report, Box<dyn Error>> {
    let HeadShape { query, kv, dim } = HEADS;
    let batch = KEYS.len();
    let problem = DecodeProblem::new(DType::BF16, HEADS, batch, PAGE).lse(true);
    // One block does everything where launches are counted: there is one launch to count then.
    let one = (device.kind() == BackendKind::Emulator).then_some(1);
    let problem = problem.blocks(one);

    steps.next("making operands");
    let mut normal = Normal::new(9);
    let (table, most) = page_table(&KEYS, PAGE);
    let pool = [table.len(), PAGE, kv, dim];
    let elements = pool.iter().product();
    let (q, k, v) = (
        normal.bf16s(batch * query * dim, 1.0),
        normal.bf16s(elements, 1.0),
        normal.bf16s(elements, 1.0),
    );
    let shape = [batch, query, dim];

    steps.next("loading the kernel");
    let stream = device.stream();
    let plan = DecodePlan::new(device, &problem)?;

    steps.next("running it");
    let lens: Vec<i32> = KEYS.iter().map(|&n| n as i32).collect();
    let (q_device, k_device, v_device) =
        (stream.upload(&q)?, stream.upload(&k)?, stream.upload(&v)?);
    let (table_device, lens_device) = (stream.upload(&table)?, stream.upload(&lens)?);
    let mut out = stream.alloc::<bf16>(shape.iter().product())?;
    let mut lse = stream.alloc::<f32>(batch * query)?;
    let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
    let status = StatusWord::new(&stream)?;
    let run = Run::of(device, &stream, || {
        let kv = Kv::Paged {
            k: k_device.tensor(pool)?,
            v: v_device.tensor(pool)?,
            pages: PageTable::Rows(table_device.tensor([batch, most])?),
            seqlens: lens_device.tensor([batch])?,
        };
        let (q, out) = (q_device.tensor(shape)?, out.tensor_mut(shape)?);
        let workspace = workspace.tensor_mut([plan.workspace_elements()])?;
        let mut args = DecodeArgs::new(q, kv, out, workspace, &status);
        args.lse = Some(lse.tensor_mut([query, batch])?);
        plan.run(&stream, args)
    })?;
    let (out, lse) = (out.download()?, lse.download()?);

    steps.next("the reference in f64");
    let offsets: Vec<i32> = (0..=batch as i32).collect();
    let kv = HostKv::Paged {
        k: HostTensor::new(&k, pool)?,
        v: HostTensor::new(&v, pool)?,
        pages: HostPages::Rows(HostTensor::new(&table, [batch, most])?),
        seqlens: &lens,
    };
    let inputs = PrefillInputs::new(HostTensor::new(&q, shape)?, kv, &offsets);
    let exact = prefill(problem.attention(), inputs)?;

    steps.next("the reference that rounds as the kernel does");
    let tile_k = catalog::find(plan.entry()).map_or(32, |entry| entry.tile_k as usize);
    let rounded = prefill_rounded(problem.attention(), inputs, tile_k)?;
    Ok(Report {
        shapes: vec![
            ("q", format!("{shape:?} bf16")),
            ("k, v", format!("{pool:?} bf16")),
            ("out", format!("{shape:?} bf16")),
            ("lse", format!("{:?} f32", [query, batch])),
            ("keys", format!("{KEYS:?}")),
        ],
        plan: plan.to_string(),
        margins: attention_margins(&out, &lse, [&exact, &rounded], [dim; 2])?,
        status: status.read()?,
        operand_bytes: plan.operand_bytes(batch, KEYS.iter().sum()),
        run,
    })
}
