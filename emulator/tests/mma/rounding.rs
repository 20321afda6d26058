//! The exact modes against an independent model of the published rule (MMA-Sim, arXiv 2511.10909):
//! integers of 128 bits instead of the emulator's vectors, written from the rule's text.
//!
//! `EMULATOR_TILES` is the number of tiles per form and mode, `EMULATOR_SEED` the first seed.

use ptx_emulator::MmaMode;

use crate::shapes::{Case, Matrix, Random, Tile, Ty, float_cases};

/// A floating-point format: bits of the fraction and of the exponent.
#[derive(Clone, Copy)]
struct Format {
    fraction: u32,
    exponent: u32,
}

fn format(ty: Ty) -> Format {
    let (fraction, exponent) = match ty {
        Ty::F16 => (10, 5),
        Ty::Bf16 => (7, 8),
        Ty::Tf32 | Ty::F32 => (23, 8),
        Ty::E4m3 => (3, 4),
        Ty::E5m2 => (2, 5),
        _ => unreachable!(),
    };
    Format { fraction, exponent }
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }
    fn width(self) -> u32 {
        1 + self.exponent + self.fraction
    }
}

/// What the bits of a number say.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    /// `significand * 2^last`, and the exponent that it has for alignment.
    Finite {
        significand: i128,
        last: i32,
        exponent: i32,
    },
    /// Positive or negative.
    Infinite(bool),
    Nan,
}

fn decode(ty: Ty, bits: u64) -> Number {
    let f = format(ty);
    // The tensor cores ignore what tf32 does not have.
    let bits = if ty == Ty::Tf32 { bits & !0x1fff } else { bits };
    let negative = bits >> (f.width() - 1) & 1 != 0;
    let field = (bits >> f.fraction & ((1 << f.exponent) - 1)) as i32;
    let fraction = (bits & ((1 << f.fraction) - 1)) as i128;
    if ty == Ty::E4m3 {
        if bits & 0x7f == 0x7f {
            return Number::Nan;
        }
    } else if field == (1 << f.exponent) - 1 {
        return if fraction == 0 {
            Number::Infinite(negative)
        } else {
            Number::Nan
        };
    }
    let magnitude = if field == 0 {
        fraction
    } else {
        fraction + (1 << f.fraction)
    };
    let exponent = field.max(1) - f.bias();
    Number::Finite {
        significand: if negative { -magnitude } else { magnitude },
        last: exponent - f.fraction as i32,
        exponent: if magnitude == 0 { -126 } else { exponent },
    }
}

/// Product of the formats' numbers; the exponents add up.
fn times(a: Number, b: Number) -> Number {
    use Number::*;
    let negative = |n: Number| match n {
        Finite { significand, .. } => significand < 0,
        Infinite(negative) => negative,
        Nan => false,
    };
    let zero = |n: Number| matches!(n, Finite { significand: 0, .. });
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite(_), other) | (other, Infinite(_)) if zero(other) => Nan,
        (Infinite(_), _) | (_, Infinite(_)) => Infinite(negative(a) != negative(b)),
        (
            Finite {
                significand: s,
                last: l,
                exponent: e,
            },
            Finite {
                significand: t,
                last: m,
                exponent: g,
            },
        ) => Finite {
            significand: s * t,
            last: l + m,
            exponent: e + g,
        },
    }
}

/// How a generation sums.
struct Rule {
    bits: i32,
    block: usize,
    /// Fraction bits of an `f32` result.
    kept: i32,
}

fn rule(case: &Case, mode: MmaMode) -> Rule {
    let eights = case.a.bits() == 8;
    let split = matches!((case.a.bits(), case.k), (32, 8) | (16, 16) | (8, 32));
    match mode {
        MmaMode::Ampere => Rule {
            bits: if eights { 13 } else { 24 },
            block: if split { case.k / 2 } else { case.k },
            kept: if eights { 13 } else { 23 },
        },
        _ => Rule {
            bits: 25,
            block: case.k,
            kept: 23,
        },
    }
}

/// `value / 2^by` towards zero, or `value * 2^-by`.
fn shift(value: i128, by: i32) -> i128 {
    if value == 0 {
        0
    } else if by <= 0 {
        value << -by
    } else if by > 120 {
        0
    } else {
        value / (1i128 << by)
    }
}

fn fused_sum(rule: &Rule, products: &[Number], c: Number, output: Ty) -> u64 {
    let terms = || products.iter().chain(std::iter::once(&c));
    let f = format(output);
    let infinity = ((1u64 << f.exponent) - 1) << f.fraction;
    let infinite = |negative: bool| infinity | u64::from(negative) << (f.width() - 1);
    let nan = (1 << (f.width() - 1)) - 1;
    let any = |wanted: Number| terms().any(|term| *term == wanted);
    let (plus, minus) = (any(Number::Infinite(false)), any(Number::Infinite(true)));
    if any(Number::Nan) || plus && minus {
        return nan;
    }
    if plus || minus {
        return infinite(minus);
    }
    let finite = || {
        terms().map(|term| match term {
            Number::Finite {
                significand,
                last,
                exponent,
            } => (*significand, *last, *exponent),
            _ => unreachable!(),
        })
    };
    let largest = finite().map(|(_, _, exponent)| exponent).max().unwrap_or(0);
    let unit = largest - rule.bits;
    let sum: i128 = finite()
        .map(|(significand, last, _)| shift(significand, unit - last))
        .sum();
    if sum == 0 {
        return 0;
    }
    // The result's last place, and the sum in it.
    let negative = sum < 0;
    let magnitude = sum.unsigned_abs();
    let top = unit + 127 - magnitude.leading_zeros() as i32;
    let least = 1 - f.bias();
    let kept = if output == Ty::F32 {
        rule.kept
    } else {
        f.fraction as i32
    };
    let last = top.max(least) - kept;
    let mut rounded = shift(magnitude as i128, last - unit);
    if output == Ty::F16 && last > unit && last - unit < 120 {
        let rest = magnitude as i128 - (rounded << (last - unit));
        let half = 1i128 << (last - unit - 1);
        rounded += i128::from(rest > half || rest == half && rounded & 1 == 1);
    }
    if rounded == 0 {
        return 0;
    }
    let mut exponent = top.max(least);
    if rounded >> (kept + 1) != 0 {
        (rounded, exponent) = (rounded >> 1, exponent + 1);
    }
    if exponent > f.bias() {
        return infinite(negative);
    }
    let rounded = (rounded as u64) << (f.fraction as i32 - kept);
    let hidden = rounded >> f.fraction & 1;
    let field = if hidden == 1 {
        (exponent + f.bias()) as u64
    } else {
        0
    };
    let fraction = rounded & ((1 << f.fraction) - 1);
    u64::from(negative) << (f.width() - 1) | field << f.fraction | fraction
}

fn multiply(case: &Case, rule: &Rule, tile: &Tile) -> Matrix {
    let element = |row: usize, n: usize| {
        let product =
            |k: usize| times(decode(case.a, tile.a[row][k]), decode(case.b, tile.b[k][n]));
        let products: Vec<Number> = (0..case.k).map(product).collect();
        products
            .chunks(rule.block)
            .fold(tile.c[row][n], |c, block| {
                fused_sum(rule, block, decode(case.c, c), case.c)
            })
    };
    (0..case.rows)
        .map(|row| (0..8).map(|n| element(row, n)).collect())
        .collect()
}

/// An element whose exponent is near `around` (as a field), or a special one.
fn element(ty: Ty, around: i64, spread: u64, random: &mut Random) -> u64 {
    let f = format(ty);
    let top = (1i64 << f.exponent) - 1;
    let field = match random.below(64) {
        0 => 0,
        _ => (around + random.below(spread) as i64 - spread as i64 / 2).clamp(0, top - 1),
    };
    let fraction = match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        _ => random.next(),
    };
    let sign = random.next() & 1;
    (sign << f.exponent | field as u64) << f.fraction | fraction & ((1 << f.fraction) - 1)
}

fn tile(case: &Case, random: &mut Random) -> Tile {
    let style = random.below(8);
    let mut matrix = |ty: Ty, rows: usize, columns: usize| {
        let f = format(ty);
        let (bias, top) = (i64::from(f.bias()), (1i64 << f.exponent) - 1);
        let (around, spread) = match style {
            // Any bits at all, infinities and NaNs among them.
            0 => return random.matrix(rows, columns, |r| r.next() & ((1 << f.width()) - 1)),
            // Subnormal numbers, zeros and very small ones; or products that overflow.
            1 => (0, 4),
            2 => (top, 4),
            // Products of c's size, or all over the format.
            3 => (bias, 2),
            4 => (bias, 1 << f.exponent),
            _ => (bias, 8),
        };
        random.matrix(rows, columns, |r| element(ty, around, spread, r))
    };
    let mut a = matrix(case.a, case.rows, case.k);
    let mut b = matrix(case.b, case.k, 8);
    let mut c = matrix(case.c, case.rows, 8);
    match random.below(4) {
        // Products that cancel each other.
        0 => {
            let sign = 1 << (format(case.a).width() - 1);
            for row in &mut a {
                for k in (1..case.k).step_by(2) {
                    row[k] = row[k - 1] ^ sign;
                }
            }
            for k in (1..case.k).step_by(2) {
                b[k] = b[k - 1].clone();
            }
        }
        // Products with zero.
        1 => {
            for row in &mut a {
                for k in 0..case.k {
                    if random.below(2) == 0 {
                        row[k] = 0;
                    }
                }
            }
        }
        2 => c = vec![vec![0; 8]; case.rows],
        _ => {}
    }
    // A special value in places.
    if random.below(8) == 0 {
        let f = format(case.a);
        let (row, k) = (random.below(case.rows as u64), random.below(case.k as u64));
        a[row as usize][k as usize] = ((1 << f.exponent) - 1) << f.fraction;
    }
    Tile { a, b, c }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |value| value.parse().expect(name))
}

#[test]
fn random_tiles_follow_the_published_rule() {
    const AT_ONCE: u64 = 256;
    let (tiles, first) = (
        variable("EMULATOR_TILES", 256),
        variable("EMULATOR_SEED", 1),
    );
    for (index, case) in float_cases().iter().enumerate() {
        for mode in [MmaMode::Ampere, MmaMode::Hopper] {
            for part in 0..tiles.div_ceil(AT_ONCE) {
                let seed = first.wrapping_mul(1 << 32) + part + ((index as u64) << 24);
                let mut random = Random(seed);
                let tiles: Vec<Tile> = (0..AT_ONCE).map(|_| tile(case, &mut random)).collect();
                let (results, _) = case.run(mode, &tiles);
                for (number, (tile, result)) in tiles.iter().zip(&results).enumerate() {
                    let wanted = multiply(case, &rule(case, mode), tile);
                    let name = case.name();
                    for row in 0..case.rows {
                        for n in 0..8 {
                            assert_eq!(
                                result[row][n], wanted[row][n],
                                "{name} {mode:?}: tile {number} of seed {seed}, ({row}, {n}): \
                                 {:#x} instead of {:#x}",
                                result[row][n], wanted[row][n]
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The tiles are such that a rule that is off by little gives another result.
#[test]
fn another_rule_would_be_noticed() {
    let mut random = Random(7);
    for case in float_cases() {
        let tiles: Vec<Tile> = (0..64).map(|_| tile(&case, &mut random)).collect();
        let (results, _) = case.run(MmaMode::Ampere, &tiles);
        let right = || rule(&case, MmaMode::Ampere);
        let mut wrong = vec![
            Rule {
                bits: right().bits + 1,
                ..right()
            },
            Rule {
                bits: right().bits - 1,
                ..right()
            },
            Rule {
                block: right().block / 2,
                ..right()
            },
        ];
        if right().block != case.k {
            wrong.push(Rule {
                block: case.k,
                ..right()
            });
        }
        if case.c == Ty::F32 {
            wrong.push(Rule {
                kept: right().kept - 1,
                ..right()
            });
        }
        for (number, rule) in wrong.iter().enumerate() {
            let mut pairs = tiles.iter().zip(&results);
            let noticed = pairs.any(|(tile, result)| multiply(&case, rule, tile) != *result);
            assert!(noticed, "{}: rule {number}", case.name());
        }
    }
}

/// The model itself, on sums that can be worked out by hand.
#[test]
fn the_model_is_the_rule() {
    let case = float_cases()[3];
    assert_eq!(case.name(), "m16n8k16.row.col.f32.f16.f16.f32");
    let rule = rule(&case, MmaMode::Ampere);
    let half = |value: f32| decode(Ty::F16, u64::from(half::f16::from_f32(value).to_bits()));
    let float = |value: f32| decode(Ty::F32, u64::from(value.to_bits()));
    let sum = |pairs: &[(f32, f32)], c: f32| {
        let products: Vec<Number> = pairs
            .iter()
            .map(|(a, b)| times(half(*a), half(*b)))
            .collect();
        f32::from_bits(fused_sum(&rule, &products, float(c), Ty::F32) as u32)
    };
    let tiny = 2f32.powi(-12);
    assert_eq!(sum(&[(tiny, tiny)], 1.0), 1.0);
    assert_eq!(
        sum(&[(tiny, tiny), (tiny, tiny)], 1.0),
        1.0 + 2f32.powi(-23)
    );
    assert_eq!(
        sum(&[(4096.0, 8192.0), (-4096.0, 8192.0), (0.5, 1.0)], 0.0),
        0.0
    );
    assert_eq!(sum(&[(0.0, 32768.0)], 2f32.powi(-136)), 0.0);
    assert_eq!(sum(&[(1.5, -2.0)], 0.25), -2.75);
}
