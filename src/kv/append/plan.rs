//! An append, ready to run.

use std::fmt;

use super::{AppendArgs, AppendParams, AppendProblem, bind};
use crate::device::{Device, Kernel, Stream};
use crate::kv::{Bound, Format, KvError};

/// A kernel chosen and loaded for an [`AppendProblem`]. Prints what it will launch.
///
/// It serves every layer of its shape, every cache and any number of tokens. Making one may load a
/// module; running it only enqueues.
#[derive(Clone, Debug)]
pub struct AppendPlan {
    problem: AppendProblem,
    kernel: Kernel,
}

impl AppendPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`AppendProblem::supports`] refuses, or [`KvError::Device`] when the device cannot run
    /// the kernel.
    pub fn new(device: &Device, problem: &AppendProblem) -> Result<Self, KvError> {
        Ok(AppendPlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &AppendProblem {
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

    /// Bytes of the rows of so many tokens, read and written, each counted once: the least that a
    /// launch moves, but for indices, angles, weights and scales.
    pub fn row_bytes(&self, tokens: usize) -> u128 {
        let AppendProblem {
            dtype,
            heads,
            dim,
            v_dim,
            query_heads,
            format,
            ..
        } = self.problem;
        let (read, stored) = (dtype.size(), format.size(dtype));
        let row = 2 * read * query_heads * dim + (read + stored) * heads * (dim + v_dim);
        tokens as u128 * row as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// A token whose slot is -1 or out of range keeps nothing in the cache, one whose position is out
    /// of range is left alone altogether, queries included; both are reported in the status word,
    /// unless -1 is [planned](AppendProblem::padding) to mean padding. Where two tokens have the
    /// same slot, each element is that of one of them.
    ///
    /// # Errors
    /// [`KvError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps another that is written;
    /// [`KvError::CacheType`], [`KvError::Groups`] for a cache of another format;
    /// [`KvError::Option`] for an operand that is missing or not planned; [`KvError::Scales`];
    /// [`KvError::Limit`] for more slots or tokens than 32 bits count; [`KvError::Device`] when the
    /// launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: AppendArgs<'_>) -> Result<(), KvError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a AppendArgs<'_>,
    ) -> Result<Bound<'a, AppendParams>, KvError> {
        bind::bind(self, stream, args)
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}

impl fmt::Display for AppendPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AppendProblem {
            dtype,
            heads,
            dim,
            v_dim,
            query_heads,
            format,
            rope,
            norm,
            padding,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(f, "{}: {} threads\n  ", entry.name, entry.threads)?;
        if query_heads > 0 {
            write!(f, "{query_heads} query heads of {dim}, ")?;
        }
        write!(f, "{heads} heads of {dim} and {v_dim}, {dtype}")?;
        if format != Format::Same {
            write!(f, " to {format:?}")?;
        }
        if let Some(norm) = norm {
            let weights = if norm.plus_one {
                "1 + weight"
            } else {
                "weight"
            };
            write!(f, ", RMS norm by {weights}, eps {}", norm.eps)?;
        }
        if let Some(rope) = rope {
            write!(f, ", {:?} of {} rotated", rope.pairing, rope.dim)?;
        }
        if padding {
            write!(f, ", slot -1 is padding")?;
        }
        let bytes = self.row_bytes(1);
        write!(f, "\n  {bytes} bytes per token on {}", self.device())
    }
}
