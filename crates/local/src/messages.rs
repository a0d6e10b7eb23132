//! Messages as Hugging Face's chat templates expect them.

use std::collections::HashMap;

use levain_chat::{Message, Part, ProviderError, Role, Tool};
use serde_json::{Map, Value, json};

use crate::guide::invalid;

/// How a template wants the arguments of earlier tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// As an object: nearly all.
    Object,
    /// As JSON text: DeepSeek's first templates put it between strings.
    Text,
}

/// The conversation as the value of a template's `messages`.
///
/// # Errors
/// Parts where no template could put them.
pub(crate) fn to_template(messages: &[Message], arguments: Arguments) -> Result<Vec<Value>, ProviderError> {
    if messages.is_empty() {
        return Err(invalid("messages", "a conversation has at least one message".to_owned()));
    }
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut out = Vec::with_capacity(messages.len());
    refuse_images(messages)?;
    for message in messages {
        match message.role {
            Role::Assistant => out.push(assistant(message, arguments, &mut names)?),
            Role::System | Role::User | Role::Tool => {
                results(message, &names, &mut out);
                refuse_misplaced(message)?;
                let has_results = message.parts.iter().any(|part| matches!(part, Part::ToolResult { .. }));
                let text = message.plain_text();
                if !has_results || !text.is_empty() {
                    out.push(json!({"role": message.role.as_str(), "content": text}));
                }
            }
        }
    }
    Ok(out)
}

/// Whether calls or their results are part of the conversation.
pub(crate) fn has_tool_parts(messages: &[Message]) -> bool {
    messages.iter().any(|message| {
        message.role == Role::Tool
            || message.parts.iter().any(|part| matches!(part, Part::ToolCall(_) | Part::ToolResult { .. }))
    })
}

/// Functions as the value of a template's `tools`.
pub(crate) fn tools_to_template(tools: &[Tool]) -> Value {
    let tool = |tool: &Tool| {
        let mut function = Map::new();
        function.insert("name".into(), tool.name.clone().into());
        if let Some(description) = &tool.description {
            function.insert("description".into(), description.clone().into());
        }
        let parameters = match &tool.parameters {
            Value::Null => json!({"type": "object", "properties": {}}),
            other => other.clone(),
        };
        function.insert("parameters".into(), parameters);
        json!({"type": "function", "function": function})
    };
    tools.iter().map(tool).collect()
}

fn assistant<'a>(
    message: &'a Message,
    arguments: Arguments,
    names: &mut HashMap<&'a str, &'a str>,
) -> Result<Value, ProviderError> {
    let (mut reasoning, mut calls) = (String::new(), Vec::new());
    for part in &message.parts {
        match part {
            Part::Text { .. } => {}
            Part::Reasoning { text } => reasoning.push_str(text),
            Part::ToolCall(call) => {
                names.insert(&call.id, &call.name);
                // What is no JSON stays the text that it is.
                let parsed = (arguments == Arguments::Object)
                    .then(|| serde_json::from_str(&call.arguments).ok())
                    .flatten();
                let value: Value = parsed.unwrap_or_else(|| call.arguments.clone().into());
                calls.push(json!({
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": value},
                }));
            }
            Part::Image { .. } => {}
            Part::ToolResult { .. } => {
                return Err(invalid(
                    "messages",
                    "an assistant message can't hold a tool's result".to_owned(),
                ));
            }
        }
    }
    let text = message.plain_text();
    let mut out = Map::new();
    out.insert("role".into(), "assistant".into());
    // Templates tell a call without words from one with words by this being none.
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
    out.insert("content".into(), content);
    if !reasoning.is_empty() {
        out.insert("reasoning_content".into(), reasoning.into());
    }
    if !calls.is_empty() {
        out.insert("tool_calls".into(), calls.into());
    }
    Ok(out.into())
}

/// Results stand as messages of their own, before what else the message says.
fn results(message: &Message, names: &HashMap<&str, &str>, out: &mut Vec<Value>) {
    for part in &message.parts {
        let Part::ToolResult { call_id, name, text } = part else { continue };
        let mut result = Map::new();
        result.insert("role".into(), "tool".into());
        result.insert("content".into(), text.clone().into());
        result.insert("tool_call_id".into(), call_id.clone().into());
        if let Some(name) = name.as_deref().or_else(|| names.get(call_id.as_str()).copied()) {
            result.insert("name".into(), name.into());
        }
        out.push(result.into());
    }
}

fn refuse_misplaced(message: &Message) -> Result<(), ProviderError> {
    for part in &message.parts {
        match part {
            Part::Reasoning { .. } | Part::ToolCall(_) => {
                let role = message.role.as_str();
                let message =
                    format!("a {role} message can't hold thinking or a tool call; only the assistant's can");
                return Err(invalid("messages", message));
            }
            Part::Text { .. } | Part::Image { .. } | Part::ToolResult { .. } => {}
        }
    }
    Ok(())
}

/// Parts of a user's message are in the order in which the caller wrote them.
fn refuse_images(messages: &[Message]) -> Result<(), ProviderError> {
    for (i, message) in messages.iter().enumerate() {
        if let Some(k) = message.parts.iter().position(|part| matches!(part, Part::Image { .. })) {
            return Err(ProviderError::unsupported(
                format!("messages[{i}].content[{k}].image_url"),
                "this model reads text only; leave the images out, or ask a model that sees",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use levain_chat::ToolCall;

    use super::*;

    fn call(id: &str, arguments: &str) -> Part {
        Part::ToolCall(ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into() })
    }

    fn result(id: &str) -> Part {
        Part::ToolResult { call_id: id.into(), name: None, text: "21".into() }
    }

    #[test]
    fn a_conversation_with_thinking_and_tools() {
        let messages = [
            Message::text(Role::System, "s"),
            Message::text(Role::User, "u"),
            Message {
                role: Role::Assistant,
                parts: vec![
                    Part::Reasoning { text: "hm".into() },
                    call("1", "{\"a\": 1}"),
                    call("2", "{oops"),
                ],
            },
            Message { role: Role::Tool, parts: vec![result("1")] },
            Message { role: Role::User, parts: vec![result("2"), Part::Text { text: "go on".into() }] },
            Message { role: Role::Assistant, parts: vec![] },
        ];
        let function = |arguments: Value| json!({"name": "f", "arguments": arguments});
        let tool = |id: &str| json!({"role": "tool", "content": "21", "tool_call_id": id, "name": "f"});
        assert_eq!(
            Value::from(to_template(&messages, Arguments::Object).unwrap()),
            json!([
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                    {"id": "1", "type": "function", "function": function(json!({"a": 1}))},
                    {"id": "2", "type": "function", "function": function(json!("{oops"))},
                ]},
                tool("1"),
                tool("2"),
                {"role": "user", "content": "go on"},
                {"role": "assistant", "content": ""},
            ])
        );
        let text = to_template(&messages, Arguments::Text).unwrap();
        assert_eq!(text[2]["tool_calls"][0]["function"]["arguments"], json!("{\"a\": 1}"));
        assert!(has_tool_parts(&messages) && !has_tool_parts(&messages[..2]));
    }

    #[test]
    fn what_no_template_can_take_is_refused() {
        let image = Part::Image { media_type: "image/png".into(), data: vec![1] };
        for (parts, role, unsupported) in [
            (vec![image.clone()], Role::User, true),
            (vec![image], Role::Assistant, true),
            (vec![call("1", "{}")], Role::User, false),
            (vec![Part::Reasoning { text: "x".into() }], Role::System, false),
            (vec![result("1")], Role::Assistant, false),
        ] {
            let error = to_template(&[Message { role, parts }], Arguments::Object).unwrap_err();
            let param = if unsupported { "messages[0].content[0].image_url" } else { "messages" };
            assert_eq!(error.param(), Some(param));
            assert_eq!(matches!(error, ProviderError::Unsupported { .. }), unsupported);
        }
        assert!(to_template(&[], Arguments::Object).is_err());
    }
}
