//! Making 4-bit weights of others.

use std::ops::Range;

use half::{bf16, f16};

use super::pack::{self, Source};
use super::{Codes, Int4Weight, PackError};
use crate::dtype::DType;

/// How to quantize.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Quantizer {
    /// Rows of a group; `None`: whole columns.
    pub group: Option<usize>,
    /// With zero points or without.
    pub meaning: Codes,
    /// The type of scales: `f16` or `bf16`.
    pub scale_dtype: DType,
    /// Whether to look for the scale with the least squared error, which clips outliers, rather
    /// than take the one that spans all elements.
    pub search: bool,
}

impl Quantizer {
    /// Groups of 128 rows, symmetric, with the scale searched for.
    pub fn new(scale_dtype: DType) -> Self {
        Quantizer {
            group: Some(128),
            meaning: Codes::Symmetric,
            scale_dtype,
            search: true,
        }
    }

    /// With [`Quantizer::group`] set.
    #[must_use]
    pub fn group(mut self, group: Option<usize>) -> Self {
        self.group = group;
        self
    }

    /// With [`Quantizer::meaning`] set.
    #[must_use]
    pub fn meaning(mut self, meaning: Codes) -> Self {
        self.meaning = meaning;
        self
    }

    /// With [`Quantizer::search`] set.
    #[must_use]
    pub fn search(mut self, search: bool) -> Self {
        self.search = search;
        self
    }

    /// Quantizes `w`, `[n, k]` row by row as PyTorch's `Linear` has it, to the nearest codes,
    /// on all processors.
    ///
    /// # Errors
    /// [`PackError::Length`], [`PackError::Group`], [`PackError::Limit`], [`PackError::ScaleType`];
    /// [`PackError::Element`] for an element that is no finite number; [`PackError::Scale`] for a
    /// group that spans more than the scales' type can.
    pub fn quantize(&self, w: &[f32], n: usize, k: usize) -> Result<Int4Weight, PackError> {
        let expected = n.saturating_mul(k);
        if w.len() != expected {
            return Err(PackError::Length {
                what: "w",
                expected,
                got: w.len(),
            });
        }
        if let Some(at) = w.iter().position(|element| !element.is_finite()) {
            return Err(PackError::Element {
                row: at % k,
                column: at / k,
                got: w[at],
            });
        }
        let round = match self.scale_dtype {
            DType::F16 => |scale: f32| {
                let scale = f16::from_f32(scale);
                (scale.to_bits(), scale.to_f32())
            },
            DType::BF16 => |scale: f32| {
                let scale = bf16::from_f32(scale);
                (scale.to_bits(), scale.to_f32())
            },
            got => return Err(PackError::ScaleType { got }),
        };
        let source = Source {
            k,
            n,
            group: self.group,
            meaning: self.meaning,
            scale_dtype: self.scale_dtype,
            order: Vec::new(),
        };
        let rows = source.extent()?.group;
        let groups = k.div_ceil(rows);
        let of_columns = |columns: Range<usize>| -> Vec<Grid> {
            let group = |column: usize, group: usize| {
                let elements = &w[column * k..][group * rows..k.min((group + 1) * rows)];
                Grid::best(elements, self, round)
            };
            let of_column = |column| (0..groups).map(move |at| group(column, at));
            columns.flat_map(of_column).collect()
        };
        let grids = on_all_processors(n, of_columns);
        let grid = |group: usize, column: usize| &grids[column * groups + group];
        let octet = |octet: usize, column: usize| {
            let grid = grid(8 * octet / rows, column);
            let elements = &w[column * k..][8 * octet..k.min(8 * octet + 8)];
            elements.iter().enumerate().fold(0, |word, (i, &x)| {
                word | u32::from(grid.nearest(x)) << (4 * i)
            })
        };
        pack::pack(
            source,
            octet,
            |group, column| grid(group, column).bits,
            |group, column| grid(group, column).zero,
        )
    }
}

/// Columns that are worth a thread.
const COLUMNS_OF_THREAD: usize = 64;

/// What `work` makes of shares of `0..n`, in their order.
fn on_all_processors<T: Send>(n: usize, work: impl Fn(Range<usize>) -> Vec<T> + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = n.div_ceil(threads).max(COLUMNS_OF_THREAD);
    if each >= n {
        return work(0..n);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let share = |first: usize| scope.spawn(move || work(first..n.min(first + each)));
        let shares: Vec<_> = (0..n).step_by(each).map(share).collect();
        let mut all = Vec::new();
        for share in shares {
            match share.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

/// The sixteen values that a group's elements may take.
#[derive(Clone, Copy)]
struct Grid {
    bits: u16,
    scale: f32,
    zero: u8,
}

/// Shares of the span that the search tries.
const SHRINKS: usize = 40;
/// The least of them.
const LEAST: f32 = 0.5;
/// Elements between two looks at whether a share can still be the best.
const PART: usize = 8;

impl Grid {
    /// The grid that spans the elements, or the one of the search with the least squared error.
    fn best(elements: &[f32], how: &Quantizer, round: impl Fn(f32) -> (u16, f32)) -> Grid {
        let (mut low, mut high) = (0.0f32, 0.0f32); // Zero is always on the grid.
        for &x in elements {
            (low, high) = (low.min(x), high.max(x));
        }
        let spanning = |share: f32| {
            let (low, high) = (low * share, high * share);
            let (step, zero) = match how.meaning {
                Codes::Symmetric if high > -low => (high / -8.0, 8.0),
                Codes::Symmetric => (low / -8.0, 8.0),
                // Halves, as the difference itself may be beyond f32.
                Codes::ZeroPoints => {
                    let step = (high / 15.0 - low / 15.0).max(f32::MIN_POSITIVE);
                    (step, (-low / step).round().clamp(0.0, 15.0))
                }
            };
            let (bits, scale) = round(step);
            Grid {
                bits,
                scale,
                zero: zero as u8,
            }
        };
        let full = spanning(1.0);
        if !how.search {
            return full;
        }
        let shares = (1..=SHRINKS).map(|i| 1.0 - (1.0 - LEAST) * i as f32 / SHRINKS as f32);
        // Of errors that are too large a part is enough.
        let error = |grid: &Grid, least: f64| -> f64 {
            let mut sum = 0.0;
            for part in elements.chunks(PART) {
                for &x in part {
                    let off = f64::from(x) - f64::from(grid.value(grid.nearest(x)));
                    sum += off * off;
                }
                if sum >= least {
                    break;
                }
            }
            sum
        };
        let mut best = (error(&full, f64::INFINITY), full);
        for grid in shares.map(spanning) {
            let error = error(&grid, best.0);
            if error < best.0 {
                best = (error, grid);
            }
        }
        best.1
    }

    fn value(&self, code: u8) -> f32 {
        self.scale * (f32::from(code) - f32::from(self.zero))
    }

    /// The code whose value is nearest; of two that are, the one further from zero.
    fn nearest(&self, x: f32) -> u8 {
        /// Beyond all codes.
        const FAR: f32 = 32.0;
        let units = match self.scale == 0.0 {
            true => 0.0,
            false => (x / self.scale).clamp(-FAR, FAR),
        };
        // As `f32::round` does, which is a call where processors need not have an instruction for it.
        let whole = units as i32;
        let rest = units - whole as f32;
        let away = i32::from(rest >= 0.5) - i32::from(rest <= -0.5);
        (whole + away + i32::from(self.zero)).clamp(0, 15) as u8
    }
}
