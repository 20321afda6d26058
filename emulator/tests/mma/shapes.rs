//! Shapes of `mma`: where the ISA's text puts the elements, and a kernel that runs one per block.

use ptx_emulator::{Config, Emulator, Gpu, LaunchConfig, LaunchStats, MmaMode};

/// Type of the elements of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    F32,
    F64,
    S32,
    S8,
    U8,
    S4,
    U4,
    B1,
}

use Ty::*;

impl Ty {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn bits(self) -> usize {
        match self {
            F64 => 64,
            F32 | Tf32 | S32 => 32,
            F16 | Bf16 => 16,
            E4m3 | E5m2 | S8 | U8 => 8,
            S4 | U4 => 4,
            B1 => 1,
        }
    }
}

/// One form of `mma`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub rows: usize,
    pub k: usize,
    pub a: Ty,
    pub b: Ty,
    pub c: Ty,
    /// Modifier before the types.
    pub before: &'static str,
    /// Modifier behind the types.
    pub behind: &'static str,
}

/// Every form of floating-point numbers that sm_89 has.
pub fn float_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |k, a, b, c| {
        let (before, behind) = ("", "");
        cases.push(Case {
            rows: 16,
            k,
            a,
            b,
            c,
            before,
            behind,
        });
    };
    for k in [8, 16] {
        add(k, F16, F16, F32);
        add(k, F16, F16, F16);
        add(k, Bf16, Bf16, F32);
    }
    add(4, Tf32, Tf32, F32);
    add(8, Tf32, Tf32, F32);
    for k in [16, 32] {
        for (a, b) in [(E4m3, E4m3), (E4m3, E5m2), (E5m2, E4m3), (E5m2, E5m2)] {
            add(k, a, b, F32);
            add(k, a, b, F16);
        }
    }
    cases
}

/// Every form of integers and bits.
pub fn integer_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for before in ["", ".satfinite"] {
        for (rows, k) in [(8, 16), (16, 16), (16, 32)] {
            for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
                cases.push(Case {
                    rows,
                    k,
                    a,
                    b,
                    c: S32,
                    before,
                    behind: "",
                });
            }
        }
        for (rows, k) in [(8, 32), (16, 32), (16, 64)] {
            for (a, b) in [(S4, S4), (S4, U4), (U4, S4), (U4, U4)] {
                cases.push(Case {
                    rows,
                    k,
                    a,
                    b,
                    c: S32,
                    before,
                    behind: "",
                });
            }
        }
    }
    for behind in [".xor.popc", ".and.popc"] {
        for (rows, k) in [(8, 128), (16, 128), (16, 256)] {
            cases.push(Case {
                rows,
                k,
                a: B1,
                b: B1,
                c: S32,
                before: "",
                behind,
            });
        }
    }
    cases
}

pub const DOUBLE: Case = Case {
    rows: 8,
    k: 4,
    a: F64,
    b: F64,
    c: F64,
    before: "",
    behind: "",
};

/// A matrix's elements, as bits.
pub type Matrix = Vec<Vec<u64>>;

/// A, B and C.
#[derive(Clone)]
pub struct Tile {
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
}

impl Case {
    pub fn name(&self) -> String {
        let [a, b, c] = [self.a, self.b, self.c].map(Ty::name);
        let (m, k) = (self.rows, self.k);
        format!(
            "m{m}n8k{k}.row.col{}.{c}.{a}.{b}.{c}{}",
            self.before, self.behind
        )
    }

    /// Row and column of the `i`-th element of A in a lane, by the formulas of "Matrix fragments for
    /// mma.mXnYkZ", which give group `g = lane / 4` and place `t = lane % 4`.
    fn a_at(&self, i: usize, g: usize, t: usize) -> (usize, usize) {
        let lower = |first: bool| if first { g } else { g + 8 };
        match (self.a, self.rows, self.k) {
            (F64, ..) => (g, t),
            (Tf32, _, 4) => (lower(i == 0), t),
            (Tf32, ..) => (lower(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
            (F16 | Bf16, _, 8) => (lower(i < 2), t * 2 + (i & 1)),
            (F16 | Bf16, ..) => {
                let column = t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
                (lower(i < 2 || (4..6).contains(&i)), column)
            }
            (S8 | U8, 8, _) => (g, t * 4 + i),
            (S8 | U8 | E4m3 | E5m2, _, 16) => (lower(i < 4), t * 4 + (i & 3)),
            (S8 | U8 | E4m3 | E5m2, ..) => {
                let column = t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 };
                (lower(i < 4 || (8..12).contains(&i)), column)
            }
            (S4 | U4, 8, _) => (g, t * 8 + i),
            (S4 | U4, _, 32) => (lower(i < 8), t * 8 + (i & 7)),
            (S4 | U4, ..) => {
                let column = t * 8 + (i & 7) + if i >= 16 { 32 } else { 0 };
                (lower(i < 8 || (16..24).contains(&i)), column)
            }
            (B1, 8, _) => (g, t * 32 + i),
            (B1, _, 128) => (lower(i < 32), t * 32 + (i & 31)),
            (B1, ..) => {
                let column = t * 32 + (i & 31) + if i >= 64 { 128 } else { 0 };
                (lower(i < 32 || (64..96).contains(&i)), column)
            }
            _ => unreachable!(),
        }
    }

    /// Row of the `i`-th element of B in a lane; its column is `g`.
    fn b_at(&self, i: usize, t: usize) -> usize {
        match self.b {
            F64 => t,
            Tf32 => t + if i >= 1 { 4 } else { 0 },
            F16 | Bf16 => t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
            S8 | U8 | E4m3 | E5m2 => t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
            S4 | U4 => t * 8 + (i & 7) + if i >= 8 { 32 } else { 0 },
            B1 => t * 32 + (i & 31) + if i >= 32 { 128 } else { 0 },
            F32 | S32 => unreachable!(),
        }
    }

    /// Row and column of the `i`-th element of C and D in a lane.
    fn c_at(i: usize, g: usize, t: usize) -> (usize, usize) {
        (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
    }

    /// Elements per lane of A, B and C.
    fn elements(&self) -> [usize; 3] {
        [self.rows * self.k / 32, self.k * 8 / 32, self.rows * 8 / 32]
    }

    /// Words per lane of A, B and C.
    fn words(&self) -> [usize; 3] {
        let [a, b, c] = self.elements();
        [
            a * self.a.bits() / 32,
            b * self.b.bits() / 32,
            c * self.c.bits() / 32,
        ]
    }

    /// The fragments of a lane.
    fn pack(&self, tile: &Tile, lane: usize) -> Vec<u32> {
        let (g, t) = (lane / 4, lane % 4);
        let [na, nb, nc] = self.elements();
        let a = (0..na)
            .map(|i| self.a_at(i, g, t))
            .map(|(row, column)| tile.a[row][column]);
        let b = (0..nb).map(|i| tile.b[self.b_at(i, t)][g]);
        let c = (0..nc)
            .map(|i| Case::c_at(i, g, t))
            .map(|(row, column)| tile.c[row][column]);
        let mut words = words_of(a, self.a.bits());
        words.extend(words_of(b, self.b.bits()));
        words.extend(words_of(c, self.c.bits()));
        words.resize(16, 0);
        words
    }

    /// A module whose kernel `k(out, in)` multiplies one tile per block.
    pub fn module(&self) -> String {
        let wide = self.c == F64;
        let step = if wide { 2 } else { 1 };
        let (class, ty) = if wide { ("%d", "b64") } else { ("%r", "b32") };
        let [na, nb, nc] = self.words().map(|words| words / step);
        let names = |from: usize, count: usize| {
            let names: Vec<String> = (from..from + count)
                .map(|n| format!("{class}{}", n + 1))
                .collect();
            names.join(", ")
        };
        let bytes = 4 * step;
        let loads: String = (0..na + nb + nc)
            .map(|n| format!("ld.global.{ty} {class}{}, [%in+{}];\n", n + 1, bytes * n))
            .collect();
        let first = na + nb;
        let stores: String = (0..nc)
            .map(|n| {
                format!(
                    "st.global.{ty} [%out+{}], {class}{};\n",
                    bytes * n,
                    first + n + 1
                )
            })
            .collect();
        let c = names(first, nc);
        format!(
            ".version 8.8\n.target sm_89\n.address_size 64\n\
             .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .b64 %out, %in, %d<17>;\n.reg .b32 %r<17>, %at, %cta;\n\
             ld.param.u64 %out, [out];\nld.param.u64 %in, [in];\n\
             mov.u32 %at, %tid.x;\nmov.u32 %cta, %ctaid.x;\nmad.lo.u32 %at, %cta, 32, %at;\n\
             mul.wide.u32 %d0, %at, 64;\nadd.u64 %in, %in, %d0;\n\
             mul.wide.u32 %d0, %at, 32;\nadd.u64 %out, %out, %d0;\n\
             {loads}mma.sync.aligned.{} {{{c}}}, {{{}}}, {{{}}}, {{{c}}};\n{stores}ret;\n}}\n",
            self.name(),
            names(0, na),
            names(na, nb),
        )
    }

    /// D of every tile.
    pub fn run(&self, mode: MmaMode, tiles: &[Tile]) -> (Vec<Matrix>, LaunchStats) {
        let device = Emulator::new(Config {
            gpu: Gpu::L4,
            mma: mode,
            ..Config::default()
        });
        let words: Vec<u32> = tiles
            .iter()
            .flat_map(|tile| (0..32).flat_map(|lane| self.pack(tile, lane)))
            .collect();
        let size = (tiles.len() * 32 * 32) as u64;
        let (out, input) = (device.alloc(size).unwrap(), device.alloc(2 * size).unwrap());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        device.write(input, &bytes).unwrap();
        let kernel = device
            .load(&self.module())
            .and_then(|module| module.kernel("k"));
        let kernel = kernel.unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        let config = LaunchConfig {
            grid: [tiles.len() as u32, 1, 1],
            block: [32, 1, 1],
            dynamic_smem: 0,
        };
        let params: [&[u8]; 2] = [&out.to_le_bytes(), &input.to_le_bytes()];
        let stats = device.launch(&kernel, &config, &params).unwrap();
        let mut bytes = vec![0; size as usize];
        device.read(out, &mut bytes).unwrap();
        let per_lane = self.elements()[2];
        let unpack = |tile: &[u8]| {
            let mut d = vec![vec![0; 8]; self.rows];
            for (lane, bytes) in tile.chunks_exact(32).enumerate() {
                for i in 0..per_lane {
                    let width = self.c.bits() / 8;
                    let (row, column) = Case::c_at(i, lane / 4, lane % 4);
                    let element = &bytes[width * i..width * (i + 1)];
                    d[row][column] = element
                        .iter()
                        .rev()
                        .fold(0, |value, byte| value << 8 | u64::from(*byte));
                }
            }
            d
        };
        (bytes.chunks_exact(32 * 32).map(unpack).collect(), stats)
    }
}

/// Elements packed into words, the first in the lowest bits.
fn words_of(elements: impl Iterator<Item = u64>, bits: usize) -> Vec<u32> {
    let elements: Vec<u64> = elements.collect();
    if bits == 64 {
        return elements
            .iter()
            .flat_map(|e| [*e as u32, (*e >> 32) as u32])
            .collect();
    }
    let pack = |part: &[u64]| {
        let shifted = part
            .iter()
            .enumerate()
            .map(|(n, e)| (*e as u32) << (bits * n));
        shifted.fold(0, |word, part| word | part)
    };
    elements.chunks(32 / bits).map(pack).collect()
}

/// Random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn matrix(
        &mut self,
        rows: usize,
        columns: usize,
        mut f: impl FnMut(&mut Random) -> u64,
    ) -> Matrix {
        (0..rows)
            .map(|_| (0..columns).map(|_| f(self)).collect())
            .collect()
    }
}
