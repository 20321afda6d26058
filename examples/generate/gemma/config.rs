//! Sizes and constants of a model.

use std::error::Error;

use infer_kernels::gguf::GgufFile;

/// Sizes and constants of a Gemma 3 model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Elements of a feed-forward layer.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Tokens there are.
    pub vocab: usize,
    /// Keys that a token sees in a layer with a window, its own among them.
    pub window: usize,
    /// Of so many layers, the last one sees everything.
    pub global_every: usize,
    /// Base of the rotary angles where everything is seen.
    pub global_base: f64,
    /// The same within windows.
    pub local_base: f64,
    /// Added to the mean of squares.
    pub eps: f32,
}

impl Config {
    /// From the metadata of a file, and what files of this architecture leave to the reader: every
    /// sixth layer is global, angles within windows have the base 10,000, scores are divided by the
    /// square root of a head's elements.
    pub fn of(file: &GgufFile<'_>) -> Result<Config, Box<dyn Error>> {
        let architecture: &str = file.get("general.architecture")?;
        if architecture != "gemma3" {
            return Err(format!("the model is a {architecture}, expected gemma3").into());
        }
        let number = |key: &str| file.get::<usize>(&format!("gemma3.{key}"));
        let dim = number("attention.key_length")?;
        let v_dim = number("attention.value_length")?;
        if v_dim != dim {
            return Err(format!("values have {v_dim} elements, expected {dim}, as keys").into());
        }
        Ok(Config {
            layers: number("block_count")?,
            hidden: number("embedding_length")?,
            inner: number("feed_forward_length")?,
            heads: number("attention.head_count")?,
            kv_heads: number("attention.head_count_kv")?,
            dim,
            vocab: file.get::<Vec<&str>>("tokenizer.ggml.tokens")?.len(),
            window: number("attention.sliding_window")?,
            global_every: 6,
            global_base: file.get("gemma3.rope.freq_base")?,
            local_base: 10_000.0,
            eps: file.get("gemma3.attention.layer_norm_rms_epsilon")?,
        })
    }

    /// Whether the tokens of a layer see everything before them.
    pub fn is_global(&self, layer: usize) -> bool {
        layer % self.global_every == self.global_every - 1
    }

    /// What embeddings are multiplied by.
    pub fn embedding_factor(&self) -> f32 {
        (self.hidden as f32).sqrt()
    }
}
