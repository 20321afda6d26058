//! One refusal per error variant: what, what was expected, what was got.
#![cfg(feature = "emulator")]

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod decode;
mod decode_quantised;
mod device;
mod elementwise;
mod gemm;
mod int4;
mod int4_product;
mod kv;
mod kv_pages;
mod mla;
mod moe;
mod operand;
mod options;
mod prefill;
mod setup;
