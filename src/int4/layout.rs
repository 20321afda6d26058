//! Where everything lies in packed weights: functions from a row and a column to a place.
//!
//! Codes are in units of 32 rows (along K) by 32 columns (along N): 512 bytes, 16 for each lane of
//! a warp. A lane's four words are two steps of 16 rows by two blocks of 16 columns; the eight codes
//! of a word are what the lane gives to two tensor operations m16n8k16, in the order of their
//! registers.

/// Rows and columns of a unit.
pub const UNIT: usize = 32;
/// Packed rows come in multiples of this: the depth of the kernels' tiles.
pub const DEPTH: usize = 64;
/// Words of a unit's codes.
pub const UNIT_WORDS: usize = UNIT * UNIT / 8;
/// Words of the zero points of 32 columns.
pub const ZERO_WORDS: usize = UNIT / 8;

/// Sizes of packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Rows of a column that share a scale.
    pub group: usize,
}

impl Extent {
    /// Rows with padding.
    pub fn padded_k(self) -> usize {
        self.k.next_multiple_of(DEPTH)
    }

    /// Columns with padding.
    pub fn padded_n(self) -> usize {
        self.n.next_multiple_of(UNIT)
    }

    /// Groups of each column.
    pub fn groups(self) -> usize {
        self.padded_k().div_ceil(self.group)
    }

    /// Groups that have rows, and columns, which are not padding.
    pub fn existing_groups(self) -> usize {
        match self.n {
            0 => 0,
            _ => self.k.div_ceil(self.group),
        }
    }

    /// Words of all codes.
    pub fn code_words(self) -> usize {
        self.padded_k() * self.padded_n() / 8
    }

    /// Scales of all groups.
    pub fn scales(self) -> usize {
        self.groups() * self.padded_n()
    }

    /// Words of all zero points.
    pub fn zero_words(self) -> usize {
        self.groups() * self.padded_n() / 8
    }

    /// The word, and the shift within it, of the code in a packed row and a column.
    ///
    /// Bits 4p of a word and 4p + 16 hold two neighbouring rows, `2(lane % 4)` and the next, of pair
    /// `p`: pairs 0 and 1 are rows 0 to 7 and 8 to 15 of column `lane / 4`, 2 and 3 those of eight
    /// columns further.
    pub fn code_at(self, row: usize, column: usize) -> (usize, u32) {
        let unit = column / UNIT * (self.padded_k() / UNIT) + row / UNIT;
        let (k, n) = (row % UNIT, column % UNIT);
        let lane = n % 8 * 4 + k % 8 / 2;
        let word = k / 16 * 2 + n / 16;
        let pair = n % 16 / 8 * 2 + k % 16 / 8;
        let shift = 4 * pair + 16 * (k % 2);
        (unit * UNIT_WORDS + lane * 4 + word, shift as u32)
    }

    /// Where the scale of a group and a column lies.
    ///
    /// A lane finds those of its columns, which are eight apart, next to each other.
    pub fn scale_at(self, group: usize, column: usize) -> usize {
        let n = column % UNIT;
        group * self.padded_n() + column / UNIT * UNIT + n % 8 * 4 + n / 8
    }

    /// The word, and the shift within it, of the zero point of a group and a column.
    ///
    /// A lane's four are 16 bits, in the order 0, 2, 1, 3: bytes are pairs of columns whose codes
    /// share a register's lower and upper halves.
    pub fn zero_at(self, group: usize, column: usize) -> (usize, u32) {
        let at = self.scale_at(group, column);
        let place = [0, 2, 1, 3][at % 4];
        (at / 8, 4 * (at / 4 % 2 * 4 + place) as u32)
    }
}
