//! A prefill on which one thing at a time is made wrong.

use half::bf16;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, KvLayout, Mask, PageTable, PrefillArgs, PrefillError, PrefillPlan,
    PrefillProblem,
};
use infer_kernels::attention::{CuSeqLens, SeqLens};
use infer_kernels::{
    Buffer, DType, Device, OperandError, Region, RegionMut, StatusWord, Stream, Tensor, TensorMut,
};

use crate::common::device;

pub const HEADS: HeadShape = HeadShape {
    query: 4,
    kv: 2,
    dim: 64,
};
pub const ROWS: usize = 6;

/// A prefill of two sequences with four and two queries, on which one thing at a time is made
/// wrong.
pub struct Setup {
    pub device: Device,
    pub stream: Stream,
    pub plan: PrefillPlan,
    pub q: Buffer<bf16>,
    pub kv: Buffer<bf16>,
    pub out: Buffer<bf16>,
    pub lse: Buffer<f32>,
    pub lens: SeqLens,
    pub status: StatusWord,
    /// Of options: pages of [`PAGE`] keys, two for each sequence; slopes or sinks; masks.
    pub table: Buffer<u32>,
    pub seqlens: Buffer<i32>,
    pub per_head: Buffer<f32>,
    pub bits: Buffer<u8>,
    pub bit_offsets: Buffer<i32>,
}

/// Keys on a page.
pub const PAGE: usize = 3;

impl Setup {
    pub fn new(lse: bool) -> Setup {
        Setup::with(|problem| problem.lse(lse))
    }

    /// A plan for the problem as `options` leaves it.
    pub fn with(options: impl FnOnce(PrefillProblem) -> PrefillProblem) -> Setup {
        let device = device();
        let stream = device.stream();
        let problem = options(PrefillProblem::new(DType::BF16, HEADS, 2, 4));
        // Twice the memory that is needed, so that a test can move operands about.
        let alloc = |heads: usize| stream.alloc::<bf16>(2 * ROWS * heads * HEADS.dim).unwrap();
        Setup {
            plan: PrefillPlan::new(&device, &problem).unwrap(),
            q: alloc(HEADS.query),
            kv: alloc(HEADS.kv),
            out: alloc(HEADS.query),
            lse: stream.alloc(2 * ROWS * HEADS.query).unwrap(),
            lens: SeqLens::from_lengths(&stream, &[4, 2]).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            table: stream.upload(&[0u32, 1, 2, 3]).unwrap(),
            seqlens: stream.upload(&[4i32, 2]).unwrap(),
            per_head: stream.upload(&[0.5f32; HEADS.query]).unwrap(),
            bits: stream.upload(&[0xffu8; 4]).unwrap(),
            bit_offsets: stream.upload(&[0i32, 2, 3]).unwrap(),
            device,
            stream,
        }
    }

    /// Runs with the arguments as `change` leaves them.
    pub fn run<'s>(
        &'s mut self,
        change: impl FnOnce(&mut PrefillArgs<'s>),
    ) -> Result<(), PrefillError> {
        let problem = self.plan.problem();
        let kv = match problem.kv {
            KvLayout::Ragged => {
                let rows = self.kv.tensor([ROWS, HEADS.kv, HEADS.dim])?;
                let seqlens = (&self.lens).into();
                let (k, v) = (rows, rows);
                Kv::Ragged { k, v, seqlens }
            }
            KvLayout::Paged { .. } => {
                let pool = self.kv.tensor([4, PAGE, HEADS.kv, HEADS.dim])?;
                Kv::Paged {
                    k: pool,
                    v: pool,
                    pages: PageTable::Rows(self.table.tensor([2, 2])?),
                    seqlens: self.seqlens.tensor([2])?,
                }
            }
        };
        let mut args = PrefillArgs::new(
            self.q.tensor([ROWS, HEADS.query, HEADS.dim])?,
            kv,
            self.out.tensor_mut([ROWS, HEADS.query, HEADS.dim])?,
            &self.lens,
            &self.status,
        );
        let per_head = self.per_head.tensor([HEADS.query])?;
        if problem.lse {
            args = args.lse(self.lse.tensor_mut([HEADS.query, ROWS])?);
        }
        if problem.alibi {
            args = args.alibi(per_head);
        }
        if problem.sinks {
            args = args.sinks(per_head);
        }
        if problem.mask {
            args = args.mask(Mask {
                bits: self.bits.tensor([4])?,
                offsets: self.bit_offsets.tensor([3])?,
            });
        }
        change(&mut args);
        self.plan.run(&self.stream, args)
    }

    /// The operand error of a run that is refused.
    pub fn operand<'s>(&'s mut self, change: impl FnOnce(&mut PrefillArgs<'s>)) -> OperandError {
        match self.run(change) {
            Err(PrefillError::Operand(error)) => error,
            other => panic!("expected an operand error, got {other:?}"),
        }
    }
}

/// The parts of ragged keys and values.
pub struct Ragged<'r, 'a> {
    pub k: &'r mut Tensor<'a, 3>,
    pub v: &'r mut Tensor<'a, 3>,
    pub seqlens: &'r mut CuSeqLens<'a>,
}

pub fn ragged<'r, 'a>(args: &'r mut PrefillArgs<'a>) -> Ragged<'r, 'a> {
    match &mut args.kv {
        Kv::Ragged { k, v, seqlens } => Ragged { k, v, seqlens },
        Kv::Paged { .. } => panic!("the keys are in pages"),
    }
}

/// The parts of keys and values in pages.
pub struct Paged<'r, 'a> {
    pub k: &'r mut Tensor<'a, 4>,
    pub v: &'r mut Tensor<'a, 4>,
    pub pages: &'r mut PageTable<'a>,
    pub seqlens: &'r mut Tensor<'a, 1>,
}

pub fn paged<'r, 'a>(args: &'r mut PrefillArgs<'a>) -> Paged<'r, 'a> {
    match &mut args.kv {
        Kv::Paged {
            k,
            v,
            pages,
            seqlens,
        } => Paged {
            k,
            v,
            pages,
            seqlens,
        },
        Kv::Ragged { .. } => panic!("the keys are not in pages"),
    }
}

/// A tensor over the memory of `buffer` that outlives the borrow checker's view of it.
pub fn over<const R: usize, T: infer_kernels::Element>(
    device: &Device,
    buffer: &Buffer<T>,
    offset: usize,
    shape: [usize; R],
    strides: [i64; R],
) -> (Tensor<'static, R>, TensorMut<'static, R>) {
    let address = buffer.tensor([0]).unwrap().address();
    let len = buffer.len() as u64;
    // SAFETY: The tests use these only while the buffer lives, and no launch of theirs succeeds.
    let (region, region_mut) = unsafe {
        (
            Region::from_raw_parts(address, len, T::DTYPE, device),
            RegionMut::from_raw_parts(address, len, T::DTYPE, device),
        )
    };
    (
        region.strided(offset, shape, strides).unwrap(),
        region_mut.strided(offset, shape, strides).unwrap(),
    )
}
