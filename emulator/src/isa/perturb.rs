//! Approximate functions that are as wrong as the ISA allows.
//!
//! A program must not depend on what one model's approximation happens to be. With
//! [`Config::perturb`](crate::Config::perturb), each result of a row with a [`Bound`] is moved by a
//! random distance, so that its error stays within that bound. Zero, infinity and NaN stay, and so
//! does what the ISA's tables fix: the results of zero.

use super::{ExecFn, Flow, Inst};
use crate::ast::Type;
use crate::bind::Program;
use crate::machine::Random;
use crate::numerics::half::{narrow_bf16, narrow_f16, widen_bf16, widen_f16};
use crate::warp::Warp;

/// What an approximate function approximates, of its first and second argument, and how well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound(pub Distance, pub fn(f64, f64) -> f64);

/// How far an approximate result may be from the true one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distance {
    /// So many units in the last place of the result.
    Ulps(f64),
    /// 2 to this power, times the result.
    Relative(f64),
    /// 2 to this power.
    Absolute(f64),
    /// `lg2`: absolute between 0.5 and 2, relative outside, 2^-22 both.
    Logarithm,
    /// `sin`, `cos`: 2^-20.5 within two pi, 2^-14.7 from there to a hundred pi. For larger arguments the
    /// ISA promises nothing, and the latter is used.
    Trigonometric,
}

impl Distance {
    /// The largest allowed distance from `truth`, given the argument.
    fn of(self, argument: f64, truth: f64, ulp: f64) -> f64 {
        use std::f64::consts::PI;
        match self {
            Distance::Ulps(ulps) => ulps * ulp,
            Distance::Relative(power) => power.exp2() * truth.abs(),
            Distance::Absolute(power) => power.exp2(),
            Distance::Logarithm if 0.5 < argument && argument < 2.0 => (-22f64).exp2(),
            Distance::Logarithm => (-22f64).exp2() * truth.abs(),
            Distance::Trigonometric if argument.abs() <= 2.0 * PI => (-20.5f64).exp2(),
            Distance::Trigonometric => (-14.7f64).exp2(),
        }
    }
}

/// Formats of approximate functions: bits of a number, bits of its fraction, to and from `f64`.
struct Format {
    ty: Type,
    bits: u32,
    fraction: i32,
    least: i32,
    widen: fn(u64) -> f64,
    narrow: fn(f64) -> u64,
}

const FORMATS: &[Format] = &[
    Format {
        ty: Type::F32,
        bits: 32,
        fraction: 23,
        least: -126,
        widen: |bits| f64::from(f32::from_bits(bits as u32)),
        narrow: |value| u64::from((value as f32).to_bits()),
    },
    Format {
        ty: Type::F16,
        bits: 16,
        fraction: 10,
        least: -14,
        widen: |bits| f64::from(widen_f16(bits as u16)),
        narrow: |value| u64::from(narrow_f16(value as f32)),
    },
    Format {
        ty: Type::BF16,
        bits: 16,
        fraction: 7,
        least: -126,
        widen: |bits| f64::from(widen_bf16(bits as u16)),
        narrow: |value| u64::from(narrow_bf16(value as f32)),
    },
    Format {
        ty: Type::F64,
        bits: 64,
        fraction: 52,
        least: -1022,
        widen: f64::from_bits,
        narrow: f64::to_bits,
    },
];

/// The word that an instruction of such a row carries: the position of its format.
pub(crate) fn aux(ty: Type) -> u64 {
    let element = match ty {
        Type::F16x2 => Type::F16,
        Type::BF16x2 => Type::BF16,
        ty => ty,
    };
    let found = FORMATS.iter().position(|format| format.ty == element);
    found.unwrap_or(0) as u64
}

/// Lets the program's approximate functions go wrong.
pub(crate) fn apply(program: &mut Program) {
    for (inst, about) in program.insts.iter_mut().zip(&program.about) {
        if let Some(bound) = about.row.bound {
            inst.imm[0] = program.approximate.len() as i64;
            program.approximate.push((inst.exec, bound));
            inst.exec = run;
        }
    }
}

fn run(w: &mut Warp<'_>, inst: &Inst, mask: u32) -> Flow {
    let found = w.launch.program.approximate.get(inst.imm[0] as usize);
    let Some((exec, bound)) = found.copied() else {
        return Flow::Next;
    };
    let arguments =
        [0, 1].map(|k| read(w, inst.s[k.min(usize::from(inst.ns.max(1)) - 1)], inst.aux));
    let flow: Flow = (exec as ExecFn)(w, inst, mask);
    let results = read(w, inst.d[0], inst.aux);
    let stream = w.clock() << 6 | w.index as u64;
    let mut random = Random::new(w.launch.seed, stream);
    let format = &FORMATS[inst.aux as usize % FORMATS.len()];
    let mut out = results;
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        out[lane] = 0;
        for at in
            (0..if format.bits == 16 { 32 } else { format.bits }).step_by(format.bits as usize)
        {
            let part = |bits: u64| bits >> at & (u64::MAX >> (64 - format.bits));
            let moved = disturb(
                format,
                bound,
                arguments.map(|lanes| part(lanes[lane])),
                part(results[lane]),
                &mut random,
            );
            out[lane] |= moved << at;
        }
    }
    write(w, inst.d[0], mask, inst.aux, out);
    flow
}

/// A number as far from the true result as the bound allows, instead of `result`.
fn disturb(
    format: &Format,
    Bound(distance, truth): Bound,
    arguments: [u64; 2],
    result: u64,
    random: &mut Random,
) -> u64 {
    let ([x, x2], y) = (arguments.map(format.widen), (format.widen)(result));
    let exponent = |y: f64| (y.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    if x == 0.0 || x2 == 0.0 || !x.is_finite() || !y.is_finite() || exponent(y) < format.least {
        return result;
    }
    let truth = truth(x, x2);
    let ulp = f64::from(exponent(truth).max(format.least) - format.fraction).exp2();
    let most = distance.of(x, truth, ulp);
    let share = (random.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    let moved = (format.narrow)(truth + share * most);
    let value = (format.widen)(moved);
    let allowed = (value - truth).abs() <= most;
    if allowed && value.is_finite() && exponent(value) >= format.least {
        moved
    } else {
        result
    }
}

fn read(w: &Warp<'_>, slot: u16, aux: u64) -> [u64; 32] {
    if FORMATS
        .get(aux as usize)
        .is_some_and(|format| format.bits == 64)
    {
        w.get::<u64>(slot)
    } else {
        w.get::<u32>(slot).map(u64::from)
    }
}

fn write(w: &mut Warp<'_>, slot: u16, mask: u32, aux: u64, values: [u64; 32]) {
    if FORMATS
        .get(aux as usize)
        .is_some_and(|format| format.bits == 64)
    {
        let valid = w.valid::<u64>(slot);
        w.put(slot, mask, valid, values);
    } else {
        let valid = w.valid::<u32>(slot);
        w.put(slot, mask, valid, values.map(|value| value as u32));
    }
}

#[cfg(test)]
mod tests {
    use crate::isa::conformance::run_with;
    use crate::{Config, Gpu};

    /// Results of a function with and without perturbation, for some arguments.
    fn both(text: &str, arguments: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let result = |perturb| {
            let config = Config {
                gpu: Gpu::H100,
                threads: 1,
                seed: 7,
                perturb,
                ..Config::default()
            };
            run_with(config, text, &[arguments.to_vec()])
                .expect("no fault")
                .remove(0)
        };
        (result(false), result(true))
    }

    fn floats(bits: &[u64]) -> Vec<f64> {
        bits.iter()
            .map(|bits| f64::from(f32::from_bits(*bits as u32)))
            .collect()
    }

    #[test]
    fn results_move_within_the_bounds_of_the_isa() {
        type Case = (&'static str, fn(f64) -> f64, fn(f64, f64) -> f64);
        let cases: &[Case] = &[
            ("ex2.approx.f32 %r0, %r1;", f64::exp2, |_, y| {
                2.0 * y * 2f64.powi(-23)
            }),
            (
                "rcp.approx.f32 %r0, %r1;",
                |x| 1.0 / x,
                |_, y| y.abs() * 2f64.powi(-23),
            ),
            (
                "rsqrt.approx.f32 %r0, %r1;",
                |x| 1.0 / x.sqrt(),
                |_, y| y * 2f64.powf(-22.9),
            ),
            ("tanh.approx.f32 %r0, %r1;", f64::tanh, |_, y| {
                y.abs() * 2f64.powi(-11)
            }),
            ("sin.approx.f32 %r0, %r1;", f64::sin, |_, _| {
                2f64.powf(-20.5)
            }),
            ("lg2.approx.f32 %r0, %r1;", f64::log2, |x, y| {
                2f64.powi(-22) * if 0.5 < x && x < 2.0 { 1.0 } else { y.abs() }
            }),
        ];
        let arguments: Vec<u64> = (1..1000u64)
            .map(|n| u64::from((n as f32 / 160.0).to_bits()))
            .collect();
        for (text, truth, most) in cases {
            let (still, moved) = both(text, &arguments);
            let changed = still.iter().zip(&moved).filter(|(a, b)| a != b).count();
            assert!(
                changed > arguments.len() / 4,
                "{text}: {changed} of {} moved",
                arguments.len()
            );
            for (x, y) in floats(&arguments).into_iter().zip(floats(&moved)) {
                let error = (y - truth(x)).abs();
                assert!(
                    error <= most(x, truth(x)),
                    "{text}: {x} gives {y}, off by {error:e}"
                );
            }
        }
    }

    #[test]
    fn what_the_isa_fixes_stays() {
        let special = [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000];
        for function in ["ex2", "rcp", "rsqrt", "sqrt", "lg2", "sin", "cos", "tanh"] {
            let (still, moved) = both(&format!("{function}.approx.f32 %r0, %r1;"), &special);
            assert_eq!(still, moved, "{function}");
        }
    }

    #[test]
    fn both_halves_of_a_pair_move() {
        let pairs: Vec<u64> = (0..500u64)
            .map(|n| (0x3000 + n) | ((0x3400 + n) << 16))
            .collect();
        let (still, moved) = both("ex2.approx.f16x2 %r0, %r1;", &pairs);
        for shift in [0, 16] {
            let half = |bits: &u64| bits >> shift & 0xffff;
            assert!(still.iter().zip(&moved).any(|(a, b)| half(a) != half(b)));
            let value = |bits: &u64| f64::from(half::f16::from_bits(half(bits) as u16));
            for (x, y) in pairs.iter().zip(&moved) {
                let truth = value(x).exp2();
                assert!((value(y) - truth).abs() <= truth * 2f64.powf(-9.9));
            }
        }
    }
}
