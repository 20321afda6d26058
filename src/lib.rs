//! Hand-written CUDA kernels for LLM inference, with safe wrappers, proven on an emulator.
//!
//! # Map
//! | you want to | look at |
//! |---|---|
//! | find a device, move data | [`Device`], [`Stream`], [`Buffer`] |
//! | hand over memory of another crate | [`Region`], [`Tensor`], and the adapters on [`Stream`] |
//! | compute attention over whole prompts | [`attention::prefill`] |
//! | compute attention of new tokens over a cache | [`attention::decode`] |
//! | do both for one batch | [`attention::mixed`] |
//! | compute attention of prompts over a cache in 8 bits | [`attention::gathered`] |
//! | have bits that do not depend on the batch | [`DecodeProblem::batch_invariant`](attention::decode::DecodeProblem::batch_invariant), [`MixedProblem::batch_invariant`](attention::mixed::MixedProblem::batch_invariant) |
//! | compute the latent attention of DeepSeek over a cache | [`attention::mla`] |
//! | multiply matrices: linear layers | [`gemm`] |
//! | pack 4-bit weights, and multiply by them | [`int4`] |
//! | unpack MXFP4, NVFP4, NF4 and FP4, exactly | [`int4::CodebookWeight`] |
//! | multiply by the quantised tensors of GGUF files, of 4 to 8 bits | [`blocks`] |
//! | read such files (feature `gguf`) | `gguf` |
//! | normalise, gate and add rows, look up embeddings, sample tokens | [`elementwise`] |
//! | keep keys and values in a cache | [`kv`] |
//! | join attention over parts of the keys | [`attention::merge`] |
//! | run a mixture of experts, from the router's logits on | [`moe`] |
//! | see what a kernel skipped | [`StatusWord`] |
//! | compare with the mathematics | [`mod@reference`] |
//!
//! # How an operation is used
//! A *problem* says what to compute; [`supports`](attention::prefill::PrefillProblem::supports)
//! says whether there is a kernel, or why not. A *plan* is a problem with its kernel loaded on a
//! device; it prints what it will launch. `run` checks every operand and enqueues: it never
//! allocates, waits, loads or records an event. Indices that live on the device are checked there,
//! by the kernel, which skips what is out of range and reports it in a [`StatusWord`].
//!
//! # Safety
//! Safe functions are safe with every argument. `unsafe` are only the doors for pointers and
//! streams that come from elsewhere, and running inside a graph. All unsafe code is in one module,
//! `device`.
#![deny(unsafe_code)]

pub mod attention;
pub mod blocks;
pub mod catalog;
#[allow(unsafe_code)]
mod device;
mod dtype;
pub mod elementwise;
pub mod error;
pub mod gemm;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod int4;
pub mod kv;
pub mod moe;
mod operand;
mod params;
pub mod reference;
mod status;
mod tensor;

#[cfg(feature = "cust")]
pub use device::CustBuffer;
pub use device::{BackendKind, Buffer, Device, DeviceError, Limits, Stream};
#[cfg(feature = "cudarc")]
pub use device::{CudarcRegion, CudarcRegionMut};
pub use dtype::{DType, Element, Float};
pub use error::{Dims, OperandError, TensorError};
pub use status::{Offence, StatusReport, StatusWord};
pub use tensor::{DeviceId, Place, Region, RegionMut, StreamId, Tensor, TensorMut};

#[cfg(feature = "cudarc")]
pub use cudarc;
#[cfg(feature = "cust")]
pub use cust;
#[cfg(feature = "emulator")]
pub use ptx_emulator;

/// The program in the README, as a test.
#[cfg(all(doctest, feature = "emulator"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The programs of a page, as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/integrating.md")]
struct Integrating;
