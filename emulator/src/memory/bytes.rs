//! Memory of one block or thread: words, and a bit per byte that says whether it was written.

/// Little-endian bytes with validity.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes {
    words: Vec<u32>,
    valid: Vec<u32>,
    size: u32,
}

impl Bytes {
    /// Uninitialised memory. Its bytes are all ones: a NaN in every format.
    pub(crate) fn new(size: u32) -> Bytes {
        Bytes {
            words: vec![u32::MAX; size.div_ceil(16) as usize * 4],
            valid: vec![0; size.div_ceil(32) as usize],
            size,
        }
    }

    /// Makes everything uninitialised again.
    pub(crate) fn reset(&mut self) {
        self.words.fill(u32::MAX);
        self.valid.fill(0);
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    #[inline(always)]
    pub(crate) fn words<const N: usize>(&self, offset: u32) -> [u32; N] {
        let at = offset as usize / 4;
        self.words
            .get(at..at + N)
            .and_then(|words| words.try_into().ok())
            .unwrap_or([0; N])
    }

    /// `count` words, a multiple of 8, if they start at a multiple of 32 bytes and all were written.
    #[inline(always)]
    pub(crate) fn row(&self, offset: u32, count: usize) -> Option<&[u32]> {
        let (at, first) = (offset as usize / 4, offset as usize / 32);
        let valid = self.valid.get(first..first + count / 8)?;
        let all = valid.iter().fold(u32::MAX, |all, word| all & word);
        (all == u32::MAX && offset.is_multiple_of(32)).then_some(self.words.get(at..at + count)?)
    }

    /// Stores initialised words from a multiple of 32 bytes; whether they start there.
    #[inline(always)]
    pub(crate) fn set_row(&mut self, offset: u32, values: &[u32]) -> bool {
        let (at, first) = (offset as usize / 4, offset as usize / 32);
        let valid = self.valid.get_mut(first..first + values.len() / 8);
        let words = self.words.get_mut(at..at + values.len());
        let (true, Some(valid), Some(words)) = (offset.is_multiple_of(32), valid, words) else {
            return false;
        };
        words.copy_from_slice(values);
        valid.fill(u32::MAX);
        true
    }

    #[inline(always)]
    pub(crate) fn set_words<const N: usize>(&mut self, offset: u32, values: [u32; N]) {
        let at = offset as usize / 4;
        if let Some(words) = self.words.get_mut(at..at + N) {
            words.copy_from_slice(&values);
        }
    }

    /// Up to 4 bytes that do not straddle a word.
    #[inline(always)]
    pub(crate) fn part(&self, offset: u32, bytes: u32) -> u32 {
        let [word] = self.words::<1>(offset);
        word >> (offset % 4 * 8) & low(bytes * 8)
    }

    /// Stores up to 4 bytes that do not straddle a word.
    #[inline(always)]
    pub(crate) fn set_part(&mut self, offset: u32, bytes: u32, value: u32) {
        let shift = offset % 4 * 8;
        let mask = low(bytes * 8) << shift;
        if let Some(word) = self.words.get_mut(offset as usize / 4) {
            *word = *word & !mask | value << shift & mask;
        }
    }

    /// Whether all of `bytes` bytes, within an aligned run of 32, were written.
    #[inline(always)]
    pub(crate) fn initialised(&self, offset: u32, bytes: u32) -> bool {
        let want = low(bytes) << (offset % 32);
        self.valid
            .get(offset as usize / 32)
            .is_some_and(|bits| bits & want == want)
    }

    /// Marks `bytes` bytes, within an aligned run of 32, as written or not.
    #[inline(always)]
    pub(crate) fn mark(&mut self, offset: u32, bytes: u32, written: bool) {
        let bits = low(bytes) << (offset % 32);
        if let Some(word) = self.valid.get_mut(offset as usize / 32) {
            *word = if written { *word | bits } else { *word & !bits };
        }
    }
}

#[inline(always)]
fn low(bits: u32) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}
