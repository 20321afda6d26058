//! Dense matrix products: the linear layers of a model.
//!
//! `y = act(x·W + bias) + residual`, or gated `y = act(x·W + bias) · (x·W_up + bias_up) + residual`,
//! which is the first half of a SwiGLU or GeGLU feed-forward layer.
//!
//! # Shapes
//! `x`: `[m, k]`; `w`, `w_up`: `[n, k]` or `[k, n]`, see [`WeightLayout`]; `bias`, `bias_up`: `[n]`;
//! `residual`, `y`: `[m, n]`. All of the problem's type, but for `y`, which may be `f32`. The
//! innermost axis is contiguous, the other may be strided. Where [`GemmProblem::aligned`], rows and
//! bases of `x` and `w` are at multiples of 16 bytes.
//!
//! # Numerics
//! Products are exact and summed in f32 by the tensor cores; what follows is computed in f32 and
//! rounded once. No sum is made by atomics: the same call gives the same bits, always, and those of
//! a row depend on its plan and on `k` and `n`, not on the other rows.
//!
//! # Example
//! ```
//! use half::f16;
//! use infer_kernels::gemm::*;
//! use infer_kernels::{DType, Device};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let problem = GemmProblem::new(DType::F16, 5, 24, 64).activation(Activation::Relu);
//! let plan = GemmPlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let x = stream.upload(&vec![f16::ONE; 5 * 64])?;
//! let w = stream.upload(&vec![f16::ONE; 24 * 64])?;
//! let mut y = stream.alloc::<f16>(5 * 24)?;
//! let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
//! plan.run(&stream, GemmArgs {
//!     workspace: Some(workspace.tensor_mut([plan.workspace_elements()])?),
//!     ..GemmArgs::new(x.tensor([5, 64])?, w.tensor([24, 64])?, y.tensor_mut([5, 24])?)
//! })?;
//! assert_eq!(y.download()?, vec![f16::from_f32(64.0); 5 * 24]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! `cuda/gemm/`. The same arguments on the CPU, in f64: [`reference::gemm`](crate::reference::gemm).

mod args;
mod error;
mod params;
mod plan;
mod problem;
mod splits;
pub(crate) mod tiles;

pub(crate) use args::{Bound, BoundLaunch, Inputs, Others, WeightAddresses, gate};
pub use args::{GemmArgs, Residual};
pub use error::GemmError;
#[doc(hidden)]
pub use params::GemmParams;
pub use plan::GemmPlan;
pub use problem::{Activation, GemmProblem, WeightLayout};
pub(crate) use splits::Splits;
pub use tiles::TileChoice;
