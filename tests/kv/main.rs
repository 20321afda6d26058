//! The KV cache.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod append;
mod counters;
mod latents;
mod pages;
