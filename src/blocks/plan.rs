//! A product with weights in blocks, ready to run.

use std::fmt;

use super::args::Bound;
use super::layout::Extent;
use super::{BlockArgs, BlockError, BlockProblem};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::gemm::{GemmError, Splits, TileChoice};
use crate::int4::stream;

/// The kernel loaded for a [`BlockProblem`]. Prints what it will launch.
///
/// A plan holds no operands: it serves every layer of its shape and format, and every number of rows
/// up to the planned one. Making one may load a module; running it only enqueues.
#[derive(Clone, Debug)]
pub struct BlockPlan {
    problem: BlockProblem,
    extent: Extent,
    kernel: Kernel,
    splits: Splits,
}

impl BlockPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`BlockProblem::supports`] refuses, or [`BlockError::Device`] when the device cannot run
    /// the kernel, which says what it lacks.
    pub fn new(device: &Device, problem: &BlockProblem) -> Result<Self, BlockError> {
        let choice = problem.choose(device.limits())?;
        let (got, expected) = (choice.blocks, i32::MAX as usize);
        if got > expected as u64 {
            let (what, got) = ("blocks", usize::try_from(got).unwrap_or(usize::MAX));
            return Err(GemmError::Limit {
                what,
                expected,
                got,
            }
            .into());
        }
        Ok(BlockPlan {
            problem: problem.clone(),
            extent: problem.extent()?,
            kernel: device.kernel(choice.entry)?,
            splits: Splits::new(device, &problem.product, choice)?,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &BlockProblem {
        &self.problem
    }

    /// Sizes of the weights.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// The name of the kernel that will be launched.
    pub fn entry(&self) -> &'static str {
        self.kernel.entry().name
    }

    /// The tile and the ranges of K, and what spoke for them.
    pub fn choice(&self) -> &TileChoice {
        &self.splits.choice
    }

    /// Elements of `f32` workspace that [`BlockPlan::run`] needs: exactly none where K is not split.
    pub fn workspace_elements(&self) -> usize {
        self.splits.workspace_elements(&self.problem.product)
    }

    /// Bytes of codes and scales, each counted once. Every launch moves at least so many.
    pub fn weight_bytes(&self) -> usize {
        let each = 4 * (self.extent.code_words() + self.extent.scale_words());
        if self.problem.product.gated {
            2 * each
        } else {
            each
        }
    }

    /// Checks every operand, then enqueues the kernel on `stream`, and a second one where K is
    /// split. Never allocates, waits, loads or records an event.
    ///
    /// # Errors
    /// [`BlockError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps an output;
    /// [`BlockError::Format`] for weights of another format; [`BlockError::Product`] with
    /// [`GemmError::Rows`], [`GemmError::Gate`], [`GemmError::BiasUp`],
    /// [`GemmError::ResidualInPlace`], [`GemmError::Workspace`] as they say; [`BlockError::Device`]
    /// when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: BlockArgs<'_>) -> Result<(), BlockError> {
        let bound = Bound::new(self, stream, args)?;
        Stream::enqueue(&bound.product())?;
        match bound.sums() {
            Some(sums) => Ok(Stream::enqueue(&sums)?),
            None => Ok(()),
        }
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(super) fn splits(&self) -> &Splits {
        &self.splits
    }

    /// The launch of the product of so many rows, at most the planned ones.
    pub(super) fn shape(&self, m: usize) -> LaunchShape {
        stream::shape(&self.problem.product, self.choice(), m)
    }
}

impl fmt::Display for BlockPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (product, entry) = (&self.problem.product, self.kernel.entry());
        writeln!(
            f,
            "{}: {} stages, {} threads, {} bytes of shared memory",
            entry.name, entry.stages, entry.threads, entry.smem_bytes
        )?;
        writeln!(
            f,
            "  at most {} by {} by {}, {}, {} to {}, {:?}{}{}",
            product.max_m,
            product.n,
            product.k,
            self.problem.format,
            product.dtype,
            product.out,
            product.activation,
            if product.gated { ", gated" } else { "" },
            if product.batch_invariant {
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
            4 * self.workspace_elements()
        )
    }
}
