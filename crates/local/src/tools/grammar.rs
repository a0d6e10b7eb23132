//! Grammars, in Lark syntax as llguidance reads it, that force tool calls in a family's own syntax.

use std::fmt::Write;

use levain_chat::{ProviderError, Tool};
use serde_json::{Value, json};

use crate::guide::{Piece, SchemaText, Text};

use super::{
    CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, MISTRAL_CALLS, TOOL_CALL, TOOL_CALL_END, TOOL_SEP,
    ToolSyntax,
};

/// Bytes of a function's name that a grammar may hold.
const TOOL_NAME_BYTES_MAX: usize = 64;

/// Calls as a grammar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallGrammar {
    /// Lark rules; the rule `calls` is the whole of it.
    pub(crate) rules: String,
    /// The schemas of the functions' arguments, which stand in the rules by name.
    pub(crate) schemas: Vec<Piece>,
}

/// Where the grammar begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// With the mark that opens the first call.
    Mark,
    /// Behind [`trigger`], for one call that the model has opened by itself.
    Trigger,
}

/// The text behind which a call that the model opens by itself is constrained.
pub(crate) fn trigger(syntax: ToolSyntax) -> &'static str {
    match syntax {
        ToolSyntax::Hermes => TOOL_CALL,
        ToolSyntax::Llama3 => "{\"name\": \"",
        ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31 => CALL_BEGIN,
        ToolSyntax::Mistral => MISTRAL_CALLS,
    }
}

/// The grammar of calls of these functions. `exact` says which functions' arguments follow their schema; those
/// of the others are any object.
///
/// # Errors
/// A name that no grammar can hold, or parameters that are not an object's schema.
pub(crate) fn call_grammar(
    syntax: ToolSyntax,
    tools: &[&Tool],
    exact: impl Fn(&Tool) -> bool,
    parallel: bool,
    from: From,
) -> Result<CallGrammar, ProviderError> {
    let mut rules = String::new();
    let mut schemas: Vec<Piece> = Vec::new();
    let several = parallel && syntax.parallel() && from == From::Mark;
    let call = match (syntax, from) {
        (ToolSyntax::Hermes, From::Mark) => {
            let more = if several { " (\"\\n\" call)*" } else { "" };
            format!(
                "calls: call{more}\ncall: {} body {}\n",
                quoted("<tool_call>\n"),
                quoted("\n</tool_call>")
            )
        }
        (ToolSyntax::Hermes, From::Trigger) => {
            format!("calls: \"\\n\"? body \"\\n\"? {}\n", quoted(TOOL_CALL_END))
        }
        (ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31, From::Mark) => {
            let more = match syntax {
                _ if !several => "",
                ToolSyntax::DeepSeek => " (\"\\n\" call)*",
                _ => " call*",
            };
            format!(
                "calls: {} call{more} {}\ncall: {} body {}\n",
                quoted(CALLS_BEGIN),
                quoted(CALLS_END),
                quoted(CALL_BEGIN),
                quoted(CALL_END)
            )
        }
        (ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31, From::Trigger) => {
            format!("calls: body {}\n", quoted(CALL_END))
        }
        (ToolSyntax::Mistral, _) => {
            let mark = if from == From::Mark { quoted(MISTRAL_CALLS) } else { String::new() };
            let more = if parallel { " (\", \" body)*" } else { "" };
            format!("calls: {mark} \"[\" body{more} \"]\"\n")
        }
        (ToolSyntax::Llama3, _) => "calls: body\n".to_owned(),
    };
    rules.push_str(&call);
    rules.push_str("body: ");
    for at in 0..tools.len() {
        let _ = write!(rules, "{}call_{at}", if at == 0 { "" } else { " | " });
    }
    rules.push('\n');
    for (at, tool) in tools.iter().enumerate() {
        check_name(&tool.name)?;
        let name = &tool.name;
        let (before, after) = match (syntax, from) {
            (ToolSyntax::Hermes | ToolSyntax::Mistral, _) => {
                (format!("{{\"name\": \"{name}\", \"arguments\": "), "}")
            }
            (ToolSyntax::Llama3, From::Mark) => (format!("{{\"name\": \"{name}\", \"parameters\": "), "}"),
            (ToolSyntax::Llama3, From::Trigger) => (format!("{name}\", \"parameters\": "), "}"),
            (ToolSyntax::DeepSeek, _) => (format!("function{TOOL_SEP}{name}\n```json\n"), "\n```"),
            (ToolSyntax::DeepSeekV31, _) => (format!("{name}{TOOL_SEP}"), ""),
        };
        let (schema, name) = if exact(tool) {
            (arguments_schema(tool)?, format!("schema_{at}"))
        } else {
            (json!({"type": "object"}), "any_object".to_owned())
        };
        let after = if after.is_empty() { String::new() } else { quoted(after) };
        let _ = writeln!(rules, "call_{at}: {} @{name} {after}", quoted(&before));
        if !schemas.iter().any(|piece| piece.name == name) {
            let tool_name = exact(tool).then(|| tool.name.clone());
            let lenient = tool.strict == Some(false);
            let text = SchemaText { schema, lenient, compact: true, tool: tool_name };
            schemas.push(Piece { name, text: Text::Schema(text) });
        }
    }
    Ok(CallGrammar { rules, schemas })
}

/// Refuses names that would need escapes; every vendor's rule is at least as narrow.
pub(crate) fn check_name(name: &str) -> Result<(), ProviderError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX || !name.chars().all(fits) {
        return Err(ProviderError::Invalid {
            param: "tools".into(),
            message: format!(
                "a function name has 1 to {TOOL_NAME_BYTES_MAX} letters, digits, `_`, `-` or `.`, and {:?} has not",
                name.chars().take(80).collect::<String>()
            ),
        });
    }
    Ok(())
}

/// The schema of a function's arguments: an object's, without further properties unless it allows them itself.
fn arguments_schema(tool: &Tool) -> Result<Value, ProviderError> {
    let refuse = || ProviderError::Invalid {
        param: "tools".into(),
        message: format!("the parameters of {:?} must be a JSON schema of type object", tool.name),
    };
    let mut schema = match &tool.parameters {
        Value::Null | Value::Bool(true) => json!({}),
        Value::Object(object) => Value::Object(object.clone()),
        _ => return Err(refuse()),
    };
    let object = schema.as_object_mut().ok_or_else(refuse)?;
    match object.get("type") {
        None => {
            object.insert("type".into(), json!("object"));
        }
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(refuse()),
    }
    let composed = ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|key| object.contains_key(*key));
    if !composed {
        object.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Ok(schema)
}

/// A Lark string literal.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
