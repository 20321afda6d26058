//! Weights in the blocks of GGUF files.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod format;
#[cfg(feature = "gguf")]
mod model;
mod random;
