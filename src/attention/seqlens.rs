//! Where each sequence of a ragged batch begins and ends.

use std::ops::Range;

use crate::device::{Buffer, DeviceError, Stream};
use crate::error::TensorError;
use crate::tensor::Tensor;

/// The sequences of a ragged batch, checked as a whole and then kept on the device.
///
/// Sequence `b` owns the rows `offsets[b]..offsets[b + 1]` of an operand. Nothing can change the
/// copy on the device, so that what was checked is what kernels read.
#[derive(Debug)]
pub struct SeqLens {
    offsets: Buffer<i32>,
    lengths: Box<[i32]>,
    max_len: usize,
    end: usize,
}

/// Why offsets do not describe a ragged batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeqLensError {
    /// A batch of n sequences has n + 1 offsets; there are none.
    #[error("expected at least {expected} offset, got {got}")]
    Empty {
        /// The least number of offsets.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// The first offset is negative.
    #[error("offset {index}: expected at least {expected}, got {got}")]
    Negative {
        /// Which offset.
        index: usize,
        /// The least value allowed.
        expected: i32,
        /// The value.
        got: i32,
    },
    /// An offset is smaller than the one before.
    #[error("offset {index}: expected at least {expected}, the one before, got {got}")]
    Order {
        /// Which offset.
        index: usize,
        /// The offset before it.
        expected: i32,
        /// The value.
        got: i32,
    },
    /// The lengths add up to more than 32-bit offsets can say.
    #[error("length {index}: expected offsets of at most {expected}, got more")]
    TooLong {
        /// Which length.
        index: usize,
        /// The largest offset.
        expected: usize,
    },
    /// The offsets could not be brought to the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl SeqLens {
    /// From the row where each sequence begins and, last, the row where the last one ends.
    ///
    /// # Errors
    /// [`SeqLensError::Empty`], [`SeqLensError::Negative`] or [`SeqLensError::Order`] when the
    /// offsets are none, or do not ascend from zero or more; or what the device reports.
    pub fn from_offsets(stream: &Stream, offsets: &[i32]) -> Result<SeqLens, SeqLensError> {
        let (&first, &last) = match (offsets.first(), offsets.last()) {
            (Some(first), Some(last)) => (first, last),
            _ => {
                return Err(SeqLensError::Empty {
                    expected: 1,
                    got: 0,
                });
            }
        };
        if first < 0 {
            return Err(SeqLensError::Negative {
                index: 0,
                expected: 0,
                got: first,
            });
        }
        let mut lengths = Vec::with_capacity(offsets.len() - 1);
        for (index, pair) in offsets.windows(2).enumerate() {
            let (expected, got) = (pair[0], pair[1]);
            if got < expected {
                return Err(SeqLensError::Order {
                    index: index + 1,
                    expected,
                    got,
                });
            }
            lengths.push(got - expected);
        }
        Ok(SeqLens {
            offsets: stream.upload(offsets)?,
            max_len: lengths.iter().copied().max().unwrap_or(0) as usize,
            lengths: lengths.into(),
            end: last as usize,
        })
    }

    /// From the length of each sequence, the first beginning at row 0.
    ///
    /// # Errors
    /// [`SeqLensError::TooLong`] when they add up to more than `i32::MAX`; or what the device
    /// reports.
    pub fn from_lengths(stream: &Stream, lengths: &[usize]) -> Result<SeqLens, SeqLensError> {
        let mut offsets = Vec::with_capacity(lengths.len().saturating_add(1));
        let mut end = 0i32;
        offsets.push(end);
        for (index, &length) in lengths.iter().enumerate() {
            let longer = i32::try_from(length)
                .ok()
                .and_then(|length| end.checked_add(length));
            let expected = i32::MAX as usize;
            end = longer.ok_or(SeqLensError::TooLong { index, expected })?;
            offsets.push(end);
        }
        SeqLens::from_offsets(stream, &offsets)
    }

    /// The number of sequences.
    pub fn batch(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The length of the longest sequence.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The row behind the last sequence: how many rows an operand must have.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The length of the longest of some sequences.
    pub(crate) fn longest(&self, sequences: Range<usize>) -> usize {
        let lengths = self.lengths.get(sequences).unwrap_or_default();
        lengths.iter().copied().max().unwrap_or(0) as usize
    }

    pub(crate) fn tensor(&self) -> Result<Tensor<'_, 1>, TensorError> {
        self.offsets.tensor([self.offsets.len()])
    }
}

/// Cumulative sequence lengths as an operation takes them.
#[derive(Clone, Copy, Debug)]
pub enum CuSeqLens<'a> {
    /// Checked on the host.
    Checked(&'a SeqLens),
    /// `batch + 1` offsets that the device computed, as `i32` or `u32`. The kernels check each:
    /// see [`Offence`](crate::Offence) for what becomes of sequences with bad ones.
    Device(Tensor<'a, 1>),
}

impl<'a> From<&'a SeqLens> for CuSeqLens<'a> {
    fn from(checked: &'a SeqLens) -> Self {
        CuSeqLens::Checked(checked)
    }
}

impl<'a> From<Tensor<'a, 1>> for CuSeqLens<'a> {
    fn from(offsets: Tensor<'a, 1>) -> Self {
        CuSeqLens::Device(offsets)
    }
}
