//! Mixtral with random weights: eight experts in codes of 4 bits, of which each token has two.
//!
//! The kernels of mixtures take weights in 16 bits. Experts in 4 bits are composed of the same stages:
//! routing, sorting, a product for each expert that has rows, and adding up; the host reads where each
//! expert's rows begin.

use half::f16;
use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::elementwise::{EmbedArgs, EmbedPlan, EmbedProblem, NormWeight, Table};
use infer_kernels::gemm::Activation;
use infer_kernels::int4::{Int4Args, Int4Plan, Int4Problem, Int4Weight, Quantizer};
use infer_kernels::moe::{
    CombineArgs, CombinePlan, Experts, PermuteArgs, PermutePlan, RouteArgs, RoutePlan, Routing,
};
use infer_kernels::ptx_emulator::Checks;
use infer_kernels::{Buffer, DType, Float};
use std::error::Error;

use super::gemma::reference::norm;
use super::layers::{
    Attention, Cache, Host, Kernels, Matrix, Random, all, all_mut, exact, judge, product,
};
use super::{Outcome, device, furthest};

const HIDDEN: usize = 128;
const INNER: usize = 192;
const EPS: f32 = 1e-5;
const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 1,
    dim: 64,
};
const EXPERTS: usize = 8;
const SLOTS: usize = 2;
/// Tokens of a prompt, and of what follows one by one.
const TOKENS: [usize; 2] = [29, 2];

/// Gate, up and down.
struct Expert([Int4Weight; 3]);

struct Layer {
    attention: Attention,
    norms: [Vec<f32>; 2],
    /// To queries, keys and values, from attention's result.
    products: [Matrix; 4],
    router: Matrix,
    experts: Vec<Expert>,
}

impl Expert {
    fn random(random: &mut Random) -> Result<Expert, Box<dyn Error>> {
        let mut weight = |[k, n]: [usize; 2]| {
            let numbers = random.numbers(n * k, (k as f64).sqrt().recip());
            let numbers: Vec<f32> = numbers.into_iter().map(|x| x as f32).collect();
            Quantizer::new(DType::F16)
                .group(Some(32))
                .quantize(&numbers, n, k)
        };
        Ok(Expert([
            weight([HIDDEN, INNER])?,
            weight([HIDDEN, INNER])?,
            weight([INNER, HIDDEN])?,
        ]))
    }

    /// Rows of `x`, and of the result.
    fn run(&self, kernels: &Kernels, x: &[f16]) -> Result<Vec<f16>, Box<dyn Error>> {
        let [gate, up, down] = &self.0;
        let stream = &kernels.stream;
        let rows = x.len() / HIDDEN;
        let product = |x: &[f16], problem: Int4Problem, weights: [&Int4Weight; 2]| {
            let plan = Int4Plan::new(stream.device(), &problem)?;
            let (x, mut y) = (
                stream.upload(x)?,
                stream.alloc::<f16>(rows * problem.product.n)?,
            );
            let [w, up] = weights.map(|weight| weight.upload(stream));
            let (w, up) = (w?, up?);
            let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
            let shape = [rows, problem.product.k];
            let y_shape = [rows, problem.product.n];
            let args = Int4Args {
                w_up: problem.product.gated.then(|| up.tensors()),
                workspace: Some(all_mut(&mut workspace)?),
                ..Int4Args::new(x.tensor(shape)?, w.tensors(), y.tensor_mut(y_shape)?)
            };
            plan.run(stream, args)?;
            Ok::<_, Box<dyn Error>>(y.download()?)
        };
        let mut problem = Int4Problem::of(gate, rows);
        problem.product = problem.product.gated(true).activation(Activation::Silu);
        let inner = product(x, problem, [gate, up])?;
        product(&inner, Int4Problem::of(down, rows), [down, down])
    }
}

impl Layer {
    fn random(random: &mut Random) -> Result<Layer, Box<dyn Error>> {
        let (queries, keys) = (HEADS.query * HEADS.dim, HEADS.kv * HEADS.dim);
        let experts = (0..EXPERTS).map(|_| Expert::random(random));
        let experts = experts.collect::<Result<_, _>>()?;
        Ok(Layer {
            attention: Attention {
                heads: HEADS,
                scale: (HEADS.dim as f32).sqrt().recip(),
                softcap: None,
                window: None,
                base: 1e6,
            },
            norms: [0; 2].map(|_| random.weights(HIDDEN, 1.0)),
            products: [
                random.matrix([HIDDEN, queries]),
                random.matrix([HIDDEN, keys]),
                random.matrix([HIDDEN, keys]),
                random.matrix([queries, HIDDEN]),
            ],
            router: random.matrix([HIDDEN, EXPERTS]),
            experts,
        })
    }

    /// What the experts make of each token.
    fn mixture(&self, kernels: &Kernels, x: &Buffer<f16>) -> Result<Vec<f16>, Box<dyn Error>> {
        let (stream, status) = (&kernels.stream, &kernels.status);
        let (device, experts) = (stream.device(), Experts::new(EXPERTS, 0));
        let tokens = x.len() / HIDDEN;
        let pairs = tokens * SLOTS;
        let logits: Buffer<f32> = kernels.product(x, &self.router)?;
        let (mut ids, mut weights) = (stream.alloc::<i32>(pairs)?, stream.alloc::<f32>(pairs)?);
        let slots = [tokens, SLOTS];
        RoutePlan::new(device, &Routing::new(EXPERTS, SLOTS))?.run(
            stream,
            RouteArgs {
                logits: logits.tensor([tokens, EXPERTS])?,
                bias: None,
                shared_gate: None,
                ids: ids.tensor_mut(slots)?,
                weights: weights.tensor_mut(slots)?,
                status,
            },
        )?;
        let (mut order, mut offsets) = (
            stream.alloc::<i32>(pairs)?,
            stream.alloc::<i32>(EXPERTS + 1)?,
        );
        let permute = PermutePlan::new(device, &experts, SLOTS, tokens)?;
        let mut workspace = stream.alloc::<i32>(permute.workspace_elements())?;
        permute.run(
            stream,
            PermuteArgs {
                ids: ids.tensor(slots)?,
                order: all_mut(&mut order)?,
                offsets: all_mut(&mut offsets)?,
                workspace: Some(all_mut(&mut workspace)?),
                status,
            },
        )?;
        let order = order.download()?;
        let gather = |table: &[f16], rows: &[i32]| {
            let (table, rows) = (stream.upload(table)?, stream.upload(rows)?);
            let mut y = stream.alloc::<f16>(rows.len() * HIDDEN)?;
            let args = EmbedArgs {
                table: Table::Float(table.tensor([table.len() / HIDDEN, HIDDEN])?),
                ids: all(&rows)?,
                y: y.tensor_mut([rows.len(), HIDDEN])?,
                status,
            };
            EmbedPlan::new(device, &EmbedProblem::new(DType::F16, HIDDEN))?.run(stream, args)?;
            Ok::<_, Box<dyn Error>>(y.download()?)
        };
        let tokens_of: Vec<i32> = order.iter().map(|pair| pair / SLOTS as i32).collect();
        let sorted = gather(&x.download()?, &tokens_of)?;
        let mut parts = vec![];
        for (expert, ends) in self.experts.iter().zip(offsets.download()?.windows(2)) {
            let rows = &sorted[ends[0] as usize * HIDDEN..ends[1] as usize * HIDDEN];
            if !rows.is_empty() {
                parts.extend(expert.run(kernels, rows)?);
            }
        }
        let mut places = vec![0; pairs];
        for (place, &pair) in order.iter().enumerate() {
            places[pair as usize] = place as i32;
        }
        let parts = stream.upload(&gather(&parts, &places)?)?;
        let mut y = stream.alloc::<f16>(tokens * HIDDEN)?;
        let args = CombineArgs {
            parts: parts.tensor([pairs, HIDDEN])?,
            ids: ids.tensor(slots)?,
            weights: weights.tensor(slots)?,
            y: y.tensor_mut([tokens, HIDDEN])?,
        };
        CombinePlan::new(device, DType::F16, &experts, SLOTS, HIDDEN)?.run(stream, args)?;
        Ok(y.download()?)
    }

    /// The stream behind the layer.
    fn run(
        &self,
        kernels: &Kernels,
        cache: &mut Cache,
        stream: &[f16],
    ) -> Result<Vec<f16>, Box<dyn Error>> {
        let mut stream = kernels.stream.upload(stream)?;
        let [before, before_experts] = &self.norms;
        let [to_q, to_k, to_v, from_attention] = &self.products;
        let x = kernels.norm(&stream, None, before, NormWeight::Plain, EPS)?;
        let mut add_norm = |x: &Buffer<f16>, weight| {
            kernels.norm(x, Some(&mut stream), weight, NormWeight::Plain, EPS)
        };
        let qkv = [
            kernels.product(&x, to_q)?,
            kernels.product(&x, to_k)?,
            kernels.product(&x, to_v)?,
        ];
        let attended = kernels.attend(&self.attention, cache, qkv)?;
        let part = kernels.product(&attended, from_attention)?;
        let x = add_norm(&part, before_experts)?;
        let part = kernels.stream.upload(&self.mixture(kernels, &x)?)?;
        add_norm(&part, before)?; // The next layer's, which this test does not need.
        Ok(stream.download()?)
    }

    /// The same in f64, of all tokens of a sequence, with the best `slots` experts of each.
    fn reference(&self, host: Host, stream: &[f64], slots: usize) -> Vec<f64> {
        let norm = |x: &[f64], weight: &[f32]| host.round(norm(x, weight, EPS));
        let [before, before_experts] = &self.norms;
        let [to_q, to_k, to_v, from_attention] = &self.products;
        let x = norm(stream, before);
        let qkv = [to_q, to_k, to_v].map(|w| host.round(w.product(&x)));
        let attended = host.attend(&self.attention, qkv);
        let stream = host.add(stream, &host.round(from_attention.product(&attended)));
        let x = norm(&stream, before_experts);
        let logits = self.router.product(&x);
        let matrices: Vec<_> = self
            .experts
            .iter()
            .map(|Expert(weights)| weights.each_ref().map(Int4Weight::dequantize))
            .collect();
        // Those of 4 bits come as `[k, n]`.
        let times = |x: &[f64], w: &[f32], [k, n]: [usize; 2]| {
            product(x, [k, n], |at| f64::from(w[at % k * n + at / k]))
        };
        let mut parts = vec![];
        for (x, logits) in x.chunks(HIDDEN).zip(logits.chunks(EXPERTS)) {
            let mut best: Vec<usize> = (0..EXPERTS).collect();
            best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            best.truncate(slots);
            let sum: f64 = best.iter().map(|&expert| logits[expert].exp()).sum();
            let mut part = vec![0.0; HIDDEN];
            for expert in best {
                let [gate, up, down] = &matrices[expert];
                let gate = times(x, gate, [HIDDEN, INNER]);
                let up = times(x, up, [HIDDEN, INNER]);
                let inner = gate
                    .iter()
                    .zip(up)
                    .map(|(g, up)| g / (1.0 + (-g).exp()) * up);
                let of_expert = times(&host.round(inner.collect()), down, [INNER, HIDDEN]);
                let weight = logits[expert].exp() / sum;
                let of_expert = host.round(of_expert);
                part.iter_mut()
                    .zip(of_expert)
                    .for_each(|(sum, y)| *sum += weight * y);
            }
            parts.extend(host.round(part));
        }
        host.add(&stream, &parts)
    }
}

#[test]
fn layers_are_those_of_f64() -> Outcome {
    let kernels = Kernels::new(&device(Checks::ALL))?;
    let mut random = Random::new(3);
    let tokens: usize = TOKENS.iter().sum();
    let stream = random.numbers(tokens * HIDDEN, 1.0);
    let mut stream: Vec<f16> = stream.into_iter().map(f16::nearest).collect();
    for i in 0..2 {
        let layer = Layer::random(&mut random)?;
        let mut cache = kernels.cache(tokens, HEADS)?;
        let (prompt, rest) = stream.split_at(TOKENS[0] * HIDDEN);
        let mut got = layer.run(&kernels, &mut cache, prompt)?;
        for token in rest.chunks(HIDDEN) {
            got.extend(layer.run(&kernels, &mut cache, token)?);
        }
        kernels.status.read()?.into_result()?;
        let input = exact(&stream);
        let run = |rounded, slots| layer.reference(Host { rounded }, &input, slots);
        let of_f64 = run(false, SLOTS);
        let bound = judge(&format!("layer {i}"), &got, &of_f64, &run(true, SLOTS));
        let wrong = run(false, SLOTS - 1);
        assert!(
            furthest(wrong, &of_f64) > 2.0 * bound,
            "a fault went unnoticed"
        );
        stream = got;
    }
    Ok(())
}
