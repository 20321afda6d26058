//! Prefill attention.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod entries;
mod gathered;
mod hostile;
mod options;
mod random;
mod rivals;
mod special;
