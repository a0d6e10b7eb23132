//! What a caller asks for. Every field is honoured by a provider or refused with
//! [`ProviderError::Unsupported`](crate::ProviderError::Unsupported), never ignored.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Message;

/// How the next token is chosen. `None` means: the model's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Nucleus: the smallest set of tokens whose probabilities sum to this.
    pub top_p: Option<f32>,
    /// Drop tokens below this share of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Divide (positive) or multiply (negative) the logits of seen tokens by this; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit once for each time it was generated.
    pub frequency_penalty: Option<f32>,
    /// Subtracted from a token's logit if it was generated at all.
    pub presence_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
    /// True: arguments follow the schema exactly. False: as far as it can be enforced; the rest is told by
    /// [`ChatEvent::Unenforced`](crate::ChatEvent::Unenforced). `None`: exactly where a call is demanded, else they are
    /// any object.
    pub strict: Option<bool>,
}

/// Whether tools may, must or must not be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No call.
    None,
    /// At least one call.
    Required,
    /// A call of this function.
    Named(String),
}

/// What the answer must look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// False: what can't be enforced is left out, and told by [`ChatEvent::Unenforced`](crate::ChatEvent::Unenforced).
        strict: Option<bool>,
    },
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar, in Lark syntax as llguidance reads it.
    Grammar(String),
}

/// How long to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningEffort {
    /// Not at all, where the model allows it.
    None,
    /// Briefly.
    Low,
    /// As usual.
    Medium,
    /// At length.
    High,
}

/// Where the prompt leaves the model: at a turn of its own, or in the middle of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// Goes on with the last message if it is the assistant's; begins a new turn otherwise.
    #[default]
    Auto,
    /// Goes on with the last message, which has to be the assistant's (`continue_final_message`).
    Continue,
    /// Begins a new turn of the assistant, whoever spoke last (`add_generation_prompt`).
    New,
    /// Neither: the prompt ends where the last message's turn ends.
    None,
}

/// One chat request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatRequest {
    /// The model's name as the caller wrote it.
    pub model: String,
    /// The conversation so far, at least one message.
    pub messages: Vec<Message>,
    /// Whether the answer goes on with the last message. What it says already is not part of the answer.
    pub turn: Turn,
    /// Functions on offer.
    pub tools: Vec<Tool>,
    /// Whether they may or must be called.
    pub tool_choice: ToolChoice,
    /// False forbids more than one call in an answer.
    pub parallel_tool_calls: Option<bool>,
    /// The answer's form.
    pub response_format: ResponseFormat,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The answer ends before any of these texts.
    pub stop: Vec<String>,
    /// Upper bound of generated tokens, thinking included.
    pub max_tokens: Option<u32>,
    /// How many answers; 0 and 1 both mean one.
    pub n: u32,
    /// `Some(k)`: log-probabilities of the chosen and the k likeliest tokens.
    pub logprobs: Option<u32>,
    /// How long to think.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Upper bound of thinking tokens; then thinking is closed by force.
    pub reasoning_budget: Option<u32>,
    /// Extra variables for the chat template (`chat_template_kwargs`).
    pub template_kwargs: BTreeMap<String, Value>,
    /// Whom the request belongs to: keeps caches of different callers apart.
    pub tenant: Option<String>,
}

/// A prompt as text or as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompletionPrompt {
    /// Text.
    Text(String),
    /// Token ids, used as they are: nothing is added.
    Tokens(Vec<u32>),
}

/// One request for raw completion.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model's name as the caller wrote it.
    pub model: String,
    /// What to continue.
    pub prompt: CompletionPrompt,
    /// The names of control tokens in a text become these tokens: a raw prompt is all the caller's own. When false
    /// they are text like any other.
    pub parse_special: bool,
    /// Put around a text what the model wants around it, usually a first token.
    pub add_special_tokens: bool,
    /// Upper bound of generated tokens; 0 with `echo` only scores the prompt.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The text ends before any of these.
    pub stop: Vec<String>,
    /// How many continuations; 0 and 1 both mean one.
    pub n: u32,
    /// `Some(k)`: log-probabilities of the chosen and the k likeliest tokens.
    pub logprobs: Option<u32>,
    /// Give the prompt back in front (with its log-probabilities if asked for).
    pub echo: bool,
    /// Go on past the end-of-sequence token.
    pub ignore_eos: bool,
    /// The text's form.
    pub response_format: ResponseFormat,
    /// Whom the request belongs to.
    pub tenant: Option<String>,
}

/// Text or token ids to embed.
pub type EmbeddingInput = CompletionPrompt;

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
}

/// A request for embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingRequest {
    /// The model's name as the caller wrote it.
    pub model: String,
    /// What to embed.
    pub inputs: Vec<EmbeddingInput>,
    /// `None`: the model's own, else mean.
    pub pooling: Option<Pooling>,
    /// Whom the request belongs to.
    pub tenant: Option<String>,
}
