//! What is to be computed.

use super::layout::Extent;
use super::weight;
use super::{BlockError, BlockFormat, BlockWeight};
use crate::catalog::{self, Entry};
use crate::device::Limits;
use crate::dtype::DType;
use crate::gemm::{GemmError, GemmProblem, TileChoice};
use crate::int4::stream::{self, Streamed};

/// A product with weights in blocks to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BlockProblem {
    /// The product: everything but the weights' format. Rows of `x` must be at multiples of 16
    /// bytes; [`GemmProblem::layout`] and [`GemmProblem::aligned`] have no meaning.
    pub product: GemmProblem,
    /// The weights' format.
    pub format: BlockFormat,
}

impl BlockProblem {
    /// A product with weights of this format.
    pub fn new(product: GemmProblem, format: BlockFormat) -> Self {
        BlockProblem { product, format }
    }

    /// `y = x·W` for up to `max_m` rows of `x`, of type `dtype`.
    pub fn of(weight: &BlockWeight, dtype: DType, max_m: usize) -> Self {
        let product = GemmProblem::new(dtype, max_m, weight.n(), weight.k());
        BlockProblem::new(product, weight.format())
    }

    /// Sizes of the weights.
    ///
    /// # Errors
    /// [`BlockError::Shape`] for a shape that the format cannot have.
    pub fn extent(&self) -> Result<Extent, BlockError> {
        Ok(weight::extent(self.format, self.product.k, self.product.n)?)
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`BlockError::Shape`]; [`BlockError::Product`] with [`GemmError::UnsupportedDtype`],
    /// [`GemmError::UnsupportedOutput`], [`GemmError::NotGated`], [`GemmError::Limit`],
    /// [`GemmError::Splits`], [`GemmError::UnsupportedTile`].
    pub fn supports(&self) -> Result<(), BlockError> {
        self.entry().map(drop)
    }

    /// The entry that computes this.
    fn entry(&self) -> Result<&'static Entry, BlockError> {
        self.extent()?;
        self.product.check_options()?;
        let variant = match self.format.bits() {
            4 => "4-bit",
            _ => "8-bit",
        };
        let all = catalog::ENTRIES.iter();
        let all = all.filter(|entry| entry.kernel == "blocks" && entry.variant == variant);
        let got = self.product.dtype;
        let Some(entry) = all.clone().find(|entry| entry.dtype == got.name()) else {
            let expected = all.map(|entry| entry.dtype).collect();
            return Err(GemmError::UnsupportedDtype { expected, got }.into());
        };
        let tile = [entry.tile_q as usize, entry.tile_k as usize];
        match self.product.tile {
            Some(got) if got != tile => {
                let expected = vec![tile];
                Err(GemmError::UnsupportedTile { expected, got }.into())
            }
            _ => Ok(entry),
        }
    }

    /// The tile and the shares for a device of so many multiprocessors.
    pub(super) fn choose(&self, limits: Limits) -> Result<TileChoice, BlockError> {
        let (extent, entry) = (self.extent()?, self.entry()?);
        let weights = Streamed {
            depth: extent.depth(),
            tile_bytes: 64 * extent.depth() * self.format.bits() / 8
                + 2 * 4 * extent.depth() / super::layout::TILE * extent.scales.tile_words(),
        };
        Ok(stream::choose(&self.product, entry, weights, limits))
    }
}
