//! The whole layer.

use std::fmt;
use std::ops::Range;

use super::check::{Check, Launches, Lie, enqueue};
use super::error::count;
use super::grouped::{CHUNK, Weights};
use super::params::{CombineParams, GroupedParams, PermuteParams, RouteParams};
use super::{
    CombinePlan, Direction, Experts, GroupedPlan, GroupedProblem, MoeError, PermutePlan, RoutePlan,
    Routing,
};
use crate::device::{Device, Stream};
use crate::dtype::DType;
use crate::gemm::{Activation, WeightLayout};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// A mixture of experts to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MoeProblem {
    /// The type of `x`, weights, biases and `y`: `f16` or `bf16`.
    pub dtype: DType,
    /// How tokens find their experts.
    pub routing: Routing,
    /// The routed experts that are on this device; `None`: all.
    pub local: Option<Range<usize>>,
    /// Tokens: no call has more.
    pub max_tokens: usize,
    /// Columns of `x` and `y`, a multiple of 8.
    pub hidden: usize,
    /// Columns between an expert's two products, a multiple of 8.
    pub intermediate: usize,
    /// How an expert's weights are stored.
    pub layout: WeightLayout,
    /// What is applied to the first product, the gate where there is one.
    pub activation: Activation,
    /// Whether the first product has a gate.
    pub gated: bool,
    /// Whether a token's bits must not depend on what else is in the call, nor on the device: the
    /// second product's K is then never split, which costs up to 16 tokens some parallelism.
    pub batch_invariant: bool,
    /// Rows of a tile; `None` leaves it to the plan.
    pub tile: Option<usize>,
}

impl MoeProblem {
    /// A layer of experts with SwiGLU.
    pub fn new(
        dtype: DType,
        routing: Routing,
        max_tokens: usize,
        hidden: usize,
        intermediate: usize,
    ) -> Self {
        MoeProblem {
            dtype,
            routing,
            local: None,
            max_tokens,
            hidden,
            intermediate,
            layout: WeightLayout::Nk,
            activation: Activation::Silu,
            gated: true,
            batch_invariant: false,
            tile: None,
        }
    }

    /// With [`MoeProblem::local`] set.
    #[must_use]
    pub fn local(mut self, local: Option<Range<usize>>) -> Self {
        self.local = local;
        self
    }

    /// With [`MoeProblem::layout`] set.
    #[must_use]
    pub fn layout(mut self, layout: WeightLayout) -> Self {
        self.layout = layout;
        self
    }

    /// With [`MoeProblem::activation`] and [`MoeProblem::gated`] set.
    #[must_use]
    pub fn activation(mut self, activation: Activation, gated: bool) -> Self {
        (self.activation, self.gated) = (activation, gated);
        self
    }

    /// With [`MoeProblem::batch_invariant`] set.
    #[must_use]
    pub fn batch_invariant(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// With [`MoeProblem::tile`] set, for those who measured.
    #[must_use]
    pub fn tile(mut self, tile: Option<usize>) -> Self {
        self.tile = tile;
        self
    }

    /// The experts, and which of them are on this device.
    pub fn experts(&self) -> Experts {
        let all = self.routing.all_experts();
        match &self.local {
            Some(local) => all.local(local.clone()),
            None => all,
        }
    }

    /// Whether there are kernels for this layer; if not, the reason.
    ///
    /// # Errors
    /// As for the stages: [`Routing::supports`], [`GroupedProblem::supports`], and
    /// [`MoeError::Local`].
    pub fn supports(&self) -> Result<(), MoeError> {
        self.routing.supports()?;
        self.experts().check()?;
        count("hidden", self.hidden, 1..=i32::MAX as usize)?;
        self.up().supports()?;
        self.down().supports()
    }

    fn up(&self) -> GroupedProblem {
        let shape = [self.experts().here(), self.intermediate, self.hidden];
        self.product(Direction::Up, shape)
            .activation(self.activation, self.gated)
    }

    fn down(&self) -> GroupedProblem {
        let shape = [self.experts().here(), self.hidden, self.intermediate];
        self.product(Direction::Down, shape)
    }

    fn product(&self, direction: Direction, shape: [usize; 3]) -> GroupedProblem {
        let slots = self.routing.slots();
        GroupedProblem::new(self.dtype, direction, shape, self.max_tokens, slots)
            .layout(self.layout)
            .tile(self.tile)
    }
}

/// Operands of [`MoePlan::run`]. `here` are the experts of this device: see [`Experts`].
#[derive(Debug)]
pub struct MoeArgs<'a> {
    /// `[tokens, hidden]`, rows at multiples of 16 bytes.
    pub x: Tensor<'a, 2>,
    /// `[tokens, experts]`, of the planned type.
    pub logits: Tensor<'a, 2>,
    /// `[experts]`, `f32`, exactly if planned: added to scores for the choice.
    pub choice_bias: Option<Tensor<'a, 1>>,
    /// `[tokens]`, of the logits' type, exactly if planned.
    pub shared_gate: Option<Tensor<'a, 1>>,
    /// `[here, intermediate, hidden]`, or `[here, hidden, intermediate]` for [`WeightLayout::Kn`]:
    /// of the gate, or of the one first product. Rows at multiples of 16 bytes.
    pub w_gate: Tensor<'a, 3>,
    /// The same of the up product, exactly if gated, with the strides of `w_gate`: both may be
    /// halves of one tensor, or every other row of it.
    pub w_up: Option<Tensor<'a, 3>>,
    /// `[here, hidden, intermediate]`, or `[here, intermediate, hidden]`.
    pub w_down: Tensor<'a, 3>,
    /// `[here, intermediate]`, with any strides.
    pub bias_gate: Option<Tensor<'a, 2>>,
    /// `[here, intermediate]`, with the strides of `bias_gate`.
    pub bias_up: Option<Tensor<'a, 2>>,
    /// `[here, hidden]`, with any strides.
    pub bias_down: Option<Tensor<'a, 2>>,
    /// The result, `[tokens, hidden]`, rows at multiples of 16 bytes.
    pub y: TensorMut<'a, 2>,
    /// At least [`MoePlan::workspace_bytes`] of `u8`, at a multiple of 16; its contents do not matter.
    pub workspace: TensorMut<'a, 1>,
    /// Where odd logits are reported.
    pub status: &'a StatusWord,
}

impl<'a> MoeArgs<'a> {
    /// Operands without anything optional.
    pub fn new(
        x: Tensor<'a, 2>,
        logits: Tensor<'a, 2>,
        w_gate: Tensor<'a, 3>,
        w_down: Tensor<'a, 3>,
        y: TensorMut<'a, 2>,
        workspace: impl Into<TensorMut<'a, 1>>,
        status: &'a StatusWord,
    ) -> Self {
        MoeArgs {
            x,
            logits,
            choice_bias: None,
            shared_gate: None,
            w_gate,
            w_up: None,
            w_down,
            bias_gate: None,
            bias_up: None,
            bias_down: None,
            y,
            workspace: workspace.into(),
            status,
        }
    }
}

/// Kernels chosen and loaded for a [`MoeProblem`]: all stages with one workspace. Prints what it
/// will launch.
///
/// A plan holds no operands: it serves every layer of its shape, and every number of tokens up to
/// the planned one.
#[derive(Clone, Debug)]
pub struct MoePlan {
    problem: MoeProblem,
    route: RoutePlan,
    permute: PermutePlan,
    up: GroupedPlan,
    down: GroupedPlan,
    combine: CombinePlan,
    layout: Workspace,
}

/// Where in the workspace each stage leaves its results: offsets in bytes.
#[derive(Clone, Debug, Default)]
struct Workspace {
    ids: u64,
    weights: u64,
    order: u64,
    offsets: u64,
    counts: u64,
    rows: u64,
    parts: u64,
    bytes: usize,
}

impl MoePlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`MoeProblem::supports`] refuses, or [`MoeError::Device`].
    pub fn new(device: &Device, problem: &MoeProblem) -> Result<Self, MoeError> {
        problem.supports()?;
        let MoeProblem {
            dtype,
            ref routing,
            max_tokens,
            hidden,
            ..
        } = *problem;
        let (experts, slots) = (problem.experts(), routing.slots());
        let mut plan = MoePlan {
            problem: problem.clone(),
            route: RoutePlan::new(device, routing)?,
            permute: PermutePlan::new(device, &experts, slots, max_tokens)?,
            up: GroupedPlan::new(device, &problem.up())?,
            down: GroupedPlan::new(device, &problem.down())?,
            combine: CombinePlan::new(device, dtype, &experts, slots, hidden)?,
            layout: Workspace::default(),
        };
        count("tokens", max_tokens, 0..=plan.combine.most_tokens())?;
        plan.layout = plan.lay_out()?;
        Ok(plan)
    }

    /// What was planned.
    pub fn problem(&self) -> &MoeProblem {
        &self.problem
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.route.device()
    }

    /// Bytes of workspace that [`MoePlan::run`] needs, exactly.
    pub fn workspace_bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Bytes of the weights of one expert.
    pub fn expert_bytes(&self) -> u128 {
        let MoeProblem {
            dtype,
            hidden,
            intermediate,
            gated,
            ..
        } = self.problem;
        let products = if gated { 3 } else { 2 };
        products * hidden as u128 * intermediate as u128 * dtype.size() as u128
    }

    /// Into how many ranges the second product's K is split for so many tokens: so many that few
    /// tiles still occupy the device.
    pub fn splits(&self, tokens: usize) -> usize {
        if self.problem.batch_invariant || tokens > SPLIT_TOKENS {
            return 1;
        }
        let tiles = self.down.most_tiles(tokens, 1).max(1);
        let most = (self.problem.intermediate / LEAST_RANGE).clamp(1, MOST_RANGES);
        (self.down.resident(tokens) / tiles).clamp(1, most)
    }

    /// Checks every operand, then enqueues five or six kernels on `stream`. Never allocates device
    /// memory, waits, loads or records an event.
    ///
    /// # Errors
    /// [`MoeError::Operand`], [`MoeError::Tokens`], [`MoeError::Optional`], [`MoeError::Strides`],
    /// [`MoeError::Workspace`]; [`MoeError::Device`] when a launch fails, or the stream is recording
    /// a graph.
    pub fn run(&self, stream: &Stream, args: MoeArgs<'_>) -> Result<(), MoeError> {
        enqueue(&self.bind(stream, &args)?)
    }

    pub(crate) fn bind<'t>(
        &'t self,
        stream: &'t Stream,
        args: &'t MoeArgs<'_>,
    ) -> Result<Launches<'t>, MoeError> {
        let MoeProblem {
            dtype,
            hidden,
            intermediate,
            max_tokens,
            ..
        } = self.problem;
        let tokens = args.x.shape()[0];
        if tokens > max_tokens {
            return Err(MoeError::Tokens {
                tensor: "x",
                expected: max_tokens,
                got: tokens,
            });
        }
        let mut check = Check::new(self.device(), stream)?;
        let shape = [tokens, hidden];
        let (x, [x_stride, _]) = check.read("x", args.x, dtype, shape, Lie::Aligned)?;
        let (logits, bias, gate) = (args.logits, args.choice_bias, args.shared_gate);
        let routed = self.route.inputs(&mut check, tokens, logits, bias, gate)?;
        let first = Weights {
            w: args.w_gate,
            w_up: args.w_up,
            bias: args.bias_gate,
            bias_up: args.bias_up,
        };
        let names = ["w_gate", "w_up", "bias_gate", "bias_up"];
        let first = self.up.weights(&mut check, first, names)?;
        let second = Weights {
            w: args.w_down,
            w_up: None,
            bias: args.bias_down,
            bias_up: None,
        };
        let names = ["w_down", "w_up", "bias_down", "bias_up"];
        let second = self.down.weights(&mut check, second, names)?;
        let (y, [y_stride, _]) = check.write("y", &args.y, dtype, shape, Lie::Aligned)?;
        let workspace = Some(&args.workspace);
        let base = check.workspace(workspace, DType::U8, self.workspace_bytes())?;
        let status = check.status(args.status)?;

        let at = |offset: u64| base + offset;
        let place = &self.layout;
        let splits = self.splits(tokens);
        let [ids, weights, order, offsets] =
            [place.ids, place.weights, place.order, place.offsets].map(at);
        let mut launches = vec![self.route.launch(
            stream,
            RouteParams {
                ids,
                weights,
                status,
                ..routed
            },
        )];
        let permute = PermuteParams {
            ids,
            order,
            offsets,
            counts: at(place.counts),
            status,
            ..PermuteParams::default()
        };
        launches.extend(self.permute.launches(stream, tokens, permute));
        let up = GroupedParams {
            x,
            x_stride,
            y: at(place.rows),
            y_stride: intermediate as i64,
            splits: 1,
            y_is_f32: 0,
            order,
            offsets,
            status,
            ..first
        };
        launches.push(self.up.launch(stream, tokens, up));
        let down = GroupedParams {
            x: at(place.rows),
            x_stride: intermediate as i64,
            y: at(place.parts),
            y_stride: hidden as i64,
            splits: splits as i32,
            y_is_f32: i32::from(splits > 1),
            order,
            offsets,
            status,
            ..second
        };
        launches.push(self.down.launch(stream, tokens, down));
        let combine = CombineParams {
            parts: at(place.parts),
            ids,
            weights,
            y,
            y_stride,
            tokens: tokens as i32,
            splits: splits as i32,
            parts_are_f32: i32::from(splits > 1),
            ..CombineParams::default()
        };
        launches.push(self.combine.launch(stream, combine));
        Ok(launches)
    }

    /// Room for every stage's results, for any number of tokens up to the planned one.
    fn lay_out(&self) -> Result<Workspace, MoeError> {
        let MoeProblem {
            dtype,
            ref routing,
            max_tokens,
            hidden,
            intermediate,
            ..
        } = self.problem;
        let pairs = max_tokens as u128 * routing.slots() as u128;
        // Fewer tokens may be split, into parts of f32.
        let split = (1..=max_tokens.min(SPLIT_TOKENS))
            .map(|tokens| (self.splits(tokens), tokens))
            .filter(|&(splits, _)| splits > 1)
            .map(|(splits, tokens)| 4 * (splits * tokens * routing.slots()) as u128)
            .max()
            .unwrap_or(0);
        let row_bytes = (dtype.size() as u128 * pairs).max(split);
        let mut bytes = 0u128;
        let mut room = |size: u128| {
            let at = bytes;
            bytes += size.next_multiple_of(ALIGNMENT);
            at as u64
        };
        let mut workspace = Workspace {
            ids: room(4 * pairs),
            weights: room(4 * pairs),
            order: room(4 * pairs),
            offsets: room(4 * (self.problem.experts().here() as u128 + 1)),
            counts: room(4 * self.permute.workspace_elements() as u128),
            rows: room(dtype.size() as u128 * pairs * intermediate as u128),
            parts: room(row_bytes * hidden as u128),
            bytes: 0,
        };
        let got = usize::try_from(bytes).unwrap_or(usize::MAX);
        count("bytes of workspace", got, 0..=MOST_WORKSPACE)?;
        workspace.bytes = got;
        Ok(workspace)
    }
}

/// The second product's K is split with up to so many tokens.
const SPLIT_TOKENS: usize = 16;
/// A range of K is no shorter than this.
const LEAST_RANGE: usize = 512;
/// More ranges cost more in sums than they gain.
const MOST_RANGES: usize = 8;
/// What lies in the workspace begins at multiples of a line of the cache and of a chunk.
const ALIGNMENT: u128 = 128;
const _: () = assert!(ALIGNMENT.is_multiple_of(2 * CHUNK as u128));
/// A terabyte, far from where sizes overflow.
const MOST_WORKSPACE: usize = 1 << 40;

impl fmt::Display for MoePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MoeProblem {
            dtype,
            max_tokens,
            hidden,
            intermediate,
            batch_invariant,
            ..
        } = self.problem;
        writeln!(
            f,
            "at most {max_tokens} tokens of {hidden}, experts of {intermediate}, {dtype}{}, {} bytes of workspace on {}",
            if batch_invariant {
                ", batch-invariant"
            } else {
                ""
            },
            self.workspace_bytes(),
            self.device()
        )?;
        writeln!(f, "  {}", self.route)?;
        writeln!(f, "  {}", self.permute)?;
        writeln!(f, "  {}", self.up)?;
        writeln!(f, "  {}", self.down)?;
        write!(f, "  {}", self.combine)
    }
}
