//! Operations on a stream that records a graph.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::decode::{DecodeArgs, DecodeError, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{
    HeadShape, Kv, PageTable, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use infer_kernels::{Buffer, DType, DeviceError, StatusWord, Stream};

use crate::emulated_alone;

fn args<'a>(
    input: &'a Buffer<bf16>,
    output: &'a mut Buffer<bf16>,
    lens: &'a SeqLens,
    status: &'a StatusWord,
) -> PrefillArgs<'a> {
    let tensor = input.tensor([2, 1, 64]).unwrap();
    PrefillArgs::new(
        tensor,
        Kv::Ragged {
            k: tensor,
            v: tensor,
            seqlens: lens.into(),
        },
        output.tensor_mut([2, 1, 64]).unwrap(),
        lens,
        status,
    )
}

#[test]
fn run_is_refused_while_capturing_and_run_captured_replays() {
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: 64,
    };
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let problem = PrefillProblem::new(DType::BF16, heads, 1, 2);
    let plan = PrefillPlan::new(stream.device(), &problem).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[2]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let mut input = stream.upload(&[bf16::ONE; 128]).unwrap();
    let mut output = stream.alloc::<bf16>(128).unwrap();
    stream.synchronize().unwrap();

    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    assert!(stream.is_capturing().unwrap());
    let error = plan
        .run(&stream, args(&input, &mut output, &lens, &status))
        .unwrap_err();
    assert!(
        matches!(error, PrefillError::Device(DeviceError::Capturing)),
        "{error}"
    );
    // SAFETY: The buffers outlive the graph, and all work is on one stream.
    unsafe { plan.run_captured(&stream, args(&input, &mut output, &lens, &status)) }.unwrap();
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    assert!(!stream.is_capturing().unwrap());
    assert_eq!(
        output.download().unwrap(),
        [bf16::ZERO; 128],
        "recorded, not done"
    );

    for value in [bf16::ONE, bf16::from_f32(3.0)] {
        input.upload(&[value; 128]).unwrap();
        graph.launch().unwrap();
        assert_eq!(output.download().unwrap(), [value; 128]);
    }
    assert!(status.read().unwrap().is_clean());
}

#[test]
fn allocating_while_capturing_is_an_error_of_the_driver() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    stream.synchronize().unwrap();
    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let error = stream.synchronize().unwrap_err();
    assert!(
        matches!(error, DeviceError::Driver { code: 900, .. }),
        "{error}"
    );
    let invalidated = own.end_capture(CUgraphInstantiate_flags(0));
    assert_eq!(invalidated.map(|_| ()).unwrap_err().0 as u32, 901);
    stream.synchronize().unwrap();
}

/// Two sequences that decode from one pool of pages of 16.
struct Decoding {
    plan: DecodePlan,
    q: Buffer<bf16>,
    pool: Buffer<bf16>,
    table: Buffer<u32>,
    lens: Buffer<i32>,
    out: Buffer<bf16>,
    workspace: Buffer<f32>,
    status: StatusWord,
}

impl Decoding {
    const HEADS: HeadShape = HeadShape {
        query: 6,
        kv: 2,
        dim: 64,
    };
    const PAGES: usize = 64;
    /// Entries of a sequence in the table.
    const ROW: usize = 128;

    fn new(stream: &Stream) -> Decoding {
        let problem = DecodeProblem::new(DType::BF16, Self::HEADS, 2, 16);
        Decoding::of(stream, problem.blocks(5))
    }

    fn of(stream: &Stream, problem: DecodeProblem) -> Decoding {
        let plan = DecodePlan::new(stream.device(), &problem).unwrap();
        let numbers = |n: usize| -> Vec<bf16> {
            let sine = |i: usize| bf16::from_f32((i as f32 * 0.37).sin() * 2.0);
            (0..n).map(sine).collect()
        };
        Decoding {
            q: stream.upload(&numbers(2 * 6 * 64)).unwrap(),
            pool: stream.upload(&numbers(Self::PAGES * 16 * 2 * 64)).unwrap(),
            table: stream.upload(&[0u32; 2 * Self::ROW]).unwrap(),
            lens: stream.upload(&[0i32; 2]).unwrap(),
            out: stream.alloc(2 * 6 * 64).unwrap(),
            workspace: stream.alloc(plan.workspace_elements()).unwrap(),
            status: StatusWord::new(stream).unwrap(),
            plan,
        }
    }

    /// What a step finds in memory: lengths, and pages from this one on.
    fn set(&mut self, lens: [i32; 2], first_page: u32) {
        let entries = 0..2 * Self::ROW as u32;
        let pages = entries.map(|i| (first_page + 7 * i) % Self::PAGES as u32);
        self.table.upload(&pages.collect::<Vec<_>>()).unwrap();
        self.lens.upload(&lens).unwrap();
    }

    fn args(&mut self) -> (&DecodePlan, DecodeArgs<'_>) {
        let pool = self.pool.tensor([Self::PAGES, 16, 2, 64]).unwrap();
        let elements = self.plan.workspace_elements();
        let args = DecodeArgs::new(
            self.q.tensor([2, 6, 64]).unwrap(),
            Kv::Paged {
                k: pool,
                v: pool,
                pages: PageTable::Rows(self.table.tensor([2, Self::ROW]).unwrap()),
                seqlens: self.lens.tensor([2]).unwrap(),
            },
            self.out.tensor_mut([2, 6, 64]).unwrap(),
            self.workspace.tensor_mut([elements]).unwrap(),
            &self.status,
        );
        (&self.plan, args)
    }
}

/// Lengths grow and pages change between replays; each gives the bits of a run that is not recorded,
/// and shares the work out anew.
#[test]
fn a_recorded_decode_follows_lengths_and_pages() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let mut recorded = Decoding::new(&stream);
    let mut fresh = Decoding::new(&stream);
    recorded.set([3, 1], 0);
    stream.synchronize().unwrap();

    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let (plan, args) = recorded.args();
    let error = plan.run(&stream, args).unwrap_err();
    let capturing = matches!(
        error,
        DecodeError::Attention(PrefillError::Device(DeviceError::Capturing))
    );
    assert!(capturing, "{error}");
    let (plan, args) = recorded.args();
    // SAFETY: The buffers outlive the graph, and all work is on one stream.
    unsafe { plan.run_captured(&stream, args) }.unwrap();
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();

    for (step, lens) in [[3, 1], [4, 130], [500, 131], [0, 512], [257, 256]]
        .into_iter()
        .enumerate()
    {
        recorded.set(lens, step as u32);
        graph.launch().unwrap();
        fresh.set(lens, step as u32);
        let (plan, args) = fresh.args();
        plan.run(&stream, args).unwrap();
        let (got, expected) = (recorded.out.download(), fresh.out.download());
        assert_eq!(got.unwrap(), expected.unwrap(), "{lens:?}");
        // The last block has its part of the last item, which the blocks before it began.
        if lens == [257, 256] {
            let partial = 16 * 66;
            let last = &recorded.workspace.download().unwrap()[8 * partial..][..16];
            assert!(last.iter().any(|&x| x != 0.0));
        }
    }
    assert!(recorded.status.read().unwrap().is_clean());
}

/// A recorded batch-invariant decode follows lengths that grow past the ends of segments, with the bits
/// of one that is shared out otherwise.
#[test]
fn a_recorded_batch_invariant_decode_gives_the_bits_of_any_other() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    let problem = DecodeProblem::new(DType::BF16, Decoding::HEADS, 2, 16).batch_invariant(2048);
    let mut recorded = Decoding::of(&stream, problem.clone().blocks(5));
    let mut fresh = Decoding::of(&stream, problem.blocks(1));
    recorded.set([3, 1], 0);
    stream.synchronize().unwrap();

    own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let (plan, args) = recorded.args();
    // SAFETY: The buffers outlive the graph, and all work is on one stream.
    unsafe { plan.run_captured(&stream, args) }.unwrap();
    let graph = own
        .end_capture(CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();

    let steps = [[3, 1], [511, 512], [512, 513], [513, 1024], [2048, 1025]];
    for (step, lens) in steps.into_iter().enumerate() {
        recorded.set(lens, step as u32);
        graph.launch().unwrap();
        fresh.set(lens, step as u32);
        let (plan, args) = fresh.args();
        plan.run(&stream, args).unwrap();
        let (got, expected) = (recorded.out.download(), fresh.out.download());
        assert_eq!(got.unwrap(), expected.unwrap(), "{lens:?}");
    }
    assert!(recorded.status.read().unwrap().is_clean());
}
