//! New keys and values into the slots of a cache.

mod args;
mod bind;
mod params;
mod plan;
mod problem;

pub use args::{AppendArgs, Queries, Rotation, Weights};
pub(super) use bind::{Binder, Rows};
pub use params::{AppendParams, AppendPart};
pub use plan::AppendPlan;
pub use problem::{AppendProblem, Norm, Pairing, Rope};
pub(super) use problem::{MAX_DIM, MAX_HEADS, entry_of};
