//! From router logits to the experts of each token.

use std::fmt;

use super::check::{BoundLaunch, Check, Launches, Lie, Params, enqueue, optional};
use super::error::count;
use super::experts::{MOST_EXPERTS, MOST_SLOTS};
use super::params::RouteParams;
use super::{Experts, MoeError, entry};
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// What a token's logits are turned into before experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scoring {
    /// The softmax over all experts, then the choice: Qwen, DeepSeek-V2.
    Softmax,
    /// The choice, then the softmax over the chosen: Mixtral, gpt-oss.
    TopKSoftmax,
    /// `1/(1 + exp(-logit))`: DeepSeek-V3.
    Sigmoid,
}

/// Experts are chosen from the best groups only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Groups {
    /// Groups of equally many experts with neighbouring ids.
    pub count: usize,
    /// How many are chosen from.
    pub top: usize,
    /// What makes a group good.
    pub rank: GroupRank,
}

/// What makes a group of experts good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupRank {
    /// Its best expert: DeepSeek-V2.
    Best,
    /// The sum of its two best: DeepSeek-V3.
    SumOfTwo,
}

/// How tokens are routed.
///
/// Experts are chosen by their logits or, with [`Routing::bias`], by score plus bias; of equals, the
/// lower id is chosen. A token's experts are all different, whatever its logits are: NaN counts as
/// -inf, +inf as the largest finite number, and both are reported. If no logit is above -inf, that
/// is reported and all weights of chosen experts are 0.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Routing {
    /// Experts that a token may be routed to.
    pub experts: usize,
    /// Experts that each token is routed to.
    pub top_k: usize,
    /// What logits are turned into.
    pub scoring: Scoring,
    /// Whether there is a bias, added to scores for the choice but not for the weights.
    pub bias: bool,
    /// Whether experts are chosen from groups.
    pub groups: Option<Groups>,
    /// Whether the weights of the chosen are divided by their sum; below 1e-30 they become 0.
    pub renormalize: bool,
    /// What the weights of the chosen are multiplied by, last.
    pub scale: f32,
    /// Experts that every token goes to besides.
    pub shared: usize,
    /// Whether shared experts weigh the sigmoid of a number of the token's, instead of 1.
    pub shared_gate: bool,
    /// The type of logits: `f32`, `f16` or `bf16`.
    pub logits: DType,
}

impl Routing {
    /// The best `top_k` of `experts`, weighed by the softmax over these, from `f32` logits.
    pub fn new(experts: usize, top_k: usize) -> Routing {
        Routing {
            experts,
            top_k,
            scoring: Scoring::TopKSoftmax,
            bias: false,
            groups: None,
            renormalize: false,
            scale: 1.0,
            shared: 0,
            shared_gate: false,
            logits: DType::F32,
        }
    }

    /// With [`Routing::scoring`] and [`Routing::renormalize`] set.
    #[must_use]
    pub fn scoring(mut self, scoring: Scoring, renormalize: bool) -> Self {
        (self.scoring, self.renormalize) = (scoring, renormalize);
        self
    }

    /// With [`Routing::bias`] set.
    #[must_use]
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With [`Routing::groups`] set.
    #[must_use]
    pub fn groups(mut self, groups: Option<Groups>) -> Self {
        self.groups = groups;
        self
    }

    /// With [`Routing::scale`] set.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// With [`Routing::shared`] experts, and whether they have a gate.
    #[must_use]
    pub fn shared(mut self, shared: usize, gate: bool) -> Self {
        (self.shared, self.shared_gate) = (shared, gate);
        self
    }

    /// With [`Routing::logits`] set.
    #[must_use]
    pub fn logits(mut self, logits: DType) -> Self {
        self.logits = logits;
        self
    }

    /// Experts of a token: those that it is routed to, and the shared ones.
    pub fn slots(&self) -> usize {
        self.top_k + self.shared
    }

    /// All experts.
    pub fn all_experts(&self) -> Experts {
        Experts::new(self.experts, self.shared)
    }

    /// Whether the kernel routes so; if not, the reason.
    ///
    /// # Errors
    /// [`MoeError::UnsupportedDtype`], [`MoeError::Count`], [`MoeError::Groups`],
    /// [`MoeError::GroupChoice`], [`MoeError::ChoiceBias`], [`MoeError::Scale`].
    pub fn supports(&self) -> Result<(), MoeError> {
        const LOGITS: &[DType] = &[DType::F32, DType::F16, DType::BF16];
        if !LOGITS.contains(&self.logits) {
            return Err(MoeError::UnsupportedDtype {
                what: "logits",
                expected: LOGITS,
                got: self.logits,
            });
        }
        count("routed experts", self.experts, 1..=MOST_EXPERTS)?;
        count("top_k", self.top_k, 1..=MOST_SLOTS.min(self.experts))?;
        count("shared experts", self.shared, 0..=MOST_SLOTS)?;
        if self.bias && self.scoring == Scoring::TopKSoftmax {
            return Err(MoeError::ChoiceBias);
        }
        if !self.scale.is_finite() {
            return Err(MoeError::Scale { got: self.scale });
        }
        let Some(Groups {
            count: groups,
            top,
            rank,
        }) = self.groups
        else {
            return Ok(());
        };
        count("groups", groups, 1..=MOST_GROUPS)?;
        count("groups to choose from", top, 1..=groups)?;
        if !self.experts.is_multiple_of(groups) {
            return Err(MoeError::Groups {
                expected: self.experts,
                got: groups,
            });
        }
        let size = self.experts / groups;
        if rank == GroupRank::SumOfTwo {
            count("experts of a group ranked by two", size, 2..=MOST_EXPERTS)?;
        }
        if top * size < self.top_k {
            return Err(MoeError::GroupChoice {
                expected: self.top_k,
                got: top * size,
            });
        }
        Ok(())
    }
}

/// Groups of experts: a lane each.
const MOST_GROUPS: usize = 32;

/// Operands of [`RoutePlan::run`].
#[derive(Debug)]
pub struct RouteArgs<'a> {
    /// `[tokens, experts]`, of the planned type.
    pub logits: Tensor<'a, 2>,
    /// `[experts]`, `f32`, exactly if planned.
    pub bias: Option<Tensor<'a, 1>>,
    /// `[tokens]`, of the logits' type, exactly if planned.
    pub shared_gate: Option<Tensor<'a, 1>>,
    /// `[tokens, slots]`, `i32`, without gaps: the experts of each token, the best first, then the
    /// shared ones.
    pub ids: TensorMut<'a, 2>,
    /// `[tokens, slots]`, `f32`, without gaps: what they weigh.
    pub weights: TensorMut<'a, 2>,
    /// Where tokens with odd logits are reported.
    pub status: &'a StatusWord,
}

/// The routing kernel, loaded for a [`Routing`].
#[derive(Clone, Debug)]
pub struct RoutePlan {
    routing: Routing,
    kernel: Kernel,
}

impl RoutePlan {
    /// Loads the kernel, if it is not yet.
    ///
    /// # Errors
    /// What [`Routing::supports`] refuses, or [`MoeError::Device`].
    pub fn new(device: &Device, routing: &Routing) -> Result<Self, MoeError> {
        routing.supports()?;
        Ok(RoutePlan {
            routing: routing.clone(),
            kernel: device.kernel(entry("moe_route", "f32", "all"))?,
        })
    }

    /// What was planned.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates device memory,
    /// waits, loads or records an event.
    ///
    /// # Errors
    /// [`MoeError::Operand`], [`MoeError::Optional`], [`MoeError::Count`] for too many tokens;
    /// [`MoeError::Device`] when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: RouteArgs<'_>) -> Result<(), MoeError> {
        enqueue(&self.bind(stream, &args)?)
    }

    pub(crate) fn bind<'t>(
        &'t self,
        stream: &'t Stream,
        args: &'t RouteArgs<'_>,
    ) -> Result<Launches<'t>, MoeError> {
        let routing = &self.routing;
        let tokens = args.logits.shape()[0];
        count("tokens", tokens, 0..=MOST_PAIRS / routing.slots())?;
        let mut check = Check::new(self.device(), stream)?;
        let inputs = self.inputs(&mut check, tokens, args.logits, args.bias, args.shared_gate)?;
        let shape = [tokens, routing.slots()];
        let (ids, _) = check.write("ids", &args.ids, DType::I32, shape, Lie::Dense)?;
        let (weights, _) = check.write("weights", &args.weights, DType::F32, shape, Lie::Dense)?;
        let params = RouteParams {
            ids,
            weights,
            status: check.status(args.status)?,
            ..inputs
        };
        Ok(vec![self.launch(stream, params)])
    }

    /// What is read, checked.
    pub(super) fn inputs<'t>(
        &self,
        check: &mut Check<'t>,
        tokens: usize,
        logits: Tensor<'t, 2>,
        bias: Option<Tensor<'t, 1>>,
        shared_gate: Option<Tensor<'t, 1>>,
    ) -> Result<RouteParams, MoeError> {
        let routing = &self.routing;
        let (experts, dtype) = (routing.experts, routing.logits);
        let (logits, [logits_stride, _]) =
            check.read("logits", logits, dtype, [tokens, experts], Lie::Rows)?;
        let bias = match optional("bias", routing.bias, bias)? {
            Some(bias) => {
                check
                    .read("bias", bias, DType::F32, [experts], Lie::Dense)?
                    .0
            }
            None => 0,
        };
        let gate = optional("shared_gate", routing.shared_gate, shared_gate)?;
        let (shared_gate, [shared_gate_stride]) = match gate {
            Some(gate) => check.read("shared_gate", gate, dtype, [tokens], Lie::Anyhow)?,
            None => (0, [0]),
        };
        let groups = routing.groups.unwrap_or(Groups {
            count: 1,
            top: 1,
            rank: GroupRank::Best,
        });
        // All sizes are in range by what `supports` and `bind` checked.
        Ok(RouteParams {
            logits,
            bias,
            shared_gate,
            logits_stride,
            shared_gate_stride,
            tokens: tokens as i32,
            experts: experts as i32,
            top_k: routing.top_k as i32,
            shared: routing.shared as i32,
            groups: groups.count as i32,
            top_groups: groups.top as i32,
            group_by_two: i32::from(groups.rank == GroupRank::SumOfTwo),
            logits_type: match dtype {
                DType::F16 => 1,
                DType::BF16 => 2,
                _ => 0,
            },
            scoring: match routing.scoring {
                Scoring::Softmax => 0,
                Scoring::TopKSoftmax => 1,
                Scoring::Sigmoid => 2,
            },
            renormalize: i32::from(routing.renormalize),
            scale: routing.scale,
            ..RouteParams::default()
        })
    }

    pub(super) fn launch<'b>(&'b self, stream: &'b Stream, params: RouteParams) -> BoundLaunch<'b> {
        let blocks = (params.tokens as usize).div_ceil(self.kernel.entry().tile_q as usize);
        BoundLaunch::new(&self.kernel, stream, blocks, Params::Route(params))
    }
}

/// The most pairs of tokens and slots: their numbers, and rows past the end, fit 32 bits.
pub(super) const MOST_PAIRS: usize = i32::MAX as usize - (1 << 20);

impl fmt::Display for RoutePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Routing {
            experts,
            top_k,
            scoring,
            shared,
            ..
        } = self.routing;
        write!(
            f,
            "{}: {top_k} of {experts} experts and {shared} shared, {scoring:?}, {} tokens a block",
            self.kernel.entry().name,
            self.kernel.entry().tile_q
        )
    }
}
