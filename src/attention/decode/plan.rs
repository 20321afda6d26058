//! A decode, ready to run.

use std::fmt;

use super::select::{Choice, MAX_BLOCKS};
use super::{Bound, DecodeArgs, DecodeError, DecodeProblem, segments};
use crate::attention::prefill::{HeadShape, PrefillParams};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::kv::Format;

/// Kernels chosen and loaded for a [`DecodeProblem`]. Prints what it will launch.
///
/// A plan holds no operands: it serves every layer and step whose batch has its size. Making one
/// may load a module; running it only enqueues. Nothing of the lengths is on the host: the blocks
/// share out the work by themselves.
#[derive(Clone, Debug)]
pub struct DecodePlan {
    problem: DecodeProblem,
    choice: Choice,
    kernel: Kernel,
    merge: Option<Kernel>,
    blocks: usize,
}

/// Of one multiprocessor: more hide no more latency, and leave more partial results.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 2;
/// Words of a `Split` in decode_params.cuh, and of a `SegmentSplit` in decode_invariant_params.cuh.
const SPLIT_WORDS: usize = 5;
const SEGMENT_SPLIT_WORDS: usize = 7;
/// Rows of an item that a block of the merge kernel has.
const MERGE_ROWS: u32 = 4;

impl DecodePlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`DecodeProblem::supports`] refuses, or [`PrefillError::Device`] when the device cannot
    /// run the kernel, which says what it lacks.
    ///
    /// [`PrefillError::Device`]: crate::attention::prefill::PrefillError::Device
    pub fn new(device: &Device, problem: &DecodeProblem) -> Result<Self, DecodeError> {
        let choice = problem.select()?;
        let kernel = device.kernel(choice.entry)?;
        let resident = kernel
            .blocks_per_multiprocessor()
            .clamp(1, BLOCKS_PER_MULTIPROCESSOR);
        let filling = (resident * device.limits().multiprocessors) as usize;
        let blocks = problem
            .wanted_blocks()
            .unwrap_or(filling.clamp(1, MAX_BLOCKS));
        let merge = match blocks {
            1 => None,
            _ => Some(device.kernel(choice.merge)?),
        };
        Ok(DecodePlan {
            problem: problem.clone(),
            choice,
            kernel,
            merge,
            blocks,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &DecodeProblem {
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

    /// Elements of `f32` workspace that [`DecodePlan::run`] needs, whatever the lengths are.
    pub fn workspace_elements(&self) -> usize {
        let words = match self.problem.invariant_keys() {
            None => SPLIT_WORDS,
            Some(_) => SEGMENT_SPLIT_WORDS,
        };
        self.partial_elements() + words * self.blocks
    }

    /// The same in bytes.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.workspace_elements()
    }

    /// Of partial results.
    pub(super) fn partial_elements(&self) -> usize {
        let entry = self.kernel.entry();
        let of_block = self.places() * entry.tile_q as usize;
        self.blocks * of_block * (entry.v_dim as usize + 2)
    }

    /// Partial results that each block has room for.
    pub(super) fn places(&self) -> usize {
        match self.problem.invariant_keys() {
            None => 2,
            Some(keys) => segments::places(self.problem.attention(), keys, self.blocks),
        }
    }

    /// Bytes that queries, keys, values, output, log-sum-exp and lengths have for `total_q` queries
    /// and `total_k` keys, each counted once. Page tables and masks are not among them.
    ///
    /// Every launch moves at least so many, unless a window or a mask hides keys, and not many more
    /// if the queries of a sequence, times the query heads for each kv head, are at most 16; else it
    /// reads keys and values again for each further 16.
    pub fn operand_bytes(&self, total_q: usize, total_k: usize) -> u128 {
        let [of_query, of_key] = self.row_bytes();
        let lengths = 4 * self.problem.attention().batch as u128;
        total_q as u128 * of_query + total_k as u128 * of_key + lengths
    }

    /// Bytes of one query with its result, and of one key with its value, over all heads.
    fn row_bytes(&self) -> [u128; 2] {
        let problem = self.problem.attention();
        let HeadShape { query, kv, dim } = problem.heads;
        let elements = (dim + problem.v_dim) as u128;
        let row = elements * problem.dtype.size() as u128;
        let cached = elements * self.problem.cache_format().size(problem.dtype) as u128;
        let lse = if problem.lse { 4 } else { 0 };
        [query as u128 * (row + lse), kv as u128 * cached]
    }

    /// Checks every operand, then enqueues the kernel on `stream`, and a second one that adds up
    /// what several blocks did parts of. Never allocates, waits, loads or records an event.
    ///
    /// # Errors
    /// [`DecodeError::Rows`] for queries without offsets that are not as many for each sequence;
    /// [`DecodeError::Workspace`] for too little workspace; as [`DecodeError::Attention`], what
    /// [`PrefillPlan::run`](crate::attention::prefill::PrefillPlan::run) refuses.
    pub fn run(&self, stream: &Stream, args: DecodeArgs<'_>) -> Result<(), DecodeError> {
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
        args: DecodeArgs<'a>,
    ) -> Result<Bound<'a>, DecodeError> {
        Bound::new(self, stream, args)
    }

    pub(super) fn params(&self) -> PrefillParams {
        self.choice.constants.params(self.problem.attention())
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(super) fn merge(&self) -> Option<&Kernel> {
        self.merge.as_ref()
    }

    /// Whether there can be a row to compute.
    fn has_rows(&self) -> bool {
        let problem = self.problem.attention();
        problem.batch > 0 && problem.max_seqlen_q > 0
    }

    pub(super) fn shape(&self) -> LaunchShape {
        let entry = self.kernel.entry();
        let blocks = if self.has_rows() { self.blocks } else { 0 };
        LaunchShape {
            grid: [blocks as u32, 1, 1], // In range by the limit that `select` checked.
            threads: entry.threads,
            shared_bytes: entry.smem_bytes,
        }
    }

    pub(super) fn merge_shape(&self) -> LaunchShape {
        let [blocks, ..] = self.shape().grid;
        LaunchShape {
            grid: [blocks, self.kernel.entry().tile_q / MERGE_ROWS, 1],
            threads: self.choice.merge.threads,
            shared_bytes: self.choice.merge.smem_bytes,
        }
    }
}

impl fmt::Display for DecodePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem.attention();
        let entry = self.kernel.entry();
        writeln!(
            f,
            "{}: {} rows by {} keys per step and warp, {} threads, {} bytes of shared memory",
            entry.name, entry.tile_q, entry.tile_k, entry.threads, entry.smem_bytes
        )?;
        let kind = if problem.causal { "causal " } else { "" };
        write!(
            f,
            "  {kind}attention of {} query and {} kv heads to {}, {} sequences of at most {} \
             queries, scale {}",
            problem.heads.query,
            problem.heads.kv,
            problem.kv,
            problem.batch,
            problem.max_seqlen_q,
            problem.scale,
        )?;
        if self.problem.cache_format() != Format::Same {
            write!(f, ", cache in {}", self.problem.cache_format().name())?;
        }
        if let Some(keys) = self.problem.invariant_keys() {
            write!(f, ", batch-invariant for at most {keys} keys")?;
        }
        for option in self.choice.constants.options(problem) {
            write!(f, ", {option}")?;
        }
        let [of_query, of_key] = self.row_bytes();
        write!(
            f,
            "\n  {} blocks with equal shares on {}, {of_query} bytes per query, {of_key} per key, \
             {} of workspace",
            self.blocks,
            self.device(),
            self.workspace_bytes()
        )
    }
}
