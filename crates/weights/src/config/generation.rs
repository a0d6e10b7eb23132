//! What the model's makers recommend for sampling: `generation_config.json` or GGUF metadata.

use std::path::Path;

use crate::config::fields::{Fields, parse_object};
use crate::error::{ConfigProblem, WeightsError};

/// Recommended sampling; `None` where the makers say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Whether to sample at all; `Some(false)` means greedy.
    pub do_sample: Option<bool>,
    /// Divisor of the logits; 0 means greedy.
    pub temperature: Option<f32>,
    /// Probability mass to keep, above 0 and at most 1.
    pub top_p: Option<f32>,
    /// Tokens to keep; 0 means all.
    pub top_k: Option<u32>,
    /// Smallest probability to keep, relative to the best token's.
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that have appeared; 1 means none.
    pub repetition_penalty: Option<f32>,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationDefaults {
    /// Reads and validates the contents of a `generation_config.json`; `file` is for messages.
    ///
    /// # Errors
    /// If it is not JSON or holds impossible values.
    pub fn from_json(file: &Path, json: &[u8]) -> Result<Self, WeightsError> {
        let map = parse_object(file, json)?;
        let f = Fields::new(file, "", &map);
        #[expect(clippy::cast_possible_truncation, reason = "validated afterwards")]
        let float = |name| Ok::<_, WeightsError>(f.f64(name)?.map(|x| x as f32));
        let defaults = Self {
            do_sample: f.bool("do_sample")?,
            temperature: float("temperature")?,
            top_p: float("top_p")?,
            top_k: f.u32("top_k")?,
            min_p: float("min_p")?,
            repetition_penalty: float("repetition_penalty")?,
            bos_token_id: f.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: f.token_ids("eos_token_id")?,
        };
        defaults.validate(file, &str::to_owned)?;
        Ok(defaults)
    }

    /// Checks the ranges. `name` turns a `generation_config.json` field name into the name in the file at hand.
    pub(crate) fn validate(&self, file: &Path, name: &dyn Fn(&str) -> String) -> Result<(), WeightsError> {
        let in_range = |field: &str, value: Option<f32>, min: f32, max: f32| match value {
            Some(x) if !(min..=max).contains(&x) => {
                let expected = format!("{min} to {max}");
                let problem = ConfigProblem::OutOfRange { value: x.into(), expected };
                Err(WeightsError::config(file, name(field), problem))
            }
            _ => Ok(()),
        };
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        in_range("min_p", self.min_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
    }
}
