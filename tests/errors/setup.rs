//! A prefill on which one thing at a time is made wrong.

use half::bf16;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
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
}

impl Setup {
    pub fn new(lse: bool) -> Setup {
        let device = device();
        let stream = device.stream();
        let problem = PrefillProblem::new(DType::BF16, HEADS, 2, 4).lse(lse);
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
            device,
            stream,
        }
    }

    /// Runs with the arguments as `change` leaves them.
    pub fn run<'s>(
        &'s mut self,
        change: impl FnOnce(&mut PrefillArgs<'s>),
    ) -> Result<(), PrefillError> {
        let kv = self.kv.tensor([ROWS, HEADS.kv, HEADS.dim])?;
        let mut args = PrefillArgs::new(
            self.q.tensor([ROWS, HEADS.query, HEADS.dim])?,
            Kv::Ragged {
                k: kv,
                v: kv,
                seqlens: (&self.lens).into(),
            },
            self.out.tensor_mut([ROWS, HEADS.query, HEADS.dim])?,
            &self.lens,
            &self.status,
        );
        if self.plan.problem().lse {
            args = args.lse(self.lse.tensor_mut([HEADS.query, ROWS])?);
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
