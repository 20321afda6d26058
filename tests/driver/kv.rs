//! Operations on caches through each backend, and appends in a graph.

use half::{bf16, f16};
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::merge::{MergeArgs, MergePlan, MergeProblem, State};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::{Cache, CopyPlan, GatherArgs, GatherPlan, GatherProblem};
use infer_kernels::{DType, Device, Float, StatusWord};

use crate::{BACKENDS, emulated};

#[test]
fn pages_are_copied_to_the_host() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let stream = device.stream();
        let content: Vec<i32> = (0..5 * 24).collect();
        let cache = stream.upload(&content).unwrap();
        let mut host = [0; 2 * 24];
        let plan = CopyPlan::new(&device).unwrap();
        plan.to_host(&stream, cache.tensor([5, 24]).unwrap(), &[3, 1], &mut host)
            .unwrap();
        assert_eq!(host[..24], content[3 * 24..4 * 24]);
        assert_eq!(host[24..], content[24..2 * 24]);
    }
}

fn gathered<T: Float>(device: &Device) {
    let stream = device.stream();
    let plan = GatherPlan::new(device, &GatherProblem::new(T::DTYPE, 1, 8)).unwrap();
    let content: Vec<T> = (0..4 * 2 * 8).map(|i| T::nearest(f64::from(i))).collect();
    let cache = stream.upload(&content).unwrap();
    let pages = stream.upload(&[2u32, 0]).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[3]).unwrap();
    let mut outs = [stream.alloc::<T>(24).unwrap(), stream.alloc(24).unwrap()];
    let [k, v] = &mut outs;
    let status = StatusWord::new(&stream).unwrap();
    let tensor = cache.tensor([4, 2, 1, 8]).unwrap();
    let args = GatherArgs {
        cache: Cache::Rows {
            k: tensor,
            v: tensor,
        },
        pages: PageTable::Rows(pages.tensor([1, 2]).unwrap()),
        seqlens: (&lens).into(),
        k: k.tensor_mut([3, 1, 8]).unwrap(),
        v: v.tensor_mut([3, 1, 8]).unwrap(),
        scales: None,
        status: &status,
    };
    plan.run(&stream, args).unwrap();
    let expected = [&content[4 * 8..6 * 8], &content[..8]].concat();
    for out in outs {
        assert_eq!(out.download().unwrap(), expected);
    }
    assert!(status.read().unwrap().is_clean());
}

#[test]
fn rows_are_gathered() {
    for backend in BACKENDS {
        gathered::<bf16>(&emulated(backend));
        gathered::<f16>(&emulated(backend));
    }
}

#[test]
fn states_are_merged() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let stream = device.stream();
        let plan = MergePlan::new(&device, &MergeProblem::new(DType::F32, 1, 8)).unwrap();
        let outs = [3.0f32, 5.0].map(|x| stream.upload(&[x; 8]).unwrap());
        let lse = stream.upload(&[0.5f32]).unwrap();
        let state = |i: usize| State {
            out: outs[i].tensor([1, 1, 8]).unwrap(),
            lse: lse.tensor([1, 1]).unwrap(),
        };
        let mut out = stream.alloc::<f32>(8).unwrap();
        let args = MergeArgs {
            states: &[state(0), state(1)],
            out: out.tensor_mut([1, 1, 8]).unwrap(),
            lse: None,
        };
        plan.run(&stream, args).unwrap();
        assert_eq!(out.download().unwrap(), [4.0; 8]);
    }
}

/// A recorded append reads slots again with each replay.
#[cfg(feature = "cudarc")]
#[test]
fn replayed_appends_go_where_slots_say() {
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    use infer_kernels::kv::{AppendArgs, AppendPlan, AppendProblem, CacheMut};

    use crate::emulated_alone;

    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let problem = AppendProblem::new(DType::BF16, 1, 8).padding(true);
    let plan = AppendPlan::new(stream.device(), &problem).unwrap();
    let rows = stream.upload(&[bf16::ONE; 2 * 8]).unwrap();
    let mut slots = stream.upload(&[0i64, -1]).unwrap();
    let mut caches = [
        stream.alloc::<bf16>(4 * 8).unwrap(),
        stream.alloc::<bf16>(4 * 8).unwrap(),
    ];
    let status = StatusWord::new(&stream).unwrap();
    stream.synchronize().unwrap();

    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    {
        let [k, v] = &mut caches;
        let shape = [2, 2, 1, 8];
        let cache = CacheMut::Rows {
            k: k.tensor_mut(shape).unwrap(),
            v: v.tensor_mut(shape).unwrap(),
        };
        let new = rows.tensor([2, 1, 8]).unwrap();
        let args = AppendArgs::new(new, new, cache, slots.tensor([2]).unwrap(), &status);
        // SAFETY: The buffers outlive the graph, and all work is on one stream.
        unsafe { plan.run_captured(&stream, args) }.unwrap();
    }
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    let mut expected = [bf16::ZERO; 4 * 8];
    for filled in [[2i64, -1], [0, 3], [-1, -1]] {
        slots.upload(&filled).unwrap();
        graph.launch().unwrap();
        for slot in filled.into_iter().filter(|&slot| slot >= 0) {
            expected[slot as usize * 8..][..8].fill(bf16::ONE);
        }
        for cache in &caches {
            assert_eq!(cache.download().unwrap(), expected);
        }
    }
    assert!(status.read().unwrap().is_clean());
}
