//! A mixture of experts: models, operands, runs on a device, judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use std::error::Error;

use infer_kernels::gemm::{Activation, WeightLayout};
use infer_kernels::moe::{
    GroupRank, Groups, MoeArgs, MoePlan, MoeProblem, RouteArgs, RoutePlan, Routing, Scoring,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::moe::{
    MoeInputs, RouteInputs, Routed, layer, layer_rounded, route, weigh,
};
use infer_kernels::reference::tolerance::{Comparison, Margin, Rule};
use infer_kernels::{Buffer, DType, Device, Float, StatusReport, StatusWord};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// Experts, choice and routing of a model, its sizes scaled down.
pub struct Model {
    pub name: &'static str,
    pub routing: fn() -> Routing,
    pub activation: Activation,
    /// Whether products have biases, and gate and up take turns.
    pub gpt_oss: bool,
    pub hidden: usize,
    pub intermediate: usize,
}

pub const MODELS: [Model; 6] = [
    Model {
        name: "Mixtral 8x7B",
        routing: || Routing::new(8, 2),
        activation: Activation::Silu,
        gpt_oss: false,
        hidden: 72,
        intermediate: 40,
    },
    Model {
        // The shared expert is eight times as wide as the others.
        name: "Qwen2-57B-A14B",
        routing: || {
            Routing::new(64, 8)
                .scoring(Scoring::Softmax, false)
                .shared(8, true)
        },
        activation: Activation::Silu,
        gpt_oss: false,
        hidden: 24,
        intermediate: 16,
    },
    Model {
        name: "Qwen3-30B-A3B",
        routing: || Routing::new(128, 8).scoring(Scoring::Softmax, true),
        activation: Activation::Silu,
        gpt_oss: false,
        hidden: 40,
        intermediate: 24,
    },
    Model {
        name: "DeepSeek-V2-Lite",
        routing: || {
            Routing::new(64, 6)
                .scoring(Scoring::Softmax, false)
                .shared(2, false)
        },
        activation: Activation::Silu,
        gpt_oss: false,
        hidden: 32,
        intermediate: 24,
    },
    Model {
        name: "DeepSeek-V3",
        routing: || {
            Routing::new(256, 8)
                .scoring(Scoring::Sigmoid, true)
                .bias(true)
                .scale(2.5)
                .shared(1, false)
                .groups(Some(Groups {
                    count: 8,
                    top: 4,
                    rank: GroupRank::SumOfTwo,
                }))
        },
        activation: Activation::Silu,
        gpt_oss: false,
        hidden: 24,
        intermediate: 16,
    },
    Model {
        name: "gpt-oss-20b",
        routing: || Routing::new(32, 4),
        activation: Activation::ClampedSwiglu,
        gpt_oss: true,
        hidden: 40,
        intermediate: 40,
    },
];

impl Model {
    pub fn problem(&self, dtype: DType, max_tokens: usize) -> MoeProblem {
        let routing = (self.routing)();
        MoeProblem::new(dtype, routing, max_tokens, self.hidden, self.intermediate)
            .activation(self.activation, true)
    }
}

/// How tokens are spread over experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    Even,
    /// The i-th expert is about 1/i as popular as the first.
    Zipf,
    /// All prefer the same experts.
    One,
}

pub fn normal(rng: &mut StdRng) -> f64 {
    StandardNormal.sample(rng)
}

pub fn normals<T: Float>(rng: &mut StdRng, len: usize, scale: f64) -> Vec<T> {
    (0..len).map(|_| T::nearest(normal(rng) * scale)).collect()
}

/// Logits that spread tokens so.
pub fn logits<L: Float>(rng: &mut StdRng, tokens: usize, experts: usize, spread: Spread) -> Vec<L> {
    let popular = |expert: usize| match spread {
        Spread::Even => 0.0,
        Spread::Zipf => -((expert + 1) as f64).ln(),
        Spread::One => -4.0 * expert.min(16) as f64,
    };
    (0..tokens * experts)
        .map(|at| {
            // The largest of these, of Gumbel's distribution, is chosen in proportion to e^popular.
            let noise = -(-rng.random_range(1e-9..1.0f64).ln()).ln();
            L::nearest(popular(at % experts) + noise)
        })
        .collect()
}

/// Ids, weights and what was reported.
pub type Chosen = (Vec<i32>, Vec<f32>, StatusReport);

/// Logits, bias and gate for a routing.
pub struct Router<L> {
    pub routing: Routing,
    pub tokens: usize,
    pub logits: Vec<L>,
    pub bias: Option<Vec<f32>>,
    pub gate: Option<Vec<L>>,
}

impl<L: Float> Router<L> {
    pub fn random(rng: &mut StdRng, routing: Routing, tokens: usize, spread: Spread) -> Self {
        let experts = routing.experts;
        Router {
            tokens,
            logits: logits(rng, tokens, experts, spread),
            bias: routing.bias.then(|| normals(rng, experts, 0.1)),
            gate: routing.shared_gate.then(|| normals(rng, tokens, 1.0)),
            routing: routing.logits(L::DTYPE),
        }
    }

    pub fn inputs(&self) -> RouteInputs<'_, L> {
        let shape = [self.tokens, self.routing.experts];
        RouteInputs {
            logits: HostTensor::new(&self.logits, shape).unwrap(),
            bias: self.bias.as_ref().map(|bias| vector(bias)),
            shared_gate: self.gate.as_ref().map(|gate| vector(gate)),
        }
    }

    /// Ids and weights of all tokens, one after the other.
    pub fn run(&self, device: &Device) -> Result<Chosen, Box<dyn Error>> {
        let stream = device.stream();
        let plan = RoutePlan::new(device, &self.routing)?;
        let shape = [self.tokens, self.routing.slots()];
        let logits = stream.upload(&self.logits)?;
        let bias = upload(&stream, &self.bias)?;
        let gate = upload(&stream, &self.gate)?;
        let mut ids = stream.upload(&vec![-7i32; shape[0] * shape[1]])?;
        let mut weights = stream.upload(&vec![-7f32; shape[0] * shape[1]])?;
        let status = StatusWord::new(&stream)?;
        let args = RouteArgs {
            logits: logits.tensor([self.tokens, self.routing.experts])?,
            bias: bias.as_ref().map(|b| b.tensor([b.len()])).transpose()?,
            shared_gate: gate.as_ref().map(|g| g.tensor([g.len()])).transpose()?,
            ids: ids.tensor_mut(shape)?,
            weights: weights.tensor_mut(shape)?,
            status: &status,
        };
        plan.run(&stream, args)?;
        Ok((ids.download()?, weights.download()?, status.read()?))
    }

    /// Judges ids and weights: ids are those of the reference but for choices so close that f32
    /// cannot tell them apart; weights are those of the ids.
    pub fn judge(&self, ids: &[i32], weights: &[f32]) {
        let (slots, top_k) = (self.routing.slots(), self.routing.top_k);
        for (token, expected) in route(&self.routing, self.inputs()).iter().enumerate() {
            let ids = &ids[token * slots..][..slots];
            let weights = &weights[token * slots..][..slots];
            self.judge_ids(token, ids, expected);
            let mut exact = weigh(&self.routing, &expected.scores, &ids[..top_k]);
            exact.extend(&expected.weights[top_k..]);
            // Scores of the chosen are exponentials too, and may be tiny however much they weigh in the end.
            let least = match self.routing.scoring {
                Scoring::TopKSoftmax => 1.0,
                _ => ids[..top_k]
                    .iter()
                    .map(|&id| expected.scores[id as usize])
                    .fold(1.0, f64::min),
            };
            for slot in 0..slots {
                let (got, exact) = (f64::from(weights[slot]), exact[slot]);
                let error = (got - exact).abs();
                // The power that an exponential is taken of is itself rounded; tiny results become 0.
                let power = |x: f64| x.clamp(1e-37, 1.0).ln().abs();
                let relative = 1e-6 + 1.2e-7 * power(exact).max(power(least));
                assert!(
                    error <= relative * exact + 1e-36,
                    "token {token} slot {slot}: weight {got}, should be {exact}"
                );
            }
        }
    }

    fn judge_ids(&self, token: usize, ids: &[i32], expected: &Routed) {
        let top_k = self.routing.top_k;
        if ids == expected.ids {
            return;
        }
        // Sums of scores and biases are rounded; logits are compared as they are.
        assert!(
            self.bias.is_some() || self.routing.groups.is_some(),
            "token {token}: {ids:?}, should be {:?}",
            expected.ids
        );
        assert_eq!(ids[top_k..], expected.ids[top_k..], "token {token}: shared");
        let mut distinct = ids[..top_k].to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), top_k, "token {token}: {ids:?}");
        for slot in 0..top_k {
            let choice = |id: i32| expected.choice[id as usize];
            let (got, exact) = (choice(ids[slot]), choice(expected.ids[slot]));
            assert!(
                got == exact || (got - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                "token {token} slot {slot}: {ids:?}, should be {:?}",
                expected.ids
            );
        }
    }
}

/// A layer with its operands.
pub struct Case<T> {
    pub problem: MoeProblem,
    pub router: Router<f32>,
    pub x: Vec<T>,
    pub w_gate: Vec<T>,
    pub w_up: Vec<T>,
    pub w_down: Vec<T>,
    /// Of gate, up and down.
    pub biases: Option<[Vec<T>; 3]>,
    /// Gate and up take turns in one tensor.
    pub interleaved: bool,
}

impl<T: Float> Case<T> {
    pub fn random(seed: u64, problem: MoeProblem, tokens: usize, spread: Spread) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let here = problem.experts().here();
        let (hidden, intermediate) = (problem.hidden, problem.intermediate);
        let router = Router::random(rng, problem.routing.clone(), tokens, spread);
        let scale = |k: usize| 1.5 / (k as f64).sqrt();
        let len = here * hidden * intermediate;
        Case {
            x: normals(rng, tokens * hidden, 1.0),
            w_gate: normals(rng, len, scale(hidden)),
            w_up: normals(rng, len, scale(hidden)),
            w_down: normals(rng, len, scale(intermediate)),
            biases: None,
            interleaved: false,
            router,
            problem,
        }
    }

    pub fn of_model(seed: u64, model: &Model, tokens: usize, spread: Spread) -> Self {
        let problem = model.problem(T::DTYPE, tokens);
        let mut case = Case::random(seed, problem, tokens, spread);
        if model.gpt_oss {
            case.add_biases(seed);
            case.interleaved = true;
        }
        case
    }

    pub fn add_biases(&mut self, seed: u64) {
        let rng = &mut StdRng::seed_from_u64(!seed);
        let here = self.problem.experts().here();
        let (hidden, intermediate) = (self.problem.hidden, self.problem.intermediate);
        self.biases = Some([
            normals(rng, here * intermediate, 0.5),
            normals(rng, here * intermediate, 0.5),
            normals(rng, here * hidden, 0.5),
        ]);
    }

    /// Shapes of the first weights and of the second.
    fn shapes(&self) -> [[usize; 3]; 2] {
        let here = self.problem.experts().here();
        let (hidden, intermediate) = (self.problem.hidden, self.problem.intermediate);
        match self.problem.layout {
            WeightLayout::Nk => [[here, intermediate, hidden], [here, hidden, intermediate]],
            WeightLayout::Kn => [[here, hidden, intermediate], [here, intermediate, hidden]],
        }
    }

    pub fn inputs(&self) -> MoeInputs<'_, T> {
        let here = self.problem.experts().here();
        let (hidden, intermediate) = (self.problem.hidden, self.problem.intermediate);
        let [first, second] = self.shapes();
        let bias = |which: usize, n: usize| {
            let biases = self.biases.as_ref()?;
            Some(HostTensor::new(&biases[which], [here, n]).unwrap())
        };
        MoeInputs {
            x: HostTensor::new(&self.x, [self.router.tokens, hidden]).unwrap(),
            w_gate: HostTensor::new(&self.w_gate, first).unwrap(),
            w_up: self
                .problem
                .gated
                .then(|| HostTensor::new(&self.w_up, first).unwrap()),
            w_down: HostTensor::new(&self.w_down, second).unwrap(),
            bias_gate: bias(0, intermediate),
            bias_up: bias(1, intermediate).filter(|_| self.problem.gated),
            bias_down: bias(2, hidden),
        }
    }

    /// Rows of `unit` elements of both, in turns.
    fn take_turns(a: &[T], b: &[T], unit: usize) -> Vec<T> {
        let rows = a.chunks(unit.max(1)).zip(b.chunks(unit.max(1))); // 0: no expert here
        rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
    }

    /// The layer's output, and what was reported. `max_tokens` may exceed the case's.
    pub fn run(&self, device: &Device) -> Result<(Vec<T>, StatusReport), Box<dyn Error>> {
        let stream = device.stream();
        let plan = MoePlan::new(device, &self.problem)?;
        let tokens = self.router.tokens;
        let here = self.problem.experts().here();
        let (hidden, intermediate) = (self.problem.hidden, self.problem.intermediate);
        let [first, second] = self.shapes();
        let gated = self.problem.gated;
        let x = stream.upload(&self.x)?;
        let logits = stream.upload(&self.router.logits)?;
        let choice_bias = upload(&stream, &self.router.bias)?;
        let gate = upload(&stream, &self.router.gate)?;
        // Gate and up in one buffer, as rows that take turns or one after the other.
        let unit = if self.interleaved {
            hidden
        } else {
            self.w_gate.len().max(1)
        };
        let both = stream.upload(&Self::take_turns(&self.w_gate, &self.w_up, unit))?;
        let (strides, up_at) = match self.interleaved {
            true => ([2 * first[1] * first[2], 2 * first[2], 1], hidden),
            false => ([first[1] * first[2], first[2], 1], self.w_gate.len()),
        };
        let strides = strides.map(|stride| stride as i64);
        let down = stream.upload(&self.w_down)?;
        let unit = if self.interleaved {
            1
        } else {
            here * intermediate
        };
        let first_biases = self.biases.as_ref();
        let first_biases = first_biases.map(|[g, u, _]| Self::take_turns(g, u, unit));
        let first_biases = upload(&stream, &first_biases)?;
        let (bias_strides, bias_up_at) = match self.interleaved {
            true => ([2 * intermediate as i64, 2], 1),
            false => ([intermediate as i64, 1], here * intermediate),
        };
        let down_bias = self.biases.as_ref().map(|biases| biases[2].clone());
        let down_bias = upload(&stream, &down_bias)?;
        let untouched = T::nearest(f64::NAN);
        let mut y = stream.upload(&vec![untouched; tokens * hidden])?;
        // What is left over in the workspace must not matter.
        let mut workspace = stream.upload(&vec![0xa5u8; plan.workspace_bytes()])?;
        let status = StatusWord::new(&stream)?;
        let bias = |at| {
            let shape = [here, intermediate];
            first_biases
                .as_ref()
                .map(|buffer| buffer.region().strided(at, shape, bias_strides))
                .transpose()
        };
        let args = MoeArgs {
            choice_bias: choice_bias
                .as_ref()
                .map(|b| b.tensor([b.len()]))
                .transpose()?,
            shared_gate: gate.as_ref().map(|g| g.tensor([g.len()])).transpose()?,
            w_up: match gated {
                true => Some(both.region().strided(up_at, first, strides)?),
                false => None,
            },
            bias_gate: bias(0)?,
            bias_up: if gated { bias(bias_up_at)? } else { None },
            bias_down: down_bias
                .as_ref()
                .map(|b| b.tensor([here, hidden]))
                .transpose()?,
            ..MoeArgs::new(
                x.tensor([tokens, hidden])?,
                logits.tensor([tokens, self.problem.routing.experts])?,
                both.region().strided(0, first, strides)?,
                down.tensor(second)?,
                y.tensor_mut([tokens, hidden])?,
                workspace.tensor_mut([plan.workspace_bytes()])?,
                &status,
            )
        };
        plan.run(&stream, args)?;
        Ok((y.download()?, status.read()?))
    }

    /// Runs the layer, and its routing alone; judges every element.
    pub fn check(&self, device: &Device) -> Result<Margin, Box<dyn Error>> {
        let (ids, weights, _) = self.router.run(device)?;
        self.router.judge(&ids, &weights);
        let (y, status) = self.run(device)?;
        status.into_result()?;
        self.judge(&ids, &weights, &y)
    }

    pub fn judge(&self, ids: &[i32], weights: &[f32], y: &[T]) -> Result<Margin, Box<dyn Error>> {
        let exact = layer(&self.problem, ids, weights, self.inputs());
        let rounded = layer_rounded(&self.problem, ids, weights, self.inputs());
        let steps = (self.problem.hidden + self.problem.intermediate).div_ceil(16) + 16;
        Ok(Comparison {
            got: y,
            exact: &exact.y,
            rounded: &rounded.y,
            terms: &exact.terms,
            allowed: &vec![0.0; y.len()],
        }
        .judge(Rule::truncated(steps).in_rows_of(self.problem.hidden))?)
    }
}

fn vector<T: Float>(data: &[T]) -> HostTensor<'_, T, 1> {
    HostTensor::new(data, [data.len()]).unwrap()
}

fn upload<T: Float>(
    stream: &infer_kernels::Stream,
    data: &Option<Vec<T>>,
) -> Result<Option<Buffer<T>>, infer_kernels::DeviceError> {
    data.as_ref().map(|data| stream.upload(data)).transpose()
}
