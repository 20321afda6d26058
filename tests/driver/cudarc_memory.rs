//! cudarc's memory and streams as operands: what is taken, and what is refused.

use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use infer_kernels::{DType, Device, DeviceError, OperandError, StatusWord};

use crate::alone::alone;
use crate::emulated;

const HEADS: HeadShape = HeadShape {
    query: 1,
    kv: 1,
    dim: 64,
};

#[test]
fn slices_are_operands_on_their_own_stream() {
    let stream = emulated("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap().clone();
    let plan = PrefillPlan::new(
        stream.device(),
        &PrefillProblem::new(DType::BF16, HEADS, 1, 2),
    )
    .unwrap();
    let lens = SeqLens::from_lengths(&stream, &[2]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let input = own.clone_htod(&[bf16::ONE; 128]).unwrap();
    let mut output = own.alloc_zeros::<bf16>(128).unwrap();
    {
        let input = stream.cudarc(input.as_view()).unwrap();
        let mut output = stream.cudarc_mut(output.as_view_mut()).unwrap();
        let input = input.region().tensor([2, 1, 64]).unwrap();
        let args = PrefillArgs::new(
            input,
            Kv::Ragged {
                k: input,
                v: input,
                seqlens: (&lens).into(),
            },
            output.region_mut().tensor([2, 1, 64]).unwrap(),
            &lens,
            &status,
        );
        plan.run(&stream, args).unwrap();
    }
    assert_eq!(own.clone_dtoh(&output).unwrap(), [bf16::ONE; 128]);
    assert!(status.read().unwrap().is_clean());
}

#[test]
fn slices_of_another_stream_are_refused() {
    let device = emulated("cudarc");
    let (stream, other) = (device.new_stream().unwrap(), device.new_stream().unwrap());
    let mut slice = other.as_cudarc().unwrap().alloc_zeros::<bf16>(64).unwrap();
    for error in [
        stream.cudarc(slice.as_view()).map(|_| ()).unwrap_err(),
        stream
            .cudarc_mut(slice.as_view_mut())
            .map(|_| ())
            .unwrap_err(),
    ] {
        let DeviceError::WrongStream { expected, got } = error else {
            panic!("{error}");
        };
        assert_eq!((Some(expected), Some(got)), (stream.id(), other.id()));
    }
    other.cudarc(slice.as_view()).map(|_| ()).unwrap();
}

#[test]
fn operands_of_another_stream_are_refused() {
    let device = emulated("cudarc");
    let (stream, other) = (device.new_stream().unwrap(), device.new_stream().unwrap());
    let plan = PrefillPlan::new(&device, &PrefillProblem::new(DType::BF16, HEADS, 1, 2)).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[2]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let input = stream.upload(&[bf16::ONE; 128]).unwrap();
    let foreign = other.upload(&[bf16::ONE; 128]).unwrap();
    let mut output = stream.alloc::<bf16>(128).unwrap();
    let input = input.tensor([2, 1, 64]).unwrap();
    let args = PrefillArgs::new(
        input,
        Kv::Ragged {
            k: foreign.tensor([2, 1, 64]).unwrap(),
            v: input,
            seqlens: (&lens).into(),
        },
        output.tensor_mut([2, 1, 64]).unwrap(),
        &lens,
        &status,
    );
    let error = plan.run(&stream, args).unwrap_err();
    let PrefillError::Operand(OperandError::Stream {
        tensor,
        expected,
        got,
    }) = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (tensor, Some(expected), Some(got)),
        ("k", stream.id(), other.id())
    );
}

#[test]
fn the_per_thread_stream_is_refused() {
    let device = emulated("cudarc");
    let context = device.stream().as_cudarc().unwrap().context().clone();
    for error in [
        Device::from_cudarc(context.per_thread_stream())
            .map(|_| ())
            .unwrap_err(),
        device
            .cudarc_stream(context.per_thread_stream())
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert!(matches!(error, DeviceError::PerThreadStream), "{error}");
    }
    let stream = context.new_stream().unwrap();
    let same = Device::from_cudarc(stream.clone()).unwrap();
    assert_eq!(same.id(), device.id());
    device.cudarc_stream(stream).map(|_| ()).unwrap();
}

#[test]
fn memory_and_streams_of_another_device_are_refused() {
    let name = "cudarc_memory::memory_and_streams_of_another_device_are_refused";
    alone(name, &[("PTX_EMULATOR_DEVICES", "2")], || {
        let (first, second) = (emulated("cudarc:0"), emulated("cudarc:1"));
        let wrong = |error: DeviceError| {
            let DeviceError::WrongDevice { expected, got } = error else {
                panic!("{error}");
            };
            assert_eq!((expected, got), (first.id(), second.id()));
        };
        let (stream, other) = (first.stream(), second.stream());
        let theirs = other.as_cudarc().unwrap();
        wrong(first.cudarc_stream(theirs.clone()).map(|_| ()).unwrap_err());
        let slice = theirs.alloc_zeros::<bf16>(64).unwrap();
        wrong(stream.cudarc(slice.as_view()).map(|_| ()).unwrap_err());
        // Each works on its own.
        assert_eq!(stream.upload(&[1.0f32]).unwrap().download().unwrap(), [1.0]);
        assert_eq!(other.upload(&[2.0f32]).unwrap().download().unwrap(), [2.0]);
    });
}
