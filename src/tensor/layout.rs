//! Shapes and strides: which elements an operand touches, in arithmetic that cannot wrap.

/// Sizes and steps of an `R`-dimensional operand, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout<const R: usize> {
    pub shape: [usize; R],
    pub strides: [i64; R],
}

/// The first and the last element that a layout touches, relative to its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub low: i64,
    pub high: i64,
}

impl<const R: usize> Layout<R> {
    /// Row-major without gaps; `None` when a stride or the element count does not fit.
    pub fn contiguous(shape: [usize; R]) -> Option<Self> {
        let mut strides = [0; R];
        let mut step: usize = 1;
        for axis in (0..R).rev() {
            strides[axis] = i64::try_from(step).ok()?;
            step = step.checked_mul(shape[axis].max(1))?;
        }
        Some(Layout { shape, strides })
    }

    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Where the elements lie: `Ok(None)` when there are none, `Err` when it does not fit 64 bits.
    pub fn extent(&self) -> Result<Option<Extent>, Overflow> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut extent = Extent { low: 0, high: 0 };
        for (&len, &stride) in self.shape.iter().zip(&self.strides) {
            let steps = i64::try_from(len - 1).map_err(|_| Overflow)?;
            let reach = steps.checked_mul(stride).ok_or(Overflow)?;
            let end = if reach < 0 {
                &mut extent.low
            } else {
                &mut extent.high
            };
            *end = end.checked_add(reach).ok_or(Overflow)?;
        }
        Ok(Some(extent))
    }

    /// Whether no two indices meet in one element, judged axis by axis from the smallest stride:
    /// each must step over all that the smaller ones span. Sufficient, and true of every layout
    /// that is cut out of, or padded from, a dense one.
    pub fn is_injective(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut axes: Vec<(u64, u64)> = self
            .shape
            .iter()
            .zip(&self.strides)
            .filter(|&(&len, _)| len > 1)
            .map(|(&len, &stride)| (stride.unsigned_abs(), len as u64))
            .collect();
        axes.sort_unstable();
        let mut spanned: u128 = 0;
        for (stride, len) in axes {
            if u128::from(stride) <= spanned {
                return false;
            }
            spanned += u128::from(stride) * u128::from(len - 1);
        }
        true
    }

    /// The largest step of an axis that has more than one index: the pitch of the rows.
    pub fn pitch(&self) -> Option<u64> {
        self.shape
            .iter()
            .zip(&self.strides)
            .filter(|&(&len, _)| len > 1)
            .map(|(_, &stride)| stride.unsigned_abs())
            .max()
    }
}

/// A size or an address that does not fit 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_strides_are_row_major() {
        assert_eq!(Layout::contiguous([2, 3, 5]).unwrap().strides, [15, 5, 1]);
        assert_eq!(Layout::contiguous([2, 0, 5]).unwrap().strides, [5, 5, 1]);
        assert_eq!(Layout::contiguous([usize::MAX, 2]), None);
    }

    #[test]
    fn extents_cover_negative_strides_and_refuse_to_wrap() {
        let layout = Layout {
            shape: [3, 4],
            strides: [-10, 2],
        };
        assert_eq!(layout.extent(), Ok(Some(Extent { low: -20, high: 6 })));
        let layout = Layout {
            shape: [3, 0],
            strides: [i64::MAX, i64::MIN],
        };
        assert_eq!(layout.extent(), Ok(None));
        let layout = Layout {
            shape: [3],
            strides: [i64::MAX],
        };
        assert_eq!(layout.extent(), Err(Overflow));
        let layout = Layout {
            shape: [2, 2],
            strides: [i64::MAX, 1],
        };
        assert_eq!(layout.extent(), Err(Overflow));
        let layout = Layout {
            shape: [usize::MAX],
            strides: [0],
        };
        assert_eq!(layout.extent(), Err(Overflow));
    }

    #[test]
    fn overlapping_indices_are_found() {
        let of = |shape, strides| Layout { shape, strides }.is_injective();
        assert!(of([4, 8], [8, 1]));
        assert!(of([4, 8], [1, 4]));
        assert!(of([4, 8], [-100, 1]));
        assert!(of([1, 8], [0, 1]));
        assert!(!of([4, 8], [7, 1]));
        assert!(!of([4, 8], [0, 1]));
        assert!(of([0, 8], [0, 0]));
        assert!(!of([usize::MAX, 2], [i64::MIN, i64::MIN]));
    }
}
