//! Chat requests.

use std::collections::BTreeMap;

use levain_chat::{ChatRequest, ReasoningEffort};
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, quoted, wrong_text};
use super::sampling::{self, N_MAX, TOKENS_MAX, TOP_LOGPROBS_MAX, same, tokens_max};
use super::table::{CHAT, PEERS, REASONING, THINKING};
use super::{message, tools, turn};
use crate::json::text_len;

const MODEL_BYTES_MAX: usize = 1024;
const KWARGS_MAX: usize = 64;
const KWARGS_BYTES_MAX: usize = 64 << 10;

/// What the renderer itself gives to a template: a request must not replace it.
const KWARGS_RESERVED: &[&str] = &[
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "chat_template",
    "tokenize",
    "raise_exception",
    "strftime_now",
    "date",
];

/// A chat request and how to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatCall {
    /// What to answer.
    pub request: ChatRequest,
    /// As server-sent events.
    pub stream: bool,
    /// Send the token counts before the end of the stream.
    pub include_usage: bool,
}

impl ChatCall {
    /// Reads the body of `POST /v1/chat/completions`.
    ///
    /// # Errors
    /// Names the field that is missing, unknown, not offered or out of its bounds.
    pub fn from_bytes(body: &[u8]) -> Result<Self, ApiError> {
        let mut reader = Reader::body(body)?;
        let streaming = sampling::streaming(&mut reader)?;
        let tools = tools::tools(reader.take("tools"))?;
        let thinking = thinking(&mut reader)?;
        let mut messages = reader.required("messages")?;
        let turn = turn::read(&mut reader, &mut messages)?;
        let request = ChatRequest {
            model: model(&mut reader)?,
            messages: message::read(messages)?,
            turn,
            tool_choice: tools::choice(reader.take("tool_choice"), &tools)?,
            tools,
            parallel_tool_calls: reader.flag("parallel_tool_calls")?,
            response_format: tools::response_format(reader.take("response_format"))?,
            sampling: sampling::read(&mut reader)?,
            stop: sampling::stop(&mut reader)?,
            max_tokens: max_tokens(&mut reader)?,
            n: reader.count("n", 1..=N_MAX)?.unwrap_or(1),
            logprobs: logprobs(&mut reader)?,
            reasoning_effort: thinking.effort,
            reasoning_budget: thinking.budget,
            template_kwargs: template_kwargs(reader.take("chat_template_kwargs"))?,
            tenant: None,
        };
        reader.finish(&[CHAT, PEERS])?;
        Ok(Self { request, stream: streaming.stream, include_usage: streaming.include_usage })
    }
}

/// The model's name; empty where a request names none and means the first on offer.
pub(super) fn model(reader: &mut Reader) -> Result<String, ApiError> {
    let model = reader.text("model")?.unwrap_or_default();
    if model.len() > MODEL_BYTES_MAX {
        return Err(wrong_text("model", MODEL_BYTES_MAX, model.len()));
    }
    Ok(model)
}

fn max_tokens(reader: &mut Reader) -> Result<Option<u32>, ApiError> {
    let old = tokens_max(reader, "max_tokens", 1)?;
    let new = tokens_max(reader, "max_completion_tokens", 1)?;
    Ok(same(old, new, "max_tokens", "max_completion_tokens")?.flatten())
}

fn logprobs(reader: &mut Reader) -> Result<Option<u32>, ApiError> {
    let wanted = reader.flag("logprobs")?.unwrap_or(false);
    let top = reader.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "it needs logprobs: true")),
    }
}

struct Thinking {
    effort: Option<ReasoningEffort>,
    budget: Option<u32>,
}

/// How long to think, in the words of several vendors; they must not contradict one another.
fn thinking(reader: &mut Reader) -> Result<Thinking, ApiError> {
    let mut budget = same(
        reader.count("max_reasoning_tokens", 0..=TOKENS_MAX)?,
        reader.count("thinking_budget", 0..=TOKENS_MAX)?,
        "max_reasoning_tokens",
        "thinking_budget",
    )?;
    let mut effort = effort(reader, "reasoning_effort")?;
    let mut enabled = reader.flag("enable_thinking")?;
    if let Some(value) = reader.take("thinking") {
        let mut inner = Reader::object(value, "thinking")?;
        let on = match inner.required_text("type")?.as_str() {
            "enabled" => true,
            "disabled" => false,
            other => {
                return Err(ApiError::none_of("thinking.type", &quoted(other), &["enabled", "disabled"]));
            }
        };
        enabled = same(enabled, Some(on), "enable_thinking", "thinking.type")?;
        let tokens = inner.count("budget_tokens", 0..=TOKENS_MAX)?;
        budget = same(budget, tokens, "max_reasoning_tokens", "thinking.budget_tokens")?;
        inner.finish(&[THINKING])?;
    }
    if let Some(value) = reader.take("reasoning") {
        let mut inner = Reader::object(value, "reasoning")?;
        effort = same(effort, self::effort(&mut inner, "effort")?, "reasoning_effort", "reasoning.effort")?;
        enabled = same(enabled, inner.flag("enabled")?, "enable_thinking", "reasoning.enabled")?;
        let tokens = inner.count("max_tokens", 0..=TOKENS_MAX)?;
        budget = same(budget, tokens, "max_reasoning_tokens", "reasoning.max_tokens")?;
        inner.finish(&[REASONING])?;
    }
    let effort = match (enabled, effort) {
        (Some(false), None | Some(ReasoningEffort::None)) => Some(ReasoningEffort::None),
        (Some(true), Some(ReasoningEffort::None)) | (Some(false), Some(_)) => {
            return Err(ApiError::invalid(
                "reasoning_effort",
                "it contradicts enable_thinking, thinking or reasoning.enabled",
            ));
        }
        (Some(true) | None, effort) => effort,
    };
    Ok(Thinking { effort, budget })
}

fn effort(reader: &mut Reader, name: &str) -> Result<Option<ReasoningEffort>, ApiError> {
    const WORDS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    Ok(Some(match reader.text(name)?.as_deref() {
        None => return Ok(None),
        Some("none") => ReasoningEffort::None,
        Some("minimal" | "low") => ReasoningEffort::Low,
        Some("medium") => ReasoningEffort::Medium,
        Some("high" | "xhigh" | "max") => ReasoningEffort::High,
        Some(other) => return Err(ApiError::none_of(reader.path(name), &quoted(other), WORDS)),
    }))
}

fn template_kwargs(value: Option<Value>) -> Result<BTreeMap<String, Value>, ApiError> {
    const PARAM: &str = "chat_template_kwargs";
    let Some(value) = value else { return Ok(BTreeMap::new()) };
    let bytes = text_len(&value);
    let map = Reader::object(value, PARAM)?.into_map();
    if map.len() > KWARGS_MAX || bytes > KWARGS_BYTES_MAX {
        return Err(ApiError::invalid(
            PARAM,
            format!("expected at most {KWARGS_MAX} variables of {KWARGS_BYTES_MAX} bytes in all"),
        ));
    }
    for key in map.keys() {
        let identifier = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts_well = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || key.len() > 64 || !key.chars().all(identifier) {
            return Err(ApiError::invalid(PARAM, format!("{} can't name a variable", quoted(key))));
        }
        if KWARGS_RESERVED.contains(&key.as_str()) {
            return Err(ApiError::invalid(
                PARAM,
                format!("{} is set by the server and can't be replaced", quoted(key)),
            ));
        }
    }
    Ok(map.into_iter().collect())
}
