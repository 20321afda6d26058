//! Operands of a product with weights in blocks, and the proof that they fit the plan.

use super::layout::Scales;
use super::{BlockError, BlockFormat, BlockParams, BlockPlan, BlockTensors};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::gemm::{self, Inputs, Others, Residual, WeightAddresses};
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`BlockPlan::run`]; shapes as in [`gemm`](crate::gemm).
#[derive(Debug)]
pub struct BlockArgs<'a> {
    /// `[m, k]`, with `m` at most the planned rows; rows at multiples of 16 bytes.
    pub x: Tensor<'a, 2>,
    /// Weights, of the gate where there is one.
    pub w: BlockTensors<'a>,
    /// Up weights, exactly if the plan is gated; of the same format.
    pub w_up: Option<BlockTensors<'a>>,
    /// `[n]`.
    pub bias: Option<Tensor<'a, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<Tensor<'a, 1>>,
    /// What is added last.
    pub residual: Residual<'a>,
    /// The result, `[m, n]`.
    pub y: TensorMut<'a, 2>,
    /// At least [`BlockPlan::workspace_elements`] of `f32`; its contents do not matter.
    pub workspace: Option<TensorMut<'a, 1>>,
}

impl<'a> BlockArgs<'a> {
    /// `y = x·W`, without anything optional.
    pub fn new(x: Tensor<'a, 2>, w: BlockTensors<'a>, y: TensorMut<'a, 2>) -> Self {
        BlockArgs {
            x,
            w,
            w_up: None,
            bias: None,
            bias_up: None,
            residual: Residual::None,
            y,
            workspace: None,
        }
    }
}

/// Checked operands, as the kernel takes them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    plan: &'a BlockPlan,
    stream: &'a Stream,
    m: usize,
    params: BlockParams,
}

/// The launch of the product of checked operands.
pub(crate) struct BoundBlocks<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: &'b BlockParams,
}

impl Bound<'_> {
    /// The product.
    pub fn product(&self) -> BoundBlocks<'_> {
        BoundBlocks {
            kernel: self.plan.kernel(),
            stream: self.stream,
            shape: self.plan.shape(self.m),
            params: &self.params,
        }
    }

    /// The sum of the splits, where K is split.
    pub fn sums(&self) -> Option<gemm::BoundLaunch<'_>> {
        let (splits, product) = (self.plan.splits(), &self.plan.problem().product);
        splits.bound(product, self.stream, self.m, &self.params.gemm)
    }
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a BlockPlan,
        stream: &'a Stream,
        args: BlockArgs<'a>,
    ) -> Result<Self, BlockError> {
        let product = &plan.problem().product;
        let BlockArgs { w, w_up, .. } = args;
        let others = Others {
            x: args.x,
            bias: args.bias,
            bias_up: args.bias_up,
            residual: args.residual,
            y: args.y,
            workspace: args.workspace,
        };
        let m = others.x.shape()[0];
        let (mut scales, mut scales_up) = (0, 0);
        let weights = |inputs: &mut Inputs<'a>| {
            let (w, of) = packed(plan, inputs, ["w codes", "w scales"], &w)?;
            let up = gemm::gate(product.gated, w_up)?;
            let up = up.map(|up| packed(plan, inputs, ["w_up codes", "w_up scales"], &up));
            let (w_up, of_up) = up.transpose()?.unwrap_or((0, 0));
            (scales, scales_up) = (of, of_up);
            Ok::<_, BlockError>(WeightAddresses {
                w,
                w_up,
                w_stride: 0,
                w_step: 0,
            })
        };
        let gemm = others.bind(
            (product, plan.splits()),
            (plan.device(), stream),
            true,
            weights,
        )?;
        let format = plan.problem().format;
        Ok(Bound {
            plan,
            stream,
            m,
            params: BlockParams {
                gemm,
                scales,
                scales_up,
                kind: kind(format),
                zero: i32::from(format.zero()),
            },
        })
    }
}

/// `Kind` of `cuda/blocks/blocks_params.cuh`.
fn kind(format: BlockFormat) -> i32 {
    match format.scales() {
        Scales::Halves => 0,
        Scales::HalvesAndOffsets => 1,
        Scales::Bytes => 2,
        Scales::BytesAndOffsets => 3,
    }
}

/// Packed blocks, as long as their shape calls for: addresses of codes and scales.
fn packed<'a>(
    plan: &BlockPlan,
    inputs: &mut Inputs<'a>,
    [codes, scales]: [&'static str; 2],
    w: &BlockTensors<'a>,
) -> Result<(u64, u64), BlockError> {
    let (expected, got) = (plan.problem().format, w.format);
    if expected != got {
        return Err(BlockError::Format {
            tensor: codes,
            expected,
            got,
        });
    }
    let (extent, words) = (plan.extent(), DType::U32);
    Ok((
        inputs.aligned_vector(codes, &w.codes, words, extent.code_words())?,
        inputs.aligned_vector(scales, &w.scales, words, extent.scale_words())?,
    ))
}
