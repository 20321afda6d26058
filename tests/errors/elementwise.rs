//! What an elementwise operation can be refused for.

use half::bf16;
use infer_kernels::elementwise::{
    ElementwiseError, EmbedArgs, EmbedPlan, EmbedProblem, NormArgs, NormPlan, NormProblem,
    NormWeight, PointwiseArgs, PointwisePlan, PointwiseProblem, SampleArgs, SamplePlan,
    SampleProblem, Sampling, Table, TableFormat,
};
use infer_kernels::gemm::Activation;
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{Buffer, DType, Device, DeviceError, OperandError, StatusWord, Stream};

use super::setup::over;
use crate::common::device;

const ROWS: usize = 3;
const DIM: usize = 24;

/// Operands on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    x: Buffer<bf16>,
    y: Buffer<bf16>,
    second: Buffer<bf16>,
    weight: Buffer<f32>,
    codes: Buffer<i8>,
    ids: Buffer<i32>,
    status: StatusWord,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        let rows = || stream.alloc::<bf16>(4 * ROWS * DIM).unwrap();
        Setup {
            x: rows(),
            y: rows(),
            second: rows(),
            weight: stream.alloc(DIM).unwrap(),
            codes: stream.alloc(4 * ROWS * 32).unwrap(),
            ids: stream.alloc(ROWS).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            device,
            stream,
        }
    }

    fn norm<'s>(
        &'s mut self,
        problem: &NormProblem,
        change: impl FnOnce(&mut NormArgs<'s>, &'s Buffer<bf16>),
    ) -> ElementwiseError {
        let plan = NormPlan::new(&self.device, problem).unwrap();
        let shape = [ROWS, 1, DIM];
        let args = NormArgs::new(
            self.x.tensor(shape).unwrap(),
            self.y.tensor_mut(shape).unwrap(),
        );
        let mut args = args.weight(self.weight.tensor([DIM]).unwrap());
        change(&mut args, &self.second);
        plan.run(&self.stream, args).unwrap_err()
    }

    fn pointwise<'s>(
        &'s mut self,
        problem: &PointwiseProblem,
        change: impl FnOnce(&mut PointwiseArgs<'s>, &'s Buffer<bf16>),
    ) -> ElementwiseError {
        let plan = PointwisePlan::new(&self.device, problem).unwrap();
        let shape = [ROWS, DIM];
        let args = PointwiseArgs::new(
            self.x.tensor(shape).unwrap(),
            self.y.tensor_mut(shape).unwrap(),
        );
        let mut args = args.second(self.second.tensor(shape).unwrap());
        change(&mut args, &self.second);
        plan.run(&self.stream, args).unwrap_err()
    }

    fn embed<'s>(
        &'s mut self,
        problem: &EmbedProblem,
        change: impl FnOnce(&mut EmbedArgs<'s>, &'s Buffer<i8>, &'s Buffer<f32>),
    ) -> ElementwiseError {
        let plan = EmbedPlan::new(&self.device, problem).unwrap();
        let mut args = EmbedArgs {
            table: Table::Float(self.x.tensor([4, DIM]).unwrap()),
            ids: self.ids.tensor([ROWS]).unwrap(),
            y: self.y.tensor_mut([ROWS, DIM]).unwrap(),
            status: &self.status,
        };
        change(&mut args, &self.codes, &self.weight);
        plan.run(&self.stream, args).unwrap_err()
    }
}

fn problem() -> NormProblem {
    NormProblem::new(DType::BF16, DIM, 1e-6)
}

fn gated() -> PointwiseProblem {
    PointwiseProblem::gated(DType::BF16, DIM, Activation::Silu)
}

const INT8: TableFormat = TableFormat::Int8 {
    scales: DType::F32,
    group: 8,
};

#[test]
fn unsupported_problems() {
    let of_f32 = NormProblem::new(DType::F32, DIM, 0.0).supports();
    assert_eq!(
        of_f32.unwrap_err().to_string(),
        "elements: expected one of [BF16, F16], got f32"
    );
    for dim in [0, 16_385] {
        let refusal = NormProblem::new(DType::BF16, dim, 0.0).supports();
        let got = refusal.unwrap_err().to_string();
        assert_eq!(
            got,
            format!("elements of a row: expected 1 to 16384, got {dim}")
        );
    }
    for eps in [-1.0, f32::NAN, f32::INFINITY] {
        let refusal = NormProblem::new(DType::BF16, DIM, eps).supports();
        assert!(matches!(refusal, Err(ElementwiseError::Eps { .. })));
    }
    let add = PointwiseProblem::add(DType::BF16, DIM).activation(Activation::ClampedSwiglu);
    assert!(matches!(add.supports(), Err(ElementwiseError::NotGated)));
    assert!(matches!(
        PointwiseProblem::scale(DType::BF16, DIM, f32::NAN).supports(),
        Err(ElementwiseError::Factor { .. })
    ));
    assert!(matches!(
        PointwiseProblem::scale(DType::BF16, 0, 1.0).supports(),
        Err(ElementwiseError::Count { .. })
    ));
    let embed = |table| EmbedProblem::new(DType::BF16, DIM).table(table);
    for (table, text) in [
        (
            TableFormat::Float(DType::I8),
            "table: expected one of [F16, BF16, F32], got i8",
        ),
        (
            TableFormat::Int8 {
                scales: DType::I32,
                group: 8,
            },
            "scales: expected one of [F16, BF16, F32], got i32",
        ),
        (
            TableFormat::Int8 {
                scales: DType::F16,
                group: 12,
            },
            "elements of a scale: expected a multiple of 8, got 12",
        ),
        (
            TableFormat::Int8 {
                scales: DType::F16,
                group: 0,
            },
            "elements of a scale: expected 8 to 2147483647, got 0",
        ),
    ] {
        let refusal = embed(table).supports().unwrap_err();
        assert_eq!(refusal.to_string(), text);
    }
    let factor = EmbedProblem::new(DType::BF16, DIM).factor(f32::INFINITY);
    assert!(matches!(
        factor.supports(),
        Err(ElementwiseError::Factor { .. })
    ));
}

#[test]
fn options_must_be_as_planned() {
    for (problem, tensor, expected) in [
        (problem().residual(true), "residual", true),
        (problem().weight(NormWeight::None), "weight", false),
    ] {
        match Setup::new().norm(&problem, |_, _| ()) {
            ElementwiseError::Option {
                tensor: got,
                expected: planned,
                got: given,
            } => assert_eq!((got, planned, given), (tensor, expected, !expected)),
            other => panic!("{other:?}"),
        }
    }
    let scale = PointwiseProblem::scale(DType::BF16, DIM, 2.0);
    assert_eq!(
        Setup::new().pointwise(&scale, |_, _| ()).to_string(),
        "second: the plan does not use it, the call has a tensor for it"
    );
    let planned = EmbedProblem::new(DType::BF16, DIM).table(INT8);
    assert_eq!(
        Setup::new().embed(&planned, |_, _, _| ()).to_string(),
        "scales: the plan uses it, the call has none"
    );
}

#[test]
fn operands_of_another_shape_or_type() {
    let error = Setup::new().norm(&problem(), |args, second| {
        args.weight = Some(second.tensor([DIM + 1]).unwrap());
    });
    assert_eq!(error.to_string(), "weight: expected shape [24], got [25]");
    let error = Setup::new().pointwise(&gated(), |args, second| {
        args.second = Some(second.tensor([ROWS + 1, DIM]).unwrap());
    });
    assert_eq!(
        error.to_string(),
        "second: expected shape [3, 24], got [4, 24]"
    );
    let error = Setup::new().embed(&EmbedProblem::new(DType::F16, DIM), |_, _, _| ());
    assert_eq!(
        error.to_string(),
        "table: expected elements of type f16, got bf16"
    );
    let error = Setup::new().embed(&EmbedProblem::new(DType::BF16, DIM), |args, _, weight| {
        args.ids = weight.tensor([ROWS]).unwrap();
    });
    assert_eq!(
        error.to_string(),
        "ids: expected one of [I32, U32, I64], got f32"
    );
    let int8 = EmbedProblem::new(DType::BF16, DIM).table(INT8);
    let error = Setup::new().embed(&int8, |args, codes, weight| {
        let codes = codes.region().strided(0, [4, DIM], [32, 1]).unwrap();
        let scales = weight.tensor([4, DIM / 8 + 1]).unwrap();
        args.table = Table::Int8 { codes, scales };
    });
    assert_eq!(
        error.to_string(),
        "scales: expected shape [4, 3], got [4, 4]"
    );
}

#[test]
fn rows_must_begin_at_multiples_of_16_bytes() {
    let error = Setup::new().pointwise(&gated(), |args, second| {
        let rows = second.region().strided(0, [ROWS, DIM], [28, 1]);
        args.second = Some(rows.unwrap());
    });
    assert!(matches!(
        error,
        ElementwiseError::Operand(OperandError::RowAlignment {
            tensor: "second",
            expected: 32,
            got: 28,
            ..
        })
    ));
    let error = Setup::new().pointwise(&gated(), |args, second| {
        let rows = second.region().strided(4, [ROWS, DIM], [32, 1]);
        args.second = Some(rows.unwrap());
    });
    assert!(matches!(
        error,
        ElementwiseError::Operand(OperandError::BaseAlignment {
            tensor: "second",
            ..
        })
    ));
}

#[test]
fn what_is_written_is_apart_from_the_rest() {
    let (setup, mut other) = (Setup::new(), Setup::new());
    let shared = |setup: &Setup| over(&setup.device, &setup.x, 0, [ROWS, 1, DIM], [24, 24, 1]);
    let plan = NormPlan::new(&setup.device, &problem().residual(true)).unwrap();
    let (x, residual) = shared(&setup);
    let args = NormArgs::new(x, other.y.tensor_mut([ROWS, 1, DIM]).unwrap());
    let args = args
        .weight(setup.weight.tensor([DIM]).unwrap())
        .residual(residual);
    // The result is on another emulator, which is found first.
    assert!(matches!(
        plan.run(&setup.stream, args).unwrap_err(),
        ElementwiseError::Operand(OperandError::Device { tensor: "y", .. })
    ));

    let (x, y) = shared(&setup);
    let plan = NormPlan::new(&setup.device, &problem()).unwrap();
    let args = NormArgs::new(x, y).weight(setup.weight.tensor([DIM]).unwrap());
    assert!(matches!(
        plan.run(&setup.stream, args).unwrap_err(),
        ElementwiseError::Operand(OperandError::Overlap {
            tensor: "y",
            other: "x",
            ..
        })
    ));

    let elsewhere = device();
    let plan = PointwisePlan::new(&elsewhere, &gated()).unwrap();
    let mut y = setup.stream.alloc::<bf16>(ROWS * DIM).unwrap();
    let x = setup.x.tensor([ROWS, DIM]).unwrap();
    let args = PointwiseArgs::new(x, y.tensor_mut([ROWS, DIM]).unwrap()).second(x);
    assert!(matches!(
        plan.run(&setup.stream, args).unwrap_err(),
        ElementwiseError::Operand(OperandError::Device {
            tensor: "stream",
            ..
        })
    ));
}

#[test]
fn more_rows_than_32_bits_count() {
    let setup = Setup::new();
    let plan = NormPlan::new(&setup.device, &problem().weight(NormWeight::None)).unwrap();
    // All tokens are one row.
    let rows = setup.x.region();
    let x = rows.strided(0, [1 << 16, 1 << 16, DIM], [0, 0, 1]).unwrap();
    let mut y = setup.stream.alloc::<bf16>(DIM).unwrap();
    let args = NormArgs::new(x, y.tensor_mut([1, 1, DIM]).unwrap());
    assert_eq!(
        plan.run(&setup.stream, args).unwrap_err().to_string(),
        "rows: expected 0 to 2147483647, got 4294967296"
    );
}

#[test]
fn a_device_that_is_too_old() {
    let old = Device::emulator(Config {
        gpu: Gpu::T4,
        ..Config::default()
    });
    assert!(matches!(
        NormPlan::new(&old, &problem()).unwrap_err(),
        ElementwiseError::Device(DeviceError::Unfit { .. })
    ));
}

#[test]
fn samplers() {
    let refusal = |dtype, vocab| {
        let refusal = SampleProblem::new(dtype, vocab).supports();
        refusal.unwrap_err().to_string()
    };
    assert_eq!(
        refusal(DType::I32, 9),
        "logits: expected one of [F16, BF16, F32], got i32"
    );
    for vocab in [0, (1 << 19) + 1] {
        assert_eq!(
            refusal(DType::F32, vocab),
            format!("logits of a row: expected 1 to 524288, got {vocab}")
        );
    }
    SampleProblem::new(DType::F32, 1 << 19).supports().unwrap();

    let setup = Setup::new();
    let stream = &setup.stream;
    let plan = SamplePlan::new(&setup.device, &SampleProblem::new(DType::BF16, DIM)).unwrap();
    let draws = stream.alloc::<u64>(3 * ROWS).unwrap();
    let error = |change: &dyn Fn(&mut Sampling<'_>)| {
        let mut tokens = stream.alloc::<i32>(ROWS).unwrap();
        let mut sampling = Sampling {
            temperature: setup.weight.tensor([ROWS]).unwrap(),
            top_k: Some(setup.ids.tensor([ROWS]).unwrap()),
            top_p: None,
            draws: draws.tensor([ROWS, 2]).unwrap(),
        };
        change(&mut sampling);
        let args = SampleArgs {
            logits: setup.x.tensor([ROWS, DIM]).unwrap(),
            sampling: Some(sampling),
            tokens: tokens.tensor_mut([ROWS]).unwrap(),
            status: &setup.status,
        };
        plan.run(stream, args).unwrap_err().to_string()
    };
    assert_eq!(
        error(&|sampling| sampling.top_p = sampling.top_k),
        "top_p: expected elements of type f32, got i32"
    );
    assert_eq!(
        error(&|sampling| sampling.top_k = Some(sampling.temperature)),
        "top_k: expected elements of type i32, got f32"
    );
    assert_eq!(
        error(&|sampling| {
            sampling.temperature = sampling.temperature.narrow(0, 0..2).unwrap();
        }),
        "temperature: expected shape [3], got [2]"
    );
    let args = |draws| SampleArgs {
        logits: setup.x.tensor([ROWS, DIM]).unwrap(),
        sampling: Some(Sampling {
            temperature: setup.weight.tensor([ROWS]).unwrap(),
            top_k: None,
            top_p: None,
            draws,
        }),
        tokens: over(&setup.device, &setup.ids, 0, [ROWS], [1]).1,
        status: &setup.status,
    };
    let apart = draws.region().strided(0, [ROWS, 2], [3, 1]).unwrap();
    assert_eq!(
        plan.run(stream, args(apart)).unwrap_err().to_string(),
        "draws: expected stride 2 along axis 0, got 3"
    );
    let mut overlapping = args(draws.tensor([ROWS, 2]).unwrap());
    let sampling = overlapping.sampling.as_mut().unwrap();
    sampling.top_k = Some(setup.ids.tensor([ROWS]).unwrap());
    assert!(matches!(
        plan.run(stream, overlapping).unwrap_err(),
        ElementwiseError::Operand(OperandError::Overlap {
            tensor: "tokens",
            other: "top_k",
            ..
        })
    ));
}
