//! The mathematics in f64, on the CPU, with the arguments of the kernels.
//!
//! Each operation has two: one that rounds nothing, and one that rounds where its kernel does,
//! from which tests derive how far a kernel may be off. [`tolerance`] is that rule.

pub mod attention;
pub mod blocks;
pub mod elementwise;
pub mod gemm;
mod host;
pub mod int4;
pub mod kv;
pub mod merge;
pub mod mla;
pub mod moe;
pub mod sample;
pub mod tolerance;

pub use host::HostTensor;
