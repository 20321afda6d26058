//! Pages of caches to other pages, also to the host and back.

use std::fmt;

use super::append::entry_of;
use super::{Bound, KvError};
use crate::device::launch::LaunchShape;
use crate::device::{Buffer, Device, Kernel, Stream};
use crate::dtype::{DType, Element};
use crate::error::OperandError;
use crate::operand::{ALIGNMENT, Apart, Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What the `kv_copy` entry is given, by value: `cuda/kv/copy_params.cuh`. Public for tests of
    /// the binary interface only.
    CopyParams {
        from: [u64; 32],
        to: [u64; 32],
        pairs: u64,
        status: u64,
        from_stride: i64,
        to_stride: i64,
        page_bytes: i64,
        pairs_are_64: i32,
        from_pages: i32,
        to_pages: i32,
        blocks_per_page: i32,
        wide: i32,
        num_pairs: i32,
    }
}

/// Between which caches pages are copied.
///
/// A cache is `[pages, elements of a page]` here, of any type and layout: keys, values, both in one,
/// a latent; whatever lies between its pages is left alone. The caches of a call agree in shape, type
/// and stride.
#[derive(Debug)]
pub enum Pages<'a> {
    /// From page to page of each of up to 32 caches.
    Within(Vec<TensorMut<'a, 2>>),
    /// From pages of the first to pages of the second of each pair of up to 32.
    Between(Vec<(Tensor<'a, 2>, TensorMut<'a, 2>)>),
}

/// Operands of [`CopyPlan::run`].
#[derive(Debug)]
pub struct CopyArgs<'a> {
    /// The caches.
    pub pages: Pages<'a>,
    /// `[pairs, 2]` as `i64` or `i32`: from which page and to which page, in every cache.
    pub pairs: Tensor<'a, 2>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

/// The kernel that copies pages, loaded. It serves every cache.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    kernel: Kernel,
}

/// The caches of a launch.
const MAX_CACHES: usize = 32;

impl CopyPlan {
    /// Loads the kernel, if it is not yet.
    ///
    /// # Errors
    /// [`KvError::Device`] when the device cannot run it.
    pub fn new(device: &Device) -> Result<Self, KvError> {
        let entry = entry_of("kv_copy", DType::U8)?;
        Ok(CopyPlan {
            kernel: device.kernel(entry)?,
        })
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// The name of the kernel that will be launched.
    pub fn entry(&self) -> &'static str {
        self.kernel.entry().name
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// A pair with a page that does not exist is skipped and reported in the status word; one of
    /// equal ids within a cache changes nothing. All pairs are copied at once: a page that is the
    /// target of two, or a source and a target, receives or gives any of the values that its bytes
    /// had or get.
    ///
    /// # Errors
    /// [`KvError::Operand`] for an operand of another type, shape, stride, device or stream than the
    /// others, or one that overlaps another that is written; [`KvError::Limit`] for more than 32
    /// caches; [`KvError::Device`] when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: CopyArgs<'_>) -> Result<(), KvError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    /// Copies the named pages of a cache to `host`, one after the other, and waits for it: swapping
    /// out. Allocates room for them on the device, so that the transfer is one.
    ///
    /// # Errors
    /// [`KvError::Page`] for a page that does not exist, [`KvError::HostLen`] unless `host` is as
    /// long as the pages; else as [`CopyPlan::run`], or what the driver reports.
    pub fn to_host<T: Element>(
        &self,
        stream: &Stream,
        cache: Tensor<'_, 2>,
        pages: &[usize],
        host: &mut [T],
    ) -> Result<(), KvError> {
        let (pairs, shape) = self.staged(stream, &cache, pages, host.len(), |i, page| [page, i])?;
        let mut staging = stream.alloc::<T>(host.len())?;
        let status = StatusWord::new(stream)?;
        let to = staging.tensor_mut(shape)?;
        self.run(
            stream,
            CopyArgs {
                pages: Pages::Between(vec![(cache, to)]),
                pairs: pairs.tensor([pages.len(), 2])?,
                status: &status,
            },
        )?;
        Ok(staging.download_into(host)?)
    }

    /// Copies `host`, one page after the other, to the named pages of a cache: swapping in. The
    /// source may be reused on return. Allocates room for it on the device.
    ///
    /// # Errors
    /// As for [`CopyPlan::to_host`].
    pub fn from_host<T: Element>(
        &self,
        stream: &Stream,
        host: &[T],
        pages: &[usize],
        cache: TensorMut<'_, 2>,
    ) -> Result<(), KvError> {
        let to = cache.as_ref();
        let (pairs, shape) = self.staged(stream, &to, pages, host.len(), |i, page| [i, page])?;
        let staging = stream.upload(host)?;
        let status = StatusWord::new(stream)?;
        self.run(
            stream,
            CopyArgs {
                pages: Pages::Between(vec![(staging.tensor(shape)?, cache)]),
                pairs: pairs.tensor([pages.len(), 2])?,
                status: &status,
            },
        )
    }

    /// The pairs of a copy to or from dense pages, on the device, and the shape of those.
    fn staged(
        &self,
        stream: &Stream,
        cache: &Tensor<'_, 2>,
        pages: &[usize],
        got: usize,
        pair: impl Fn(usize, usize) -> [usize; 2],
    ) -> Result<(Buffer<i64>, [usize; 2]), KvError> {
        let [count, elements] = cache.shape();
        if let Some(&got) = pages.iter().find(|&&page| page >= count) {
            return Err(KvError::Page {
                expected: count,
                got,
            });
        }
        let expected = pages.len().saturating_mul(elements);
        if got != expected {
            return Err(KvError::HostLen { expected, got });
        }
        let pairs: Vec<i64> = pages
            .iter()
            .enumerate()
            .flat_map(|(i, &page)| pair(i, page).map(|id| id as i64))
            .collect();
        Ok((stream.upload(&pairs)?, [pages.len(), elements]))
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a CopyArgs<'_>,
    ) -> Result<Bound<'a, CopyParams>, KvError> {
        let (expected, got) = (self.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }
        let caches: Vec<(Tensor<'_, 2>, Tensor<'_, 2>)> = match &args.pages {
            Pages::Within(caches) => {
                let caches = caches.iter().map(TensorMut::as_ref);
                caches.map(|cache| (cache, cache)).collect()
            }
            Pages::Between(caches) => {
                let caches = caches.iter();
                caches.map(|(from, to)| (*from, to.as_ref())).collect()
            }
        };
        let within = matches!(args.pages, Pages::Within(_));
        KvError::unless_within("caches", caches.len(), [0, MAX_CACHES])?;

        let mut apart = Apart::default();
        let mut params = CopyParams {
            blocks_per_page: 1,
            wide: 1,
            ..CopyParams::default()
        };
        let mut strides = None;
        for (at, (from, to)) in caches.iter().enumerate() {
            let (first_from, first_to) = &caches[0];
            let elements = first_from.shape()[1];
            let of = |name, tensor, count: usize| -> Result<i64, KvError> {
                let operand = Operand { name, tensor };
                operand.dtype(first_from.dtype())?;
                operand.shape([count, elements])?;
                operand.place(stream)?;
                let [stride, _] = operand.strides()?;
                Ok(stride.wrapping_mul(tensor.dtype().size() as i64))
            };
            let of_from = of("source pages", from, first_from.shape()[0])?;
            let of_to = of("target pages", to, first_to.shape()[0])?;
            let (name, tensor) = ("target pages", to);
            apart.written(Operand { name, tensor });
            if !within {
                let (name, tensor) = ("source pages", from);
                apart.read(Operand { name, tensor });
            }
            let expected = *strides.get_or_insert([of_from, of_to]);
            if expected != [of_from, of_to] {
                return Err(KvError::PageStrides {
                    expected,
                    got: [of_from, of_to],
                });
            }
            (params.from[at], params.to[at]) = (from.address(), to.address());
            let page_bytes = elements.saturating_mul(from.dtype().size());
            KvError::unless_within("bytes of a page", page_bytes, [0, MAX_PAGE])?;
            let bits = from.address() | to.address() | of_from as u64 | of_to as u64;
            if !(bits | page_bytes as u64).is_multiple_of(ALIGNMENT as u64) {
                params.wide = 0;
            }
            params.page_bytes = page_bytes as i64;
            let (name, tensor) = ("source pages", from);
            params.from_pages = Operand { name, tensor }.count(0)?;
            let (name, tensor) = ("target pages", to);
            params.to_pages = Operand { name, tensor }.count(0)?;
        }
        [params.from_stride, params.to_stride] = strides.unwrap_or_default();

        let (name, tensor) = ("pairs", &args.pairs);
        let pairs = Operand { name, tensor };
        params.pairs_are_64 = i32::from(tensor.dtype() == DType::I64);
        if params.pairs_are_64 == 0 {
            pairs.dtype(DType::I32)?;
        }
        let [count, _] = tensor.shape();
        pairs.shape([count, 2])?;
        pairs.place(stream)?;
        let [stride, _] = pairs.strides()?;
        if count > 1 && stride != 2 {
            return Err(OperandError::Stride {
                tensor: name,
                axis: 0,
                expected: 2,
                got: stride,
            }
            .into());
        }
        params.pairs = tensor.address();
        params.num_pairs = pairs.count(0)?;
        apart.read(pairs);
        same_place("status", args.status.place(), stream)?;
        params.status = args.status.address();
        apart.check()?;

        let entry = self.kernel.entry();
        let blocks = (params.page_bytes as usize).div_ceil(entry.tile_q as usize);
        KvError::unless_within("blocks", blocks.saturating_mul(count), [0, MAX_BLOCKS])?;
        params.blocks_per_page = blocks.max(1) as i32;
        Ok(Bound {
            kernel: &self.kernel,
            stream,
            shape: LaunchShape {
                grid: [(blocks * count) as u32, caches.len() as u32, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params,
        })
    }
}

/// The most bytes of a page: far from where sizes overflow.
const MAX_PAGE: usize = 1 << 40;
/// The largest first dimension of a grid.
const MAX_BLOCKS: usize = i32::MAX as usize;

impl fmt::Display for CopyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads, {} bytes of a page for each block, on {}",
            entry.name,
            entry.threads,
            entry.tile_q,
            self.device()
        )
    }
}
