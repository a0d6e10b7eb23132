//! Fields that other servers and gateways have beside OpenAI's, and that their clients send to any server.

use super::Kind::{Any, Array, Flag, Integer, Number, Object, Text};
use super::Takes::{Noted, Only, Refused};
use super::{BOOKKEEPING, Field, field};

const IN_FORMAT: super::Takes = Refused("put it into response_format");
const SAMPLER: &str = "This way of sampling is not offered.";
const ONE_PROVIDER: super::Takes = Noted("there is one provider");

/// Fields of llama.cpp, vLLM, Ollama, OpenRouter and others, in chats and raw completions.
pub const PEERS: &[Field] = &[
    // What asks for the usual thing passes.
    field("typical_p", Number, Only(&["1"], SAMPLER)),
    field("tfs_z", Number, Only(&["1"], SAMPLER)),
    field("mirostat", Integer, Only(&["0"], SAMPLER)),
    field("mirostat_tau", Number, Noted("it belongs to mirostat, which is not offered")),
    field("mirostat_eta", Number, Noted("it belongs to mirostat, which is not offered")),
    field("dry_multiplier", Number, Only(&["0"], SAMPLER)),
    field("xtc_probability", Number, Only(&["0"], SAMPLER)),
    field("dynatemp_range", Number, Only(&["0"], SAMPLER)),
    field("repeat_last_n", Integer, Only(&["-1"], "repetition_penalty counts all tokens.")),
    field("length_penalty", Number, Only(&["1"], "There is no beam search.")),
    field("use_beam_search", Flag, Only(&["false"], "There is no beam search.")),
    field("early_stopping", Flag, Only(&["false"], "There is no beam search.")),
    field("min_tokens", Integer, Only(&["0"], "The model decides when it is done; see ignore_eos.")),
    field("n_keep", Integer, Only(&["0", "-1"], "A prompt is never cut.")),
    field("skip_special_tokens", Flag, Only(&["true"], "Control tokens are no part of a text.")),
    field(
        "spaces_between_special_tokens",
        Flag,
        Only(&["true", "false"], "Control tokens are no part of a text."),
    ),
    field("include_stop_str_in_output", Flag, Only(&["false"], "A text ends before the stop text.")),
    field(
        "include_reasoning",
        Flag,
        Only(&["true"], "Thinking comes apart from the content; skip reasoning_content."),
    ),
    field("return_token_ids", Flag, Only(&["false"], "Ask /tokenize.")),
    field("return_progress", Flag, Only(&["false"], "Progress is not reported.")),
    field("timings_per_token", Flag, Only(&["false"], "Times come once, at the end.")),
    field("priority", Integer, Only(&["0"], "All requests of a caller are equal.")),
    field("stop_token_ids", Array, Only(&["[]"], "Name the token's text in stop.")),
    field("bad_words", Array, Only(&["[]"], "Use logit_bias.")),
    field("transforms", Array, Only(&["[]"], "A prompt is never changed.")),
    field("plugins", Array, Only(&["[]"], "There are no plugins.")),
    // What can't change an answer passes.
    field("cache_prompt", Flag, Noted("answers do not depend on the cache")),
    field("id_slot", Integer, Noted("a sequence may run in any slot")),
    field("keep_alive", Any, Noted("models stay loaded")),
    field("request_id", Text, BOOKKEEPING),
    field("session_id", Text, BOOKKEEPING),
    field("provider", Object, ONE_PROVIDER),
    field("route", Text, ONE_PROVIDER),
    // The rest is refused with what to send instead.
    field("n_predict", Integer, Refused("send max_tokens")),
    field("n_probs", Integer, Refused("send logprobs")),
    field("prompt_logprobs", Integer, Refused("send echo and logprobs to /v1/completions")),
    field("allowed_token_ids", Array, Refused("use logit_bias or response_format")),
    field("truncate_prompt_tokens", Integer, Refused("a prompt is never cut: shorten it")),
    field("samplers", Any, Refused("the order of samplers is fixed")),
    field("lora", Array, Refused("adapters are not offered")),
    field("cache_salt", Text, Refused("callers with keys of their own have caches of their own")),
    field("guided_json", Any, IN_FORMAT),
    field("guided_regex", Text, IN_FORMAT),
    field("guided_choice", Array, IN_FORMAT),
    field("guided_grammar", Text, IN_FORMAT),
    field("structured_outputs", Object, IN_FORMAT),
    field("json_schema", Object, IN_FORMAT),
    field("grammar", Text, IN_FORMAT),
    field("format", Any, IN_FORMAT),
    field("think", Any, Refused("send reasoning_effort or enable_thinking")),
    field("options", Object, Refused("send its fields at the top of the body, under OpenAI's names")),
    field("extra_body", Object, Refused("send its fields at the top of the body")),
    field("models", Array, Refused("name one in model")),
    field("documents", Array, Refused("put them into the messages")),
    field("chat_template", Text, Refused("the model's own template is used")),
];
