//! A prefill, ready to run.

use std::fmt;

use super::select::Selection;
use super::{Bound, PrefillArgs, PrefillError, PrefillParams, PrefillProblem};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};

/// A kernel chosen and loaded for a [`PrefillProblem`]. Prints what it will launch.
///
/// A plan holds no operands: it serves every layer and step whose batch has its size. Making one
/// may load a module; running it only enqueues.
#[derive(Clone, Debug)]
pub struct PrefillPlan {
    problem: PrefillProblem,
    kernel: Kernel,
    selection: Selection,
    pub(super) shape: LaunchShape,
}

impl PrefillPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`PrefillProblem::supports`] refuses, or [`PrefillError::Device`] when the device
    /// cannot run the kernel, which says what it lacks.
    pub fn new(device: &Device, problem: &PrefillProblem) -> Result<Self, PrefillError> {
        let selection = problem.select()?;
        let entry = selection.entry;
        let kernel = device.kernel(entry)?;
        // In range by the limits that `select` checked.
        let tiles = problem.max_seqlen_q.div_ceil(entry.tile_q.max(1) as usize) as u32;
        Ok(PrefillPlan {
            problem: problem.clone(),
            kernel,
            selection,
            shape: LaunchShape {
                grid: [tiles, problem.heads.query as u32, problem.batch as u32],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &PrefillProblem {
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

    /// Blocks of the launch; those beyond a sequence's last query return at once.
    pub fn blocks(&self) -> u64 {
        self.shape.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// How often the device is filled by these blocks.
    pub fn waves(&self) -> f64 {
        let limits = self.device().limits();
        let resident = self.kernel.blocks_per_multiprocessor() * limits.multiprocessors;
        self.blocks() as f64 / f64::from(resident.max(1))
    }

    /// Bytes of workspace that [`PrefillPlan::run`] needs: exactly none.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// Bytes that queries, keys, values, output, log-sum-exp and lengths have for `total_q` queries
    /// and `total_k` keys, each counted once. Page tables and masks are not among them.
    ///
    /// Every launch moves at least so many, unless a window or a mask hides keys; it also reads
    /// keys and values again for each tile of queries, mostly from the cache.
    pub fn operand_bytes(&self, total_q: usize, total_k: usize) -> u128 {
        let [of_query, of_key] = self.row_bytes();
        let lengths = 8 * (self.problem.batch as u128 + 1);
        total_q as u128 * of_query + total_k as u128 * of_key + lengths
    }

    /// Bytes of one query with its result, and of one key with its value, over all heads.
    fn row_bytes(&self) -> [u128; 2] {
        let PrefillProblem {
            dtype,
            heads,
            v_dim,
            lse,
            ..
        } = self.problem;
        let row = (heads.dim + v_dim) as u128 * dtype.size() as u128;
        let lse = if lse { 4 } else { 0 };
        [heads.query as u128 * (row + lse), heads.kv as u128 * row]
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads
    /// or records an event.
    ///
    /// # Errors
    /// [`PrefillError::Operand`] for an operand of another type, shape, stride, alignment, device
    /// or stream than the plan and the kernel call for, or one that overlaps an output;
    /// [`PrefillError::Batch`], [`PrefillError::SeqLen`], [`PrefillError::SeqEnd`] for sequences
    /// that do not fit the plan or the operands; [`PrefillError::KvLayout`] for keys of another form
    /// than planned; [`PrefillError::PoolSize`] for a page pool beyond what kernels address;
    /// [`PrefillError::Lse`], [`PrefillError::Option`] for an operand that is given without being
    /// planned, or the other way round; [`PrefillError::Device`] when the launch fails, or the
    /// stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: PrefillArgs<'_>) -> Result<(), PrefillError> {
        Ok(Stream::enqueue(&self.bind(stream, args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: PrefillArgs<'a>,
    ) -> Result<Bound<'a>, PrefillError> {
        Bound::new(self, stream, args)
    }

    /// The kernel's parameters without operands.
    pub(super) fn params(&self) -> PrefillParams {
        self.selection.params(&self.problem)
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}

impl fmt::Display for PrefillPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PrefillProblem {
            heads,
            batch,
            max_seqlen_q,
            kv,
            causal,
            scale,
            ..
        } = self.problem;
        let entry = self.kernel.entry();
        let [x, y, z] = self.shape.grid;
        writeln!(
            f,
            "{}: {} queries by {} keys per tile, {} stages, {} threads, {} bytes of shared memory",
            entry.name, entry.tile_q, entry.tile_k, entry.stages, entry.threads, entry.smem_bytes
        )?;
        let kind = if causal { "causal " } else { "" };
        write!(
            f,
            "  {kind}attention of {} query and {} kv heads to {kv}, {batch} sequences of at most \
             {max_seqlen_q} queries, scale {scale}",
            heads.query, heads.kv,
        )?;
        for option in self.selection.options(&self.problem) {
            write!(f, ", {option}")?;
        }
        let [of_query, of_key] = self.row_bytes();
        write!(
            f,
            "\n  grid {x} x {y} x {z} = {} blocks, {:.2} waves on {}, {of_query} bytes per query, \
             {of_key} per key, {} of workspace",
            self.blocks(),
            self.waves(),
            self.device(),
            self.workspace_bytes()
        )
    }
}
