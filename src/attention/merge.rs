//! Attention over all keys from attention over parts of them.
//!
//! `out = Σ_i w_i·out_i / Σ_i w_i` with `w_i = exp(lse_i - max lse)`, and `lse = ln Σ_i exp(lse_i)`: what
//! one call would have given if it had seen the keys of all, whether they were split over calls,
//! devices, or a prefix that sequences share and what is their own.
//!
//! # Shapes
//! Outputs `[tokens, heads, dim]`, log-sum-exps `[heads, tokens]` as `f32`, natural logarithm: as
//! [`prefill`](super::prefill) writes them.
//!
//! # Special states
//! A state without keys for a row, `lse = -∞`, has no part in it and is not read there. A row for which
//! one state is left is copied bit by bit, if the types agree; one without any becomes 0 with
//! `lse = -∞`. A sink counts in the log-sum-exp of each call that was given it: give it to one.
//!
//! # Source
//! `cuda/kv/merge.cuh`. On the CPU, in f64: [`reference::merge`](mod@crate::reference::merge).

use std::fmt;

use crate::catalog;
use crate::device::launch::LaunchShape;
use crate::device::{Device, DeviceError, Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::{Apart, Operand};
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What the `merge_states` entry is given, by value: `cuda/kv/merge_params.cuh`. Public for tests
    /// of the binary interface only.
    MergeParams {
        states: [u64; 16],
        lses: [u64; 16],
        strides_token: [i64; 16],
        strides_head: [i64; 16],
        lse_strides_head: [i64; 16],
        out: u64,
        lse: u64,
        out_stride_token: i64,
        out_stride_head: i64,
        lse_stride_head: i64,
        num_states: i32,
        tokens: i32,
        heads: i32,
        dim: i32,
        lanes_shift: i32,
        in_type: i32,
        out_type: i32,
        rows: i32,
    }
}

/// The most states of a call. More are merged in several: a merged state is a state.
pub const MAX_STATES: usize = 16;
/// The most elements of a head.
const MAX_DIM: usize = 4096;

/// Why a merge was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// States and results are of these types.
    #[error("{tensor}: expected f16, bf16 or f32, got {got}")]
    UnsupportedDtype {
        /// States or result.
        tensor: &'static str,
        /// The type asked for.
        got: DType,
    },
    /// Heads are whole chunks of 8 elements.
    #[error("head dim: expected a multiple of 8 from 8 to {expected}, got {got}")]
    UnsupportedDim {
        /// The largest.
        expected: usize,
        /// The one asked for.
        got: usize,
    },
    /// More of something than one launch can have.
    #[error("{what}: expected at most {expected}, got {got}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The most that one launch can have.
        expected: usize,
        /// What was asked for.
        got: usize,
    },
    /// Something is wrong with an operand.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// The device refused, or the launch failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A merge to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MergeProblem {
    /// The type of the states: `f16`, `bf16` or `f32`.
    pub dtype: DType,
    /// The type of the result, likewise.
    pub out: DType,
    /// Query heads.
    pub heads: usize,
    /// Elements of a head of the outputs.
    pub dim: usize,
}

impl MergeProblem {
    /// A result of the states' type.
    pub fn new(dtype: DType, heads: usize, dim: usize) -> Self {
        MergeProblem {
            dtype,
            out: dtype,
            heads,
            dim,
        }
    }

    /// With [`MergeProblem::out`] set.
    #[must_use]
    pub fn out(mut self, out: DType) -> Self {
        self.out = out;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`MergeError::UnsupportedDtype`], [`MergeError::UnsupportedDim`], [`MergeError::Limit`].
    pub fn supports(&self) -> Result<(), MergeError> {
        self.types()?;
        let got = self.dim;
        if got == 0 || got > MAX_DIM || !got.is_multiple_of(8) {
            return Err(MergeError::UnsupportedDim {
                expected: MAX_DIM,
                got,
            });
        }
        limit("heads", self.heads, MAX_ROWS)
    }

    /// The numbers that the kernel knows the types by.
    fn types(&self) -> Result<[i32; 2], MergeError> {
        let number = |tensor, dtype| match dtype {
            DType::F16 => Ok(0),
            DType::BF16 => Ok(1),
            DType::F32 => Ok(2),
            got => Err(MergeError::UnsupportedDtype { tensor, got }),
        };
        Ok([number("states", self.dtype)?, number("out", self.out)?])
    }
}

const MAX_ROWS: usize = i32::MAX as usize;

fn limit(what: &'static str, got: usize, expected: usize) -> Result<(), MergeError> {
    if got <= expected {
        return Ok(());
    }
    Err(MergeError::Limit {
        what,
        expected,
        got,
    })
}

/// Attention over some of the keys.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// Outputs, `[tokens, heads, dim]`.
    pub out: Tensor<'a, 3>,
    /// Log-sum-exps, `[heads, tokens]` as `f32`.
    pub lse: Tensor<'a, 2>,
}

/// Operands of [`MergePlan::run`]; shapes are given in [the module](self).
#[derive(Debug)]
pub struct MergeArgs<'a> {
    /// What is merged: at most [`MAX_STATES`]. Without any, every row is empty.
    pub states: &'a [State<'a>],
    /// The result.
    pub out: TensorMut<'a, 3>,
    /// Its log-sum-exp, if it is wanted.
    pub lse: Option<TensorMut<'a, 2>>,
}

/// The kernel that merges states, loaded for a [`MergeProblem`].
#[derive(Clone, Debug)]
pub struct MergePlan {
    problem: MergeProblem,
    kernel: Kernel,
}

/// Checked operands, as the kernel takes them. Made only by [`MergePlan::bind`].
pub(crate) struct Bound<'a> {
    pub kernel: &'a Kernel,
    pub stream: &'a Stream,
    pub shape: LaunchShape,
    pub params: MergeParams,
}

impl MergePlan {
    /// Loads the kernel, if it is not yet.
    ///
    /// # Errors
    /// What [`MergeProblem::supports`] refuses, or [`MergeError::Device`] when the device cannot run
    /// the kernel.
    pub fn new(device: &Device, problem: &MergeProblem) -> Result<Self, MergeError> {
        problem.supports()?;
        let entry = catalog::find("merge_states").ok_or(MergeError::UnsupportedDtype {
            tensor: "states",
            got: problem.dtype,
        })?;
        Ok(MergePlan {
            problem: problem.clone(),
            kernel: device.kernel(entry)?,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &MergeProblem {
        &self.problem
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// The name of the kernel that will be launched.
    pub fn entry(&self) -> &'static str {
        self.kernel.entry().name
    }

    /// Bytes of so many tokens' rows of so many states, and of the result with its log-sum-exp, each
    /// counted once.
    pub fn row_bytes(&self, tokens: usize, states: usize) -> u128 {
        let MergeProblem {
            dtype,
            out,
            heads,
            dim,
        } = self.problem;
        let row = states * (dtype.size() * dim + 4) + out.size() * dim + 4;
        tokens as u128 * heads as u128 * row as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// # Errors
    /// [`MergeError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps another that is written;
    /// [`MergeError::Limit`] for more than [`MAX_STATES`]; [`MergeError::Device`] when the launch
    /// fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: MergeArgs<'_>) -> Result<(), MergeError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a MergeArgs<'_>,
    ) -> Result<Bound<'a>, MergeError> {
        let (expected, got) = (self.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }
        let MergeProblem { heads, dim, .. } = self.problem;
        limit("states", args.states.len(), MAX_STATES)?;
        let mut apart = Apart::default();
        let out = args.out.as_ref();
        let tokens = out.shape()[0];
        let rows = |name, tensor: &Tensor<'_, 3>, dtype| {
            let operand = Operand { name, tensor };
            operand.dtype(dtype)?;
            operand.shape([tokens, heads, dim])?;
            operand.place(stream)?;
            let [token, head, _] = operand.aligned_strides()?;
            Ok::<_, OperandError>([token, head])
        };
        let lses = |name, tensor: &Tensor<'_, 2>| {
            let operand = Operand { name, tensor };
            operand.dtype(DType::F32)?;
            operand.shape([heads, tokens])?;
            operand.place(stream)?;
            Ok::<_, OperandError>(operand.strides()?[0])
        };
        let [in_type, out_type] = self.problem.types()?;
        let chunk = if in_type == 2 || out_type == 2 { 4 } else { 8 };
        let lanes = (dim / chunk).next_power_of_two().min(32);
        let row_count = tokens.saturating_mul(heads);
        limit("rows", row_count, MAX_ROWS)?;
        let [out_stride_token, out_stride_head] = rows("out", &out, self.problem.out)?;
        apart.written(Operand {
            name: "out",
            tensor: &out,
        });
        // Sizes are in range: the rows are.
        let mut params = MergeParams {
            out: out.address(),
            out_stride_token,
            out_stride_head,
            num_states: args.states.len() as i32,
            tokens: tokens as i32,
            heads: heads as i32,
            dim: dim as i32,
            lanes_shift: lanes.ilog2() as i32,
            in_type,
            out_type,
            rows: row_count as i32,
            ..MergeParams::default()
        };
        if let Some(lse) = &args.lse {
            let tensor = lse.as_ref();
            params.lse_stride_head = lses("lse", &tensor)?;
            params.lse = tensor.address();
            apart.written(Operand {
                name: "lse",
                tensor: &tensor,
            });
        }
        for (at, State { out, lse }) in args.states.iter().enumerate() {
            let [token, head] = rows("state", out, self.problem.dtype)?;
            (params.states[at], params.lses[at]) = (out.address(), lse.address());
            (params.strides_token[at], params.strides_head[at]) = (token, head);
            params.lse_strides_head[at] = lses("lse of a state", lse)?;
            let (name, tensor) = ("state", out);
            apart.read(Operand { name, tensor });
            let (name, tensor) = ("lse of a state", lse);
            apart.read(Operand { name, tensor });
        }
        apart.check()?;
        let entry = self.kernel.entry();
        let of_block = entry.threads as usize / lanes;
        Ok(Bound {
            kernel: &self.kernel,
            stream,
            shape: LaunchShape {
                grid: [row_count.div_ceil(of_block) as u32, 1, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params,
        })
    }
}

impl fmt::Display for MergePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MergeProblem {
            dtype,
            out,
            heads,
            dim,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads\n  {heads} heads of {dim}, {dtype} to {out}, on {}",
            entry.name,
            entry.threads,
            self.device()
        )
    }
}
