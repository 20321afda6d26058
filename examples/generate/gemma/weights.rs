//! A model's weights, as they are in a GGUF file, or in 4 bits.

use std::error::Error;

use half::f16;
use infer_kernels::DType;
use infer_kernels::blocks::{BlockFormat, BlockWeight};
use infer_kernels::gguf::{GgufError, GgufFile, TensorType};
use infer_kernels::int4::{Int4Weight, Quantizer};

use super::config::Config;

/// Elements of an embedding's row that have a scale in common, and rows of a group of 4-bit codes.
pub const GROUP: usize = 32;

/// A matrix `[k, n]` of a layer with `n` outputs.
pub enum Weight {
    /// In the blocks of the file.
    Blocks(BlockWeight),
    /// Quantised anew.
    Int4(Int4Weight),
}

/// Everything that a model consists of, on the host.
pub struct Model {
    pub config: Config,
    pub layers: Vec<Layer>,
    /// Weights of the last norm, `[hidden]`.
    pub norm: Vec<f32>,
    /// Embeddings, and what gives logits: `[hidden, vocab]`.
    pub embedding: Weight,
}

/// The weights of a layer. Those of norms are in `f32`, and 1 has been added to them.
pub struct Layer {
    /// Before attention, behind it, before the feed-forward layer, behind it: `[hidden]` each.
    pub norms: [Vec<f32>; 4],
    /// Of each head of queries and of keys, `[dim]` each.
    pub head_norms: [Vec<f32>; 2],
    /// To queries, keys and values, from attention's result.
    pub attention: [Weight; 4],
    /// Gate, up, down.
    pub feed_forward: [Weight; 3],
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
            embedding: Weight::Blocks(BlockWeight::pack(
                format,
                config.hidden,
                config.vocab,
                bytes,
            )?),
            config,
        })
    }

    /// The same model with every matrix in codes of 4 bits: groups of [`GROUP`] with a scale each, that
    /// of the least squared error.
    ///
    /// # Errors
    /// For scales that `dtype` does not hold.
    pub fn into_int4(mut self, dtype: DType) -> Result<Model, Box<dyn Error>> {
        let layers = self.layers.iter_mut();
        let matrices =
            layers.flat_map(|layer| layer.attention.iter_mut().chain(&mut layer.feed_forward));
        for matrix in matrices.chain([&mut self.embedding]) {
            *matrix = matrix.to_int4(dtype)?;
        }
        Ok(self)
    }

    /// The embeddings, a row for each token: codes in 8 bits, and scales for groups of [`GROUP`].
    pub fn embedding_rows(&self) -> Result<(Vec<i8>, Vec<f16>), Box<dyn Error>> {
        let (hidden, vocab) = (self.embedding.k(), self.embedding.n());
        let mut codes = Vec::with_capacity(hidden * vocab);
        let mut scales = Vec::with_capacity(hidden / GROUP * vocab);
        match &self.embedding {
            Weight::Blocks(table) if table.format() == BlockFormat::Q8_0 => {
                for token in 0..vocab {
                    codes.extend((0..hidden).map(|i| table.code(i, token) as i8));
                    let groups = (0..hidden).step_by(GROUP);
                    scales.extend(groups.map(|i| f16::from_f32(table.scale(i, token))));
                }
            }
            Weight::Blocks(table) => {
                return Err(format!("embeddings are {}, expected Q8_0", table.format()).into());
            }
            Weight::Int4(table) => {
                let units = table.unpack();
                for token in 0..vocab {
                    codes.extend((0..hidden).map(|i| {
                        let zero = table.zero(i / GROUP, token);
                        units[i * vocab + token] as i8 - zero as i8
                    }));
                    for group in 0..hidden / GROUP {
                        let scale = table.scale(group, token);
                        scales.push(f16::from_f32(scale));
                        if scales.last().is_some_and(|half| half.to_f32() != scale) {
                            return Err(format!("{scale} of token {token} is no f16").into());
                        }
                    }
                }
            }
        }
        Ok((codes, scales))
    }

    /// Bytes of all matrices as they are on a device.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers.chain([&self.embedding]).map(Weight::bytes).sum()
    }
}

impl Weight {
    /// Inputs.
    pub fn k(&self) -> usize {
        match self {
            Weight::Blocks(weight) => weight.k(),
            Weight::Int4(weight) => weight.k(),
        }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        match self {
            Weight::Blocks(weight) => weight.n(),
            Weight::Int4(weight) => weight.n(),
        }
    }

    /// Bytes of codes, scales and whatever else there is.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Blocks(weight) => weight.bytes(),
            Weight::Int4(weight) => weight.bytes(),
        }
    }

    /// The numbers `[k, n]` that it stands for.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Weight::Blocks(weight) => weight.dequantize(),
            Weight::Int4(weight) => weight.dequantize(),
        }
    }

    fn to_int4(&self, dtype: DType) -> Result<Weight, Box<dyn Error>> {
        let (k, n) = (self.k(), self.n());
        let numbers = self.dequantize();
        let mut columns = Vec::with_capacity(k * n);
        for column in 0..n {
            columns.extend(numbers[column..].iter().step_by(n));
        }
        drop(numbers);
        let quantizer = Quantizer::new(dtype).group(Some(GROUP));
        Ok(Weight::Int4(quantizer.quantize(&columns, n, k)?))
    }
}

impl Layer {
    fn of(file: &GgufFile<'_>, config: &Config, layer: usize) -> Result<Layer, GgufError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let norm = |part: &str, len| file.floats(&name(part), &[len]);
        let matrix =
            |part: &str, [k, n]: [usize; 2]| file.blocks(&name(part), k, n).map(Weight::Blocks);
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

    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        self.attention.iter().chain(&self.feed_forward)
    }
}
