//! GGUF files: what a file says about a model, and its tensors, ready for [`blocks`](crate::blocks).
//! Feature `gguf`.
//!
//! A file is bytes that the caller has: read into memory, or mapped. Nothing of a tensor is copied
//! before it is asked for. Files are not trusted: whatever the bytes are, reading them ends in a
//! result or in a [`GgufError`]; sizes that a file claims are compared with its length before
//! anything is allocated for them. Structure and limits are those of the crate `gguf-rs-lib`;
//! what it says is checked once more where memory depends on it.
//!
//! # Example
//! ```no_run
//! use infer_kernels::blocks::BlockWeight;
//! use infer_kernels::gguf::{GgufFile, TensorType};
//!
//! let bytes = std::fs::read("model.gguf")?;
//! let file = GgufFile::parse(&bytes)?;
//! let model: &str = file.get("general.architecture")?;
//! let layers: usize = file.get(&format!("{model}.block_count"))?;
//! let window: Option<usize> = file.find(&format!("{model}.attention.sliding_window"))?;
//! println!("{model}, {layers} layers, window {window:?}");
//! for tensor in file.tensors() {
//!     println!("{} {} {:?}", tensor.name, tensor.dtype, tensor.dims);
//! }
//! let (k, n) = (640, 2048);
//! let w: BlockWeight = file.blocks("blk.0.ffn_up.weight", k, n)?;
//! let norm: Vec<f32> = file.floats("blk.0.attn_norm.weight", &[k])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod file;
mod metadata;

pub use error::GgufError;
pub use file::{GgufFile, GgufTensor, OtherType, TensorType};
pub use metadata::MetadataValue;
