//! The vocabulary of a `tokenizer.json` as GGUF metadata.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, parse_object};
use crate::convert::GgufOptions;
use crate::error::{ConfigProblem, WeightsError};
use crate::gguf::{GgufWriter, MetadataValue};
use crate::open::read_small;

/// Longest `tokenizer.json`; the largest published ones have about 30 MB.
const TOKENIZER_BYTES_MAX: u64 = 256 << 20;
/// Token types of GGUF (`gguf-py/gguf/constants.py`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Sets the vocabulary's keys, if the checkpoint has a `tokenizer.json`.
pub(crate) fn describe(
    writer: &mut GgufWriter<'_>,
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    options: &GgufOptions,
) -> Result<(), WeightsError> {
    for (key, id) in [("bos", config.bos_token_id), ("eos", config.eos_token_ids.first().copied())] {
        if let Some(id) = id {
            writer.set(&format!("tokenizer.ggml.{key}_token_id"), id);
        }
    }
    let path = checkpoint.folder().join("tokenizer.json");
    let Some(bytes) = read_small(&path, TOKENIZER_BYTES_MAX)? else { return Ok(()) };
    let root = parse_object(&path, &bytes)?;
    let error = |field: &str, problem| WeightsError::config(&path, field, problem);
    let missing = |field: &str| error(field, ConfigProblem::Missing);
    let model = root.get("model").and_then(Value::as_object).ok_or_else(|| missing("model"))?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        let found = kind.chars().take(40).collect();
        return Err(error("model.type", ConfigProblem::Unsupported { found, supported: "BPE" }));
    }
    let (tokens, types) = vocabulary(&path, &root, model, config.vocab_size)?;
    let merges = merges(model).ok_or_else(|| missing("model.merges"))?;
    let pre = match &options.pre_tokenizer {
        Some(name) => name.clone(),
        None if uses_gpt2_regex(&root) => "gpt-2".to_owned(),
        None => {
            let supported = "GPT-2's byte-level one; name any other in the options";
            let found = "another pre-tokenizer".to_owned();
            return Err(error("pre_tokenizer", ConfigProblem::Unsupported { found, supported }));
        }
    };
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", pre.as_str());
    writer.set("tokenizer.ggml.tokens", tokens);
    writer.set("tokenizer.ggml.token_type", MetadataValue::I32s(types));
    writer.set("tokenizer.ggml.merges", merges);
    chat_settings(writer, checkpoint)
}

/// What `tokenizer_config.json` adds: the template and whether texts start with a token of their own.
fn chat_settings(writer: &mut GgufWriter<'_>, checkpoint: &Checkpoint) -> Result<(), WeightsError> {
    let path = checkpoint.folder().join("tokenizer_config.json");
    let Some(bytes) = read_small(&path, TOKENIZER_BYTES_MAX)? else { return Ok(()) };
    let settings = parse_object(&path, &bytes)?;
    if let Some(add) = settings.get("add_bos_token").and_then(Value::as_bool) {
        writer.set("tokenizer.ggml.add_bos_token", add);
    }
    if let Some(template) = settings.get("chat_template").and_then(Value::as_str) {
        writer.set("tokenizer.chat_template", template);
    }
    Ok(())
}

/// Tokens and their types by id. Ids that no token has are filled, as the embedding has a row for them.
fn vocabulary(
    path: &Path,
    root: &Map<String, Value>,
    model: &Map<String, Value>,
    vocab_size: usize,
) -> Result<(Vec<String>, Vec<i32>), WeightsError> {
    let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; vocab_size];
    let out_of_range = |field: &str, token: &str| {
        let found = format!("no id below {vocab_size} for {:?}", token.chars().take(40).collect::<String>());
        let problem = ConfigProblem::WrongType { found, expected: "a token id of the model" };
        WeightsError::config(path, field, problem)
    };
    let mut put = |token: &str, id: Option<u64>, kind: i32, field: &str| {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < vocab_size);
        let id = id.ok_or_else(|| out_of_range(field, token))?;
        if let (Some(slot), Some(slot_type)) = (tokens.get_mut(id), types.get_mut(id)) {
            *slot = token.to_owned();
            *slot_type = kind;
        }
        Ok(())
    };
    let vocab = model.get("vocab").and_then(Value::as_object);
    let vocab = vocab.ok_or_else(|| WeightsError::config(path, "model.vocab", ConfigProblem::Missing))?;
    for (token, id) in vocab {
        put(token, id.as_u64(), NORMAL, "model.vocab")?;
    }
    for added in root.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let content = added.get("content").and_then(Value::as_str).unwrap_or_default();
        let special = added.get("special").and_then(Value::as_bool).unwrap_or(false);
        let kind = if special { CONTROL } else { USER_DEFINED };
        put(content, added.get("id").and_then(Value::as_u64), kind, "added_tokens")?;
    }
    Ok((tokens, types))
}

/// Merges as GGUF has them, both parts with a blank between. Files write them so or as pairs.
fn merges(model: &Map<String, Value>) -> Option<Vec<String>> {
    let merge = |value: &Value| match value {
        Value::String(both) => Some(both.clone()),
        Value::Array(parts) => match parts.as_slice() {
            [left, right] => Some(format!("{} {}", left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    };
    model.get("merges")?.as_array()?.iter().map(merge).collect()
}

/// Whether the pre-tokenizer is the byte-level one with GPT-2's pattern.
fn uses_gpt2_regex(root: &Map<String, Value>) -> bool {
    root.get("pre_tokenizer").is_some_and(|pre| {
        pre.get("type").and_then(Value::as_str) == Some("ByteLevel")
            && pre.get("use_regex").and_then(Value::as_bool).unwrap_or(true)
    })
}
