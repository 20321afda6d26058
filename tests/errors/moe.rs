//! What a mixture of experts can be refused for.

use half::bf16;
use infer_kernels::gemm::{Activation, WeightLayout};
use infer_kernels::moe::{
    CombinePlan, Direction, Experts, GroupRank, GroupedPlan, GroupedProblem, Groups, MoeArgs,
    MoeError, MoePlan, MoeProblem, PermuteArgs, PermutePlan, RouteArgs, RoutePlan, Routing,
    Scoring,
};
use infer_kernels::{Buffer, DType, Device, OperandError, StatusWord, Stream};

use crate::common::device;

const TOKENS: usize = 3;
const EXPERTS: usize = 4;
const HIDDEN: usize = 16;
const INNER: usize = 24;

/// A layer on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    x: Buffer<bf16>,
    w: Buffer<bf16>,
    y: Buffer<bf16>,
    logits: Buffer<f32>,
    workspace: Buffer<u8>,
    status: StatusWord,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        Setup {
            x: stream.alloc(2 * TOKENS * HIDDEN).unwrap(),
            w: stream.alloc(2 * EXPERTS * HIDDEN * INNER).unwrap(),
            y: stream.alloc(2 * TOKENS * HIDDEN).unwrap(),
            logits: stream.alloc(2 * TOKENS * EXPERTS).unwrap(),
            workspace: stream.alloc(1 << 16).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            device,
            stream,
        }
    }

    fn problem() -> MoeProblem {
        MoeProblem::new(DType::BF16, Routing::new(EXPERTS, 2), TOKENS, HIDDEN, INNER)
    }

    /// Runs the layer after a change, with other memory at hand.
    fn run<'s>(
        &'s mut self,
        problem: &MoeProblem,
        change: impl FnOnce(&mut MoeArgs<'s>, Spare<'s>),
    ) -> Result<(), MoeError> {
        let plan = MoePlan::new(&self.device, problem).unwrap();
        let bytes = plan.workspace_bytes();
        let (up, down) = ([EXPERTS, INNER, HIDDEN], [EXPERTS, HIDDEN, INNER]);
        let mut args = MoeArgs {
            w_up: problem.gated.then(|| self.w.tensor(up).unwrap()),
            ..MoeArgs::new(
                self.x.tensor([TOKENS, HIDDEN]).unwrap(),
                self.logits.tensor([TOKENS, EXPERTS]).unwrap(),
                self.w.tensor(up).unwrap(),
                self.w.tensor(down).unwrap(),
                self.y.tensor_mut([TOKENS, HIDDEN]).unwrap(),
                self.workspace.tensor_mut([bytes]).unwrap(),
                &self.status,
            )
        };
        let spare = Spare {
            x: &self.x,
            w: &self.w,
            logits: &self.logits,
        };
        change(&mut args, spare);
        plan.run(&self.stream, args)
    }

    fn refusal<'s>(
        &'s mut self,
        problem: &MoeProblem,
        change: impl FnOnce(&mut MoeArgs<'s>, Spare<'s>),
    ) -> String {
        self.run(problem, change).unwrap_err().to_string()
    }
}

/// Memory to make wrong operands of.
struct Spare<'s> {
    x: &'s Buffer<bf16>,
    w: &'s Buffer<bf16>,
    logits: &'s Buffer<f32>,
}

fn refused(problem: &MoeProblem) -> String {
    let refusal = problem.supports().unwrap_err().to_string();
    let planned = MoePlan::new(&device(), problem).unwrap_err();
    assert_eq!(refusal, planned.to_string());
    refusal
}

#[test]
fn nothing_wrong_is_accepted() {
    Setup::new().run(&Setup::problem(), |_, _| ()).unwrap();
}

#[test]
fn types() {
    let of_f32 = MoeProblem::new(DType::F32, Routing::new(4, 2), 3, 16, 24);
    assert_eq!(
        refused(&of_f32),
        "rows and weights: expected one of [F16, BF16], got f32"
    );
    let mut problem = Setup::problem();
    problem.routing = problem.routing.logits(DType::I32);
    assert_eq!(
        refused(&problem),
        "logits: expected one of [F32, F16, BF16], got i32"
    );
    let mut product = GroupedProblem::new(DType::BF16, Direction::Up, [1, 8, 8], 1, 1);
    product.out = DType::F16;
    assert_eq!(
        product.supports().unwrap_err().to_string(),
        "y: expected one of [BF16, F32], got f16"
    );
}

#[test]
fn numbers() {
    let with = |routing: Routing| {
        let mut problem = Setup::problem();
        problem.routing = routing;
        refused(&problem)
    };
    let routing = || Routing::new(64, 8);
    assert_eq!(
        with(Routing::new(513, 2)),
        "routed experts: expected 1 to 512, got 513"
    );
    assert_eq!(with(Routing::new(4, 5)), "top_k: expected 1 to 4, got 5");
    assert_eq!(
        with(Routing::new(64, 17)),
        "top_k: expected 1 to 16, got 17"
    );
    assert_eq!(
        with(routing().shared(17, false)),
        "shared experts: expected 0 to 16, got 17"
    );
    assert_eq!(
        with(routing().scale(f32::NAN)),
        "scale: expected a finite number, got NaN"
    );
    assert_eq!(
        with(routing().bias(true)),
        "a choice by logits, before the softmax, takes no bias"
    );
    let groups = |count, top, rank| Some(Groups { count, top, rank });
    let best = GroupRank::Best;
    assert_eq!(
        with(routing().groups(groups(33, 2, best))),
        "groups: expected 1 to 32, got 33"
    );
    assert_eq!(
        with(routing().groups(groups(8, 9, best))),
        "groups to choose from: expected 1 to 8, got 9"
    );
    assert_eq!(
        with(routing().groups(groups(7, 2, best))),
        "7 groups do not divide 64 experts"
    );
    assert_eq!(
        with(routing().groups(groups(16, 1, best))),
        "groups to choose from have 4 experts, a token goes to 8"
    );
    assert_eq!(
        with(Routing::new(8, 1).groups(groups(8, 2, GroupRank::SumOfTwo))),
        "experts of a group ranked by two: expected 2 to 512, got 1"
    );
}

#[test]
fn shapes() {
    let sized = |hidden, inner| MoeProblem::new(DType::F16, Routing::new(4, 2), 3, hidden, inner);
    assert_eq!(refused(&sized(12, 8)), "k = 12 is not a multiple of 8");
    assert_eq!(refused(&sized(16, 4)), "n = 4 is not a multiple of 8");
    assert_eq!(
        refused(&Setup::problem().local(Some(2..5))),
        "experts on this device: expected a range within 0..4, got 2..5"
    );
    assert_eq!(
        refused(&Setup::problem().tile(Some(32))),
        "no grouped GEMM with 32 rows in a tile: there are [16, 64, 128]"
    );
    let clamped = Setup::problem().activation(Activation::ClampedSwiglu, false);
    assert_eq!(
        refused(&clamped),
        "the clamped SwiGLU takes a gated product"
    );
    let split = GroupedProblem::new(DType::BF16, Direction::Up, [1, 8, 8], 1, 1)
        .splits(2)
        .activation(Activation::Silu, true);
    assert_eq!(
        split.supports().unwrap_err().to_string(),
        "splits of K: a product with gate, activation or 16-bit result has 1, got 2"
    );
    let many = GroupedProblem::new(DType::BF16, Direction::Up, [1, 8, 8], 1, 1).splits(65);
    assert_eq!(
        many.supports().unwrap_err().to_string(),
        "splits of K: expected 1 to 64, got 65"
    );
}

#[test]
fn sizes_that_overflow() {
    let device = device();
    let huge = |tokens, hidden, inner| {
        let problem = MoeProblem::new(DType::BF16, Routing::new(4, 2), tokens, hidden, inner);
        MoePlan::new(&device, &problem).unwrap_err().to_string()
    };
    assert!(huge(1 << 31, 16, 16).starts_with("tokens: expected 0 to 1073217535, got"));
    assert!(huge(1 << 29, 1 << 20, 8).starts_with("tiles: expected 0 to 1073741824, got"));
    assert!(
        huge(1 << 20, 8, 1 << 20).starts_with("bytes of workspace: expected 0 to 1099511627776")
    );
    let experts = Experts::new(8, 0);
    let plan = PermutePlan::new(&device, &experts, 33, 1);
    assert_eq!(
        plan.unwrap_err().to_string(),
        "slots: expected 1 to 32, got 33"
    );
    let plan = CombinePlan::new(&device, DType::F16, &experts, 2, 12);
    assert_eq!(
        plan.unwrap_err().to_string(),
        "hidden = 12 is not a multiple of 8"
    );
    let problem = GroupedProblem::new(DType::BF16, Direction::Up, [1000, 8, 8], 1, 1);
    let plan = GroupedPlan::new(&device, &problem);
    assert_eq!(
        plan.unwrap_err().to_string(),
        "experts: expected 0 to 528, got 1000"
    );
}

#[test]
fn more_tokens_than_planned() {
    let mut setup = Setup::new();
    let mut small = Setup::problem();
    small.max_tokens = 2;
    assert_eq!(
        setup.refusal(&small, |_, _| ()),
        "x: expected at most 2 tokens as planned, got 3"
    );
}

#[test]
fn operands_that_are_planned_or_not() {
    let mut setup = Setup::new();
    assert_eq!(
        setup.refusal(&Setup::problem(), |args, _| args.w_up = None),
        "w_up: needed by the plan, not given in the call"
    );
    let plain = Setup::problem().activation(Activation::Relu, false);
    let up = [EXPERTS, INNER, HIDDEN];
    assert_eq!(
        setup.refusal(&plain, |args, spare| {
            args.w_up = Some(spare.w.tensor(up).unwrap());
        }),
        "w_up: not used by the plan, given in the call"
    );
    assert_eq!(
        setup.refusal(&Setup::problem(), |args, spare| {
            args.bias_up = Some(spare.x.tensor([EXPERTS, INNER]).unwrap());
        }),
        "bias_up: not used by the plan, given in the call"
    );
    assert_eq!(
        setup.refusal(&Setup::problem(), |args, spare| {
            args.choice_bias = Some(spare.logits.tensor([EXPERTS]).unwrap());
        }),
        "bias: not used by the plan, given in the call"
    );
    let mut gated = Setup::problem();
    gated.routing = gated.routing.shared(0, true);
    assert_eq!(
        setup.refusal(&gated, |_, _| ()),
        "shared_gate: needed by the plan, not given in the call"
    );
}

#[test]
fn weights_that_do_not_lie_alike() {
    let mut setup = Setup::new();
    let up = [EXPERTS, INNER, HIDDEN];
    let far = [2 * (INNER * HIDDEN) as i64, HIDDEN as i64, 1];
    assert_eq!(
        setup.refusal(&Setup::problem(), |args, spare| {
            args.w_up = Some(spare.w.region().strided(0, up, far).unwrap());
        }),
        "w_up: expected strides [384, 16, 1] as w_gate has, got [768, 16, 1]"
    );
    let odd = [(INNER * (HIDDEN + 4)) as i64, HIDDEN as i64 + 4, 1];
    let error = setup.refusal(&Setup::problem(), |args, spare| {
        args.w_gate = spare.w.region().strided(0, up, odd).unwrap();
    });
    assert!(
        error.starts_with("w_gate: stride 20 along axis 1"),
        "{error}"
    );
    let kn = Setup::problem().layout(WeightLayout::Kn);
    let error = setup.refusal(&kn, |_, _| ());
    assert_eq!(error, "w_gate: expected shape [4, 16, 24], got [4, 24, 16]");
}

#[test]
fn workspaces_that_are_too_small() {
    let mut setup = Setup::new();
    let plan = MoePlan::new(&setup.device, &Setup::problem()).unwrap();
    let bytes = plan.workspace_bytes();
    let mut small = setup.stream.alloc::<u8>(bytes - 1).unwrap();
    assert_eq!(
        setup.refusal(&Setup::problem(), |args, _| {
            args.workspace = small.tensor_mut([bytes - 1]).unwrap();
        }),
        format!(
            "workspace: expected at least {bytes} elements, got {}",
            bytes - 1
        )
    );
}

#[test]
fn outputs_that_overlap() {
    let mut setup = Setup::new();
    let other = setup.stream.alloc::<bf16>(2 * TOKENS * HIDDEN).unwrap();
    let address = other.tensor([1]).unwrap().address();
    let device = setup.device.clone();
    let len = (2 * TOKENS * HIDDEN) as u64;
    let result = setup.run(&Setup::problem(), |args, _| {
        // SAFETY: Nothing is launched: this is refused.
        let y =
            unsafe { infer_kernels::RegionMut::from_raw_parts(address, len, DType::BF16, &device) };
        // SAFETY: The same.
        let x =
            unsafe { infer_kernels::Region::from_raw_parts(address, len, DType::BF16, &device) };
        args.x = x.tensor([TOKENS, HIDDEN]).unwrap();
        args.y = y.tensor([TOKENS, HIDDEN]).unwrap();
    });
    assert!(matches!(
        result,
        Err(MoeError::Operand(OperandError::Overlap {
            tensor: "y",
            other: "x",
            ..
        }))
    ));
}

#[test]
fn another_device() {
    let setup = Setup::new();
    let elsewhere = device();
    let plan = RoutePlan::new(&elsewhere, &Routing::new(EXPERTS, 2)).unwrap();
    let mut ids = setup.stream.alloc::<i32>(TOKENS * 2).unwrap();
    let mut weights = setup.stream.alloc::<f32>(TOKENS * 2).unwrap();
    let args = RouteArgs {
        logits: setup.logits.tensor([TOKENS, EXPERTS]).unwrap(),
        bias: None,
        shared_gate: None,
        ids: ids.tensor_mut([TOKENS, 2]).unwrap(),
        weights: weights.tensor_mut([TOKENS, 2]).unwrap(),
        status: &setup.status,
    };
    assert!(matches!(
        plan.run(&setup.stream, args),
        Err(MoeError::Operand(OperandError::Device {
            tensor: "stream",
            ..
        }))
    ));
}

#[test]
fn ids_with_gaps() {
    let setup = Setup::new();
    let plan = PermutePlan::new(&setup.device, &Experts::new(4, 0), 2, TOKENS).unwrap();
    let ids = setup.stream.alloc::<i32>(3 * TOKENS).unwrap();
    let mut order = setup.stream.alloc::<i32>(2 * TOKENS).unwrap();
    let mut offsets = setup.stream.alloc::<i32>(5).unwrap();
    let args = PermuteArgs {
        ids: ids.region().strided(0, [TOKENS, 2], [3, 1]).unwrap(),
        order: order.tensor_mut([2 * TOKENS]).unwrap(),
        offsets: offsets.tensor_mut([5]).unwrap(),
        workspace: None,
        status: &setup.status,
    };
    assert_eq!(
        plan.run(&setup.stream, args).unwrap_err().to_string(),
        "ids: expected stride 2 along axis 0, got 3"
    );
}

#[test]
fn what_scores_are_made_of_is_named() {
    // A printed plan says how tokens are routed.
    let routing = Routing::new(8, 2).scoring(Scoring::Sigmoid, true);
    let plan = RoutePlan::new(&device(), &routing).unwrap();
    assert_eq!(
        plan.to_string(),
        "moe_route: 2 of 8 experts and 0 shared, Sigmoid, 4 tokens a block"
    );
}
