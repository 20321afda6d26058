//! The KV cache: keys and values in pages, on their way in, within, and out.
//!
//! A cache is a pool of pages of `page_size` tokens each. Token `i` of the pool, its *slot*, is row
//! `i % page_size` of page `i / page_size`. Which pages belong to a sequence is written in a table
//! that the attention kernels read; the operations here take slots, page ids, or
//! that table.
//!
//! | you want to | use |
//! |---|---|
//! | store new keys and values, after norm and rotation | [`AppendPlan`] |
//! | store the latent and the rotary keys of MLA | [`MlaAppendPlan`] |
//! | copy pages, also to the host and back | [`CopyPlan`] |
//! | have keys and values of sequences in one tensor each | [`GatherPlan`] |
//!
//! Every layout in use is a view: [`Cache`], [`CacheMut`]. Elements are stored as they are or in 8
//! bits with a scale: [`Format`].

mod append;
mod cache;
mod copy;
mod error;
mod gather;
mod mla;

use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};

pub use append::{
    AppendArgs, AppendPlan, AppendProblem, Norm, Pairing, Queries, Rope, Rotation, Weights,
};
#[doc(hidden)]
pub use append::{AppendParams, AppendPart};
pub use cache::{Cache, CacheMut, Format, Scales};
#[doc(hidden)]
pub use copy::CopyParams;
pub use copy::{CopyArgs, CopyPlan, Pages};
pub use error::KvError;
pub use gather::{GatherArgs, GatherPlan, GatherProblem};
#[doc(hidden)]
pub use gather::{GatherParams, GatherPart};
pub use mla::{MlaAppendArgs, MlaAppendPlan, MlaAppendProblem, MlaCacheMut};

/// Checked operands, as a kernel takes them. Made only by the `bind` of a plan.
pub(crate) struct Bound<'a, P> {
    pub kernel: &'a Kernel,
    pub stream: &'a Stream,
    pub shape: LaunchShape,
    pub params: P,
}
