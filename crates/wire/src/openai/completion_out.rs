//! Raw completions, whole and as chunks.

use levain_chat::{CompletionEvent, FinishReason, TokenLogprob, Usage};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::chat_out::write_error;
use super::error::ApiError;
use super::frame;
use super::usage::{self, Head, Timings, UsageBody, finite, token_text};

/// What shapes the answer besides its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionShape {
    /// Prompts of the request.
    pub prompts: u32,
    /// Answers to each prompt.
    pub n: u32,
    /// Write log-probabilities.
    pub logprobs: bool,
    /// Name tokens as `token_id:N`.
    pub tokens_as_ids: bool,
}

impl CompletionShape {
    fn choices(self) -> u32 {
        self.prompts.saturating_mul(self.n.max(1))
    }

    /// The choice of an event of one prompt's request.
    fn index(self, prompt: u32, index: u32) -> Option<u32> {
        (prompt < self.prompts && index < self.n.max(1)).then(|| prompt * self.n.max(1) + index)
    }
}

/// Names with numbers, in order.
#[derive(Debug)]
struct Pairs(Vec<(String, f32)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, number) in &self.0 {
            map.serialize_entry(name, number)?;
        }
        map.end()
    }
}

#[derive(Debug, Default, serde::Serialize)]
struct LogprobsBody {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Pairs>>,
    /// In characters of the returned text.
    text_offset: Vec<u64>,
}

impl LogprobsBody {
    /// Appends tokens; `offset` is where the next one begins.
    fn extend(&mut self, tokens: &[TokenLogprob], as_ids: bool, offset: &mut u64) {
        for token in tokens {
            self.tokens.push(if as_ids { id_name(token.id) } else { token_text(&token.bytes) });
            self.token_logprobs.push(token.logprob.map(finite));
            self.top_logprobs.push(token.logprob.map(|logprob| {
                let mut pairs: Vec<(String, f32)> = Vec::with_capacity(token.top.len() + 1);
                let listed = token.top.iter().any(|top| top.id == token.id);
                let own = (!listed).then_some((token.id, &token.bytes, logprob));
                let top = token.top.iter().map(|top| (top.id, &top.bytes, top.logprob));
                for (id, bytes, logprob) in top.chain(own) {
                    let name = if as_ids || bytes.is_empty() { id_name(id) } else { token_text(bytes) };
                    if !pairs.iter().any(|(other, _)| *other == name) {
                        pairs.push((name, finite(logprob)));
                    }
                }
                Pairs(pairs)
            }));
            self.text_offset.push(*offset);
            // Every byte but a continuation byte begins a character.
            let begun = token.bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
            *offset = offset.saturating_add(begun as u64);
        }
    }
}

fn id_name(id: u32) -> String {
    format!("token_id:{id}")
}

#[derive(serde::Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(serde::Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<LogprobsBody>,
    finish_reason: Option<FinishReason>,
}

fn body<'a>(head: &'a Head, choices: &'a [Choice<'a>]) -> Body<'a> {
    Body {
        id: &head.id,
        object: "text_completion",
        created: head.created,
        model: &head.model,
        choices,
        usage: None,
        timings: None,
    }
}

/// Gathers the events of an answer that is not streamed.
#[derive(Debug)]
pub struct CompletionCollector {
    shape: CompletionShape,
    choices: Vec<Gathered>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Gathered {
    text: String,
    tokens: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

impl CompletionCollector {
    /// For an answer of this shape.
    #[must_use]
    pub fn new(shape: CompletionShape) -> Self {
        let choices = (0..shape.choices()).map(|_| Gathered::default()).collect();
        Self { shape, choices, usage: Usage::default() }
    }

    /// Takes in the next event of one prompt's request.
    pub fn push(&mut self, prompt: u32, event: CompletionEvent) {
        match event {
            CompletionEvent::Text { index, text, tokens } => {
                let keep = self.shape.logprobs;
                if let Some(choice) = self.choice(prompt, index) {
                    choice.text.push_str(&text);
                    if keep {
                        choice.tokens.extend(tokens);
                    }
                }
            }
            CompletionEvent::Finish { index, reason } => {
                if let Some(choice) = self.choice(prompt, index) {
                    choice.finish = Some(reason);
                }
            }
            CompletionEvent::Usage(more) => usage::add(&mut self.usage, &more),
        }
    }

    fn choice(&mut self, prompt: u32, index: u32) -> Option<&mut Gathered> {
        let index = self.shape.index(prompt, index)?;
        self.choices.get_mut(index as usize)
    }

    /// The body of the response. A text without a finish event ended with an error.
    #[must_use]
    pub fn to_json(&self, head: &Head) -> Vec<u8> {
        let choices: Vec<Choice<'_>> = (0..)
            .zip(&self.choices)
            .map(|(index, choice)| Choice {
                text: &choice.text,
                index,
                logprobs: self.shape.logprobs.then(|| {
                    let mut logprobs = LogprobsBody::default();
                    logprobs.extend(&choice.tokens, self.shape.tokens_as_ids, &mut 0);
                    logprobs
                }),
                finish_reason: Some(choice.finish.unwrap_or(FinishReason::Error)),
            })
            .collect();
        frame::json(&Body {
            usage: Some(Some((&self.usage).into())),
            timings: Some((&self.usage).into()),
            ..body(head, &choices)
        })
    }
}

/// Turns the events of an answer into server-sent events.
#[derive(Debug)]
pub struct CompletionChunks {
    head: Head,
    shape: CompletionShape,
    include_usage: bool,
    choices: Vec<Streamed>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Streamed {
    finished: bool,
    offset: u64,
}

impl CompletionChunks {
    /// For an answer of this shape.
    #[must_use]
    pub fn new(head: Head, shape: CompletionShape, include_usage: bool) -> Self {
        let choices = (0..shape.choices()).map(|_| Streamed::default()).collect();
        Self { head, shape, include_usage, choices, usage: Usage::default() }
    }

    /// Appends the server-sent event for an event of one prompt's request, if it has one.
    pub fn push(&mut self, prompt: u32, event: &CompletionEvent, out: &mut Vec<u8>) {
        let index = match event {
            CompletionEvent::Text { index, .. } | CompletionEvent::Finish { index, .. } => *index,
            CompletionEvent::Usage(more) => return usage::add(&mut self.usage, more),
        };
        let Some(index) = self.shape.index(prompt, index) else { return };
        let Some(choice) = self.choices.get_mut(index as usize).filter(|choice| !choice.finished) else {
            return;
        };
        match event {
            CompletionEvent::Text { text, tokens, .. } => {
                let logprobs = (self.shape.logprobs && !tokens.is_empty()).then(|| {
                    let mut logprobs = LogprobsBody::default();
                    logprobs.extend(tokens, self.shape.tokens_as_ids, &mut choice.offset);
                    logprobs
                });
                if !text.is_empty() || logprobs.is_some() {
                    self.chunk(Choice { text, index, logprobs, finish_reason: None }, out);
                }
            }
            CompletionEvent::Finish { reason, .. } => {
                choice.finished = true;
                self.chunk(Choice { text: "", index, logprobs: None, finish_reason: Some(*reason) }, out);
            }
            CompletionEvent::Usage(_) => {}
        }
    }

    /// Appends what ends a good stream. A text without a finish event is finished as an error.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        for prompt in 0..self.shape.prompts {
            for index in 0..self.shape.n.max(1) {
                self.push(prompt, &CompletionEvent::Finish { index, reason: FinishReason::Error }, out);
            }
        }
        if self.include_usage {
            let usage = Some(Some(UsageBody::from(&self.usage)));
            let timings = Some((&self.usage).into());
            frame::event(&Body { usage, timings, ..body(&self.head, &[]) }, out);
        }
        out.extend_from_slice(frame::DONE);
    }

    /// Appends what ends a broken stream: an error event and no end mark.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        write_error(error, out);
    }

    fn chunk(&self, choice: Choice<'_>, out: &mut Vec<u8>) {
        let choices = [choice];
        let usage = self.include_usage.then_some(None);
        frame::event(&Body { usage, ..body(&self.head, &choices) }, out);
    }
}
