//! What the cache kernels do, counted by the emulator over a whole launch.

use crate::common::cache::Layout;
use crate::common::kv::{Case, QueryMode};
use crate::common::{Arrangement, Operand, device_with};
use half::bf16;
use infer_kernels::DType;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::merge::{MergeArgs, MergePlan, MergeProblem, State};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::{
    AppendPlan, AppendProblem, Cache, CopyArgs, CopyPlan, Format, GatherArgs, GatherPlan,
    GatherProblem, Norm, Pages, Pairing, Scales,
};
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use infer_kernels::{Device, StatusWord};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A launch for so many tokens, in a row as they are in a prompt, operands without gaps.
fn launch(problem: &AppendProblem, layout: Layout, tokens: usize) -> LaunchStats {
    let device = device_with(Config {
        profile: true,
        ..Config::default()
    });
    let rng = &mut StdRng::seed_from_u64(1);
    let mut case = Case::<bf16>::of(rng, problem.clone(), layout, tokens);
    for operand in [&mut case.q, &mut case.k, &mut case.v] {
        *operand = Operand::filled(operand.shape, Arrangement::Dense, |[i, j, k]| {
            ((i + 3 * j + 7 * k) % 16) as f64
        });
    }
    if case.queries != QueryMode::None {
        case.queries = QueryMode::To(Arrangement::Dense);
    }
    case.slots = (0..tokens as i64).collect();
    case.wide = [true; 2];
    case.table_gap = 0;
    assert!(case.check(&device).unwrap().is_clean());
    device.last_launch().unwrap()
}

/// Bytes that any kernel moves: rows, indices and, once each, rows of angles.
fn least(problem: &AppendProblem, tokens: usize) -> f64 {
    let plan = AppendPlan::new(&device_with(Config::default()), problem).unwrap();
    let indices = tokens * if problem.rope.is_some() { 16 } else { 8 };
    let angles = problem.rope.map_or(0, |rope| 40 * rope.dim * 4);
    (plan.row_bytes(tokens) as usize + indices + angles) as f64
}

#[test]
fn every_byte_is_moved_once_in_whole_sectors() {
    let llama = AppendProblem::new(DType::BF16, 8, 128);
    let rotated = llama.clone().query_heads(32).rope(Pairing::Halves, 128);
    let gemma = AppendProblem::new(DType::BF16, 4, 256)
        .query_heads(8)
        .rope(Pairing::Halves, 256)
        .norm(Norm {
            eps: 1e-6,
            plus_one: true,
        });
    for (name, problem, layout, tokens) in [
        (
            "a quarter of Llama 3 8B",
            AppendProblem::new(DType::BF16, 2, 128),
            Layout::Nhd,
            2592,
        ),
        ("Llama 3 8B, few tokens", llama.clone(), Layout::Hnd, 64),
        (
            "Llama 3 8B, rotated",
            rotated.clone(),
            Layout::Combined,
            128,
        ),
        (
            "Llama 3 8B, to E4M3",
            rotated.format(Format::E4m3),
            Layout::Hnd,
            128,
        ),
        ("Gemma 3 4B", gemma, Layout::Nhd, 128),
    ] {
        let stats = launch(&problem, layout, tokens);
        let traffic = stats.traffic.unwrap();
        let moved = (traffic.read_bytes + traffic.written_bytes) as f64;
        let ratio = moved / least(&problem, tokens);
        let sectors = (32 * stats.global_sectors) as f64 / least(&problem, tokens);
        let slots = stats.warp_instructions as f64 / (moved / 1024.0);
        println!(
            "{name}: {ratio:.3} of the least bytes, {sectors:.3} asked for, {slots:.0} warp instructions per KiB"
        );
        assert!(ratio <= 1.02, "{name}: {ratio:.3}");
        assert_eq!(stats.bank_conflicts, 0, "{name}");
        assert_eq!(stats.shared_wavefronts, 0, "{name}");
        if tokens > 1000 {
            // With a warp for each token indices and angles are read once too.
            assert!(sectors <= 1.02, "{name}: {sectors:.3}");
        }
    }
}

/// Bytes moved and asked for, of the least; warp instructions for each KiB moved.
fn judge(name: &str, stats: &LaunchStats, least: usize) {
    let traffic = stats.traffic.unwrap();
    let moved = (traffic.read_bytes + traffic.written_bytes) as f64;
    let (ratio, asked) = (
        moved / least as f64,
        (32 * stats.global_sectors) as f64 / least as f64,
    );
    let slots = stats.warp_instructions as f64 / (moved / 1024.0);
    println!(
        "{name}: {ratio:.3} of the least bytes, {asked:.3} asked for, {slots:.0} warp instructions per KiB"
    );
    assert!(ratio <= 1.02, "{name}: {ratio:.3}");
    assert_eq!(
        (stats.bank_conflicts, stats.shared_wavefronts),
        (0, 0),
        "{name}"
    );
}

fn profiled() -> Device {
    device_with(Config {
        profile: true,
        ..Config::default()
    })
}

#[test]
fn pages_are_copied_and_gathered_in_whole_sectors() {
    let device = profiled();
    let stream = device.stream();
    let status = StatusWord::new(&stream).unwrap();

    let (pages, elements) = (16, 16 * 8 * 128);
    let mut cache = stream.alloc::<bf16>(pages * elements).unwrap();
    let pairs: Vec<i32> = (0..8).flat_map(|i| [i, i + 8]).collect();
    let pairs = stream.upload(&pairs).unwrap();
    let args = CopyArgs {
        pages: Pages::Within(vec![cache.tensor_mut([pages, elements]).unwrap()]),
        pairs: pairs.tensor([8, 2]).unwrap(),
        status: &status,
    };
    CopyPlan::new(&device).unwrap().run(&stream, args).unwrap();
    let stats = device.last_launch().unwrap();
    judge("copy", &stats, 8 * 2 * elements * 2 + 64);

    let (tokens, page) = (512, 16);
    for format in [Format::Same, Format::E4m3] {
        let problem = GatherProblem::new(DType::BF16, 8, 128).format(format);
        let plan = GatherPlan::new(&device, &problem).unwrap();
        let shape = [tokens / page, page, 8, 128];
        let rows = tokens * 8 * 128;
        let (same, bytes) = (
            stream.alloc::<bf16>(rows).unwrap(),
            stream.alloc::<u8>(rows).unwrap(),
        );
        let (same_v, bytes_v) = (
            stream.alloc::<bf16>(rows).unwrap(),
            stream.alloc::<u8>(rows).unwrap(),
        );
        let mut outs = [
            stream.alloc::<bf16>(rows).unwrap(),
            stream.alloc(rows).unwrap(),
        ];
        let [k, v] = &mut outs;
        let table: Vec<u32> = (0..(tokens / page) as u32).rev().collect();
        let table = stream.upload(&table).unwrap();
        let lens = SeqLens::from_lengths(&stream, &[tokens]).unwrap();
        let scale = stream.upload(&[1.0f32]).unwrap();
        let scale = scale.tensor([1]).unwrap();
        let args = GatherArgs {
            cache: match format {
                Format::Same => Cache::Rows {
                    k: same.tensor(shape).unwrap(),
                    v: same_v.tensor(shape).unwrap(),
                },
                _ => Cache::Rows {
                    k: bytes.tensor(shape).unwrap(),
                    v: bytes_v.tensor(shape).unwrap(),
                },
            },
            pages: PageTable::Rows(table.tensor([1, tokens / page]).unwrap()),
            seqlens: (&lens).into(),
            k: k.tensor_mut([tokens, 8, 128]).unwrap(),
            v: v.tensor_mut([tokens, 8, 128]).unwrap(),
            scales: (format != Format::Same).then_some(Scales { k: scale, v: scale }),
            status: &status,
        };
        plan.run(&stream, args).unwrap();
        let stats = device.last_launch().unwrap();
        let least = plan.row_bytes(tokens) as usize + 4 * (tokens / page) + 8;
        judge(&format!("gather, {format:?}"), &stats, least);
    }
    assert!(status.read().unwrap().is_clean());
}

#[test]
fn states_are_merged_in_whole_sectors() {
    let device = profiled();
    let stream = device.stream();
    let (tokens, heads, dim) = (128, 32, 128);
    for dtype in [DType::BF16, DType::F32] {
        let problem = MergeProblem::new(dtype, heads, dim);
        let plan = MergePlan::new(&device, &problem).unwrap();
        let of = |elements| match dtype {
            DType::F32 => stream.alloc::<f32>(elements).unwrap(),
            // Pairs of zeros.
            _ => stream.alloc::<f32>(elements / 2).unwrap(),
        };
        let elements = tokens * heads * dim;
        let (buffers, mut out) = ([of(elements), of(elements)], of(elements));
        let lse = stream.alloc::<f32>(heads * tokens).unwrap();
        let lses = [&lse, &stream.alloc::<f32>(heads * tokens).unwrap()];
        let mut merged = stream.alloc::<f32>(heads * tokens).unwrap();
        let shape = [tokens, heads, dim];
        let region = |address: u64| {
            // SAFETY: The buffers outlive the launch, which is done when it is enqueued here.
            unsafe {
                infer_kernels::RegionMut::from_raw_parts(address, elements as u64, dtype, &device)
            }
        };
        let state = |i: usize| {
            let address = buffers[i].tensor([0]).unwrap().address();
            // SAFETY: The same.
            let region = unsafe {
                infer_kernels::Region::from_raw_parts(address, elements as u64, dtype, &device)
            };
            State {
                out: region.tensor(shape).unwrap(),
                lse: lses[i].tensor([heads, tokens]).unwrap(),
            }
        };
        let out_address = out.tensor_mut([0]).unwrap().as_ref().address();
        let args = MergeArgs {
            states: &[state(0), state(1)],
            out: region(out_address).tensor(shape).unwrap(),
            lse: Some(merged.tensor_mut([heads, tokens]).unwrap()),
        };
        plan.run(&stream, args).unwrap();
        let stats = device.last_launch().unwrap();
        judge(
            &format!("merge of two, {dtype}"),
            &stats,
            plan.row_bytes(tokens, 2) as usize,
        );
    }
}
