//! What the decode kernels do, counted by the emulator over a whole launch.

use crate::common::{Lengths, decode, device, in_parallel};
use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{DType, Device, StatusWord};

const KEYS: usize = 8192;

/// One block, so that there is no second launch: every byte of K and V is asked for once for each KV
/// head, in whole sectors and without bank conflicts, by few instructions.
#[test]
fn keys_are_read_once_for_each_kv_head() {
    // Head dimension, query heads for the one KV head, PTX instructions for each KB of K and V.
    let rows = [
        (64, 1, 46.0),
        (64, 8, 46.0),
        (128, 1, 28.0),
        (128, 8, 28.0),
        (128, 16, 28.0),
        (256, 4, 24.0),
    ];
    in_parallel(&rows, |&(dim, query, goal)| {
        let heads = HeadShape { query, kv: 1, dim };
        let mut case = decode::plain_of(1, heads, &Lengths::of(&[1], &[KEYS]));
        case.problem.scale = 1.0 / (dim as f32).sqrt();
        let device = device();
        let outcome = case.decode(&device, 1).unwrap();
        assert!(outcome.status.is_clean());
        let stats = device.last_launch().unwrap();
        let minimum = (2 * KEYS * dim * 2) as f64;
        let bytes = stats.global_bytes as f64 / minimum;
        let sectors = 32.0 * stats.global_sectors as f64 / minimum;
        let instructions = stats.warp_instructions as f64 / (minimum / 1024.0);
        println!(
            "{}, {query} query heads: {bytes:.4} of the bytes of K and V, {sectors:.4} in sectors, \
             {instructions:.1} instructions per KB",
            outcome.entry
        );
        assert!((1.0..1.02).contains(&bytes), "{dim} {query}: {bytes}");
        assert!(sectors < 1.02, "{dim} {query}: {sectors}");
        assert_eq!(stats.bank_conflicts, 0, "{dim} {query}");
        assert!(instructions < goal, "{dim} {query}: {instructions}");
    });
}

/// How many blocks have a part of one long sequence, told from the partial results that they leave, and
/// how many there are.
fn working_blocks(gpu: &Gpu, kv: usize, keys: &[usize]) -> (usize, usize) {
    let device = Device::emulator(Config {
        gpu: gpu.clone(),
        ..Config::default()
    });
    let stream = device.stream();
    let heads = HeadShape {
        query: kv,
        kv,
        dim: 64,
    };
    let problem = DecodeProblem::new(DType::BF16, heads, keys.len(), 1 << 15);
    let plan = DecodePlan::new(&device, &problem).unwrap();
    // One page for all sequences, every row of which is the same one.
    let pool = stream.upload(&vec![bf16::ONE; kv * 64]).unwrap();
    let strides = [0, 0, 64, 1];
    let pool = pool
        .region()
        .strided(0, [1, 1 << 15, kv, 64], strides)
        .unwrap();
    let table = stream.upload(&vec![0u32; keys.len()]).unwrap();
    let lens: Vec<i32> = keys.iter().map(|&n| n as i32).collect();
    let lens = stream.upload(&lens).unwrap();
    let q = stream
        .upload(&vec![bf16::ONE; keys.len() * kv * 64])
        .unwrap();
    let mut out = stream.alloc::<bf16>(keys.len() * kv * 64).unwrap();
    let elements = plan.workspace_elements();
    let mut workspace = stream.upload(&vec![f32::NAN; elements]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let shape = [keys.len(), kv, 64];
    let kv = Kv::Paged {
        k: pool,
        v: pool,
        pages: PageTable::Rows(table.tensor([keys.len(), 1]).unwrap()),
        seqlens: lens.tensor([keys.len()]).unwrap(),
    };
    let args = DecodeArgs::new(
        q.tensor(shape).unwrap(),
        kv,
        out.tensor_mut(shape).unwrap(),
        workspace.tensor_mut([elements]).unwrap(),
        &status,
    );
    plan.run(&stream, args).unwrap();
    assert!(status.read().unwrap().is_clean());
    assert_eq!(
        out.download().unwrap(),
        vec![bf16::ONE; shape.iter().product()]
    );
    let workspace = workspace.download().unwrap();
    let partial = 16 * 66;
    let working = (0..plan.blocks())
        .filter(|block| {
            let places = &workspace[2 * block * partial..][..2 * partial];
            places.iter().any(|x| !x.is_nan())
        })
        .count();
    (working, plan.blocks())
}

/// One sequence of 32k keys keeps nine of ten multiprocessors busy, with equal shares.
#[test]
fn one_long_sequence_fills_the_device() {
    for (gpu, kv) in [(Gpu::A100, 8), (Gpu::H100, 8), (Gpu::RTX_4090, 8)] {
        let (working, blocks) = working_blocks(&gpu, kv, &[1 << 15]);
        println!(
            "{}, {kv} kv heads: {working} of {blocks} blocks work",
            gpu.name
        );
        assert_eq!(working, blocks);
        let units = kv * (1 << 15) / 128;
        let longest = units.div_ceil(blocks);
        let busy = units as f64 / (longest * blocks) as f64;
        assert!(busy > 0.9, "{busy}");
    }
}
