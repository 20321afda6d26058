//! 4-bit weights.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod codebooks;
mod counters;
mod format;
mod random;
