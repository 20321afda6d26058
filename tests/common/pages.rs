//! Pages: ragged keys and values moved into a pool, and the table that leads to them.

use infer_kernels::Float;
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::attention::HostPages;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::operand::Operand;

/// How the rows of a pool lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolLayout {
    /// `[page, row, head, dim]`, with gaps behind each row and each page.
    Nhd { pad: usize },
    /// `[page, head, row, dim]`, with gaps behind each row.
    Hnd { pad: usize },
    /// `[page, 2, row, head, dim]`: keys and values of a page in one allocation.
    Combined,
}

impl PoolLayout {
    pub fn of_kind(kind: usize, rng: &mut StdRng) -> PoolLayout {
        let pad = 8 * rng.random_range(0..=2);
        match kind {
            0 => PoolLayout::Nhd { pad },
            1 => PoolLayout::Hnd { pad },
            _ => PoolLayout::Combined,
        }
    }

    /// The same with twice the gaps: rows of bytes lie at multiples of 16.
    pub fn of_bytes(self) -> PoolLayout {
        match self {
            PoolLayout::Nhd { pad } => PoolLayout::Nhd { pad: 2 * pad },
            PoolLayout::Hnd { pad } => PoolLayout::Hnd { pad: 2 * pad },
            PoolLayout::Combined => PoolLayout::Combined,
        }
    }

    /// Elements of a page, and strides of row and head.
    fn strides(self, [rows, heads, dim]: [usize; 3]) -> (usize, usize, usize) {
        match self {
            PoolLayout::Nhd { pad } => (rows * (heads * dim + pad) + pad, heads * dim + pad, dim),
            PoolLayout::Hnd { pad } => (heads * rows * (dim + pad), dim + pad, rows * (dim + pad)),
            PoolLayout::Combined => (rows * heads * dim, heads * dim, dim),
        }
    }
}

/// Which pages each sequence has.
#[derive(Clone, Debug)]
pub enum Table {
    /// Row `b` has `len` entries from `offset + b * stride` on.
    Rows {
        offset: usize,
        stride: usize,
        len: usize,
        entries: Vec<u32>,
    },
    /// Sequence `b` has the entries `indptr[b]..indptr[b + 1]`.
    Csr { indptr: Vec<i32>, entries: Vec<u32> },
}

/// Where the rows of ragged keys and values lie in a pool.
#[derive(Clone, Debug)]
pub struct Pages {
    pub page_size: usize,
    pub layout: PoolLayout,
    /// How many pages the pool has.
    pub pool: usize,
    /// Page, and row of the page, of each ragged row; `None` for rows of no sequence.
    homes: Vec<Option<[usize; 2]>>,
    pub table: Table,
    pub seqlens: Vec<i32>,
    /// Whether indices are `i32` on the device, else `u32`.
    pub signed: bool,
    /// What rows without a key hold.
    pub filler: f64,
}

/// One of the two tensors over a pool.
#[derive(Clone, Debug)]
pub struct Pool<T> {
    pub data: Vec<T>,
    pub offset: usize,
    pub shape: [usize; 4],
    pub strides: [i64; 4],
}

/// An entry that must not be looked at.
fn garbage(rng: &mut StdRng, pool: usize) -> u32 {
    match rng.random_range(0..5) {
        0 => 0,
        1 => u32::MAX,
        2 => pool as u32,
        3 => 1 << 31,
        _ => rng.random(),
    }
}

impl Pages {
    /// Every page in a random place. `offsets`: where each sequence's rows begin, of `rows`.
    pub fn random(
        rng: &mut StdRng,
        page_size: usize,
        csr: bool,
        layout: PoolLayout,
        offsets: &[i32],
        rows: usize,
    ) -> Pages {
        let lengths: Vec<usize> = offsets
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as usize)
            .collect();
        let counts: Vec<usize> = lengths.iter().map(|n| n.div_ceil(page_size)).collect();
        let used: usize = counts.iter().sum();
        let pool = used + rng.random_range(0..4);
        let mut free: Vec<u32> = (0..pool as u32).collect();
        free.shuffle(rng);
        let own: Vec<Vec<u32>> = counts
            .iter()
            .map(|&count| free.split_off(free.len() - count))
            .collect();
        let mut homes = vec![None; rows];
        for (b, &length) in lengths.iter().enumerate() {
            for j in 0..length {
                let page = own[b][j / page_size] as usize;
                homes[offsets[b] as usize + j] = Some([page, j % page_size]);
            }
        }
        let table = match csr {
            true => {
                let mut entries: Vec<u32> = (0..rng.random_range(0..3))
                    .map(|_| garbage(rng, pool))
                    .collect();
                let mut indptr = vec![entries.len() as i32];
                for own in &own {
                    entries.extend(own);
                    for _ in 0..rng.random_range(0..3) {
                        entries.push(garbage(rng, pool));
                    }
                    indptr.push(entries.len() as i32);
                }
                Table::Csr { indptr, entries }
            }
            false => {
                let longest = counts.iter().copied().max().unwrap_or(0);
                let len = longest + rng.random_range(0..3);
                let stride = len + rng.random_range(0..3);
                let offset = rng.random_range(0..3);
                let mut entries: Vec<u32> = (0..offset + stride * own.len())
                    .map(|_| garbage(rng, pool))
                    .collect();
                for (b, own) in own.iter().enumerate() {
                    entries[offset + b * stride..][..own.len()].copy_from_slice(own);
                }
                Table::Rows {
                    offset,
                    stride,
                    len,
                    entries,
                }
            }
        };
        Pages {
            page_size,
            layout,
            pool,
            homes,
            table,
            seqlens: lengths.iter().map(|&n| n as i32).collect(),
            signed: rng.random_bool(0.5),
            filler: f64::NAN,
        }
    }

    /// Page, and row of the page, of a ragged row.
    pub fn home(&self, row: usize) -> Option<[usize; 2]> {
        self.homes[row]
    }

    /// Keys and values in their pools, everything else the filler. With `Combined` pools of one shape,
    /// the values' data is empty: both lie in the keys'.
    pub fn pools<T: Float>(&self, k: &Operand<T>, v: &Operand<T>) -> [Pool<T>; 2] {
        let mut k_pool = self.pool(k, 0);
        if self.layout != PoolLayout::Combined || k.shape != v.shape {
            return [k_pool, self.pool(v, 0)];
        }
        let mut v_pool = self.pool(v, 1);
        let page = self.page_size * k.shape[1] * k.shape[2];
        let halves = k_pool
            .data
            .chunks_mut(page.max(1))
            .zip(v_pool.data.chunks(page.max(1)));
        for (values, from) in halves.skip(1).step_by(2) {
            values.copy_from_slice(from);
        }
        v_pool.data.clear();
        [k_pool, v_pool]
    }

    fn pool<T: Float>(&self, rows: &Operand<T>, half: usize) -> Pool<T> {
        let [_, heads, dim] = rows.shape;
        let (page, row, head) = self.layout.strides([self.page_size, heads, dim]);
        let halves = if self.layout == PoolLayout::Combined {
            2
        } else {
            1
        };
        let mut pool = Pool {
            data: vec![T::nearest(self.filler); self.pool * halves * page],
            offset: half * page,
            shape: [self.pool, self.page_size, heads, dim],
            strides: [halves * page, row, head, 1].map(|stride| stride as i64),
        };
        if self.pool == 0 {
            pool.offset = 0;
        }
        for (from, home) in self.homes.iter().enumerate() {
            let Some([at, slot]) = *home else { continue };
            for h in 0..heads {
                for d in 0..dim {
                    let to = pool.offset + at * halves * page + slot * row + h * head + d;
                    pool.data[to] = rows.data[rows.at([from, h, d])];
                }
            }
        }
        pool
    }

    pub fn host(&self) -> HostPages<'_> {
        match &self.table {
            Table::Rows {
                offset,
                stride,
                len,
                entries,
            } => {
                let shape = [self.seqlens.len(), *len];
                let table = HostTensor::strided(entries, *offset, shape, [*stride as i64, 1]);
                HostPages::Rows(table.expect("the table holds its rows"))
            }
            Table::Csr { indptr, entries } => HostPages::Csr {
                indptr,
                pages: entries,
            },
        }
    }
}
