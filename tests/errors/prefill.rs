//! What a problem, its offsets and the plan's promises can be refused for.

use infer_kernels::attention::prefill::{
    HeadShape, PrefillError, PrefillPlan, PrefillProblem, SoftCap,
};
use infer_kernels::attention::{CuSeqLens, SeqLens, SeqLensError};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{DType, Device, DeviceError};

use crate::common::device;
use crate::setup::{HEADS, ROWS, Setup, over, ragged};

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
    for dims in [(264, 264), (64, 512), (12, 64), (64, 100), (0, 64), (64, 0)] {
        let error = refusal(|problem| (problem.heads.dim, problem.v_dim) = dims);
        let PrefillError::UnsupportedHeadDim { expected, got } = error else {
            panic!("{error}");
        };
        assert_eq!(got, dims);
        let text = format!(
            "no prefill kernel for heads of {} elements for keys and {} for values: \
             expected multiples of 8, at most {} and {}",
            got.0, got.1, expected.0, expected.1
        );
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn soft_caps_that_are_no_caps() {
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-45] {
        let error = PrefillProblem::new(DType::BF16, HEADS, 2, 4)
            .softcap(SoftCap::Approx(cap))
            .supports()
            .unwrap_err();
        assert!(matches!(error, PrefillError::SoftCap { .. }), "{cap}");
    }
    let error = PrefillProblem::new(DType::BF16, HEADS, 2, 4).softcap(SoftCap::Exact(0.0));
    assert_eq!(
        error.supports().unwrap_err().to_string(),
        "soft-cap: expected a positive finite number, got 0; to have none, plan none"
    );
}

#[test]
fn pages_without_keys_or_with_too_many() {
    let paged = |page_size: usize| {
        let problem = PrefillProblem::new(DType::BF16, HEADS, 2, 4).paged(page_size);
        problem.supports().unwrap_err()
    };
    assert!(matches!(paged(0), PrefillError::PageSize { got: 0, .. }));
    assert_eq!(
        paged(0).to_string(),
        "keys on a page: expected at least 1, got 0"
    );
    assert_eq!(
        paged(1 << 31).to_string(),
        "keys on a page: expected at most 2147483647, got 2147483648"
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
        .run(|args| *ragged(args).seqlens = (&three).into())
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
    setup
        .run(|args| *ragged(args).seqlens = (&long).into())
        .unwrap();

    let beyond = lens(&[4, 3]);
    let error = setup
        .run(|args| *ragged(args).seqlens = (&beyond).into())
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
