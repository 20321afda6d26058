//! Operands of a matrix product, and the proof that they fit the plan.

use super::splits::Splits;
use super::{GemmError, GemmParams, GemmPlan, GemmProblem, WeightLayout};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::Operand;
use crate::tensor::{Tensor, TensorMut};

/// What is added to the result, last.
#[derive(Debug, Default)]
pub enum Residual<'a> {
    /// Nothing.
    #[default]
    None,
    /// This, `[m, n]`.
    Add(Tensor<'a, 2>),
    /// What `y` holds, which must be of the operands' type.
    InPlace,
}

/// Operands of [`GemmPlan::run`]; shapes are given in [the module](super).
#[derive(Debug)]
pub struct GemmArgs<'a> {
    /// `[m, k]`, with `m` at most the planned rows.
    pub x: Tensor<'a, 2>,
    /// Weights, of the gate where there is one: `[n, k]` or `[k, n]`.
    pub w: Tensor<'a, 2>,
    /// Up weights, exactly if the plan is gated; with the strides of `w`.
    pub w_up: Option<Tensor<'a, 2>>,
    /// `[n]`.
    pub bias: Option<Tensor<'a, 1>>,
    /// `[n]`, for the up product.
    pub bias_up: Option<Tensor<'a, 1>>,
    /// What is added last.
    pub residual: Residual<'a>,
    /// The result, `[m, n]`.
    pub y: TensorMut<'a, 2>,
    /// At least [`GemmPlan::workspace_elements`] of `f32`; its contents do not matter.
    pub workspace: Option<TensorMut<'a, 1>>,
}

impl<'a> GemmArgs<'a> {
    /// `y = x·W`, without anything optional.
    pub fn new(x: Tensor<'a, 2>, w: Tensor<'a, 2>, y: TensorMut<'a, 2>) -> Self {
        GemmArgs {
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
    plan: &'a GemmPlan,
    stream: &'a Stream,
    m: usize,
    params: GemmParams,
}

/// One of the launches of checked operands.
pub(crate) struct BoundLaunch<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: &'b GemmParams,
}

impl Bound<'_> {
    /// The products.
    pub fn product(&self) -> BoundLaunch<'_> {
        BoundLaunch {
            kernel: self.plan.kernel(),
            stream: self.stream,
            shape: self.plan.shape(self.m),
            params: &self.params,
        }
    }

    /// The sum of the splits, where K is split.
    pub fn sums(&self) -> Option<BoundLaunch<'_>> {
        let splits = self.plan.splits();
        splits.bound(self.plan.problem(), self.stream, self.m, &self.params)
    }
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a GemmPlan,
        stream: &'a Stream,
        args: GemmArgs<'a>,
    ) -> Result<Self, GemmError> {
        let problem = plan.problem();
        let GemmArgs { w, w_up, .. } = args;
        let others = Others {
            x: args.x,
            bias: args.bias,
            bias_up: args.bias_up,
            residual: args.residual,
            y: args.y,
            workspace: args.workspace,
        };
        let m = others.x.shape()[0];
        let weights = |inputs: &mut Inputs<'a>| {
            let shape = match problem.layout {
                WeightLayout::Nk => [problem.n, problem.k],
                WeightLayout::Kn => [problem.k, problem.n],
            };
            let (w, strides) = inputs.matrix("w", &w, shape, problem.aligned)?;
            let w_up = match gate(problem.gated, w_up)? {
                Some(up) => {
                    let (address, got) = inputs.matrix("w_up", &up, shape, problem.aligned)?;
                    if got != strides {
                        return Err(GemmError::UpStrides {
                            expected: strides,
                            got,
                        });
                    }
                    address
                }
                None => 0,
            };
            // Along which axis of w the kernel steps from row to row of what it was stored as.
            let (w_stride, w_step) = match (problem.layout, problem.aligned) {
                (WeightLayout::Kn, false) => (1, strides[0]),
                _ => (strides[0], 1),
            };
            Ok(WeightAddresses {
                w,
                w_up,
                w_stride,
                w_step,
            })
        };
        let params = others.bind(
            (problem, plan.splits()),
            (plan.device(), stream),
            problem.aligned,
            weights,
        )?;
        Ok(Bound {
            plan,
            stream,
            m,
            params,
        })
    }
}

/// The up weights, where there should be some.
pub(crate) fn gate<T>(expected: bool, up: Option<T>) -> Result<Option<T>, GemmError> {
    match up.is_some() == expected {
        true => Ok(up),
        false => Err(GemmError::Gate {
            expected,
            got: up.is_some(),
        }),
    }
}

/// What products have besides weights, whatever these are.
pub(crate) struct Others<'a> {
    pub x: Tensor<'a, 2>,
    pub bias: Option<Tensor<'a, 1>>,
    pub bias_up: Option<Tensor<'a, 1>>,
    pub residual: Residual<'a>,
    pub y: TensorMut<'a, 2>,
    pub workspace: Option<TensorMut<'a, 1>>,
}

/// Checked weights.
pub(crate) struct WeightAddresses {
    pub w: u64,
    pub w_up: u64,
    pub w_stride: i64,
    pub w_step: i64,
}

impl<'a> Others<'a> {
    /// Checks all operands; `weights` the weights, telling `Inputs` what must not be written.
    /// `aligned`: whether rows of `x` must be at multiples of 16 bytes.
    pub fn bind<E: From<GemmError>>(
        self,
        (problem, splits): (&'a GemmProblem, &Splits),
        (device, stream): (&Device, &'a Stream),
        aligned: bool,
        weights: impl FnOnce(&mut Inputs<'a>) -> Result<WeightAddresses, E>,
    ) -> Result<GemmParams, E> {
        let (n, k) = (problem.n, problem.k);
        let (expected, got) = (device.id(), stream.device().id());
        if expected != got {
            let tensor = "stream";
            return Err(refused(OperandError::Device {
                tensor,
                expected,
                got,
            }));
        }
        let m = self.x.shape()[0];
        if m > problem.max_m {
            return Err(E::from(GemmError::Rows {
                expected: problem.max_m,
                got: m,
            }));
        }
        let mut inputs = Inputs {
            problem,
            stream,
            spans: Vec::with_capacity(8),
        };
        let x = inputs.matrix("x", &self.x, [m, k], aligned);
        let (x, [x_stride, _]) = x.map_err(refused)?;
        let weights = weights(&mut inputs)?;
        if self.bias_up.is_some() && !problem.gated {
            return Err(E::from(GemmError::BiasUp));
        }
        let bias = inputs.vector("bias", self.bias.as_ref(), problem.dtype, n);
        let bias_up = inputs.vector("bias_up", self.bias_up.as_ref(), problem.dtype, n);
        let (bias, bias_up) = (bias.map_err(refused)?, bias_up.map_err(refused)?);
        let outputs = self.outputs(inputs, m, splits.workspace_elements(problem))?;
        Ok(GemmParams {
            x,
            w: weights.w,
            w_up: weights.w_up,
            bias,
            bias_up,
            residual: outputs.residual,
            y: outputs.y,
            partial: outputs.partial,
            x_stride,
            w_stride: weights.w_stride,
            w_step: weights.w_step,
            residual_stride: outputs.residual_stride,
            y_stride: outputs.y_stride,
            // In range by the limits that the plan checked.
            m: m as i32,
            n: n as i32,
            k: k as i32,
            splits: splits.choice.splits as i32,
            activation: problem.activation.code(),
            y_is_f32: i32::from(problem.out == DType::F32),
        })
    }

    /// What is written, apart from each other and from every input, and the residual.
    fn outputs(
        &self,
        mut inputs: Inputs<'a>,
        m: usize,
        workspace: usize,
    ) -> Result<Outputs, GemmError> {
        let problem = inputs.problem;
        let y = self.y.as_ref();
        let y = Operand {
            name: "y",
            tensor: &y,
        };
        y.dtype(problem.out)?;
        y.shape([m, problem.n])?;
        y.place(inputs.stream)?;
        let [y_stride, _] = y.strides()?;
        let (residual, residual_stride) = match &self.residual {
            Residual::None => (0, 0),
            Residual::Add(tensor) => {
                let shape = [m, problem.n];
                let (address, [stride, _]) = inputs.matrix("residual", tensor, shape, false)?;
                (address, stride)
            }
            Residual::InPlace if problem.out == problem.dtype => (y.tensor.address(), y_stride),
            Residual::InPlace => {
                return Err(GemmError::ResidualInPlace {
                    expected: problem.dtype,
                    got: problem.out,
                });
            }
        };
        inputs.apart_from(y)?;
        let partial = match (workspace, &self.workspace) {
            (0, _) => 0,
            (expected, None) => return Err(GemmError::Workspace { expected, got: 0 }),
            (expected, Some(workspace)) => {
                let tensor = workspace.as_ref();
                let workspace = Operand {
                    name: "workspace",
                    tensor: &tensor,
                };
                workspace.dtype(DType::F32)?;
                workspace.place(inputs.stream)?;
                workspace.strides()?;
                let got = tensor.shape()[0];
                if got < expected {
                    return Err(GemmError::Workspace { expected, got });
                }
                inputs.apart_from(workspace)?;
                workspace.apart_from(y)?;
                tensor.address()
            }
        };
        Ok(Outputs {
            y: y.tensor.address(),
            y_stride,
            residual,
            residual_stride,
            partial,
        })
    }
}

/// Checked outputs.
struct Outputs {
    y: u64,
    y_stride: i64,
    residual: u64,
    residual_stride: i64,
    partial: u64,
}

fn refused<E: From<GemmError>>(error: OperandError) -> E {
    E::from(GemmError::from(error))
}

/// The operands that are read, checked one by one.
pub(crate) struct Inputs<'a> {
    problem: &'a GemmProblem,
    stream: &'a Stream,
    /// What must not be written: names and tensors flattened to one axis of their kind.
    spans: Vec<(&'static str, Span<'a>)>,
}

enum Span<'a> {
    Matrix(Tensor<'a, 2>),
    Vector(Tensor<'a, 1>),
}

impl<'a> Inputs<'a> {
    /// Address and strides.
    pub fn matrix(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'a, 2>,
        shape: [usize; 2],
        aligned: bool,
    ) -> Result<(u64, [i64; 2]), OperandError> {
        let operand = Operand { name, tensor };
        operand.dtype(self.problem.dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let strides = match aligned {
            true => operand.aligned_strides()?,
            false => operand.strides()?,
        };
        self.spans.push((name, Span::Matrix(*tensor)));
        Ok((tensor.address(), strides))
    }

    /// The address of so many elements of a type, or 0 if not given.
    pub fn vector(
        &mut self,
        name: &'static str,
        tensor: Option<&Tensor<'a, 1>>,
        dtype: DType,
        elements: usize,
    ) -> Result<u64, OperandError> {
        let Some(tensor) = tensor else { return Ok(0) };
        let operand = Operand { name, tensor };
        operand.dtype(dtype)?;
        operand.shape([elements])?;
        operand.place(self.stream)?;
        operand.strides()?;
        self.spans.push((name, Span::Vector(*tensor)));
        Ok(tensor.address())
    }

    /// The same at a multiple of 16 bytes.
    pub fn aligned_vector(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'a, 1>,
        dtype: DType,
        elements: usize,
    ) -> Result<u64, OperandError> {
        let address = self.vector(name, Some(tensor), dtype, elements)?;
        Operand { name, tensor }.aligned_strides()?;
        Ok(address)
    }

    /// What is written shares no memory with anything that is read.
    fn apart_from<const R: usize>(&self, written: Operand<'_, '_, R>) -> Result<(), OperandError> {
        for (name, span) in &self.spans {
            match span {
                Span::Matrix(tensor) => written.apart_from(Operand { name, tensor })?,
                Span::Vector(tensor) => written.apart_from(Operand { name, tensor })?,
            }
        }
        Ok(())
    }
}
