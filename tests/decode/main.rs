//! Attention to a cache by a few new tokens, and mixed with prompts.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod hostile;
mod invariant;
mod merge;
mod mixed;
mod options;
mod quantised;
mod random;
mod rivals;
