//! Decodes with a paged KV cache: each step appends a token's key and value, then attends to all.
//!
//!     cargo run --example paged_decode
use half::f16;
use infer_kernels::attention::decode::*;
use infer_kernels::kv::{AppendArgs, AppendPlan, AppendProblem, CacheMut};
use infer_kernels::{DType::F16, Device, StatusWord};

const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
const Q: [usize; 3] = [2, 4, 64]; // one new token of each of 2 sequences, 4 query heads
const KV: [usize; 3] = [2, 2, 64]; // its keys or values, 2 heads
const POOL: [usize; 4] = [5, 16, 2, 64]; // 5 pages of 16 tokens
const TABLE: [[i32; 2]; 2] = [[3, 0], [1, 4]]; // the pages of each sequence, first to last

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::auto()?;
    let stream = device.stream();
    let append = AppendPlan::new(&device, &AppendProblem::new(F16, HEADS.kv, HEADS.dim))?;
    let decode = DecodePlan::new(&device, &DecodeProblem::new(F16, HEADS, Q[0], POOL[1]))?;
    println!("{append}\n{decode}");

    let pool = || stream.alloc::<f16>(POOL.iter().product());
    let (mut k_pool, mut v_pool) = (pool()?, pool()?);
    let (table, status) = (
        stream.upload(TABLE.as_flattened())?,
        StatusWord::new(&stream)?,
    );
    let mut out = stream.alloc::<f16>(Q.iter().product())?;
    let mut workspace = stream.alloc::<f32>(decode.workspace_elements())?;
    for step in 0..20 {
        // What a model's projections would give: here, keys that are all alike, and the step as value.
        let q = stream.upload(&[f16::ONE; 2 * 4 * 64])?;
        let k = stream.upload(&[f16::ONE; 2 * 2 * 64])?;
        let v = stream.upload(&[f16::from_f32(step as f32); 2 * 2 * 64])?;
        let slots = TABLE.map(|pages| i64::from(pages[step / 16]) * 16 + step as i64 % 16);
        let (slots, lens) = (
            stream.upload(&slots)?,
            stream.upload(&[step as i32 + 1; 2])?,
        );

        let (k, v) = (k.tensor(KV)?, v.tensor(KV)?);
        let cache = CacheMut::rows(k_pool.tensor_mut(POOL)?, v_pool.tensor_mut(POOL)?);
        append.run(&stream, AppendArgs::new(k, v, cache, &slots, &status))?;

        let pages = PageTable::Rows(table.tensor([2, 2])?);
        let kv = Kv::paged(k_pool.tensor(POOL)?, v_pool.tensor(POOL)?, pages, &lens);
        let (q, o) = (q.tensor(Q)?, out.tensor_mut(Q)?);
        decode.run(&stream, DecodeArgs::new(q, kv, o, &mut workspace, &status))?;

        // Attention weighs all keys alike: the mean of 0, 1, .., step.
        assert_eq!(
            out.download()?,
            [f16::from_f32(step as f32 / 2.0); 2 * 4 * 64]
        );
        println!("step {step}: {}", out.download()?[0]);
    }
    Ok(status.read()?.into_result()?)
}
