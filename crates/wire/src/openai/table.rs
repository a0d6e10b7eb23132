//! Every field of the dialect's requests and what becomes of it: the one place that documents them. The readers
//! judge fields by it and the OpenAPI description is made from it.

mod describe;
mod inner;
mod peers;

pub use describe::{markdown, schema};
pub use inner::{
    ASSISTANT, CALLED, FUNCTION, IMAGE_PART, IMAGE_URL, MESSAGES, PARTS, REASONING, REFUSAL_PART, SPEECH,
    STREAM_OPTIONS, TEXT_PART, THINKING, THINKING_PART, TOOL, TOOL_CALL, TOOL_CALLS, TOOL_CHOICE,
    TOOL_RESULT, TOOLS,
};
pub use peers::PEERS;

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// It does what it says; what may stand there, as a sentence.
    Honoured(&'static str),
    /// Any value is accepted, because none can change the answer; why.
    Noted(&'static str),
    /// Only these values (as JSON texts) are accepted, because they ask for what happens anyway; why others
    /// are refused.
    Only(&'static [&'static str], &'static str),
    /// Always refused; why, and what to do.
    Refused(&'static str),
}

/// JSON types of a field, for the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// True or false.
    Flag,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// An array.
    Array,
    /// An object.
    Object,
    /// More than one of these.
    Any,
}

/// A field of a request.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its JSON type.
    pub kind: Kind,
    /// What becomes of it.
    pub takes: Takes,
    /// What it holds, or its items, where those are objects with fields of their own.
    pub shapes: &'static [Shape],
}

/// An object inside of a field.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// What it is.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// The names of the fields that must be there.
    pub required: &'static [&'static str],
}

const fn field(name: &'static str, kind: Kind, takes: Takes) -> Field {
    Field { name, kind, takes, shapes: &[] }
}

impl Field {
    const fn holding(self, shapes: &'static [Shape]) -> Self {
        Self { shapes, ..self }
    }
}

const fn options(name: &'static str, fields: &'static [Field]) -> [Shape; 1] {
    [Shape { name, fields, required: &[] }]
}

use Kind::{Any, Array, Flag, Integer, Number, Object, Text};
use Takes::{Honoured, Noted, Only, Refused};

const BOOKKEEPING: Takes = Noted("for the caller's own bookkeeping");
const HINT: Takes = Noted("a hint for the vendor's caches; prefixes are cached here without it");
const TIER: Takes = Noted("there is one tier of service");
const MODEL: Takes = Honoured("a name that /v1/models lists; absent or empty: the first of them");
const STREAM: Takes = Honoured("true: answer as server-sent events");
const TEMPERATURE: Takes = Honoured("0 (greedy) to 2; absent: the model's own");
const TOP_P: Takes = Honoured("0 (the likeliest token) to 1");
const TOP_K: Takes = Honoured("0 or -1: all; at most 1,000,000");
const MIN_P: Takes = Honoured("0 to 1");
const REPETITION: Takes = Honoured("above 0, up to 2; 1 is off");
const SAME_REPETITION: Takes = Honoured("another name of repetition_penalty");
const PENALTY: Takes = Honoured("-2 to 2");
const BIAS: Takes = Honoured("token id to a number from -100 to 100; at most 1,024 entries");
const SEED: Takes = Honoured("any 64-bit integer; negative ones stand for their two's complement");
const STOP: Takes = Honoured("a string, or up to 16 of them, none empty, each of at most 1,024 bytes");
const N: Takes = Honoured("1 to 16");
const MAX_TOKENS: Takes =
    Honoured("1 or more: the most tokens to generate, reasoning included; -1: as many as fit");
const FORMAT: Takes = Honoured(
    "text, json_object, json_schema, and as extensions {type: regex, regex} and {type: grammar, grammar} (Lark)",
);

/// `POST /v1/chat/completions`, and the template part of `POST /apply-template`.
pub const CHAT: &[Field] = &[
    field("model", Text, MODEL),
    field(
        "messages",
        Array,
        Honoured(
            "1 to 4,096 messages of system, developer, user, assistant, tool; prefix or partial in the last: go on with it",
        ),
    )
    .holding(MESSAGES),
    field(
        "continue_final_message",
        Flag,
        Honoured(
            "true: go on with the last message, an assistant's; absent: the same; false: begin a new turn",
        ),
    ),
    field(
        "add_generation_prompt",
        Flag,
        Honoured("true: begin a new turn, whoever spoke last; false: end the prompt with the last message"),
    ),
    field("tools", Array, Honoured("up to 128 functions; a schema of at most 64 KiB and 32 levels each"))
        .holding(TOOLS),
    field("tool_choice", Any, Honoured("none, auto, required or {type: function, function: {name}}")),
    field("parallel_tool_calls", Flag, Honoured("false: at most one call in an answer")),
    field("response_format", Object, FORMAT),
    field("stream", Flag, STREAM),
    field("stream_options", Object, Honoured("{include_usage}"))
        .holding(&options("stream_options", STREAM_OPTIONS)),
    field("max_tokens", Integer, MAX_TOKENS),
    field("max_completion_tokens", Integer, MAX_TOKENS),
    field("n", Integer, N),
    field("stop", Any, STOP),
    field("temperature", Number, TEMPERATURE),
    field("top_p", Number, TOP_P),
    field("top_k", Integer, TOP_K),
    field("min_p", Number, MIN_P),
    field("repetition_penalty", Number, REPETITION),
    field("repeat_penalty", Number, SAME_REPETITION),
    field("frequency_penalty", Number, PENALTY),
    field("presence_penalty", Number, PENALTY),
    field("logit_bias", Object, BIAS),
    field("seed", Integer, SEED),
    field("logprobs", Flag, Honoured("true: log-probabilities of the answer's tokens")),
    field("top_logprobs", Integer, Honoured("0 to 20; needs logprobs")),
    field(
        "reasoning_effort",
        Text,
        Honoured("none, minimal (= low), low, medium, high, xhigh and max (= high)"),
    ),
    field("max_reasoning_tokens", Integer, Honoured("then reasoning is closed by force; 0 or more")),
    field("thinking_budget", Integer, Honoured("another name of max_reasoning_tokens")),
    field("enable_thinking", Flag, Honoured("false: reasoning_effort none")),
    field("thinking", Object, Honoured("{type: enabled or disabled, budget_tokens}"))
        .holding(&options("thinking", THINKING)),
    field("reasoning", Object, Honoured("{effort, max_tokens, enabled}"))
        .holding(&options("reasoning", REASONING)),
    field(
        "chat_template_kwargs",
        Object,
        Honoured("up to 64 variables for the chat template, 64 KiB in all"),
    ),
    field("user", Text, BOOKKEEPING),
    field("metadata", Object, BOOKKEEPING),
    field("safety_identifier", Text, BOOKKEEPING),
    field("prompt_cache_key", Text, HINT),
    field("prompt_cache_retention", Text, HINT),
    field("prompt_cache_options", Object, HINT),
    field("service_tier", Text, TIER),
    field("store", Flag, Only(&["false"], "Answers are not stored.")),
    field("modalities", Array, Only(&["[\"text\"]"], "Answers are text only.")),
    field("verbosity", Text, Only(&["\"medium\""], "Ask in a message for the length that you want.")),
    field("audio", Object, Refused("answers are text only")),
    field("functions", Array, Refused("send tools instead, with {type: function, function: …} around each")),
    field("function_call", Any, Refused("send tool_choice instead")),
    field("prediction", Object, Noted("it may speed an answer up, and never changes it")),
    field("ignore_eos", Flag, Only(&["false"], "Raw completions have it.")),
    field("echo", Flag, Only(&["false"], "Raw completions have it.")),
    field("best_of", Integer, Only(&["1"], "Answers are not ranked; see n.")),
    field("add_special_tokens", Flag, Only(&["false"], "The chat template writes them.")),
    field("return_tokens_as_token_ids", Flag, Only(&["false"], "Raw completions have it.")),
    field(
        "reasoning_format",
        Text,
        Only(&["\"auto\"", "\"deepseek\""], "Thinking comes as reasoning_content."),
    ),
    field("parse_tool_calls", Flag, Only(&["true"], "Calls come as tool_calls.")),
    field("moderation", Any, Refused("no moderation is done here")),
    field("web_search_options", Object, Refused("offer a search function in tools instead")),
];

/// `POST /v1/completions`.
pub const COMPLETION: &[Field] = &[
    field("model", Text, MODEL),
    field(
        "prompt",
        Any,
        Honoured(
            "a string, an array of up to 128 strings, an array of token ids, or an array of such arrays",
        ),
    ),
    field("max_tokens", Integer, Honoured("1 or more, or 0 with echo; -1: as many as fit; absent: 16")),
    field(
        "parse_special",
        Flag,
        Honoured(
            "false: the names of control tokens in a prompt's text are text; absent: as the server is set up",
        ),
    ),
    field("add_special_tokens", Flag, Honoured("false: no first token before a prompt's text; absent: true")),
    field("echo", Flag, Honoured("true: give the prompt back in front")),
    field("logprobs", Integer, Honoured("0 to 20: how many alternatives to name for each token")),
    field("return_tokens_as_token_ids", Flag, Honoured("true: logprobs name tokens as token_id:N")),
    field("ignore_eos", Flag, Honoured("true: go on past the end-of-sequence token")),
    field("response_format", Object, FORMAT),
    field("stream", Flag, STREAM),
    field("stream_options", Object, Honoured("{include_usage}"))
        .holding(&options("stream_options", STREAM_OPTIONS)),
    field("n", Integer, N),
    field("stop", Any, STOP),
    field("temperature", Number, TEMPERATURE),
    field("top_p", Number, TOP_P),
    field("top_k", Integer, TOP_K),
    field("min_p", Number, MIN_P),
    field("repetition_penalty", Number, REPETITION),
    field("repeat_penalty", Number, SAME_REPETITION),
    field("frequency_penalty", Number, PENALTY),
    field("presence_penalty", Number, PENALTY),
    field("logit_bias", Object, BIAS),
    field("seed", Integer, SEED),
    field("best_of", Integer, Honoured("only the value of n: answers are not ranked")),
    field("user", Text, BOOKKEEPING),
    field(
        "suffix",
        Text,
        Only(&["\"\""], "Filling in the middle is not offered; put all context into prompt."),
    ),
];

/// `POST /v1/embeddings`.
pub const EMBEDDING: &[Field] = &[
    field("model", Text, MODEL),
    field(
        "input",
        Any,
        Honoured(
            "a string, an array of up to 2,048 strings, an array of token ids, or an array of such arrays",
        ),
    ),
    field("encoding_format", Text, Honoured("float or base64 (little-endian 32-bit floats)")),
    field("pooling", Text, Honoured("mean or last; absent: the model's own")),
    field("user", Text, BOOKKEEPING),
    field("dimensions", Integer, Refused("vectors keep the model's own length; leave it out")),
    field("input_type", Text, Refused("put instructions into the text")),
];

/// `POST /tokenize`.
pub const TOKENIZE: &[Field] = &[
    field("model", Text, Honoured("a name that /v1/models lists; absent: the first of them")),
    field("content", Text, Honoured("the text")),
    field("prompt", Text, Honoured("another name of content")),
    field("add_special", Flag, Honoured("true: begin as a prompt of the model begins; absent: false")),
    field("add_special_tokens", Flag, Honoured("another name of add_special")),
    field(
        "parse_special",
        Flag,
        Honoured("false: the names of control tokens in the text are text; absent: as the server is set up"),
    ),
    field("with_pieces", Flag, Only(&["false"], "Ask /detokenize for each token.")),
    field("messages", Array, Refused("send them to /apply-template")),
];

/// `POST /detokenize`.
pub const DETOKENIZE: &[Field] = &[
    field("model", Text, Honoured("a name that /v1/models lists; absent: the first of them")),
    field("tokens", Array, Honoured("token ids")),
];
