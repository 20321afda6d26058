//! Norms, pointwise operations, embeddings, sampling.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod random;
mod sample;
