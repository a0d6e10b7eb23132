//! The rotary embedding as the model description gives it.

use levain_kernels::RopeStyle;

/// Rotary embedding of query and key heads.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies: `theta^(-2i/dim)`.
    pub theta: f64,
    /// Rotated dimensions of a head; even.
    pub dim: usize,
    /// Which dimensions form a pair, for the order in which this file stores q and k.
    pub style: RopeStyle,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// Change of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context before the change.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// What low frequencies are divided by.
        factor: f64,
        /// Context before the change.
        original_max_position_embeddings: usize,
        /// Rotations within that context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations within that context below which a frequency is divided in full.
        beta_slow: f64,
        /// Factor on cosine and sine, if the description gives it; else it follows from `mscale` and
        /// `mscale_all_dim`: m(mscale)/m(mscale_all_dim) if both are given, m(1) if not, where
        /// m(s) = 0.1·s·ln(factor) + 1.
        attention_factor: Option<f64>,
        /// DeepSeek's numerator, see `attention_factor`.
        mscale: Option<f64>,
        /// DeepSeek's denominator; if not 0, the softmax scale is also multiplied by m(mscale_all_dim)².
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Each frequency divided by its own number: GGUF's `rope_freqs.weight`, `dim/2` values.
    FreqFactors(Vec<f32>),
}

impl RopeScaling {
    /// What cosine and sine are multiplied by: 1 but for YaRN.
    pub fn attention_factor(&self) -> f64 {
        let &Self::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } = self else { return 1.0 };
        attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
            // As Hugging Face does, a zero counts as not given.
            (Some(a), Some(b)) if a != 0.0 && b != 0.0 => yarn_mscale(factor, a) / yarn_mscale(factor, b),
            _ => yarn_mscale(factor, 1.0),
        })
    }

    /// What DeepSeek's softmax scale is multiplied by: m(mscale_all_dim)² with YaRN, else 1.
    pub fn softmax_factor(&self) -> f64 {
        match *self {
            Self::Yarn { factor, mscale_all_dim: Some(scale), .. } => yarn_mscale(factor, scale).powi(2),
            _ => 1.0,
        }
    }
}

/// m(s) of `RopeScaling::Yarn`: the YaRN paper's temperature, section 3.4, with DeepSeek's multiplier.
fn yarn_mscale(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}
