//! How tokens are chosen, as the caller says it.

use crate::error::EngineError;

/// The most entries of [`SamplingParams::logit_bias`].
pub const LOGIT_BIAS_MAX: usize = 4096;

/// How tokens are chosen. The default is greedy.
///
/// The steps have one order: constraint, logit bias, repetition penalty, presence and frequency penalties,
/// temperature, top-k, top-p, min-p, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the greatest, ties by lower id. 0 to 100.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest likeliest tokens whose probabilities sum to at least this. Above 0, at most 1.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest. 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the answer (Keskar et al. 2019). Above 0.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time it stands in the answer. −10 to 10.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of each token that stands in the answer. −10 to 10.
    pub presence_penalty: f32,
    /// Added to the logits of single tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random draws. They depend on it, the answer's index and the token's position only. `None` takes a fresh one.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl SamplingParams {
    /// Checks every range; `vocab_size` bounds the tokens of the bias.
    pub fn validate(&self, vocab_size: usize) -> Result<(), EngineError> {
        within(
            "temperature",
            self.temperature,
            (0.0..=100.0).contains(&self.temperature),
            "it goes from 0 to 100",
        )?;
        within("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "it is above 0 and at most 1")?;
        within("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "it goes from 0 to 1")?;
        let repetition = self.repetition_penalty;
        within(
            "repetition_penalty",
            repetition,
            repetition > 0.0 && repetition <= 100.0,
            "it is above 0 and at most 100",
        )?;
        let range = -10.0..=10.0;
        let expected = "it goes from -10 to 10";
        within(
            "frequency_penalty",
            self.frequency_penalty,
            range.contains(&self.frequency_penalty),
            expected,
        )?;
        within("presence_penalty", self.presence_penalty, range.contains(&self.presence_penalty), expected)?;
        if self.logit_bias.len() > LOGIT_BIAS_MAX {
            return Err(EngineError::Parameter {
                name: "logit_bias",
                value: format!("{} entries", self.logit_bias.len()),
                expected: "it has at most 4096 entries",
            });
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                return Err(EngineError::TokenOutOfRange { token, vocab_size });
            }
            let fine = bias == f32::NEG_INFINITY || bias.abs() <= 1000.0;
            within("logit_bias", bias, fine, "each goes from -1000 to 1000, or is minus infinity")?;
        }
        Ok(())
    }

    pub(crate) fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    pub(crate) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

fn within(name: &'static str, value: f32, fine: bool, expected: &'static str) -> Result<(), EngineError> {
    if fine { Ok(()) } else { Err(EngineError::Parameter { name, value: value.to_string(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let good = SamplingParams::default();
        assert!(good.validate(10).is_ok());
        for bad in [
            SamplingParams { temperature: -0.1, ..good.clone() },
            SamplingParams { temperature: f32::NAN, ..good.clone() },
            SamplingParams { temperature: f32::INFINITY, ..good.clone() },
            SamplingParams { top_p: 0.0, ..good.clone() },
            SamplingParams { top_p: 1.5, ..good.clone() },
            SamplingParams { min_p: -1.0, ..good.clone() },
            SamplingParams { repetition_penalty: 0.0, ..good.clone() },
            SamplingParams { repetition_penalty: f32::NAN, ..good.clone() },
            SamplingParams { frequency_penalty: 11.0, ..good.clone() },
            SamplingParams { presence_penalty: f32::NAN, ..good.clone() },
            SamplingParams { logit_bias: vec![(10, 1.0)], ..good.clone() },
            SamplingParams { logit_bias: vec![(1, f32::NAN)], ..good.clone() },
            SamplingParams { logit_bias: vec![(1, 0.0); LOGIT_BIAS_MAX + 1], ..good.clone() },
        ] {
            assert!(bad.validate(10).is_err(), "{bad:?}");
        }
    }
}
