//! Rotary frequencies and their changes for long contexts.

use std::f64::consts::PI;

use levain_kernels::RopeTable;
use levain_weights::{RopeConfig, RopeScaling};

use crate::error::EngineError;

/// The table of a model's rotary embedding for positions below `positions`.
pub(crate) fn rope_table(config: &RopeConfig, positions: usize) -> Result<RopeTable, EngineError> {
    let frequencies = frequencies(config)?;
    Ok(RopeTable::new(&frequencies, positions, attention_factor(&config.scaling) as f32, config.style))
}

/// Inverse frequencies `[dim / 2]`: `theta^(-2i/dim)`, then the scaling.
pub(super) fn frequencies(config: &RopeConfig) -> Result<Vec<f64>, EngineError> {
    let dim = config.dim;
    let plain = (0..dim / 2).map(|i| config.theta.powf(-((2 * i) as f64) / dim as f64));
    Ok(match &config.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = *original_max_position_embeddings as f64;
            plain.map(|f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, context)).collect()
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } => {
            let context = *original_max_position_embeddings as f64;
            // The dimension whose wavelength makes this many turns within the original context.
            let dimension =
                |turns: f64| dim as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * config.theta.ln());
            let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
            if low == high {
                high += 0.001;
            }
            let divided = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            plain.enumerate().map(|(i, f)| f / factor * divided(i) + f * (1.0 - divided(i))).collect()
        }
        RopeScaling::FreqFactors(factors) => {
            if factors.len() != dim / 2 {
                return Err(EngineError::ModelField {
                    field: "rope_freqs",
                    value: format!("{} values", factors.len()),
                    expected: "it has one value for each pair of rotated dimensions",
                });
            }
            plain.zip(factors).map(|(f, &factor)| f / f64::from(factor)).collect()
        }
    })
}

/// Llama 3.1: long wavelengths are stretched, short ones kept, and a ramp lies between (the published reference
/// implementation's `apply_scaling`).
fn llama3(frequency: f64, factor: f64, low_freq_factor: f64, high_freq_factor: f64, context: f64) -> f64 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength < context / high_freq_factor {
        frequency
    } else if wavelength > context / low_freq_factor {
        frequency / factor
    } else {
        let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// What cosine and sine are multiplied by.
fn attention_factor(scaling: &RopeScaling) -> f64 {
    let RopeScaling::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } = scaling else {
        return 1.0;
    };
    match (attention_factor, mscale, mscale_all_dim) {
        (Some(given), _, _) => *given,
        (None, Some(m), Some(all)) if *m != 0.0 && *all != 0.0 => {
            yarn_mscale(*factor, *m) / yarn_mscale(*factor, *all)
        }
        _ => yarn_mscale(*factor, 1.0),
    }
}

/// What DeepSeek multiplies the softmax scale by: m(mscale_all_dim)², or 1.
pub(crate) fn softmax_factor(scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Yarn { factor, mscale_all_dim: Some(all), .. } if *all != 0.0 => {
            yarn_mscale(*factor, *all).powi(2)
        }
        _ => 1.0,
    }
}

/// YaRN's growth of attention with the context (arXiv 2309.00071, equation 22).
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use levain_kernels::RopeStyle;

    use super::*;

    fn config(dim: usize, theta: f64, scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta, dim, style: RopeStyle::HalfSplit, scaling }
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = frequencies(&config(128, 500_000.0, RopeScaling::None)).unwrap();
        let scaled = frequencies(&config(128, 500_000.0, scaling)).unwrap();
        assert_eq!(plain[0], 1.0);
        for (f, s) in plain.iter().zip(&scaled) {
            let wavelength = 2.0 * PI / f;
            if wavelength < 2048.0 {
                assert_eq!(f, s);
            } else if wavelength > 8192.0 {
                assert_eq!(f / 8.0, *s);
            } else {
                assert!(f / 8.0 <= *s && s <= f);
            }
        }
    }

    #[test]
    fn yarn_matches_the_published_r1_values() {
        let scaling = RopeScaling::Yarn {
            factor: 40.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: Some(1.0),
            mscale_all_dim: Some(1.0),
            truncate: true,
        };
        let plain = frequencies(&config(64, 10_000.0, RopeScaling::None)).unwrap();
        let scaled = frequencies(&config(64, 10_000.0, scaling.clone())).unwrap();
        // For R1 the ramp goes from pair 10, kept, to pair 23, divided by 40.
        assert_eq!(plain[..=10], scaled[..=10]);
        assert!(scaled[11] < plain[11] && scaled[22] > plain[22] / 40.0);
        assert!((scaled[23] - plain[23] / 40.0).abs() < 1e-18);
        assert_eq!(attention_factor(&scaling), 1.0);
        // The published softmax scale of R1 is 192^-0.5 · m².
        assert!((192_f64.powf(-0.5) * softmax_factor(&scaling) - 0.135_233_8).abs() < 1e-7);
    }
}
