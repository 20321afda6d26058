//! A product with 4-bit weights, ready to run.

use std::fmt;

use super::args::Bound;
use super::{Int4Args, Int4Error, Int4Problem, stream};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::gemm::{GemmError, Splits, TileChoice};

/// Kernels chosen and loaded for an [`Int4Problem`]. Prints what it will launch, and why.
///
/// A plan holds no operands: it serves every layer of its shape, and every number of rows up to the
/// planned one. Making one may load a module; running it only enqueues.
#[derive(Clone, Debug)]
pub struct Int4Plan {
    problem: Int4Problem,
    kernel: Kernel,
    splits: Splits,
}

impl Int4Plan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`Int4Problem::supports`] refuses, or [`Int4Error::Device`] when the device cannot run
    /// the kernel, which says what it lacks.
    pub fn new(device: &Device, problem: &Int4Problem) -> Result<Self, Int4Error> {
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
        Ok(Int4Plan {
            problem: problem.clone(),
            kernel: device.kernel(choice.entry)?,
            splits: Splits::new(device, &problem.product, choice)?,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &Int4Problem {
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

    /// Elements of `f32` workspace that [`Int4Plan::run`] needs: exactly none where K is not split.
    pub fn workspace_elements(&self) -> usize {
        self.splits.workspace_elements(&self.problem.product)
    }

    /// Bytes of codes, scales and zero points, each counted once. Every launch moves at least so
    /// many.
    pub fn weight_bytes(&self) -> usize {
        let extent = self.problem.extent();
        let zeros = match self.problem.meaning {
            super::Codes::Symmetric => 0,
            super::Codes::ZeroPoints => 4 * extent.zero_words(),
        };
        let each = 4 * extent.code_words() + 2 * extent.scales() + zeros;
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
    /// [`Int4Error::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps an output;
    /// [`Int4Error::Order`] if plan and weights disagree on the order of rows;
    /// [`Int4Error::Zeros`] for zero points where there should be none, or none where there should
    /// be; [`Int4Error::Product`] with [`GemmError::Rows`], [`GemmError::Gate`],
    /// [`GemmError::BiasUp`], [`GemmError::ResidualInPlace`], [`GemmError::Workspace`] as they say;
    /// [`Int4Error::Device`] when the launch fails, or the stream is recording a graph.
    ///
    /// [`GemmError::Rows`]: crate::gemm::GemmError::Rows
    /// [`GemmError::Gate`]: crate::gemm::GemmError::Gate
    /// [`GemmError::BiasUp`]: crate::gemm::GemmError::BiasUp
    /// [`GemmError::ResidualInPlace`]: crate::gemm::GemmError::ResidualInPlace
    /// [`GemmError::Workspace`]: crate::gemm::GemmError::Workspace
    pub fn run(&self, stream: &Stream, args: Int4Args<'_>) -> Result<(), Int4Error> {
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
        args: Int4Args<'a>,
    ) -> Result<Bound<'a>, Int4Error> {
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
        let (product, entry) = (&self.problem.product, self.kernel.entry());
        if !stream::is_streaming(entry) {
            return self.splits.shape(product, &self.kernel, m);
        }
        stream::shape(product, self.choice(), m)
    }
}

impl fmt::Display for Int4Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Int4Problem {
            product,
            group,
            meaning,
            ordered,
        } = &self.problem;
        let entry = self.kernel.entry();
        writeln!(
            f,
            "{}: {} stages, {} threads, {} bytes of shared memory",
            entry.name, entry.stages, entry.threads, entry.smem_bytes
        )?;
        writeln!(
            f,
            "  at most {} by {} by {}, 4 bits {meaning} in groups of {group}{}, {} to {}, {:?}{}{}",
            product.max_m,
            product.n,
            product.k,
            if *ordered {
                ", in an order of their own"
            } else {
                ""
            },
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
