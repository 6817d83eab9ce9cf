//! The angles of rotary positions.

use std::f64::consts::TAU;

use llm_tensor::Pairing;

/// Rotary positions (Su et al. 2021), as a stack or some of its layers use them.
#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// Elements of each head, from its start, that are turned; even.
    pub dim: usize,
    /// Elements that the series of wavelengths is spread over: `dim`, or one less where a fraction of a head is odd.
    pub series: usize,
    /// The base of the geometric series of wavelengths.
    pub base: f64,
    /// Pairing of elements.
    pub pairing: Pairing,
    /// Stretch of the wavelengths for longer contexts.
    pub scaling: RopeScaling,
    /// True if elements are turned the other way: back, after they were.
    pub turns_back: bool,
}

/// Stretch of wavelengths, so that a model reads further than it was first trained to.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike (Chen et al. 2023).
    Linear {
        /// Factor of the stretch.
        factor: f64,
    },
    /// By a larger base, the larger the more positions there are beyond `original_context`.
    Dynamic {
        /// Stretch that the longest wavelength gains per original context.
        factor: f64,
        /// Positions the model was first trained for.
        original_context: f64,
    },
    /// Long wavelengths fully, short ones not, those between by their place in the series (Peng et al. 2023).
    Yarn {
        /// Factor of the stretch.
        factor: f64,
        /// The pair before which wavelengths are left alone.
        low: f64,
        /// The pair from which on they are stretched fully.
        high: f64,
        /// Multiplies queries and keys.
        magnitude: f64,
    },
    /// Long wavelengths fully, short ones not, those between by their number of periods (Llama 3.1).
    Llama3 {
        /// Factor of the stretch.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are left alone.
        high_freq_factor: f64,
        /// Positions the model was first trained for.
        original_context: f64,
    },
    /// Each wavelength by a factor of its own, by other ones once the positions exceed `original_context`
    /// (Ding et al. 2024).
    LongRope {
        /// Factors up to there.
        short: Vec<f64>,
        /// Factors beyond.
        long: Vec<f64>,
        /// Positions the model was first trained for.
        original_context: usize,
        /// Multiplies queries and keys.
        magnitude: f64,
    },
    /// Each wavelength by a factor of its own, which the checkpoint holds as a tensor (GGUF's `rope_freqs.weight`).
    Stored,
    /// All alike, but for the last pairs of each head, which are not turned at all (Gemma 4): the series is spread over the whole
    /// head.
    Proportional {
        /// Pairs that are turned.
        n_pairs: usize,
        /// Factor of the stretch.
        factor: f64,
    },
    /// No turn at all, but a magnitude that grows: `1 + beta · ln(1 + ⌊(position + first) / original_context⌋)`, by which queries
    /// alone are multiplied (Llama 4, Ministral 3).
    Growth {
        /// Number of the first position.
        first: usize,
        /// Growth by the logarithm.
        beta: f64,
        /// Positions the model was first trained for.
        original_context: f64,
    },
}

impl RotarySpec {
    /// Radians per position for each of the `dim / 2` pairs, for a sequence of `n_positions`; `stored` are the
    /// factors of [`RopeScaling::Stored`].
    ///
    /// # Panics
    /// When the scaling is stored and `stored` does not hold a factor for each pair.
    pub fn frequencies(&self, n_positions: usize, stored: Option<&[f32]>) -> Vec<f32> {
        let base = match self.scaling {
            RopeScaling::Dynamic {
                factor,
                original_context,
            } => {
                let reach = (n_positions as f64).max(original_context) / original_context;
                let dim = self.series as f64;
                self.base * (factor * reach - (factor - 1.0)).powf(dim / (dim - 2.0))
            }
            _ => self.base,
        };
        let plain = (0..self.dim / 2).map(|i| base.powf(-2.0 * i as f64 / self.series as f64));
        let scaled = plain.enumerate().map(|(i, frequency)| match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Yarn {
                factor, low, high, ..
            } => {
                let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let periods = original_context * frequency / TAU;
                let kept = ((periods - low_freq_factor) / (high_freq_factor - low_freq_factor))
                    .clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
            RopeScaling::LongRope {
                short,
                long,
                original_context,
                ..
            } => {
                frequency
                    / if n_positions > *original_context {
                        long[i]
                    } else {
                        short[i]
                    }
            }
            RopeScaling::Proportional { n_pairs, factor } => match i < *n_pairs {
                true => frequency / factor,
                false => 0.0,
            },
            RopeScaling::Growth { .. } => 0.0,
            RopeScaling::Stored => {
                frequency / f64::from(stored.expect("factors for a stored scaling")[i])
            }
        });
        // The references keep f32 frequencies and so far-away positions carry its rounding: do the same.
        let sign = if self.turns_back { -1.0 } else { 1.0 };
        scaled.map(|frequency| sign * frequency as f32).collect()
    }

    /// True if the frequencies depend on how many positions there are.
    pub fn depends_on_length(&self) -> bool {
        match self.scaling {
            RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. } => true,
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Stored
            | RopeScaling::Proportional { .. }
            | RopeScaling::Growth { .. } => false,
        }
    }

    /// The most positions for which keys may stay as they were made; of more all are turned otherwise.
    ///
    /// A dynamic scaling has no such border: its base grows with each position, and the references leave keys as they were.
    pub fn border(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::LongRope {
                original_context, ..
            } => Some(original_context),
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Stored
            | RopeScaling::Proportional { .. }
            | RopeScaling::Growth { .. } => None,
        }
    }

    /// The most positions that a sequence of `n_positions` may come to with the same frequencies.
    pub(crate) fn steady_up_to(&self, n_positions: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic {
                original_context, ..
            } => n_positions.max(original_context as usize),
            RopeScaling::LongRope {
                original_context, ..
            } if n_positions <= original_context => original_context,
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::LongRope { .. }
            | RopeScaling::Stored
            | RopeScaling::Proportional { .. }
            | RopeScaling::Growth { .. } => usize::MAX,
        }
    }

    /// Positions of a model whose configuration says `context`.
    pub(crate) fn reach(&self, context: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic {
                factor,
                original_context,
            } => context.max((factor * original_context).min(MAX_CONTEXT) as usize),
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::LongRope { .. }
            | RopeScaling::Stored
            | RopeScaling::Proportional { .. }
            | RopeScaling::Growth { .. } => context,
        }
    }

    /// Factor of queries and keys at a position, beside the rotation.
    pub fn magnitude(&self, position: usize) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { magnitude, .. } | RopeScaling::LongRope { magnitude, .. } => {
                magnitude as f32
            }
            RopeScaling::Growth {
                first,
                beta,
                original_context,
            } => {
                let times = ((position + first) as f64 / original_context).floor();
                (1.0 + beta * times.ln_1p()) as f32
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Proportional { .. }
            | RopeScaling::Stored => 1.0,
        }
    }
}

/// As many positions as any count of a configuration.
const MAX_CONTEXT: f64 = 16_777_216.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: RopeScaling) -> RotarySpec {
        RotarySpec {
            dim: 8,
            series: 8,
            base: 10_000.0,
            pairing: Pairing::Halves,
            scaling,
            turns_back: false,
        }
    }

    #[test]
    fn plain_and_linear_frequencies_are_geometric() {
        let close = |found: Vec<f32>, expected: [f32; 4]| {
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(f, e)| (f - e).abs() <= e * f32::EPSILON),
                "{found:?}"
            );
        };
        close(
            spec(RopeScaling::None).frequencies(1, None),
            [1.0, 0.1, 0.01, 0.001],
        );
        close(
            spec(RopeScaling::Linear { factor: 4.0 }).frequencies(1, None),
            [0.25, 0.025, 0.0025, 0.00025],
        );
        close(
            spec(RopeScaling::Stored).frequencies(1, Some(&[1.0, 1.0, 2.0, 8.0])),
            [1.0, 0.1, 0.005, 0.000125],
        );
        // Up to its context a dynamic scaling changes nothing.
        let dynamic = spec(RopeScaling::Dynamic {
            factor: 2.0,
            original_context: 64.0,
        });
        close(dynamic.frequencies(64, None), [1.0, 0.1, 0.01, 0.001]);
        // At twice the context the base grows by 3^(8/6).
        let base = 10_000.0 * 3f64.powf(8.0 / 6.0);
        close(
            dynamic.frequencies(128, None),
            [0.0, 0.25, 0.5, 0.75].map(|e| base.powf(-e) as f32),
        );
    }

    #[test]
    fn proportional_positions_turn_the_first_pairs_by_the_series_of_the_whole_head() {
        let scaling = RopeScaling::Proportional {
            n_pairs: 2,
            factor: 4.0,
        };
        let found = spec(scaling).frequencies(1, None);
        assert_eq!(found, [0.25, 0.025, 0.0, 0.0]);
    }

    #[test]
    fn growth_turns_nothing_and_grows_by_whole_contexts() {
        let growth = |first| {
            spec(RopeScaling::Growth {
                first,
                beta: 0.5,
                original_context: 16.0,
            })
        };
        assert_eq!(growth(0).frequencies(64, None), [0.0; 4]);
        let found = [0, 15, 16, 31, 32].map(|position| growth(0).magnitude(position));
        let grown = [2f64.ln(), 3f64.ln()].map(|ln| (1.0 + 0.5 * ln) as f32);
        assert_eq!(found, [1.0, 1.0, grown[0], grown[0], grown[1]]);
        let from_one = [0, 14, 15].map(|position| growth(1).magnitude(position));
        assert_eq!(from_one, [1.0, 1.0, grown[0]]);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 32.0,
        };
        let found = spec(scaling).frequencies(1, None);
        // Wavelength 2π lies below 32 / 4, the last three above 32 / 1.
        assert_eq!(found[0], 1.0);
        assert_eq!(found[2..], [0.01 / 8.0, 0.001 / 8.0].map(|f: f64| f as f32));
    }
}
