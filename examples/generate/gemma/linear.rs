//! Products with the model's matrices.

use std::error::Error;

use infer_kernels::blocks::{BlockArgs, BlockBuffers, BlockPlan, BlockProblem, BlockWeight};
use infer_kernels::gemm::Activation;
use infer_kernels::{DType, Device, Stream, Tensor, TensorMut};

/// Rows up to which a product is one of few rows.
const FEW: usize = 16;

/// A matrix on the device, or gate and up, and the plans of products with it.
pub struct Linear {
    weights: Vec<BlockBuffers>,
    /// For few rows, and for all others. In an engine whose bits do not depend on the batch they are
    /// the same.
    plans: [BlockPlan; 2],
}

/// What products of an engine have in common.
#[derive(Clone, Copy)]
pub struct Products {
    pub dtype: DType,
    pub max_rows: usize,
    pub invariant: bool,
}

impl Products {
    /// `y = x·W`, rounded to `out`.
    pub fn linear(
        &self,
        stream: &Stream,
        weight: &BlockWeight,
        out: DType,
    ) -> Result<Linear, Box<dyn Error>> {
        let mut problem = BlockProblem::of(weight, self.dtype, self.max_rows);
        problem.product.out = out;
        self.planned(stream, problem, &[weight])
    }

    /// `y = gelu(x·gate) · (x·up)`.
    pub fn gated(
        &self,
        stream: &Stream,
        [gate, up]: [&BlockWeight; 2],
    ) -> Result<Linear, Box<dyn Error>> {
        if gate.format() != up.format() {
            let formats = [gate.format(), up.format()];
            return Err(format!("gate and up must be of one format, not {formats:?}").into());
        }
        let mut problem = BlockProblem::of(gate, self.dtype, self.max_rows);
        problem.product = problem.product.gated(true).activation(Activation::GeluTanh);
        self.planned(stream, problem, &[gate, up])
    }

    fn planned(
        &self,
        stream: &Stream,
        mut problem: BlockProblem,
        weights: &[&BlockWeight],
    ) -> Result<Linear, Box<dyn Error>> {
        problem.product.batch_invariant = self.invariant;
        let plan = |max_m: usize, device: &Device| -> Result<BlockPlan, Box<dyn Error>> {
            let mut problem = problem.clone();
            problem.product.max_m = max_m;
            Ok(BlockPlan::new(device, &problem)?)
        };
        let few = if self.invariant {
            self.max_rows
        } else {
            FEW.min(self.max_rows)
        };
        let device = stream.device();
        let weights = weights.iter().map(|weight| weight.upload(stream));
        Ok(Linear {
            weights: weights.collect::<Result<_, _>>()?,
            plans: [plan(few, device)?, plan(self.max_rows, device)?],
        })
    }
}

impl Linear {
    /// `f32` elements that a product needs.
    pub fn workspace(&self) -> usize {
        let of = self.plans.iter().map(BlockPlan::workspace_elements);
        of.max().unwrap_or(0)
    }

    /// `y` of `x`, of as many rows.
    pub fn run(
        &self,
        stream: &Stream,
        x: Tensor<'_, 2>,
        y: TensorMut<'_, 2>,
        workspace: TensorMut<'_, 1>,
    ) -> Result<(), Box<dyn Error>> {
        let plan = &self.plans[usize::from(x.shape()[0] > self.plans[0].problem().product.max_m)];
        let elements = plan.workspace_elements();
        let args = BlockArgs {
            w_up: self.weights.get(1).map(BlockBuffers::tensors),
            workspace: Some(workspace.narrow(0, 0..elements)?),
            ..BlockArgs::new(x, self.weights[0].tensors(), y)
        };
        Ok(plan.run(stream, args)?)
    }
}
