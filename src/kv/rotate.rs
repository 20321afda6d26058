//! Rotation of queries and keys where they lie, for engines that store them by other means.

use std::fmt;

use super::append::{Binder, entry_of};
use super::{
    AppendParams, AppendProblem, Bound, KvError, Norm, Pairing, Queries, Rope, Rotation, Weights,
};
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::status::StatusWord;

/// A rotation to be planned: of keys, and of queries if there are some, after a norm if wanted. What
/// [`AppendPlan`](super::AppendPlan) does to them on their way into a cache, without the cache.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RotateProblem {
    /// The type of queries and keys.
    pub dtype: DType,
    /// Heads of keys: or of what is rotated, where that is one tensor.
    pub heads: usize,
    /// Query heads; 0 for none.
    pub query_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Which elements are rotated together, and how many.
    pub rope: Rope,
    /// Norm of each head, before its rotation.
    pub norm: Option<Norm>,
}

impl RotateProblem {
    /// Whole heads of one tensor.
    pub fn new(dtype: DType, heads: usize, dim: usize, pairing: Pairing) -> Self {
        RotateProblem {
            dtype,
            heads,
            query_heads: 0,
            dim,
            rope: Rope { pairing, dim },
            norm: None,
        }
    }

    /// With [`RotateProblem::query_heads`] set.
    #[must_use]
    pub fn query_heads(mut self, query_heads: usize) -> Self {
        self.query_heads = query_heads;
        self
    }

    /// With only the first elements of each head rotated, so many.
    #[must_use]
    pub fn rotary_dim(mut self, dim: usize) -> Self {
        self.rope.dim = dim;
        self
    }

    /// With [`RotateProblem::norm`] set.
    #[must_use]
    pub fn norm(mut self, norm: Norm) -> Self {
        self.norm = Some(norm);
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// As for [`AppendProblem::supports`].
    pub fn supports(&self) -> Result<(), KvError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, KvError> {
        let mut append = AppendProblem::new(self.dtype, self.heads, self.dim)
            .query_heads(self.query_heads)
            .rope(self.rope.pairing, self.rope.dim);
        append.norm = self.norm;
        append.supports()?;
        entry_of("kv_append", self.dtype)
    }
}

/// Operands of [`RotatePlan::run`].
#[derive(Debug)]
pub struct RotateArgs<'a> {
    /// Keys, `[tokens, heads, dim]`.
    pub keys: Queries<'a>,
    /// Queries, `[tokens, query_heads, dim]`, exactly if planned.
    pub queries: Queries<'a>,
    /// Positions and angles.
    pub rotation: Rotation<'a>,
    /// Weights of the norm, exactly if it is planned.
    pub weights: Option<Weights<'a>>,
    /// Where the kernel reports positions that it cannot use.
    pub status: &'a StatusWord,
}

impl<'a> RotateArgs<'a> {
    /// Without queries and weights: one tensor, in place or to another.
    pub fn new(keys: Queries<'a>, rotation: Rotation<'a>, status: &'a StatusWord) -> Self {
        RotateArgs {
            keys,
            queries: Queries::None,
            rotation,
            weights: None,
            status,
        }
    }

    /// With [`RotateArgs::queries`] set.
    #[must_use]
    pub fn queries(mut self, queries: Queries<'a>) -> Self {
        self.queries = queries;
        self
    }

    /// With [`RotateArgs::weights`] set.
    #[must_use]
    pub fn weights(mut self, weights: Weights<'a>) -> Self {
        self.weights = Some(weights);
        self
    }
}

/// A kernel chosen and loaded for a [`RotateProblem`]. Prints what it will launch.
#[derive(Clone, Debug)]
pub struct RotatePlan {
    problem: RotateProblem,
    kernel: Kernel,
}

impl RotatePlan {
    /// Chooses the kernel and loads it, if it is not yet: the one that appends to caches.
    ///
    /// # Errors
    /// What [`RotateProblem::supports`] refuses, or [`KvError::Device`] when the device cannot run
    /// the kernel.
    pub fn new(device: &Device, problem: &RotateProblem) -> Result<Self, KvError> {
        Ok(RotatePlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &RotateProblem {
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

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// A token whose position is out of range of the angles is left alone, and reported in the status
    /// word.
    ///
    /// # Errors
    /// [`KvError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps another that is written;
    /// [`KvError::Option`] for an operand that is missing or not planned; [`KvError::Limit`] for more
    /// tokens than 32 bits count; [`KvError::Device`] when the launch fails, or the stream is
    /// recording a graph.
    pub fn run(&self, stream: &Stream, args: RotateArgs<'_>) -> Result<(), KvError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a RotateArgs<'_>,
    ) -> Result<Bound<'a, AppendParams>, KvError> {
        let RotateProblem {
            dtype,
            heads,
            query_heads,
            dim,
            rope,
            norm,
        } = self.problem;
        let mut binder = Binder::new(&self.kernel, stream, dtype)?;
        let tokens = match &args.keys {
            Queries::None => 0,
            Queries::InPlace(keys) => binder.tokens("keys", &keys.as_ref())?,
            Queries::To { q, .. } => binder.tokens("keys", q)?,
        };
        let keys = binder.rotated(["keys", "rotated keys"], &args.keys, [tokens, heads, dim]);
        let queries = binder.queries(&args.queries, [tokens, query_heads, dim]);
        let (mut keys, mut queries) = (keys?, queries?);
        let rope = Some((rope.pairing, rope.dim));
        binder.rotation(rope, Some(&args.rotation), tokens)?;
        (keys.rotates, queries.rotates) = (1, 1);
        KvError::unless_planned("weights", norm.is_some(), args.weights.is_some())?;
        if let (Some(norm), Some(weights)) = (norm, &args.weights) {
            let of = binder.norm(norm, weights, dim, query_heads > 0)?;
            (queries.norm_weight, keys.norm_weight) = (of[0], of[1]);
        }
        binder.finish([queries, keys, Default::default()], tokens, args.status)
    }
}

impl fmt::Display for RotatePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RotateProblem {
            dtype,
            heads,
            query_heads,
            dim,
            rope,
            norm,
        } = &self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads\n  {query_heads} query heads and {heads} heads of {dim} {dtype}, {:?} of {} rotated",
            entry.name, entry.threads, rope.pairing, rope.dim
        )?;
        if let Some(norm) = norm {
            write!(f, ", after an RMS norm, eps {}", norm.eps)?;
        }
        write!(f, "\n  on {}", self.device())
    }
}
