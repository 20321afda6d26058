//! Latent attention, ready to run.

use std::fmt;

use super::problem::MAX_BLOCKS;
use super::{Bound, MlaArgs, MlaError, MlaProblem};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};

/// Kernels chosen and loaded for an [`MlaProblem`]. Prints what it will launch.
///
/// A plan holds no operands: it serves every layer and step whose batch has its size. Making one
/// may load a module; running it only enqueues. Nothing of the lengths is on the host: the blocks
/// share out the work by themselves.
#[derive(Clone, Debug)]
pub struct MlaPlan {
    problem: MlaProblem,
    kernel: Kernel,
    merge: Option<Kernel>,
    merge_threads: u32,
    blocks: usize,
}

/// Words of a `Split` in decode_params.cuh.
const SPLIT_WORDS: usize = 5;
/// Rows of an item that a block of the merge kernel has.
const MERGE_ROWS: u32 = 4;

impl MlaPlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`MlaProblem::supports`] refuses, or [`PrefillError::Device`] when the device cannot run
    /// the kernel, which says what it lacks.
    ///
    /// [`PrefillError::Device`]: crate::attention::prefill::PrefillError::Device
    pub fn new(device: &Device, problem: &MlaProblem) -> Result<Self, MlaError> {
        let [entry, merge] = problem.select(device.limits())?;
        let kernel = device.kernel(entry)?;
        let resident = kernel.blocks_per_multiprocessor().max(1);
        let filling = (resident * device.limits().multiprocessors) as usize;
        let blocks = problem.blocks.unwrap_or(filling.clamp(1, MAX_BLOCKS));
        Ok(MlaPlan {
            problem: problem.clone(),
            kernel,
            merge_threads: merge.threads,
            merge: match blocks {
                1 => None,
                _ => Some(device.kernel(merge)?),
            },
            blocks,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &MlaProblem {
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

    /// Blocks that share the work.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Elements of `f32` workspace that [`MlaPlan::run`] needs, whatever the lengths are.
    pub fn workspace_elements(&self) -> usize {
        self.partial_elements() + SPLIT_WORDS * self.blocks
    }

    /// The same in bytes.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.workspace_elements()
    }

    /// Of partial results: two for each block.
    pub(super) fn partial_elements(&self) -> usize {
        let entry = self.kernel.entry();
        2 * self.blocks * entry.tile_q as usize * (self.problem.latent_dim + 2)
    }

    /// Bytes that queries, cache, output, log-sum-exp and lengths have for `total_q` queries and
    /// `total_k` tokens, each counted once. Page tables are not among them.
    ///
    /// Every launch moves at least so many, and reads the cache of a sequence again for each
    /// further 64 (or 16, as the plan says) pairs of query token and head.
    pub fn operand_bytes(&self, total_q: usize, total_k: usize) -> u128 {
        let [of_query, of_token] = self.row_bytes();
        let lengths = 4 * self.problem.batch as u128;
        total_q as u128 * of_query + total_k as u128 * of_token + lengths
    }

    /// Bytes of one query with its result over all heads, and of one token.
    fn row_bytes(&self) -> [u128; 2] {
        let MlaProblem {
            latent_dim,
            rope_dim,
            heads,
            dtype,
            lse,
            ..
        } = self.problem;
        let row = (latent_dim + rope_dim) * dtype.size();
        let of_head = row + latent_dim * dtype.size() + if lse { 4 } else { 0 };
        [(heads * of_head) as u128, row as u128]
    }

    /// Checks every operand, then enqueues the kernel on `stream`, and a second one that adds up
    /// what several blocks did parts of. Never allocates, waits, loads or records an event.
    ///
    /// # Errors
    /// [`MlaError::Rows`] for queries without offsets that are not as many for each sequence;
    /// [`MlaError::Workspace`] for too little workspace; as [`MlaError::Attention`], what
    /// [`PrefillPlan::run`](crate::attention::prefill::PrefillPlan::run) refuses.
    pub fn run(&self, stream: &Stream, args: MlaArgs<'_>) -> Result<(), MlaError> {
        let bound = self.bind(stream, args)?;
        Stream::enqueue(&bound.shares())?;
        match bound.merge() {
            Some(merge) => Ok(Stream::enqueue(&merge)?),
            None => Ok(()),
        }
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: MlaArgs<'a>,
    ) -> Result<Bound<'a>, MlaError> {
        Bound::new(self, stream, args)
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(super) fn merge(&self) -> Option<&Kernel> {
        self.merge.as_ref()
    }

    pub(super) fn shape(&self) -> LaunchShape {
        let entry = self.kernel.entry();
        let has_rows = self.problem.batch > 0 && self.problem.max_queries > 0;
        let blocks = if has_rows { self.blocks } else { 0 };
        LaunchShape {
            grid: [blocks as u32, 1, 1], // In range by the limit that was checked.
            threads: entry.threads,
            shared_bytes: entry.smem_bytes,
        }
    }

    pub(super) fn merge_shape(&self) -> LaunchShape {
        let [blocks, ..] = self.shape().grid;
        LaunchShape {
            grid: [blocks, self.kernel.entry().tile_q / MERGE_ROWS, 1],
            threads: self.merge_threads,
            shared_bytes: 0,
        }
    }
}

impl fmt::Display for MlaPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = &self.problem;
        let entry = self.kernel.entry();
        writeln!(
            f,
            "{}: {} rows by {} tokens per step, {} threads, {} bytes of shared memory",
            entry.name, entry.tile_q, entry.tile_k, entry.threads, entry.smem_bytes
        )?;
        write!(
            f,
            "  {}latent attention of {} query heads to pages of {} tokens, {} sequences of at most {} \
             queries, scale {}{}",
            if problem.causal { "causal " } else { "" },
            problem.heads,
            problem.page_size,
            problem.batch,
            problem.max_queries,
            problem.scale,
            if problem.lse {
                ", with log-sum-exp"
            } else {
                ""
            },
        )?;
        let [of_query, of_token] = self.row_bytes();
        let rows = problem.heads * problem.max_queries;
        write!(
            f,
            "\n  {} blocks with equal shares on {}, {of_query} bytes per query, {of_token} per token, \
             read for each {} of {rows} rows, {} of workspace",
            self.blocks,
            self.device(),
            entry.tile_q,
            self.workspace_bytes()
        )
    }
}
