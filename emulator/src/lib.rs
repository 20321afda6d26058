//! Runs CUDA's PTX on a CPU and reports what the hardware would silently get wrong.
#![deny(unsafe_code)]
pub mod ast;
mod isa;
pub mod lex;
pub mod parse;
mod simd;
mod types;
mod violation;
mod warp;
