//! From what each expert made of a token to the layer's output.

use std::fmt;

use super::check::{BoundLaunch, Check, Launches, Lie, Params, enqueue};
use super::error::count;
use super::experts::MOST_SLOTS;
use super::grouped::{CHUNK, check_dtype, multiple};
use super::params::CombineParams;
use super::route::MOST_PAIRS;
use super::{Experts, MoeError, entry};
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`CombinePlan::run`].
#[derive(Debug)]
pub struct CombineArgs<'a> {
    /// `[splits · tokens · slots, hidden]`, without gaps, of the planned type, or `f32`, which alone
    /// may have several splits: what each slot's expert made of each token. Rows of slots without an
    /// expert on this device are not read.
    pub parts: Tensor<'a, 2>,
    /// `[tokens, slots]`, `i32`, without gaps.
    pub ids: Tensor<'a, 2>,
    /// `[tokens, slots]`, `f32`, without gaps.
    pub weights: Tensor<'a, 2>,
    /// `[tokens, hidden]`, of the planned type, rows at multiples of 16 bytes.
    pub y: TensorMut<'a, 2>,
}

/// The kernel that adds up a token's slots, in their order, each multiplied by its weight.
#[derive(Clone, Debug)]
pub struct CombinePlan {
    dtype: DType,
    experts: Experts,
    slots: usize,
    hidden: usize,
    kernel: Kernel,
}

impl CombinePlan {
    /// Loads the kernel, if it is not yet.
    ///
    /// # Errors
    /// [`MoeError::UnsupportedDtype`], [`MoeError::Count`], [`MoeError::Local`],
    /// [`MoeError::Multiple`], or [`MoeError::Device`].
    pub fn new(
        device: &Device,
        dtype: DType,
        experts: &Experts,
        slots: usize,
        hidden: usize,
    ) -> Result<Self, MoeError> {
        check_dtype(dtype)?;
        experts.check()?;
        count("slots", slots, 1..=2 * MOST_SLOTS)?;
        count("hidden", hidden, 1..=MOST_PAIRS)?;
        multiple("hidden", hidden)?;
        Ok(CombinePlan {
            dtype,
            experts: experts.clone(),
            slots,
            hidden,
            kernel: device.kernel(entry("moe_combine", dtype.name(), "all"))?,
        })
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates device memory,
    /// waits, loads or records an event.
    ///
    /// # Errors
    /// [`MoeError::Operand`], [`MoeError::Count`], [`MoeError::Splits`]; [`MoeError::Device`] when
    /// the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: CombineArgs<'_>) -> Result<(), MoeError> {
        enqueue(&self.bind(stream, &args)?)
    }

    pub(crate) fn bind<'t>(
        &'t self,
        stream: &'t Stream,
        args: &'t CombineArgs<'_>,
    ) -> Result<Launches<'t>, MoeError> {
        let tokens = args.ids.shape()[0];
        let pairs = tokens.saturating_mul(self.slots);
        count("tokens", tokens, 0..=self.most_tokens())?;
        let mut check = Check::new(self.device(), stream)?;
        let dtype = match args.parts.dtype() {
            DType::F32 => DType::F32,
            _ => self.dtype,
        };
        let splits = args.parts.shape()[0] / pairs.max(1);
        if splits > 1 && dtype != DType::F32 {
            return Err(MoeError::Splits { got: splits });
        }
        count("splits of K", splits.max(1), 1..=MOST_SPLITS)?;
        let shape = [splits.max(1) * pairs, self.hidden];
        let (parts, _) = check.read("parts", args.parts, dtype, shape, Lie::Dense)?;
        let slots = [tokens, self.slots];
        let (ids, _) = check.read("ids", args.ids, DType::I32, slots, Lie::Dense)?;
        let (weights, _) = check.read("weights", args.weights, DType::F32, slots, Lie::Dense)?;
        let shape = [tokens, self.hidden];
        let (y, [y_stride, _]) = check.write("y", &args.y, self.dtype, shape, Lie::Aligned)?;
        let params = CombineParams {
            parts,
            ids,
            weights,
            y,
            y_stride,
            tokens: tokens as i32,
            splits: splits.max(1) as i32,
            parts_are_f32: i32::from(dtype == DType::F32),
            ..CombineParams::default()
        };
        Ok(vec![self.launch(stream, params)])
    }

    /// So many that pairs and blocks fit 32 bits.
    pub(super) fn most_tokens(&self) -> usize {
        (MOST_PAIRS / self.slots).min(MOST_PAIRS / (self.hidden / CHUNK))
    }

    /// The launch with addresses, stride, tokens and splits in `params`.
    pub(super) fn launch<'b>(
        &'b self,
        stream: &'b Stream,
        params: CombineParams,
    ) -> BoundLaunch<'b> {
        let chunks = params.tokens as usize * (self.hidden / CHUNK);
        let blocks = chunks.div_ceil(self.kernel.entry().threads as usize);
        // In range by the limits that `new` checked.
        let params = CombineParams {
            slots: self.slots as i32,
            hidden: self.hidden as i32,
            routed: self.experts.routed as i32,
            shared: self.experts.shared as i32,
            first: self.experts.local.start as i32,
            local: self.experts.local.len() as i32,
            ..params
        };
        BoundLaunch::new(&self.kernel, stream, blocks, Params::Combine(params))
    }
}

/// The most ranges of K whose sums are added up.
pub(super) const MOST_SPLITS: usize = 64;

impl fmt::Display for CombinePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} slots of {} columns",
            self.kernel.entry().name,
            self.slots,
            self.hidden
        )
    }
}
