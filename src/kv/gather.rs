//! Keys and values of sequences out of a cache, into one tensor each.

use std::fmt;

use super::append::{MAX_DIM, MAX_HEADS, entry_of};
use super::cache::{Contents, Pool};
use super::{Bound, Cache, Format, KvError, Scales};
use crate::attention::CuSeqLens;
use crate::attention::prefill::PageTable;
use crate::catalog::Entry;
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::{Apart, Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// Rows of keys or of values: `cuda/kv/gather_part.cuh`. Public for tests of the binary interface
    /// only.
    GatherPart {
        input: u64,
        output: u64,
        scales: u64,
        in_stride_page: i64,
        in_stride_slot: i64,
        in_stride_head: i64,
        in_stride_group: i64,
        in_stride_element: i64,
        out_stride_token: i64,
        out_stride_head: i64,
        heads: i32,
        dim: i32,
        lanes_shift: i32,
        passes: i32,
        group_shift: i32,
        scale_stride: i32,
        transposed: i32,
        format: i32,
    }
}

crate::params::params! {
    /// What a `kv_gather` entry is given, by value: `cuda/kv/gather_params.cuh`. Public for tests of
    /// the binary interface only.
    GatherParams {
        parts: [GatherPart; 2],
        cu_seqlens: u64,
        page_table: u64,
        page_indptr: u64,
        status: u64,
        page_table_stride: i64,
        page_table_len: i32,
        batch: i32,
        tokens: i32,
        passes: i32,
        page_size: i32,
        num_pages: i32,
    }
}

/// A gather to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GatherProblem {
    /// The type of the result.
    pub dtype: DType,
    /// Heads of keys and of values.
    pub heads: usize,
    /// Elements of a key's head.
    pub dim: usize,
    /// Elements of a value's head.
    pub v_dim: usize,
    /// How the cache stores elements.
    pub format: Format,
}

impl GatherProblem {
    /// Elements that are stored as they are.
    pub fn new(dtype: DType, heads: usize, dim: usize) -> Self {
        GatherProblem {
            dtype,
            heads,
            dim,
            v_dim: dim,
            format: Format::Same,
        }
    }

    /// With [`GatherProblem::v_dim`] set.
    #[must_use]
    pub fn v_dim(mut self, v_dim: usize) -> Self {
        self.v_dim = v_dim;
        self
    }

    /// With [`GatherProblem::format`] set.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`KvError::UnsupportedDtype`], [`KvError::UnsupportedDim`], [`KvError::TooFew`],
    /// [`KvError::Limit`].
    pub fn supports(&self) -> Result<(), KvError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, KvError> {
        let entry = entry_of("kv_gather", self.dtype)?;
        for (what, got) in [("head dim", self.dim), ("head dim of values", self.v_dim)] {
            KvError::unless_dim(what, got, MAX_DIM)?;
        }
        KvError::unless_within("heads", self.heads, [1, MAX_HEADS])?;
        Ok(entry)
    }

    fn contents(&self) -> Contents {
        Contents {
            dtype: self.dtype,
            format: self.format,
            heads: self.heads,
            dims: [self.dim, self.v_dim],
        }
    }
}

/// Operands of [`GatherPlan::run`].
#[derive(Debug)]
pub struct GatherArgs<'a> {
    /// Where the rows are.
    pub cache: Cache<'a>,
    /// The pages of each sequence.
    pub pages: PageTable<'a>,
    /// Which rows of `k` and `v` each sequence gets: its first ones, from its first page on.
    pub seqlens: CuSeqLens<'a>,
    /// Keys, `[tokens, heads, dim]`.
    pub k: TensorMut<'a, 3>,
    /// Values, `[tokens, heads, v_dim]`.
    pub v: TensorMut<'a, 3>,
    /// Scales of a cache in 8 bits, exactly if it is one.
    pub scales: Option<Scales<'a>>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

/// A kernel chosen and loaded for a [`GatherProblem`].
///
/// It serves every layer of its shape, every cache and any number of sequences.
#[derive(Clone, Debug)]
pub struct GatherPlan {
    problem: GatherProblem,
    kernel: Kernel,
}

impl GatherPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`GatherProblem::supports`] refuses, or [`KvError::Device`] when the device cannot run
    /// the kernel.
    pub fn new(device: &Device, problem: &GatherProblem) -> Result<Self, KvError> {
        Ok(GatherPlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &GatherProblem {
        &self.problem
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// The name of the kernel that will be launched.
    pub fn entry(&self) -> &'static str {
        self.kernel.entry().name
    }

    /// Bytes of the rows of so many tokens, read and written, each counted once.
    pub fn row_bytes(&self, tokens: usize) -> u128 {
        let GatherProblem {
            dtype,
            heads,
            dim,
            v_dim,
            format,
        } = self.problem;
        let row = (dtype.size() + format.size(dtype)) * heads * (dim + v_dim);
        tokens as u128 * row as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// A token without a page, as its sequence has too few or the page id is out of range, becomes
    /// zeros and is reported in the status word, as are offsets that are out of order or out of
    /// range. Rows that belong to no sequence are not written.
    ///
    /// # Errors
    /// [`KvError::Operand`] for an operand of another type, shape, stride, alignment, device or
    /// stream than the plan and the kernel call for, or one that overlaps another that is written;
    /// [`KvError::CacheType`], [`KvError::Groups`] for a cache of another format;
    /// [`KvError::Batch`] for pages of another number of sequences; [`KvError::Option`],
    /// [`KvError::Scales`]; [`KvError::Device`] when the launch fails, or the stream is recording a
    /// graph.
    pub fn run(&self, stream: &Stream, args: GatherArgs<'_>) -> Result<(), KvError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a GatherArgs<'_>,
    ) -> Result<Bound<'a, GatherParams>, KvError> {
        let (expected, got) = (self.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }
        let contents = self.problem.contents();
        let mut apart = Apart::default();
        let mut params = GatherParams::default();

        let (k, v) = (args.k.as_ref(), args.v.as_ref());
        let tokens = k.shape()[0];
        let (name, tensor) = ("k", &k);
        params.tokens = Operand { name, tensor }.count(0)?;
        let pools = args.cache.pools(stream, contents)?;
        let scales = Scales::of(args.scales.as_ref(), stream, contents)?;
        for (part, (name, tensor)) in [("k", &k), ("v", &v)].into_iter().enumerate() {
            let operand = Operand { name, tensor };
            operand.dtype(contents.dtype)?;
            operand.shape([tokens, contents.heads, contents.dims[part]])?;
            operand.place(stream)?;
            let [token, head, _] = operand.aligned_strides()?;
            apart.written(operand);
            params.parts[part] = GatherPart {
                output: tensor.address(),
                out_stride_token: token,
                out_stride_head: head,
                scales: scales[part].0,
                scale_stride: scales[part].1,
                format: contents.format.code(),
                ..part_of(pools.of[part], contents.heads, contents.dims[part])
            };
        }
        match &args.cache {
            Cache::Rows { k, v } => {
                apart.read(operand("k cache", k));
                apart.read(operand("v cache", v));
            }
            Cache::Combined(kv) => apart.read(operand("cache", kv)),
            Cache::SplitX { k, v } => {
                apart.read(operand("k cache", k));
                apart.read(operand("v cache", v));
            }
        }
        if let Some(Scales { k, v }) = &args.scales {
            apart.read(operand("k scales", k));
            apart.read(operand("v scales", v));
        }
        // In range: `pools` counted the slots.
        (params.page_size, params.num_pages) = (pools.page_size as i32, pools.pages as i32);

        let seqlens = match &args.seqlens {
            CuSeqLens::Checked(checked) => checked.tensor()?,
            CuSeqLens::Device(tensor) => *tensor,
        };
        let offsets = operand("seqlens", &seqlens);
        params.cu_seqlens = indices(stream, &mut apart, offsets)?;
        let batch = seqlens.shape()[0].checked_sub(1).ok_or(KvError::TooFew {
            what: "offsets",
            expected: 1,
            got: 0,
        })?;
        offsets.count(0)?;
        params.batch = batch as i32;
        pages(&mut params, stream, &mut apart, &args.pages, batch)?;
        same_place("status", args.status.place(), stream)?;
        params.status = args.status.address();
        apart.check()?;

        params.passes = params.parts.iter().map(|part| part.passes).sum();
        let entry = self.kernel.entry();
        let blocks = tokens.div_ceil(entry.tile_q as usize);
        // Enough blocks to make the device busy.
        let wanted = 8 * stream.device().limits().multiprocessors as usize;
        let most = (params.passes as usize).clamp(1, 1024);
        let splits = wanted.div_ceil(blocks.max(1)).clamp(1, most);
        Ok(Bound {
            kernel: &self.kernel,
            stream,
            shape: LaunchShape {
                grid: [blocks as u32, splits as u32, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params,
        })
    }
}

fn operand<'t, 'a, const R: usize>(
    name: &'static str,
    tensor: &'t Tensor<'a, R>,
) -> Operand<'t, 'a, R> {
    Operand { name, tensor }
}

fn part_of(pool: Pool, heads: usize, dim: usize) -> GatherPart {
    let lanes = (dim / 8).next_power_of_two();
    GatherPart {
        input: pool.address,
        in_stride_page: pool.stride_page,
        in_stride_slot: pool.stride_slot,
        in_stride_head: pool.stride_head,
        in_stride_group: pool.stride_group,
        in_stride_element: pool.stride_element,
        group_shift: pool.group_shift,
        transposed: i32::from(pool.transposed),
        // In range by the limits that the problem checked.
        heads: heads as i32,
        dim: dim as i32,
        lanes_shift: lanes.ilog2() as i32,
        passes: heads.div_ceil(32 / lanes) as i32,
        ..GatherPart::default()
    }
}

/// Address of indices that the kernel checks, `i32` or `u32`: it compares bits.
fn indices<'t, const R: usize>(
    stream: &Stream,
    apart: &mut Apart<'t>,
    operand: Operand<'_, 't, R>,
) -> Result<u64, KvError> {
    if operand.tensor.dtype() != DType::U32 {
        operand.dtype(DType::I32)?;
    }
    operand.place(stream)?;
    operand.strides()?;
    apart.read(operand);
    Ok(operand.tensor.address())
}

fn pages<'t>(
    params: &mut GatherParams,
    stream: &Stream,
    apart: &mut Apart<'t>,
    pages: &PageTable<'t>,
    batch: usize,
) -> Result<(), KvError> {
    let unless_batch = |tensor, got| match got == batch {
        true => Ok(()),
        false => Err(KvError::Batch {
            tensor,
            expected: batch,
            got,
        }),
    };
    match pages {
        PageTable::Rows(table) => {
            let table = operand("page table", table);
            params.page_table = indices(stream, apart, table)?;
            unless_batch("page table", table.tensor.shape()[0])?;
            params.page_table_stride = table.strides()?[0];
            params.page_table_len = table.count(1)?;
        }
        PageTable::Csr { indptr, pages } => {
            let pages = operand("pages", pages);
            params.page_table = indices(stream, apart, pages)?;
            params.page_table_len = pages.count(0)?;
            params.page_indptr = indices(stream, apart, operand("indptr", indptr))?;
            unless_batch("indptr", indptr.shape()[0].wrapping_sub(1))?;
        }
    }
    Ok(())
}

impl fmt::Display for GatherPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GatherProblem {
            dtype,
            heads,
            dim,
            v_dim,
            format,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads\n  {heads} heads of {dim} and {v_dim}, ",
            entry.name, entry.threads
        )?;
        match format {
            Format::Same => write!(f, "{dtype}")?,
            format => write!(f, "{format:?} to {dtype}")?,
        }
        let bytes = self.row_bytes(1);
        write!(f, "\n  {bytes} bytes per token on {}", self.device())
    }
}
