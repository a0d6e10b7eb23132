//! Fields inside of others: messages, their parts, tools and options.

use super::Kind::{Any, Array, Flag, Integer, Object, Text};
use super::Takes::{Honoured, Noted, Only, Refused};
use super::{BOOKKEEPING, Field, HINT, Shape, field};

const LABEL: super::Takes = Noted("a label");
const CONTENT: super::Takes = Honoured("a string, or 1 to 1,024 parts");
const MESSAGE_NAME: super::Takes =
    Noted("templates name no speakers: write into the content who speaks where it matters");
const SAME_REASONING: super::Takes = Honoured("another name of reasoning_content");

const fn cache_control() -> Field {
    field("cache_control", Object, HINT)
}

const fn cache_breakpoint() -> Field {
    field("prompt_cache_breakpoint", Object, HINT)
}

/// What the items of `messages` may be.
pub const MESSAGES: &[Shape] = &[
    Shape { name: "a message of system, developer or user", fields: SPEECH, required: &["role", "content"] },
    Shape { name: "a message of assistant", fields: ASSISTANT, required: &["role"] },
    Shape { name: "a message of tool", fields: TOOL_RESULT, required: &["role", "tool_call_id"] },
];

/// Messages of system, developer and user.
pub const SPEECH: &[Field] = &[
    field("role", Text, Honoured("system, developer (the same) or user")),
    field("content", Any, CONTENT).holding(PARTS),
    field("name", Text, MESSAGE_NAME),
    field("type", Text, LABEL),
    field("id", Text, BOOKKEEPING),
    field("metadata", Object, BOOKKEEPING),
    cache_control(),
    cache_breakpoint(),
];

/// Messages of the assistant: whatever an answer's message holds can be sent back.
pub const ASSISTANT: &[Field] = &[
    field("role", Text, Honoured("assistant")),
    field(
        "content",
        Any,
        Honoured("a string, 1 to 1,024 parts, or null beside tool_calls or reasoning_content"),
    )
    .holding(PARTS),
    field("tool_calls", Array, Honoured("up to 128 calls")).holding(TOOL_CALLS),
    field("reasoning_content", Text, Honoured("the thinking before the answer, where the template keeps it")),
    field("reasoning", Text, SAME_REASONING),
    field("thinking", Text, SAME_REASONING),
    field(
        "reasoning_details",
        Array,
        Honoured(
            "objects with text or summary, where reasoning_content is absent; what is encrypted can't be read",
        ),
    ),
    field(
        "thinking_blocks",
        Array,
        Honoured("objects with thinking, where reasoning_content is absent; signatures have no meaning here"),
    ),
    field("refusal", Text, Honoured("read as text after the content")),
    field("prefix", Flag, Honoured("true in the last message: the answer goes on with it")),
    field("partial", Flag, Honoured("another name of prefix")),
    field("name", Text, MESSAGE_NAME),
    field("type", Text, LABEL),
    field("id", Text, BOOKKEEPING),
    field("metadata", Object, BOOKKEEPING),
    field("annotations", Array, Noted("remarks about the content, which says everything itself")),
    field("parsed", Any, Noted("the content once more, as a client read it")),
    field("provider_specific_fields", Object, BOOKKEEPING),
    cache_control(),
    cache_breakpoint(),
    field("audio", Object, Refused("messages are text only")),
    field("function_call", Object, Refused("send tool_calls, and the result as a message of tool")),
];

/// Messages of tools.
pub const TOOL_RESULT: &[Field] = &[
    field("role", Text, Honoured("tool")),
    field("tool_call_id", Text, Honoured("the id of the call that this answers")),
    field("content", Any, Honoured("a string or parts of text; null or empty where the tool said nothing"))
        .holding(PARTS),
    field("name", Text, Honoured("the function's name; absent: that of the call")),
    field("type", Text, LABEL),
    field("id", Text, BOOKKEEPING),
    field("metadata", Object, BOOKKEEPING),
    cache_control(),
    cache_breakpoint(),
];

/// What the parts of a content may be.
pub const PARTS: &[Shape] = &[
    Shape { name: "a part: text", fields: TEXT_PART, required: &["type", "text"] },
    Shape { name: "a part of user: image_url", fields: IMAGE_PART, required: &["type", "image_url"] },
    Shape { name: "a part of assistant: refusal", fields: REFUSAL_PART, required: &["type", "refusal"] },
    Shape { name: "a part of assistant: thinking", fields: THINKING_PART, required: &["type", "thinking"] },
];

/// A part of text.
pub const TEXT_PART: &[Field] = &[
    field("type", Text, Honoured("text; also input_text and output_text")),
    field("text", Text, Honoured("the text")),
    field("annotations", Array, Noted("remarks about the text, which says everything itself")),
    cache_control(),
    cache_breakpoint(),
];

/// An image.
pub const IMAGE_PART: &[Field] = &[
    field("type", Text, Honoured("image_url")),
    field(
        "image_url",
        Any,
        Honoured("{url} with a data: URL, as nothing is fetched; models that read text only refuse it"),
    )
    .holding(&[Shape { name: "image_url", fields: IMAGE_URL, required: &["url"] }]),
    cache_control(),
    cache_breakpoint(),
];

/// The inside of `image_url`.
pub const IMAGE_URL: &[Field] = &[
    field("url", Text, Honoured("for example data:image/png;base64,…")),
    field("detail", Text, Noted("images are taken as they are")),
];

/// A vendor's refusal.
pub const REFUSAL_PART: &[Field] = &[
    field("type", Text, Honoured("refusal")),
    field("refusal", Text, Honoured("read as text")),
    cache_control(),
    cache_breakpoint(),
];

/// Thinking among the parts.
pub const THINKING_PART: &[Field] = &[
    field("type", Text, Honoured("thinking")),
    field("thinking", Text, Honoured("as reasoning_content")),
    field("signature", Text, Noted("signatures have no meaning here")),
    cache_control(),
];

/// What the items of `tool_calls` are.
pub const TOOL_CALLS: &[Shape] =
    &[Shape { name: "a tool call", fields: TOOL_CALL, required: &["id", "function"] }];

/// A call that the assistant made.
pub const TOOL_CALL: &[Field] = &[
    field("id", Text, Honoured("joins the call to its result")),
    field("type", Text, Honoured("function")),
    field("function", Object, Honoured("{name, arguments}")).holding(&[Shape {
        name: "the function of a tool call",
        fields: CALLED,
        required: &["name", "arguments"],
    }]),
    field("index", Integer, Noted("calls are in the order of the array")),
    field("extra_content", Object, Noted("another vendor's signatures have no meaning here")),
    field("provider_specific_fields", Object, BOOKKEEPING),
    cache_control(),
];

/// The function of a call.
pub const CALLED: &[Field] = &[
    field("name", Text, Honoured("the function's name")),
    field("arguments", Text, Honoured("JSON in a string, as the model wrote it")),
    field("parsed_arguments", Any, Noted("the arguments once more, as a client read them")),
    field("provider_specific_fields", Object, BOOKKEEPING),
];

/// What the items of `tools` are.
pub const TOOLS: &[Shape] = &[Shape { name: "a tool", fields: TOOL, required: &["type", "function"] }];

/// A tool on offer.
pub const TOOL: &[Field] = &[
    field("type", Text, Honoured("function")),
    field("function", Object, Honoured("{name, description, parameters, strict}")).holding(&[Shape {
        name: "the function of a tool",
        fields: FUNCTION,
        required: &["name"],
    }]),
    cache_control(),
    cache_breakpoint(),
];

/// The function of a tool.
pub const FUNCTION: &[Field] = &[
    field("name", Text, Honoured("1 to 64 letters, digits, underscores and hyphens")),
    field("description", Text, Honoured("what it is for")),
    field(
        "parameters",
        Object,
        Honoured("a JSON schema of at most 64 KiB and 32 levels; absent: no parameters"),
    ),
    field(
        "strict",
        Flag,
        Honoured("true: arguments follow the schema even where the model may choose to call"),
    ),
    cache_control(),
];

/// `tool_choice` as an object.
pub const TOOL_CHOICE: &[Field] = &[
    field("type", Text, Honoured("function")),
    field("function", Object, Honoured("{name} of one of tools")),
];

/// `stream_options`.
pub const STREAM_OPTIONS: &[Field] = &[
    field("include_usage", Flag, Honoured("true: send the token counts before the end")),
    field("include_obfuscation", Flag, Only(&["false"], "Chunks are not padded.")),
    field("continuous_usage_stats", Flag, Only(&["false"], "Counts come once, at the end.")),
];

/// `thinking`.
pub const THINKING: &[Field] = &[
    field("type", Text, Honoured("enabled or disabled")),
    field("budget_tokens", Integer, Honoured("as max_reasoning_tokens")),
];

/// `reasoning`.
pub const REASONING: &[Field] = &[
    field("effort", Text, Honoured("as reasoning_effort")),
    field("max_tokens", Integer, Honoured("as max_reasoning_tokens")),
    field("enabled", Flag, Honoured("as enable_thinking")),
    field(
        "exclude",
        Flag,
        Only(&["false"], "Thinking comes apart from the content; skip reasoning_content."),
    ),
    field("summary", Text, Noted("thinking is sent as it is")),
];
