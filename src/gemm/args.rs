//! Operands of a matrix product, and the proof that they fit the plan.

use super::{GemmError, GemmParams, GemmPlan, GemmProblem, WeightLayout};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
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
        Some(BoundLaunch {
            kernel: self.plan.reduce()?,
            stream: self.stream,
            shape: self.plan.reduce_shape(self.m),
            params: &self.params,
        })
    }
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        plan: &'a GemmPlan,
        stream: &'a Stream,
        args: GemmArgs<'a>,
    ) -> Result<Self, GemmError> {
        let problem = plan.problem();
        let (n, k) = (problem.n, problem.k);
        let (expected, got) = (plan.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }
        let m = args.x.shape()[0];
        if m > problem.max_m {
            return Err(GemmError::Rows {
                expected: problem.max_m,
                got: m,
            });
        }
        let mut inputs = Inputs {
            problem,
            stream,
            spans: Vec::with_capacity(6),
        };
        let w_shape = match problem.layout {
            WeightLayout::Nk => [n, k],
            WeightLayout::Kn => [k, n],
        };
        let (x, [x_stride, _]) = inputs.matrix("x", &args.x, [m, k], problem.aligned)?;
        let (w, w_strides) = inputs.matrix("w", &args.w, w_shape, problem.aligned)?;
        let w_up = match (problem.gated, &args.w_up) {
            (true, Some(up)) => {
                let (address, got) = inputs.matrix("w_up", up, w_shape, problem.aligned)?;
                if got != w_strides {
                    return Err(GemmError::UpStrides {
                        expected: w_strides,
                        got,
                    });
                }
                address
            }
            (false, None) => 0,
            (expected, given) => {
                return Err(GemmError::Gate {
                    expected,
                    got: given.is_some(),
                });
            }
        };
        if args.bias_up.is_some() && !problem.gated {
            return Err(GemmError::BiasUp);
        }
        let bias = inputs.vector("bias", args.bias.as_ref())?;
        let bias_up = inputs.vector("bias_up", args.bias_up.as_ref())?;

        let y = args.y.as_ref();
        let y = Operand {
            name: "y",
            tensor: &y,
        };
        y.dtype(problem.out)?;
        y.shape([m, n])?;
        y.place(stream)?;
        let [y_stride, _] = y.strides()?;
        let (residual, residual_stride) = match &args.residual {
            Residual::None => (0, 0),
            Residual::Add(tensor) => {
                let (address, [stride, _]) = inputs.matrix("residual", tensor, [m, n], false)?;
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

        let partial = match (plan.workspace_elements(), &args.workspace) {
            (0, _) => 0,
            (expected, None) => return Err(GemmError::Workspace { expected, got: 0 }),
            (expected, Some(workspace)) => {
                let tensor = workspace.as_ref();
                let workspace = Operand {
                    name: "workspace",
                    tensor: &tensor,
                };
                workspace.dtype(DType::F32)?;
                workspace.place(stream)?;
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

        // Along which axis of w the kernel steps from row to row of what it was stored as.
        let (w_stride, w_step) = match (problem.layout, problem.aligned) {
            (WeightLayout::Kn, false) => (1, w_strides[0]),
            _ => (w_strides[0], 1),
        };
        Ok(Bound {
            plan,
            stream,
            m,
            params: GemmParams {
                x,
                w,
                w_up,
                bias,
                bias_up,
                residual,
                y: y.tensor.address(),
                partial,
                x_stride,
                w_stride,
                w_step,
                residual_stride,
                y_stride,
                // In range by the limits that the plan checked.
                m: m as i32,
                n: n as i32,
                k: k as i32,
                splits: plan.choice().splits as i32,
                activation: problem.activation.code(),
                y_is_f32: i32::from(problem.out == DType::F32),
            },
        })
    }
}

/// The operands that are read, checked one by one.
struct Inputs<'a> {
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
    fn matrix(
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

    /// The address, or 0.
    fn vector(
        &mut self,
        name: &'static str,
        tensor: Option<&Tensor<'a, 1>>,
    ) -> Result<u64, OperandError> {
        let Some(tensor) = tensor else { return Ok(0) };
        let operand = Operand { name, tensor };
        operand.dtype(self.problem.dtype)?;
        operand.shape([self.problem.n])?;
        operand.place(self.stream)?;
        operand.strides()?;
        self.spans.push((name, Span::Vector(*tensor)));
        Ok(tensor.address())
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
