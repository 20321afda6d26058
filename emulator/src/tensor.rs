//! How tensor cores add up: not as a chain of roundings, but in one step.
//!
//! All products and the accumulator are aligned to the largest exponent among them and cut off (not
//! rounded) below a fixed number of fraction bits; these are summed exactly, and the sum is cut off to
//! `f32`. A product's exponent is the sum of its factors' exponents, without normalisation. The rule and
//! the numbers of bits are those that MMA-Sim (arXiv 2511.10909) found by measurement; the vendor does
//! not document them.

/// The sum of the products of `pairs` and of `c`, with `bits` fraction bits kept; `least` is the least
/// exponent of a normal number in the format of the factors.
pub(crate) fn fused_sum(
    pairs: impl Iterator<Item = (f32, f32)> + Clone,
    c: f32,
    bits: i32,
    least: i32,
) -> f32 {
    if pairs.clone().any(|(a, b)| !a.is_finite() || !b.is_finite()) || !c.is_finite() {
        // Finite values have no say. A product of finite factors may overflow f32, so it is left out.
        let special = pairs
            .filter(|(a, b)| !a.is_finite() || !b.is_finite())
            .map(|(a, b)| a * b);
        let sum = special.fold(if c.is_finite() { 0.0 } else { c }, |sum, product| {
            sum + product
        });
        return if sum.is_nan() {
            f32::from_bits(0x7fff_ffff)
        } else {
            sum
        };
    }
    let terms = pairs.map(|(a, b)| {
        let product = f64::from(a) * f64::from(b);
        (product, exponent(a, least) + exponent(b, least))
    });
    let terms = terms.chain(std::iter::once((f64::from(c), exponent(c, -126))));
    let Some(largest) = terms
        .clone()
        .filter(|(term, _)| *term != 0.0)
        .map(|(_, e)| e)
        .max()
    else {
        return 0.0;
    };
    let scale = power_of_two(bits - largest);
    let sum: i64 = terms.map(|(term, _)| (term * scale) as i64).sum();
    truncate(sum as f64 * power_of_two(largest - bits))
}

/// Exponent of a number, at least that of the least normal one.
fn exponent(value: f32, least: i32) -> i32 {
    ((value.to_bits() >> 23 & 0xff) as i32 - 127).max(least)
}

/// Exact for all exponents that occur here.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent.clamp(-1022, 1023) + 1023) as u64) << 52)
}

/// To `f32`, towards zero; beyond its range to infinity.
fn truncate(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near).abs() > value.abs() && near.is_finite() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pairs: &[(f32, f32)], c: f32, bits: i32) -> f32 {
        fused_sum(pairs.iter().copied(), c, bits, -14)
    }

    #[test]
    fn exact_sums_are_exact() {
        assert_eq!(sum(&[(1.5, 2.0), (-0.5, 4.0)], 0.25, 24), 1.25);
        assert_eq!(sum(&[], -3.5, 24), -3.5);
        assert_eq!(sum(&[(0.0, 5.0)], 0.0, 24).to_bits(), 0);
    }

    #[test]
    fn what_lies_below_the_kept_bits_is_cut_off() {
        // 1 + 2^-24 is a tie for rounding, and kept with 24 bits until the result is cut to f32.
        let tiny = 2f32.powi(-12);
        assert_eq!(sum(&[(tiny, tiny)], 1.0, 24), 1.0);
        assert_eq!(
            sum(&[(tiny, tiny), (tiny, tiny)], 1.0, 24),
            1.0 + 2f32.powi(-23)
        );
        // With 23 bits (Volta), each is cut off before they could add up.
        assert_eq!(sum(&[(tiny, tiny), (tiny, tiny)], 1.0, 23), 1.0);
        // Towards zero for both signs.
        assert_eq!(sum(&[(-1.5 * tiny, tiny)], -1.0, 24), -1.0);
    }

    #[test]
    fn large_terms_that_cancel_take_small_ones_with_them() {
        assert_eq!(
            sum(&[(4096.0, 8192.0), (-4096.0, 8192.0), (0.5, 1.0)], 0.0, 24),
            0.0
        );
    }

    #[test]
    fn specials_are_specials() {
        let infinity = f32::INFINITY;
        assert_eq!(sum(&[(infinity, 1.0)], 1.0, 24), infinity);
        assert_eq!(
            sum(&[(infinity, 1.0), (infinity, -1.0)], 1.0, 24).to_bits(),
            0x7fff_ffff
        );
        assert_eq!(sum(&[(infinity, 0.0)], 1.0, 24).to_bits(), 0x7fff_ffff);
        assert_eq!(sum(&[(1.0, 1.0)], -infinity, 24), -infinity);
        assert!(sum(&[(f32::NAN, 1.0)], 1.0, 24).is_nan());
    }
}
