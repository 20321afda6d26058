//! RMS norm of rows, and of residual sums.

use std::fmt;

use super::ElementwiseError;
use super::check::{Bound, CHUNK, Check, MOST, Rows, entry, unless_planned};
use super::error::count;
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What a `norm` entry is given, by value: `cuda/elementwise/norm_params.cuh`. Public for tests
    /// of the binary interface only.
    NormParams {
        x: u64,
        residual: u64,
        weight: u64,
        y: u64,
        x_stride_token: i64,
        x_stride_head: i64,
        residual_stride_token: i64,
        residual_stride_head: i64,
        y_stride_token: i64,
        y_stride_head: i64,
        rows: i32,
        heads: i32,
        dim: i32,
        lanes_shift: i32,
        weight_is_f32: i32,
        weight_offset: f32,
        eps: f32,
        mean_factor: f32,
    }
}

/// What normalised elements are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NormWeight {
    /// Nothing.
    None,
    /// The weights.
    #[default]
    Plain,
    /// 1 + the weights, as Gemma has it.
    PlusOne,
}

/// A norm to be planned: `y = h · weight / √(mean(h²) + eps)` for each row of `dim` elements, where
/// `h` is `x`, or the residual stream after `x` has been added to it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NormProblem {
    /// The type of all rows.
    pub dtype: DType,
    /// Elements of a row, at most 16384.
    pub dim: usize,
    /// Added to the mean.
    pub eps: f32,
    /// What is multiplied by.
    pub weight: NormWeight,
    /// Whether `x` is added to a residual stream first, which takes the sum.
    pub residual: bool,
}

impl NormProblem {
    /// The norm of `x`, with weights.
    pub fn new(dtype: DType, dim: usize, eps: f32) -> Self {
        NormProblem {
            dtype,
            dim,
            eps,
            weight: NormWeight::Plain,
            residual: false,
        }
    }

    /// With [`NormProblem::weight`] set.
    #[must_use]
    pub fn weight(mut self, weight: NormWeight) -> Self {
        self.weight = weight;
        self
    }

    /// With [`NormProblem::residual`] set.
    #[must_use]
    pub fn residual(mut self, residual: bool) -> Self {
        self.residual = residual;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`ElementwiseError::UnsupportedDtype`], [`ElementwiseError::Count`],
    /// [`ElementwiseError::Eps`].
    pub fn supports(&self) -> Result<(), ElementwiseError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, ElementwiseError> {
        let entry = entry("norm", self.dtype)?;
        count("elements of a row", self.dim, 1..=entry.tile_k as usize)?;
        let got = self.eps;
        if !(got >= 0.0 && got.is_finite()) {
            return Err(ElementwiseError::Eps { got });
        }
        Ok(entry)
    }
}

/// Operands of [`NormPlan::run`]; a row is a head of a token, all `[tokens, heads, dim]` with any
/// strides that are multiples of 16 bytes. Rows without heads are `[rows, 1, dim]`.
#[derive(Debug)]
pub struct NormArgs<'a> {
    /// What is normalised, or added to the residual stream, and the result.
    pub rows: Rows<'a, 3>,
    /// `[dim]`, of the rows' type or `f32`; exactly if the plan has weights.
    pub weight: Option<Tensor<'a, 1>>,
    /// The residual stream, exactly if the plan has one: receives its sum with `x`.
    pub residual: Option<TensorMut<'a, 3>>,
}

impl<'a> NormArgs<'a> {
    /// `y` becomes the norm of `x`.
    pub fn new(x: Tensor<'a, 3>, y: TensorMut<'a, 3>) -> Self {
        NormArgs {
            rows: Rows::To { x, y },
            weight: None,
            residual: None,
        }
    }

    /// `x` becomes its own norm.
    pub fn in_place(x: TensorMut<'a, 3>) -> Self {
        NormArgs {
            rows: Rows::InPlace(x),
            weight: None,
            residual: None,
        }
    }

    /// With [`NormArgs::weight`] set.
    #[must_use]
    pub fn weight(mut self, weight: Tensor<'a, 1>) -> Self {
        self.weight = Some(weight);
        self
    }

    /// With [`NormArgs::residual`] set.
    #[must_use]
    pub fn residual(mut self, residual: TensorMut<'a, 3>) -> Self {
        self.residual = Some(residual);
        self
    }
}

/// A kernel chosen and loaded for a [`NormProblem`]. Prints what it will launch.
///
/// It serves any number of rows, and the bits of a row depend on the row and the problem alone.
#[derive(Clone, Debug)]
pub struct NormPlan {
    problem: NormProblem,
    kernel: Kernel,
}

impl NormPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`NormProblem::supports`] refuses, or [`ElementwiseError::Device`] when the device
    /// cannot run the kernel.
    pub fn new(device: &Device, problem: &NormProblem) -> Result<Self, ElementwiseError> {
        Ok(NormPlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &NormProblem {
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

    /// Bytes of so many rows, each counted once: the least that a launch moves, but for weights.
    pub fn row_bytes(&self, rows: usize) -> u128 {
        let NormProblem {
            dtype,
            dim,
            residual,
            ..
        } = self.problem;
        let operands = if residual { 4 } else { 2 };
        rows as u128 * (operands * dim * dtype.size()) as u128
    }

    /// Threads that share a row: they depend on its length alone.
    fn lanes(&self) -> usize {
        let chunks = self.problem.dim.div_ceil(CHUNK);
        let most = self.kernel.entry().threads as usize;
        chunks.next_power_of_two().min(most)
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// # Errors
    /// [`ElementwiseError::Operand`] for an operand of another type, shape, stride, alignment,
    /// device or stream than the plan and the kernel call for, or one that overlaps another that is
    /// written; [`ElementwiseError::Option`] for one that is missing or not planned;
    /// [`ElementwiseError::Count`] for more rows than 32 bits count; [`ElementwiseError::Device`]
    /// when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: NormArgs<'_>) -> Result<(), ElementwiseError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a NormArgs<'_>,
    ) -> Result<Bound<'a, NormParams>, ElementwiseError> {
        let NormProblem {
            dtype,
            dim,
            eps,
            weight,
            residual,
        } = self.problem;
        let [tokens, heads, _] = args.rows.shape();
        let shape = [tokens, heads, dim];
        let rows = tokens.saturating_mul(heads);
        count("rows", rows, 0..=MOST)?;
        let mut check = Check::new(&self.kernel, stream)?;
        let [x, y] = check.both(&args.rows, dtype, shape)?;
        unless_planned("residual", residual, args.residual.is_some())?;
        let residual = match &args.residual {
            Some(residual) => check.written("residual", residual, dtype, shape)?,
            None => (0, [0; 3]),
        };
        unless_planned("weight", weight != NormWeight::None, args.weight.is_some())?;
        let (weights, weight_is_f32) = match &args.weight {
            Some(tensor) => {
                let is_f32 = tensor.dtype() == DType::F32;
                let of = if is_f32 { DType::F32 } else { dtype };
                (check.read("weight", tensor, of, [dim])?.0, is_f32)
            }
            None => (0, false),
        };
        check.finish()?;

        let lanes = self.lanes();
        let params = NormParams {
            x: x.0,
            residual: residual.0,
            weight: weights,
            y: y.0,
            x_stride_token: x.1[0],
            x_stride_head: x.1[1],
            residual_stride_token: residual.1[0],
            residual_stride_head: residual.1[1],
            y_stride_token: y.1[0],
            y_stride_head: y.1[1],
            // In range by the limits checked here and in the problem.
            rows: rows as i32,
            heads: heads.max(1) as i32,
            dim: dim as i32,
            lanes_shift: lanes.ilog2() as i32,
            weight_is_f32: i32::from(weight_is_f32),
            weight_offset: f32::from(u8::from(weight != NormWeight::Plain)),
            eps,
            mean_factor: 1.0 / dim as f32,
        };
        let blocks = rows.div_ceil(self.kernel.entry().threads as usize / lanes);
        Ok(Bound::new(&self.kernel, stream, blocks, params))
    }
}

impl fmt::Display for NormPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NormProblem {
            dtype,
            dim,
            eps,
            weight,
            residual,
        } = self.problem;
        let entry = self.kernel.entry();
        let threads = entry.threads as usize;
        writeln!(
            f,
            "{}: {threads} threads, {} for a row",
            entry.name,
            self.lanes()
        )?;
        let weight = match weight {
            NormWeight::None => "",
            NormWeight::Plain => ", by weight",
            NormWeight::PlusOne => ", by 1 + weight",
        };
        let residual = if residual { "residual + x" } else { "x" };
        write!(
            f,
            "  RMS norm of {residual}, rows of {dim} {dtype}{weight}, eps {eps}\n  {} bytes per row on {}",
            self.row_bytes(1),
            self.device()
        )
    }
}
