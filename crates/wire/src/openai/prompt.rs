//! Raw completions and embeddings: prompts as text or token ids, one or many.

use levain_chat::{CompletionPrompt, CompletionRequest, EmbeddingRequest, Pooling};
use serde_json::Value;

use super::chat::model;
use super::error::ApiError;
use super::reader::{Reader, quoted, shown, whole, wrong_length, wrong_type};
use super::sampling::{self, N_MAX, Streaming, TOP_LOGPROBS_MAX, tokens_max};
use super::table::{COMPLETION, EMBEDDING, PEERS};
use super::tools;

const PROMPTS_MAX: usize = 128;
const CHOICES_MAX: u32 = 128;
const INPUTS_MAX: usize = 2048;
/// What the dialect says where `max_tokens` is absent.
const COMPLETION_TOKENS: u32 = 16;

/// A request for raw completion and how to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionCall {
    /// One request for each prompt; all alike but for the prompt.
    pub requests: Vec<CompletionRequest>,
    /// As server-sent events.
    pub stream: bool,
    /// Send the token counts before the end of the stream.
    pub include_usage: bool,
    /// Name tokens as `token_id:N`.
    pub tokens_as_ids: bool,
    /// Whether the names of control tokens in prompts become these tokens; `None`: as the server is set up. The
    /// requests say `true` until somebody decides.
    pub parse_special: Option<bool>,
}

impl CompletionCall {
    /// Reads the body of `POST /v1/completions`.
    ///
    /// # Errors
    /// Names the field that is missing, unknown, not offered or out of its bounds.
    pub fn from_bytes(body: &[u8]) -> Result<Self, ApiError> {
        let mut reader = Reader::body(body)?;
        let streaming = sampling::streaming(&mut reader)?;
        let model = model(&mut reader)?;
        let prompts = prompts(reader.required("prompt")?, "prompt", PROMPTS_MAX)?;
        let echo = reader.flag("echo")?.unwrap_or(false);
        let tokens_least = if echo { 0 } else { 1 };
        let max_tokens =
            tokens_max(&mut reader, "max_tokens", tokens_least)?.unwrap_or(Some(COMPLETION_TOKENS));
        let parse_special = reader.flag("parse_special")?;
        let n = reader.count("n", 1..=N_MAX)?.unwrap_or(1);
        let choices = u32::try_from(prompts.len()).unwrap_or(u32::MAX).saturating_mul(n);
        if choices > CHOICES_MAX {
            return Err(ApiError::invalid(
                "n",
                format!("prompts times n is {choices}, and {CHOICES_MAX} is the most"),
            ));
        }
        if reader.count("best_of", 1..=u32::MAX)?.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::unsupported_value("best_of", "answers are not ranked; leave it out"));
        }
        let template = CompletionRequest {
            model,
            prompt: CompletionPrompt::Tokens(Vec::new()),
            parse_special: parse_special.unwrap_or(true),
            add_special_tokens: reader.flag("add_special_tokens")?.unwrap_or(true),
            max_tokens,
            sampling: sampling::read(&mut reader)?,
            stop: sampling::stop(&mut reader)?,
            n,
            logprobs: reader.count("logprobs", 0..=TOP_LOGPROBS_MAX)?,
            echo,
            ignore_eos: reader.flag("ignore_eos")?.unwrap_or(false),
            response_format: tools::response_format(reader.take("response_format"))?,
            tenant: None,
        };
        let tokens_as_ids = reader.flag("return_tokens_as_token_ids")?.unwrap_or(false);
        reader.finish(&[COMPLETION, PEERS])?;
        let requests =
            prompts.into_iter().map(|prompt| CompletionRequest { prompt, ..template.clone() }).collect();
        let Streaming { stream, include_usage } = streaming;
        Ok(Self { requests, stream, include_usage, tokens_as_ids, parse_special })
    }
}

/// How to write vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodingFormat {
    /// An array of numbers.
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

/// A request for embeddings and how to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingCall {
    /// What to embed.
    pub request: EmbeddingRequest,
    /// How to write the vectors.
    pub format: EncodingFormat,
}

impl EmbeddingCall {
    /// Reads the body of `POST /v1/embeddings`.
    ///
    /// # Errors
    /// Names the field that is missing, unknown, not offered or out of its bounds.
    pub fn from_bytes(body: &[u8]) -> Result<Self, ApiError> {
        let mut reader = Reader::body(body)?;
        let model = model(&mut reader)?;
        let inputs = prompts(reader.required("input")?, "input", INPUTS_MAX)?;
        let is_empty =
            |input: &CompletionPrompt| matches!(input, CompletionPrompt::Text(text) if text.is_empty());
        if let Some(i) = inputs.iter().position(is_empty) {
            let path = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{i}]") };
            return Err(ApiError::invalid(path, "an empty text has no meaning to embed"));
        }
        let format = match reader.text("encoding_format")?.as_deref() {
            None | Some("float") => EncodingFormat::Float,
            Some("base64") => EncodingFormat::Base64,
            Some(other) => {
                return Err(ApiError::none_of("encoding_format", &quoted(other), &["float", "base64"]));
            }
        };
        let pooling = match reader.text("pooling")?.as_deref() {
            None => None,
            Some("mean") => Some(Pooling::Mean),
            Some("last") => Some(Pooling::Last),
            Some(other) => {
                return Err(ApiError::none_of("pooling", &quoted(other), &["mean", "last"]));
            }
        };
        reader.finish(&[EMBEDDING])?;
        Ok(Self { request: EmbeddingRequest { model, inputs, pooling, tenant: None }, format })
    }
}

/// A text, texts, token ids, or arrays of token ids.
fn prompts(value: Value, path: &str, max: usize) -> Result<Vec<CompletionPrompt>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![CompletionPrompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong_type(path, "one of a string or array", &other)),
    };
    match items.first() {
        None => return Err(wrong_length(path, max, 0)),
        Some(Value::Number(_)) => return Ok(vec![CompletionPrompt::Tokens(token_ids(items, path)?)]),
        Some(_) => {}
    }
    if items.len() > max {
        return Err(wrong_length(path, max, items.len()));
    }
    let prompt = |(i, item)| match item {
        Value::String(text) => Ok(CompletionPrompt::Text(text)),
        Value::Array(ids) => token_ids(ids, &format!("{path}[{i}]")).map(CompletionPrompt::Tokens),
        other => Err(wrong_type(format!("{path}[{i}]"), "one of a string or array of token ids", &other)),
    };
    items.into_iter().enumerate().map(prompt).collect()
}

/// An array of token ids; whether the model has them is for the provider to say.
pub(super) fn token_ids(items: Vec<Value>, path: &str) -> Result<Vec<u32>, ApiError> {
    if items.is_empty() {
        return Err(wrong_length(path, 1, 0));
    }
    let id = |(i, item): (usize, &Value)| match whole(item).map(u32::try_from) {
        Some(Ok(id)) => Ok(id),
        Some(Err(_)) => {
            Err(ApiError::invalid(format!("{path}[{i}]"), format!("{} is no token id", shown(item))))
        }
        None => Err(wrong_type(format!("{path}[{i}]"), "an integer", item)),
    };
    items.iter().enumerate().map(id).collect()
}
