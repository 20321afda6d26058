//! No integers make safe code panic: whatever is asked for, it is done or refused.
#![cfg(feature = "emulator")]

mod common;

use std::sync::LazyLock;

use common::device;
use half::bf16;
use infer_kernels::attention::decode::{DecodePlan, DecodeProblem};
use infer_kernels::attention::mla::{MlaPlan, MlaProblem};
use infer_kernels::attention::prefill::{
    HeadShape, Kv, Mask, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, SoftCap, Window,
};
use infer_kernels::attention::{CuSeqLens, SeqLens};
use infer_kernels::kv::Format;
use infer_kernels::reference::HostTensor;
use infer_kernels::{DType, Device, Region, StatusReport, StatusWord};
use proptest::collection::vec;
use proptest::prelude::*;

static DEVICE: LazyLock<Device> = LazyLock::new(device);

/// Sizes near nothing, near what is valid, near the limits of 32 and 64 bits, and anything.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0usize..12,
        4 => prop::sample::select(vec![16, 64, 96, 128, 256, 65_535, 65_536]),
        1 => (1usize << 31) - 2..(1usize << 31) + 2,
        1 => (1usize << 63) - 2..(1usize << 63) + 2,
        1 => usize::MAX - 2..=usize::MAX,
        1 => any::<usize>(),
    ]
}

fn stride() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => -3i64..10,
        4 => prop::sample::select(vec![64, 128, 256, 264, -128, 1 << 31, 1 << 62]),
        1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1]),
        1 => any::<i64>(),
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![
        DType::BF16,
        DType::F16,
        DType::F32,
        DType::I32,
        DType::U8,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn tensors(
        address in any::<u64>(),
        len in prop_oneof![0u64..5000, any::<u64>()],
        dtype in dtype(),
        offset in size(),
        shape in [size(), size(), size()],
        strides in [stride(), stride(), stride()],
        axis in size(),
        start in size(),
        end in size(),
        order in [0usize..5, 0usize..5, 0usize..5],
    ) {
        // SAFETY: The memory is never touched: the region is only used to compute addresses.
        let region = unsafe { Region::from_raw_parts(address, len, dtype, &DEVICE) };
        let _ = region.tensor(shape);
        if let Ok(tensor) = region.strided(offset, shape, strides) {
            // Whatever is cut out of it stays inside.
            if let Ok(part) = tensor.narrow(axis, start..end) {
                prop_assert!(part.is_empty() || part.address() >= address);
                let size = part.dtype().size() as u128;
                let bound = u128::from(address) + u128::from(len) * size;
                prop_assert!(part.is_empty() || u128::from(part.address()) + size <= bound);
                let _ = part.permute(order);
            }
        }
        let data = [0u8; 64];
        if let Ok(tensor) = HostTensor::strided(&data, offset, shape, strides) {
            let _ = (tensor.get([start, end, axis]), tensor.get([0, 0, 0]));
        }
    }

    #[test]
    fn problems(
        dtype in dtype(),
        query in size(),
        kv in size(),
        dim in size(),
        batch in size(),
        max_seqlen_q in size(),
        scale in any::<f32>(),
        flags in any::<[bool; 6]>(),
        total in [size(), size()],
        v_dim in prop::option::of(size()),
        page_size in prop::option::of(size()),
        sides in [prop::option::of(size()), prop::option::of(size())],
        cap in prop::option::of((any::<bool>(), prop_oneof![Just(30.0), any::<f32>()])),
        blocks in prop::option::of(size()),
    ) {
        let heads = HeadShape { query, kv, dim };
        let [left, right] = sides;
        let mut problem = PrefillProblem::new(dtype, heads, batch, max_seqlen_q)
            .causal(flags[0])
            .lse(flags[1])
            .window(Window { left, right })
            .softcap(cap.map(|(exact, cap)| if exact { SoftCap::Exact(cap) } else { SoftCap::Approx(cap) }))
            .alibi(flags[3])
            .sinks(flags[4])
            .mask(flags[5])
            .v_dim(v_dim.unwrap_or(dim));
        if let Some(page_size) = page_size {
            problem = problem.paged(page_size);
        }
        if flags[2] {
            problem.scale = scale;
        }
        let supported = problem.supports();
        let plan = PrefillPlan::new(&DEVICE, &problem);
        prop_assert_eq!(supported.is_ok(), plan.is_ok());
        if let Ok(plan) = plan {
            let _ = (plan.to_string(), plan.blocks(), plan.waves(), plan.workspace_bytes());
            let _ = plan.operand_bytes(total[0], total[1]);
        }

        let format = [Format::Same, Format::E4m3, Format::E5m2, Format::Int8][blocks.unwrap_or(0) % 4];
        let problem = DecodeProblem::of(problem).blocks(blocks).format(format);
        let supported = problem.supports();
        let plan = DecodePlan::new(&DEVICE, &problem);
        prop_assert_eq!(supported.is_ok(), plan.is_ok());
        if let Ok(plan) = plan {
            let _ = (plan.to_string(), plan.blocks(), plan.workspace_bytes());
            let _ = plan.operand_bytes(total[0], total[1]);
        }

        let mut problem = MlaProblem::new(dtype, query, batch, page_size.unwrap_or(16))
            .max_queries(max_seqlen_q)
            .causal(flags[0])
            .lse(flags[1])
            .blocks(blocks)
            .rows(left.filter(|_| flags[3]));
        if flags[2] {
            problem = problem.scale(scale);
        }
        if flags[4] {
            (problem.latent_dim, problem.rope_dim) = (dim, v_dim.unwrap_or(dim));
        }
        let supported = problem.supports();
        let plan = MlaPlan::new(&DEVICE, &problem);
        prop_assert_eq!(supported.is_ok(), plan.is_ok());
        if let Ok(plan) = plan {
            let _ = (plan.to_string(), plan.blocks(), plan.workspace_bytes());
            let _ = plan.operand_bytes(total[0], total[1]);
        }
    }

    #[test]
    fn sequence_lengths(
        offsets in vec(prop_oneof![0i32..100, any::<i32>()], 0..6),
        lengths in vec(size(), 0..6),
    ) {
        let stream = DEVICE.stream();
        let valid = !offsets.is_empty() && offsets[0] >= 0 && offsets.is_sorted();
        let lens = SeqLens::from_offsets(&stream, &offsets);
        prop_assert_eq!(valid, lens.is_ok());
        if let Ok(lens) = lens {
            prop_assert!(lens.max_len() <= lens.end());
        }
        let _ = SeqLens::from_lengths(&stream, &lengths);
    }

    #[test]
    fn status_words(words in any::<[u64; 2]>()) {
        let report = StatusReport::decode(words);
        let _ = (report.to_string(), report.first(), report.offences().count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Pages, tables and masks of any shape over a little memory, with anything in them: refused, or
    /// run without a violation.
    #[test]
    fn runs_on_pages(
        kv in 1usize..3,
        batch in 0usize..4,
        page_size in 1usize..5,
        max_seqlen_q in 0usize..9,
        strange in prop::option::of((0usize..3, [size(), size(), size(), size()], [stride(), stride(), stride(), stride()])),
        numbers in vec(prop_oneof![4 => -1i32..9, 1 => any::<i32>()], 40),
        flags in any::<[bool; 4]>(),
        left in prop::option::of(0usize..9),
    ) {
        let stream = DEVICE.stream();
        let heads = HeadShape { query: 2 * kv, kv, dim: 64 };
        let window = Window { left, right: None };
        let problem = PrefillProblem::new(DType::BF16, heads, batch, max_seqlen_q)
            .paged(page_size)
            .causal(flags[0])
            .window(window)
            .mask(flags[1]);
        let plan = PrefillPlan::new(&DEVICE, &problem).unwrap();
        let input = stream.alloc::<bf16>(4 * 4 * 2 * 64).unwrap();
        let mut out = stream.alloc::<bf16>(6 * 4 * 64).unwrap();
        let status = StatusWord::new(&stream).unwrap();
        let numbers = stream.upload(&numbers).unwrap();
        let bits = stream.alloc::<u8>(30).unwrap();

        let pool = |which: usize| match strange {
            Some((at, shape, strides)) if at == which => input.region().strided(0, shape, strides),
            _ => input.tensor([3, page_size, kv, 64]),
        };
        let table = match strange {
            Some((2, [rows, entries, ..], [row, entry, ..])) => {
                numbers.region().strided(0, [rows, entries], [row, entry])
            }
            _ => numbers.region().strided(20, [batch, 4], [5, 1]),
        };
        let (Ok(k), Ok(v), Ok(table)) = (pool(0), pool(1), table) else {
            return Ok(());
        };
        let vector = |from: usize, len: usize| numbers.region().strided(from, [len], [1]).unwrap();
        let pages = match flags[2] {
            true => PageTable::Csr { indptr: vector(0, batch + 1), pages: vector(20, 20) },
            false => PageTable::Rows(table),
        };
        let kv = Kv::Paged { k, v, pages, seqlens: vector(5, batch) };
        let q = input.tensor([6, heads.query, 64]).unwrap();
        let mut args = PrefillArgs::new(
            q,
            kv,
            out.tensor_mut([6, heads.query, 64]).unwrap(),
            CuSeqLens::Device(vector(10, batch + 1)),
            &status,
        );
        if flags[1] {
            args = args.mask(Mask {
                bits: bits.tensor([30]).unwrap(),
                offsets: vector(15, batch + 1),
            });
        }
        match plan.run(&stream, args) {
            Err(infer_kernels::attention::prefill::PrefillError::Device(error)) => {
                prop_assert!(false, "the launch failed: {error:?}");
            }
            Ok(()) => {
                let _ = status.read().unwrap();
            }
            Err(_) => {}
        }
    }

    /// Operands of any shape over a little memory, with any offsets on the device: refused, or run
    /// without a violation.
    #[test]
    fn runs(
        small in [0usize..5, 0usize..5, 1usize..3, 1usize..3],
        dim in prop::sample::select(vec![64usize, 128]),
        batch in 0usize..4,
        max_seqlen_q in 0usize..300,
        strange in prop::option::of((0usize..4, [size(), size(), size()], [stride(), stride(), stride()])),
        offsets in vec(prop_oneof![0i32..6, any::<i32>()], 8),
        flags in any::<[bool; 2]>(),
    ) {
        let stream = DEVICE.stream();
        let [rows_q, rows_k, kv, ratio] = small;
        let heads = HeadShape { query: kv * ratio, kv, dim };
        let problem = PrefillProblem::new(DType::BF16, heads, batch, max_seqlen_q)
            .causal(flags[0])
            .lse(flags[1]);
        let plan = PrefillPlan::new(&DEVICE, &problem).unwrap();
        let input = stream.alloc::<bf16>(4 * 4 * 128).unwrap();
        let mut out = stream.alloc::<bf16>(4 * 4 * 128).unwrap();
        let mut lse = stream.alloc::<f32>(4 * 4).unwrap();
        let status = StatusWord::new(&stream).unwrap();
        let cu = [&offsets[..=batch], &offsets[4..=4 + batch.min(3)]]
            .map(|offsets| stream.upload(offsets).unwrap());
        let cu = [0, 1].map(|i| CuSeqLens::Device(cu[i].tensor([cu[i].len()]).unwrap()));

        let dense = |operand: usize, shape: [usize; 3]| match strange {
            Some((which, shape, strides)) if which == operand => (shape, strides),
            _ => (shape, [(shape[1] * shape[2]) as i64, shape[2] as i64, 1]),
        };
        let read = |operand, shape| {
            let (shape, strides) = dense(operand, shape);
            input.region().strided(0, shape, strides)
        };
        let (shape, strides) = dense(3, [rows_q, heads.query, dim]);
        let (Ok(q), Ok(k), Ok(v), Ok(out)) = (
            read(0, [rows_q, heads.query, dim]),
            read(1, [rows_k, heads.kv, dim]),
            read(2, [rows_k, heads.kv, dim]),
            out.region_mut().strided(0, shape, strides),
        ) else {
            return Ok(());
        };
        let lse = match flags[1] {
            true => Some(lse.tensor_mut([heads.query, rows_q]).unwrap()),
            false => None,
        };
        let mut args = PrefillArgs::new(q, Kv::Ragged { k, v, seqlens: cu[1] }, out, cu[0], &status);
        args.lse = lse;
        match plan.run(&stream, args) {
            Err(infer_kernels::attention::prefill::PrefillError::Device(error)) => {
                prop_assert!(false, "the launch failed: {error:?}");
            }
            Ok(()) => {
                let _ = status.read().unwrap();
            }
            Err(_) => {}
        }
    }
}
