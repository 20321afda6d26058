//! Hand-written CUDA kernels for LLM inference.

pub mod catalog;
