//! What operands can be refused for.

use std::ops::Range;

use half::{bf16, f16};
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{HeadShape, Kv, PrefillArgs, PrefillPlan, PrefillProblem};
use infer_kernels::{DType, OperandError, Region, RegionMut, StatusWord};

use crate::common::device;
use crate::setup::{HEADS, ROWS, Setup, over, ragged};

#[test]
fn element_types() {
    let mut setup = Setup::new(true);
    let stream = setup.stream.clone();
    let half = stream.alloc::<f16>(ROWS * HEADS.kv * HEADS.dim).unwrap();
    let shape = [ROWS, HEADS.kv, HEADS.dim];
    let (half, _) = over(&setup.device, &half, 0, shape, [128, 64, 1]);
    let error = setup.operand(|args| *ragged(args).v = half);
    assert_eq!(
        error,
        OperandError::Dtype {
            tensor: "v",
            expected: DType::BF16,
            got: DType::F16
        }
    );
    assert_eq!(
        error.to_string(),
        "v: expected elements of type bf16, got f16"
    );
    let (_, wrong) = over(
        &setup.device,
        &setup.out,
        0,
        [HEADS.query, ROWS],
        [ROWS as i64, 1],
    );
    let error = setup.operand(|args| args.lse = Some(wrong));
    assert!(matches!(
        error,
        OperandError::Dtype {
            tensor: "lse",
            expected: DType::F32,
            ..
        }
    ));
    let offsets = stream.alloc::<f32>(3).unwrap();
    let (offsets, _) = over(&setup.device, &offsets, 0, [3], [1]);
    let error = setup.operand(|args| *ragged(args).seqlens = offsets.into());
    assert!(matches!(
        error,
        OperandError::Dtype {
            tensor: "seqlens_k",
            expected: DType::I32,
            ..
        }
    ));
    let offsets = stream.upload(&[0u32, 4, 6]).unwrap();
    let (unsigned, _) = over(&setup.device, &offsets, 0, [3], [1]);
    setup
        .run(|args| *ragged(args).seqlens = unsigned.into())
        .unwrap();
}

#[test]
fn shapes() {
    let mut setup = Setup::new(true);
    let error = setup.operand(|args| args.q = args.q.narrow(1, 0..3).unwrap());
    assert_eq!(
        error.to_string(),
        "q: expected shape [6, 4, 64], got [6, 3, 64]"
    );
    let error = setup.operand(|args| *ragged(args).k = ragged(args).k.narrow(1, 0..1).unwrap());
    assert_eq!(
        error.to_string(),
        "k: expected shape [6, 2, 64], got [6, 1, 64]"
    );
    let error = setup.operand(|args| *ragged(args).v = ragged(args).v.narrow(0, 0..5).unwrap());
    assert_eq!(
        error.to_string(),
        "v: expected shape [6, 2, 64], got [5, 2, 64]"
    );
    let error = setup.operand(|args| *ragged(args).k = ragged(args).k.narrow(2, 0..32).unwrap());
    assert!(matches!(error, OperandError::Shape { tensor: "k", .. }));
    let (_, out) = over(&setup.device, &setup.out, 0, [7, 4, 64], [256, 64, 1]);
    let error = setup.operand(|args| args.out = out);
    assert_eq!(
        error.to_string(),
        "out: expected shape [6, 4, 64], got [7, 4, 64]"
    );
    let (_, lse) = over(&setup.device, &setup.lse, 0, [4, 5], [6, 1]);
    let error = setup.operand(|args| args.lse = Some(lse));
    assert_eq!(error.to_string(), "lse: expected shape [4, 6], got [4, 5]");
}

#[test]
fn innermost_strides() {
    let mut setup = Setup::new(true);
    let (q, _) = over(&setup.device, &setup.q, 0, [6, 4, 64], [512, 128, 2]);
    let error = setup.operand(|args| args.q = q);
    assert_eq!(
        error,
        OperandError::Stride {
            tensor: "q",
            axis: 2,
            expected: 1,
            got: 2
        }
    );
    assert_eq!(
        error.to_string(),
        "q: expected stride 1 along axis 2, got 2"
    );
    let (_, lse) = over(&setup.device, &setup.lse, 0, [4, 6], [1, 4]);
    let error = setup.operand(|args| args.lse = Some(lse));
    assert_eq!(
        error,
        OperandError::Stride {
            tensor: "lse",
            axis: 1,
            expected: 1,
            got: 4
        }
    );
    let offsets = setup.stream.alloc::<i32>(6).unwrap();
    let (offsets, _) = over(&setup.device, &offsets, 0, [3], [2]);
    let error = setup.operand(|args| args.seqlens_q = offsets.into());
    assert_eq!(
        error,
        OperandError::Stride {
            tensor: "seqlens_q",
            axis: 0,
            expected: 1,
            got: 2
        }
    );
}

#[test]
fn negative_strides() {
    let mut setup = Setup::new(false);
    let (k, _) = over(&setup.device, &setup.kv, 5 * 128, [6, 2, 64], [-128, 64, 1]);
    let error = setup.operand(|args| *ragged(args).k = k);
    assert_eq!(
        error,
        OperandError::NegativeStride {
            tensor: "k",
            axis: 0,
            expected: 0,
            got: -128
        }
    );
    assert_eq!(
        error.to_string(),
        "k: expected a stride of at least 0 along axis 0, got -128"
    );
}

#[test]
fn rows_that_break_the_alignment_name_the_stride_that_would_do() {
    let mut setup = Setup::new(false);
    let (q, _) = over(&setup.device, &setup.q, 0, [6, 4, 64], [260, 64, 1]);
    let error = setup.operand(|args| args.q = q);
    assert_eq!(
        error,
        OperandError::RowAlignment {
            tensor: "q",
            axis: 0,
            expected: 264,
            got: 260
        }
    );
    assert_eq!(
        error.to_string(),
        "q: stride 260 along axis 0 is not a multiple of 16 bytes; pad it to 264 elements"
    );
    let (_, out) = over(&setup.device, &setup.out, 0, [6, 4, 64], [280, 65, 1]);
    let error = setup.operand(|args| args.out = out);
    assert_eq!(
        error,
        OperandError::RowAlignment {
            tensor: "out",
            axis: 1,
            expected: 72,
            got: 65
        }
    );
}

#[test]
fn a_stride_that_is_never_stepped_is_not_looked_at() {
    let device = device();
    let stream = device.stream();
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: 64,
    };
    let plan = PrefillPlan::new(&device, &PrefillProblem::new(DType::BF16, heads, 1, 1)).unwrap();
    let input = stream.upload(&[bf16::ONE; 64]).unwrap();
    let mut out = stream.alloc::<bf16>(64).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[1]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let odd = input.region().strided(0, [1, 1, 64], [3, -7, 1]).unwrap();
    plan.run(
        &stream,
        PrefillArgs::new(
            odd,
            Kv::Ragged {
                k: odd,
                v: odd,
                seqlens: (&lens).into(),
            },
            out.tensor_mut([1, 1, 64]).unwrap(),
            &lens,
            &status,
        ),
    )
    .unwrap();
    assert_eq!(out.download().unwrap(), [bf16::ONE; 64]);
}

#[test]
fn bases_that_break_the_alignment() {
    let mut setup = Setup::new(false);
    let (v, _) = over(&setup.device, &setup.kv, 4, [6, 2, 64], [128, 64, 1]);
    let address = v.address();
    let error = setup.operand(|args| *ragged(args).v = v);
    assert_eq!(
        error,
        OperandError::BaseAlignment {
            tensor: "v",
            expected: 16,
            got: address
        }
    );
    let text = format!("v: address {address:#x} is not a multiple of 16 bytes");
    assert_eq!(error.to_string(), text);
}

#[test]
fn outputs_that_may_share_memory() {
    let names = |error: OperandError| match error {
        OperandError::Overlap {
            tensor,
            other,
            expected,
            got,
        } => {
            let meet = |a: &Range<u128>, b: &Range<u128>| a.start < b.end && b.start < a.end;
            assert!(meet(&expected, &got));
            (tensor, other)
        }
        other => panic!("{other}"),
    };
    let mut setup = Setup::new(true);
    let dense = [256, 64, 1];
    let (_, out) = over(&setup.device, &setup.q, 0, [6, 4, 64], dense);
    assert_eq!(names(setup.operand(|args| args.out = out)), ("out", "q"));
    let (_, out) = over(&setup.device, &setup.q, 5 * 256, [6, 4, 64], dense);
    assert_eq!(names(setup.operand(|args| args.out = out)), ("out", "q"));
    let (_, out) = over(&setup.device, &setup.q, 6 * 256, [6, 4, 64], dense);
    setup.run(|args| args.out = out).unwrap();
    let (v, _) = over(&setup.device, &setup.out, 0, [6, 2, 64], [128, 64, 1]);
    assert_eq!(
        names(setup.operand(|args| *ragged(args).v = v)),
        ("out", "v")
    );
    let shared = setup.stream.alloc::<u32>(ROWS * HEADS.query).unwrap();
    let (offsets, _) = over(&setup.device, &shared, 0, [3], [1]);
    let address = offsets.address();
    // SAFETY: As in `over`.
    let lse = unsafe { RegionMut::from_raw_parts(address, 24, DType::F32, &setup.device) };
    let lse = lse.tensor([HEADS.query, ROWS]).unwrap();
    let error = setup.operand(|args| (args.seqlens_q, args.lse) = (offsets.into(), Some(lse)));
    assert_eq!(names(error), ("lse", "seqlens_q"));
}

#[test]
fn columns_of_one_fused_matrix_do_not_overlap() {
    let mut setup = Setup::new(false);
    // One matrix of 6 rows: 256 columns of queries, then 256 of output.
    let (q, _) = over(&setup.device, &setup.q, 0, [6, 4, 64], [512, 64, 1]);
    let (_, out) = over(&setup.device, &setup.q, 256, [6, 4, 64], [512, 64, 1]);
    setup.run(|args| (args.q, args.out) = (q, out)).unwrap();
    let (q, _) = over(&setup.device, &setup.q, 8, [6, 4, 64], [512, 64, 1]);
    let (_, out) = over(&setup.device, &setup.q, 256, [6, 4, 64], [512, 64, 1]);
    let error = setup.operand(|args| (args.q, args.out) = (q, out));
    assert!(matches!(
        error,
        OperandError::Overlap {
            tensor: "out",
            other: "q",
            ..
        }
    ));
}

#[test]
fn operands_of_another_device() {
    let (mut setup, other) = (Setup::new(true), Setup::new(true));
    let k = other.kv.tensor([ROWS, HEADS.kv, HEADS.dim]).unwrap();
    let (k, _) = over(&other.device, &other.kv, 0, k.shape(), k.strides());
    let error = setup.operand(|args| *ragged(args).k = k);
    assert_eq!(
        error,
        OperandError::Device {
            tensor: "k",
            expected: setup.device.id(),
            got: other.device.id()
        }
    );
    let text = format!(
        "k: expected on {}, got on {}",
        setup.device.id(),
        other.device.id()
    );
    assert_eq!(error.to_string(), text);

    let stream = std::mem::replace(&mut setup.stream, other.stream.clone());
    let error = setup.operand(|_| ());
    assert!(matches!(
        error,
        OperandError::Device {
            tensor: "stream",
            ..
        }
    ));
    setup.stream = stream;
    setup.run(|_| ()).unwrap();

    setup.status = other.status;
    let error = setup.operand(|_| ());
    assert!(matches!(
        error,
        OperandError::Device {
            tensor: "status",
            ..
        }
    ));
}

#[test]
fn rows_that_cannot_be_counted() {
    let mut setup = Setup::new(false);
    // Rows of stride zero need little memory.
    let many = 1usize << 31;
    let address = setup.kv.tensor([0]).unwrap().address();
    // SAFETY: As in `over`.
    let region = unsafe {
        Region::from_raw_parts(address, setup.kv.len() as u64, DType::BF16, &setup.device)
    };
    let k = region
        .strided(0, [many, HEADS.kv, HEADS.dim], [0, 64, 1])
        .unwrap();
    let error = setup.operand(|args| (*ragged(args).k, *ragged(args).v) = (k, k));
    assert_eq!(
        error,
        OperandError::TooLong {
            tensor: "k",
            axis: 0,
            expected: many - 1,
            got: many
        }
    );
}
