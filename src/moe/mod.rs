//! Mixtures of experts: from the router's logits to the layer's output, on the device.
//!
//! `y[t] = Σ over slots s of weight[t,s] · expert[t,s](x[t])`, where an expert is a gated feed-forward
//! layer, `(act(x·W_gate + b_gate) · (x·W_up + b_up))·W_down + b_down`, or one without gate.
//!
//! [`MoePlan`] is the whole layer. Its stages also work alone:
//!
//! | stage | reads | makes |
//! |---|---|---|
//! | [`RoutePlan`] | logits | the experts of each token, and what they weigh |
//! | [`PermutePlan`] | experts of each token | tokens of each expert |
//! | [`GroupedPlan`] up | rows of tokens | intermediate rows, an expert's together |
//! | [`GroupedPlan`] down | intermediate rows | a row per token and slot |
//! | [`CombinePlan`] | those | rows of tokens |
//!
//! # Numerics
//! Products are exact and summed in f32; intermediate rows and those of each slot are rounded to the
//! operands' type; the rest is computed in f32 and rounded once. Nothing depends on the order of
//! execution: the same call gives the same bits, always.
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::moe::*;
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let (tokens, hidden, intermediate, experts) = (3, 32, 16, 4);
//! let problem = MoeProblem::new(DType::BF16, Routing::new(experts, 2), tokens, hidden, intermediate);
//! let plan = MoePlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let ones = |len| stream.upload(&vec![bf16::ONE; len]);
//! let (x, w) = (ones(tokens * hidden)?, ones(experts * hidden * intermediate)?);
//! let logits = stream.upload(&vec![0.0f32; tokens * experts])?;
//! let mut y = stream.alloc::<bf16>(tokens * hidden)?;
//! let mut workspace = stream.alloc::<u8>(plan.workspace_bytes())?;
//! let status = StatusWord::new(&stream)?;
//! let up = [experts, intermediate, hidden];
//! plan.run(&stream, MoeArgs {
//!     w_up: Some(w.tensor(up)?),
//!     ..MoeArgs::new(
//!         x.tensor([tokens, hidden])?,
//!         logits.tensor([tokens, experts])?,
//!         w.tensor(up)?,
//!         w.tensor([experts, hidden, intermediate])?,
//!         y.tensor_mut([tokens, hidden])?,
//!         workspace.tensor_mut([plan.workspace_bytes()])?,
//!         &status,
//!     )
//! })?;
//! // silu(32)·32 of each intermediate column, of both experts, which weigh 1/2.
//! assert_eq!(y.download()?[0].to_f32(), 16.0 * 1024.0);
//! status.read()?.into_result()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! `cuda/moe/`, on the main loop of `cuda/gemm/`. The same on the CPU, in f64:
//! [`reference::moe`](crate::reference::moe).

mod check;
mod combine;
mod error;
mod experts;
mod grouped;
mod layer;
mod params;
mod permute;
mod route;

pub(crate) use check::BoundLaunch;
pub use combine::{CombineArgs, CombinePlan};
pub use error::MoeError;
pub use experts::Experts;
pub use grouped::{Direction, GroupedArgs, GroupedPlan, GroupedProblem, Schedule};
pub use layer::{MoeArgs, MoePlan, MoeProblem};
#[doc(hidden)]
pub use params::{CombineParams, GroupedParams, PermuteParams, RouteParams};
pub use permute::{PermuteArgs, PermutePlan};
pub use route::{GroupRank, Groups, RouteArgs, RoutePlan, Routing, Scoring};

use crate::catalog::{self, Entry};

/// The entries of a stage.
fn entries(kernel: &'static str) -> impl Iterator<Item = &'static Entry> {
    catalog::ENTRIES
        .iter()
        .filter(move |entry| entry.kernel == kernel)
}

/// The one entry of a stage for a type, which the catalog has: tests/driver/smoke.rs runs each.
fn entry(kernel: &'static str, dtype: &str, variant: &str) -> &'static Entry {
    entries(kernel)
        .find(|entry| entry.dtype == dtype && entry.variant == variant)
        .expect("kernels.toml has this entry")
}
