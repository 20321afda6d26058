//! What is to be computed.

use super::GemmError;
use super::tiles::{self, TileChoice};
use crate::catalog::{self, Entry};
use crate::dtype::DType;

/// How a weight matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// `[n, k]`: a row per output, as PyTorch's `Linear` and most checkpoints have it.
    Nk,
    /// `[k, n]`: a row per input.
    Kn,
}

/// What is applied to the sums, after the bias. Gated products apply it to the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(z, 0)`.
    Relu,
    /// `z·sigmoid(z)`; gated: SwiGLU.
    Silu,
    /// `z/2·(1 + tanh(√(2/π)·(z + 0.044715·z³)))`; gated: GeGLU as Gemma has it.
    GeluTanh,
    /// `z/2·(1 + erf(z/√2))`.
    GeluErf,
    /// Gated only, as gpt-oss has it: `g·sigmoid(1.702·g)·(u + 1)` with `g` at most 7 and `u`
    /// within ±7.
    ClampedSwiglu,
}

impl Activation {
    /// The number that the kernel knows it by.
    pub(crate) fn code(self) -> i32 {
        match self {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::Silu => 2,
            Activation::GeluTanh => 3,
            Activation::GeluErf => 4,
            Activation::ClampedSwiglu => 5,
        }
    }
}

/// A matrix product to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GemmProblem {
    /// The type of `x`, `w`, biases and residual.
    pub dtype: DType,
    /// Rows of `x`: no call has more.
    pub max_m: usize,
    /// Columns of `y`.
    pub n: usize,
    /// Columns of `x`.
    pub k: usize,
    /// How weights are stored.
    pub layout: WeightLayout,
    /// Whether rows and bases of `x` and `w` lie at multiples of 16 bytes. If not, a slow kernel
    /// reads element by element.
    pub aligned: bool,
    /// The type of `y`: `dtype` or `f32`.
    pub out: DType,
    /// What is applied to the sums.
    pub activation: Activation,
    /// Whether there are up weights, whose product the activated one is multiplied by.
    pub gated: bool,
    /// Whether a row's bits must not depend on how many rows there are, nor on the device: K is
    /// then never split, which costs small products their parallelism.
    pub batch_invariant: bool,
    /// Into how many ranges K is split; `None` leaves it to the plan.
    pub splits: Option<usize>,
    /// Rows of `x` and of weights that a block multiplies; `None` leaves it to the plan.
    pub tile: Option<[usize; 2]>,
}

impl GemmProblem {
    /// `y = x·W` of `[max_m, k]` and `[n, k]`. Rows count as aligned if they are without padding.
    pub fn new(dtype: DType, max_m: usize, n: usize, k: usize) -> Self {
        GemmProblem {
            dtype,
            max_m,
            n,
            k,
            layout: WeightLayout::Nk,
            aligned: k.is_multiple_of(CHUNK),
            out: dtype,
            activation: Activation::None,
            gated: false,
            batch_invariant: false,
            splits: None,
            tile: None,
        }
    }

    /// With [`GemmProblem::layout`] set, and [`GemmProblem::aligned`] as rows without padding are.
    #[must_use]
    pub fn layout(mut self, layout: WeightLayout) -> Self {
        self.layout = layout;
        self.aligned = self.k.is_multiple_of(CHUNK)
            && (layout == WeightLayout::Nk || self.n.is_multiple_of(CHUNK));
        self
    }

    /// With [`GemmProblem::aligned`] set.
    #[must_use]
    pub fn aligned(mut self, aligned: bool) -> Self {
        self.aligned = aligned;
        self
    }

    /// With [`GemmProblem::out`] set.
    #[must_use]
    pub fn out(mut self, out: DType) -> Self {
        self.out = out;
        self
    }

    /// With [`GemmProblem::activation`] set.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// With [`GemmProblem::gated`] set.
    #[must_use]
    pub fn gated(mut self, gated: bool) -> Self {
        self.gated = gated;
        self
    }

    /// With [`GemmProblem::batch_invariant`] set.
    #[must_use]
    pub fn batch_invariant(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// With [`GemmProblem::splits`] set.
    #[must_use]
    pub fn splits(mut self, splits: Option<usize>) -> Self {
        self.splits = splits;
        self
    }

    /// With [`GemmProblem::tile`] set, for those who measured.
    #[must_use]
    pub fn tile(mut self, tile: Option<[usize; 2]>) -> Self {
        self.tile = tile;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`GemmError::UnsupportedDtype`], [`GemmError::UnsupportedOutput`],
    /// [`GemmError::UnalignedColumns`], [`GemmError::NotGated`], [`GemmError::Limit`],
    /// [`GemmError::Splits`], [`GemmError::UnsupportedTile`].
    pub fn supports(&self) -> Result<(), GemmError> {
        self.candidates().map(drop)
    }

    /// What no weights make right: types, sizes, options.
    pub(crate) fn check_options(&self) -> Result<(), GemmError> {
        if self.out != self.dtype && self.out != DType::F32 {
            return Err(GemmError::UnsupportedOutput {
                expected: self.dtype,
                got: self.out,
            });
        }
        if self.activation == Activation::ClampedSwiglu && !self.gated {
            return Err(GemmError::NotGated);
        }
        for (what, got) in [("rows", self.max_m), ("columns", self.n), ("k", self.k)] {
            limit(what, got, MOST)?;
        }
        match self.splits {
            Some(0) => {
                return Err(GemmError::Splits {
                    expected: "at least 1",
                    got: 0,
                });
            }
            Some(got) if got > 1 && self.batch_invariant => {
                return Err(GemmError::Splits {
                    expected: "1 in a batch-invariant product",
                    got,
                });
            }
            Some(got) => limit("splits", got, MAX_SPLITS)?,
            None => {}
        }
        Ok(())
    }

    /// The entries that compute this.
    pub(super) fn candidates(&self) -> Result<Vec<&'static Entry>, GemmError> {
        let of_type = entries(self.dtype);
        if of_type.clone().next().is_none() {
            return Err(self.unsupported_dtype());
        }
        self.check_options()?;
        let variant = match (self.aligned, self.layout) {
            (false, _) => "any",
            (true, WeightLayout::Nk) => "nk",
            (true, WeightLayout::Kn) if self.n.is_multiple_of(CHUNK) => "kn",
            (true, WeightLayout::Kn) => {
                return Err(GemmError::UnalignedColumns {
                    expected: CHUNK,
                    got: self.n,
                });
            }
        };
        let fitting: Vec<_> = of_type.filter(|entry| entry.variant == variant).collect();
        let Some(got) = self.tile else {
            return Ok(fitting);
        };
        let tile_of = |entry: &Entry| [entry.tile_q as usize, entry.tile_k as usize];
        let expected = || fitting.iter().map(|entry| tile_of(entry)).collect();
        match fitting.iter().find(|entry| tile_of(entry) == got) {
            Some(&entry) => Ok(vec![entry]),
            None => Err(GemmError::UnsupportedTile {
                expected: expected(),
                got,
            }),
        }
    }

    /// Products that are computed: with a gate, two.
    pub(crate) fn parts(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// The entry that adds up splits.
    pub(super) fn reduce(&self) -> Result<&'static Entry, GemmError> {
        entries(self.dtype)
            .find(|entry| entry.variant == "reduce")
            .ok_or_else(|| self.unsupported_dtype())
    }

    fn unsupported_dtype(&self) -> GemmError {
        let mut expected: Vec<_> = all().map(|entry| entry.dtype).collect();
        expected.sort_unstable();
        expected.dedup();
        GemmError::UnsupportedDtype {
            expected,
            got: self.dtype,
        }
    }

    /// The tile and the split for a device of so many multiprocessors.
    pub(super) fn choose(&self, limits: crate::Limits) -> Result<TileChoice, GemmError> {
        let candidates = self.candidates()?;
        tiles::choose(self, &candidates, tiles::DENSE, limits)
            .ok_or_else(|| self.unsupported_dtype())
    }
}

/// Elements of a 16-byte chunk.
pub(super) const CHUNK: usize = 8;
/// The most of `m`, `n` and `k`: tiles beyond the end must not overflow 32 bits.
const MOST: usize = i32::MAX as usize - 1024;
/// The most ranges of K.
const MAX_SPLITS: usize = 64;

fn all() -> impl Iterator<Item = &'static Entry> + Clone {
    catalog::ENTRIES
        .iter()
        .filter(|entry| entry.kernel == "gemm")
}

fn entries(dtype: DType) -> impl Iterator<Item = &'static Entry> + Clone {
    all().filter(move |entry| entry.dtype == dtype.name())
}

pub(super) fn limit(what: &'static str, got: usize, expected: usize) -> Result<(), GemmError> {
    if got <= expected {
        return Ok(());
    }
    Err(GemmError::Limit {
        what,
        expected,
        got,
    })
}
