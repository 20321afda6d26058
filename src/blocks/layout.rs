//! Where everything lies in packed blocks: functions from a row and a column to a place.
//!
//! Codes are in units of 32 columns and 512 bytes, 16 for each lane of a warp: 16 rows where a code
//! has 8 bits, 32 where it has 4. Units follow each other down K, then along N.
//!
//! Scales follow in tiles of 64 rows and 32 columns, down K, then along N: what a lane needs of one,
//! for the four columns that it multiplies, is 16 bytes. In front of each fourth tile stand the
//! `f16` scales of its 256 rows, where a format has scales of two levels.

/// Columns of a unit and of a tile.
pub const UNIT: usize = 32;
/// Words of a unit's codes.
pub const UNIT_WORDS: usize = 128;
/// Rows of a tile of scales.
pub const TILE: usize = 64;
/// Rows that share the scale of the upper level, where there are two.
pub const SUPER: usize = 256;

/// What a group of rows of a column has beside its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scales {
    /// An `f16` scale for each 32 rows.
    Halves,
    /// An `f16` scale and an `f16` offset for each 32 rows.
    HalvesAndOffsets,
    /// A signed byte for each 16 rows, times an `f16` for each 256.
    Bytes,
    /// Two unsigned bytes for each 32 rows, of the scale and of the offset, each times an `f16` for
    /// each 256.
    BytesAndOffsets,
}

impl Scales {
    /// Rows of a group.
    pub const fn group(self) -> usize {
        match self {
            Scales::Bytes => 16,
            _ => 32,
        }
    }

    /// Words of a tile of 64 rows and 32 columns.
    pub const fn tile_words(self) -> usize {
        match self {
            Scales::HalvesAndOffsets => 64,
            _ => 32,
        }
    }

    /// Words of the upper level, of 256 rows and 32 columns.
    pub const fn super_words(self) -> usize {
        match self {
            Scales::Halves | Scales::HalvesAndOffsets => 0,
            Scales::Bytes => 16,
            Scales::BytesAndOffsets => 32,
        }
    }

    /// Whether a group has an offset.
    pub const fn has_offsets(self) -> bool {
        matches!(self, Scales::HalvesAndOffsets | Scales::BytesAndOffsets)
    }
}

/// Sizes of packed blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Bits of a code: 4 or 8.
    pub bits: usize,
    /// What a group has beside codes.
    pub scales: Scales,
}

impl Extent {
    /// Packed rows come in multiples of this, four units: the depth of a kernel's turn.
    pub fn depth(self) -> usize {
        512 / self.bits
    }

    /// Rows with padding.
    pub fn padded_k(self) -> usize {
        self.k.next_multiple_of(self.depth())
    }

    /// Columns with padding.
    pub fn padded_n(self) -> usize {
        self.n.next_multiple_of(UNIT)
    }

    /// Rows of a unit.
    pub fn unit_rows(self) -> usize {
        128 / self.bits
    }

    /// Words of all codes.
    pub fn code_words(self) -> usize {
        self.padded_k() / self.unit_rows() * self.strip_units() * UNIT_WORDS
    }

    /// Words of all scales and offsets.
    pub fn scale_words(self) -> usize {
        self.strip_units() * self.strip_scale_words()
    }

    /// Strips of 32 columns.
    pub(super) fn strip_units(self) -> usize {
        self.padded_n() / UNIT
    }

    /// Words of the scales of 32 columns.
    pub(super) fn strip_scale_words(self) -> usize {
        let tiles = self.padded_k() / TILE;
        tiles * self.scales.tile_words() + tiles.div_ceil(SUPER / TILE) * self.scales.super_words()
    }

    /// The word, and the shift within it, of the code in a packed row and a column.
    ///
    /// A lane's word of 8-bit codes is one column, `lane / 4 + 8·word`, and four of 16 rows:
    /// `2(lane % 4)`, eight further, then the same of the next row. Codes of 4 bits lie as
    /// [`int4`](crate::int4::layout) says.
    pub fn code_at(self, row: usize, column: usize) -> (usize, u32) {
        let units = self.padded_k() / self.unit_rows();
        let unit = column / UNIT * units + row / self.unit_rows();
        let (k, n) = (row % self.unit_rows(), column % UNIT);
        let lane = n % 8 * 4 + k % 8 / 2;
        let (word, pair) = match self.bits {
            8 => (n / 8, k / 8),
            _ => (k / 16 * 2 + n / 16, n % 16 / 8 * 2 + k % 16 / 8),
        };
        let shift = self.bits * pair + 16 * (k % 2);
        (unit * UNIT_WORDS + lane * 4 + word, shift as u32)
    }

    /// The first word of the tile of scales of a row and a column.
    fn tile_at(self, row: usize, column: usize) -> usize {
        let (tile, of) = (row / TILE, self.scales);
        let before = tile / (SUPER / TILE) + 1;
        column / UNIT * self.strip_scale_words()
            + tile * of.tile_words()
            + before * of.super_words()
    }

    /// Where the scale of a row's group lies: the index of an `f16`, or of a byte, in the array of
    /// all scales.
    pub fn scale_at(self, row: usize, column: usize) -> usize {
        let (word, n) = (self.tile_at(row, column), column % UNIT);
        let (lane, group) = (n % 8, row % TILE / self.scales.group());
        let place = 4 * group + n / 8;
        match self.scales {
            Scales::Halves | Scales::HalvesAndOffsets => 2 * word + 8 * lane + place,
            Scales::Bytes | Scales::BytesAndOffsets => 4 * word + 16 * lane + place,
        }
    }

    /// The same for the offset, if there are any.
    pub fn offset_at(self, row: usize, column: usize) -> Option<usize> {
        let scale = self.scale_at(row, column);
        match self.scales {
            Scales::HalvesAndOffsets => Some(scale + 64),
            Scales::BytesAndOffsets => Some(scale + 8),
            _ => None,
        }
    }

    /// Where the upper level's scale of a row and a column lies, if there is one: the index of an
    /// `f16`. That of the offset, if there is one, is four further.
    pub fn super_at(self, row: usize, column: usize) -> Option<usize> {
        let lane_halves = match self.scales {
            Scales::Bytes => 4,
            Scales::BytesAndOffsets => 8,
            _ => return None,
        };
        let word = self.tile_at(row / SUPER * SUPER, column) - self.scales.super_words();
        let n = column % UNIT;
        Some(2 * word + lane_halves * (n % 8) + n / 8)
    }
}
