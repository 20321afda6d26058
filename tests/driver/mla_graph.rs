//! A step of latent attention in a graph: new tokens are stored, then attended to.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::bf16;
use infer_kernels::attention::mla::{MlaArgs, MlaError, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::{PageTable, PrefillError};
use infer_kernels::kv::{
    MlaAppendArgs, MlaAppendPlan, MlaAppendProblem, MlaCache, MlaCacheMut, Queries,
};
use infer_kernels::{Buffer, DType, DeviceError, StatusWord, Stream};

use crate::emulated_alone;

const HEADS: usize = 16;
const PAGE: usize = 16;
const PAGES: usize = 24;
const BATCH: usize = 2;
/// Pages of a sequence, at most.
const OWN: usize = PAGES / BATCH;

/// Two sequences that share a cache of joined rows.
struct Model {
    append: MlaAppendPlan,
    attend: MlaPlan,
    latent: Buffer<bf16>,
    rope: Buffer<bf16>,
    slots: Buffer<i64>,
    cache: Buffer<bf16>,
    q: Buffer<bf16>,
    table: Buffer<u32>,
    lens: Buffer<i32>,
    out: Buffer<bf16>,
    workspace: Buffer<f32>,
    status: StatusWord,
}

fn numbers(n: usize, seed: usize) -> Vec<bf16> {
    let sine = |i: usize| bf16::from_f32(((i + 31 * seed) as f32 * 0.37).sin());
    (0..n).map(sine).collect()
}

impl Model {
    fn new(stream: &Stream) -> Model {
        let device = stream.device();
        let append = MlaAppendProblem::new(DType::BF16, 512, 64).padding(true);
        let attend = MlaProblem::new(DType::BF16, HEADS, BATCH, PAGE).blocks(5);
        let attend = MlaPlan::new(device, &attend).unwrap();
        Model {
            append: MlaAppendPlan::new(device, &append).unwrap(),
            latent: stream.alloc(BATCH * 512).unwrap(),
            rope: stream.alloc(BATCH * 64).unwrap(),
            slots: stream.upload(&[-1i64; BATCH]).unwrap(),
            cache: stream.upload(&numbers(PAGES * PAGE * 576, 0)).unwrap(),
            q: stream.upload(&numbers(BATCH * HEADS * 576, 1)).unwrap(),
            table: stream.upload(&[0u32; PAGES]).unwrap(),
            lens: stream.upload(&[0i32; BATCH]).unwrap(),
            out: stream.alloc(BATCH * HEADS * 512).unwrap(),
            workspace: stream.alloc(attend.workspace_elements()).unwrap(),
            status: StatusWord::new(stream).unwrap(),
            attend,
        }
    }

    /// What step `step` finds in memory: new tokens, the last of sequences of these lengths, whose
    /// pages are others than before.
    fn set(&mut self, step: usize, lens: [usize; BATCH]) {
        let page = |entry: usize| (entry * 7 + step) % PAGES;
        let slot = |b: usize| match lens[b] {
            0 => -1,
            len => (page(b * OWN + (len - 1) / PAGE) * PAGE + (len - 1) % PAGE) as i64,
        };
        let table: Vec<u32> = (0..PAGES).map(|entry| page(entry) as u32).collect();
        self.latent.upload(&numbers(BATCH * 512, 2 + step)).unwrap();
        self.rope.upload(&numbers(BATCH * 64, 3 + step)).unwrap();
        self.slots.upload(&[slot(0), slot(1)]).unwrap();
        self.table.upload(&table).unwrap();
        self.lens.upload(&lens.map(|len| len as i32)).unwrap();
    }

    fn append(&mut self) -> (&MlaAppendPlan, MlaAppendArgs<'_>) {
        let args = MlaAppendArgs {
            latent: self.latent.tensor([BATCH, 512]).unwrap(),
            rope: self.rope.tensor([BATCH, 64]).unwrap(),
            cache: MlaCacheMut::Joined(self.cache.tensor_mut([PAGES, PAGE, 576]).unwrap()),
            slots: self.slots.tensor([BATCH]).unwrap(),
            queries: Queries::None,
            rotation: None,
            scales: None,
            status: &self.status,
        };
        (&self.append, args)
    }

    fn attend(&mut self) -> (&MlaPlan, MlaArgs<'_>) {
        let elements = self.attend.workspace_elements();
        let args = MlaArgs {
            q: MlaQueries::Joined(self.q.tensor([BATCH, HEADS, 576]).unwrap()),
            cache: MlaCache::Joined(self.cache.tensor([PAGES, PAGE, 576]).unwrap()),
            pages: PageTable::Rows(self.table.tensor([BATCH, OWN]).unwrap()),
            seqlens_k: self.lens.tensor([BATCH]).unwrap(),
            out: self.out.tensor_mut([BATCH, HEADS, 512]).unwrap(),
            lse: None,
            seqlens_q: None,
            workspace: self.workspace.tensor_mut([elements]).unwrap(),
            status: &self.status,
        };
        (&self.attend, args)
    }
}

/// Lengths grow and pages change between replays; each gives the bits of a step that is not recorded,
/// and shares the work out anew.
#[test]
fn a_recorded_step_of_latent_attention_follows_lengths_and_pages() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let mut recorded = Model::new(&stream);
    let mut fresh = Model::new(&stream);
    stream.synchronize().unwrap();

    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let (plan, args) = recorded.attend();
    let error = plan.run(&stream, args).unwrap_err();
    let capturing = matches!(
        error,
        MlaError::Attention(PrefillError::Device(DeviceError::Capturing))
    );
    assert!(capturing, "{error}");
    let (plan, args) = recorded.append();
    // SAFETY: The buffers outlive the graph, and all work is on one stream.
    unsafe { plan.run_captured(&stream, args) }.unwrap();
    let (plan, args) = recorded.attend();
    // SAFETY: As above.
    unsafe { plan.run_captured(&stream, args) }.unwrap();
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();

    let mut last = Vec::new();
    for (step, lens) in [[3, 1], [4, 50], [150, 51], [0, 192], [97, 96]]
        .into_iter()
        .enumerate()
    {
        recorded.set(step, lens);
        graph.launch().unwrap();
        fresh.set(step, lens);
        let (plan, args) = fresh.append();
        plan.run(&stream, args).unwrap();
        let (plan, args) = fresh.attend();
        plan.run(&stream, args).unwrap();
        let out = recorded.out.download().unwrap();
        assert_eq!(out, fresh.out.download().unwrap(), "{lens:?}");
        assert_ne!(out, last, "{lens:?}: nothing changed");
        if lens[0] == 0 {
            assert!(out[..HEADS * 512].iter().all(|&x| x == bf16::ZERO));
        }
        last = out;
    }
    assert!(recorded.status.read().unwrap().is_clean());
}
