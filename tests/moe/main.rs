//! Mixtures of experts.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod layer;
mod stages;
