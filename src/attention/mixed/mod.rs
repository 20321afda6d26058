//! Mixed batches: sequences that decode beside sequences whose prompt is read in chunks.
//!
//! One plan, one set of operands and one call for a step of continuous batching. The first sequences
//! of the batch are those that [decode](super::decode): one or a few queries over many keys. The others
//! [prefill](super::prefill): chunks of a prompt. Each part runs the kernels that suit it, one behind the
//! other on the stream; what is computed does not depend on where a sequence is, only how fast.
//!
//! # Shapes
//! Those of [`PrefillArgs`](super::prefill::PrefillArgs), for the whole batch. Keys and values are in
//! pages, unless nothing decodes.
//!
//! # Example
//! ```
//! use half::f16;
//! use infer_kernels::attention::mixed::*;
//! use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, PrefillArgs, PrefillProblem};
//! use infer_kernels::{DType, Device, StatusWord, attention::SeqLens};
//!
//! let device = Device::auto()?;
//! let stream = device.stream();
//! let heads = HeadShape { query: 4, kv: 1, dim: 64 };
//! // One query over 20 keys, and a chunk of 30 queries, whose keys are behind 10 that are there.
//! let attention = PrefillProblem::new(DType::F16, heads, 2, 30).paged(16).causal(true);
//! let plan = MixedPlan::new(&device, &MixedProblem::new(attention, 1))?;
//! println!("{plan}");
//!
//! let q = stream.upload(&vec![f16::ONE; 31 * 4 * 64])?;
//! let pool = stream.upload(&vec![f16::ONE; 5 * 16 * 64])?;
//! let (table, lens) = (stream.upload(&[2, 0, 0, 1, 3, 4])?, stream.upload(&[20, 40])?);
//! let mut out = stream.alloc::<f16>(31 * 4 * 64)?;
//! let mut workspace = stream.alloc::<f32>(plan.workspace_elements())?;
//! let seqlens_q = SeqLens::from_lengths(&stream, &[1, 30])?;
//! let status = StatusWord::new(&stream)?;
//! let pages = pool.tensor([5, 16, 1, 64])?;
//! let kv = Kv::Paged {
//!     k: pages,
//!     v: pages,
//!     pages: PageTable::Rows(table.tensor([2, 3])?),
//!     seqlens: lens.tensor([2])?,
//! };
//! let out_rows = out.tensor_mut([31, 4, 64])?;
//! let attention = PrefillArgs::new(q.tensor([31, 4, 64])?, kv, out_rows, &seqlens_q, &status);
//! let workspace = workspace.tensor_mut([plan.workspace_elements()])?;
//! plan.run(&stream, MixedArgs { attention, workspace })?;
//! assert!(status.read()?.is_clean());
//! assert_eq!(out.download()?, vec![f16::ONE; 31 * 4 * 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod args;
mod error;
mod plan;
mod problem;

pub use args::MixedArgs;
pub use error::MixedError;
pub use plan::MixedPlan;
pub use problem::MixedProblem;
