//! From the experts of each token to the tokens of each expert.

use std::fmt;

use super::check::{BoundLaunch, Check, Launches, Lie, Params, enqueue};
use super::error::count;
use super::experts::MOST_SLOTS;
use super::params::PermuteParams;
use super::route::MOST_PAIRS;
use super::{Experts, MoeError, entry};
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`PermutePlan::run`]. A *pair* is a token and one of its slots: number
/// `token · slots + slot`.
#[derive(Debug)]
pub struct PermuteArgs<'a> {
    /// `[tokens, slots]`, `i32`, without gaps: experts, or -1 for none.
    pub ids: Tensor<'a, 2>,
    /// `[tokens · slots]`, `i32`: pairs in the order of the experts of this device, those of one
    /// expert by number; behind them the pairs that go nowhere on this device.
    pub order: TensorMut<'a, 1>,
    /// `[here + 1]`, `i32`: where the pairs of each expert begin, and where the last ones end. What
    /// is missing from there to the number of pairs was dropped.
    pub offsets: TensorMut<'a, 1>,
    /// At least [`PermutePlan::workspace_elements`] of `i32`; its contents do not matter.
    pub workspace: Option<TensorMut<'a, 1>>,
    /// Where tokens with ids that mean nothing are reported.
    pub status: &'a StatusWord,
}

/// The sorting kernels, loaded for a number of experts. The sort is stable and draws nothing from
/// atomics: equal ids give equal bits, always.
#[derive(Clone, Debug)]
pub struct PermutePlan {
    experts: Experts,
    slots: usize,
    max_tokens: usize,
    count: Kernel,
    place: Kernel,
}

impl PermutePlan {
    /// Loads the kernels, if they are not yet.
    ///
    /// # Errors
    /// [`MoeError::Count`], [`MoeError::Local`], or [`MoeError::Device`].
    pub fn new(
        device: &Device,
        experts: &Experts,
        slots: usize,
        max_tokens: usize,
    ) -> Result<Self, MoeError> {
        experts.check()?;
        count("slots", slots, 1..=2 * MOST_SLOTS)?;
        count("tokens", max_tokens, 0..=MOST_PAIRS / slots)?;
        Ok(PermutePlan {
            experts: experts.clone(),
            slots,
            max_tokens,
            count: device.kernel(entry("moe_permute", "i32", "count"))?,
            place: device.kernel(entry("moe_permute", "i32", "place"))?,
        })
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.place.device()
    }

    /// Elements of `i32` workspace that [`PermutePlan::run`] needs: none for few tokens.
    pub fn workspace_elements(&self) -> usize {
        match self.blocks(self.max_tokens * self.slots) {
            0 | 1 => 0,
            blocks => blocks * (self.experts.here() + 1),
        }
    }

    /// Checks every operand, then enqueues one kernel on `stream`, or two. Never allocates device
    /// memory, waits, loads or records an event.
    ///
    /// # Errors
    /// [`MoeError::Operand`], [`MoeError::Tokens`], [`MoeError::Workspace`]; [`MoeError::Device`]
    /// when a launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: PermuteArgs<'_>) -> Result<(), MoeError> {
        enqueue(&self.bind(stream, &args)?)
    }

    pub(crate) fn bind<'t>(
        &'t self,
        stream: &'t Stream,
        args: &'t PermuteArgs<'_>,
    ) -> Result<Launches<'t>, MoeError> {
        let tokens = args.ids.shape()[0];
        if tokens > self.max_tokens {
            return Err(MoeError::Tokens {
                tensor: "ids",
                expected: self.max_tokens,
                got: tokens,
            });
        }
        let pairs = tokens * self.slots;
        let mut check = Check::new(self.device(), stream)?;
        let (ids, _) = check.read(
            "ids",
            args.ids,
            DType::I32,
            [tokens, self.slots],
            Lie::Dense,
        )?;
        let (order, _) = check.write("order", &args.order, DType::I32, [pairs], Lie::Dense)?;
        let here = self.experts.here();
        let (offsets, _) =
            check.write("offsets", &args.offsets, DType::I32, [here + 1], Lie::Dense)?;
        let (workspace, expected) = (args.workspace.as_ref(), self.workspace_elements());
        let counts = check.workspace(workspace, DType::I32, expected)?;
        let params = PermuteParams {
            ids,
            order,
            offsets,
            counts,
            status: check.status(args.status)?,
            ..PermuteParams::default()
        };
        Ok(self.launches(stream, tokens, params))
    }

    /// The launches for so many tokens, at most the planned ones, with addresses in `params`.
    pub(super) fn launches<'b>(
        &'b self,
        stream: &'b Stream,
        tokens: usize,
        params: PermuteParams,
    ) -> Launches<'b> {
        let pairs = tokens * self.slots;
        // Offsets are written also where there are no pairs.
        let blocks = self.blocks(pairs).max(1);
        // In range by the limits that `new` checked.
        let params = Params::Permute(PermuteParams {
            pairs: pairs as i32,
            slots: self.slots as i32,
            per_block: self.per_block(pairs) as i32,
            routed: self.experts.routed as i32,
            shared: self.experts.shared as i32,
            first: self.experts.local.start as i32,
            local: self.experts.local.len() as i32,
            ..params
        });
        let launch = |kernel| BoundLaunch::new(kernel, stream, blocks, params);
        match blocks {
            1 => vec![launch(&self.place)],
            _ => vec![launch(&self.count), launch(&self.place)],
        }
    }

    /// Pairs that a block sorts: so many that each block can afford to add up what all found.
    fn per_block(&self, pairs: usize) -> usize {
        let threads = self.place.entry().threads as usize;
        pairs
            .div_ceil(MOST_BLOCKS)
            .max(LEAST_PER_BLOCK)
            .next_multiple_of(threads)
    }

    fn blocks(&self, pairs: usize) -> usize {
        pairs.div_ceil(self.per_block(pairs))
    }
}

const MOST_BLOCKS: usize = 64;
const LEAST_PER_BLOCK: usize = 2048;

impl fmt::Display for PermutePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: at most {} tokens with {} slots, {} experts here, in {} blocks",
            self.place.entry().name,
            self.max_tokens,
            self.slots,
            self.experts.here(),
            self.blocks(self.max_tokens * self.slots),
        )
    }
}
