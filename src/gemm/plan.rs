//! A matrix product, ready to run.

use std::fmt;

use super::splits::Splits;
use super::{Bound, GemmArgs, GemmError, GemmProblem, TileChoice};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};

/// Kernels chosen and loaded for a [`GemmProblem`]. Prints what it will launch, and why.
///
/// A plan holds no operands: it serves every layer of its shape, and every number of rows up to the
/// planned one. Making one may load a module; running it only enqueues.
#[derive(Clone, Debug)]
pub struct GemmPlan {
    problem: GemmProblem,
    kernel: Kernel,
    splits: Splits,
}

impl GemmPlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`GemmProblem::supports`] refuses, or [`GemmError::Device`] when the device cannot run
    /// the kernel, which says what it lacks.
    pub fn new(device: &Device, problem: &GemmProblem) -> Result<Self, GemmError> {
        let choice = problem.choose(device.limits())?;
        Ok(GemmPlan {
            problem: problem.clone(),
            kernel: device.kernel(choice.entry)?,
            splits: Splits::new(device, problem, choice)?,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &GemmProblem {
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

    /// The tile and the split of K, and what spoke for them.
    pub fn choice(&self) -> &TileChoice {
        &self.splits.choice
    }

    /// Elements of `f32` workspace that [`GemmPlan::run`] needs: exactly none where K is not split.
    pub fn workspace_elements(&self) -> usize {
        self.splits.workspace_elements(&self.problem)
    }

    /// The same in bytes.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.workspace_elements()
    }

    /// Bytes of weights, each counted once. Every launch moves at least so many.
    pub fn weight_bytes(&self) -> u128 {
        let GemmProblem { n, k, dtype, .. } = self.problem;
        self.problem.parts() as u128 * n as u128 * k as u128 * dtype.size() as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`, and a second one where K is
    /// split. Never allocates, waits, loads or records an event.
    ///
    /// # Errors
    /// [`GemmError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps an output;
    /// [`GemmError::Rows`] for more rows than planned; [`GemmError::Gate`], [`GemmError::BiasUp`],
    /// [`GemmError::UpStrides`], [`GemmError::ResidualInPlace`], [`GemmError::Workspace`] as they
    /// say; [`GemmError::Device`] when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: GemmArgs<'_>) -> Result<(), GemmError> {
        let bound = self.bind(stream, args)?;
        Stream::enqueue(&bound.product())?;
        match bound.sums() {
            Some(sums) => Ok(Stream::enqueue(&sums)?),
            None => Ok(()),
        }
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: GemmArgs<'a>,
    ) -> Result<Bound<'a>, GemmError> {
        Bound::new(self, stream, args)
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(super) fn splits(&self) -> &Splits {
        &self.splits
    }

    /// The launch of the product of so many rows, at most the planned ones.
    pub(super) fn shape(&self, m: usize) -> LaunchShape {
        self.splits.shape(&self.problem, &self.kernel, m)
    }
}

impl fmt::Display for GemmPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GemmProblem {
            dtype,
            max_m,
            n,
            k,
            out,
            activation,
            gated,
            batch_invariant,
            ..
        } = self.problem;
        let entry = self.kernel.entry();
        writeln!(
            f,
            "{}: {} stages, {} threads, {} bytes of shared memory",
            entry.name, entry.stages, entry.threads, entry.smem_bytes
        )?;
        writeln!(
            f,
            "  at most {max_m} by {n} by {k}, {dtype} to {out}, {activation:?}{}{}",
            if gated { ", gated" } else { "" },
            if batch_invariant {
                ", batch-invariant"
            } else {
                ""
            },
        )?;
        write!(
            f,
            "  {} on {}, {} bytes of workspace",
            self.choice(),
            self.device(),
            self.workspace_bytes()
        )
    }
}
