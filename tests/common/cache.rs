//! A KV cache on the host, in every layout, and indices for it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::error::Error;

use infer_kernels::kv::CacheMut;
use infer_kernels::{Buffer, Element, Stream};

/// How a cache lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Nhd,
    Hnd,
    Combined,
    SplitX,
}

pub const LAYOUTS: [Layout; 4] = [Layout::Nhd, Layout::Hnd, Layout::Combined, Layout::SplitX];

/// A cache on the host: raw bytes, and where each element is.
#[derive(Clone, Debug)]
pub struct HostCache {
    pub layout: Layout,
    pub pages: usize,
    pub page_size: usize,
    pub heads: usize,
    pub dims: [usize; 2],
    /// Bytes of an element.
    pub size: usize,
    /// Offset, in elements, and strides of page, slot, head, group of `x` elements, element.
    pub at: [(usize, [usize; 5]); 2],
    /// Elements of a group.
    pub x: usize,
    /// Elements of the allocations of keys and of values; a combined one has keys only.
    pub len: [usize; 2],
}

impl HostCache {
    /// `gap`: 16-byte units between pages, and before the first.
    pub fn new(
        layout: Layout,
        [pages, page_size, heads]: [usize; 3],
        dims: [usize; 2],
        size: usize,
        gap: usize,
    ) -> Self {
        let x = 16 / size;
        let gap = gap * x;
        let mut at = [(gap, [0; 5]); 2];
        let mut len = [0; 2];
        for part in 0..2 {
            let dim = dims[part];
            // Rows at multiples of 16 bytes.
            let row = dim.next_multiple_of(x);
            let (mut page, [slot, head, group, element]) = match layout {
                Layout::Nhd | Layout::Combined => {
                    (page_size * heads * row, [heads * row, row, x, 1])
                }
                Layout::Hnd => (heads * page_size * row, [row, page_size * row, x, 1]),
                Layout::SplitX if part == 0 => (
                    heads * dim * page_size,
                    [x, dim * page_size, page_size * x, 1],
                ),
                Layout::SplitX => (
                    heads * dim * page_size,
                    [1, dim * page_size, page_size * x, page_size],
                ),
            };
            let half = page;
            if layout == Layout::Combined {
                page *= 2;
            }
            page += gap;
            let first = gap
                + if layout == Layout::Combined {
                    part * half
                } else {
                    0
                };
            at[part] = (first, [page, slot, head, group, element]);
            len[part] = gap + pages * page;
        }
        if layout == Layout::Combined {
            len[1] = 0;
        }
        HostCache {
            layout,
            pages,
            page_size,
            heads,
            dims,
            size,
            at,
            x,
            len,
        }
    }

    /// Which allocation, and which element of it.
    pub fn index(&self, part: usize, slot: usize, head: usize, d: usize) -> (usize, usize) {
        let (first, [page, offset, of_head, group, element]) = self.at[part];
        let within = (slot / self.page_size) * page + slot % self.page_size * offset;
        let at = first + within + head * of_head + d / self.x * group + d % self.x * element;
        (
            if self.layout == Layout::Combined {
                0
            } else {
                part
            },
            at,
        )
    }

    /// The cache over its allocations.
    pub fn over<'b, E: Element>(&self, [k, v]: [&'b mut Buffer<E>; 2]) -> CacheMut<'b> {
        let &HostCache {
            pages,
            page_size,
            heads,
            dims: [dim, v_dim],
            x,
            ..
        } = self;
        let strides = self.at.map(|(_, strides)| strides.map(|s| s as i64));
        let first = self.at.map(|(first, _)| first);
        let [page, slot, head, group, _] = strides[0];
        let [v_page, v_slot, v_head, _, v_element] = strides[1];
        match self.layout {
            Layout::Combined => {
                let half = first[1].wrapping_sub(first[0]) as i64;
                let shape = [pages, 2, page_size, heads, dim];
                let strides = [page, half, slot, head, 1];
                CacheMut::Combined(k.region_mut().strided(first[0], shape, strides).unwrap())
            }
            Layout::SplitX => CacheMut::SplitX {
                k: k.region_mut()
                    .strided(
                        first[0],
                        [pages, heads, dim / x, page_size, x],
                        [page, head, group, slot, 1],
                    )
                    .unwrap(),
                v: v.region_mut()
                    .strided(
                        first[1],
                        [pages, heads, v_dim, page_size],
                        [v_page, v_head, v_element, v_slot],
                    )
                    .unwrap(),
            },
            _ => CacheMut::Rows {
                k: k.region_mut()
                    .strided(
                        first[0],
                        [pages, page_size, heads, dim],
                        [page, slot, head, 1],
                    )
                    .unwrap(),
                v: v.region_mut()
                    .strided(
                        first[1],
                        [pages, page_size, heads, v_dim],
                        [v_page, v_slot, v_head, 1],
                    )
                    .unwrap(),
            },
        }
    }
}

/// Indices in 32 or 64 bits.
pub enum Indices {
    Wide(Buffer<i64>),
    Narrow(Buffer<i32>),
}

impl Indices {
    pub fn new(stream: &Stream, indices: &[i64], wide: bool) -> Result<Self, Box<dyn Error>> {
        let narrow: Vec<i32> = indices.iter().map(|&i| i as i32).collect();
        Ok(match wide {
            true => Indices::Wide(stream.upload(indices)?),
            false => Indices::Narrow(stream.upload(&narrow)?),
        })
    }

    pub fn tensor(&self, len: usize) -> Result<infer_kernels::Tensor<'_, 1>, Box<dyn Error>> {
        Ok(match self {
            Indices::Wide(buffer) => buffer.tensor([len])?,
            Indices::Narrow(buffer) => buffer.tensor([len])?,
        })
    }

    pub fn matrix(
        &self,
        shape: [usize; 2],
    ) -> Result<infer_kernels::Tensor<'_, 2>, Box<dyn Error>> {
        Ok(match self {
            Indices::Wide(buffer) => buffer.tensor(shape)?,
            Indices::Narrow(buffer) => buffer.tensor(shape)?,
        })
    }

    pub fn mark_hostile(&self, emulator: &infer_kernels::ptx_emulator::Emulator) {
        let (address, bytes) = match self {
            Indices::Wide(buffer) => (buffer.tensor([0]).unwrap().address(), 8 * buffer.len()),
            Indices::Narrow(buffer) => (buffer.tensor([0]).unwrap().address(), 4 * buffer.len()),
        };
        if bytes > 0 {
            emulator.mark_hostile(address, bytes as u64).unwrap();
        }
    }
}
