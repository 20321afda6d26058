//! What is to be computed.

use super::layout::{DEPTH, Extent};
use super::stream::{self, Streamed};
use super::{Codes, Int4Error, Int4Weight};
use crate::catalog::{self, Entry};
use crate::device::Limits;
use crate::gemm::tiles::{self, Weights};
use crate::gemm::{GemmError, GemmProblem, TileChoice};

/// A product with 4-bit weights to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Int4Problem {
    /// The product: everything but the weights' format. Rows of `x` must be at multiples of 16
    /// bytes; [`GemmProblem::layout`] and [`GemmProblem::aligned`] have no meaning.
    pub product: GemmProblem,
    /// Rows of a column that share a scale, as [`Int4Weight::group`] says.
    pub group: usize,
    /// What codes stand for.
    pub meaning: Codes,
    /// Whether columns of `x` stand in the order of the weights' rows, which is not the model's:
    /// column `i` is the model's column `order[i]`, with the weights' [`Int4Weight::order`].
    pub ordered: bool,
}

impl Int4Problem {
    /// A product with weights of such groups and codes.
    pub fn new(product: GemmProblem, group: usize, meaning: Codes) -> Self {
        Int4Problem {
            product,
            group,
            meaning,
            ordered: false,
        }
    }

    /// With [`Int4Problem::ordered`] set.
    #[must_use]
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// `y = x·W` for up to `max_m` rows of `x`, of the scales' type.
    pub fn of(weight: &Int4Weight, max_m: usize) -> Self {
        let product = GemmProblem::new(weight.scale_dtype(), max_m, weight.n(), weight.k());
        Int4Problem::new(product, weight.group(), weight.meaning())
    }

    /// Sizes of the weights.
    pub fn extent(&self) -> Extent {
        Extent {
            k: self.product.k,
            n: self.product.n,
            group: self.group,
        }
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`Int4Error::UnsupportedGroup`]; [`Int4Error::Product`] with
    /// [`GemmError::UnsupportedDtype`], [`GemmError::UnsupportedOutput`], [`GemmError::NotGated`],
    /// [`GemmError::Limit`], [`GemmError::Splits`], [`GemmError::UnsupportedTile`].
    pub fn supports(&self) -> Result<(), Int4Error> {
        self.candidates().map(drop)
    }

    /// The entries that compute this.
    pub(super) fn candidates(&self) -> Result<Vec<&'static Entry>, Int4Error> {
        let got = self.group;
        if !(got == 16 || got == 32 || got > 0 && got.is_multiple_of(DEPTH)) {
            return Err(Int4Error::UnsupportedGroup { got });
        }
        self.product.check_options()?;
        let all = || catalog::ENTRIES.iter().filter(|e| e.kernel == "int4");
        let dtype = self.product.dtype;
        if !all().any(|entry| entry.dtype == dtype.name()) {
            let mut expected: Vec<_> = all().map(|entry| entry.dtype).collect();
            expected.sort_unstable();
            expected.dedup();
            return Err(GemmError::UnsupportedDtype {
                expected,
                got: dtype,
            }
            .into());
        }
        let streams = stream::has_group(self.group, self.product.k);
        let fitting: Vec<_> = all()
            .filter(|entry| entry.dtype == dtype.name())
            .filter(|entry| streams || !stream::is_streaming(entry))
            .collect();
        let Some(got) = self.product.tile else {
            return Ok(fitting);
        };
        let tile_of = |entry: &Entry| [entry.tile_q as usize, entry.tile_k as usize];
        match fitting.iter().find(|entry| tile_of(entry) == got) {
            Some(&entry) => Ok(vec![entry]),
            None => Err(GemmError::UnsupportedTile {
                expected: fitting.iter().map(|entry| tile_of(entry)).collect(),
                got,
            }
            .into()),
        }
    }

    /// The streaming entry, if one is to be used: for few rows, for any number where a row's bits
    /// must not depend on it, and where it was asked for.
    fn streaming(&self, candidates: &[&'static Entry]) -> Option<&'static Entry> {
        let mut entries: Vec<_> = candidates
            .iter()
            .filter(|entry| stream::is_streaming(entry))
            .collect();
        entries.sort_by_key(|entry| entry.tile_q);
        let fits = |entry: &&&&Entry| self.product.max_m <= entry.tile_q as usize;
        let any_rows = self.product.batch_invariant || self.product.tile.is_some();
        let largest = entries.last().filter(|_| any_rows);
        entries.iter().find(fits).or(largest).map(|&&entry| entry)
    }

    /// The tile and the split for a device of so many multiprocessors.
    pub(super) fn choose(&self, limits: Limits) -> Result<TileChoice, Int4Error> {
        let candidates = self.candidates()?;
        // A scale, and maybe a zero point, for each group.
        let per_group = 16
            + if self.meaning == Codes::ZeroPoints {
                4
            } else {
                0
            };
        let weights = Weights {
            bits: 4 + per_group.max(self.group) / self.group,
            rows: DEQUANTIZED_ROWS,
        };
        if let Some(entry) = self.streaming(&candidates) {
            let streamed = Streamed {
                depth: DEPTH,
                tile_bytes: DEPTH * DEPTH * weights.bits / 8,
            };
            return Ok(stream::choose(&self.product, entry, streamed, limits));
        }
        let tiled: Vec<_> = candidates
            .into_iter()
            .filter(|entry| !stream::is_streaming(entry))
            .collect();
        let choice = tiles::choose(&self.product, &tiled, weights, limits);
        choice.ok_or_else(|| {
            let (expected, got) = (vec![], self.product.dtype);
            GemmError::UnsupportedDtype { expected, got }.into()
        })
    }
}

/// Dequantizing a weight takes as long as multiplying it with so many rows of `x`: about 58
/// instructions of a warp, four of which a multiprocessor starts in a cycle, for 1024 weights.
const DEQUANTIZED_ROWS: usize = 15;
