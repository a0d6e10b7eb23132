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
