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
//! | rotate queries and keys that are stored by other means | [`RotatePlan`] |
//! | make the tables of angles, scaled for long contexts | [`Angles`] |
//! | copy pages, also to the host and back | [`CopyPlan`] |
//! | have keys and values of sequences in one tensor each | [`GatherPlan`] |
//!
//! Every layout in use is a view: [`Cache`], [`CacheMut`], [`MlaCache`], [`MlaCacheMut`]. Elements are stored as they are or in 8
//! bits with a scale: [`Format`].
//!
//! # Example
//! ```
//! use half::bf16;
//! use infer_kernels::kv::*;
//! use infer_kernels::{DType, Device, StatusWord};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let problem = AppendProblem::new(DType::BF16, 2, 64);
//! let plan = AppendPlan::new(&device, &problem)?;
//! println!("{plan}");
//!
//! let new = stream.upload(&vec![bf16::ONE; 3 * 2 * 64])?;
//! let mut pool = stream.alloc::<bf16>(5 * 2 * 16 * 2 * 64)?; // 5 pages of 16 tokens, keys and values
//! let slots = stream.upload(&[16i64, 17, 40])?; // the first two of page 1, one of page 2
//! let status = StatusWord::new(&stream)?;
//! let new = new.tensor([3, 2, 64])?;
//! let cache = CacheMut::Combined(pool.tensor_mut([5, 2, 16, 2, 64])?);
//! plan.run(&stream, AppendArgs::new(new, new, cache, &slots, &status))?;
//!
//! let stored = pool.download()?.iter().filter(|&&x| x == bf16::ONE).count();
//! assert_eq!(stored, 2 * 3 * 2 * 64);
//! status.read()?.into_result()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Source
//! `cuda/kv/`. The same on the CPU: [`reference::kv`](crate::reference::kv).

mod angles;
mod append;
mod cache;
mod copy;
mod error;
mod gather;
mod mla;
mod rotate;

use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};

pub use angles::{Angles, RopeScaling};
pub use append::{
    AppendArgs, AppendPlan, AppendProblem, Norm, Pairing, Queries, Rope, Rotation, Weights,
};
#[doc(hidden)]
pub use append::{AppendParams, AppendPart};
pub(crate) use cache::Contents;
pub use cache::{Cache, CacheMut, Format, Scales};
#[doc(hidden)]
pub use copy::CopyParams;
pub use copy::{CopyArgs, CopyPlan, Pages};
pub use error::KvError;
pub use gather::{GatherArgs, GatherPlan, GatherProblem};
#[doc(hidden)]
pub use gather::{GatherParams, GatherPart};
pub use mla::{MlaAppendArgs, MlaAppendPlan, MlaAppendProblem, MlaCache, MlaCacheMut};
pub use rotate::{RotateArgs, RotatePlan, RotateProblem};

/// Checked operands, as a kernel takes them. Made only by the `bind` of a plan.
pub(crate) struct Bound<'a, P> {
    pub kernel: &'a Kernel,
    pub stream: &'a Stream,
    pub shape: LaunchShape,
    pub params: P,
}
