//! Messages of a conversation.

use levain_chat::{Message, Part, Role, ToolCall};
use serde_json::Value;

use super::error::ApiError;
use super::part::content;
use super::reader::{Reader, quoted, wrong_length, wrong_text, wrong_type};
use super::sampling::same;
use super::table::{ASSISTANT, CALLED, SPEECH, TOOL_CALL, TOOL_RESULT};

const MESSAGES_MAX: usize = 4096;
const CALLS_MAX: usize = 128;
const ID_BYTES_MAX: usize = 4096;
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Reads `messages`.
pub(super) fn read(value: Value) -> Result<Vec<Message>, ApiError> {
    let items = match value {
        Value::Array(items) => items,
        other => return Err(wrong_type("messages", "an array of objects", &other)),
    };
    if items.is_empty() || items.len() > MESSAGES_MAX {
        return Err(wrong_length("messages", MESSAGES_MAX, items.len()));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| message(Reader::object(item, format!("messages[{i}]"))?))
        .collect()
}

fn message(mut reader: Reader) -> Result<Message, ApiError> {
    let role = reader.required_text("role")?;
    let (message, table) = match role.as_str() {
        "system" | "developer" => (plain(&mut reader, Role::System)?, SPEECH),
        "user" => (plain(&mut reader, Role::User)?, SPEECH),
        "assistant" => (assistant(&mut reader)?, ASSISTANT),
        "tool" => (tool(&mut reader)?, TOOL_RESULT),
        "function" => {
            return Err(ApiError::unsupported_value(
                reader.path("role"),
                "use the role tool, with the tool_call_id of a call in tool_calls, instead of function",
            ));
        }
        other => return Err(ApiError::none_of(reader.path("role"), &quoted(other), ROLES)),
    };
    reader.finish(&[table])?;
    Ok(message)
}

fn plain(reader: &mut Reader, role: Role) -> Result<Message, ApiError> {
    let path = reader.path("content");
    let parts = content(reader.required("content")?, &path, role)?;
    Ok(Message { role, parts })
}

/// What an assistant said before. Everything that an answer's message holds can be sent back as it is.
fn assistant(reader: &mut Reader) -> Result<Message, ApiError> {
    let mut parts = Vec::new();
    if let Some(text) = reasoning(reader)?.filter(|text| !text.is_empty()) {
        parts.push(Part::Reasoning { text });
    }
    let path = reader.path("content");
    if let Some(value) = reader.take("content") {
        parts.extend(content(value, &path, Role::Assistant)?);
    }
    if let Some(text) = reader.text("refusal")?.filter(|text| !text.is_empty()) {
        parts.push(Part::Text { text });
    }
    let path = reader.path("tool_calls");
    match reader.take("tool_calls") {
        None => {}
        Some(Value::Array(calls)) if calls.len() <= CALLS_MAX => {
            for (i, call) in calls.into_iter().enumerate() {
                parts.push(Part::ToolCall(tool_call(Reader::object(call, format!("{path}[{i}]"))?)?));
            }
        }
        Some(Value::Array(calls)) => return Err(wrong_length(&path, CALLS_MAX, calls.len())),
        Some(other) => return Err(wrong_type(path, "an array of objects", &other)),
    }
    // An old name of what is refused: say so rather than ask for a content.
    if parts.is_empty() && reader.get("function_call").is_none() {
        return Err(ApiError::missing(reader.path("content")));
    }
    Ok(Message { role: Role::Assistant, parts })
}

/// The thinking of an earlier answer, which vendors and gateways name differently.
fn reasoning(reader: &mut Reader) -> Result<Option<String>, ApiError> {
    const NAME: &str = "reasoning_content";
    let mut text = reader.text(NAME)?;
    for name in ["reasoning", "thinking"] {
        text = same(text, reader.text(name)?, NAME, &reader.path(name))?;
    }
    for (name, keys) in
        [("reasoning_details", ["text", "summary"]), ("thinking_blocks", ["thinking", "text"])]
    {
        let items = match reader.take(name) {
            None => continue,
            Some(Value::Array(items)) => items,
            Some(other) => return Err(wrong_type(reader.path(name), "an array of objects", &other)),
        };
        // They say the same in more detail.
        if text.is_none() {
            let said = |item: &Value| keys.iter().find_map(|key| item.get(key)?.as_str().map(str::to_owned));
            text = Some(items.iter().filter_map(said).collect());
        }
    }
    Ok(text)
}

fn tool_call(mut reader: Reader) -> Result<ToolCall, ApiError> {
    let id = short(&mut reader, "id")?;
    if let Some(kind) = reader.text("type")?
        && kind != "function"
    {
        return Err(ApiError::unsupported_value(reader.path("type"), "the one type of call is function"));
    }
    let mut function = Reader::object(reader.required("function")?, reader.path("function"))?;
    let name = short(&mut function, "name")?;
    let arguments = function.required_text("arguments")?;
    function.finish(&[CALLED])?;
    reader.finish(&[TOOL_CALL])?;
    Ok(ToolCall { id, name, arguments })
}

fn tool(reader: &mut Reader) -> Result<Message, ApiError> {
    let call_id = short(reader, "tool_call_id")?;
    let name = reader.get("name").is_some().then(|| short(reader, "name")).transpose()?;
    let path = reader.path("content");
    let parts = match reader.take("content") {
        // A tool may have nothing to say.
        None => Vec::new(),
        Some(Value::Array(items)) if items.is_empty() => Vec::new(),
        Some(value) => content(value, &path, Role::Tool)?,
    };
    let text = Message { role: Role::Tool, parts }.plain_text();
    Ok(Message { role: Role::Tool, parts: vec![Part::ToolResult { call_id, name, text }] })
}

fn short(reader: &mut Reader, name: &str) -> Result<String, ApiError> {
    let text = reader.required_text(name)?;
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(wrong_text(reader.path(name), ID_BYTES_MAX, text.len()));
    }
    Ok(text)
}
