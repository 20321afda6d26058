//! A matrix product, ready to run.

use std::fmt;

use super::problem::{CHUNK, limit};
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
    choice: TileChoice,
    kernel: Kernel,
    reduce: Option<Kernel>,
}

impl GemmPlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`GemmProblem::supports`] refuses, or [`GemmError::Device`] when the device cannot run
    /// the kernel, which says what it lacks.
    pub fn new(device: &Device, problem: &GemmProblem) -> Result<Self, GemmError> {
        let choice = problem.choose(device.limits())?;
        let reduce = match choice.splits {
            1 => None,
            _ => Some(device.kernel(problem.reduce()?)?),
        };
        let plan = GemmPlan {
            problem: problem.clone(),
            choice,
            kernel: device.kernel(choice.entry)?,
            reduce,
        };
        let workspace = u128::from(plan.choice.splits > 1)
            * plan.parts() as u128
            * choice.splits as u128
            * problem.max_m as u128
            * problem.n as u128;
        let workspace = usize::try_from(workspace).unwrap_or(usize::MAX);
        limit("elements of workspace", workspace, MAX_WORKSPACE)?;
        limit("blocks", plan.tiles(problem.max_m), MAX_GRID_X)?;
        limit("chunks of y", plan.chunks(problem.max_m), MAX_GRID_X)?;
        Ok(plan)
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
        &self.choice
    }

    /// Elements of `f32` workspace that [`GemmPlan::run`] needs: exactly none where K is not split.
    pub fn workspace_elements(&self) -> usize {
        match self.choice.splits {
            1 => 0,
            splits => splits * self.parts() * self.problem.max_m * self.problem.n,
        }
    }

    /// Products that are computed: with a gate, two.
    fn parts(&self) -> usize {
        if self.problem.gated { 2 } else { 1 }
    }

    /// The same in bytes.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.workspace_elements()
    }

    /// Bytes of weights, each counted once. Every launch moves at least so many.
    pub fn weight_bytes(&self) -> u128 {
        let GemmProblem { n, k, dtype, .. } = self.problem;
        self.parts() as u128 * n as u128 * k as u128 * dtype.size() as u128
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

    pub(crate) fn reduce(&self) -> Option<&Kernel> {
        self.reduce.as_ref()
    }

    /// Tiles of `y` with so many rows.
    fn tiles(&self, m: usize) -> usize {
        let [tile_m, tile_n] = self.choice.tile;
        m.div_ceil(tile_m) * self.problem.n.div_ceil(tile_n)
    }

    /// Blocks that add up the splits of so many rows.
    fn chunks(&self, m: usize) -> usize {
        let per_block = self
            .reduce
            .as_ref()
            .map_or(1, |kernel| kernel.entry().threads);
        match self.reduce {
            Some(_) => (m * self.problem.n.div_ceil(CHUNK)).div_ceil(per_block as usize),
            None => 0,
        }
    }

    /// The launch of the product of so many rows, at most the planned ones.
    pub(super) fn shape(&self, m: usize) -> LaunchShape {
        let entry = self.kernel.entry();
        LaunchShape {
            // In range by the limits that `new` checked.
            grid: [self.tiles(m) as u32, self.choice.splits as u32, 1],
            threads: entry.threads,
            shared_bytes: entry.smem_bytes,
        }
    }

    /// The launch that adds up the splits.
    pub(super) fn reduce_shape(&self, m: usize) -> LaunchShape {
        LaunchShape {
            grid: [self.chunks(m) as u32, 1, 1],
            threads: self
                .reduce
                .as_ref()
                .map_or(0, |kernel| kernel.entry().threads),
            shared_bytes: 0,
        }
    }
}

/// The largest first dimension of a grid.
const MAX_GRID_X: usize = i32::MAX as usize;
/// The most elements of workspace: a terabyte, far from where sizes overflow.
const MAX_WORKSPACE: usize = 1 << 38;

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
            self.choice,
            self.device(),
            self.workspace_bytes()
        )
    }
}
