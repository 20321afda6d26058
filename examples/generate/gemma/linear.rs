//! Products with the model's matrices.

use std::error::Error;

use infer_kernels::blocks::{BlockArgs, BlockBuffers, BlockPlan, BlockProblem};
use infer_kernels::gemm::{Activation, GemmProblem};
use infer_kernels::int4::{Int4Args, Int4Buffers, Int4Plan, Int4Problem};
use infer_kernels::{DType, Stream, Tensor, TensorMut};

use super::weights::Weight;

/// Rows up to which a product is one of few rows.
const FEW: usize = 16;

/// A matrix on the device, or gate and up, and the plans of products with it: for few rows, and for all
/// others. In an engine whose bits do not depend on the batch they are the same.
pub struct Linear {
    kind: Kind,
    /// Rows that are few.
    few: usize,
}

enum Kind {
    Blocks(Vec<BlockBuffers>, [BlockPlan; 2]),
    Int4(Vec<Int4Buffers>, [Int4Plan; 2]),
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
        weight: &Weight,
        out: DType,
    ) -> Result<Linear, Box<dyn Error>> {
        self.planned(stream, &[weight], |product| product.out(out))
    }

    /// `y = gelu(x·gate) · (x·up)`.
    pub fn gated(
        &self,
        stream: &Stream,
        [gate, up]: [&Weight; 2],
    ) -> Result<Linear, Box<dyn Error>> {
        self.planned(stream, &[gate, up], |product| {
            product.gated(true).activation(Activation::GeluTanh)
        })
    }

    fn planned(
        &self,
        stream: &Stream,
        weights: &[&Weight],
        of: impl Fn(GemmProblem) -> GemmProblem,
    ) -> Result<Linear, Box<dyn Error>> {
        let device = stream.device();
        let few = match self.invariant {
            true => self.max_rows,
            false => FEW.min(self.max_rows),
        };
        let rows = [few, self.max_rows];
        let product = |product: GemmProblem| of(product).batch_invariant(self.invariant);
        let kind = match weights {
            [Weight::Blocks(first), others @ ..] => {
                let mut uploaded = vec![first.upload(stream)?];
                for other in others {
                    match other {
                        Weight::Blocks(other) if other.format() == first.format() => {
                            uploaded.push(other.upload(stream)?);
                        }
                        _ => return Err("gate and up must be of one format".into()),
                    }
                }
                let plan = |rows| -> Result<_, Box<dyn Error>> {
                    let mut problem = BlockProblem::of(first, self.dtype, rows);
                    problem.product = product(problem.product);
                    Ok(BlockPlan::new(device, &problem)?)
                };
                let [few, all] = rows.map(plan);
                Kind::Blocks(uploaded, [few?, all?])
            }
            [Weight::Int4(first), others @ ..] => {
                let mut uploaded = vec![first.upload(stream)?];
                for other in others {
                    match other {
                        Weight::Int4(other) => uploaded.push(other.upload(stream)?),
                        _ => return Err("gate and up must be of one format".into()),
                    }
                }
                let plan = |rows| -> Result<_, Box<dyn Error>> {
                    let mut problem = Int4Problem::of(first, rows);
                    problem.product = product(problem.product);
                    Ok(Int4Plan::new(device, &problem)?)
                };
                let [few, all] = rows.map(plan);
                Kind::Int4(uploaded, [few?, all?])
            }
            [] => return Err("a product without weights".into()),
        };
        Ok(Linear { kind, few })
    }
}

impl Linear {
    /// `f32` elements that a product needs.
    pub fn workspace(&self) -> usize {
        let of = match &self.kind {
            Kind::Blocks(_, plans) => plans.each_ref().map(BlockPlan::workspace_elements),
            Kind::Int4(_, plans) => plans.each_ref().map(Int4Plan::workspace_elements),
        };
        of[0].max(of[1])
    }

    /// `y` of `x`, of as many rows.
    pub fn run(
        &self,
        stream: &Stream,
        x: Tensor<'_, 2>,
        y: TensorMut<'_, 2>,
        workspace: TensorMut<'_, 1>,
    ) -> Result<(), Box<dyn Error>> {
        let which = usize::from(x.shape()[0] > self.few);
        match &self.kind {
            Kind::Blocks(weights, plans) => {
                let elements = plans[which].workspace_elements();
                let args = BlockArgs {
                    w_up: weights.get(1).map(BlockBuffers::tensors),
                    workspace: Some(workspace.narrow(0, 0..elements)?),
                    ..BlockArgs::new(x, weights[0].tensors(), y)
                };
                Ok(plans[which].run(stream, args)?)
            }
            Kind::Int4(weights, plans) => {
                let elements = plans[which].workspace_elements();
                let args = Int4Args {
                    w_up: weights.get(1).map(Int4Buffers::tensors),
                    workspace: Some(workspace.narrow(0, 0..elements)?),
                    ..Int4Args::new(x, weights[0].tensors(), y)
                };
                Ok(plans[which].run(stream, args)?)
            }
        }
    }
}
