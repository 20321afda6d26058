//! What a decode over a cache in 8 bits can be refused for, beside what any decode can.

use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodeError, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, PrefillError};
use infer_kernels::kv::{Format, KvError, Scales};
use infer_kernels::{DType, Element, OperandError, RegionMut, StatusWord};

use crate::common::device;

const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};

fn problem(format: Format) -> DecodeProblem {
    DecodeProblem::new(DType::BF16, HEADS, 1, 4).format(format)
}

/// Which scales a run gets, and where its output goes.
struct Call {
    with_scales: bool,
    numbers: [usize; 2],
    /// The output lies where the values' scales do.
    over_scales: bool,
}

const GOOD: Call = Call {
    with_scales: true,
    numbers: [2, 1],
    over_scales: false,
};

/// What a run over a pool of this type of memory says.
fn run<P: Element>(format: Format, zero: P, call: Call) -> Result<(), DecodeError> {
    let device = device();
    let stream = device.stream();
    let plan = DecodePlan::new(&device, &problem(format)).unwrap();
    let q = stream.alloc::<bf16>(256).unwrap();
    let pool = stream.upload(&[zero; 4 * 128]).unwrap();
    let table = stream.upload(&[0u32]).unwrap();
    let seqlens = stream.upload(&[3i32]).unwrap();
    let scales = [(); 2].map(|()| stream.upload(&[1.0f32; 512]).unwrap());
    let mut out = stream.alloc::<bf16>(256).unwrap();
    let elements = plan.workspace_elements();
    let mut workspace = stream.alloc::<f32>(elements).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let pages = pool.tensor([1, 4, 2, 64]).unwrap();
    let kv = Kv::Paged {
        k: pages,
        v: pages,
        pages: PageTable::Rows(table.tensor([1, 1]).unwrap()),
        seqlens: seqlens.tensor([1]).unwrap(),
    };
    let v_scales = scales[1].tensor([call.numbers[1]]).unwrap();
    // SAFETY: A run that writes there is refused.
    let over = unsafe { RegionMut::from_raw_parts(v_scales.address(), 256, DType::BF16, &device) };
    let out = match call.over_scales {
        true => over.strided(0, [1, 4, 64], [256, 64, 1]).unwrap(),
        false => out.tensor_mut([1, 4, 64]).unwrap(),
    };
    let workspace = workspace.tensor_mut([elements]).unwrap();
    let mut args = DecodeArgs::new(q.tensor([1, 4, 64]).unwrap(), kv, out, workspace, &status);
    args.scales = call.with_scales.then_some(Scales {
        k: scales[0].tensor([call.numbers[0]]).unwrap(),
        v: v_scales,
    });
    plan.run(&stream, args)
}

#[test]
fn a_cache_in_8_bits_is_not_batch_invariant() {
    let problem = problem(Format::E4m3).batch_invariant(100);
    let error = problem.supports().unwrap_err();
    assert!(matches!(error, DecodeError::InvariantCache { got: "e4m3" }));
    let planned = DecodePlan::new(&device(), &problem).unwrap_err();
    assert_eq!(error.to_string(), planned.to_string());
    let text = "no batch-invariant decode kernel for a cache in e4m3: there are some for 16 bits";
    assert_eq!(error.to_string(), text);
}

#[test]
fn nothing_wrong_is_accepted() {
    for format in [Format::E4m3, Format::E5m2, Format::Int8] {
        run(format, 0u8, GOOD).unwrap();
    }
    run(Format::Int8, 0i8, GOOD).unwrap();
}

#[test]
fn head_dims_are_multiples_of_16_bytes() {
    for dims in [(264, 64), (64, 272), (40, 64), (64, 8), (0, 64)] {
        let heads = HeadShape {
            dim: dims.0,
            ..HEADS
        };
        let problem = DecodeProblem::new(DType::F16, heads, 1, 4);
        let problem = problem.v_dim(dims.1).scale(1.0).format(Format::E5m2);
        let error = problem.supports().unwrap_err();
        let text = format!(
            "no decode kernel for heads of {} elements for keys and {} for values: \
             expected multiples of 16, at most 256 and 256",
            dims.0, dims.1
        );
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn queries_of_another_type() {
    let problem = DecodeProblem::new(DType::F32, HEADS, 1, 4).format(Format::E4m3);
    assert_eq!(
        problem.supports().unwrap_err().to_string(),
        r#"no decode kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
}

#[test]
fn memory_of_another_type() {
    let refusals = [
        (run(Format::E4m3, 0i8, GOOD), DType::U8, DType::I8),
        (run(Format::E5m2, bf16::ZERO, GOOD), DType::U8, DType::BF16),
        (run(Format::Int8, 0i32, GOOD), DType::I8, DType::I32),
    ];
    for (refusal, wanted, given) in refusals {
        let error = refusal.unwrap_err();
        let DecodeError::Attention(PrefillError::Operand(OperandError::Dtype {
            tensor,
            expected,
            got,
        })) = error
        else {
            panic!("{error}");
        };
        assert_eq!((tensor, expected, got), ("k", wanted, given));
    }
}

#[test]
fn scales_that_are_missing_or_for_nothing() {
    let call = Call {
        with_scales: false,
        ..GOOD
    };
    let error = run(Format::E4m3, 0u8, call).unwrap_err();
    assert_eq!(
        error.to_string(),
        "scales: the plan uses it, the call has none"
    );
    let error = run(Format::Same, bf16::ZERO, GOOD).unwrap_err();
    assert_eq!(
        error.to_string(),
        "scales: the plan does not use it, the call has a tensor for it"
    );
}

#[test]
fn scales_that_are_neither_one_nor_one_for_each_head() {
    for (numbers, name) in [([3, 1], "k scales"), ([2, 0], "v scales")] {
        let call = Call { numbers, ..GOOD };
        let error = run(Format::E5m2, 0u8, call).unwrap_err();
        let got = numbers[usize::from(name == "v scales")];
        let text = format!("{name}: expected 1 scale or 2, one for each head, got {got}");
        assert_eq!(error.to_string(), text);
        let DecodeError::Cache(error) = error else {
            panic!("{error}");
        };
        assert!(matches!(*error, KvError::Scales { .. }));
    }
}

#[test]
fn results_over_the_scales() {
    let call = Call {
        over_scales: true,
        ..GOOD
    };
    let error = run(Format::Int8, 0u8, call).unwrap_err();
    let DecodeError::Attention(PrefillError::Operand(OperandError::Overlap {
        tensor, other, ..
    })) = error
    else {
        panic!("{error}");
    };
    assert_eq!((tensor, other), ("out", "v scales"));
}
