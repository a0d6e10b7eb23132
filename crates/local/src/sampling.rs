//! How tokens are chosen where a request does not say.

use levain_chat::{ProviderError, Sampling};
use levain_engine::{LOGIT_BIAS_MAX, SamplingParams};
use levain_weights::GenerationDefaults;

use crate::guide::invalid;

/// What DeepSeek recommends for R1 and its distilled models.
const R1: (f32, f32) = (0.6, 0.95);
/// For models whose makers say nothing: lively, without the unlikely tail that small models stumble over.
const USUAL: (f32, f32) = (0.7, 0.95);

/// The sampling of a model whose request says nothing.
///
/// The makers' `generation_config.json` (or the same in GGUF metadata) decides field by field. Where it says nothing
/// at all, R1 models get temperature 0.6 and top-p 0.95, others 0.7 and 0.95, but only as a whole: a request that
/// sets any of temperature, top-k, top-p and min-p gets nothing but what it asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SamplingDefaults {
    makers: GenerationDefaults,
    fallback: (f32, f32),
}

impl SamplingDefaults {
    pub(crate) fn new(makers: GenerationDefaults, is_r1: bool) -> Self {
        Self { makers, fallback: if is_r1 { R1 } else { USUAL } }
    }

    /// The engine's parameters for a request.
    pub(crate) fn resolve(&self, wish: &Sampling) -> Result<SamplingParams, ProviderError> {
        if wish.logit_bias.len() > LOGIT_BIAS_MAX {
            return Err(invalid("logit_bias", format!("it has at most {LOGIT_BIAS_MAX} entries")));
        }
        let makers = &self.makers;
        let says = makers.do_sample.is_some()
            || makers.temperature.is_some()
            || makers.top_p.is_some()
            || makers.top_k.is_some()
            || makers.min_p.is_some();
        let asks = wish.temperature.is_some()
            || wish.top_p.is_some()
            || wish.top_k.is_some()
            || wish.min_p.is_some();
        let (temperature, top_p) = match (says, asks) {
            (true, _) if makers.do_sample == Some(false) => (0.0, 1.0),
            (true, _) => (makers.temperature.unwrap_or(1.0), makers.top_p.unwrap_or(1.0)),
            (false, true) => (1.0, 1.0),
            (false, false) => self.fallback,
        };
        Ok(SamplingParams {
            temperature: wish.temperature.unwrap_or(temperature),
            top_k: wish.top_k.or(makers.top_k).unwrap_or(0),
            // At 0 the smallest of all sets is meant: the likeliest token alone.
            top_p: match wish.top_p.unwrap_or(top_p) {
                0.0 => f32::MIN_POSITIVE,
                top_p => top_p,
            },
            min_p: wish.min_p.or(makers.min_p).unwrap_or(0.0),
            repetition_penalty: wish.repetition_penalty.or(makers.repetition_penalty).unwrap_or(1.0),
            frequency_penalty: wish.frequency_penalty.unwrap_or(0.0),
            presence_penalty: wish.presence_penalty.unwrap_or(0.0),
            logit_bias: wish.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            seed: wish.seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_goes_before_the_makers_and_the_makers_before_us() {
        let silent = SamplingDefaults::new(GenerationDefaults::default(), false);
        let at = |defaults: &SamplingDefaults, wish: &Sampling| {
            let params = defaults.resolve(wish).unwrap();
            (params.temperature, params.top_p, params.top_k)
        };
        assert_eq!(at(&silent, &Sampling::default()), (0.7, 0.95, 0));
        let warm = Sampling { temperature: Some(1.2), ..Sampling::default() };
        assert_eq!(at(&silent, &warm), (1.2, 1.0, 0));
        let r1 = SamplingDefaults::new(GenerationDefaults::default(), true);
        assert_eq!(at(&r1, &Sampling::default()), (0.6, 0.95, 0));
        let makers = GenerationDefaults { top_k: Some(20), top_p: Some(0.8), ..Default::default() };
        let makers = SamplingDefaults::new(makers, true);
        assert_eq!(at(&makers, &Sampling::default()), (1.0, 0.8, 20));
        assert_eq!(at(&makers, &warm), (1.2, 0.8, 20));
        let greedy =
            GenerationDefaults { do_sample: Some(false), temperature: Some(0.6), ..Default::default() };
        assert_eq!(at(&SamplingDefaults::new(greedy, false), &Sampling::default()).0, 0.0);
    }

    #[test]
    fn a_bias_has_a_limit() {
        let silent = SamplingDefaults::new(GenerationDefaults::default(), false);
        let many = (0..=LOGIT_BIAS_MAX).map(|id| (u32::try_from(id).unwrap(), 1.0)).collect();
        assert!(silent.resolve(&Sampling { logit_bias: many, ..Sampling::default() }).is_err());
    }
}
