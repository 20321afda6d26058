//! Ranges of K that blocks of their own sum: what they need, and the launch that adds them up.

use super::problem::{CHUNK, limit};
use super::{BoundLaunch, GemmError, GemmParams, GemmProblem, TileChoice};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};

/// A tile, a split, and the kernel that adds up splits if there are several.
#[derive(Clone, Debug)]
pub(crate) struct Splits {
    pub choice: TileChoice,
    reduce: Option<Kernel>,
}

/// The largest first dimension of a grid.
const MAX_GRID_X: usize = i32::MAX as usize;
/// The most elements of workspace: a terabyte, far from where sizes overflow.
const MAX_WORKSPACE: usize = 1 << 38;

impl Splits {
    /// Loads what is needed, and checks that every launch of up to the planned rows fits.
    pub fn new(
        device: &Device,
        problem: &GemmProblem,
        choice: TileChoice,
    ) -> Result<Splits, GemmError> {
        let reduce = match choice.splits {
            1 => None,
            _ => Some(device.kernel(problem.reduce()?)?),
        };
        let splits = Splits { choice, reduce };
        let workspace = u128::from(choice.splits > 1)
            * problem.parts() as u128
            * choice.splits as u128
            * problem.max_m as u128
            * problem.n as u128;
        let workspace = usize::try_from(workspace).unwrap_or(usize::MAX);
        limit("elements of workspace", workspace, MAX_WORKSPACE)?;
        limit("blocks", splits.tiles(problem, problem.max_m), MAX_GRID_X)?;
        limit(
            "chunks of y",
            splits.chunks(problem, problem.max_m),
            MAX_GRID_X,
        )?;
        Ok(splits)
    }

    /// Elements of `f32` for partial sums: exactly none where K is not split.
    pub fn workspace_elements(&self, problem: &GemmProblem) -> usize {
        match self.choice.splits {
            1 => 0,
            splits => splits * problem.parts() * problem.max_m * problem.n,
        }
    }

    /// Tiles of `y` with so many rows.
    pub fn tiles(&self, problem: &GemmProblem, m: usize) -> usize {
        let [tile_m, tile_n] = self.choice.tile;
        m.div_ceil(tile_m) * problem.n.div_ceil(tile_n)
    }

    /// The launch of `kernel` for so many rows, at most the planned ones.
    pub fn shape(&self, problem: &GemmProblem, kernel: &Kernel, m: usize) -> LaunchShape {
        let entry = kernel.entry();
        LaunchShape {
            // In range by the limits that `new` checked.
            grid: [self.tiles(problem, m) as u32, self.choice.splits as u32, 1],
            threads: entry.threads,
            shared_bytes: entry.smem_bytes,
        }
    }

    /// Blocks that add up the splits of so many rows.
    fn chunks(&self, problem: &GemmProblem, m: usize) -> usize {
        match &self.reduce {
            Some(kernel) => {
                (m * problem.n.div_ceil(CHUNK)).div_ceil(kernel.entry().threads as usize)
            }
            None => 0,
        }
    }

    /// The launch that adds up the splits of so many rows, if there are several.
    pub fn bound<'b>(
        &'b self,
        problem: &GemmProblem,
        stream: &'b Stream,
        m: usize,
        params: &'b GemmParams,
    ) -> Option<BoundLaunch<'b>> {
        let kernel = self.reduce.as_ref()?;
        Some(BoundLaunch {
            kernel,
            stream,
            shape: LaunchShape {
                grid: [self.chunks(problem, m) as u32, 1, 1],
                threads: kernel.entry().threads,
                shared_bytes: 0,
            },
            params,
        })
    }
}
