//! Latent attention.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod hostile;
mod random;
mod special;
