//! Messages of a conversation.

use levain_chat::{Message, Part, Role, ToolCall};
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, quoted, shown, wrong_type};

const MESSAGES_MAX: usize = 4096;
const PARTS_MAX: usize = 1024;
const CALLS_MAX: usize = 128;
const ID_BYTES_MAX: usize = 4096;

/// Reads `messages`.
pub(super) fn read(value: Value) -> Result<Vec<Message>, ApiError> {
    let items = match value {
        Value::Array(items) => items,
        other => return Err(wrong_type("messages", "an array of messages", &other)),
    };
    if items.is_empty() || items.len() > MESSAGES_MAX {
        return Err(ApiError::invalid(
            "messages",
            format!("expected 1 to {MESSAGES_MAX} messages, got {}", items.len()),
        ));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| message(Reader::object(item, format!("messages[{i}]"))?))
        .collect()
}

fn message(mut reader: Reader) -> Result<Message, ApiError> {
    let role = reader.required_text("role")?;
    let message = match role.as_str() {
        "system" | "developer" => plain(&mut reader, Role::System)?,
        "user" => plain(&mut reader, Role::User)?,
        "assistant" => assistant(&mut reader)?,
        "tool" => tool(&mut reader)?,
        "function" => {
            return Err(ApiError::unsupported(
                reader.path("role"),
                "use the role tool, with a tool_call_id, instead of function",
            ));
        }
        other => {
            return Err(ApiError::invalid(
                reader.path("role"),
                format!("expected system, developer, user, assistant or tool, got {}", quoted(other)),
            ));
        }
    };
    if reader.has("name") {
        return Err(ApiError::unsupported(
            reader.path("name"),
            "chat templates have no names; write who speaks into the content",
        ));
    }
    reader.finish_all(&["role", "content", "tool_calls", "tool_call_id", "reasoning_content"])?;
    Ok(message)
}

fn plain(reader: &mut Reader, role: Role) -> Result<Message, ApiError> {
    let path = reader.path("content");
    let parts = content(reader.required("content")?, &path, role == Role::User)?;
    Ok(Message { role, parts })
}

/// What an assistant said before. Everything that an answer's message holds can be sent back as it is.
fn assistant(reader: &mut Reader) -> Result<Message, ApiError> {
    let mut parts = Vec::new();
    let reasoning = match (reader.text("reasoning_content")?, reader.text("reasoning")?) {
        (Some(a), Some(b)) if a != b => {
            return Err(ApiError::invalid(
                reader.path("reasoning"),
                "it differs from reasoning_content, which means the same: send one of them",
            ));
        }
        (a, b) => a.or(b),
    };
    if let Some(text) = reasoning.filter(|text| !text.is_empty()) {
        parts.push(Part::Reasoning { text });
    }
    let path = reader.path("content");
    if let Some(value) = reader.take("content") {
        parts.extend(content(value, &path, false)?);
    }
    if let Some(text) = reader.text("refusal")?.filter(|text| !text.is_empty()) {
        parts.push(Part::Text { text });
    }
    if let Some(value) = reader.take("annotations")
        && value.as_array().is_none_or(|items| !items.is_empty())
    {
        return Err(ApiError::unsupported(reader.path("annotations"), "leave it out or send []"));
    }
    let path = reader.path("tool_calls");
    match reader.take("tool_calls") {
        None => {}
        Some(Value::Array(calls)) if calls.len() <= CALLS_MAX => {
            for (i, call) in calls.into_iter().enumerate() {
                parts.push(Part::ToolCall(tool_call(Reader::object(call, format!("{path}[{i}]"))?)?));
            }
        }
        Some(Value::Array(_)) => {
            return Err(ApiError::invalid(path, format!("expected at most {CALLS_MAX} calls")));
        }
        Some(other) => return Err(wrong_type(path, "an array of tool calls", &other)),
    }
    if parts.is_empty() {
        return Err(ApiError::missing(reader.path("content")));
    }
    Ok(Message { role: Role::Assistant, parts })
}

fn tool_call(mut reader: Reader) -> Result<ToolCall, ApiError> {
    let id = short(&mut reader, "id")?;
    if let Some(kind) = reader.text("type")?
        && kind != "function"
    {
        return Err(ApiError::unsupported(reader.path("type"), "the one type of call is function"));
    }
    // Streamed calls carry an index, and callers send them back whole.
    let _ = reader.integer("index", 0..=i64::from(u32::MAX))?;
    let mut function = Reader::object(reader.required("function")?, reader.path("function"))?;
    let name = short(&mut function, "name")?;
    let arguments = function.required_text("arguments")?;
    function.finish_all(&["name", "arguments"])?;
    reader.finish_all(&["id", "type", "function", "index"])?;
    Ok(ToolCall { id, name, arguments })
}

fn tool(reader: &mut Reader) -> Result<Message, ApiError> {
    let call_id = short(reader, "tool_call_id")?;
    let name = if reader.has("name") { Some(short(reader, "name")?) } else { None };
    let path = reader.path("content");
    let parts = content(reader.required("content")?, &path, false)?;
    let text = Message { role: Role::Tool, parts }.plain_text();
    Ok(Message { role: Role::Tool, parts: vec![Part::ToolResult { call_id, name, text }] })
}

fn short(reader: &mut Reader, name: &str) -> Result<String, ApiError> {
    let text = reader.required_text(name)?;
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(ApiError::invalid(
            reader.path(name),
            format!("expected 1 to {ID_BYTES_MAX} bytes, got {}", text.len()),
        ));
    }
    Ok(text)
}

/// A string, or an array of parts.
fn content(value: Value, path: &str, images: bool) -> Result<Vec<Part>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Part::Text { text }]),
        Value::Array(items) => items,
        other => return Err(wrong_type(path, "a string or an array of parts", &other)),
    };
    if items.is_empty() || items.len() > PARTS_MAX {
        return Err(ApiError::invalid(path, format!("expected 1 to {PARTS_MAX} parts, got {}", items.len())));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| part(Reader::object(item, format!("{path}[{i}]"))?, images))
        .collect()
}

fn part(mut reader: Reader, images: bool) -> Result<Part, ApiError> {
    let kind = reader.required_text("type")?;
    let part = match kind.as_str() {
        "text" => Part::Text { text: reader.required_text("text")? },
        "image_url" if images => {
            let path = reader.path("image_url");
            let url = match reader.required("image_url")? {
                Value::String(url) => url,
                object => {
                    let mut inner = Reader::object(object, path.as_str())?;
                    let url = inner.required_text("url")?;
                    if let Some(detail) = inner.text("detail")?
                        && detail != "auto"
                    {
                        return Err(ApiError::unsupported(
                            inner.path("detail"),
                            "images are used as they are; leave detail out or send auto",
                        ));
                    }
                    inner.finish_all(&["url", "detail"])?;
                    url
                }
            };
            data_url(&url).ok_or_else(|| {
                ApiError::invalid(
                    path,
                    "expected a data: URL such as data:image/png;base64,…; nothing is fetched from the network",
                )
            })?
        }
        "refusal" => Part::Text { text: reader.required_text("refusal")? },
        other => {
            let offered = if images { "text and image_url" } else { "text" };
            return Err(ApiError::unsupported(
                reader.path("type"),
                format!("parts here may be {offered}, got {}", shown(&Value::from(other))),
            ));
        }
    };
    reader.finish_all(&["type", "text", "image_url"])?;
    Ok(part)
}

fn data_url(url: &str) -> Option<Part> {
    use base64::Engine as _;
    let (media_type, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    let subtype = media_type.strip_prefix("image/")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    if subtype.is_empty() || subtype.len() > 64 || !subtype.chars().all(plain) {
        return None;
    }
    let data = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
    (!data.is_empty()).then(|| Part::Image { media_type: media_type.to_owned(), data })
}
