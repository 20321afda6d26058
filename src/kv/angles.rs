//! Tables of the angles by which queries and keys are rotated.

use std::f64::consts::{PI, TAU};

/// How frequencies are changed for contexts longer than a model was trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// Positions are divided by a factor, as Gemma 3 does in its global layers.
    ///
    /// Chen et al., "Extending context window of large language models via positional interpolation",
    /// 2023.
    Linear {
        /// What positions are divided by.
        factor: f64,
    },
    /// As Llama 3.1 has it: frequencies with long wavelengths are divided by a factor, those with short
    /// ones stay, and between them there is a transition.
    Llama3 {
        /// What low frequencies are divided by: 8 in Llama 3.1.
        factor: f64,
        /// Wavelengths above the old context divided by this are scaled: 1.
        low_freq_factor: f64,
        /// Those below the old context divided by this are not: 4.
        high_freq_factor: f64,
        /// The context that the model was trained on: 8192.
        original_context: f64,
    },
    /// YaRN: the same by how often a frequency turns within the old context, and cosines and sines
    /// grow a little.
    ///
    /// Peng et al., "YaRN: efficient context window extension of large language models", 2023.
    Yarn {
        /// What low frequencies are divided by.
        factor: f64,
        /// The context that the model was trained on.
        original_context: f64,
        /// Frequencies with more turns within it stay: 32.
        beta_fast: f64,
        /// Those with fewer are divided: 1.
        beta_slow: f64,
        /// What cosines and sines are multiplied by; `None`: `0.1 · ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
}

/// Angles of rotary embeddings: `position · base^(-2i / dim)` for pair `i`, scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Angles {
    /// Elements of a head that are rotated: an even number.
    pub dim: usize,
    /// 10,000 in the first models, 500,000 in Llama 3.
    pub base: f64,
    /// Scaling for long contexts.
    pub scaling: RopeScaling,
}

impl Angles {
    /// Without scaling.
    pub fn new(dim: usize, base: f64) -> Self {
        Angles {
            dim,
            base,
            scaling: RopeScaling::None,
        }
    }

    /// With [`Angles::scaling`] set.
    #[must_use]
    pub fn scaling(mut self, scaling: RopeScaling) -> Self {
        self.scaling = scaling;
        self
    }

    /// Radians by which each pair turns from a position to the next: `dim / 2` of them.
    pub fn frequencies(&self) -> Vec<f64> {
        (0..self.dim / 2).map(|pair| self.frequency(pair)).collect()
    }

    fn frequency(&self, pair: usize) -> f64 {
        let frequency = self.base.powf(-2.0 * pair as f64 / self.dim as f64);
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let turns = original_context * frequency / TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mixed(frequency, factor, kept)
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                ..
            } => {
                // The pair, as a real number, that turns so often within the old context.
                let pair_of = |turns: f64| {
                    let wavelength = original_context / (turns * 2.0 * PI);
                    self.dim as f64 * wavelength.ln() / (2.0 * self.base.ln())
                };
                let last = (self.dim / 2) as f64 * 2.0 - 1.0;
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(last);
                let width = if high > low { high - low } else { 0.001 };
                mixed(frequency, factor, 1.0 - (pair as f64 - low) / width)
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn {
                attention_factor: Some(factor),
                ..
            } => factor,
            RopeScaling::Yarn { factor, .. } if factor > 1.0 => 0.1 * factor.ln() + 1.0,
            _ => 1.0,
        }
    }

    /// Cosines and sines of the first positions, `[positions, dim / 2]` each, computed in f64 and
    /// rounded once: the tables of [`Rotation`](super::Rotation).
    pub fn tables(&self, positions: usize) -> [Vec<f32>; 2] {
        let (frequencies, magnitude) = (self.frequencies(), self.magnitude());
        let table = |of: fn(f64) -> f64| -> Vec<f32> {
            let angles = (0..positions)
                .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
            angles.map(|angle| (magnitude * of(angle)) as f32).collect()
        };
        [table(f64::cos), table(f64::sin)]
    }
}

/// A frequency of which this share is kept, from 0 to 1, and the rest divided by a factor.
fn mixed(frequency: f64, factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    frequency * (kept + (1.0 - kept) / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_cosines_and_sines() {
        let [cosines, sines] = Angles::new(4, 100.0).tables(3);
        // Frequencies 1 and 1/10.
        let expected = [0.0, 0.0, 1.0, 0.1, 2.0, 0.2f64];
        assert_eq!(cosines, expected.map(|x| x.cos() as f32));
        assert_eq!(sines, expected.map(|x| x.sin() as f32));
    }

    #[test]
    fn linear_scaling_divides_positions() {
        let scaled = Angles::new(8, 1e4).scaling(RopeScaling::Linear { factor: 8.0 });
        let [plain, scaled] =
            [Angles::new(8, 1e4), scaled].map(|angles| angles.tables(17)[0].clone());
        assert_eq!(plain[2 * 4..3 * 4], scaled[16 * 4..]);
    }

    /// Short wavelengths stay, long ones are divided, and a wavelength between, of 8192 / 2 positions,
    /// keeps a third of the way.
    #[test]
    fn llama_3_scales_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let plain = Angles::new(128, 500_000.0);
        let (before, after) = (plain.frequencies(), plain.scaling(scaling).frequencies());
        for (before, after) in before.into_iter().zip(after) {
            let wavelength = TAU / before;
            let expected = match 8192.0 / wavelength {
                turns if turns >= 4.0 => 1.0,
                turns if turns <= 1.0 => 1.0 / 8.0,
                turns => (turns - 1.0) / 3.0 + (1.0 - (turns - 1.0) / 3.0) / 8.0,
            };
            assert!((after / before - expected).abs() < 1e-12);
        }
        let base = (8192.0 / 2.0 / TAU).powi(2); // whose pair 1 of 4 elements turns twice
        let angles = Angles::new(4, base).scaling(scaling);
        let share = angles.frequencies()[1] / Angles::new(4, base).frequencies()[1];
        assert!((share - (1.0 / 3.0 + 2.0 / 3.0 / 8.0)).abs() < 1e-12);
    }

    /// Many turns stay, few are divided, in order; cosines grow by 0.1 · ln 4 + 1.
    #[test]
    fn yarn_scales_frequencies_that_turn_seldom() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        };
        let plain = Angles::new(128, 1e4);
        let scaled = plain.scaling(scaling);
        let (before, after) = (plain.frequencies(), scaled.frequencies());
        let shares: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a / b).collect();
        assert!(shares.is_sorted_by(|a, b| a >= b));
        for (pair, share) in shares.iter().enumerate() {
            let turns = 4096.0 * before[pair] / TAU;
            // Pairs are whole numbers: the ends of the transition move outwards by up to one.
            if turns > 32.0 * 1.16 {
                assert_eq!(*share, 1.0, "{turns} turns");
            }
            if turns < 1.0 / 1.16 {
                assert_eq!(*share, 0.25, "{turns} turns");
            }
        }
        let middle = shares.iter().filter(|&&share| share < 1.0 && share > 0.25);
        assert!(middle.count() > 10);
        assert!((scaled.magnitude() - 1.138_629_436).abs() < 1e-8);
        assert!((scaled.tables(1)[0][0] - 1.138_629_4).abs() < 1e-6);
        let given = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: Some(1.0),
        };
        assert_eq!(plain.scaling(given).magnitude(), 1.0);
    }
}
