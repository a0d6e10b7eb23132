//! What chat and raw completions have in common: how tokens are chosen, where they end, how they are sent.

use std::collections::BTreeMap;

use levain_chat::Sampling;
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, in_range, quoted, shown, whole, wrong_length, wrong_text, wrong_type};
use super::table::STREAM_OPTIONS;

const BIASES_MAX: usize = 1024;
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1024;
const TOP_K_MAX: i64 = 1_000_000;

/// The most answers to one prompt.
pub(super) const N_MAX: u32 = 16;

/// Upper bound of `max_tokens`; the context is shorter.
pub(super) const TOKENS_MAX: u32 = i32::MAX as u32;

/// The most alternatives that are named for a token.
pub(super) const TOP_LOGPROBS_MAX: u32 = 20;

pub(super) fn read(reader: &mut Reader) -> Result<Sampling, ApiError> {
    let repetition = above_zero(reader, "repetition_penalty", 2.0)?;
    let repeat = above_zero(reader, "repeat_penalty", 2.0)?;
    Ok(Sampling {
        temperature: reader.number("temperature", 0.0..=2.0)?,
        // llama.cpp says 0 and vLLM says -1 for all tokens.
        top_k: reader.integer("top_k", -1..=TOP_K_MAX)?.map(|k| u32::try_from(k).unwrap_or(0)),
        // At 0 the smallest of all sets is meant: the likeliest token alone.
        top_p: reader.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE)),
        min_p: reader.number("min_p", 0.0..=1.0)?,
        repetition_penalty: same(repetition, repeat, "repetition_penalty", "repeat_penalty")?,
        frequency_penalty: reader.number("frequency_penalty", -2.0..=2.0)?,
        presence_penalty: reader.number("presence_penalty", -2.0..=2.0)?,
        logit_bias: logit_bias(reader.take("logit_bias"))?,
        seed: seed(reader.take("seed"))?,
    })
}

fn above_zero(reader: &mut Reader, name: &str, high: f32) -> Result<Option<f32>, ApiError> {
    let number = reader.number(name, 0.0..=high)?;
    // Tiny numbers round to 0, which would divide by nothing later.
    if number.is_some_and(|number| number < f32::MIN_POSITIVE) {
        return Err(ApiError::field(
            "decimal_below_min_value",
            reader.path(name),
            format!("Invalid '{name}': decimal below minimum value. Expected a value > 0, up to {high}."),
        ));
    }
    Ok(number)
}

fn logit_bias(value: Option<Value>) -> Result<BTreeMap<u32, f32>, ApiError> {
    let Some(value) = value else { return Ok(BTreeMap::new()) };
    let map = Reader::object(value, "logit_bias")?.into_map();
    if map.len() > BIASES_MAX {
        return Err(ApiError::invalid(
            "logit_bias",
            format!("expected at most {BIASES_MAX} entries, got {}", map.len()),
        ));
    }
    let mut biases = BTreeMap::new();
    for (key, value) in &map {
        // `parse` would take "+5" too, which could name a token twice.
        let canonical = !key.starts_with('+') && (key == "0" || !key.starts_with('0'));
        let Some(id) = key.parse::<u32>().ok().filter(|_| canonical) else {
            return Err(ApiError::invalid(
                "logit_bias",
                format!("expected token ids as keys, got {}", quoted(key)),
            ));
        };
        biases.insert(id, in_range(value, &(-100.0..=100.0), format!("logit_bias.{id}"))?);
    }
    Ok(biases)
}

/// Signed and unsigned 64-bit seeds are taken; a negative one stands for its two's complement.
fn seed(value: Option<Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let seed = value.as_u64().or_else(|| whole(&value).map(i64::cast_unsigned));
    match seed {
        Some(seed) => Ok(Some(seed)),
        None if value.as_f64().is_some_and(|number| number.fract() == 0.0) => {
            Err(ApiError::invalid("seed", format!("expected a 64-bit integer, got {}", shown(&value))))
        }
        None => Err(wrong_type("seed", "an integer", &value)),
    }
}

/// Reads `stop`.
pub(super) fn stop(reader: &mut Reader) -> Result<Vec<String>, ApiError> {
    let text = |path: String, item| match item {
        Value::String(text) if !text.is_empty() && text.len() <= STOP_BYTES_MAX => Ok(text),
        Value::String(text) => Err(wrong_text(path, STOP_BYTES_MAX, text.len())),
        other => Err(wrong_type(path, "a string", &other)),
    };
    let items = match reader.take("stop") {
        None => return Ok(Vec::new()),
        Some(one @ Value::String(_)) => return Ok(vec![text("stop".to_owned(), one)?]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("stop", "one of a string or array of strings", &other)),
    };
    if items.len() > STOPS_MAX {
        return Err(wrong_length("stop", STOPS_MAX, items.len()));
    }
    items.into_iter().enumerate().map(|(i, item)| text(format!("stop[{i}]"), item)).collect()
}

/// The most tokens to generate: `Some(None)` where a request says that there is no bound.
pub(super) fn tokens_max(
    reader: &mut Reader,
    name: &str,
    least: u32,
) -> Result<Option<Option<u32>>, ApiError> {
    // So say clients of llama.cpp and LM Studio.
    if reader.get(name).and_then(whole) == Some(-1) {
        reader.take(name);
        return Ok(Some(None));
    }
    Ok(reader.count(name, least..=TOKENS_MAX)?.map(Some))
}

/// Two names of one thing.
pub(super) fn same<T: PartialEq>(
    a: Option<T>,
    b: Option<T>,
    a_name: &str,
    b_name: &str,
) -> Result<Option<T>, ApiError> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Err(ApiError::invalid(
            b_name,
            format!("it differs from {a_name}, which means the same: send one of them"),
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// Whether and how to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streaming {
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

pub(super) fn streaming(reader: &mut Reader) -> Result<Streaming, ApiError> {
    let stream = reader.flag("stream")?.unwrap_or(false);
    let Some(options) = reader.take("stream_options") else {
        return Ok(Streaming { stream, include_usage: false });
    };
    if !stream {
        return Err(ApiError::invalid("stream_options", "it is only allowed when stream is true"));
    }
    let mut options = Reader::object(options, "stream_options")?;
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    options.finish(&[STREAM_OPTIONS])?;
    Ok(Streaming { stream, include_usage })
}
