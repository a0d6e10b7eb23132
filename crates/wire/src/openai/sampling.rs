//! What chat and raw completions have in common: how tokens are chosen, where they end, how they are sent.

use std::collections::BTreeMap;

use levain_chat::Sampling;
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, number_in, quoted, shown, wrong_type};

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
    Ok(Sampling {
        temperature: reader.number("temperature", 0.0..=2.0)?,
        // llama.cpp says 0 and vLLM says -1 for all tokens.
        top_k: reader.integer("top_k", -1..=TOP_K_MAX)?.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: above_zero(reader, "top_p", 1.0)?,
        min_p: reader.number("min_p", 0.0..=1.0)?,
        repetition_penalty: above_zero(reader, "repetition_penalty", 2.0)?,
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
        return Err(ApiError::invalid(reader.path(name), format!("expected a number above 0, up to {high}")));
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
        let Some(bias) = number_in(value, &(-100.0..=100.0)) else {
            return Err(ApiError::invalid(
                format!("logit_bias.{id}"),
                format!("expected a number from -100 to 100, got {}", shown(value)),
            ));
        };
        biases.insert(id, bias);
    }
    Ok(biases)
}

/// Signed and unsigned 64-bit seeds are taken; a negative one stands for its two's complement.
fn seed(value: Option<Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    match seed {
        Some(seed) => Ok(Some(seed)),
        None => Err(ApiError::invalid("seed", format!("expected a 64-bit integer, got {}", shown(&value)))),
    }
}

/// Reads `stop`.
pub(super) fn stop(reader: &mut Reader) -> Result<Vec<String>, ApiError> {
    let items = match reader.take("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => vec![text],
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if items.len() > STOPS_MAX {
        return Err(ApiError::invalid(
            "stop",
            format!("expected at most {STOPS_MAX} texts, got {}", items.len()),
        ));
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) if !text.is_empty() && text.len() <= STOP_BYTES_MAX => Ok(text),
            other => Err(ApiError::invalid(
                "stop",
                format!("expected texts of 1 to {STOP_BYTES_MAX} bytes, got {}", shown(&other)),
            )),
        })
        .collect()
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
        return Err(ApiError::invalid("stream_options", "it needs stream: true"));
    }
    let mut options = Reader::object(options, "stream_options")?;
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    if options.flag("include_obfuscation")? == Some(true) {
        return Err(ApiError::unsupported(
            "stream_options.include_obfuscation",
            "chunks are not padded; leave it out",
        ));
    }
    options.finish_all(&["include_usage", "include_obfuscation"])?;
    Ok(Streaming { stream, include_usage })
}
