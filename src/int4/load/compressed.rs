//! compressed-tensors: a row per output, codes packed along K.

use super::{Scale, groups, length, pack_zero_points, product};
use crate::int4::{Int4Weight, PackError};

/// A layer in compressed-tensors' format `pack-quantized` with four bits. Codes are stored with 8
/// added, eight in an `int32`, the first in the lowest bits; rows and columns are padded to whole
/// words. The value is `scale·(q - zero)`.
#[derive(Clone, Copy, Debug)]
pub struct CompressedTensors<'a, S> {
    /// Rows of the packed type: inputs.
    pub k: usize,
    /// Columns of the packed type: outputs.
    pub n: usize,
    /// `group_size` of strategy `group`; `None` for strategy `channel`.
    pub group: Option<usize>,
    /// `[n, ceil(k / 8)]`.
    pub weight_packed: &'a [i32],
    /// `[n, groups]`.
    pub weight_scale: &'a [S],
    /// `[ceil(n / 8), groups]`: eight outputs in each. None if symmetric.
    pub weight_zero_point: Option<&'a [i32]>,
}

impl<S: Scale> CompressedTensors<'_, S> {
    /// The layer in the packed type.
    ///
    /// # Errors
    /// [`PackError::Length`] for shapes that do not fit each other, [`PackError::Group`],
    /// [`PackError::Scale`], [`PackError::Limit`].
    pub fn pack(&self) -> Result<Int4Weight, PackError> {
        let CompressedTensors { k, n, .. } = *self;
        let (groups, _) = groups(k, self.group)?;
        let words = k.div_ceil(8);
        length(
            "weight_packed",
            product([n, words]),
            self.weight_packed.len(),
        )?;
        length(
            "weight_scale",
            product([n, groups]),
            self.weight_scale.len(),
        )?;
        if let Some(zeros) = self.weight_zero_point {
            length(
                "weight_zero_point",
                product([n.div_ceil(8), groups]),
                zeros.len(),
            )?;
        }
        let octet = |octet: usize, column: usize| self.weight_packed[column * words + octet] as u32;
        let zero = |group: usize, column: usize| match self.weight_zero_point {
            None => 8,
            Some(zeros) => {
                let word = zeros[column / 8 * groups + group] as u32;
                (word >> (4 * (column % 8)) & 15) as u8
            }
        };
        let scale = |group: usize, column: usize| self.weight_scale[column * groups + group];
        pack_zero_points(k, n, self.group, Vec::new(), octet, scale, zero)
    }
}
