//! One refusal per error variant: which operand, what was expected, what was got.
#![cfg(feature = "emulator")]

mod common;

use std::ops::Range;

use common::device;
use half::{bf16, f16};
use infer_kernels::attention::prefill::{
    HeadShape, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use infer_kernels::attention::{CuSeqLens, SeqLens, SeqLensError};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{
    Buffer, DType, Device, DeviceError, OperandError, Region, RegionMut, StatusWord, Stream,
    Tensor, TensorMut,
};

const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
const ROWS: usize = 6;

/// A prefill of two sequences with four and two queries, on which one thing at a time is made
/// wrong.
struct Setup {
    device: Device,
    stream: Stream,
    plan: PrefillPlan,
    q: Buffer<bf16>,
    kv: Buffer<bf16>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
    lens: SeqLens,
    status: StatusWord,
}

impl Setup {
    fn new(lse: bool) -> Setup {
        let device = device();
        let stream = device.stream();
        let problem = PrefillProblem::new(DType::BF16, HEADS, 2, 4).lse(lse);
        // Twice the memory that is needed, so that a test can move operands about.
        let alloc = |heads: usize| stream.alloc::<bf16>(2 * ROWS * heads * HEADS.dim).unwrap();
        Setup {
            plan: PrefillPlan::new(&device, &problem).unwrap(),
            q: alloc(HEADS.query),
            kv: alloc(HEADS.kv),
            out: alloc(HEADS.query),
            lse: stream.alloc(2 * ROWS * HEADS.query).unwrap(),
            lens: SeqLens::from_lengths(&stream, &[4, 2]).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            device,
            stream,
        }
    }

    /// Runs with the arguments as `change` leaves them.
    fn run<'s>(
        &'s mut self,
        change: impl FnOnce(&mut PrefillArgs<'s>),
    ) -> Result<(), PrefillError> {
        let kv = self.kv.tensor([ROWS, HEADS.kv, HEADS.dim])?;
        let mut args = PrefillArgs {
            q: self.q.tensor([ROWS, HEADS.query, HEADS.dim])?,
            k: kv,
            v: kv,
            out: self.out.tensor_mut([ROWS, HEADS.query, HEADS.dim])?,
            lse: match self.plan.problem().lse {
                true => Some(self.lse.tensor_mut([HEADS.query, ROWS])?),
                false => None,
            },
            seqlens_q: (&self.lens).into(),
            seqlens_k: (&self.lens).into(),
            status: &self.status,
        };
        change(&mut args);
        self.plan.run(&self.stream, args)
    }

    /// The operand error of a run that is refused.
    fn operand<'s>(&'s mut self, change: impl FnOnce(&mut PrefillArgs<'s>)) -> OperandError {
        match self.run(change) {
            Err(PrefillError::Operand(error)) => error,
            other => panic!("expected an operand error, got {other:?}"),
        }
    }
}

/// A tensor over the memory of `buffer` that outlives the borrow checker's view of it.
fn over<const R: usize, T: infer_kernels::Element>(
    device: &Device,
    buffer: &Buffer<T>,
    offset: usize,
    shape: [usize; R],
    strides: [i64; R],
) -> (Tensor<'static, R>, TensorMut<'static, R>) {
    let address = buffer.tensor([0]).unwrap().address();
    let len = buffer.len() as u64;
    // SAFETY: The tests use these only while the buffer lives, and no launch of theirs succeeds.
    let (region, region_mut) = unsafe {
        (
            Region::from_raw_parts(address, len, T::DTYPE, device),
            RegionMut::from_raw_parts(address, len, T::DTYPE, device),
        )
    };
    (
        region.strided(offset, shape, strides).unwrap(),
        region_mut.strided(offset, shape, strides).unwrap(),
    )
}

#[test]
fn nothing_wrong_is_accepted() {
    Setup::new(false).run(|_| ()).unwrap();
    let mut setup = Setup::new(true);
    setup.run(|_| ()).unwrap();
    assert!(setup.status.read().unwrap().is_clean());
}

// What a problem can be refused for.

fn refusal(change: impl FnOnce(&mut PrefillProblem)) -> PrefillError {
    let mut problem = PrefillProblem::new(DType::BF16, HEADS, 2, 4);
    problem.supports().unwrap();
    change(&mut problem);
    let refusal = problem.supports().unwrap_err();
    let planned = PrefillPlan::new(&device(), &problem).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        planned.to_string(),
        "the query and the plan agree"
    );
    refusal
}

#[test]
fn unsupported_dtype() {
    let error = refusal(|problem| problem.dtype = DType::F32);
    assert!(matches!(
        error,
        PrefillError::UnsupportedDtype {
            got: DType::F32,
            ..
        }
    ));
    assert_eq!(
        error.to_string(),
        r#"no prefill kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
}

#[test]
fn unsupported_head_dim() {
    let error = refusal(|problem| problem.heads.dim = 80);
    assert!(matches!(
        error,
        PrefillError::UnsupportedHeadDim { got: 80, .. }
    ));
    assert_eq!(
        error.to_string(),
        "no prefill kernel for head dimension 80: there are [64, 128]"
    );
}

#[test]
fn heads_that_cannot_be_shared_out() {
    for (query, kv) in [(4, 3), (0, 1), (4, 0), (2, 4)] {
        let error = refusal(|problem| problem.heads = HeadShape { query, kv, dim: 64 });
        assert!(matches!(error, PrefillError::Heads { .. }));
        let text = format!("{query} query heads are not a positive multiple of {kv} kv heads");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn scales_that_are_no_scales() {
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
        let error = refusal(|problem| problem.scale = scale);
        assert!(matches!(error, PrefillError::Scale { .. }), "{scale}");
    }
    let text = refusal(|problem| problem.scale = -1.0).to_string();
    assert_eq!(
        text,
        "softmax scale: expected a positive finite number, got -1"
    );
}

#[test]
fn limits_of_a_launch() {
    let too_many = refusal(|problem| problem.batch = 70_000);
    assert_eq!(
        too_many.to_string(),
        "sequences: expected at most 65535, got 70000"
    );
    let heads = HeadShape {
        query: 65_536,
        kv: 1,
        dim: 64,
    };
    let too_many = refusal(|problem| problem.heads = heads);
    assert_eq!(
        too_many.to_string(),
        "query heads: expected at most 65535, got 65536"
    );
    let too_long = refusal(|problem| problem.max_seqlen_q = 1 << 31);
    assert!(matches!(
        too_long,
        PrefillError::Limit {
            what: "queries per sequence",
            expected: 0x7fff_ffff,
            got: 0x8000_0000
        }
    ));
}

#[test]
fn devices_that_cannot_run_the_kernel() {
    let heads = HeadShape {
        query: 4,
        kv: 2,
        dim: 128,
    };
    let problem = PrefillProblem::new(DType::F16, heads, 1, 1);
    let old = Device::emulator(Config {
        gpu: Gpu::T4,
        ..Config::default()
    });
    let error = PrefillPlan::new(&old, &problem).unwrap_err();
    assert_eq!(
        error.to_string(),
        "prefill_f16_d128 needs compute capability 80; T4 has 75"
    );
    let mut small = Gpu::A100;
    small.shared_per_block = 48 << 10;
    let small = Device::emulator(Config {
        gpu: small,
        ..Config::default()
    });
    let error = PrefillPlan::new(&small, &problem).unwrap_err();
    let PrefillError::Device(DeviceError::Unfit {
        resource,
        needed,
        available,
        ..
    }) = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (resource, available),
        ("bytes of shared memory per block", 48 << 10)
    );
    assert!(needed > 48 << 10);
}

// What offsets can be refused for.

#[test]
fn offsets_that_describe_no_batch() {
    let stream = device().stream();
    let of = |offsets: &[i32]| SeqLens::from_offsets(&stream, offsets).unwrap_err();
    assert!(matches!(
        of(&[]),
        SeqLensError::Empty {
            expected: 1,
            got: 0
        }
    ));
    assert_eq!(
        of(&[-3, 4]).to_string(),
        "offset 0: expected at least 0, got -3"
    );
    assert!(matches!(
        of(&[-3, 4]),
        SeqLensError::Negative { got: -3, .. }
    ));
    let error = of(&[0, 5, 4]);
    assert!(matches!(
        error,
        SeqLensError::Order {
            index: 2,
            expected: 5,
            got: 4
        }
    ));
    assert_eq!(
        error.to_string(),
        "offset 2: expected at least 5, the one before, got 4"
    );
    let error = SeqLens::from_lengths(&stream, &[1, i32::MAX as usize]).unwrap_err();
    assert!(matches!(error, SeqLensError::TooLong { index: 1, .. }));
    let error = SeqLens::from_lengths(&stream, &[usize::MAX]).unwrap_err();
    assert!(matches!(error, SeqLensError::TooLong { index: 0, .. }));
    assert_eq!(SeqLens::from_offsets(&stream, &[3]).unwrap().batch(), 0);
}

#[test]
fn sequences_that_do_not_fit_the_plan_or_the_operands() {
    let mut setup = Setup::new(false);
    let stream = setup.stream.clone();
    let lens = |lengths: &[usize]| SeqLens::from_lengths(&stream, lengths).unwrap();

    let three = lens(&[2, 2, 2]);
    let error = setup
        .run(|args| args.seqlens_k = (&three).into())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "seqlens_k: expected 2 sequences as planned, got 3"
    );
    assert!(matches!(
        error,
        PrefillError::Batch {
            tensor: "seqlens_k",
            expected: 2,
            got: 3
        }
    ));

    let offsets = stream.alloc::<i32>(3).unwrap();
    let (none, _) = over(&setup.device, &offsets, 0, [0], [1]);
    let error = setup
        .run(|args| args.seqlens_q = CuSeqLens::Device(none))
        .unwrap_err();
    assert!(matches!(
        error,
        PrefillError::Batch {
            tensor: "seqlens_q",
            expected: 2,
            got: 0
        }
    ));

    let long = lens(&[5, 1]);
    let error = setup
        .run(|args| args.seqlens_q = (&long).into())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "seqlens_q: expected sequences of at most 4 queries as planned, got 5"
    );
    assert!(matches!(
        error,
        PrefillError::SeqLen {
            expected: 4,
            got: 5,
            ..
        }
    ));
    // As many keys as one likes.
    setup.run(|args| args.seqlens_k = (&long).into()).unwrap();

    let beyond = lens(&[4, 3]);
    let error = setup
        .run(|args| args.seqlens_k = (&beyond).into())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "seqlens_k: expected sequences within 6 rows, got 7"
    );
    assert!(matches!(
        error,
        PrefillError::SeqEnd {
            expected: 6,
            got: 7,
            ..
        }
    ));
}

#[test]
fn log_sum_exp_is_given_exactly_if_planned() {
    let error = Setup::new(true).run(|args| args.lse = None).unwrap_err();
    assert!(matches!(
        error,
        PrefillError::Lse {
            expected: true,
            got: false
        }
    ));
    assert_eq!(
        error.to_string(),
        "lse: the plan computes it, the call has none"
    );
    let mut setup = Setup::new(false);
    let (_, lse) = over(
        &setup.device,
        &setup.lse,
        0,
        [HEADS.query, ROWS],
        [ROWS as i64, 1],
    );
    let error = setup.run(|args| args.lse = Some(lse)).unwrap_err();
    assert!(matches!(
        error,
        PrefillError::Lse {
            expected: false,
            got: true
        }
    ));
    assert_eq!(
        error.to_string(),
        "lse: the plan does not compute it, the call has a tensor for it"
    );
}

// What operands can be refused for.

#[test]
fn element_types() {
    let mut setup = Setup::new(true);
    let stream = setup.stream.clone();
    let half = stream.alloc::<f16>(ROWS * HEADS.kv * HEADS.dim).unwrap();
    let shape = [ROWS, HEADS.kv, HEADS.dim];
    let (half, _) = over(&setup.device, &half, 0, shape, [128, 64, 1]);
    let error = setup.operand(|args| args.v = half);
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
    let error = setup.operand(|args| args.seqlens_k = offsets.into());
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
    setup.run(|args| args.seqlens_k = unsigned.into()).unwrap();
}

#[test]
fn shapes() {
    let mut setup = Setup::new(true);
    let error = setup.operand(|args| args.q = args.q.narrow(1, 0..3).unwrap());
    assert_eq!(
        error.to_string(),
        "q: expected shape [6, 4, 64], got [6, 3, 64]"
    );
    let error = setup.operand(|args| args.k = args.k.narrow(1, 0..1).unwrap());
    assert_eq!(
        error.to_string(),
        "k: expected shape [6, 2, 64], got [6, 1, 64]"
    );
    let error = setup.operand(|args| args.v = args.v.narrow(0, 0..5).unwrap());
    assert_eq!(
        error.to_string(),
        "v: expected shape [6, 2, 64], got [5, 2, 64]"
    );
    let error = setup.operand(|args| args.k = args.k.narrow(2, 0..32).unwrap());
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
    let error = setup.operand(|args| args.k = k);
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
        PrefillArgs {
            q: odd,
            k: odd,
            v: odd,
            out: out.tensor_mut([1, 1, 64]).unwrap(),
            lse: None,
            seqlens_q: (&lens).into(),
            seqlens_k: (&lens).into(),
            status: &status,
        },
    )
    .unwrap();
    assert_eq!(out.download().unwrap(), [bf16::ONE; 64]);
}

#[test]
fn bases_that_break_the_alignment() {
    let mut setup = Setup::new(false);
    let (v, _) = over(&setup.device, &setup.kv, 4, [6, 2, 64], [128, 64, 1]);
    let address = v.address();
    let error = setup.operand(|args| args.v = v);
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
    assert_eq!(names(setup.operand(|args| args.v = v)), ("out", "v"));
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
    let error = setup.operand(|args| args.k = k);
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
    let error = setup.operand(|args| (args.k, args.v) = (k, k));
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

// What copies and allocations can be refused for.

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
