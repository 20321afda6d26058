//! Operands that operations of the tour are run on.

use half::bf16;
use infer_kernels::Float;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

/// Standard normal numbers of a seed.
pub struct Normal(StdRng);

impl Normal {
    pub fn new(seed: u64) -> Normal {
        Normal(StdRng::seed_from_u64(seed))
    }

    pub fn numbers(&mut self, len: usize) -> Vec<f64> {
        StandardNormal.sample_iter(&mut self.0).take(len).collect()
    }

    /// Such numbers times `scale`, rounded.
    pub fn bf16s(&mut self, len: usize, scale: f64) -> Vec<bf16> {
        let numbers = StandardNormal.sample_iter(&mut self.0).take(len);
        numbers.map(|x: f64| bf16::nearest(x * scale)).collect()
    }
}

/// Where each sequence's rows begin, and where the last one's end.
pub fn offsets(lengths: &[usize]) -> Vec<i32> {
    let mut end = 0;
    let ends = lengths.iter().map(|&length| {
        end += length as i32;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

/// Pages of sequences of these lengths, in no order: the first page of a sequence is the last of its
/// part of the pool. A table of as many columns for each sequence, and that number.
pub fn page_table(lengths: &[usize], page_size: usize) -> (Vec<u32>, usize) {
    let pages = lengths.iter().map(|length| length.div_ceil(page_size));
    let most = pages.max().unwrap_or(0);
    ((0..(lengths.len() * most) as u32).rev().collect(), most)
}
