//! What a matrix product can be refused for.

use half::bf16;
use infer_kernels::gemm::{
    Activation, GemmArgs, GemmError, GemmPlan, GemmProblem, Residual, WeightLayout,
};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{Buffer, DType, Device, DeviceError, OperandError, Stream};

use crate::common::device;

const M: usize = 3;
const N: usize = 16;
const K: usize = 32;

/// A product on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    x: Buffer<bf16>,
    w: Buffer<bf16>,
    y: Buffer<bf16>,
    y_f32: Buffer<f32>,
    workspace: Buffer<f32>,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        let alloc = |len: usize| stream.alloc::<bf16>(len).unwrap();
        Setup {
            x: alloc(2 * M * K),
            w: alloc(2 * N * K),
            y: alloc(2 * M * N),
            y_f32: stream.alloc(2 * M * N).unwrap(),
            workspace: stream.alloc(2 * 2 * M * N).unwrap(),
            device,
            stream,
        }
    }

    fn problem() -> GemmProblem {
        GemmProblem::new(DType::BF16, M, N, K)
    }

    fn refusal<'s>(
        &'s mut self,
        problem: &GemmProblem,
        change: impl FnOnce(&mut GemmArgs<'s>, Spare<'s>),
    ) -> GemmError {
        let plan = GemmPlan::new(&self.device, problem).unwrap();
        let shape = [problem.n, problem.k];
        let mut args = GemmArgs {
            w_up: problem.gated.then(|| self.w.tensor(shape).unwrap()),
            workspace: Some(self.workspace.tensor_mut([2 * 2 * M * N]).unwrap()),
            ..GemmArgs::new(
                self.x.tensor([M, problem.k]).unwrap(),
                self.w.tensor(shape).unwrap(),
                match problem.out {
                    DType::F32 => self.y_f32.tensor_mut([M, problem.n]).unwrap(),
                    _ => self.y.tensor_mut([M, problem.n]).unwrap(),
                },
            )
        };
        let spare = Spare {
            x: &self.x,
            w: &self.w,
        };
        change(&mut args, spare);
        plan.run(&self.stream, args).unwrap_err()
    }
}

/// Memory to make wrong operands of.
struct Spare<'s> {
    x: &'s Buffer<bf16>,
    w: &'s Buffer<bf16>,
}

fn refused(problem: GemmProblem) -> GemmError {
    let refusal = problem.supports().unwrap_err();
    let planned = GemmPlan::new(&device(), &problem).unwrap_err();
    assert_eq!(refusal.to_string(), planned.to_string());
    refusal
}

#[test]
fn nothing_wrong_is_accepted() {
    let setup = Setup::new();
    let plan = GemmPlan::new(&setup.device, &Setup::problem()).unwrap();
    let mut y = setup.stream.alloc::<bf16>(M * N).unwrap();
    let x = setup.stream.upload(&[bf16::ONE; M * K]).unwrap();
    let w = setup.stream.upload(&[bf16::ONE; N * K]).unwrap();
    let args = GemmArgs::new(
        x.tensor([M, K]).unwrap(),
        w.tensor([N, K]).unwrap(),
        y.tensor_mut([M, N]).unwrap(),
    );
    plan.run(&setup.stream, args).unwrap();
    assert_eq!(y.download().unwrap(), [bf16::from_f32(32.0); M * N]);
}

#[test]
fn unsupported_problems() {
    let problem = Setup::problem;
    let of_f32 = GemmProblem::new(DType::F32, M, N, K);
    assert_eq!(
        refused(of_f32).to_string(),
        r#"no GEMM kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
    assert_eq!(
        refused(problem().out(DType::F16)).to_string(),
        "y: expected bf16 or f32, got f16"
    );
    let ragged = GemmProblem::new(DType::BF16, M, 15, K).layout(WeightLayout::Kn);
    ragged.supports().unwrap(); // By the slow entry.
    assert!(matches!(
        refused(ragged.aligned(true)),
        GemmError::UnalignedColumns {
            expected: 8,
            got: 15
        }
    ));
    let clamped = problem().activation(Activation::ClampedSwiglu);
    assert!(matches!(refused(clamped.clone()), GemmError::NotGated));
    clamped.gated(true).supports().unwrap();
    let long = GemmProblem::new(DType::BF16, M, N, 1 << 31);
    assert!(matches!(
        refused(long),
        GemmError::Limit { what: "k", got, .. } if got == 1 << 31
    ));
    assert!(matches!(
        refused(problem().splits(Some(65))),
        GemmError::Limit {
            what: "splits",
            expected: 64,
            got: 65
        }
    ));
    assert_eq!(
        refused(problem().splits(Some(0))).to_string(),
        "splits of K: expected at least 1, got 0"
    );
    assert_eq!(
        refused(problem().splits(Some(2)).batch_invariant(true)).to_string(),
        "splits of K: expected 1 in a batch-invariant product, got 2"
    );
}

#[test]
fn more_blocks_than_a_grid_has() {
    let problem = GemmProblem::new(DType::BF16, 1 << 30, 1 << 30, K);
    problem.supports().unwrap();
    assert!(matches!(
        GemmPlan::new(&device(), &problem).unwrap_err(),
        GemmError::Limit { what: "blocks", .. }
    ));
    assert!(matches!(
        GemmPlan::new(&device(), &problem.splits(Some(64))).unwrap_err(),
        GemmError::Limit {
            what: "elements of workspace",
            ..
        }
    ));
}

#[test]
fn more_rows_than_planned() {
    let small = GemmProblem::new(DType::BF16, M - 1, N, K);
    let error = Setup::new().refusal(&small, |_, _| ());
    assert_eq!(
        error.to_string(),
        "x: expected at most 2 rows as planned, got 3"
    );
}

#[test]
fn gates() {
    let error = Setup::new().refusal(&Setup::problem().gated(true), |args, _| args.w_up = None);
    assert_eq!(
        error.to_string(),
        "w_up: the plan is gated, the call has none"
    );
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.w_up = Some(spare.w.tensor([N, K]).unwrap());
    });
    assert_eq!(
        error.to_string(),
        "w_up: the plan is not gated, the call has up weights"
    );
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.bias_up = Some(spare.x.tensor([N]).unwrap());
    });
    assert!(matches!(error, GemmError::BiasUp));
    let error = Setup::new().refusal(&Setup::problem().gated(true), |args, spare| {
        let padded = [K as i64 + 8, 1];
        args.w_up = Some(spare.w.region().strided(0, [N, K], padded).unwrap());
    });
    assert!(matches!(
        error,
        GemmError::UpStrides {
            expected: [32, 1],
            got: [40, 1]
        }
    ));
}

#[test]
fn a_residual_in_place_of_another_type() {
    let error = Setup::new().refusal(&Setup::problem().out(DType::F32), |args, _| {
        args.residual = Residual::InPlace;
    });
    assert_eq!(
        error.to_string(),
        "residual: in place needs y of type bf16, got f32"
    );
}

#[test]
fn workspaces() {
    let split = Setup::problem().splits(Some(2));
    let error = Setup::new().refusal(&split, |args, _| args.workspace = None);
    assert!(matches!(
        error,
        GemmError::Workspace {
            expected: 96,
            got: 0
        }
    ));
    let error = Setup::new().refusal(&split, |args, _| {
        let workspace = args.workspace.take().unwrap();
        args.workspace = Some(workspace.narrow(0, 0..95).unwrap());
    });
    assert_eq!(
        error.to_string(),
        "workspace: expected at least 96 elements, got 95"
    );
}

#[test]
fn operands() {
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.x = spare.x.tensor([M, K + 8]).unwrap();
    });
    assert_eq!(error.to_string(), "x: expected shape [3, 32], got [3, 40]");
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.w = spare.w.region().strided(0, [N, K], [33, 1]).unwrap();
    });
    assert!(matches!(
        error,
        GemmError::Operand(OperandError::RowAlignment {
            tensor: "w",
            expected: 40,
            got: 33,
            ..
        })
    ));
    let elsewhere = device();
    let stream = elsewhere.stream();
    let setup = Setup::new();
    let plan = GemmPlan::new(&setup.device, &Setup::problem()).unwrap();
    let mut y = stream.alloc::<bf16>(M * N).unwrap();
    let args = GemmArgs::new(
        setup.x.tensor([M, K]).unwrap(),
        setup.w.tensor([N, K]).unwrap(),
        y.tensor_mut([M, N]).unwrap(),
    );
    assert!(matches!(
        plan.run(&setup.stream, args).unwrap_err(),
        GemmError::Operand(OperandError::Device { tensor: "y", .. })
    ));
}

#[test]
fn unsupported_tiles() {
    assert_eq!(
        refused(Setup::problem().tile(Some([32, 32]))).to_string(),
        "no GEMM kernel with tile [32, 32] for these operands: \
         there are [[128, 128], [128, 256], [16, 128], [64, 128]]"
    );
    let chosen = Setup::problem().tile(Some([128, 256]));
    let plan = GemmPlan::new(&device(), &chosen).unwrap();
    assert_eq!(plan.entry(), "gemm_bf16_nk_128x256");
}

#[test]
fn a_device_that_is_too_old() {
    let old = Device::emulator(Config {
        gpu: Gpu::T4,
        ..Config::default()
    });
    assert!(matches!(
        GemmPlan::new(&old, &Setup::problem()).unwrap_err(),
        GemmError::Device(DeviceError::Unfit { .. })
    ));
}
