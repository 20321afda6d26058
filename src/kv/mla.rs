//! New tokens of multi-head latent attention: a latent and rotary keys that all heads share.

use std::fmt;

use super::append::{Binder, MAX_HEADS, Rows, entry_of};
use super::cache::Pool;
use super::{AppendParams, Bound, Format, KvError, Pairing, Queries, Rotation};
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::operand::Operand;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// An append to a cache of latents to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MlaAppendProblem {
    /// The type of queries, latents and keys.
    pub dtype: DType,
    /// Elements of a latent: 512 in DeepSeek-V2 and V3.
    pub latent_dim: usize,
    /// Elements of a rotary key: 64 there.
    pub rope_dim: usize,
    /// Query heads whose rotary parts are rotated as the keys are; 0 to leave queries alone.
    pub query_heads: usize,
    /// How the cache stores elements.
    pub format: Format,
    /// How rotary keys and queries are rotated, all of their elements; `None` if they already are.
    pub rope: Option<Pairing>,
    /// Whether slot -1 says that a token is only there to fill a batch.
    pub padding: bool,
}

impl MlaAppendProblem {
    /// Latents and rotary keys as they are.
    pub fn new(dtype: DType, latent_dim: usize, rope_dim: usize) -> Self {
        MlaAppendProblem {
            dtype,
            latent_dim,
            rope_dim,
            query_heads: 0,
            format: Format::Same,
            rope: None,
            padding: false,
        }
    }

    /// With [`MlaAppendProblem::query_heads`] set.
    #[must_use]
    pub fn query_heads(mut self, query_heads: usize) -> Self {
        self.query_heads = query_heads;
        self
    }

    /// With [`MlaAppendProblem::format`] set.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// With [`MlaAppendProblem::rope`] set.
    #[must_use]
    pub fn rope(mut self, pairing: Pairing) -> Self {
        self.rope = Some(pairing);
        self
    }

    /// With [`MlaAppendProblem::padding`] set.
    #[must_use]
    pub fn padding(mut self, padding: bool) -> Self {
        self.padding = padding;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`KvError::UnsupportedDtype`], [`KvError::UnsupportedDim`], [`KvError::Limit`].
    pub fn supports(&self) -> Result<(), KvError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, KvError> {
        let entry = entry_of("kv_append", self.dtype)?;
        KvError::unless_dim("latent dim", self.latent_dim, MAX_LATENT)?;
        KvError::unless_dim("rope dim", self.rope_dim, MAX_ROPE)?;
        KvError::unless_within("query heads", self.query_heads, [0, MAX_HEADS])?;
        Ok(entry)
    }
}

const MAX_LATENT: usize = 4096;
const MAX_ROPE: usize = 256;

/// A cache of latents and rotary keys, to be read.
#[derive(Clone, Copy, Debug)]
pub enum MlaCache<'a> {
    /// Both in one row, the latent first: `[pages, page_size, latent_dim + rope_dim]`.
    Joined(Tensor<'a, 3>),
    /// A pool for each.
    Split {
        /// `[pages, page_size, latent_dim]`.
        latent: Tensor<'a, 3>,
        /// `[pages, page_size, rope_dim]`.
        rope: Tensor<'a, 3>,
    },
}

/// A cache of latents and rotary keys, to be written.
#[derive(Debug)]
pub enum MlaCacheMut<'a> {
    /// Both in one row, the latent first: `[pages, page_size, latent_dim + rope_dim]`.
    Joined(TensorMut<'a, 3>),
    /// A pool for each.
    Split {
        /// `[pages, page_size, latent_dim]`.
        latent: TensorMut<'a, 3>,
        /// `[pages, page_size, rope_dim]`.
        rope: TensorMut<'a, 3>,
    },
}

impl MlaCacheMut<'_> {
    /// The same, to be read.
    pub fn as_ref(&self) -> MlaCache<'_> {
        match self {
            MlaCacheMut::Joined(joined) => MlaCache::Joined(joined.as_ref()),
            MlaCacheMut::Split { latent, rope } => MlaCache::Split {
                latent: latent.as_ref(),
                rope: rope.as_ref(),
            },
        }
    }
}

/// Operands of [`MlaAppendPlan::run`]. What the plan's options need is given exactly if they are
/// planned.
#[derive(Debug)]
pub struct MlaAppendArgs<'a> {
    /// Latents, normalised: `[tokens, latent_dim]`.
    pub latent: Tensor<'a, 2>,
    /// Rotary keys, `[tokens, rope_dim]`.
    pub rope: Tensor<'a, 2>,
    /// Where they are stored.
    pub cache: MlaCacheMut<'a>,
    /// The slot of each token, `[tokens]` as `i64` or `i32`.
    pub slots: Tensor<'a, 1>,
    /// Rotary parts of queries, `[tokens, query_heads, rope_dim]`.
    pub queries: Queries<'a>,
    /// Positions and angles.
    pub rotation: Option<Rotation<'a>>,
    /// The scale of latents and of rotary keys in 8 bits, `[1]` each as `f32`.
    pub scales: Option<super::Scales<'a>>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

/// A kernel chosen and loaded for an [`MlaAppendProblem`].
#[derive(Clone, Debug)]
pub struct MlaAppendPlan {
    problem: MlaAppendProblem,
    kernel: Kernel,
}

impl MlaAppendPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`MlaAppendProblem::supports`] refuses, or [`KvError::Device`] when the device cannot run
    /// the kernel.
    pub fn new(device: &Device, problem: &MlaAppendProblem) -> Result<Self, KvError> {
        Ok(MlaAppendPlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &MlaAppendProblem {
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
    /// records an event. Slots and positions are treated as by
    /// [`AppendPlan::run`](super::AppendPlan::run).
    ///
    /// # Errors
    /// As for [`AppendPlan::run`](super::AppendPlan::run).
    pub fn run(&self, stream: &Stream, args: MlaAppendArgs<'_>) -> Result<(), KvError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a MlaAppendArgs<'_>,
    ) -> Result<Bound<'a, AppendParams>, KvError> {
        let problem = &self.problem;
        let (latent_dim, rope_dim) = (problem.latent_dim, problem.rope_dim);
        let mut binder = Binder::new(&self.kernel, stream, problem.dtype)?;
        let tokens = binder.tokens("latent", &args.latent)?;
        let (address, stride) = binder.row("latent", &args.latent, [tokens, latent_dim])?;
        let latent = Rows::wide(address, stride, latent_dim);
        let (address, stride) = binder.row("rope", &args.rope, [tokens, rope_dim])?;
        let rope = Rows::new(address, [stride, 0], 1, rope_dim);

        let (pools, pages) = self.pools(stream, &mut binder, &args.cache)?;
        binder.pages(pages)?;
        binder.slots(&args.slots, tokens, problem.padding)?;
        let rotates = binder.rotation(
            problem.rope.map(|pairing| (pairing, rope_dim)),
            args.rotation.as_ref(),
            tokens,
        )?;
        let contents = super::cache::Contents {
            dtype: problem.dtype,
            format: problem.format,
            heads: 1,
            dims: [latent_dim, rope_dim],
        };
        let scales = super::Scales::of(args.scales.as_ref(), stream, contents)?;
        if let Some(super::Scales { k, v }) = &args.scales {
            for (name, tensor) in [("k scales", k), ("v scales", v)] {
                binder.apart.read(Operand { name, tensor });
            }
        }
        let mut queries = binder.queries(&args.queries, [tokens, problem.query_heads, rope_dim])?;
        let latents = latent.to_pages(pools[0], problem.format, scales[0]);
        let mut keys = rope.to_pages(pools[1], problem.format, scales[1]);
        for part in [&mut queries, &mut keys] {
            part.rotates = i32::from(rotates);
        }
        binder.finish([queries, latents, keys], tokens, args.status)
    }

    /// Where latents and rotary keys lie, and the pages and their size.
    fn pools<'t>(
        &self,
        stream: &Stream,
        binder: &mut Binder<'_, 't>,
        cache: &'t MlaCacheMut<'_>,
    ) -> Result<([Pool; 2], [usize; 2]), KvError> {
        let MlaAppendProblem {
            dtype,
            latent_dim,
            rope_dim,
            format,
            ..
        } = self.problem;
        let mut pool = |name, tensor: &Tensor<'t, 3>, pages: [usize; 2], dim: usize| {
            let operand = Operand { name, tensor };
            super::cache::cache_type(operand, format.dtypes(dtype))?;
            operand.shape([pages[0], pages[1], dim])?;
            operand.place(stream)?;
            let [stride_page, stride_slot, _] = operand.aligned_strides()?;
            binder.apart.written(operand);
            Ok::<_, KvError>(Pool {
                address: tensor.address(),
                stride_page,
                stride_slot,
                stride_group: 8,
                stride_element: 1,
                ..Pool::default()
            })
        };
        let in_parts = |pool: Pool| Pool {
            stride_head: Rows::part(latent_dim) as i64,
            ..pool
        };
        match cache {
            MlaCacheMut::Joined(joined) => {
                let joined = joined.as_ref();
                let [pages, page_size, _] = joined.shape();
                let of = pool("cache", &joined, [pages, page_size], latent_dim + rope_dim)?;
                let behind = (latent_dim * format.size(dtype)) as u64;
                let keys = Pool {
                    // Within the row, where there is one.
                    address: of.address.wrapping_add(behind),
                    ..of
                };
                Ok(([in_parts(of), keys], [pages, page_size]))
            }
            MlaCacheMut::Split { latent, rope } => {
                let (latent, rope) = (latent.as_ref(), rope.as_ref());
                let [pages, page_size, _] = latent.shape();
                let latents = pool("latent cache", &latent, [pages, page_size], latent_dim)?;
                let keys = pool("rope cache", &rope, [pages, page_size], rope_dim)?;
                Ok(([in_parts(latents), keys], [pages, page_size]))
            }
        }
    }
}

impl fmt::Display for MlaAppendPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MlaAppendProblem {
            dtype,
            latent_dim,
            rope_dim,
            query_heads,
            format,
            rope,
            padding,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(f, "{}: {} threads\n  ", entry.name, entry.threads)?;
        if query_heads > 0 {
            write!(f, "{query_heads} query heads of {rope_dim}, ")?;
        }
        write!(
            f,
            "latents of {latent_dim}, rotary keys of {rope_dim}, {dtype}"
        )?;
        if format != Format::Same {
            write!(f, " to {format:?}")?;
        }
        if let Some(pairing) = rope {
            write!(f, ", {pairing:?} rotated")?;
        }
        if padding {
            write!(f, ", slot -1 is padding")?;
        }
        write!(f, "\n  on {}", self.device())
    }
}
