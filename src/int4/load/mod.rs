//! Weights as other formats store them, from slices.
//!
//! Each loader is a struct of the tensors that a checkpoint has for a layer, under the names that it
//! has for them, and a method `pack`. What a format means is told by its own code that dequantizes:
//! [`Int4Weight::dequantize`](super::Int4Weight::dequantize) and
//! [`CodebookWeight::dequantize`](super::CodebookWeight::dequantize) give the same numbers, bit for bit
//! before anything is rounded to 16 bits.

mod awq;
mod bitsandbytes;
mod compressed;
mod ggml;
mod gptq;
mod microscaling;

pub use awq::Awq;
pub use bitsandbytes::{Absmax, BitsAndBytes, BnbType, NESTED_BLOCK, NESTED_CODES};
pub use compressed::CompressedTensors;
pub use ggml::{Q4_0, Q4_0_BYTES, Q4_0_ROWS};
pub use gptq::{Gptq, GptqVersion};
pub use microscaling::{GgmlMxfp4, MXFP4_BYTES, MXFP4_ROWS, Mxfp4, NVFP4_ROWS, Nvfp4};

use half::{bf16, f16};

use super::PackError;
use super::pack::{Octets, Source};
use super::{Codes, Int4Weight, pack};
use crate::dtype::Float;

/// A type that scales can have: `f16` or `bf16`.
pub trait Scale: Float {
    /// The bits of a scale.
    fn bits(self) -> u16;
}

impl Scale for f16 {
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

impl Scale for bf16 {
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

fn length(what: &'static str, expected: usize, got: usize) -> Result<(), PackError> {
    match expected == got {
        true => Ok(()),
        false => Err(PackError::Length {
            what,
            expected,
            got,
        }),
    }
}

fn multiple(what: &'static str, expected: usize, got: usize) -> Result<(), PackError> {
    match got.is_multiple_of(expected) {
        true => Ok(()),
        false => Err(PackError::Multiple {
            what,
            expected,
            got,
        }),
    }
}

/// The product of sizes, or more than any slice has.
fn product(sizes: [usize; 2]) -> usize {
    sizes[0].saturating_mul(sizes[1])
}

/// Groups of a column, and the rows of each.
fn groups(k: usize, group: Option<usize>) -> Result<(usize, usize), PackError> {
    match group {
        Some(0) => Err(PackError::Group { got: 0 }),
        Some(rows) => Ok((k.div_ceil(rows), rows)),
        None => Ok((1, k.max(1))),
    }
}

/// A matrix with zero points, or without where all of them are 8.
fn pack_zero_points<S: Scale>(
    k: usize,
    n: usize,
    group: Option<usize>,
    order: Vec<u32>,
    octets: impl Octets,
    scale: impl Fn(usize, usize) -> S,
    zero: impl Fn(usize, usize) -> u8,
) -> Result<Int4Weight, PackError> {
    let mut source = Source {
        k,
        n,
        group,
        meaning: Codes::Symmetric,
        scale_dtype: S::DTYPE,
        order,
    };
    let groups = source.extent()?.existing_groups();
    if (0..groups).any(|group| (0..n).any(|column| zero(group, column) != 8)) {
        source.meaning = Codes::ZeroPoints;
    }
    let scale = |group, column| scale(group, column).bits();
    pack::pack(source, octets, scale, zero)
}
