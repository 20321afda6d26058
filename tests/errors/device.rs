//! What copies, allocations and launches can be refused for. What only a driver can refuse is in
//! `tests/driver`.

use half::bf16;
use infer_kernels::attention::prefill::PrefillError;
use infer_kernels::ptx_emulator::LaunchError;
use infer_kernels::{DType, DeviceError, Region};

use crate::common::device;
use crate::setup::{HEADS, ROWS, Setup, ragged};

#[test]
fn copies_of_other_lengths_and_buffers_of_no_size() {
    let stream = device().stream();
    let mut buffer = stream.alloc::<f32>(3).unwrap();
    let error = buffer.upload(&[1.0; 4]).unwrap_err();
    assert!(matches!(
        error,
        DeviceError::Length {
            expected: 3,
            got: 4
        }
    ));
    assert_eq!(
        error.to_string(),
        "the buffer has 3 elements, the host slice 4"
    );
    assert!(buffer.download_into(&mut [0.0; 2]).is_err());
    let error = stream.alloc::<f32>(usize::MAX).unwrap_err();
    assert!(matches!(
        error,
        DeviceError::TooLarge {
            len: usize::MAX,
            size: 4
        }
    ));
    let error = stream.alloc::<u8>(1 << 50).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    assert!(
        stream
            .alloc::<f32>(0)
            .unwrap()
            .download()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_launch_that_breaks_a_rule_says_which_and_where() {
    let mut setup = Setup::new(false);
    let shape = [ROWS, HEADS.kv, HEADS.dim];
    let len = (ROWS * HEADS.kv * HEADS.dim) as u64;
    let short = setup.stream.alloc::<bf16>(len as usize - 64).unwrap();
    let address = short.tensor([0]).unwrap().address();
    // SAFETY: Not kept: the memory is one row short, and the emulator is to find that out.
    let region = unsafe { Region::from_raw_parts(address, len, DType::BF16, &setup.device) };
    let keys = region.tensor(shape).unwrap();
    let error = setup.run(|args| *ragged(args).k = keys).unwrap_err();
    let PrefillError::Device(DeviceError::Emulator { entry, source }) = error else {
        panic!("{error}");
    };
    assert_eq!(entry, "prefill_bf16_d64");
    let LaunchError::Violation(violation) = source else {
        panic!("{source}");
    };
    assert!(
        violation
            .to_string()
            .contains("out of bounds in global memory"),
        "{violation}"
    );
    assert!(violation.source_line.is_some());
    drop(short);
}
