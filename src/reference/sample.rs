//! Sampling on the host: the kernel's integers, by sorting.

use crate::status::{Offence, StatusReport};

/// How a row is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSampling {
    /// What logits are divided by; 0: the most likely token.
    pub temperature: f32,
    /// How many tokens are drawn from; 0 and less: all.
    pub top_k: i32,
    /// The share of the probability that is drawn from; 1 and more: all.
    pub top_p: f32,
    /// The seed, and the number of the draw.
    pub draw: [u64; 2],
}

/// Of the numbers of `2^y`, `y` from -38 to 0, those bits that the kernel ranks by; 0 for less.
fn power(y: f32) -> f32 {
    // As in cuda/elementwise/weight.cuh, operation by operation.
    const COEFFICIENTS: [f32; 7] = [
        0.000_154_035_3,
        0.001_333_355_8,
        0.009_618_129,
        0.055_504_11,
        0.240_226_5,
        std::f32::consts::LN_2,
        1.0,
    ];
    if y.is_nan() || y < -38.0 {
        return 0.0;
    }
    let whole = y.round_ties_even();
    let rest = y - whole;
    let [first, others @ ..] = COEFFICIENTS;
    let power = others.iter().fold(first, |sum, &c| sum.mul_add(rest, c));
    power * 2f32.powi(whole as i32)
}

/// 64 bits of Philox4x32-10.
///
/// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
fn philox([seed, counter]: [u64; 2]) -> u64 {
    let halves = |x: u64| (x as u32, (x >> 32) as u32);
    let product = |a: u32, b: u32| halves(u64::from(a) * u64::from(b));
    let ((mut k0, mut k1), (c0, c1)) = (halves(seed), halves(counter));
    let mut c = [c0, c1, 0, 0];
    for _ in 0..10 {
        let ((low0, high0), (low1, high1)) =
            (product(0xD251_1F53, c[0]), product(0xCD9E_8D57, c[2]));
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    u64::from(c[0]) | u64::from(c[1]) << 32
}

/// The upper 64 bits of a product.
fn high(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// The token of one row, -1 if there is none, and what is reported of it, with index 0: exactly the
/// kernel's.
pub fn sample(logits: &[f32], sampling: RowSampling) -> (i32, StatusReport) {
    let mut status = StatusReport::default();
    let logit = |id: usize| match logits[id] {
        x if x.is_nan() => f32::NEG_INFINITY,
        x => x,
    };
    // The first of equals.
    let best = (0..logits.len()).reduce(|best, id| if logit(id) > logit(best) { id } else { best });
    let best = best.filter(|&id| logit(id) > f32::NEG_INFINITY);
    if best.is_none() || logits.iter().any(|x| x.is_nan()) {
        status.record(Offence::Logits, 0);
    }
    let RowSampling {
        temperature,
        top_k,
        top_p,
        draw,
    } = sampling;
    let draws = temperature > 0.0 && temperature.is_finite();
    if !draws && temperature != 0.0 || top_p.is_nan() {
        status.record(Offence::Sampling, 0);
    }
    let Some(best) = best else {
        return (-1, status);
    };
    if !draws {
        return (best as i32, status);
    }

    let factor = std::f32::consts::LOG2_E / temperature;
    let power_of = |id: usize| match logit(id) {
        x if x == logit(best) => 1.0,
        x => power((x - logit(best)) * factor),
    };
    // (weight, id) of every token that has one, by rank.
    let mut ranked: Vec<(f32, usize)> = (0..logits.len())
        .map(|id| (power_of(id), id))
        .filter(|&(power, _)| power > 0.0)
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let weight = |power: f32| (f64::from(power) * 2f64.powi(39)) as u64;
    if top_k > 0 {
        ranked.truncate(top_k as usize);
    }
    if top_p < 1.0 {
        let total: u64 = ranked.iter().map(|&(power, _)| weight(power)).sum();
        let share = (f64::from(top_p.max(0.0)) * 2f64.powi(32)) as u64;
        let limit = high(total, share << 32);
        let mut before = 0;
        let kept = ranked.iter().take_while(|&&(power, _)| {
            let keeps = before <= limit;
            before += weight(power);
            keeps
        });
        let kept = kept.count();
        ranked.truncate(kept);
    }
    ranked.sort_by_key(|&(_, id)| id);
    let total: u64 = ranked.iter().map(|&(power, _)| weight(power)).sum();
    let target = high(philox(draw), total);
    let mut sum = 0;
    let drawn = ranked.iter().find(|&&(power, _)| {
        sum += weight(power);
        sum > target
    });
    (drawn.map_or(-1, |&(_, id)| id as i32), status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_close_to_those_of_two() {
        for i in 0..=380_000 {
            let y = i as f32 * -1e-4;
            let exact = f64::from(y).exp2();
            let error = f64::from(power(y)) / exact - 1.0;
            assert!(error.abs() < 3e-7, "2^{y}: {error:e}");
        }
        assert_eq!((power(0.0), power(-38.0)), (1.0, 2f32.powi(-38)));
        assert_eq!((power(-38.1), power(f32::NAN)), (0.0, 0.0));
    }

    /// The known answers that come with the generator.
    #[test]
    fn philox_gives_the_known_answers() {
        let all = |words: [u32; 2]| u64::from(words[0]) | u64::from(words[1]) << 32;
        assert_eq!(philox([0, 0]), all([0x6627_e8d5, 0xe169_c58d]));
    }

    #[test]
    fn shares_are_those_of_a_softmax() {
        // 1, 2 and 4 parts of 7, by id.
        let logits = [0.0f32, 2f32.ln(), 4f32.ln()];
        let mut counts = [0; 3];
        for i in 0..7000 {
            let sampling = RowSampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                draw: [9, i],
            };
            counts[sample(&logits, sampling).0 as usize] += 1;
        }
        for (got, expected) in counts.into_iter().zip([1000, 2000, 4000]) {
            assert!((900..1100).contains(&(got * 1000 / expected)), "{counts:?}");
        }
    }

    #[test]
    fn ranks_are_cut_by_hand() {
        // Half, a quarter, an eighth, and two equal ones of a sixteenth.
        let logits = [-3.0f32, 0.0, -1.0, -3.0, -2.0].map(|x| x * std::f32::consts::LN_2);
        let drawn = |top_k, top_p| {
            let of = |i| RowSampling {
                temperature: 1.0,
                top_k,
                top_p,
                draw: [1, i],
            };
            let mut tokens: Vec<i32> = (0..500).map(|i| sample(&logits, of(i)).0).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(drawn(0, 1.0), [0, 1, 2, 3, 4]);
        assert_eq!(drawn(4, 1.0), [0, 1, 2, 4]);
        assert_eq!(drawn(0, 0.6), [1, 2]);
        assert_eq!(drawn(0, 0.0), [1]);
        assert_eq!(drawn(2, 0.5), [1]);
        assert_eq!(drawn(3, 0.8), [1, 2]);
    }
}
