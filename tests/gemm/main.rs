//! Matrix products.
#![cfg(feature = "emulator")]

#[path = "../common/mod.rs"]
mod common;

mod counters;
mod entries;
mod random;
