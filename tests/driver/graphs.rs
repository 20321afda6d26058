//! Operations on a stream that records a graph.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use infer_kernels::{Buffer, DType, DeviceError, StatusWord};

use crate::emulated;

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
    let stream = emulated("cudarc").new_stream().unwrap();
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
    let stream = emulated("cudarc").new_stream().unwrap();
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
