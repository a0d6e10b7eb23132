//! The content of a message: a text, or parts.

use levain_chat::{Part, Role};
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, quoted, wrong_length, wrong_type};
use super::table::{IMAGE_PART, IMAGE_URL, REFUSAL_PART, TEXT_PART, THINKING_PART};

const PARTS_MAX: usize = 1024;

/// A string, or an array of parts.
pub(super) fn content(value: Value, path: &str, role: Role) -> Result<Vec<Part>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Part::Text { text }]),
        Value::Array(items) => items,
        other => return Err(wrong_type(path, "one of a string or array of objects", &other)),
    };
    if items.is_empty() || items.len() > PARTS_MAX {
        return Err(wrong_length(path, PARTS_MAX, items.len()));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| part(Reader::object(item, format!("{path}[{i}]"))?, role))
        .collect()
}

fn part(mut reader: Reader, role: Role) -> Result<Part, ApiError> {
    let kind = reader.required_text("type")?;
    let (part, table) = match (kind.as_str(), role) {
        ("text" | "input_text" | "output_text", _) => {
            (Part::Text { text: reader.required_text("text")? }, TEXT_PART)
        }
        ("image_url", Role::User) => (image(&mut reader)?, IMAGE_PART),
        ("refusal", Role::Assistant) => (Part::Text { text: reader.required_text("refusal")? }, REFUSAL_PART),
        ("thinking", Role::Assistant) => {
            (Part::Reasoning { text: reader.required_text("thinking")? }, THINKING_PART)
        }
        _ => return Err(no_such_part(&reader, &kind, role)),
    };
    reader.finish(&[table])?;
    Ok(part)
}

fn no_such_part(reader: &Reader, kind: &str, role: Role) -> ApiError {
    // The field that holds it, where there is one.
    let at = if reader.get(kind).is_some() { kind } else { "type" };
    let refused = |message| ApiError::unsupported_value(reader.path(at), message);
    match kind {
        "image_url" | "input_image" | "image" => refused("images may stand in user messages, as image_url"),
        "input_audio" | "audio_url" | "audio" => {
            refused("models here do not hear: send a transcript as text")
        }
        "video_url" | "video" => refused("models here do not see videos: send a description as text"),
        "file" | "input_file" | "document" => refused("files are not read: send what they say as text"),
        "tool_use" | "tool_call" => refused("send calls as tool_calls of the assistant's message"),
        "tool_result" => refused("send results as messages of the role tool"),
        _ => {
            let words: &[&str] = match role {
                Role::User => &["text", "image_url"],
                Role::Assistant => &["text", "refusal", "thinking"],
                Role::System | Role::Tool => &["text"],
            };
            ApiError::none_of(reader.path("type"), &quoted(kind), words)
        }
    }
}

fn image(reader: &mut Reader) -> Result<Part, ApiError> {
    let path = reader.path("image_url");
    let url = match reader.required("image_url")? {
        Value::String(url) => url,
        object => {
            let mut inner = Reader::object(object, path.as_str())?;
            let url = inner.required_text("url")?;
            inner.finish(&[IMAGE_URL])?;
            url
        }
    };
    data_url(&url).ok_or_else(|| {
        ApiError::invalid(
            path,
            "expected a data: URL such as data:image/png;base64,…, as nothing is fetched from the network; and only \
             models that see take images",
        )
    })
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
