//! What is to be stored, and what is done to it on the way.

use crate::catalog::{self, Entry};
use crate::dtype::DType;
use crate::kv::cache::Contents;
use crate::kv::{Format, KvError};

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Element `i` of the first half and element `i` of the second: GPT-NeoX, Llama, Qwen.
    #[default]
    Halves,
    /// Elements `2i` and `2i + 1`: GPT-J, the rotary part of DeepSeek-V2.
    Interleaved,
}

/// Rotary embedding: pair `i` of a head at position `p` becomes `(a·c - b·s, b·c + a·s)` with the
/// cosine `c` and the sine `s` in row `p`, column `i` of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rope {
    /// Which elements form a pair.
    pub pairing: Pairing,
    /// Elements of a head that are rotated, its first ones: an even number.
    pub dim: usize,
}

/// RMS norm of each head of queries and keys, before their rotation:
/// `x · weight / √(mean(x²) + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean.
    pub eps: f32,
    /// Whether 1 is added to the weights, as Gemma has it.
    pub plus_one: bool,
}

/// An append to be planned: heads, their dimensions, and options. All can be combined.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppendProblem {
    /// The type of queries, keys and values.
    pub dtype: DType,
    /// Heads of keys and of values.
    pub heads: usize,
    /// Elements of a key's and a query's head.
    pub dim: usize,
    /// Elements of a value's head.
    pub v_dim: usize,
    /// Query heads, normalised and rotated as the keys are; 0 to leave queries alone.
    pub query_heads: usize,
    /// How the cache stores elements.
    pub format: Format,
    /// Rotation of keys and queries.
    pub rope: Option<Rope>,
    /// Norm of keys and queries.
    pub norm: Option<Norm>,
    /// Whether slot -1 says that a token is only there to fill a batch: it is skipped without a
    /// report.
    pub padding: bool,
}

impl AppendProblem {
    /// Keys and values as they are.
    pub fn new(dtype: DType, heads: usize, dim: usize) -> Self {
        AppendProblem {
            dtype,
            heads,
            dim,
            v_dim: dim,
            query_heads: 0,
            format: Format::Same,
            rope: None,
            norm: None,
            padding: false,
        }
    }

    /// With [`AppendProblem::v_dim`] set.
    #[must_use]
    pub fn v_dim(mut self, v_dim: usize) -> Self {
        self.v_dim = v_dim;
        self
    }

    /// With [`AppendProblem::query_heads`] set.
    #[must_use]
    pub fn query_heads(mut self, query_heads: usize) -> Self {
        self.query_heads = query_heads;
        self
    }

    /// With [`AppendProblem::format`] set.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// With [`AppendProblem::rope`] set.
    #[must_use]
    pub fn rope(mut self, pairing: Pairing, dim: usize) -> Self {
        self.rope = Some(Rope { pairing, dim });
        self
    }

    /// With [`AppendProblem::norm`] set.
    #[must_use]
    pub fn norm(mut self, norm: Norm) -> Self {
        self.norm = Some(norm);
        self
    }

    /// With [`AppendProblem::padding`] set.
    #[must_use]
    pub fn padding(mut self, padding: bool) -> Self {
        self.padding = padding;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`KvError::UnsupportedDtype`], [`KvError::UnsupportedDim`], [`KvError::RotaryDim`],
    /// [`KvError::Eps`], [`KvError::TooFew`], [`KvError::Limit`].
    pub fn supports(&self) -> Result<(), KvError> {
        self.entry().map(drop)
    }

    pub(super) fn entry(&self) -> Result<&'static Entry, KvError> {
        let entry = entry_of("kv_append", self.dtype)?;
        for (what, got) in [("head dim", self.dim), ("head dim of values", self.v_dim)] {
            KvError::unless_dim(what, got, MAX_DIM)?;
        }
        KvError::unless_within("heads", self.heads, [1, MAX_HEADS])?;
        KvError::unless_within("query heads", self.query_heads, [0, MAX_HEADS])?;
        if let Some(Rope { dim: got, .. }) = self.rope
            && (got == 0 || got > self.dim || !got.is_multiple_of(2))
        {
            return Err(KvError::RotaryDim {
                expected: self.dim,
                got,
            });
        }
        match self.norm {
            Some(Norm { eps: got, .. }) if !(got >= 0.0 && got.is_finite()) => {
                Err(KvError::Eps { got })
            }
            _ => Ok(entry),
        }
    }

    pub(super) fn contents(&self) -> Contents {
        Contents {
            dtype: self.dtype,
            format: self.format,
            heads: self.heads,
            dims: [self.dim, self.v_dim],
        }
    }
}

/// The most elements of a head: 8 for each lane of a warp.
pub(in crate::kv) const MAX_DIM: usize = 256;
/// The most heads.
pub(in crate::kv) const MAX_HEADS: usize = 65_535;

/// The entry of a family for a type of elements.
pub(crate) fn entry_of(kernel: &'static str, dtype: DType) -> Result<&'static Entry, KvError> {
    let all = || catalog::ENTRIES.iter().filter(|e| e.kernel == kernel);
    all()
        .find(|entry| entry.dtype == dtype.name())
        .ok_or_else(|| KvError::UnsupportedDtype {
            kernel,
            expected: all().map(|entry| entry.dtype).collect(),
            got: dtype,
        })
}
