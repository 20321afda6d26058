//! A token for each row of logits.

use std::fmt;

use super::ElementwiseError;
use super::check::{Bound, Check, MOST};
use super::error::{count, one_of};
use crate::catalog::{self, Entry};
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::operand::ALIGNMENT;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What the `sample` entry is given, by value: `cuda/elementwise/sample_params.cuh`. Public for
    /// tests of the binary interface only.
    SampleParams {
        logits: u64,
        temperature: u64,
        top_k: u64,
        top_p: u64,
        draws: u64,
        tokens: u64,
        status: u64,
        logits_stride: i64,
        vocab: i32,
        dtype: i32,
        aligned: i32,
        reserved: i32,
    }
}

/// Logits to be sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SampleProblem {
    /// The type of the logits: `bf16`, `f16` or `f32`.
    pub dtype: DType,
    /// Logits of a row, at most 524,288.
    pub vocab: usize,
}

impl SampleProblem {
    /// Rows of so many logits.
    pub fn new(dtype: DType, vocab: usize) -> Self {
        SampleProblem { dtype, vocab }
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`ElementwiseError::UnsupportedDtype`], [`ElementwiseError::Count`].
    pub fn supports(&self) -> Result<(), ElementwiseError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, ElementwiseError> {
        let entry = catalog::find("sample").expect("the catalog has one sampler");
        one_of("logits", self.dtype, &FLOATS)?;
        count("logits of a row", self.vocab, 1..=entry.tile_k as usize)?;
        Ok(entry)
    }
}

/// The types of logits, by the numbers that the kernel knows them by.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// How rows are drawn: options of each row, in device memory, without gaps. They are not trusted.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// `[rows]`, `f32`: what logits are divided by. 0: the most likely token, as is the row whose
    /// temperature is negative or not finite, which is reported.
    pub temperature: Tensor<'a, 1>,
    /// `[rows]`, `i32`: how many tokens are drawn from, the most likely ones. 0 and less: all.
    pub top_k: Option<Tensor<'a, 1>>,
    /// `[rows]`, `f32`: of those, as many as it takes for their probabilities to sum up to this. 1 and
    /// more: all. 0 and less: the most likely one. NaN: all, and a report.
    pub top_p: Option<Tensor<'a, 1>>,
    /// `[rows, 2]`, `u64`: the seed of a row, and the number of its draw: of the token, say. Equal
    /// pairs draw the same share of the probability.
    pub draws: Tensor<'a, 2>,
}

/// Operands of [`SamplePlan::run`].
#[derive(Debug)]
pub struct SampleArgs<'a> {
    /// `[rows, vocab]`, of the planned type; rows may begin anywhere, fastest at multiples of 16 bytes.
    pub logits: Tensor<'a, 2>,
    /// How to draw; without it every row gives its most likely token.
    pub sampling: Option<Sampling<'a>>,
    /// `[rows]`, `i32`: the tokens; -1 where no logit is above -inf.
    pub tokens: TensorMut<'a, 1>,
    /// Where the kernel reports logits and options that mean nothing.
    pub status: &'a StatusWord,
}

/// The sampler, loaded. Prints what it will launch.
///
/// Probabilities are integers to it: a row's token depends on its logits, options and draw alone, the
/// same on every device and on the host.
#[derive(Clone, Debug)]
pub struct SamplePlan {
    problem: SampleProblem,
    kernel: Kernel,
}

impl SamplePlan {
    /// Loads the kernel, if it is not yet.
    ///
    /// # Errors
    /// What [`SampleProblem::supports`] refuses, or [`ElementwiseError::Device`] when the device
    /// cannot run the kernel.
    pub fn new(device: &Device, problem: &SampleProblem) -> Result<Self, ElementwiseError> {
        Ok(SamplePlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &SampleProblem {
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

    /// Bytes of the logits of so many rows: the least that a launch moves, but for options.
    pub fn row_bytes(&self, rows: usize) -> u128 {
        rows as u128 * (self.problem.vocab * self.problem.dtype.size()) as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// The most likely token is the one with the largest logit, of several the one with the lowest id.
    /// NaN counts as -inf and is reported; so is a row without anything above -inf, whose token is -1.
    ///
    /// # Errors
    /// [`ElementwiseError::Operand`] for an operand of another type, shape, stride, device or stream
    /// than the plan and the kernel call for, or one that overlaps another that is written;
    /// [`ElementwiseError::Count`] for more rows than 32 bits count; [`ElementwiseError::Device`]
    /// when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: SampleArgs<'_>) -> Result<(), ElementwiseError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a SampleArgs<'_>,
    ) -> Result<Bound<'a, SampleParams>, ElementwiseError> {
        let SampleProblem { dtype, vocab } = self.problem;
        let [rows, _] = args.logits.shape();
        count("rows", rows, 0..=MOST)?;
        let mut check = Check::new(&self.kernel, stream)?;
        let (logits, [logits_stride, _]) =
            check.read_anywhere("logits", &args.logits, dtype, [rows, vocab])?;
        let mut params = SampleParams {
            logits,
            logits_stride,
            // In range by the limits that the problem checked.
            vocab: vocab as i32,
            dtype: FLOATS.iter().position(|&of| of == dtype).unwrap_or(0) as i32,
            ..SampleParams::default()
        };
        let pitch = logits_stride.wrapping_mul(dtype.size() as i64) as u64;
        let aligned = (logits | pitch).is_multiple_of(ALIGNMENT as u64);
        params.aligned = i32::from(aligned);
        if let Some(sampling) = &args.sampling {
            let Sampling {
                temperature,
                top_k,
                top_p,
                draws,
            } = sampling;
            let mut of = |name, tensor, dtype| -> Result<u64, ElementwiseError> {
                Ok(check.read_anywhere(name, tensor, dtype, [rows])?.0)
            };
            params.temperature = of("temperature", temperature, DType::F32)?;
            if let Some(top_k) = top_k {
                params.top_k = of("top_k", top_k, DType::I32)?;
            }
            if let Some(top_p) = top_p {
                params.top_p = of("top_p", top_p, DType::F32)?;
            }
            params.draws = check.read_dense("draws", draws, DType::U64, [rows, 2])?;
        }
        params.tokens = check.written_anywhere("tokens", &args.tokens, DType::I32, [rows])?;
        params.status = check.status(args.status)?;
        check.finish()?;
        Ok(Bound::new(&self.kernel, stream, rows, params))
    }
}

impl fmt::Display for SamplePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SampleProblem { dtype, vocab } = self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads for a row, {} bytes of shared memory\n  rows of {vocab} {dtype} logits\n  {} bytes per row on {}",
            entry.name,
            entry.threads,
            entry.smem_bytes,
            self.row_bytes(1),
            self.device()
        )
    }
}
