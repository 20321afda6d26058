//! Every element is where the ISA puts it: matrices of small numbers, whose products and sums are
//! exact in every format, multiplied by the definition.

use ptx_emulator::MmaMode;

use crate::shapes::{Case, DOUBLE, Random, Tile, Ty, float_cases, integer_cases};

/// Small integers that any format holds, and their bits.
fn small(ty: Ty, random: &mut Random) -> (i64, u64) {
    let number = random.below(7) as i64 - 3;
    (number, encode(ty, number))
}

/// The bits of a small integer in a format.
fn encode(ty: Ty, number: i64) -> u64 {
    let float = number as f32;
    let half = u64::from(half::f16::from_f32(float).to_bits());
    match ty {
        Ty::F16 => half,
        Ty::Bf16 => u64::from(float.to_bits() >> 16),
        Ty::Tf32 | Ty::F32 => u64::from(float.to_bits()),
        Ty::E5m2 => half >> 8,
        Ty::E4m3 => match number.unsigned_abs() {
            0 => 0,
            n => {
                let exponent = u64::from(n.ilog2());
                let sign = if number < 0 { 0x80 } else { 0 };
                sign | (7 + exponent) << 3 | (n << 3 >> exponent) & 7
            }
        },
        Ty::F64 => (number as f64).to_bits(),
        Ty::S32 => number as u32 as u64,
        _ => unreachable!(),
    }
}

fn check_floats(case: &Case, mode: MmaMode) {
    let seed = 1 + case.k as u64;
    let mut random = Random(seed);
    let mut numbers = |ty: Ty, rows: usize, columns: usize| {
        let mut all = vec![vec![0; columns]; rows];
        let bits = all.iter_mut().map(|row| {
            let encoded = row.iter_mut().map(|to| {
                let (number, bits) = small(ty, &mut random);
                *to = number;
                bits
            });
            encoded.collect()
        });
        let bits = bits.collect();
        (all, bits)
    };
    let (a, a_bits) = numbers(case.a, case.rows, case.k);
    let (b, b_bits) = numbers(case.b, case.k, 8);
    let (c, c_bits) = numbers(case.c, case.rows, 8);
    let (d, stats) = case.run(
        mode,
        &[Tile {
            a: a_bits,
            b: b_bits,
            c: c_bits,
        }],
    );
    for row in 0..case.rows {
        for n in 0..8 {
            let sum = c[row][n] + (0..case.k).map(|k| a[row][k] * b[k][n]).sum::<i64>();
            let wanted = encode(case.c, sum);
            assert_eq!(
                d[0][row][n],
                wanted,
                "{} {mode:?} ({row}, {n}), seed {seed}",
                case.name()
            );
        }
    }
    let name = case.name().replace(".row.col", "");
    assert_eq!(stats.mma.get(&name), Some(&1), "{name}");
    assert_eq!(stats.tensor_flops, 2 * (case.rows * 8 * case.k) as u64);
}

#[test]
fn elements_of_floating_point_matrices() {
    for mode in [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper] {
        for case in float_cases() {
            check_floats(&case, mode);
        }
        check_floats(&DOUBLE, mode);
    }
}

/// The value of an element of an integer matrix.
fn integer(ty: Ty, bits: u64) -> i64 {
    match ty {
        Ty::S8 => i64::from(bits as u8 as i8),
        Ty::S4 => (bits as i64) << 60 >> 60,
        Ty::S32 => i64::from(bits as u32 as i32),
        _ => bits as i64,
    }
}

fn check_integers(case: &Case, seed: u64) {
    let mut random = Random(seed);
    let mask = |ty: Ty| (1 << ty.bits()) - 1;
    let tiles: Vec<Tile> = (0..8)
        .map(|n| Tile {
            a: random.matrix(case.rows, case.k, |r| r.next() & mask(case.a)),
            b: random.matrix(case.k, 8, |r| r.next() & mask(case.b)),
            // Every second tile close to the ends of the range.
            c: random.matrix(case.rows, 8, |r| {
                let near = (r.next() & 0x3ff) as u32;
                u64::from(match n % 4 {
                    1 => i32::MAX as u32 - near,
                    3 => i32::MIN as u32 + near,
                    _ => r.next() as u32,
                })
            }),
        })
        .collect();
    let (d, _) = case.run(MmaMode::Fast, &tiles);
    for (tile, d) in tiles.iter().zip(&d) {
        for row in 0..case.rows {
            for n in 0..8 {
                let products = (0..case.k).map(|k| {
                    let (a, b) = (tile.a[row][k], tile.b[k][n]);
                    match case.behind {
                        ".xor.popc" => (a ^ b) as i64,
                        ".and.popc" => (a & b) as i64,
                        _ => integer(case.a, a) * integer(case.b, b),
                    }
                });
                let sum = integer(Ty::S32, tile.c[row][n]) + products.sum::<i64>();
                let wanted = if case.before == ".satfinite" {
                    sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
                } else {
                    sum as i32
                };
                assert_eq!(
                    d[row][n] as u32 as i32,
                    wanted,
                    "{} ({row}, {n}), seed {seed}",
                    case.name()
                );
            }
        }
    }
}

#[test]
fn elements_of_integer_matrices() {
    for (seed, case) in integer_cases().iter().enumerate() {
        check_integers(case, seed as u64);
    }
}
