//! What kernels report instead of following a bad index.
//!
//! Lengths, block tables and the like live in device memory, where nobody can check them before a
//! launch without waiting. The kernels check them: a bad value is skipped, never followed, and
//! reported in a [`StatusWord`] that the caller owns. Reports are sticky: a word can serve many
//! launches and be read once, when the host waits anyway.

use std::fmt;

use crate::device::{Buffer, DeviceError, Stream};
use crate::tensor::Place;

/// Sixteen bytes on the device in which kernels report what they skipped.
#[derive(Debug)]
pub struct StatusWord {
    /// The bits, then the key of the first offence.
    buffer: Buffer<u64>,
}

impl StatusWord {
    /// A clean word.
    ///
    /// # Errors
    /// As for [`Stream::alloc`].
    pub fn new(stream: &Stream) -> Result<StatusWord, DeviceError> {
        Ok(StatusWord {
            buffer: stream.alloc(2)?,
        })
    }

    /// Enqueues cleaning, behind what was enqueued before.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn reset(&mut self) -> Result<(), DeviceError> {
        self.buffer.zero()
    }

    /// What was reported by everything enqueued so far, which is waited for.
    ///
    /// # Errors
    /// What the driver reports, which may be the failure of an earlier launch.
    pub fn read(&self) -> Result<StatusReport, DeviceError> {
        let mut words = [0; 2];
        self.buffer.download_into(&mut words)?;
        Ok(StatusReport::decode(words))
    }

    pub(crate) fn address(&self) -> u64 {
        self.buffer.tensor([2]).map_or(0, |tensor| tensor.address())
    }

    pub(crate) fn place(&self) -> Place {
        self.buffer.region().place()
    }
}

/// A kind of bad value that kernels find in device memory.
///
/// The numbers are those of `Offence` in `cuda/common/status.cuh` and of the files
/// `offences.cuh` of its families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Offence {
    /// An entry of the queries' cumulative lengths is out of order or out of range: the sequence
    /// was skipped and its output not written. The index is the sequence's.
    SeqLensQ = 0,
    /// An entry of the keys' lengths is out of order or out of range: the sequence had no keys.
    /// The index is the sequence's.
    SeqLensK = 1,
    /// A sequence has more queries than the plan was made for: it was skipped and its output not
    /// written. The index is the sequence's.
    SeqLenTooLong = 2,
    /// An offset into the list of pages is out of order or out of range, and the sequence had no
    /// pages; or it has fewer pages than its keys need. Keys without a page were treated as absent:
    /// nobody attends to them. The index is the sequence's.
    PageRange = 3,
    /// A page id is out of range. The page holds keys that some query of the sequence may attend
    /// to by causality and window; they were treated as absent. The index is the sequence's.
    PageId = 4,
    /// An offset into the mask is out of order or out of range, or leaves too few bits: the
    /// sequence had no keys. The index is the sequence's.
    Mask = 5,
    /// A slot is -1, where that is not planned to mean padding, or out of range: the token's keys
    /// and values were not stored. The index is the token's.
    Slot = 8,
    /// A position is out of range of the table of angles: nothing was done for the token. The index
    /// is the token's.
    Position = 9,
    /// A page id of a copy is out of range: the page was not copied. The index is the pair's.
    PagePair = 10,
    /// A token's router logits or biases have NaN or +inf, or nothing above -inf: its experts and
    /// weights are still defined, see [`Routing`](crate::moe::Routing). The index is the token's.
    RouterLogit = 12,
    /// An expert id is neither an expert nor -1: it was dropped. The index is the token's.
    ExpertId = 13,
    /// Offsets of the experts' rows are out of order or out of range: the expert at the index and
    /// all behind it had no rows.
    ExpertRange = 14,
    /// The order of rows holds something that is no pair of token and slot: its row was made of row
    /// 0, or not written where the pair says where. The index is its place in the order.
    ExpertRow = 15,
    /// A token id is out of range of the embedding table: its row is zero. The index is the token's.
    TokenId = 18,
    /// Logits hold NaN, which counted as -inf, or nothing above -inf: then there was no token, -1. The
    /// index is the row's.
    Logits = 19,
    /// A temperature is negative or not finite, and the row gave its most likely token; or a top-p is
    /// NaN, and it was left out. The index is the row's.
    Sampling = 20,
}

impl Offence {
    /// All kinds, by number.
    pub const ALL: [Offence; 16] = [
        Offence::SeqLensQ,
        Offence::SeqLensK,
        Offence::SeqLenTooLong,
        Offence::PageRange,
        Offence::PageId,
        Offence::Mask,
        Offence::Slot,
        Offence::Position,
        Offence::PagePair,
        Offence::RouterLogit,
        Offence::ExpertId,
        Offence::ExpertRange,
        Offence::ExpertRow,
        Offence::TokenId,
        Offence::Logits,
        Offence::Sampling,
    ];

    /// The kind's bit in a status word.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// What was found, in words that an index follows.
    const fn describe(self) -> &'static str {
        match self {
            Offence::SeqLensQ => "cumulative query lengths out of order or range at sequence",
            Offence::SeqLensK => "key lengths out of order or range at sequence",
            Offence::SeqLenTooLong => "more queries than planned in sequence",
            Offence::PageRange => {
                "page offsets out of order or range, or too few pages, at sequence"
            }
            Offence::PageId => "page id out of range in sequence",
            Offence::Mask => "mask offsets out of order or range, or too few bits, at sequence",
            Offence::Slot => "slot out of range for token",
            Offence::Position => "position out of range for token",
            Offence::PagePair => "page id out of range in pair",
            Offence::RouterLogit => "router logits NaN or infinite, of token",
            Offence::ExpertId => "expert id out of range, of token",
            Offence::ExpertRange => "rows of experts out of order or range at expert",
            Offence::ExpertRow => "row of an expert out of range at place",
            Offence::TokenId => "id out of range of the table, of token",
            Offence::Logits => "logits NaN, or none above -inf, in row",
            Offence::Sampling => "temperature or top-p without meaning in row",
        }
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// What a [`StatusWord`] held when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[must_use]
pub struct StatusReport {
    bits: u32,
    first: u64,
}

impl StatusReport {
    /// The report that a word's sixteen bytes, as two little-endian numbers, stand for.
    pub fn decode(words: [u64; 2]) -> StatusReport {
        StatusReport {
            bits: words[0] as u32,
            first: words[1],
        }
    }

    /// Adds an offence, as the device function `report` does.
    pub(crate) fn record(&mut self, offence: Offence, index: u64) {
        self.bits |= offence.bit();
        self.first = self.first.max(!((offence as u64) << 56 | index));
    }

    /// Whether nothing was skipped.
    pub fn is_clean(&self) -> bool {
        self.bits == 0 && self.first == 0
    }

    /// Whether this kind was found at least once.
    pub fn contains(&self, offence: Offence) -> bool {
        self.bits & offence.bit() != 0
    }

    /// The kinds that were found.
    pub fn offences(&self) -> impl Iterator<Item = Offence> + '_ {
        Offence::ALL
            .into_iter()
            .filter(|&offence| self.contains(offence))
    }

    /// The first offender: lowest kind, then lowest index, whatever the order of execution.
    pub fn first(&self) -> Option<(Offence, u64)> {
        if self.first == 0 {
            return None;
        }
        let key = !self.first;
        let offence = Offence::ALL.into_iter().find(|&o| o as u64 == key >> 56)?;
        Some((offence, key & ((1 << 56) - 1)))
    }

    /// `Ok` if nothing was skipped.
    ///
    /// # Errors
    /// The report itself, which says what was found first.
    pub fn into_result(self) -> Result<(), StatusReport> {
        if self.is_clean() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("clean");
        }
        match self.first() {
            Some((offence, index)) => write!(f, "{offence} {index}")?,
            None => write!(f, "unknown offence, key {:#x}", self.first)?,
        }
        match self.bits.count_ones() {
            0 | 1 => Ok(()),
            kinds => write!(f, " (and {} further kinds)", kinds - 1),
        }
    }
}

impl std::error::Error for StatusReport {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(offence: Offence, index: u64) -> u64 {
        !((offence as u64) << 56 | index)
    }

    #[test]
    fn a_zeroed_word_is_clean() {
        let report = StatusReport::decode([0, 0]);
        assert!(report.is_clean() && report.first().is_none());
        assert_eq!(report.to_string(), "clean");
        assert_eq!(report.into_result(), Ok(()));
    }

    #[test]
    fn the_largest_key_is_the_lowest_kind_and_index() {
        assert!(key(Offence::SeqLensQ, 9) > key(Offence::SeqLensK, 0));
        assert!(key(Offence::SeqLensK, 3) > key(Offence::SeqLensK, 4));
        let bits = Offence::SeqLensK.bit() | Offence::SeqLenTooLong.bit();
        let report = StatusReport::decode([bits.into(), key(Offence::SeqLensK, 7)]);
        let mut recorded = StatusReport::default();
        recorded.record(Offence::SeqLenTooLong, 1);
        recorded.record(Offence::SeqLensK, 8);
        recorded.record(Offence::SeqLensK, 7);
        assert_eq!(recorded, report);
        assert_eq!(report.first(), Some((Offence::SeqLensK, 7)));
        assert_eq!(
            report.offences().collect::<Vec<_>>(),
            [Offence::SeqLensK, Offence::SeqLenTooLong]
        );
        assert_eq!(
            report.to_string(),
            "key lengths out of order or range at sequence 7 (and 1 further kinds)"
        );
    }

    #[test]
    fn any_bytes_decode() {
        for words in [[u64::MAX, u64::MAX], [u64::MAX, 1], [0, 5], [8, 0]] {
            let report = StatusReport::decode(words);
            assert!(!report.is_clean());
            let _ = (
                report.first(),
                report.to_string(),
                report.offences().count(),
            );
        }
    }
}
