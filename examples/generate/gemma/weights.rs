//! A model's weights, as they are in a GGUF file.

use std::error::Error;

use half::f16;
use infer_kernels::blocks::{BlockFormat, BlockWeight};
use infer_kernels::gguf::{GgufError, GgufFile, TensorType};

use super::config::Config;

/// Everything that a model consists of, on the host.
pub struct Model {
    pub config: Config,
    pub layers: Vec<Layer>,
    /// Weights of the last norm, `[hidden]`.
    pub norm: Vec<f32>,
    /// Embeddings, and what gives logits: `[hidden, vocab]`.
    pub embedding: BlockWeight,
}

/// The weights of a layer. Those of norms are in `f32`, and 1 has been added to them.
pub struct Layer {
    /// Before attention, behind it, before the feed-forward layer, behind it: `[hidden]` each.
    pub norms: [Vec<f32>; 4],
    /// Of each head of queries and of keys, `[dim]` each.
    pub head_norms: [Vec<f32>; 2],
    /// To queries, keys and values, from attention's result.
    pub attention: [BlockWeight; 4],
    /// Gate, up, down.
    pub feed_forward: [BlockWeight; 3],
}

impl Model {
    /// All weights of a file, each matrix in its own format.
    pub fn of(file: &GgufFile<'_>) -> Result<Model, Box<dyn Error>> {
        Model::with(file, Config::of(file)?)
    }

    /// As many layers and tokens of it, the first ones, as the configuration says.
    pub fn with(file: &GgufFile<'_>, config: Config) -> Result<Model, Box<dyn Error>> {
        let layers = (0..config.layers).map(|i| Layer::of(file, &config, i));
        let table = file.tensor("token_embd.weight")?;
        let TensorType::Blocks(format) = table.dtype else {
            return Err(format!("embeddings are {}, expected blocks", table.dtype).into());
        };
        let bytes = config.vocab * config.hidden / format.rows() * format.bytes();
        let bytes = table.bytes.get(..bytes).ok_or("embeddings are too few")?;
        Ok(Model {
            layers: layers.collect::<Result<_, _>>()?,
            norm: file.floats("output_norm.weight", &[config.hidden])?,
            embedding: BlockWeight::pack(format, config.hidden, config.vocab, bytes)?,
            config,
        })
    }

    /// The embeddings, a row for each token: codes in 8 bits, and scales for groups of 32.
    pub fn embedding_rows(&self) -> Result<(Vec<i8>, Vec<f16>), Box<dyn Error>> {
        let table = &self.embedding;
        if table.format() != BlockFormat::Q8_0 {
            return Err(format!("embeddings are {}, expected Q8_0", table.format()).into());
        }
        let (hidden, vocab) = (table.k(), table.n());
        let mut codes = Vec::with_capacity(hidden * vocab);
        let mut scales = Vec::with_capacity(hidden / 32 * vocab);
        for token in 0..vocab {
            codes.extend((0..hidden).map(|i| table.code(i, token) as i8));
            let groups = (0..hidden).step_by(32);
            scales.extend(groups.map(|i| f16::from_f32(table.scale(i, token))));
        }
        Ok((codes, scales))
    }

    /// Bytes of all matrices as they are on a device.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers
            .chain([&self.embedding])
            .map(BlockWeight::bytes)
            .sum()
    }
}

impl Layer {
    fn of(file: &GgufFile<'_>, config: &Config, layer: usize) -> Result<Layer, GgufError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let norm = |part: &str, len| file.floats(&name(part), &[len]);
        let matrix = |part: &str, [k, n]: [usize; 2]| file.blocks(&name(part), k, n);
        let &Config {
            hidden, inner, dim, ..
        } = config;
        let (queries, keys) = (config.heads * dim, config.kv_heads * dim);
        Ok(Layer {
            norms: [
                norm("attn_norm", hidden)?,
                norm("post_attention_norm", hidden)?,
                norm("ffn_norm", hidden)?,
                norm("post_ffw_norm", hidden)?,
            ],
            head_norms: [norm("attn_q_norm", dim)?, norm("attn_k_norm", dim)?],
            attention: [
                matrix("attn_q", [hidden, queries])?,
                matrix("attn_k", [hidden, keys])?,
                matrix("attn_v", [hidden, keys])?,
                matrix("attn_output", [queries, hidden])?,
            ],
            feed_forward: [
                matrix("ffn_gate", [hidden, inner])?,
                matrix("ffn_up", [hidden, inner])?,
                matrix("ffn_down", [inner, hidden])?,
            ],
        })
    }

    fn matrices(&self) -> impl Iterator<Item = &BlockWeight> {
        self.attention.iter().chain(&self.feed_forward)
    }
}
