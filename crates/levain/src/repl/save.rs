//! A conversation as a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use levain_chat::{Message, Part, Role};
use serde_json::json;

use crate::error::CliError;

/// Writes a new file; one that exists is left alone.
pub(crate) fn save(path: &Path, model: &str, messages: &[Message]) -> Result<(), CliError> {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let text = if is_json { as_json(model, messages)? } else { as_markdown(model, messages) };
    let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::input_with(format!("{} exists already", path.display()), "choose another name")
        }
        _ => CliError::Io { action: "write", path: path.to_owned(), source },
    })
}

/// The messages in the form that APIs take.
fn as_json(model: &str, messages: &[Message]) -> Result<String, CliError> {
    let messages: Vec<_> = messages
        .iter()
        .map(|message| {
            let mut out = json!({ "role": message.role.as_str(), "content": message.plain_text() });
            let reasoning = reasoning(message);
            if !reasoning.is_empty() {
                out["reasoning_content"] = json!(reasoning);
            }
            out
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "model": model, "messages": messages }));
    text.map(|text| text + "\n").map_err(|error| CliError::Internal(error.to_string()))
}

fn as_markdown(model: &str, messages: &[Message]) -> String {
    let mut text = format!("# Conversation with {model}\n");
    for message in messages {
        let title = match message.role {
            Role::System => "System",
            Role::User => "Question",
            Role::Assistant => "Answer",
            Role::Tool => "Tool",
        };
        text += &format!("\n## {title}\n");
        let reasoning = reasoning(message);
        if !reasoning.is_empty() {
            let quoted: Vec<String> = reasoning.trim().lines().map(|line| format!("> {line}")).collect();
            text += &format!("\n{}\n", quoted.join("\n"));
        }
        text += &format!("\n{}\n", message.plain_text().trim());
    }
    text
}

fn reasoning(message: &Message) -> String {
    let parts = message.parts.iter().filter_map(|part| match part {
        Part::Reasoning { text } => Some(text.as_str()),
        _ => None,
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_kept_apart_in_both_forms() {
        let answer = Message {
            role: Role::Assistant,
            parts: vec![Part::Reasoning { text: "hm\nwell".into() }, Part::Text { text: "4".into() }],
        };
        let messages = [Message::text(Role::User, "2+2?"), answer];
        assert_eq!(
            as_markdown("m", &messages),
            "# Conversation with m\n\n## Question\n\n2+2?\n\n## Answer\n\n> hm\n> well\n\n4\n"
        );
        let json: serde_json::Value = serde_json::from_str(&as_json("m", &messages).unwrap()).unwrap();
        assert_eq!(
            json["messages"][1],
            json!({"role":"assistant","content":"4","reasoning_content":"hm\nwell"})
        );
    }
}
