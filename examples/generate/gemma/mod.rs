//! Gemma 3 on these kernels, and the same in f64 on the host.
//!
//! Shared by the example and by the test of the model.

pub mod batch;
pub mod config;
pub mod engine;
mod layer;
mod linear;
mod plans;
#[cfg(test)]
pub mod reference;
pub mod schedule;
pub mod weights;
