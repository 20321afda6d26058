//! Attention: softmax of scaled dot products of queries and keys, weighing values.

mod indices;
mod seqlens;

pub mod decode;
pub mod gathered;
pub mod merge;
pub mod mixed;
pub mod mla;
pub mod prefill;

pub use seqlens::{CuSeqLens, SeqLens, SeqLensError};
