//! Operands on the host, laid out as they will be on the device.

use infer_kernels::Float;
use infer_kernels::reference::HostTensor;
use rand::RngExt;
use rand::rngs::StdRng;

/// Where the elements of an operand lie in its allocation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrangement {
    /// `[token, head, dim]` without gaps.
    Dense,
    /// Gaps behind each head and each token, and before the first.
    Padded {
        offset: usize,
        head_pad: usize,
        token_pad: usize,
    },
    /// `[head, token, dim]`, with gaps.
    HeadMajor { offset: usize, token_pad: usize },
}

impl Arrangement {
    pub fn random(rng: &mut StdRng) -> Arrangement {
        let kind = rng.random_range(0..3);
        Arrangement::of_kind(kind, rng)
    }

    /// Dense, padded or head-major, by number, with random gaps.
    pub fn of_kind(kind: usize, rng: &mut StdRng) -> Arrangement {
        let mut eights = |most: usize| 8 * rng.random_range(0..=most);
        let (offset, head_pad, token_pad) = (eights(3), eights(2), eights(2));
        match kind {
            0 => Arrangement::Dense,
            1 => Arrangement::Padded {
                offset,
                head_pad,
                token_pad,
            },
            _ => Arrangement::HeadMajor { offset, token_pad },
        }
    }

    /// Offset, strides and the length of the allocation.
    pub fn of(self, [tokens, heads, dim]: [usize; 3]) -> (usize, [i64; 3], usize) {
        let (offset, token, head) = match self {
            Arrangement::Dense => (0, heads * dim, dim),
            Arrangement::Padded {
                offset,
                head_pad,
                token_pad,
            } => (offset, heads * (dim + head_pad) + token_pad, dim + head_pad),
            Arrangement::HeadMajor { offset, token_pad } => {
                (offset, dim + token_pad, tokens * (dim + token_pad))
            }
        };
        let extent = tokens.saturating_sub(1) * token + heads.saturating_sub(1) * head + dim;
        (offset, [token as i64, head as i64, 1], offset + extent)
    }
}

/// An operand on the host, laid out as it will be on the device. Gaps hold NaN, so that reading
/// one shows, and a kernel that writes to one is found out.
#[derive(Clone, Debug)]
pub struct Operand<T> {
    pub data: Vec<T>,
    pub offset: usize,
    pub shape: [usize; 3],
    pub strides: [i64; 3],
}

impl<T: Float> Operand<T> {
    pub fn new(shape: [usize; 3], arrangement: Arrangement) -> Self {
        let (offset, strides, len) = arrangement.of(shape);
        Operand {
            data: vec![T::nearest(f64::NAN); len],
            offset,
            shape,
            strides,
        }
    }

    pub fn filled(
        shape: [usize; 3],
        arrangement: Arrangement,
        mut value: impl FnMut([usize; 3]) -> f64,
    ) -> Self {
        let mut operand = Self::new(shape, arrangement);
        for index in indices(shape) {
            let at = operand.at(index);
            operand.data[at] = T::nearest(value(index));
        }
        operand
    }

    /// Every element of a row becomes `value`.
    pub fn set_row(&mut self, row: usize, value: f64) {
        let [_, heads, dim] = self.shape;
        for [_, head, d] in indices([1, heads, dim]) {
            let at = self.at([row, head, d]);
            self.data[at] = T::nearest(value);
        }
    }

    pub fn at(&self, index: [usize; 3]) -> usize {
        let steps = index
            .iter()
            .zip(self.strides)
            .map(|(&i, stride)| i * stride as usize);
        self.offset + steps.sum::<usize>()
    }

    pub fn host(&self) -> HostTensor<'_, T, 3> {
        HostTensor::strided(&self.data, self.offset, self.shape, self.strides)
            .expect("an arrangement fits its allocation")
    }
}

pub fn indices([a, b, c]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}
