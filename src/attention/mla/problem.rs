//! What is to be computed.

use super::MlaError;
use crate::attention::prefill::{PrefillError, PrefillParams};
use crate::catalog::{self, Entry};
use crate::device::Limits;
use crate::dtype::DType;

/// Latent attention to be planned: what it computes, and for how many sequences.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MlaProblem {
    /// The type of queries, cache and output.
    pub dtype: DType,
    /// Query heads. All share the cache.
    pub heads: usize,
    /// Elements of a latent: 512.
    pub latent_dim: usize,
    /// Elements of a rotary key: 64.
    pub rope_dim: usize,
    /// The number of sequences.
    pub batch: usize,
    /// No sequence has more queries than this.
    pub max_queries: usize,
    /// Tokens on a page: any number from 1.
    pub page_size: usize,
    /// Whether queries see only the tokens up to their own position; see the module.
    pub causal: bool,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Whether the log-sum-exp of each query's scores is wanted.
    pub lse: bool,
    /// Into how many shares the work is cut, of equal size, one for each block; `None`: as many as
    /// the device holds at once.
    ///
    /// The bits of a result depend on this, and on all lengths of the batch.
    pub blocks: Option<usize>,
    /// Pairs of query token and head that a block attends with at once: 16 or 64; `None` leaves it
    /// to the plan.
    pub rows: Option<usize>,
}

impl MlaProblem {
    /// Causal attention of one query for each of `batch` sequences, as DeepSeek-V2 and V3 have it:
    /// latents of 512, rotary keys of 64, and scale `1 / √192`, of heads that had 128 + 64 elements
    /// before they were absorbed.
    pub fn new(dtype: DType, heads: usize, batch: usize, page_size: usize) -> Self {
        MlaProblem {
            dtype,
            heads,
            latent_dim: LATENT,
            rope_dim: ROPE,
            batch,
            max_queries: 1,
            page_size,
            causal: true,
            scale: (1.0 / 192f64.sqrt()) as f32,
            lse: false,
            blocks: None,
            rows: None,
        }
    }

    /// With [`MlaProblem::max_queries`] set.
    #[must_use]
    pub fn max_queries(mut self, queries: usize) -> Self {
        self.max_queries = queries;
        self
    }

    /// With [`MlaProblem::causal`] set. One query alone sees every token either way.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// With [`MlaProblem::scale`] set.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// With [`MlaProblem::lse`] set.
    #[must_use]
    pub fn lse(mut self, lse: bool) -> Self {
        self.lse = lse;
        self
    }

    /// With [`MlaProblem::blocks`] set.
    #[must_use]
    pub fn blocks(mut self, blocks: impl Into<Option<usize>>) -> Self {
        self.blocks = blocks.into();
        self
    }

    /// With [`MlaProblem::rows`] set, for those who measured.
    #[must_use]
    pub fn rows(mut self, rows: impl Into<Option<usize>>) -> Self {
        self.rows = rows.into();
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// Needs no device and allocates nothing on one. A device may still be too old or too small,
    /// which [`MlaPlan::new`](super::MlaPlan::new) says.
    ///
    /// # Errors
    /// [`MlaError::UnsupportedDtype`], [`MlaError::UnsupportedDims`], [`MlaError::Heads`],
    /// [`MlaError::UnsupportedRows`], [`MlaError::Blocks`], [`MlaError::TooManyRows`]; or, as
    /// [`MlaError::Attention`], [`PrefillError::Scale`], [`PrefillError::PageSize`],
    /// [`PrefillError::Limit`].
    pub fn supports(&self) -> Result<(), MlaError> {
        self.candidates().map(drop)
    }

    /// The entry that computes this on a device with such limits, and the one that adds up splits.
    ///
    /// More than 16 rows read the cache less often with 64 at once, which not every device has the
    /// shared memory for.
    pub(super) fn select(&self, limits: Limits) -> Result<[&'static Entry; 2], MlaError> {
        let candidates = self.candidates()?;
        let wanted = |entry: &&&Entry| {
            self.rows.is_some()
                || (entry.tile_q as usize > SMALL) == (self.max_queries * self.heads > SMALL)
                    && entry.smem_bytes <= limits.shared_per_block
        };
        let smallest = candidates.iter().min_by_key(|entry| entry.tile_q);
        let entry = candidates.iter().find(wanted).or(smallest);
        let merge = self.of_type().find(|entry| entry.variant == "merge");
        match (entry, merge) {
            (Some(entry), Some(merge)) => Ok([entry, merge]),
            _ => Err(self.unsupported_dtype()),
        }
    }

    /// The entries that compute this.
    fn candidates(&self) -> Result<Vec<&'static Entry>, MlaError> {
        let of_type: Vec<_> = self.of_type().filter(|e| e.variant != "merge").collect();
        if of_type.is_empty() {
            return Err(self.unsupported_dtype());
        }
        let (expected, got) = ((LATENT, ROPE), (self.latent_dim, self.rope_dim));
        if expected != got {
            return Err(MlaError::UnsupportedDims { expected, got });
        }
        if !(1..=MAX_HEADS).contains(&self.heads) {
            let (expected, got) = (MAX_HEADS, self.heads);
            return Err(MlaError::Heads { expected, got });
        }
        self.check_options()?;
        let Some(got) = self.rows else {
            return Ok(of_type);
        };
        let expected: Vec<_> = of_type.iter().map(|e| e.tile_q as usize).collect();
        match of_type.iter().find(|entry| entry.tile_q as usize == got) {
            Some(&entry) => Ok(vec![entry]),
            None => Err(MlaError::UnsupportedRows { expected, got }),
        }
    }

    fn check_options(&self) -> Result<(), MlaError> {
        let positive = |x: f32| x > 0.0 && x.is_finite();
        if !positive(self.scale) || !positive(self.scale * std::f32::consts::LOG2_E) {
            return Err(PrefillError::Scale { got: self.scale }.into());
        }
        if self.page_size == 0 {
            let (expected, got) = (1, 0);
            return Err(PrefillError::PageSize { expected, got }.into());
        }
        for (what, got, expected) in [
            ("keys on a page", self.page_size, i32::MAX as usize),
            ("sequences", self.batch, MAX_BATCH),
            ("queries per sequence", self.max_queries, i32::MAX as usize),
        ] {
            if got > expected {
                return Err(PrefillError::Limit {
                    what,
                    expected,
                    got,
                }
                .into());
            }
        }
        if let Some(got) = self.blocks
            && !(1..=MAX_BLOCKS).contains(&got)
        {
            let expected = MAX_BLOCKS;
            return Err(MlaError::Blocks { expected, got });
        }
        let got = self.heads as u128 * self.max_queries as u128 * self.batch as u128;
        if got > MAX_ROWS {
            let expected = MAX_ROWS;
            return Err(MlaError::TooManyRows { expected, got });
        }
        Ok(())
    }

    fn of_type(&self) -> impl Iterator<Item = &'static Entry> {
        entries().filter(|entry| entry.dtype == self.dtype.name())
    }

    fn unsupported_dtype(&self) -> MlaError {
        let mut expected: Vec<&str> = entries().map(|entry| entry.dtype).collect();
        expected.sort_unstable();
        expected.dedup();
        MlaError::UnsupportedDtype {
            expected,
            got: self.dtype,
        }
    }

    /// The kernel's parameters without operands. Sizes are in range by the limits checked above.
    pub(super) fn params(&self) -> PrefillParams {
        PrefillParams {
            batch: self.batch as i32,
            num_heads: self.heads as i32,
            num_kv_heads: 1,
            max_seqlen_q: self.max_queries as i32,
            causal: i32::from(self.causal),
            scale_log2: self.scale * std::f32::consts::LOG2_E,
            page_size: self.page_size as i32,
            page_reciprocal: u32::MAX / self.page_size as u32,
            head_dim: (self.latent_dim + self.rope_dim) as i32,
            v_dim: self.latent_dim as i32,
            window_left: -1,
            window_right: -1,
            ..PrefillParams::default()
        }
    }
}

const LATENT: usize = 512;
const ROPE: usize = 64;
/// Rows of the smaller items.
const SMALL: usize = 16;
/// The most query heads: a token's rows are found by a division in 32 bits.
const MAX_HEADS: usize = 1 << 16;
/// The most sequences, as in prefill.
const MAX_BATCH: usize = 65_535;
/// The largest first dimension of a grid that partial results are counted for.
pub(super) const MAX_BLOCKS: usize = 1 << 20;
/// Rows of a sequence are counted in 32 bits, chunks of tokens of all items in 64.
const MAX_ROWS: u128 = 1 << 30;

fn entries() -> impl Iterator<Item = &'static Entry> {
    catalog::ENTRIES
        .iter()
        .filter(|entry| entry.kernel == "mla")
}
