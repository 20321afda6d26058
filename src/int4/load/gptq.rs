//! GPTQ: codes packed along K, zero points along N, groups maybe in the order of activations.

use super::{Scale, groups, length, multiple, pack_zero_points, product};
use crate::int4::{Int4Weight, PackError};

/// Which convention zero points follow; `checkpoint_format` in a checkpoint's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GptqVersion {
    /// `"gptq"`: a stored zero point is one less than meant, modulo 16.
    V1,
    /// `"gptq_v2"`: stored as meant.
    V2,
}

/// A layer as GPTQ checkpoints have it. Codes are four bits wide, eight in an `int32`, the first in
/// the lowest bits. The value is `scale·(q - zero)`.
#[derive(Clone, Copy, Debug)]
pub struct Gptq<'a, S> {
    /// Rows: inputs; a multiple of 8.
    pub k: usize,
    /// Columns: outputs; a multiple of 8.
    pub n: usize,
    /// `group_size`: rows of a group; `None` for -1, whole columns.
    pub group: Option<usize>,
    /// `[k / 8, n]`: eight rows of a column in each.
    pub qweight: &'a [i32],
    /// `[groups, n / 8]`: eight columns of a group in each.
    pub qzeros: &'a [i32],
    /// `[groups, n]`.
    pub scales: &'a [S],
    /// `[k]`: the group of each row. Without, rows are in the order of groups.
    pub g_idx: Option<&'a [i32]>,
    /// What zero points mean.
    pub version: GptqVersion,
}

impl<S: Scale> Gptq<'_, S> {
    /// The layer in the packed type. With `g_idx` in the order of activations, rows are permuted;
    /// a kernel's input need not be.
    ///
    /// # Errors
    /// [`PackError::Multiple`] and [`PackError::Length`] for shapes that do not fit each other,
    /// [`PackError::Group`], [`PackError::Scale`], [`PackError::Limit`];
    /// [`PackError::GroupIndex`] and [`PackError::GroupRows`] for a `g_idx` that names groups that
    /// do not exist, or gives one more or fewer rows than it has.
    pub fn pack(&self) -> Result<Int4Weight, PackError> {
        let Gptq { k, n, .. } = *self;
        let (groups, rows) = groups(k, self.group)?;
        multiple("k", 8, k)?;
        multiple("n", 8, n)?;
        length("qweight", product([k / 8, n]), self.qweight.len())?;
        length("qzeros", product([groups, n / 8]), self.qzeros.len())?;
        length("scales", product([groups, n]), self.scales.len())?;
        let order = match self.g_idx {
            Some(g_idx) => row_order(k, groups, rows, g_idx)?,
            None => Vec::new(),
        };
        let more = u32::from(self.version == GptqVersion::V1);
        let zero = |group: usize, column: usize| {
            let stored = self.qzeros[group * (n / 8) + column / 8] as u32 >> (4 * (column % 8));
            ((stored + more) & 15) as u8
        };
        let scale = |group: usize, column: usize| self.scales[group * n + column];
        let qweight = |octet: usize, column: usize| self.qweight[octet * n + column] as u32;
        if order.is_empty() {
            return pack_zero_points(k, n, self.group, order, qweight, scale, zero);
        }
        let permuted = |octet: usize, column: usize| {
            let rows = order[8 * octet..][..8].iter().enumerate();
            rows.fold(0, |word, (i, &row)| {
                let row = row as usize;
                word | (qweight(row / 8, column) >> (row % 8 * 4) & 15) << (4 * i)
            })
        };
        pack_zero_points(k, n, self.group, order.clone(), permuted, scale, zero)
    }
}

/// The rows, group by group; empty if they are in order already.
fn row_order(k: usize, groups: usize, rows: usize, g_idx: &[i32]) -> Result<Vec<u32>, PackError> {
    length("g_idx", k, g_idx.len())?;
    let mut members = vec![Vec::new(); groups];
    for (row, &got) in g_idx.iter().enumerate() {
        let group = usize::try_from(got).ok().and_then(|at| members.get_mut(at));
        let Some(group) = group else {
            return Err(PackError::GroupIndex {
                row,
                expected: groups,
                got,
            });
        };
        group.push(row as u32);
    }
    for (group, members) in members.iter().enumerate() {
        let expected = rows.min(k - group * rows);
        if members.len() != expected {
            return Err(PackError::GroupRows {
                group,
                expected,
                got: members.len(),
            });
        }
    }
    let order = members.concat();
    match order.is_sorted() {
        true => Ok(Vec::new()),
        false => Ok(order),
    }
}
