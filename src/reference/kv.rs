//! Operations on a KV cache, in f64 and in the arithmetic of the kernels.

use super::HostTensor;
use crate::dtype::Float;
use crate::kv::{AppendProblem, Format, Norm, Pairing};
use crate::status::{Offence, StatusReport};

/// Operands of an append, in host memory; shapes as in [`AppendArgs`](crate::kv::AppendArgs).
#[derive(Clone, Copy, Debug)]
pub struct AppendInputs<'a, T> {
    /// Queries, `[tokens, query_heads, dim]`.
    pub q: Option<HostTensor<'a, T, 3>>,
    /// Keys, `[tokens, heads, dim]`.
    pub k: HostTensor<'a, T, 3>,
    /// Values, `[tokens, heads, v_dim]`.
    pub v: HostTensor<'a, T, 3>,
    /// The slot of each token.
    pub slots: &'a [i64],
    /// The slots that the cache has.
    pub num_slots: usize,
    /// The position of each token.
    pub positions: &'a [i64],
    /// Cosines and sines, `[positions, rope.dim / 2]`.
    pub angles: Option<[HostTensor<'a, f32, 2>; 2]>,
    /// Weights of the norm of queries and of keys.
    pub weights: [&'a [f32]; 2],
    /// Scales of keys and of values: none, one, or one for each head.
    pub scales: [&'a [f32]; 2],
}

/// Rows on their way, before they are rounded to what they are stored as.
#[derive(Clone, Debug, Default)]
pub struct AppendOutput {
    /// Queries, keys and values, `[tokens, heads, dim]` each; keys and values times the reciprocal
    /// of their scale. Zero for tokens that nothing is done for.
    pub rows: [Vec<f64>; 3],
    /// The sum of the magnitudes of the terms of each element.
    pub terms: [Vec<f64>; 3],
    /// The slot of each token that is stored.
    pub slots: Vec<Option<usize>>,
    /// Whether anything is done for each token.
    pub done: Vec<bool>,
    /// What the kernel reports.
    pub status: StatusReport,
}

/// What an append computes, without rounding.
///
/// # Panics
/// If an operand that the problem wants is missing or too short.
pub fn append<T: Float>(problem: &AppendProblem, inputs: AppendInputs<'_, T>) -> AppendOutput {
    run(problem, inputs, Arithmetic::Exact)
}

/// The same in `f32`, step by step as the kernel does: bit by bit where there is no norm.
///
/// # Panics
/// As [`append`].
pub fn append_rounded<T: Float>(
    problem: &AppendProblem,
    inputs: AppendInputs<'_, T>,
) -> AppendOutput {
    run(problem, inputs, Arithmetic::F32)
}

#[derive(Clone, Copy, PartialEq)]
enum Arithmetic {
    Exact,
    F32,
}

impl Arithmetic {
    fn multiply(self, a: f64, b: f64) -> f64 {
        match self {
            Arithmetic::Exact => a * b,
            Arithmetic::F32 => f64::from(a as f32 * b as f32),
        }
    }

    /// `a·b + c`, rounded once.
    fn multiply_add(self, a: f64, b: f64, c: f64) -> f64 {
        match self {
            Arithmetic::Exact => a.mul_add(b, c),
            Arithmetic::F32 => f64::from((a as f32).mul_add(b as f32, c as f32)),
        }
    }

    fn reciprocal(self, a: f32) -> f64 {
        match self {
            Arithmetic::Exact => 1.0 / f64::from(a),
            Arithmetic::F32 => f64::from(1.0 / a),
        }
    }
}

fn run<T: Float>(
    problem: &AppendProblem,
    inputs: AppendInputs<'_, T>,
    arithmetic: Arithmetic,
) -> AppendOutput {
    let mut output = AppendOutput::default();
    let max_position = inputs.angles.map_or(0, |[cosines, _]| cosines.shape()[0]);
    for (token, &slot) in inputs.slots.iter().enumerate() {
        let good = usize::try_from(slot).ok().filter(|&s| s < inputs.num_slots);
        if good.is_none() && !(problem.padding && slot == -1) {
            output.status.record(Offence::Slot, token as u64);
        }
        let position = match problem.rope {
            None => Some(0),
            Some(_) => usize::try_from(inputs.positions[token])
                .ok()
                .filter(|&p| p < max_position),
        };
        if position.is_none() {
            output.status.record(Offence::Position, token as u64);
        }
        output.done.push(position.is_some());
        output.slots.push(good.filter(|_| position.is_some()));

        let parts = [
            (inputs.q, problem.dim, true),
            (Some(inputs.k), problem.dim, true),
            (Some(inputs.v), problem.v_dim, false),
        ];
        for (part, (tensor, dim, changes)) in parts.into_iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            for head in 0..tensor.shape()[1] {
                let get = |d| tensor.get([token, head, d]).map_or(0.0, T::to_f64);
                let mut row: Vec<f64> = (0..dim).map(get).collect();
                let mut terms: Vec<f64> = row.iter().map(|x| x.abs()).collect();
                if let (Some(norm), true) = (problem.norm, changes) {
                    normalise(&mut row, inputs.weights[part], norm, arithmetic);
                    terms = row.iter().map(|x| x.abs()).collect();
                }
                if let (Some(rope), Some([cosines, sines]), Some(position), true) =
                    (problem.rope, inputs.angles, position, changes)
                {
                    let angle = |i| {
                        let of = |table: HostTensor<'_, f32, 2>| {
                            f64::from(table.get([position, i]).expect("a column for each pair"))
                        };
                        (of(cosines), of(sines))
                    };
                    (row, terms) = rotate(&row, rope.pairing, rope.dim, angle, arithmetic);
                }
                let factor = match part.checked_sub(1).map(|part| inputs.scales[part]) {
                    None | Some([]) => 1.0,
                    Some([scale]) => arithmetic.reciprocal(*scale),
                    Some(scales) => arithmetic.reciprocal(scales[head]),
                };
                let of_done = |x: f64| if position.is_some() { x } else { 0.0 };
                let rows = row.iter().map(|&x| of_done(arithmetic.multiply(x, factor)));
                output.rows[part].extend(rows);
                output.terms[part].extend(terms.iter().map(|&x| of_done(x * factor.abs())));
            }
        }
    }
    output
}

fn normalise(row: &mut [f64], weight: &[f32], norm: Norm, arithmetic: Arithmetic) {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    let factor = 1.0 / (mean + f64::from(norm.eps)).sqrt();
    for (x, &weight) in row.iter_mut().zip(weight) {
        let weight = f64::from(weight) + f64::from(u8::from(norm.plus_one));
        *x = arithmetic.multiply(arithmetic.multiply(*x, factor), weight);
    }
}

/// The rotated row, and the magnitudes of each element's terms.
fn rotate(
    row: &[f64],
    pairing: Pairing,
    dim: usize,
    angle: impl Fn(usize) -> (f64, f64),
    arithmetic: Arithmetic,
) -> (Vec<f64>, Vec<f64>) {
    let (mut turned, mut terms) = (
        row.to_vec(),
        row.iter().map(|x| x.abs()).collect::<Vec<_>>(),
    );
    for pair in 0..dim / 2 {
        let (first, second) = match pairing {
            Pairing::Halves => (pair, pair + dim / 2),
            Pairing::Interleaved => (2 * pair, 2 * pair + 1),
        };
        let (cosine, sine) = angle(pair);
        for (at, other, sine) in [(first, second, -sine), (second, first, sine)] {
            let crossed = arithmetic.multiply(row[other], sine);
            turned[at] = arithmetic.multiply_add(row[at], cosine, crossed);
            terms[at] = (row[at] * cosine).abs() + crossed.abs();
        }
    }
    (turned, terms)
}

/// The number that a byte of an 8-bit format stands for, before its scale.
///
/// # Panics
/// For [`Format::Same`], which has no bytes.
pub fn decode(format: Format, byte: u8) -> f64 {
    let (mantissa_bits, bias) = match format {
        Format::E4m3 => (3, 7),
        Format::E5m2 => (2, 15),
        Format::Int8 => return f64::from(byte as i8),
        Format::Same => panic!("elements as they are have no bytes of a format"),
    };
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
    let mantissa = f64::from(byte & ((1 << mantissa_bits) - 1));
    let steps = f64::from(1 << mantissa_bits);
    match (format, byte & 0x7f) {
        (Format::E4m3, 0x7f) => f64::NAN,
        (Format::E5m2, 0x7c) => sign * f64::INFINITY,
        (Format::E5m2, 0x7d..) => f64::NAN,
        _ if exponent == 0 => sign * mantissa / steps * 2f64.powi(1 - bias),
        _ => sign * (1.0 + mantissa / steps) * 2f64.powi(exponent - bias),
    }
}

/// The byte of the nearest number, ties to the even one; of the largest finite number beyond that.
///
/// # Panics
/// As [`decode`].
pub fn encode(format: Format, x: f64) -> u8 {
    if format == Format::Int8 {
        // NaN becomes 0 by the conversion.
        return x.round_ties_even().clamp(-128.0, 127.0) as i8 as u8;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    if x.is_nan() {
        return sign | 0x7f;
    }
    let largest = if format == Format::E4m3 { 0x7e } else { 0x7b };
    let magnitude = x.abs().min(decode(format, largest));
    // Bytes are in the order of their numbers: the last that is not above, and the one behind it.
    let (mut low, mut high) = (0, largest);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let below = decode(format, middle) <= magnitude;
        (low, high) = if below { (middle, high) } else { (low, middle) };
    }
    let error = |byte: u8| (decode(format, byte) - magnitude).abs();
    let even = (low & 1).cmp(&(high & 1));
    match error(low).total_cmp(&error(high)).then(even) {
        std::cmp::Ordering::Greater => sign | high,
        _ => sign | low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_for_the_numbers_of_their_formats() {
        // OCP 8-bit floating point, tables 1 and 2.
        assert_eq!(decode(Format::E4m3, 0x7e), 448.0);
        assert_eq!(decode(Format::E4m3, 0x08), 2f64.powi(-6));
        assert_eq!(decode(Format::E4m3, 0x01), 2f64.powi(-9));
        assert!(decode(Format::E4m3, 0xff).is_nan());
        assert_eq!(decode(Format::E5m2, 0x7b), 57344.0);
        assert_eq!(decode(Format::E5m2, 0x04), 2f64.powi(-14));
        assert_eq!(decode(Format::E5m2, 0x01), 2f64.powi(-16));
        assert_eq!(decode(Format::E5m2, 0xfc), f64::NEG_INFINITY);
        assert_eq!(decode(Format::Int8, 0x80), -128.0);
    }

    #[test]
    fn every_number_is_its_own_nearest() {
        for format in [Format::E4m3, Format::E5m2, Format::Int8] {
            for byte in 0..=u8::MAX {
                let x = decode(format, byte);
                if x.is_finite() {
                    assert_eq!(encode(format, x), byte, "{format:?} {byte:#x}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_the_even_neighbour_and_saturates() {
        // Between 16 and 18 lies no E4M3 number, between 2^-9 and 0 none either.
        assert_eq!(decode(Format::E4m3, encode(Format::E4m3, 17.0)), 16.0);
        assert_eq!(decode(Format::E4m3, encode(Format::E4m3, 19.0)), 20.0);
        assert_eq!(encode(Format::E4m3, 2f64.powi(-10)), 0);
        assert_eq!(encode(Format::E4m3, -1e30), 0xfe);
        assert_eq!(encode(Format::E4m3, f64::INFINITY), 0x7e);
        assert_eq!(encode(Format::E5m2, f64::INFINITY), 0x7b);
        assert_eq!(encode(Format::E5m2, 61440.0), 0x7b);
        assert_eq!(encode(Format::Int8, 2.5), 2);
        assert_eq!(encode(Format::Int8, 1e9), 127);
        assert_eq!(encode(Format::Int8, f64::NAN), 0);
    }

    #[test]
    fn a_rotation_by_hand() {
        let quarter = |_| (0.0, 1.0);
        let row = [1.0, 2.0, 3.0, 4.0, 5.0];
        let (halves, _) = rotate(&row, Pairing::Halves, 4, quarter, Arithmetic::Exact);
        assert_eq!(halves, [-3.0, -4.0, 1.0, 2.0, 5.0]);
        let (pairs, _) = rotate(&row, Pairing::Interleaved, 4, quarter, Arithmetic::F32);
        assert_eq!(pairs, [-2.0, 1.0, -4.0, 3.0, 5.0]);
    }
}
