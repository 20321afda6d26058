//! Caches: their layouts, the formats of their elements, and where each row lies.

use super::KvError;
use crate::device::Stream;
use crate::dtype::DType;
use crate::operand::{ALIGNMENT, Operand};
use crate::tensor::{Tensor, TensorMut};

/// How a cache stores elements.
///
/// Elements in 8 bits have a scale: `value = scale · stored`. What is stored is the nearest to
/// `value · (1 / scale)`, ties to even, and the largest finite one beyond that; infinities become
/// it too. NaN stays NaN, and becomes 0 as an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// As they are: the operands' type.
    #[default]
    Same,
    /// 8-bit floats with 4 bits of exponent and 3 of mantissa, up to 448. In memory: `u8`.
    E4m3,
    /// 8-bit floats with 5 bits of exponent and 2 of mantissa, up to 57344. In memory: `u8`.
    E5m2,
    /// Integers from -128 to 127. In memory: `i8` or `u8`.
    Int8,
}

impl Format {
    /// The number that the kernels know it by.
    pub(super) fn code(self) -> i32 {
        match self {
            Format::Same => 0,
            Format::E4m3 => 1,
            Format::E5m2 => 2,
            Format::Int8 => 3,
        }
    }

    /// What it is called in messages and in the names of kernels: `"e4m3"`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Same => "same",
            Format::E4m3 => "e4m3",
            Format::E5m2 => "e5m2",
            Format::Int8 => "int8",
        }
    }

    /// The types of memory that hold it.
    pub(crate) fn dtypes(self, dtype: DType) -> Vec<DType> {
        match self {
            Format::Same => vec![dtype],
            Format::E4m3 | Format::E5m2 => vec![DType::U8],
            Format::Int8 => vec![DType::I8, DType::U8],
        }
    }

    /// Bytes of an element.
    pub fn size(self, dtype: DType) -> usize {
        match self {
            Format::Same => dtype.size(),
            _ => 1,
        }
    }
}

/// A cache to be read.
///
/// The innermost axis is contiguous. Every other stride, and the address of the first element, is a
/// multiple of 16 bytes, but for the values of [`Cache::SplitX`].
#[derive(Clone, Copy, Debug)]
pub enum Cache<'a> {
    /// A row for each token and head.
    ///
    /// `[pages, page_size, heads, dim]` (NHD). [`Tensor::permute`] turns `[pages, heads, page_size,
    /// dim]` (HND) into it.
    Rows {
        /// Keys.
        k: Tensor<'a, 4>,
        /// Values, whose last axis is `v_dim`.
        v: Tensor<'a, 4>,
    },
    /// Keys and values in one pool, `[pages, 2, page_size, heads, dim]`, keys first; of any other
    /// order by [`Tensor::permute`].
    Combined(Tensor<'a, 5>),
    /// Keys split by `x`, the elements of 16 bytes, and values transposed: the first layout of vLLM.
    SplitX {
        /// `[pages, heads, dim / x, page_size, x]`.
        k: Tensor<'a, 5>,
        /// `[pages, heads, v_dim, page_size]`. Needs no alignment.
        v: Tensor<'a, 4>,
    },
}

/// A cache to be written; layouts as in [`Cache`].
#[derive(Debug)]
pub enum CacheMut<'a> {
    /// As [`Cache::Rows`].
    Rows {
        /// Keys.
        k: TensorMut<'a, 4>,
        /// Values.
        v: TensorMut<'a, 4>,
    },
    /// As [`Cache::Combined`].
    Combined(TensorMut<'a, 5>),
    /// As [`Cache::SplitX`].
    SplitX {
        /// Keys.
        k: TensorMut<'a, 5>,
        /// Values.
        v: TensorMut<'a, 4>,
    },
}

impl<'a> Cache<'a> {
    /// [`Cache::Rows`].
    pub fn rows(k: Tensor<'a, 4>, v: Tensor<'a, 4>) -> Self {
        Cache::Rows { k, v }
    }
}

impl<'a> CacheMut<'a> {
    /// [`CacheMut::Rows`].
    pub fn rows(k: TensorMut<'a, 4>, v: TensorMut<'a, 4>) -> Self {
        CacheMut::Rows { k, v }
    }
}

impl CacheMut<'_> {
    /// The same, to be read.
    pub fn as_ref(&self) -> Cache<'_> {
        match self {
            CacheMut::Rows { k, v } => Cache::Rows {
                k: k.as_ref(),
                v: v.as_ref(),
            },
            CacheMut::Combined(kv) => Cache::Combined(kv.as_ref()),
            CacheMut::SplitX { k, v } => Cache::SplitX {
                k: k.as_ref(),
                v: v.as_ref(),
            },
        }
    }
}

/// Scales of keys and of values: `[heads]`, or `[1]` for all of them, as `f32`. Positive and finite,
/// or what is stored means nothing.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// Of keys.
    pub k: Tensor<'a, 1>,
    /// Of values.
    pub v: Tensor<'a, 1>,
}

/// What a cache is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub dtype: DType,
    pub format: Format,
    pub heads: usize,
    pub dims: [usize; 2],
}

impl Contents {
    fn dtypes(&self) -> Vec<DType> {
        self.format.dtypes(self.dtype)
    }
}

/// Where the rows of keys or of values lie, in elements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    pub address: u64,
    pub stride_page: i64,
    pub stride_slot: i64,
    pub stride_head: i64,
    /// From one group of `8 << group_shift` elements to the next.
    pub stride_group: i64,
    pub group_shift: i32,
    /// From one element of a group to the next.
    pub stride_element: i64,
    /// Whether elements are stored one by one.
    pub transposed: bool,
}

/// Pages of a cache, and where keys and values lie in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pools {
    pub pages: usize,
    pub page_size: usize,
    pub of: [Pool; 2],
}

impl Pools {
    /// `pages · page_size`, as the kernels count slots.
    pub fn slots(&self) -> Result<i32, KvError> {
        slots([self.pages, self.page_size])
    }
}

/// `pages · page_size`, as the kernels count slots.
pub(super) fn slots([pages, page_size]: [usize; 2]) -> Result<i32, KvError> {
    const MOST: usize = i32::MAX as usize;
    KvError::unless_within("page size", page_size, [1, MOST])?;
    let got = pages.saturating_mul(page_size);
    KvError::unless_within("slots of the cache", got, [0, MOST])?;
    Ok(got as i32)
}

impl Cache<'_> {
    /// The proof that the cache holds what it is to hold, and where.
    pub(super) fn pools(&self, stream: &Stream, contents: Contents) -> Result<Pools, KvError> {
        let (shape, of) = match self {
            Cache::Rows { k, v } => {
                let [pages, page_size, ..] = k.shape();
                let shape = [pages, page_size];
                let of = [
                    rows(stream, contents, 0, "k", k, shape)?,
                    rows(stream, contents, 1, "v", v, shape)?,
                ];
                (shape, of)
            }
            Cache::Combined(kv) => {
                let [pages, _, page_size, ..] = kv.shape();
                let Contents { heads, dims, .. } = contents;
                Operand {
                    name: "kv",
                    tensor: kv,
                }
                .shape([pages, 2, page_size, heads, dims[0]])?;
                let shape = [pages, page_size];
                let of = [
                    rows(stream, contents, 0, "k", &kv.select(1, 0)?, shape)?,
                    rows(stream, contents, 1, "v", &kv.select(1, 1)?, shape)?,
                ];
                (shape, of)
            }
            Cache::SplitX { k, v } => {
                let [pages, _, _, page_size, _] = k.shape();
                let shape = [pages, page_size];
                let of = [
                    groups(stream, contents, k, shape)?,
                    columns(stream, contents, v, shape)?,
                ];
                (shape, of)
            }
        };
        let [pages, page_size] = shape;
        let pools = Pools {
            pages,
            page_size,
            of,
        };
        pools.slots()?;
        Ok(pools)
    }
}

/// The type of memory is one that holds the format.
pub(super) fn cache_type<const R: usize>(
    operand: Operand<'_, '_, R>,
    expected: Vec<DType>,
) -> Result<(), KvError> {
    let got = operand.tensor.dtype();
    if expected.contains(&got) {
        return Ok(());
    }
    Err(KvError::CacheType {
        tensor: operand.name,
        expected,
        got,
    })
}

/// `[pages, page_size, heads, dim]`.
fn rows(
    stream: &Stream,
    contents: Contents,
    part: usize,
    name: &'static str,
    tensor: &Tensor<'_, 4>,
    [pages, page_size]: [usize; 2],
) -> Result<Pool, KvError> {
    let operand = Operand { name, tensor };
    cache_type(operand, contents.dtypes())?;
    operand.shape([pages, page_size, contents.heads, contents.dims[part]])?;
    operand.place(stream)?;
    let [stride_page, stride_slot, stride_head, _] = operand.aligned_strides()?;
    Ok(Pool {
        address: tensor.address(),
        stride_page,
        stride_slot,
        stride_head,
        stride_group: 8,
        stride_element: 1,
        ..Pool::default()
    })
}

/// `[pages, heads, dim / x, page_size, x]`.
fn groups(
    stream: &Stream,
    contents: Contents,
    tensor: &Tensor<'_, 5>,
    [pages, page_size]: [usize; 2],
) -> Result<Pool, KvError> {
    let operand = Operand { name: "k", tensor };
    cache_type(operand, contents.dtypes())?;
    let x = ALIGNMENT / tensor.dtype().size();
    let dim = contents.dims[0];
    if !dim.is_multiple_of(x) {
        return Err(KvError::Groups {
            expected: x,
            got: dim,
        });
    }
    operand.shape([pages, contents.heads, dim / x, page_size, x])?;
    operand.place(stream)?;
    let [stride_page, stride_head, stride_group, stride_slot, _] = operand.aligned_strides()?;
    Ok(Pool {
        address: tensor.address(),
        stride_page,
        stride_slot,
        stride_head,
        stride_group,
        group_shift: (x / 8).ilog2() as i32,
        stride_element: 1,
        ..Pool::default()
    })
}

/// `[pages, heads, dim, page_size]`.
fn columns(
    stream: &Stream,
    contents: Contents,
    tensor: &Tensor<'_, 4>,
    [pages, page_size]: [usize; 2],
) -> Result<Pool, KvError> {
    let operand = Operand { name: "v", tensor };
    cache_type(operand, contents.dtypes())?;
    operand.shape([pages, contents.heads, contents.dims[1], page_size])?;
    operand.place(stream)?;
    let [stride_page, stride_head, stride_element, stride_slot] = operand.strides()?;
    Ok(Pool {
        address: tensor.address(),
        stride_page,
        stride_slot,
        stride_head,
        // Within the tensor, as the last element is.
        stride_group: stride_element.saturating_mul(8),
        stride_element,
        transposed: true,
        ..Pool::default()
    })
}

impl Scales<'_> {
    /// Address and step from head to head of the scales of keys and of values.
    pub(crate) fn of(
        scales: Option<&Self>,
        stream: &Stream,
        contents: Contents,
    ) -> Result<[(u64, i32); 2], KvError> {
        let quantised = contents.format != Format::Same;
        KvError::unless_planned("scales", quantised, scales.is_some())?;
        let Some(scales) = scales else {
            return Ok([(0, 0); 2]);
        };
        let of = |name, tensor: &Tensor<'_, 1>| {
            let operand = Operand { name, tensor };
            operand.dtype(DType::F32)?;
            let [got] = tensor.shape();
            if got != 1 && got != contents.heads {
                return Err(KvError::Scales {
                    tensor: name,
                    expected: contents.heads,
                    got,
                });
            }
            operand.place(stream)?;
            operand.strides()?;
            Ok((tensor.address(), i32::from(got != 1)))
        };
        Ok([of("k scales", &scales.k)?, of("v scales", &scales.v)?])
    }
}
