//! The records of 128 bytes, kept so that what all lanes of a warp do side by side is told at once.

use super::mark::Mark;
use super::{Record, Touch};
use crate::memory::order::{Who, scope};

/// Bytes of a line.
pub(super) const LINE: usize = 128;

/// A record for each 16 bytes, by what it says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    write: [Mark; 8],
    read: [Mark; 8],
    rest: [Rest; 8],
}

#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    readers: u32,
    wpc: u16,
    rpc: u16,
}

impl Line {
    /// The record of the 16 bytes at an offset.
    #[inline(always)]
    pub(super) fn record(&self, offset: usize) -> Record {
        let n = offset / 16 % 8;
        let (write, read, rest) = (self.write[n], self.read[n], self.rest[n]);
        let Rest { readers, wpc, rpc } = rest;
        Record {
            write,
            read,
            readers,
            wpc,
            rpc,
        }
    }

    #[inline(always)]
    pub(super) fn set_record(&mut self, offset: usize, record: Record) {
        let n = offset / 16 % 8;
        let Record {
            write,
            read,
            readers,
            wpc,
            rpc,
        } = record;
        self.write[n] = write;
        self.read[n] = read;
        self.rest[n] = Rest { readers, wpc, rpc };
    }

    /// [`Record::settle`] of the record at an offset.
    #[inline(always)]
    pub(super) fn settle<const GLOBAL: bool>(
        &mut self,
        who: &Who<'_>,
        offset: usize,
        mark: Mark,
        touch: Touch,
    ) -> bool {
        if touch == Touch::Read && self.read[offset / 16 % 8] == mark {
            return true;
        }
        let mut record = self.record(offset);
        let settled = record.settle::<GLOBAL>(who, mark, touch);
        if settled {
            self.set_record(offset, record);
        }
        settled
    }

    /// [`Record::settle`] of all records, of which the first has this mark, if each of them is plain: not
    /// read by others since any barrier that the warp has passed. Otherwise nothing happens. Only for
    /// shared memory.
    #[inline(always)]
    pub(super) fn settle_all(&mut self, who: &Who<'_>, mark: Mark, touch: Touch) -> bool {
        let marks: [Mark; 8] = std::array::from_fn(|n| mark.after(n as u64));
        if touch == Touch::Read && differ(&self.read, &marks) == 0 {
            return true;
        }
        let floor = u64::from(who.floor) << 32;
        let settled = |marks: &[Mark; 8], own: &[Mark; 8]| {
            let mut all = true;
            for n in 0..8 {
                all &= (marks[n].0 < floor) | marks[n].same_threads(own[n]);
            }
            all
        };
        if !settled(&self.write, &marks) {
            return false;
        }
        match touch {
            Touch::Read if who.strong != scope::WEAK => true,
            Touch::Read => {
                let mut old = true;
                for n in 0..8 {
                    old &= self.read[n].0 < floor;
                }
                if old {
                    self.read = marks;
                    for rest in &mut self.rest {
                        rest.readers = 1 << (who.warp % 32);
                        rest.rpc = who.pc;
                    }
                }
                old
            }
            Touch::Write => {
                if !settled(&self.read, &marks) {
                    return false;
                }
                self.write = marks.map(|mark| mark.written(who.strong, false));
                self.read = [Mark::default(); 8];
                let (wpc, rpc) = (who.pc, 0);
                let readers = 0;
                self.rest = [Rest { readers, wpc, rpc }; 8];
                true
            }
            Touch::Atomic => false,
        }
    }
}

/// Bits in which marks differ.
#[inline(always)]
fn differ(a: &[Mark; 8], b: &[Mark; 8]) -> u64 {
    let mut differ = 0;
    for n in 0..8 {
        differ |= a[n].0 ^ b[n].0;
    }
    differ
}
