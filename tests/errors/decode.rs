//! What a decode can be refused for, beside what any attention can.

use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodeError, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, PrefillError, PrefillProblem};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{
    Buffer, DType, Device, DeviceError, OperandError, RegionMut, StatusWord, Stream, TensorMut,
};

use crate::common::device;

const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
const BATCH: usize = 2;
const PAGE: usize = 4;

/// A decode on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    q: Buffer<bf16>,
    pool: Buffer<bf16>,
    table: Buffer<u32>,
    seqlens: Buffer<i32>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
    workspace: Buffer<f32>,
    status: StatusWord,
    plan: DecodePlan,
}

fn problem() -> DecodeProblem {
    DecodeProblem::new(DType::BF16, HEADS, BATCH, PAGE).blocks(2)
}

impl Setup {
    fn new(problem: &DecodeProblem) -> Setup {
        let device = device();
        let stream = device.stream();
        let plan = DecodePlan::new(&device, problem).unwrap();
        let alloc = |len: usize| stream.alloc::<bf16>(len).unwrap();
        Setup {
            q: alloc(3 * BATCH * 256),
            pool: alloc(3 * PAGE * 128),
            table: stream.upload(&[0u32, 1, 2, 0]).unwrap(),
            seqlens: stream.upload(&[5i32, 3]).unwrap(),
            out: alloc(3 * BATCH * 256),
            lse: stream.alloc(3 * BATCH * HEADS.query).unwrap(),
            workspace: stream.alloc(plan.workspace_elements() + 8).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            device,
            stream,
            plan,
        }
    }

    fn run(
        &mut self,
        rows: usize,
        change: impl for<'s> FnOnce(DecodeArgs<'s>, &'s Buffer<f32>) -> DecodeArgs<'s>,
    ) -> Result<(), DecodeError> {
        let pool = self.pool.tensor([3, PAGE, HEADS.kv, 64]).unwrap();
        let spare = self.stream.alloc::<f32>(8).unwrap();
        let kv = Kv::Paged {
            k: pool,
            v: pool,
            pages: PageTable::Rows(self.table.tensor([BATCH, 2]).unwrap()),
            seqlens: self.seqlens.tensor([BATCH]).unwrap(),
        };
        let elements = self.plan.workspace_elements() + 1;
        let args = DecodeArgs::new(
            self.q.tensor([rows, HEADS.query, 64]).unwrap(),
            kv,
            self.out.tensor_mut([rows, HEADS.query, 64]).unwrap(),
            self.workspace.tensor_mut([elements]).unwrap(),
            &self.status,
        );
        let args = DecodeArgs {
            lse: self.plan.problem().attention().lse.then(|| {
                let shape = [HEADS.query, rows];
                self.lse.tensor_mut(shape).unwrap()
            }),
            ..args
        };
        self.plan.run(&self.stream, change(args, &spare))
    }
}

fn refused(problem: DecodeProblem) -> DecodeError {
    let refusal = problem.supports().unwrap_err();
    let planned = DecodePlan::new(&device(), &problem).unwrap_err();
    assert_eq!(refusal.to_string(), planned.to_string());
    refusal
}

#[test]
fn nothing_wrong_is_accepted() {
    let mut setup = Setup::new(&problem());
    setup.run(BATCH, |args, _| args).unwrap();
    assert!(setup.status.read().unwrap().is_clean());
    // None at all, and more than one for each.
    setup.run(0, |args, _| args).unwrap();
    let mut setup = Setup::new(&problem().max_queries(3));
    setup.run(3 * BATCH, |args, _| args).unwrap();
    assert!(setup.status.read().unwrap().is_clean());
}

#[test]
fn unsupported_dtype() {
    let error = refused(DecodeProblem::new(DType::F32, HEADS, BATCH, PAGE));
    assert_eq!(
        error.to_string(),
        r#"no decode kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
}

#[test]
fn unsupported_head_dim() {
    for dims in [(264, 264), (64, 264), (12, 64), (64, 100), (0, 64), (64, 0)] {
        let heads = HeadShape {
            dim: dims.0,
            ..HEADS
        };
        let problem = PrefillProblem::new(DType::BF16, heads, BATCH, 1)
            .v_dim(dims.1)
            .scale(1.0)
            .paged(PAGE);
        let error = refused(DecodeProblem::of(problem));
        assert!(matches!(error, DecodeError::UnsupportedHeadDim { got, .. } if got == dims));
        let text = format!(
            "no decode kernel for heads of {} elements for keys and {} for values: \
             expected multiples of 8, at most 256 and 256",
            dims.0, dims.1
        );
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn ragged_keys() {
    let error = refused(DecodeProblem::of(PrefillProblem::new(
        DType::BF16,
        HEADS,
        BATCH,
        1,
    )));
    assert_eq!(
        error.to_string(),
        "decode reads keys from pages; the problem has ragged ones"
    );
}

#[test]
fn what_any_attention_is_refused_for() {
    let error = refused(problem().scale(-1.0));
    let scale = PrefillError::Scale { got: -1.0 };
    assert_eq!(error.to_string(), scale.to_string());
    assert!(matches!(error, DecodeError::Attention(_)));
    let mut setup = Setup::new(&problem());
    let error = setup.run(BATCH, |mut args, spare| {
        args.sinks = Some(spare.tensor([4]).unwrap());
        args
    });
    assert!(matches!(
        error,
        Err(DecodeError::Attention(PrefillError::Option {
            tensor: "sinks",
            ..
        }))
    ));
}

#[test]
fn blocks() {
    for blocks in [0, (1 << 20) + 1] {
        let error = refused(problem().blocks(blocks));
        let text = format!("blocks: expected 1 to 1048576, got {blocks}");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn row_blocks() {
    let error = refused(problem().max_queries(1 << 28));
    assert_eq!(
        error.to_string(),
        "row blocks of all sequences: expected at most 67108864, got 134217732"
    );
}

#[test]
fn queries_that_are_not_as_many_for_each_sequence() {
    let mut setup = Setup::new(&problem().max_queries(3));
    let error = setup.run(3, |args, _| args).unwrap_err();
    assert_eq!(
        error.to_string(),
        "q: expected a multiple of 2 rows, as many for each sequence, got 3"
    );
    let mut setup = Setup::new(&problem());
    let error = setup.run(2 * BATCH, |args, _| args).unwrap_err();
    assert_eq!(
        error.to_string(),
        "q: expected sequences of at most 1 queries as planned, got 2"
    );
}

/// What a run with another workspace is refused for.
fn with_workspace(
    change: impl for<'s> FnOnce(TensorMut<'s, 1>) -> TensorMut<'s, 1>,
) -> DecodeError {
    let mut setup = Setup::new(&problem());
    let run = setup.run(BATCH, |mut args, _| {
        args.workspace = change(args.workspace);
        args
    });
    run.unwrap_err()
}

#[test]
fn workspaces() {
    let expected = Setup::new(&problem()).plan.workspace_elements();
    assert_eq!(expected, 2 * 2 * 16 * 66 + 2 * 5);
    let error = with_workspace(|all| {
        let elements = all.as_ref().shape()[0];
        all.narrow(0, 0..elements - 2).unwrap()
    });
    assert_eq!(
        error.to_string(),
        "workspace: expected at least 4234 elements, got 4233"
    );
    let error = with_workspace(|all| all.narrow(0, 1..4235).unwrap());
    assert!(matches!(
        operand(&error),
        OperandError::BaseAlignment {
            tensor: "workspace",
            ..
        }
    ));
}

#[test]
fn workspaces_that_are_something_else_too() {
    let mut setup = Setup::new(&problem().lse(true));
    let elements = setup.plan.workspace_elements();
    let device = setup.device.clone();
    for (name, address) in [
        ("q", setup.q.tensor([1]).unwrap().address()),
        ("page table", setup.table.tensor([1]).unwrap().address()),
        ("out", setup.out.tensor([1]).unwrap().address()),
        ("lse", setup.lse.tensor([1]).unwrap().address()),
    ] {
        // SAFETY: The run is refused: nothing is read or written.
        let region =
            unsafe { RegionMut::from_raw_parts(address, elements as u64, DType::F32, &device) };
        let workspace = region.strided(0, [elements], [1]).unwrap();
        let error = setup
            .run(BATCH, |mut args, _| {
                args.workspace = workspace;
                args
            })
            .unwrap_err();
        assert!(
            matches!(operand(&error), OperandError::Overlap { tensor: "workspace", other, .. } if *other == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_device_that_is_too_old() {
    let old = Device::emulator(Config {
        gpu: Gpu::T4,
        ..Config::default()
    });
    assert!(matches!(
        DecodePlan::new(&old, &problem()).unwrap_err(),
        DecodeError::Attention(PrefillError::Device(DeviceError::Unfit { .. }))
    ));
}

fn operand(error: &DecodeError) -> &OperandError {
    match error {
        DecodeError::Attention(PrefillError::Operand(error)) => error,
        other => panic!("{other}"),
    }
}
