//! 4-bit weights: one packed type for every checkpoint format.
//!
//! [`Int4Weight`] holds a matrix `[k, n]` of codes, with a scale and maybe a zero point for each
//! group of rows of a column. [`load`] makes it of what GPTQ, AWQ, compressed-tensors and GGUF store,
//! [`Quantizer`] of ordinary weights. It gives back the exact numbers that it stands for,
//! can be cut along either axis, and lies in memory as [`layout`] says.
//!
//! # Example
//! ```
//! use infer_kernels::DType;
//! use infer_kernels::int4::Quantizer;
//!
//! let (n, k) = (24, 256);
//! let w: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.37).sin()).collect();
//! let packed = Quantizer::new(DType::F16).quantize(&w, n, k)?;
//! assert_eq!(packed.bytes(), 32 * 256 / 2 + 2 * 32 * 2); // Columns are padded to 32.
//! let exact = packed.dequantize(); // [k, n]
//! assert!((exact[24 * 9 + 5] - w[256 * 5 + 9]).abs() < 0.08);
//! # Ok::<(), infer_kernels::int4::PackError>(())
//! ```

mod error;
pub mod layout;
pub mod load;
mod pack;
mod quantize;
mod weight;

pub use error::PackError;
pub use load::Scale;
pub use quantize::Quantizer;
pub use weight::{Codes, Int4Weight};
