//! Gemma 2 with random weights: windows in every other layer, capped scores, norms before and behind
//! each part. (The cap of its logits keeps their order: greedy tokens do not need it.)

use half::f16;
use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::elementwise::NormWeight;
use infer_kernels::gemm::Activation;
use infer_kernels::ptx_emulator::Checks;
use infer_kernels::{Buffer, Float};

use super::gemma::reference::{gelu, norm};
use super::layers::{Attention, Cache, Host, Kernels, Matrix, Random, exact, judge};
use super::{Outcome, device, furthest};

const HIDDEN: usize = 96;
const INNER: usize = 160;
const EPS: f32 = 1e-6;
const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
/// Tokens of a prompt, and of what follows one by one.
const TOKENS: [usize; 2] = [37, 2];

struct Layer {
    attention: Attention,
    norms: [Vec<f32>; 4],
    /// To queries, keys and values, from attention's result.
    products: [Matrix; 4],
    /// Gate, up, down.
    feed_forward: [Matrix; 3],
}

impl Layer {
    fn random(random: &mut Random, window: Option<usize>) -> Layer {
        let (queries, keys) = (HEADS.query * HEADS.dim, HEADS.kv * HEADS.dim);
        Layer {
            attention: Attention {
                heads: HEADS,
                scale: (HIDDEN as f32 / HEADS.query as f32).sqrt().recip(),
                softcap: Some(5.0), // 50 in the model, whose scores are larger.
                window,
                base: 10_000.0,
            },
            norms: [0; 4].map(|_| random.weights(HIDDEN, 0.0)),
            products: [
                random.matrix([HIDDEN, queries]),
                random.matrix([HIDDEN, keys]),
                random.matrix([HIDDEN, keys]),
                random.matrix([queries, HIDDEN]),
            ],
            feed_forward: [
                random.matrix([HIDDEN, INNER]),
                random.matrix([HIDDEN, INNER]),
                random.matrix([INNER, HIDDEN]),
            ],
        }
    }

    /// The stream behind the layer.
    fn run(
        &self,
        kernels: &Kernels,
        cache: &mut Cache,
        stream: &[f16],
    ) -> Result<Vec<f16>, Box<dyn std::error::Error>> {
        let mut stream = kernels.stream.upload(stream)?;
        let norm =
            |x: &Buffer<f16>, weight| kernels.norm(x, None, weight, NormWeight::PlusOne, EPS);
        let [before, behind, before_inner, behind_inner] = &self.norms;
        let [to_q, to_k, to_v, from_attention] = &self.products;
        let x = norm(&stream, before)?;
        let mut add_norm = |x: &Buffer<f16>, weight| {
            kernels.norm(x, Some(&mut stream), weight, NormWeight::PlusOne, EPS)
        };
        let qkv = [
            kernels.product(&x, to_q)?,
            kernels.product(&x, to_k)?,
            kernels.product(&x, to_v)?,
        ];
        let attended = kernels.attend(&self.attention, cache, qkv)?;
        let part = norm(&kernels.product(&attended, from_attention)?, behind)?;
        let x = add_norm(&part, before_inner)?;
        let [gate, up, down] = &self.feed_forward;
        let inner = kernels.gated(&x, [gate, up], Activation::GeluTanh)?;
        let part = norm(&kernels.product(&inner, down)?, behind_inner)?;
        add_norm(&part, before)?; // The next layer's, which this test does not need.
        Ok(stream.download()?)
    }

    /// The same in f64, of all tokens of a sequence.
    fn reference(&self, host: Host, stream: &[f64]) -> Vec<f64> {
        let norm = |x: &[f64], weight: &[f32]| {
            let weight: Vec<f32> = weight.iter().map(|weight| 1.0 + weight).collect();
            host.round(norm(x, &weight, EPS))
        };
        let [before, behind, before_inner, behind_inner] = &self.norms;
        let [to_q, to_k, to_v, from_attention] = &self.products;
        let x = norm(stream, before);
        let qkv = [to_q, to_k, to_v].map(|w| host.round(w.product(&x)));
        let attended = host.attend(&self.attention, qkv);
        let part = norm(&host.round(from_attention.product(&attended)), behind);
        let stream = host.add(stream, &part);
        let x = norm(&stream, before_inner);
        let [gate, up, down] = &self.feed_forward;
        let gates = gate.product(&x);
        let inner = gates
            .iter()
            .zip(up.product(&x))
            .map(|(&g, up)| gelu(g) * up);
        let inner = host.round(inner.collect());
        host.add(
            &stream,
            &norm(&host.round(down.product(&inner)), behind_inner),
        )
    }
}

#[test]
fn layers_are_those_of_f64() -> Outcome {
    let kernels = Kernels::new(&device(Checks::ALL))?;
    let mut random = Random::new(2);
    let tokens: usize = TOKENS.iter().sum();
    let stream = random.numbers(tokens * HIDDEN, 1.0);
    let mut stream: Vec<f16> = stream.into_iter().map(f16::nearest).collect();
    for (i, window) in [Some(9), None, Some(9), None].into_iter().enumerate() {
        let layer = Layer::random(&mut random, window);
        let mut cache = kernels.cache(tokens, HEADS)?;
        let (prompt, rest) = stream.split_at(TOKENS[0] * HIDDEN);
        let mut got = layer.run(&kernels, &mut cache, prompt)?;
        for token in rest.chunks(HIDDEN) {
            got.extend(layer.run(&kernels, &mut cache, token)?);
        }
        kernels.status.read()?.into_result()?;
        let input = exact(&stream);
        let [of_f64, rounded] =
            [false, true].map(|rounded| layer.reference(Host { rounded }, &input));
        let bound = judge(&format!("layer {i}"), &got, &of_f64, &rounded);

        // Another window, and scores without a cap, would have been noticed.
        let mut other = layer;
        for planted in [
            Attention {
                window: Some(window.map_or(tokens - 1, |keys| keys + 1)),
                ..other.attention
            },
            Attention {
                softcap: None,
                ..other.attention
            },
        ] {
            let right = std::mem::replace(&mut other.attention, planted);
            let wrong = other.reference(Host { rounded: false }, &input);
            other.attention = right;
            assert!(
                furthest(wrong, &of_f64) > 2.0 * bound,
                "a fault went unnoticed"
            );
        }
        stream = got;
    }
    Ok(())
}
