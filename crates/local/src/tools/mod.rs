//! Tool calls in the model's own syntax: which one a chat template uses, how calls are read from streaming
//! text, and the grammar that forces them.

mod call_object;
mod grammar;
mod json;
mod parser;

use serde_json::{Value, json};

pub(crate) use grammar::{From, call_grammar, check_name, trigger};
pub use parser::ToolParser;

/// How a family of models writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolSyntax {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3 and many more.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole answer, or behind `<|python_tag|>`: Llama 3.1 and later.
    Llama3,
    /// `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name`, then a fenced block of JSON:
    /// DeepSeek V3 and R1, and R1's distilled models.
    DeepSeek,
    /// The same marks without the type and the fence: DeepSeek V3.1.
    DeepSeekV31,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral.
    Mistral,
}

/// A piece of an answer in which tool calls may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolPiece {
    /// Text outside calls; `start` is the offset of its first byte in the text that was pushed.
    Text {
        /// Offset in bytes.
        start: u64,
        /// Never empty.
        text: String,
    },
    /// A call begins.
    CallStart {
        /// The function's name.
        name: String,
    },
    /// More of the latest call's arguments.
    Arguments(String),
}

pub(crate) const TOOL_CALL: &str = "<tool_call>";
pub(crate) const TOOL_CALL_END: &str = "</tool_call>";
pub(crate) const PYTHON_TAG: &str = "<|python_tag|>";
pub(crate) const MISTRAL_CALLS: &str = "[TOOL_CALLS]";
pub(crate) const MISTRAL_ARGS: &str = "[ARGS]";
pub(crate) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(crate) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(crate) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(crate) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(crate) const TOOL_SEP: &str = "<｜tool▁sep｜>";

impl ToolSyntax {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hermes, Self::Llama3, Self::DeepSeek, Self::DeepSeekV31, Self::Mistral];

    /// The syntax that a chat template writes calls in; `None` if it knows no tools or an unknown syntax.
    #[must_use]
    pub fn detect(template: &str) -> Option<Self> {
        if template.contains(CALLS_BEGIN) {
            // Only the older form fences the arguments.
            return Some(if template.contains("```json") { Self::DeepSeek } else { Self::DeepSeekV31 });
        }
        if template.contains(TOOL_CALL) {
            // `<function=name>` is another syntax inside the same tags.
            return (!template.contains("<function=")).then_some(Self::Hermes);
        }
        if template.contains(MISTRAL_CALLS) {
            return Some(Self::Mistral);
        }
        let llama = template.contains("<|start_header_id|>") && template.contains("\"parameters\"");
        llama.then_some(Self::Llama3)
    }

    /// Marks that may be control tokens of the vocabulary and have to be read as text all the same.
    #[must_use]
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[TOOL_CALL, TOOL_CALL_END],
            Self::Llama3 => &[PYTHON_TAG],
            Self::DeepSeek | Self::DeepSeekV31 => &[CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, TOOL_SEP],
            Self::Mistral => &[MISTRAL_CALLS, MISTRAL_ARGS],
        }
    }

    /// The texts with which a call can begin anywhere in an answer.
    #[must_use]
    pub fn openers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[TOOL_CALL],
            Self::Llama3 => &[PYTHON_TAG],
            Self::DeepSeek | Self::DeepSeekV31 => &[CALLS_BEGIN, CALL_BEGIN],
            Self::Mistral => &[MISTRAL_CALLS],
        }
    }

    /// The marks that close a call, if it has some of its own.
    pub(crate) fn call_ends(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[TOOL_CALL_END],
            Self::DeepSeek | Self::DeepSeekV31 => &[CALL_END, CALLS_END],
            Self::Llama3 | Self::Mistral => &[],
        }
    }

    /// Whether one answer can hold several calls.
    #[must_use]
    pub fn parallel(self) -> bool {
        self != Self::Llama3
    }
}

/// Tells the model of functions in a system message, for templates that know calls but don't offer functions.
pub(crate) fn describe(syntax: ToolSyntax, tools: &Value, messages: &mut Vec<Value>) {
    let example = match syntax {
        ToolSyntax::Hermes => {
            format!("{TOOL_CALL}\n{{\"name\": NAME, \"arguments\": ARGUMENTS}}\n{TOOL_CALL_END}")
        }
        ToolSyntax::Llama3 => "{\"name\": NAME, \"parameters\": ARGUMENTS}".to_owned(),
        ToolSyntax::DeepSeek => format!(
            "{CALLS_BEGIN}{CALL_BEGIN}function{TOOL_SEP}NAME\n```json\nARGUMENTS\n```{CALL_END}{CALLS_END}"
        ),
        ToolSyntax::DeepSeekV31 => {
            format!("{CALLS_BEGIN}{CALL_BEGIN}NAME{TOOL_SEP}ARGUMENTS{CALL_END}{CALLS_END}")
        }
        ToolSyntax::Mistral => format!("{MISTRAL_CALLS}[{{\"name\": NAME, \"arguments\": ARGUMENTS}}]"),
    };
    let text = format!(
        "You can call functions. Their descriptions, with a JSON schema of their arguments:\n{tools}\n\nTo call one, \
         answer in exactly this form, NAME being its name and ARGUMENTS a JSON object:\n{example}\nCall a function \
         only where it helps, and only those above."
    );
    let first = messages.first_mut().filter(|message| message["role"] == "system");
    match first.and_then(|message| message.get_mut("content")) {
        Some(Value::String(content)) => *content = format!("{content}\n\n{text}"),
        _ => messages.insert(0, json!({"role": "system", "content": text})),
    }
}
