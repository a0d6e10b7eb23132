//! Chat answers, whole and as chunks.

use levain_chat::{ChatEvent, FinishReason, TokenLogprob, Usage};
use serde::Serialize;

use super::error::ApiError;
use super::frame;
use super::usage::{Head, Timings, UsageBody, finite, token_text};

#[derive(Serialize)]
struct LogprobBody {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopBody>,
}

#[derive(Serialize)]
struct TopBody {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl From<&TokenLogprob> for LogprobBody {
    fn from(token: &TokenLogprob) -> Self {
        let top = token.top.iter().map(|top| TopBody {
            token: token_text(&top.bytes),
            logprob: finite(top.logprob),
            bytes: top.bytes.clone(),
        });
        Self {
            token: token_text(&token.bytes),
            logprob: finite(token.logprob.unwrap_or(f32::NEG_INFINITY)),
            bytes: token.bytes.clone(),
            top_logprobs: top.collect(),
        }
    }
}

#[derive(Serialize)]
struct LogprobsBody {
    content: Vec<LogprobBody>,
    refusal: Option<&'static str>,
}

impl LogprobsBody {
    fn new(content: Vec<LogprobBody>) -> Self {
        Self { content, refusal: None }
    }
}

/// Gathers the events of an answer that is not streamed.
#[derive(Debug)]
pub struct ChatCollector {
    choices: Vec<Gathered>,
    logprobs: bool,
    unenforced: Vec<String>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Gathered {
    reasoning: String,
    text: String,
    calls: Vec<GatheredCall>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

#[derive(Debug, Default)]
struct GatheredCall {
    id: String,
    name: String,
    arguments: String,
}

impl ChatCollector {
    /// For `n` answers, with or without log-probabilities.
    #[must_use]
    pub fn new(n: u32, logprobs: bool) -> Self {
        Self {
            choices: (0..n.max(1)).map(|_| Gathered::default()).collect(),
            logprobs,
            unenforced: Vec::new(),
            usage: Usage::default(),
        }
    }

    /// Takes in the next event. Events of answers that were not asked for are dropped.
    pub fn push(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Reasoning { index, text } => {
                if let Some(choice) = self.choice(index) {
                    choice.reasoning.push_str(&text);
                }
            }
            ChatEvent::Text { index, text } => {
                if let Some(choice) = self.choice(index) {
                    choice.text.push_str(&text);
                }
            }
            ChatEvent::ToolCallStart { index, id, name, .. } => {
                if let Some(choice) = self.choice(index) {
                    choice.calls.push(GatheredCall { id, name, arguments: String::new() });
                }
            }
            ChatEvent::ToolCallArguments { index, call, fragment } => {
                if let Some(call) = self.choice(index).and_then(|choice| choice.calls.get_mut(call as usize))
                {
                    call.arguments.push_str(&fragment);
                }
            }
            ChatEvent::Logprobs { index, tokens } => {
                if let Some(choice) = self.choice(index) {
                    choice.logprobs.extend(tokens);
                }
            }
            ChatEvent::Finish { index, reason } => {
                if let Some(choice) = self.choice(index) {
                    choice.finish = Some(reason);
                }
            }
            ChatEvent::Unenforced(what) => self.unenforced = what,
            ChatEvent::Usage(usage) => self.usage = usage,
        }
    }

    fn choice(&mut self, index: u32) -> Option<&mut Gathered> {
        self.choices.get_mut(index as usize)
    }

    /// The body of the response. An answer without a finish event ended with an error.
    #[must_use]
    pub fn to_json(&self, head: &Head) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            id: &'a str,
            object: &'static str,
            created: u64,
            model: &'a str,
            choices: Vec<Choice<'a>>,
            usage: UsageBody,
            timings: Timings,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            unenforced: &'a [String],
        }
        #[derive(Serialize)]
        struct Choice<'a> {
            index: usize,
            message: Message<'a>,
            logprobs: Option<LogprobsBody>,
            finish_reason: FinishReason,
        }
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'static str,
            content: Option<&'a str>,
            refusal: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reasoning_content: Option<&'a str>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            tool_calls: Vec<Call<'a>>,
        }
        let choices = self.choices.iter().enumerate().map(|(index, choice)| Choice {
            index,
            message: Message {
                role: "assistant",
                content: (!choice.text.is_empty() || choice.calls.is_empty()).then_some(&*choice.text),
                refusal: None,
                reasoning_content: (!choice.reasoning.is_empty()).then_some(&*choice.reasoning),
                tool_calls: choice
                    .calls
                    .iter()
                    .map(|call| Call {
                        index: None,
                        id: Some(&call.id),
                        r#type: Some("function"),
                        function: Function { name: Some(&call.name), arguments: &call.arguments },
                    })
                    .collect(),
            },
            logprobs: self
                .logprobs
                .then(|| LogprobsBody::new(choice.logprobs.iter().map(LogprobBody::from).collect())),
            finish_reason: choice.finish.unwrap_or(FinishReason::Error),
        });
        frame::json(&Body {
            id: &head.id,
            object: "chat.completion",
            created: head.created,
            model: &head.model,
            choices: choices.collect(),
            usage: (&self.usage).into(),
            timings: (&self.usage).into(),
            unenforced: &self.unenforced,
        })
    }
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    /// Absent unless usage was asked for; then `null` in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    unenforced: &'a [String],
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<LogprobsBody>,
    finish_reason: Option<FinishReason>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[Call<'a>; 1]>,
}

/// Turns the events of an answer into server-sent events.
#[derive(Debug)]
pub struct ChatChunks {
    head: Head,
    include_usage: bool,
    logprobs: bool,
    choices: Vec<Streamed>,
    unenforced: Vec<String>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Streamed {
    begun: bool,
    finished: bool,
    /// Text that waits for its log-probabilities, which come right after it.
    held: String,
}

impl ChatChunks {
    /// For `n` answers, with or without log-probabilities.
    #[must_use]
    pub fn new(head: Head, n: u32, logprobs: bool, include_usage: bool) -> Self {
        let choices = (0..n.max(1)).map(|_| Streamed::default()).collect();
        Self { head, include_usage, logprobs, choices, unenforced: Vec::new(), usage: Usage::default() }
    }

    /// Appends the server-sent events for one event, none or several.
    pub fn push(&mut self, event: &ChatEvent, out: &mut Vec<u8>) {
        let index = match event {
            ChatEvent::Reasoning { index, .. }
            | ChatEvent::Text { index, .. }
            | ChatEvent::ToolCallStart { index, .. }
            | ChatEvent::ToolCallArguments { index, .. }
            | ChatEvent::Logprobs { index, .. }
            | ChatEvent::Finish { index, .. } => *index,
            ChatEvent::Unenforced(what) => {
                self.unenforced.clone_from(what);
                return;
            }
            ChatEvent::Usage(usage) => {
                self.usage = *usage;
                return;
            }
        };
        let Some(choice) = self.choices.get_mut(index as usize).filter(|choice| !choice.finished) else {
            return;
        };
        if !std::mem::replace(&mut choice.begun, true) {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.chunk(index, delta, None, None, out);
        }
        match event {
            ChatEvent::Text { text, .. } if self.logprobs => {
                if let Some(choice) = self.choices.get_mut(index as usize) {
                    choice.held.push_str(text);
                }
            }
            ChatEvent::Text { text, .. } => {
                let delta = Delta { content: Some(text), ..Delta::default() };
                self.chunk(index, delta, None, None, out);
            }
            ChatEvent::Logprobs { tokens, .. } => {
                let held = self.take_held(index);
                let delta = Delta { content: Some(&held), ..Delta::default() };
                let logprobs = LogprobsBody::new(tokens.iter().map(LogprobBody::from).collect());
                self.chunk(index, delta, Some(logprobs), None, out);
            }
            ChatEvent::Reasoning { text, .. } => {
                self.flush(index, out);
                let delta = Delta { reasoning_content: Some(text), ..Delta::default() };
                self.chunk(index, delta, None, None, out);
            }
            ChatEvent::ToolCallStart { call, id, name, .. } => {
                self.flush(index, out);
                let function = Function { name: Some(name), arguments: "" };
                let call = Call { index: Some(*call), id: Some(id), r#type: Some("function"), function };
                self.chunk(index, Delta { tool_calls: Some([call]), ..Delta::default() }, None, None, out);
            }
            ChatEvent::ToolCallArguments { call, fragment, .. } => {
                self.flush(index, out);
                let function = Function { name: None, arguments: fragment };
                let call = Call { index: Some(*call), id: None, r#type: None, function };
                self.chunk(index, Delta { tool_calls: Some([call]), ..Delta::default() }, None, None, out);
            }
            ChatEvent::Finish { reason, .. } => {
                self.flush(index, out);
                self.chunk(index, Delta::default(), None, Some(*reason), out);
                if let Some(choice) = self.choices.get_mut(index as usize) {
                    choice.finished = true;
                }
            }
            ChatEvent::Unenforced(_) | ChatEvent::Usage(_) => {}
        }
    }

    /// Appends what ends a good stream: the token counts if asked for, then the end mark. An answer without a
    /// finish event is finished as an error.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        for index in 0..u32::try_from(self.choices.len()).unwrap_or(u32::MAX) {
            self.push(&ChatEvent::Finish { index, reason: FinishReason::Error }, out);
        }
        if self.include_usage {
            let usage = Some(Some(UsageBody::from(&self.usage)));
            frame::event(&Chunk { usage, timings: Some((&self.usage).into()), ..self.frame(&[]) }, out);
        }
        out.extend_from_slice(frame::DONE);
    }

    /// Appends what ends a broken stream: an error event and no end mark.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        for index in 0..u32::try_from(self.choices.len()).unwrap_or(u32::MAX) {
            self.flush(index, out);
        }
        write_error(error, out);
    }

    fn take_held(&mut self, index: u32) -> String {
        self.choices
            .get_mut(index as usize)
            .map(|choice| std::mem::take(&mut choice.held))
            .unwrap_or_default()
    }

    fn flush(&mut self, index: u32, out: &mut Vec<u8>) {
        let held = self.take_held(index);
        if !held.is_empty() {
            self.chunk(index, Delta { content: Some(&held), ..Delta::default() }, None, None, out);
        }
    }

    fn chunk(
        &self,
        index: u32,
        delta: Delta<'_>,
        logprobs: Option<LogprobsBody>,
        finish_reason: Option<FinishReason>,
        out: &mut Vec<u8>,
    ) {
        let choices = [ChunkChoice { index, delta, logprobs, finish_reason }];
        // Beside the reason why the answer ended.
        let unenforced = finish_reason.map_or(&[][..], |_| &self.unenforced);
        frame::event(&Chunk { unenforced, ..self.frame(&choices) }, out);
    }

    fn frame<'a>(&'a self, choices: &'a [ChunkChoice<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: self.include_usage.then_some(None),
            timings: None,
            unenforced: &[],
        }
    }
}

/// Appends an error as an event, which clients raise.
pub(super) fn write_error(error: &ApiError, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(&error.to_json());
    out.extend_from_slice(b"\n\n");
}
