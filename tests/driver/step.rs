//! A step of continuous batching, recorded once: new keys are appended, then all sequences attend.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::bf16;
use infer_kernels::attention::mixed::{MixedArgs, MixedPlan, MixedProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, PrefillArgs, PrefillProblem};
use infer_kernels::kv::{AppendArgs, AppendPlan, AppendProblem, CacheMut};
use infer_kernels::{Buffer, DType, StatusWord, Stream};

use crate::emulated_alone;

const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
/// Two sequences that decode, and one whose prompt comes in chunks.
const QUERIES: [usize; 3] = [1, 1, 6];
const TOKENS: usize = 8;
const PAGES: usize = 40;
const PAGE_SIZE: usize = 16;
/// Of one sequence.
const MOST_PAGES: usize = 16;

struct Step {
    append: AppendPlan,
    attend: MixedPlan,
    q: Buffer<bf16>,
    new: Buffer<bf16>,
    k: Buffer<bf16>,
    v: Buffer<bf16>,
    slots: Buffer<i64>,
    offsets: Buffer<i32>,
    table: Buffer<i32>,
    lens: Buffer<i32>,
    out: Buffer<bf16>,
    workspace: Buffer<f32>,
    status: StatusWord,
}

impl Step {
    fn new(stream: &Stream) -> Step {
        let device = stream.device();
        let append = AppendProblem::new(DType::BF16, HEADS.kv, HEADS.dim);
        let attention = PrefillProblem::new(DType::BF16, HEADS, 3, QUERIES[2])
            .paged(PAGE_SIZE)
            .causal(true);
        let attend = MixedProblem::new(attention, 2).blocks(5);
        let attend = MixedPlan::new(device, &attend).unwrap();
        let table = (0..3 * MOST_PAGES as i32).map(|i| i * 7 % PAGES as i32);
        let cache = PAGES * PAGE_SIZE * HEADS.kv * HEADS.dim;
        let mut ends = vec![0];
        ends.extend(QUERIES.iter().scan(0, |end, &n| {
            *end += n as i32;
            Some(*end)
        }));
        Step {
            append: AppendPlan::new(device, &append).unwrap(),
            q: stream.alloc(TOKENS * HEADS.query * HEADS.dim).unwrap(),
            new: stream.alloc(TOKENS * HEADS.kv * HEADS.dim).unwrap(),
            k: stream.alloc(cache).unwrap(),
            v: stream.alloc(cache).unwrap(),
            slots: stream.alloc(TOKENS).unwrap(),
            offsets: stream.upload(&ends).unwrap(),
            table: stream.upload(&table.collect::<Vec<_>>()).unwrap(),
            lens: stream.alloc(3).unwrap(),
            out: stream.alloc(TOKENS * HEADS.query * HEADS.dim).unwrap(),
            workspace: stream.alloc(attend.workspace_elements()).unwrap(),
            status: StatusWord::new(stream).unwrap(),
            attend,
        }
    }

    /// What a step finds in memory: its tokens, where they go, and lengths with them.
    fn set(&mut self, step: usize, lens: [usize; 3]) {
        let numbers = |n: usize, of: f32| -> Vec<bf16> {
            let sine = |i: usize| bf16::from_f32((i as f32 * of + step as f32).sin() * 2.0);
            (0..n).map(sine).collect()
        };
        self.q.upload(&numbers(self.q.len(), 0.37)).unwrap();
        self.new.upload(&numbers(self.new.len(), 0.71)).unwrap();
        let mut slots = Vec::new();
        for (b, (&queries, &keys)) in QUERIES.iter().zip(&lens).enumerate() {
            for key in keys - queries..keys {
                let page = (b * MOST_PAGES + key / PAGE_SIZE) * 7 % PAGES;
                slots.push((page * PAGE_SIZE + key % PAGE_SIZE) as i64);
            }
        }
        self.slots.upload(&slots).unwrap();
        self.lens.upload(&lens.map(|n| n as i32)).unwrap();
    }

    fn run(&mut self, stream: &Stream, recording: bool) {
        let rows = |tokens, heads| [tokens, heads, HEADS.dim];
        let pool = [PAGES, PAGE_SIZE, HEADS.kv, HEADS.dim];
        let new = self.new.tensor(rows(TOKENS, HEADS.kv)).unwrap();
        let cache = CacheMut::Rows {
            k: self.k.tensor_mut(pool).unwrap(),
            v: self.v.tensor_mut(pool).unwrap(),
        };
        let slots = self.slots.tensor([TOKENS]).unwrap();
        let append = AppendArgs::new(new, new, cache, slots, &self.status);
        match recording {
            // SAFETY: The buffers outlive the graph, and all work is on one stream.
            true => unsafe { self.append.run_captured(stream, append) }.unwrap(),
            false => self.append.run(stream, append).unwrap(),
        }
        let elements = self.attend.workspace_elements();
        let attention = PrefillArgs::new(
            self.q.tensor(rows(TOKENS, HEADS.query)).unwrap(),
            Kv::Paged {
                k: self.k.tensor(pool).unwrap(),
                v: self.v.tensor(pool).unwrap(),
                pages: PageTable::Rows(self.table.tensor([3, MOST_PAGES]).unwrap()),
                seqlens: self.lens.tensor([3]).unwrap(),
            },
            self.out.tensor_mut(rows(TOKENS, HEADS.query)).unwrap(),
            self.offsets.tensor([4]).unwrap(),
            &self.status,
        );
        let attend = MixedArgs {
            attention,
            workspace: self.workspace.tensor_mut([elements]).unwrap(),
        };
        match recording {
            // SAFETY: As above.
            true => unsafe { self.attend.run_captured(stream, attend) }.unwrap(),
            false => self.attend.run(stream, attend).unwrap(),
        }
    }
}

/// Every replay finds longer sequences, other tokens and other slots, and gives the bits of a step that
/// is not recorded: of the output, and of the cache that has grown by all steps so far.
#[test]
fn a_recorded_step_follows_growing_sequences() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let (mut recorded, mut fresh) = (Step::new(&stream), Step::new(&stream));
    stream.synchronize().unwrap();
    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    recorded.run(&stream, true);
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();

    let mut all = Vec::new();
    for step in 0..20 {
        let lens = [1 + step, 120 + step, 6 * (step + 1)];
        recorded.set(step, lens);
        graph.launch().unwrap();
        fresh.set(step, lens);
        fresh.run(&stream, false);
        let out = recorded.out.download().unwrap();
        assert_eq!(out, fresh.out.download().unwrap(), "step {step}");
        assert!(out.iter().any(|&x| x != bf16::ZERO));
        all.push(out);
    }
    assert_eq!(recorded.k.download().unwrap(), fresh.k.download().unwrap());
    all.dedup();
    assert_eq!(all.len(), 20, "each step has a result of its own");
    // 119 keys of the second sequence were never appended: the pool's zeros stand for them.
    assert!(recorded.status.read().unwrap().is_clean());
}
