//! Bodies as programs in use write them: what can't change an answer must not stand in its way.

use levain_chat::{Message, Part, Role};
use levain_wire::openai::{ChatCall, CompletionCall, EmbeddingCall};
use serde_json::{Value, json};

fn read(body: &Value) -> ChatCall {
    ChatCall::from_bytes(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn messages(messages: Value) -> Vec<Message> {
    read(&json!({ "messages": messages })).request.messages
}

#[test]
fn requests_without_a_model() {
    for model in [json!(null), json!("")] {
        let mut bodies = [
            json!({ "messages": [{ "role": "user", "content": "x" }], "model": model }),
            json!({ "prompt": "x", "model": model }),
            json!({ "input": "x", "model": model }),
        ];
        for round in 0..2 {
            let [chat, completion, embedding] = bodies.each_ref().map(|body| body.to_string().into_bytes());
            assert_eq!(ChatCall::from_bytes(&chat).unwrap().request.model, "");
            assert_eq!(CompletionCall::from_bytes(&completion).unwrap().requests[0].model, "");
            assert_eq!(EmbeddingCall::from_bytes(&embedding).unwrap().request.model, "");
            if round == 0 {
                bodies.iter_mut().for_each(|body| drop(body.as_object_mut().unwrap().remove("model")));
            }
        }
    }
}

#[test]
fn whole_requests() {
    let user = json!([{ "role": "user", "content": "x" }]);
    for body in [
        // Evaluation harnesses.
        json!({ "messages": [{ "role": "user", "content": "x", "type": "text" }], "model": "m", "max_tokens": 256,
                "temperature": 0, "stop": [], "seed": 1234 }),
        // Agents' frameworks: names on every message.
        json!({ "model": "m", "messages": [
            { "role": "system", "content": "s", "name": "coder" },
            { "role": "user", "content": "x", "name": "user_proxy" },
            { "role": "assistant", "content": "a", "name": "coder", "function_call": null, "tool_calls": null },
            { "role": "user", "content": "y", "name": "user_proxy" },
        ], "n": 1, "stream": false, "functions": null, "tools": null }),
        // Task frameworks that write every default.
        json!({ "model": "m", "messages": user, "temperature": 0, "top_p": 0, "frequency_penalty": 0.0,
                "presence_penalty": 0, "n": 1.0, "max_tokens": 1024.0, "logit_bias": {}, "stop": null,
                "user": null, "response_format": null, "seed": 123456.0 }),
        // Coding agents.
        json!({ "model": "m", "max_completion_tokens": 4096, "stream": true, "parallel_tool_calls": false,
                "stream_options": { "include_usage": true, "include_obfuscation": false },
                "prompt_cache_key": "k", "tools": [{ "type": "function", "cache_control": { "type": "ephemeral" },
                    "function": { "name": "f", "parameters": { "type": "object" }, "strict": false } }],
                "tool_choice": "auto", "reasoning_effort": null, "messages": [
            { "role": "system", "content": [{ "type": "text", "text": "s", "cache_control": { "type": "ephemeral" } }] },
            { "role": "user", "cache_control": { "type": "ephemeral" }, "content": [
                { "type": "text", "text": "x", "prompt_cache_breakpoint": { "mode": "explicit" } }] },
        ] }),
        json!({ "model": "m", "messages": user, "prediction": { "type": "content", "content": "code" } }),
        // Chat front ends.
        json!({ "model": "m", "messages": user, "max_tokens": -1, "top_k": 0, "min_p": 0, "typical_p": 1,
                "repetition_penalty": 1, "mirostat": 0, "dry_multiplier": 0, "xtc_probability": 0.0, "n": 1,
                "add_special_tokens": false, "skip_special_tokens": true, "include_reasoning": true }),
        json!({ "model": "m", "messages": user, "cache_prompt": true, "id_slot": -1, "timings_per_token": false,
                "repeat_penalty": 1.1, "reasoning_format": "auto", "return_progress": false }),
        // Gateways.
        json!({ "model": "m", "messages": user, "provider": { "order": ["x"] }, "transforms": [],
                "reasoning": { "effort": "low", "exclude": false }, "session_id": "s" }),
        json!({ "model": "m", "messages": user, "store": false, "metadata": {}, "service_tier": "auto",
                "verbosity": "medium", "modalities": ["text"], "audio": null, "moderation": null,
                "web_search_options": null, "function_call": null }),
    ] {
        read(&body);
    }
}

#[test]
fn histories_as_clients_send_them_back() {
    let reasoning = |text: &str| Part::Reasoning { text: text.into() };
    let text = |text: &str| Part::Text { text: text.into() };
    for (message, expected) in [
        (
            json!({ "content": "a", "refusal": null, "annotations": [], "audio": null, "function_call": null,
                 "tool_calls": null, "reasoning_content": null }),
            vec![text("a")],
        ),
        (json!({ "content": "a", "tool_calls": [], "id": "msg_1", "parsed": null }), vec![text("a")]),
        (json!({ "content": "a", "annotations": [{ "type": "url_citation" }] }), vec![text("a")]),
        (json!({ "content": [{ "type": "output_text", "text": "a", "annotations": [] }] }), vec![text("a")]),
        (
            json!({ "content": "a", "reasoning": "r", "reasoning_content": "r" }),
            vec![reasoning("r"), text("a")],
        ),
        (json!({ "content": "a", "thinking": "r" }), vec![reasoning("r"), text("a")]),
        (
            json!({ "content": "a", "reasoning_details": [
            { "type": "reasoning.summary", "summary": "r" }, { "type": "reasoning.text", "text": "s" },
            { "type": "reasoning.encrypted", "data": "xyz" }] }),
            vec![reasoning("rs"), text("a")],
        ),
        (
            json!({ "content": "a", "reasoning_content": "r", "reasoning_details": [{ "text": "r" }] }),
            vec![reasoning("r"), text("a")],
        ),
        (
            json!({ "content": "a", "provider_specific_fields": {}, "thinking_blocks": [
            { "type": "thinking", "thinking": "r", "signature": "s" }] }),
            vec![reasoning("r"), text("a")],
        ),
        (
            json!({ "content": [{ "type": "thinking", "thinking": "r", "signature": "s" }, { "type": "text", "text": "a" }] }),
            vec![reasoning("r"), text("a")],
        ),
        (json!({ "content": "", "refusal": "no" }), vec![text(""), text("no")]),
        (json!({ "content": null, "reasoning_content": "r" }), vec![reasoning("r")]),
    ] {
        let mut message = message;
        message["role"] = json!("assistant");
        let read = messages(json!([{ "role": "user", "content": "x" }, message.clone()]));
        assert_eq!(read[1], Message { role: Role::Assistant, parts: expected }, "{message}");
    }
}

#[test]
fn tools_may_say_nothing_and_calls_carry_signatures() {
    let read = messages(json!([
        { "role": "user", "content": "x" },
        { "role": "assistant", "content": null, "tool_calls": [{ "index": 0, "id": "c", "type": "function",
            "extra_content": { "google": { "thought_signature": "s" } },
            "function": { "name": "f", "arguments": "{}", "parsed_arguments": {} } }] },
        { "role": "tool", "tool_call_id": "c", "content": null },
        { "role": "tool", "tool_call_id": "c", "content": [] },
        { "role": "tool", "tool_call_id": "c", "content": "", "cache_control": { "type": "ephemeral" } },
    ]));
    for message in &read[2..] {
        let result = Part::ToolResult { call_id: "c".into(), name: None, text: String::new() };
        assert_eq!(message.parts, [result]);
    }
}

#[test]
fn a_bound_may_be_absent_or_below_nothing() {
    let bound = |more: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read(&body).request.max_tokens
    };
    assert_eq!(bound(json!({})), None);
    assert_eq!(bound(json!({ "max_tokens": -1 })), None);
    assert_eq!(bound(json!({ "max_tokens": -1.0, "max_completion_tokens": -1 })), None);
    assert_eq!(bound(json!({ "max_tokens": 7.0 })), Some(7));
}

#[test]
fn the_smallest_nucleus_is_never_empty() {
    for p in [0.0, 1e-40, 1e-300] {
        let body = json!({ "messages": [{ "role": "user", "content": "x" }], "top_p": p });
        assert_eq!(read(&body).request.sampling.top_p, Some(f32::MIN_POSITIVE));
    }
}

#[test]
fn reasoning_as_gateways_spell_it() {
    use levain_chat::ReasoningEffort::{High, None as Off};
    let read = |reasoning: Value| {
        let body = json!({ "messages": [{ "role": "user", "content": "x" }], "reasoning": reasoning });
        let request = read(&body).request;
        (request.reasoning_effort, request.reasoning_budget)
    };
    assert_eq!(read(json!({ "effort": "high" })), (Some(High), None));
    assert_eq!(read(json!({ "max_tokens": 5 })), (None, Some(5)));
    assert_eq!(read(json!({ "enabled": false })), (Some(Off), None));
    assert_eq!(read(json!({ "enabled": true, "summary": "auto", "exclude": false })), (None, None));
}
