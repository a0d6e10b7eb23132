//! Tools, the choice among them, and the form of the answer.

use levain_chat::{ResponseFormat, Tool, ToolChoice};
use serde_json::{Value, json};

use super::error::ApiError;
use super::reader::{Reader, quoted, wrong_length, wrong_type};
use super::table::{FUNCTION, TOOL, TOOL_CHOICE};
use crate::json::{depth, text_len};

const TOOLS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 64;
const SCHEMA_BYTES_MAX: usize = 64 << 10;
const SCHEMA_DEPTH_MAX: usize = 32;
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// Reads `tools`.
pub(super) fn tools(value: Option<Value>) -> Result<Vec<Tool>, ApiError> {
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("tools", "an array of objects", &other)),
    };
    if items.len() > TOOLS_MAX {
        return Err(wrong_length("tools", TOOLS_MAX, items.len()));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let read = tool(Reader::object(item, format!("tools[{i}]"))?)?;
        if tools.iter().any(|tool| tool.name == read.name) {
            return Err(ApiError::invalid(
                format!("tools[{i}].function.name"),
                format!("{} is the name of an earlier tool", quoted(&read.name)),
            ));
        }
        tools.push(read);
    }
    Ok(tools)
}

fn tool(mut reader: Reader) -> Result<Tool, ApiError> {
    function_type(&mut reader)?;
    let mut function = Reader::object(reader.required("function")?, reader.path("function"))?;
    let name = name(&mut function)?.ok_or_else(|| ApiError::missing(function.path("name")))?;
    let description = function.text("description")?;
    let path = function.path("parameters");
    let parameters = match function.take("parameters") {
        None => json!({ "type": "object", "properties": {} }),
        Some(schema) => checked_schema(schema, &path)?,
    };
    let strict = function.flag("strict")?;
    function.finish(&[FUNCTION])?;
    reader.finish(&[TOOL])?;
    Ok(Tool { name, description, parameters, strict })
}

/// Reads `tool_choice`; what it names must be on offer.
pub(super) fn choice(value: Option<Value>, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let choice = match value {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(text)) => match text.as_str() {
            "auto" => return Ok(ToolChoice::Auto),
            "none" => return Ok(ToolChoice::None),
            "required" => ToolChoice::Required,
            other => {
                return Err(ApiError::none_of("tool_choice", &quoted(other), &["none", "auto", "required"]));
            }
        },
        Some(object) => {
            let mut reader = Reader::object(object, "tool_choice")?;
            function_type(&mut reader)?;
            let mut function = Reader::object(reader.required("function")?, reader.path("function"))?;
            let name = function.required_text("name")?;
            function.finish_all(&["name"])?;
            reader.finish(&[TOOL_CHOICE])?;
            if !tools.is_empty() && !tools.iter().any(|tool| tool.name == name) {
                return Err(ApiError::invalid(
                    "tool_choice.function.name",
                    format!("no tool is named {}", quoted(&name)),
                ));
            }
            ToolChoice::Named(name)
        }
    };
    if tools.is_empty() {
        return Err(ApiError::invalid("tool_choice", "there are no tools to choose from: send tools too"));
    }
    Ok(choice)
}

/// Reads `response_format`.
pub(super) fn response_format(value: Option<Value>) -> Result<ResponseFormat, ApiError> {
    let Some(value) = value else { return Ok(ResponseFormat::Text) };
    let mut reader = Reader::object(value, "response_format")?;
    let kind = reader.required_text("type")?;
    let format = match kind.as_str() {
        "text" => ResponseFormat::Text,
        "json_object" => ResponseFormat::JsonObject,
        "json_schema" => {
            let mut inner = Reader::object(reader.required("json_schema")?, reader.path("json_schema"))?;
            // The name and the description are labels: the schema alone rules the answer.
            name(&mut inner)?;
            inner.text("description")?;
            let strict = inner.flag("strict")?;
            let path = inner.path("schema");
            let schema = checked_schema(inner.required("schema")?, &path)?;
            inner.finish_all(&["name", "description", "strict", "schema"])?;
            ResponseFormat::JsonSchema { schema, strict }
        }
        "regex" => ResponseFormat::Regex(pattern(&mut reader, "regex")?),
        "grammar" => ResponseFormat::Grammar(pattern(&mut reader, "grammar")?),
        other => {
            return Err(ApiError::invalid(
                "response_format.type",
                format!("expected text, json_object, json_schema, regex or grammar, got {}", quoted(other)),
            ));
        }
    };
    reader.finish_all(&["type", "json_schema", "regex", "grammar"])?;
    Ok(format)
}

fn pattern(reader: &mut Reader, name: &str) -> Result<String, ApiError> {
    let text = reader.required_text(name)?;
    if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
        return Err(ApiError::invalid(
            reader.path(name),
            format!("expected 1 to {PATTERN_BYTES_MAX} bytes, got {}", text.len()),
        ));
    }
    Ok(text)
}

fn function_type(reader: &mut Reader) -> Result<(), ApiError> {
    let kind = reader.required_text("type")?;
    if kind == "function" {
        return Ok(());
    }
    Err(ApiError::unsupported_value(
        reader.path("type"),
        format!("the one type is function, got {}", quoted(&kind)),
    ))
}

fn name(reader: &mut Reader) -> Result<Option<String>, ApiError> {
    let Some(name) = reader.text("name")? else { return Ok(None) };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
        return Err(ApiError::invalid(
            reader.path("name"),
            format!(
                "expected 1 to {NAME_CHARS_MAX} letters, digits, underscores and hyphens, got {}",
                quoted(&name)
            ),
        ));
    }
    Ok(Some(name))
}

/// A schema small enough that compiling it is cheap.
fn checked_schema(schema: Value, path: &str) -> Result<Value, ApiError> {
    if !schema.is_object() {
        return Err(wrong_type(path, "a JSON schema, which is an object", &schema));
    }
    let (depth, bytes) = (depth(&schema), text_len(&schema));
    if depth > SCHEMA_DEPTH_MAX {
        return Err(ApiError::invalid(
            path,
            format!("the schema is {depth} levels deep, and {SCHEMA_DEPTH_MAX} are the most"),
        ));
    }
    if bytes > SCHEMA_BYTES_MAX {
        return Err(ApiError::invalid(
            path,
            format!("the schema has {bytes} bytes, and {SCHEMA_BYTES_MAX} are the most"),
        ));
    }
    Ok(schema)
}
