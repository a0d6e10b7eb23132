//! The exact bytes of answers.

use std::time::Duration;

use levain_chat::{
    ChatEvent, CompletionEvent, Embedding, FinishReason, ModelInfo, Part, ProviderError, TokenLogprob,
    TopLogprob, Usage,
};
use levain_wire::openai::{
    ApiError, ChatCall, ChatChunks, ChatCollector, CompletionChunks, CompletionCollector, CompletionShape,
    EncodingFormat, Head, embeddings_json, model_json, models_json,
};
use serde_json::{Value, json};

fn head(id: &str) -> Head {
    Head { id: id.into(), created: 1_737_331_200, model: "m".into() }
}

fn usage() -> Usage {
    Usage {
        prompt_tokens: 10,
        cached_tokens: 4,
        completion_tokens: 5,
        reasoning_tokens: 2,
        drafted_tokens: 6,
        accepted_tokens: 3,
        queue_time: Duration::from_micros(1500),
        prefill_time: Duration::from_millis(20),
        decode_time: Duration::from_millis(30),
        reasoning_time: Duration::from_millis(7),
    }
}

fn token(bytes: &[u8], logprob: f32) -> TokenLogprob {
    let top = vec![TopLogprob { id: 9, bytes: bytes.to_vec(), logprob }];
    TokenLogprob { id: 9, bytes: bytes.to_vec(), logprob: Some(logprob), top }
}

/// Thinks, speaks, calls a tool twice in turns.
fn conversation() -> Vec<ChatEvent> {
    let index = 0;
    let call = |call, name: &str| ChatEvent::ToolCallStart {
        index,
        call,
        id: format!("call_{call}"),
        name: name.into(),
    };
    let arguments = |call, text: &str| ChatEvent::ToolCallArguments { index, call, fragment: text.into() };
    vec![
        ChatEvent::Reasoning { index, text: "Hm\n".into() },
        ChatEvent::Text { index, text: "Über \"x\"".into() },
        call(0, "f"),
        arguments(0, "{\"a\":"),
        call(1, "g"),
        arguments(1, "{}"),
        arguments(0, "1}"),
        ChatEvent::Finish { index, reason: FinishReason::ToolCalls },
        ChatEvent::Usage(usage()),
    ]
}

fn stream(events: &[ChatEvent], n: u32, logprobs: bool, include_usage: bool) -> String {
    let mut chunks = ChatChunks::new(head("chatcmpl-1"), n, logprobs, include_usage);
    let mut out = Vec::new();
    events.iter().for_each(|event| chunks.push(event, &mut out));
    chunks.end(&mut out);
    String::from_utf8(out).unwrap()
}

/// The golden file's text; `UPDATE_GOLDEN=1` writes it anew.
fn check(name: &str, got: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == got, "run with UPDATE_GOLDEN=1 and read the difference in {name}:\n{got}");
}

fn collected(events: Vec<ChatEvent>) -> String {
    let mut answer = ChatCollector::new(1, false);
    events.into_iter().for_each(|event| answer.push(event));
    String::from_utf8(answer.to_json(&head("chatcmpl-1"))).unwrap()
}

#[test]
fn chat_whole() {
    check("chat.json", &collected(conversation()));
}

#[test]
fn chat_streamed() {
    check("chat.sse", &stream(&conversation(), 1, false, true));
}

/// Collects chunks as a client does.
fn gather(sse: &str) -> Value {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<(String, String, String)> = Vec::new();
    let mut finish = Value::Null;
    for line in sse.split("\n\n").filter_map(|event| event.strip_prefix("data: ")) {
        if line == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(line).unwrap();
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        text += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            if calls.len() <= index {
                let name = call["function"]["name"].as_str().unwrap();
                calls.push((call["id"].as_str().unwrap().into(), name.into(), String::new()));
            }
            calls[index].2 += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    json!([text, reasoning, calls, finish])
}

#[test]
fn a_gathered_stream_equals_the_whole_answer() {
    let whole: Value = serde_json::from_str(&collected(conversation())).unwrap();
    let choice = &whole["choices"][0];
    let message = &choice["message"];
    let calls: Vec<Value> = message["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| json!([call["id"], call["function"]["name"], call["function"]["arguments"]]))
        .collect();
    let expected = json!([message["content"], message["reasoning_content"], calls, choice["finish_reason"]]);
    assert_eq!(gather(&stream(&conversation(), 1, false, false)), expected);
}

#[test]
fn an_answers_message_can_be_sent_back() {
    let whole: Value = serde_json::from_str(&collected(conversation())).unwrap();
    let message = &whole["choices"][0]["message"];
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }, message] });
    let call = ChatCall::from_bytes(body.to_string().as_bytes()).unwrap();
    let parts = &call.request.messages[1].parts;
    assert!(matches!(&parts[0], Part::Reasoning { text } if text == "Hm\n"));
    assert!(matches!(&parts[1], Part::Text { text } if text == "Über \"x\""));
    assert!(matches!(&parts[3], Part::ToolCall(call) if call.name == "g"));
}

#[test]
fn chat_logprobs_travel_with_their_text() {
    let index = 0;
    let events = [
        ChatEvent::Text { index, text: "a".into() },
        ChatEvent::Logprobs { index, tokens: vec![token(b"a", -0.25)] },
        // Half a character: no text yet.
        ChatEvent::Logprobs { index, tokens: vec![token(b"\xc3", f32::NEG_INFINITY)] },
        ChatEvent::Text { index, text: "\u{e9}".into() },
        ChatEvent::Finish { index, reason: FinishReason::Length },
    ];
    check("chat_logprobs.sse", &stream(&events, 1, true, false));
}

#[test]
fn an_answer_without_an_end_is_finished_as_an_error() {
    let text = stream(&[ChatEvent::Text { index: 1, text: "a".into() }], 2, false, false);
    assert_eq!(text.matches("\"finish_reason\":\"error\"").count(), 2);
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(collected(vec![]).contains("\"finish_reason\":\"error\""));
}

#[test]
fn events_of_answers_that_nobody_asked_for_are_dropped() {
    let stray = ChatEvent::Text { index: 7, text: "stray".into() };
    assert!(!stream(std::slice::from_ref(&stray), 1, false, false).contains("stray"));
    assert!(!collected(vec![stray]).contains("stray"));
}

#[test]
fn a_broken_stream_ends_with_an_error_and_no_end_mark() {
    let mut chunks = ChatChunks::new(head("chatcmpl-1"), 1, true, true);
    let mut out = Vec::new();
    chunks.push(&ChatEvent::Text { index: 0, text: "kept".into() }, &mut out);
    chunks.fail(&ApiError::from(ProviderError::Transient("lost".into())), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("\"content\":\"kept\""));
    let last = "data: {\"error\":{\"message\":\"lost\",\"type\":\"server_error\",\"param\":null,\
                \"code\":\"upstream_error\"}}\n\n";
    assert!(text.ends_with(last), "{text}");
}

fn completion_events() -> Vec<(u32, CompletionEvent)> {
    let text = |index, text: &str, tokens| CompletionEvent::Text { index, text: text.into(), tokens };
    let first = TokenLogprob { id: 3, bytes: b"p".to_vec(), logprob: None, top: vec![] };
    let unlisted = TokenLogprob {
        id: 5,
        bytes: b"z".to_vec(),
        logprob: Some(-3.0),
        top: vec![TopLogprob { id: 0, bytes: vec![], logprob: -0.5 }],
    };
    vec![
        (0, text(0, "p", vec![first])),
        (0, text(0, "\u{e9}", vec![token("\u{e9}".as_bytes(), -0.125)])),
        (1, text(0, "q", vec![unlisted])),
        (0, CompletionEvent::Finish { index: 0, reason: FinishReason::Stop }),
        (0, CompletionEvent::Usage(usage())),
        (1, CompletionEvent::Finish { index: 0, reason: FinishReason::Length }),
        (1, CompletionEvent::Usage(usage())),
    ]
}

#[test]
fn completions_whole_and_streamed() {
    for (name, tokens_as_ids) in [("completion", false), ("completion_ids", true)] {
        let shape = CompletionShape { prompts: 2, n: 1, logprobs: true, tokens_as_ids };
        let mut whole = CompletionCollector::new(shape);
        let mut chunks = CompletionChunks::new(head("cmpl-1"), shape, true);
        let mut out = Vec::new();
        for (prompt, event) in completion_events() {
            chunks.push(prompt, &event, &mut out);
            whole.push(prompt, event);
        }
        chunks.end(&mut out);
        check(&format!("{name}.json"), std::str::from_utf8(&whole.to_json(&head("cmpl-1"))).unwrap());
        check(&format!("{name}.sse"), std::str::from_utf8(&out).unwrap());
    }
}

#[test]
fn choices_of_several_prompts_are_numbered_through() {
    let shape = CompletionShape { prompts: 2, n: 2, logprobs: false, tokens_as_ids: false };
    let mut whole = CompletionCollector::new(shape);
    for (prompt, index) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)] {
        whole.push(prompt, CompletionEvent::Text { index, text: format!("{prompt}{index}"), tokens: vec![] });
    }
    let body: Value = serde_json::from_slice(&whole.to_json(&head("cmpl-1"))).unwrap();
    let texts: Vec<&str> =
        body["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["00", "01", "10", "11"]);
}

#[test]
fn embeddings_as_numbers_and_as_base64() {
    let embeddings = [Embedding { vector: vec![0.1, -1.0], tokens: 3 }];
    check(
        "embeddings.json",
        std::str::from_utf8(&embeddings_json("m", &embeddings, EncodingFormat::Float)).unwrap(),
    );
    let body: Value =
        serde_json::from_slice(&embeddings_json("m", &embeddings, EncodingFormat::Base64)).unwrap();
    assert_eq!(body["data"][0]["embedding"], "zczMPQAAgL8=");
    assert_eq!(body["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
}

#[test]
fn models() {
    let info =
        ModelInfo { id: "m".into(), created: 5, owned_by: "levain".into(), context_length: Some(2048) };
    let one = r#"{"id":"m","object":"model","created":5,"owned_by":"levain","context_length":2048}"#;
    assert_eq!(std::str::from_utf8(&model_json(&info)).unwrap(), one);
    let list = format!(r#"{{"object":"list","data":[{one}]}}"#);
    assert_eq!(std::str::from_utf8(&models_json(&[info])).unwrap(), list);
}

#[test]
fn provider_errors_have_a_status_by_class() {
    for (error, status, code) in [
        (ProviderError::Overloaded, 429, "rate_limit_exceeded"),
        (ProviderError::ShuttingDown, 503, "shutting_down"),
        (ProviderError::Auth("no".into()), 401, "invalid_api_key"),
        (ProviderError::Transient("later".into()), 503, "upstream_error"),
        (ProviderError::Internal("bug".into()), 500, "internal_error"),
        (ProviderError::ModelNotFound { model: "x".into(), nearest: vec![] }, 404, "model_not_found"),
        (
            ProviderError::ContextLength { prompt_tokens: 9, context_length: 8 },
            400,
            "context_length_exceeded",
        ),
        (ProviderError::unsupported("tools", "no"), 400, "unsupported_parameter"),
        (ProviderError::invalid("n", "no"), 400, "invalid_value"),
    ] {
        let api = ApiError::from(&error);
        assert_eq!((api.status, api.code), (status, code));
        assert_eq!(api.param.as_deref(), error.param());
        let words = error.to_string();
        let said = words.rsplit(": ").next().unwrap();
        if status == 500 {
            // What went wrong inside is for the log.
            assert!(!api.message.contains(said) && api.detail.as_deref() == Some(said), "{api:?}");
            assert!(!String::from_utf8(api.to_json()).unwrap().contains(said));
        } else {
            assert!(api.message.ends_with(said), "{}", api.message);
        }
    }
}

#[test]
fn what_is_not_enforced_is_told_once() {
    let what = vec!["`not` at /properties/x: can't be enforced here".to_owned()];
    let mut events = conversation();
    let at = events.iter().position(|event| matches!(event, ChatEvent::Finish { .. })).unwrap();
    events.insert(at, ChatEvent::Unenforced(what.clone()));
    let whole: Value = serde_json::from_str(&collected(events.clone())).unwrap();
    assert_eq!(whole["unenforced"], json!(what));
    let text = stream(&events, 1, false, true);
    let chunks: Vec<Value> = text
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .filter(|chunk: &Value| chunk.get("unenforced").is_some())
        .collect();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0]["unenforced"], json!(what));
    assert!(!chunks[0]["choices"][0]["finish_reason"].is_null());
    assert!(!collected(conversation()).contains("unenforced"));
}
