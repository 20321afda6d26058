//! cust's memory as operands: what is taken, and what is refused.

use cust::memory::{CopyDestination, DeviceBuffer};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{HeadShape, Kv, PrefillArgs, PrefillPlan, PrefillProblem};
use infer_kernels::{DType, DeviceError, StatusWord};

use crate::alone::alone;
use crate::emulated;

#[test]
fn buffers_are_operands_once_a_stream_owns_them() {
    let stream = emulated("cust").stream();
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: 64,
    };
    let problem = PrefillProblem::new(DType::BF16, heads, 1, 2);
    let plan = PrefillPlan::new(stream.device(), &problem).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[2]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let ones = [bf16::ONE.to_bits(); 128];
    let input = DeviceBuffer::from_slice(&ones).unwrap();
    let output = DeviceBuffer::from_slice(&[0u16; 128]).unwrap();
    let input = stream.cust(input, DType::BF16).unwrap();
    let mut output = stream.cust(output, DType::BF16).unwrap();
    let tensor = input.region().tensor([2, 1, 64]).unwrap();
    let args = PrefillArgs::new(
        tensor,
        Kv::Ragged {
            k: tensor,
            v: tensor,
            seqlens: (&lens).into(),
        },
        output.region_mut().tensor([2, 1, 64]).unwrap(),
        &lens,
        &status,
    );
    plan.run(&stream, args).unwrap();
    let mut back = [0; 128];
    output.into_inner().unwrap().copy_to(&mut back).unwrap();
    assert_eq!(back, ones);
}

#[test]
fn a_buffer_of_part_of_an_element_is_refused() {
    let stream = emulated("cust").stream();
    let odd = stream
        .alloc::<f32>(1)
        .map(|_| DeviceBuffer::from_slice(&[0u8; 3]).unwrap());
    let error = stream
        .cust(odd.unwrap(), DType::BF16)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            DeviceError::Length {
                expected: 2,
                got: 3
            }
        ),
        "{error}"
    );
}

#[test]
fn buffers_of_another_device_are_refused() {
    let name = "cust_memory::buffers_of_another_device_are_refused";
    alone(name, &[("PTX_EMULATOR_DEVICES", "2")], || {
        let (first, second) = (emulated("cust:0"), emulated("cust:1"));
        // Whoever allocates makes its context current.
        let _ = second.stream().alloc::<f32>(1).unwrap();
        let buffer = DeviceBuffer::from_slice(&[0u16; 2]).unwrap();
        let error = first
            .stream()
            .cust(buffer, DType::BF16)
            .map(|_| ())
            .unwrap_err();
        let DeviceError::WrongDevice { expected, got } = error else {
            panic!("{error}");
        };
        assert_eq!((expected, got), (first.id(), second.id()));
    });
}
