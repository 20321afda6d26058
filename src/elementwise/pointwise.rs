//! Gated activations, sums and multiples of rows.

use std::fmt;

use super::ElementwiseError;
use super::check::{Bound, CHUNK, Check, MOST, MOST_DIM, Rows, entry, unless_planned};
use super::error::{count, finite};
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::gemm::Activation;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What a `pointwise` entry is given, by value: `cuda/elementwise/pointwise_params.cuh`. Public
    /// for tests of the binary interface only.
    PointwiseParams {
        a: u64,
        b: u64,
        y: u64,
        a_stride: i64,
        b_stride: i64,
        y_stride: i64,
        chunks: i32,
        chunks_of_row: i32,
        dim: i32,
        op: i32,
        activation: i32,
        factor: f32,
    }
}

/// How a second operand comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Second {
    /// Not at all.
    None,
    /// As a factor: `act(x) · second`.
    Gated,
    /// As a summand: `act(x) + second`.
    Added,
}

/// An elementwise operation to be planned: `y = factor · (act(x) ∘ second)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PointwiseProblem {
    /// The type of all operands.
    pub dtype: DType,
    /// Elements of a row.
    pub dim: usize,
    /// What is applied to `x`.
    pub activation: Activation,
    /// How the second operand comes in.
    pub second: Second,
    /// What everything is multiplied by, last.
    pub factor: f32,
}

impl PointwiseProblem {
    /// `y = act(x) · second`: the gate of a feed-forward layer. Where both come in one tensor
    /// `[rows, 2 · dim]`, each operand is a [part](Tensor::narrow) of it.
    pub fn gated(dtype: DType, dim: usize, activation: Activation) -> Self {
        PointwiseProblem {
            dtype,
            dim,
            activation,
            second: Second::Gated,
            factor: 1.0,
        }
    }

    /// `y = x + second`.
    pub fn add(dtype: DType, dim: usize) -> Self {
        PointwiseProblem {
            second: Second::Added,
            ..PointwiseProblem::gated(dtype, dim, Activation::None)
        }
    }

    /// `y = factor · x`, as Gemma scales embeddings.
    pub fn scale(dtype: DType, dim: usize, factor: f32) -> Self {
        PointwiseProblem {
            second: Second::None,
            factor,
            ..PointwiseProblem::gated(dtype, dim, Activation::None)
        }
    }

    /// With [`PointwiseProblem::activation`] set.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// With [`PointwiseProblem::factor`] set.
    #[must_use]
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`ElementwiseError::UnsupportedDtype`], [`ElementwiseError::Count`],
    /// [`ElementwiseError::NotGated`], [`ElementwiseError::Factor`].
    pub fn supports(&self) -> Result<(), ElementwiseError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, ElementwiseError> {
        let entry = entry("pointwise", self.dtype)?;
        count("elements of a row", self.dim, 1..=MOST_DIM)?;
        if self.activation == Activation::ClampedSwiglu && self.second != Second::Gated {
            return Err(ElementwiseError::NotGated);
        }
        finite(self.factor)?;
        Ok(entry)
    }
}

/// Operands of [`PointwisePlan::run`], all `[rows, dim]` with rows at multiples of 16 bytes.
#[derive(Debug)]
pub struct PointwiseArgs<'a> {
    /// The first operand and the result.
    pub rows: Rows<'a, 2>,
    /// The second operand, exactly if the plan has one.
    pub second: Option<Tensor<'a, 2>>,
}

impl<'a> PointwiseArgs<'a> {
    /// From `x` to `y`.
    pub fn new(x: Tensor<'a, 2>, y: TensorMut<'a, 2>) -> Self {
        PointwiseArgs {
            rows: Rows::To { x, y },
            second: None,
        }
    }

    /// The result takes the place of `x`.
    pub fn in_place(x: TensorMut<'a, 2>) -> Self {
        PointwiseArgs {
            rows: Rows::InPlace(x),
            second: None,
        }
    }

    /// With [`PointwiseArgs::second`] set.
    #[must_use]
    pub fn second(mut self, second: Tensor<'a, 2>) -> Self {
        self.second = Some(second);
        self
    }
}

/// A kernel chosen and loaded for a [`PointwiseProblem`]. Prints what it will launch.
#[derive(Clone, Debug)]
pub struct PointwisePlan {
    problem: PointwiseProblem,
    kernel: Kernel,
}

impl PointwisePlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`PointwiseProblem::supports`] refuses, or [`ElementwiseError::Device`] when the device
    /// cannot run the kernel.
    pub fn new(device: &Device, problem: &PointwiseProblem) -> Result<Self, ElementwiseError> {
        Ok(PointwisePlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &PointwiseProblem {
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

    /// Bytes of so many rows, each counted once: the least that a launch moves.
    pub fn row_bytes(&self, rows: usize) -> u128 {
        let PointwiseProblem {
            dtype, dim, second, ..
        } = self.problem;
        let operands = if second == Second::None { 2 } else { 3 };
        rows as u128 * (operands * dim * dtype.size()) as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// # Errors
    /// As for [`NormPlan::run`](super::NormPlan::run), with [`ElementwiseError::Count`] for more
    /// chunks of 8 elements than 32 bits count.
    pub fn run(&self, stream: &Stream, args: PointwiseArgs<'_>) -> Result<(), ElementwiseError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a PointwiseArgs<'_>,
    ) -> Result<Bound<'a, PointwiseParams>, ElementwiseError> {
        let PointwiseProblem {
            dtype,
            dim,
            activation,
            second,
            factor,
        } = self.problem;
        let [rows, _] = args.rows.shape();
        let chunks_of_row = dim.div_ceil(CHUNK);
        let chunks = rows.saturating_mul(chunks_of_row);
        count("chunks of 8 elements", chunks, 0..=MOST)?;
        let mut check = Check::new(&self.kernel, stream)?;
        let [x, y] = check.both(&args.rows, dtype, [rows, dim])?;
        unless_planned("second", second != Second::None, args.second.is_some())?;
        let (b, [b_stride, _]) = match &args.second {
            Some(second) => check.read("second", second, dtype, [rows, dim])?,
            None => (0, [0; 2]),
        };
        check.finish()?;
        let params = PointwiseParams {
            a: x.0,
            b,
            y: y.0,
            a_stride: x.1[0],
            b_stride,
            y_stride: y.1[0],
            // In range by the limits checked here and in the problem.
            chunks: chunks as i32,
            chunks_of_row: chunks_of_row as i32,
            dim: dim as i32,
            op: match second {
                Second::None => 0,
                Second::Gated => 1,
                Second::Added => 2,
            },
            activation: activation.code(),
            factor,
        };
        let blocks = chunks.div_ceil(self.kernel.entry().threads as usize);
        Ok(Bound::new(&self.kernel, stream, blocks, params))
    }
}

impl fmt::Display for PointwisePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PointwiseProblem {
            dtype,
            dim,
            activation,
            second,
            factor,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads\n  rows of {dim} {dtype}, {activation:?}, second operand {second:?}, times {factor}\n  {} bytes per row on {}",
            entry.name,
            entry.threads,
            self.row_bytes(1),
            self.device()
        )
    }
}
