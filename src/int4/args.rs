//! Operands of a product with 4-bit weights, and the proof that they fit the plan.

use super::layout::DEPTH;
use super::{Codes, Int4Error, Int4Params, Int4Plan, Int4Problem, Int4Tensors};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::gemm::{self, Inputs, Others, Residual, WeightAddresses};
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`Int4Plan::run`]; shapes as in [`gemm`](crate::gemm).
#[derive(Debug)]
pub struct Int4Args<'a> {
    /// `[m, k]`, with `m` at most the planned rows; rows at multiples of 16 bytes.
    pub x: Tensor<'a, 2>,
    /// Weights, of the gate where there is one.
    pub w: Int4Tensors<'a>,
    /// Up weights, exactly if the plan is gated.
    pub w_up: Option<Int4Tensors<'a>>,
    /// `[n]`.
    pub bias: Option<Tensor<'a, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<Tensor<'a, 1>>,
    /// What is added last.
    pub residual: Residual<'a>,
    /// The result, `[m, n]`.
    pub y: TensorMut<'a, 2>,
    /// At least [`Int4Plan::workspace_elements`] of `f32`; its contents do not matter.
    pub workspace: Option<TensorMut<'a, 1>>,
}

impl<'a> Int4Args<'a> {
    /// `y = x·W`, without anything optional.
    pub fn new(x: Tensor<'a, 2>, w: Int4Tensors<'a>, y: TensorMut<'a, 2>) -> Self {
        Int4Args {
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

/// Checked operands, as the kernels take them. Made only by [`Bound::new`].
pub(crate) struct Bound<'a> {
    plan: &'a Int4Plan,
    stream: &'a Stream,
    m: usize,
    params: Int4Params,
}

/// The launch of the products of checked operands.
pub(crate) struct BoundProduct<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: &'b Int4Params,
}

impl Bound<'_> {
    /// The products.
    pub fn product(&self) -> BoundProduct<'_> {
        BoundProduct {
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

/// Addresses of checked packed weights; 0 for what is not there.
#[derive(Default)]
struct Addresses {
    codes: u64,
    scales: u64,
    zeros: u64,
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a Int4Plan,
        stream: &'a Stream,
        args: Int4Args<'a>,
    ) -> Result<Self, Int4Error> {
        let problem = plan.problem();
        let Int4Args { w, w_up, .. } = args;
        let others = Others {
            x: args.x,
            bias: args.bias,
            bias_up: args.bias_up,
            residual: args.residual,
            y: args.y,
            workspace: args.workspace,
        };
        let m = others.x.shape()[0];
        let (mut of, mut of_up) = (Addresses::default(), Addresses::default());
        let weights = |inputs: &mut Inputs<'a>| {
            of = packed(problem, inputs, ["w codes", "w scales", "w zeros"], &w)?;
            if let Some(up) = gemm::gate(problem.product.gated, w_up)? {
                let names = ["w_up codes", "w_up scales", "w_up zeros"];
                of_up = packed(problem, inputs, names, &up)?;
            }
            Ok::<_, Int4Error>(WeightAddresses {
                w: of.codes,
                w_up: of_up.codes,
                w_stride: 0,
                w_step: 0,
            })
        };
        let gemm = others.bind(
            (&problem.product, plan.splits()),
            (plan.device(), stream),
            true,
            weights,
        )?;
        Ok(Bound {
            plan,
            stream,
            m,
            params: Int4Params {
                gemm,
                scales: of.scales,
                scales_up: of_up.scales,
                zeros: of.zeros,
                zeros_up: of_up.zeros,
                groups_per_tile: (DEPTH / problem.group).max(1) as i32,
                // No more than fit, as K is limited; the rest of a group does not exist.
                tiles_per_group: (problem.group / DEPTH).clamp(1, i32::MAX as usize / 2) as i32,
            },
        })
    }
}

/// Packed weights, as long as their shape calls for.
fn packed<'a>(
    problem: &Int4Problem,
    inputs: &mut Inputs<'a>,
    [codes, scales, zeros]: [&'static str; 3],
    w: &Int4Tensors<'a>,
) -> Result<Addresses, Int4Error> {
    let extent = problem.extent();
    let mut vector = |name, tensor, dtype, elements| -> Result<u64, OperandError> {
        inputs.aligned_vector(name, tensor, dtype, elements)
    };
    if problem.ordered != w.ordered {
        return Err(Int4Error::Order {
            tensor: codes,
            expected: problem.ordered,
            got: w.ordered,
        });
    }
    let expected = problem.meaning == Codes::ZeroPoints;
    if expected != w.zeros.is_some() {
        return Err(Int4Error::Zeros {
            tensor: zeros,
            expected,
            got: !expected,
        });
    }
    Ok(Addresses {
        codes: vector(codes, &w.codes, DType::U32, extent.code_words())?,
        scales: vector(scales, &w.scales, problem.product.dtype, extent.scales())?,
        zeros: match &w.zeros {
            Some(tensor) => vector(zeros, tensor, DType::U32, extent.zero_words())?,
            None => 0,
        },
    })
}
