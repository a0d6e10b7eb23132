//! The answers that follow from a request by rule.

use std::time::Duration;

use levain_chat::{
    ChatEvent, ChatRequest, CompletionEvent, CompletionRequest, FinishReason, Part, ReasoningEffort,
    ResponseFormat, Role, TokenLogprob, ToolChoice, TopLogprob, Usage,
};
use serde_json::{Map, Value, json};

/// Tokens of an answer that has no other end.
const TOKENS: u32 = 4096;

pub(super) fn chat(request: &ChatRequest) -> Vec<ChatEvent> {
    let mut events = Vec::new();
    let mut usage = Usage {
        prompt_tokens: render(request).len() as u64,
        queue_time: Duration::from_micros(50),
        prefill_time: Duration::from_millis(1),
        decode_time: Duration::from_millis(2),
        ..Usage::default()
    };
    for index in 0..request.n.max(1) {
        one(request, index, &mut events, &mut usage);
    }
    events.push(ChatEvent::Usage(usage));
    events
}

fn one(request: &ChatRequest, index: u32, events: &mut Vec<ChatEvent>, usage: &mut Usage) {
    let last = request.messages.last();
    let answered = last.is_some_and(|message| message.role == Role::Tool);
    let limit = request.max_tokens.unwrap_or(TOKENS);
    let mut spent = 0;
    if matches!(
        request.reasoning_effort,
        Some(ReasoningEffort::Low | ReasoningEffort::Medium | ReasoningEffort::High)
    ) {
        for text in ["Let me ", "think."].iter().take(request.reasoning_budget.unwrap_or(2) as usize) {
            events.push(ChatEvent::Reasoning { index, text: (*text).to_owned() });
            spent += 1;
            usage.reasoning_tokens += 1;
        }
    }
    let tool = match &request.tool_choice {
        ToolChoice::None => None,
        ToolChoice::Named(name) => request.tools.iter().find(|tool| tool.name == *name),
        ToolChoice::Required => request.tools.first(),
        ToolChoice::Auto => request.tools.first().filter(|_| !answered),
    };
    if let Some(tool) = tool {
        let arguments = instance(&tool.parameters, &tool.parameters, 0).to_string();
        let id = format!("call_{index}_0");
        events.push(ChatEvent::ToolCallStart { index, call: 0, id, name: tool.name.clone() });
        let (head, tail) = arguments.split_at(arguments.len() / 2);
        for fragment in [head, tail] {
            let fragment = fragment.to_owned();
            events.push(ChatEvent::ToolCallArguments { index, call: 0, fragment });
        }
        usage.completion_tokens += u64::from(spent) + 2;
        events.push(ChatEvent::Finish { index, reason: FinishReason::ToolCalls });
        return;
    }
    let said = match last.and_then(|message| message.parts.last()) {
        Some(Part::ToolResult { text, .. } | Part::Text { text }) => text.as_str(),
        _ => "",
    };
    let text = match &request.response_format {
        ResponseFormat::JsonObject => json!({ "answer": said }).to_string(),
        ResponseFormat::JsonSchema { schema, .. } => instance(schema, schema, 0).to_string(),
        _ if said.starts_with("Count") => (1..=TOKENS).map(|i| format!("{i} ")).collect(),
        _ => format!("You said: {said}"),
    };
    let text = match request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        Some(at) => text.get(..at).unwrap_or_default(),
        None => text.as_str(),
    };
    let mut reason = FinishReason::Stop;
    for piece in text.split_inclusive(' ') {
        if spent >= limit {
            reason = FinishReason::Length;
            break;
        }
        spent += 1;
        events.push(ChatEvent::Text { index, text: piece.to_owned() });
        if let Some(top) = request.logprobs {
            let token = logprob(u32::from(piece.bytes().next().unwrap_or(0)), piece.as_bytes(), top);
            events.push(ChatEvent::Logprobs { index, tokens: vec![token] });
        }
    }
    usage.completion_tokens += u64::from(spent);
    events.push(ChatEvent::Finish { index, reason });
}

fn logprob(id: u32, bytes: &[u8], top: u32) -> TokenLogprob {
    let other = |rank: u32| TopLogprob {
        id: (id + rank) % 256,
        bytes: if rank == 0 { bytes.to_vec() } else { vec![b'a' + u8::try_from(rank).unwrap_or(0)] },
        logprob: -0.5 - rank as f32,
    };
    TokenLogprob { id, bytes: bytes.to_vec(), logprob: Some(-0.5), top: (0..top).map(other).collect() }
}

/// Goes on with the letters of the alphabet, one a token.
pub(super) fn completion(request: &CompletionRequest, prompt: &[u32]) -> Vec<CompletionEvent> {
    let mut events = Vec::new();
    let wanted = request.max_tokens.unwrap_or(TOKENS);
    let mut made = 0;
    for index in 0..request.n.max(1) {
        if request.echo {
            for (i, id) in prompt.iter().enumerate() {
                let byte = u8::try_from(*id).map_or_else(|_| Vec::new(), |byte| vec![byte]);
                let mut token = logprob(*id, &byte, request.logprobs.unwrap_or(0));
                if i == 0 || request.logprobs.is_none() {
                    token.logprob = None;
                }
                let text = String::from_utf8_lossy(&byte).into_owned();
                events.push(CompletionEvent::Text { index, text, tokens: vec![token] });
            }
        }
        let mut reason = FinishReason::Length;
        let mut text = String::new();
        for i in 0..wanted {
            let letter = b'a' + u8::try_from(i % 26).unwrap_or(0);
            text.push(char::from(letter));
            if request.stop.iter().any(|stop| text.ends_with(stop.as_str())) {
                reason = FinishReason::Stop;
                break;
            }
            made += 1;
            let token = logprob(u32::from(letter), &[letter], request.logprobs.unwrap_or(0));
            let piece = char::from(letter).to_string();
            events.push(CompletionEvent::Text { index, text: piece, tokens: vec![token] });
        }
        events.push(CompletionEvent::Finish { index, reason });
    }
    events.push(CompletionEvent::Usage(Usage {
        prompt_tokens: prompt.len() as u64,
        completion_tokens: made,
        ..Usage::default()
    }));
    events
}

/// The plainest of templates.
pub(super) fn render(request: &ChatRequest) -> String {
    let mut text = String::new();
    for message in &request.messages {
        text.push_str(message.role.as_str());
        text.push_str(": ");
        for part in &message.parts {
            match part {
                Part::Text { text: part } | Part::Reasoning { text: part } => text.push_str(part),
                Part::ToolResult { text: part, .. } => text.push_str(part),
                Part::ToolCall(call) => text.push_str(&call.arguments),
                Part::Image { .. } => text.push_str("[image]"),
            }
        }
        text.push('\n');
    }
    text
}

/// A value that follows the schema, for the plain schemas of tests.
fn instance(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth > 16 {
        return Value::Null;
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = target.trim_start_matches('#');
        return root.pointer(pointer).map_or(Value::Null, |schema| instance(schema, root, depth + 1));
    }
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(first) = schema.get("anyOf").and_then(|choices| choices.get(0)) {
        return instance(first, root, depth + 1);
    }
    match schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str())) {
        Some("string") => json!("Paris"),
        Some("integer") => json!(7),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => match schema.get("items") {
            Some(items) => json!([instance(items, root, depth + 1)]),
            None => json!([]),
        },
        Some("object") | None => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let fields = properties.into_iter().flatten();
            let fields = fields.map(|(name, schema)| (name.clone(), instance(schema, root, depth + 1)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        Some(_) => Value::Null,
    }
}
