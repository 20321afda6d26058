//! The KV cache: keys and values in pages, on their way in, within, and out.
//!
//! A cache is a pool of pages of `page_size` tokens each. Token `i` of the pool, its *slot*, is row
//! `i % page_size` of page `i / page_size`. Which pages belong to a sequence is written in a table
//! that the attention kernels read; the operations here take slots and page ids.
//!
//! | you want to | use |
//! |---|---|
//! | store new keys and values, after norm and rotation | [`AppendPlan`] |
//!
//! Every layout in use is a view: [`Cache`], [`CacheMut`]. Elements are stored as they are or in 8
//! bits with a scale: [`Format`].

mod append;
mod cache;
mod error;

pub(crate) use append::Bound as BoundAppend;
pub use append::{
    AppendArgs, AppendPlan, AppendProblem, Norm, Pairing, Queries, Rope, Rotation, Weights,
};
#[doc(hidden)]
pub use append::{AppendParams, AppendPart};
pub use cache::{Cache, CacheMut, Format, Scales};
pub use error::KvError;
