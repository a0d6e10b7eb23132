//! Whether an answer goes on with the last message: in the words of vLLM and transformers (`continue_final_message`,
//! `add_generation_prompt`), of DeepSeek and Mistral (`prefix` in the message) and of Qwen and Kimi (`partial` there).

use levain_chat::Turn;
use serde_json::Value;

use super::error::ApiError;
use super::reader::{Reader, wrong_type};

const CONTINUE: &str = "continue_final_message";
const NEW: &str = "add_generation_prompt";
const IN_MESSAGE: [&str; 2] = ["prefix", "partial"];

/// Takes these words out of the request and its messages.
pub(super) fn read(reader: &mut Reader, messages: &mut Value) -> Result<Turn, ApiError> {
    let (wanted, new) = (reader.flag(CONTINUE)?, reader.flag(NEW)?);
    if wanted == Some(true) && new == Some(true) {
        return Err(ApiError::invalid(
            CONTINUE,
            "it contradicts add_generation_prompt, which begins a new turn: send one of them",
        ));
    }
    let marked = marked(messages)?;
    if let Some(path) = marked {
        return match (wanted, new) {
            (Some(false), _) => {
                Err(ApiError::invalid(path, "it contradicts continue_final_message: send one of them"))
            }
            (_, Some(true)) => {
                Err(ApiError::invalid(path, "it contradicts add_generation_prompt: send one of them"))
            }
            _ => Ok(Turn::Continue),
        };
    }
    if wanted == Some(true) && !last_role(messages).is_some_and(|role| role == "assistant") {
        return Err(ApiError::invalid(
            CONTINUE,
            "the last message is not an assistant's: only such a one can be continued",
        ));
    }
    Ok(match (wanted, new) {
        (Some(true), _) => Turn::Continue,
        (_, Some(true)) | (Some(false), None) => Turn::New,
        (_, Some(false)) => Turn::None,
        (None, None) => Turn::Auto,
    })
}

/// The path of the mark in the last message, if there is one; a mark anywhere else is refused.
fn marked(messages: &mut Value) -> Result<Option<String>, ApiError> {
    let Some(items) = messages.as_array_mut() else { return Ok(None) };
    let last = items.len().saturating_sub(1);
    let mut found = None;
    for (i, item) in items.iter_mut().enumerate() {
        let Some(message) = item.as_object_mut() else { continue };
        for name in IN_MESSAGE {
            let path = format!("messages[{i}].{name}");
            match message.swap_remove(name) {
                None | Some(Value::Null | Value::Bool(false)) => continue,
                Some(Value::Bool(true)) => {}
                Some(other) => return Err(wrong_type(path, "a boolean", &other)),
            }
            if i != last {
                return Err(ApiError::invalid(path, "only the last message can be continued"));
            }
            if message.get("role").is_none_or(|role| role != "assistant") {
                return Err(ApiError::invalid(path, "only an assistant's message can be continued"));
            }
            found = Some(path);
        }
    }
    Ok(found)
}

fn last_role(messages: &Value) -> Option<&Value> {
    messages.as_array()?.last()?.get("role")
}
