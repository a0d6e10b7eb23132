//! Every kind of refusal over HTTP: its status, and the type, the code and the field at fault in the dialect's words.

use std::sync::Arc;

use levain_chat::{ChatRequest, ProviderError};
use levain_server::ServerConfig;
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::{Value, json};

use crate::client::{Running, head, post, serve};

const CHAT: &str = "/v1/chat/completions";
const RAW: &str = "/v1/completions";
const EMBED: &str = "/v1/embeddings";
const TEMPLATE: &str = "/apply-template";

/// What the provider refuses follows from what it is told.
fn script(request: &ChatRequest) -> Result<Vec<Step>, ProviderError> {
    let said = request.messages.last().map(levain_chat::Message::plain_text).unwrap_or_default();
    Err(match said.as_str() {
        "long" => ProviderError::ContextLength { prompt_tokens: 9000, context_length: 8192 },
        "busy" => ProviderError::Overloaded,
        "memory" => ProviderError::OutOfMemory { needed_bytes: 2, free_bytes: 1, hint: "less".into() },
        "ending" => ProviderError::ShuttingDown,
        "upstream" => ProviderError::Transient("the other server is away".into()),
        "bug" => ProviderError::Internal("a sum came out wrong".into()),
        "blind" => ProviderError::unsupported("messages[0].content[1].image_url", "text only"),
        "schema" => ProviderError::invalid("tools[0].function.parameters", "no such keyword"),
        "format" => ProviderError::invalid("response_format.json_schema.schema", "no such keyword"),
        "panic" => return Ok(vec![Step::Panic]),
        _ => return Ok(vec![]),
    })
}

fn chat(more: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn says(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

fn content(part: Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x" }, part] }] })
}

fn raw(more: Value) -> Value {
    let mut body = json!({ "prompt": "x" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

type Row = (&'static str, Value, u16, &'static str, &'static str, Option<&'static str>);

/// Path, body, then status, type, code and param of the answer.
fn rows() -> Vec<Row> {
    const USER: &str = "invalid_request_error";
    const RATE: &str = "rate_limit_error";
    const SERVER: &str = "server_error";
    let bad = |path, body, code, param| (path, body, 400, USER, code, Some(param));
    let format = |format: Value| chat(json!({ "response_format": format }));
    let tool = |function: Value| chat(json!({ "tools": [{ "type": "function", "function": function }] }));
    let assistant = |mut more: Value| {
        more["role"] = json!("assistant");
        json!({ "messages": [{ "role": "user", "content": "x" }, more] })
    };
    let long = "x".repeat(9000);
    vec![
        // The whole body.
        (CHAT, json!([]), 400, USER, "invalid_json", None),
        (RAW, json!("x"), 400, USER, "invalid_json", None),
        // Models.
        (CHAT, chat(json!({ "model": "nobody" })), 404, USER, "model_not_found", Some("model")),
        (RAW, raw(json!({ "model": "nobody" })), 404, USER, "model_not_found", Some("model")),
        (EMBED, json!({ "model": "nobody", "input": "x" }), 404, USER, "model_not_found", Some("model")),
        (TEMPLATE, chat(json!({ "model": "nobody" })), 404, USER, "model_not_found", Some("model")),
        (
            "/tokenize",
            json!({ "model": "nobody", "content": "x" }),
            404,
            USER,
            "model_not_found",
            Some("model"),
        ),
        (
            "/detokenize",
            json!({ "model": "nobody", "tokens": [] }),
            404,
            USER,
            "model_not_found",
            Some("model"),
        ),
        bad(CHAT, chat(json!({ "model": 5 })), "invalid_type", "model"),
        bad(EMBED, json!({ "model": [], "input": "x" }), "invalid_type", "model"),
        // Messages.
        bad(CHAT, json!({}), "missing_required_parameter", "messages"),
        bad(TEMPLATE, json!({ "messages": null }), "missing_required_parameter", "messages"),
        bad(CHAT, json!({ "messages": [] }), "empty_array", "messages"),
        bad(CHAT, json!({ "messages": "hi" }), "invalid_type", "messages"),
        bad(CHAT, json!({ "messages": ["hi"] }), "invalid_type", "messages[0]"),
        bad(CHAT, json!({ "messages": [{}] }), "missing_required_parameter", "messages[0].role"),
        bad(CHAT, json!({ "messages": [{ "role": "boss" }] }), "invalid_value", "messages[0].role"),
        bad(
            CHAT,
            json!({ "messages": [{ "role": "function", "name": "f", "content": "x" }] }),
            "unsupported_value",
            "messages[0].role",
        ),
        bad(
            CHAT,
            json!({ "messages": [{ "role": "user" }] }),
            "missing_required_parameter",
            "messages[0].content",
        ),
        bad(
            CHAT,
            json!({ "messages": [{ "role": "user", "content": 5 }] }),
            "invalid_type",
            "messages[0].content",
        ),
        bad(
            CHAT,
            json!({ "messages": [{ "role": "user", "content": "x", "mood": 1 }] }),
            "unknown_parameter",
            "messages[0].mood",
        ),
        bad(CHAT, content(json!({ "type": "smell" })), "invalid_value", "messages[0].content[1].type"),
        bad(
            CHAT,
            content(json!({ "type": "text" })),
            "missing_required_parameter",
            "messages[0].content[1].text",
        ),
        bad(
            CHAT,
            content(json!({ "type": "input_audio", "input_audio": {} })),
            "unsupported_value",
            "messages[0].content[1].input_audio",
        ),
        bad(
            CHAT,
            content(json!({ "type": "file", "file": {} })),
            "unsupported_value",
            "messages[0].content[1].file",
        ),
        bad(
            CHAT,
            content(json!({ "type": "image_url", "image_url": { "url": "https://example.org/a.png" } })),
            "invalid_value",
            "messages[0].content[1].image_url",
        ),
        bad(
            CHAT,
            content(json!({ "type": "image_url" })),
            "missing_required_parameter",
            "messages[0].content[1].image_url",
        ),
        bad(CHAT, assistant(json!({})), "missing_required_parameter", "messages[1].content"),
        bad(
            CHAT,
            assistant(json!({ "content": "a", "audio": { "id": "a" } })),
            "unsupported_parameter",
            "messages[1].audio",
        ),
        bad(
            CHAT,
            assistant(json!({ "function_call": { "name": "f" } })),
            "unsupported_parameter",
            "messages[1].function_call",
        ),
        bad(
            CHAT,
            assistant(json!({ "tool_calls": [{ "id": "c", "function": { "name": "f" } }] })),
            "missing_required_parameter",
            "messages[1].tool_calls[0].function.arguments",
        ),
        bad(
            CHAT,
            assistant(json!({ "tool_calls": [{ "id": "c", "type": "custom" }] })),
            "unsupported_value",
            "messages[1].tool_calls[0].type",
        ),
        bad(
            CHAT,
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
            "missing_required_parameter",
            "messages[0].tool_call_id",
        ),
        // How tokens are chosen and counted.
        bad(CHAT, chat(json!({ "temperature": "warm" })), "invalid_type", "temperature"),
        bad(CHAT, chat(json!({ "temperature": 3 })), "decimal_above_max_value", "temperature"),
        bad(CHAT, chat(json!({ "top_p": -1 })), "decimal_below_min_value", "top_p"),
        bad(RAW, raw(json!({ "top_k": 1.5 })), "invalid_type", "top_k"),
        bad(RAW, raw(json!({ "min_p": 2 })), "decimal_above_max_value", "min_p"),
        bad(RAW, raw(json!({ "repetition_penalty": 0 })), "decimal_below_min_value", "repetition_penalty"),
        bad(CHAT, chat(json!({ "frequency_penalty": 9 })), "decimal_above_max_value", "frequency_penalty"),
        bad(CHAT, chat(json!({ "logit_bias": { "a": 1 } })), "invalid_value", "logit_bias"),
        bad(CHAT, chat(json!({ "logit_bias": { "7": 200 } })), "decimal_above_max_value", "logit_bias.7"),
        bad(CHAT, chat(json!({ "seed": "x" })), "invalid_type", "seed"),
        bad(CHAT, chat(json!({ "stop": ["a", ""] })), "empty_string", "stop[1]"),
        bad(CHAT, chat(json!({ "stop": vec!["a"; 17] })), "array_above_max_length", "stop"),
        bad(CHAT, chat(json!({ "max_tokens": 0 })), "integer_below_min_value", "max_tokens"),
        bad(CHAT, chat(json!({ "max_tokens": "5" })), "invalid_type", "max_tokens"),
        bad(
            CHAT,
            chat(json!({ "max_tokens": 1, "max_completion_tokens": 2 })),
            "invalid_value",
            "max_completion_tokens",
        ),
        bad(CHAT, chat(json!({ "n": 17 })), "integer_above_max_value", "n"),
        bad(CHAT, chat(json!({ "top_logprobs": 3 })), "invalid_value", "top_logprobs"),
        bad(
            CHAT,
            chat(json!({ "logprobs": true, "top_logprobs": 30 })),
            "integer_above_max_value",
            "top_logprobs",
        ),
        bad(CHAT, chat(json!({ "stream": 1 })), "invalid_type", "stream"),
        bad(CHAT, chat(json!({ "stream_options": {} })), "invalid_value", "stream_options"),
        bad(CHAT, chat(json!({ "reasoning_effort": "huge" })), "invalid_value", "reasoning_effort"),
        bad(CHAT, chat(json!({ "thinking": { "type": "on" } })), "invalid_value", "thinking.type"),
        bad(
            CHAT,
            chat(json!({ "chat_template_kwargs": { "messages": 1 } })),
            "invalid_value",
            "chat_template_kwargs",
        ),
        // Tools and the answer's form.
        bad(CHAT, chat(json!({ "tools": {} })), "invalid_type", "tools"),
        bad(CHAT, chat(json!({ "tools": [{ "type": "retrieval" }] })), "unsupported_value", "tools[0].type"),
        bad(CHAT, tool(json!({})), "missing_required_parameter", "tools[0].function.name"),
        bad(CHAT, tool(json!({ "name": "a b" })), "invalid_value", "tools[0].function.name"),
        bad(
            CHAT,
            tool(json!({ "name": "f", "parameters": 5 })),
            "invalid_type",
            "tools[0].function.parameters",
        ),
        bad(CHAT, tool(json!({ "name": "f", "extra": 5 })), "unknown_parameter", "tools[0].function.extra"),
        bad(CHAT, chat(json!({ "tool_choice": "required" })), "invalid_value", "tool_choice"),
        bad(CHAT, chat(json!({ "tool_choice": "maybe" })), "invalid_value", "tool_choice"),
        bad(CHAT, format(json!("json")), "invalid_type", "response_format"),
        bad(
            CHAT,
            format(json!({ "type": "json_schema" })),
            "missing_required_parameter",
            "response_format.json_schema",
        ),
        bad(
            CHAT,
            format(json!({ "type": "json_schema", "json_schema": { "schema": 5 } })),
            "invalid_type",
            "response_format.json_schema.schema",
        ),
        // What is not offered.
        bad(CHAT, chat(json!({ "functions": [] })), "unsupported_parameter", "functions"),
        bad(CHAT, chat(json!({ "audio": {} })), "unsupported_parameter", "audio"),
        bad(CHAT, chat(json!({ "store": true })), "unsupported_value", "store"),
        bad(CHAT, chat(json!({ "modalities": ["audio"] })), "unsupported_value", "modalities"),
        bad(CHAT, chat(json!({ "mirostat": 2 })), "unsupported_value", "mirostat"),
        bad(CHAT, chat(json!({ "guided_json": {} })), "unsupported_parameter", "guided_json"),
        bad(CHAT, chat(json!({ "temprature": 1 })), "unknown_parameter", "temprature"),
        // Raw completions.
        bad(RAW, json!({}), "missing_required_parameter", "prompt"),
        bad(RAW, json!({ "prompt": 5 }), "invalid_type", "prompt"),
        bad(RAW, json!({ "prompt": [] }), "empty_array", "prompt"),
        bad(RAW, json!({ "prompt": [1, "a"] }), "invalid_type", "prompt[1]"),
        bad(RAW, json!({ "prompt": [[1], [-1]] }), "invalid_value", "prompt[1][0]"),
        bad(RAW, json!({ "prompt": [999] }), "invalid_value", "prompt"),
        bad(RAW, json!({ "prompt": [[1], [999]] }), "invalid_value", "prompt[1]"),
        bad(RAW, json!({ "prompt": long }), "context_length_exceeded", "prompt"),
        bad(RAW, json!({ "prompt": ["x", long] }), "context_length_exceeded", "prompt[1]"),
        bad(RAW, raw(json!({ "suffix": "y" })), "unsupported_value", "suffix"),
        bad(RAW, raw(json!({ "best_of": 2 })), "unsupported_value", "best_of"),
        bad(RAW, raw(json!({ "logprobs": 21 })), "integer_above_max_value", "logprobs"),
        bad(RAW, raw(json!({ "parse_special": "no" })), "invalid_type", "parse_special"),
        bad(RAW, raw(json!({ "messages": [] })), "unknown_parameter", "messages"),
        // Embeddings and the small calls.
        bad(EMBED, json!({}), "missing_required_parameter", "input"),
        bad(EMBED, json!({ "input": ["x", ""] }), "invalid_value", "input[1]"),
        bad(EMBED, json!({ "input": [999] }), "invalid_value", "input"),
        bad(EMBED, json!({ "input": "x", "encoding_format": "hex" }), "invalid_value", "encoding_format"),
        bad(EMBED, json!({ "input": "x", "dimensions": 8 }), "unsupported_parameter", "dimensions"),
        bad("/tokenize", json!({}), "missing_required_parameter", "content"),
        bad("/tokenize", json!({ "content": "x", "messages": [] }), "unsupported_parameter", "messages"),
        bad("/detokenize", json!({ "tokens": [1, "a"] }), "invalid_type", "tokens[1]"),
        bad("/detokenize", json!({ "tokens": [999] }), "invalid_value", "tokens"),
        // What only the provider knows.
        bad(CHAT, says("long"), "context_length_exceeded", "messages"),
        bad(CHAT, says("blind"), "unsupported_parameter", "messages[0].content[1].image_url"),
        bad(CHAT, says("schema"), "invalid_value", "tools[0].function.parameters"),
        bad(CHAT, says("format"), "invalid_value", "response_format.json_schema.schema"),
        (CHAT, says("busy"), 429, RATE, "rate_limit_exceeded", None),
        (CHAT, says("memory"), 429, RATE, "insufficient_memory", None),
        (CHAT, says("ending"), 503, SERVER, "shutting_down", None),
        (CHAT, says("upstream"), 503, SERVER, "upstream_error", None),
        (CHAT, says("bug"), 500, SERVER, "internal_error", None),
        (CHAT, says("panic"), 500, SERVER, "internal_error", None),
        ("/v1/nothing", json!({}), 404, USER, "unknown_url", None),
        ("/v1/models", json!({}), 405, USER, "method_not_allowed", None),
    ]
}

async fn server() -> Running {
    serve(ServerConfig::default(), Arc::new(FakeProvider::new("fake").with_script(script))).await
}

#[tokio::test]
async fn every_refusal_names_what_is_at_fault() {
    let server = server().await;
    let rows = rows();
    assert!(rows.len() >= 80);
    for (path, body, status, kind, code, param) in rows {
        let response = server.post(path, &body).await;
        let sent: String = body.to_string().chars().take(200).collect();
        assert_eq!(response.status, status, "{path} {sent}: {}", response.text());
        let error = &response.json()["error"];
        assert_eq!(error["type"], kind, "{path} {sent}: {error}");
        assert_eq!(error["code"], code, "{path} {sent}: {error}");
        assert_eq!(error["param"], json!(param), "{path} {sent}: {error}");
        let message = error["message"].as_str().unwrap();
        // Ends neither in the middle nor with what the caller said at length.
        assert!((10..600).contains(&message.len()), "{path} {sent}: {message}");
        assert_eq!(response.header("retry-after").is_some(), [429, 503].contains(&status));
    }
    server.stop().await;
}

#[tokio::test]
async fn json_that_can_not_be_read_is_located() {
    let server = server().await;
    for (body, at) in [
        ("{\n  \"messages\": oops\n}", "line 2 column 15"),
        ("{\"a\":1,\"a\":2}", "line 1 column"),
        ("", "line 1"),
    ] {
        let more = format!("connection: close\r\ncontent-length: {}\r\n", body.len());
        let response = server.send((head("POST", CHAT, &more) + body).as_bytes()).await;
        assert_eq!((response.status, response.code().as_str()), (400, "invalid_json"));
        let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(at), "{message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_name_no_model_go_to_the_first() {
    let server = serve(ServerConfig::default(), Arc::new(FakeProvider::new("fake"))).await;
    for (path, body) in [
        (CHAT, says("x")),
        (RAW, json!({ "prompt": "x" })),
        (EMBED, json!({ "input": "x" })),
        (TEMPLATE, says("x")),
        ("/tokenize", json!({ "content": "x" })),
        ("/detokenize", json!({ "tokens": [120] })),
    ] {
        for model in [None, Some(json!(null)), Some(json!(""))] {
            let mut body = body.clone();
            if let Some(model) = model {
                body["model"] = model;
            }
            let response = server.post(path, &body).await;
            assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
            assert_eq!(response.json()["model"], "fake", "{path}");
        }
    }
    let stream = json!({ "messages": [{ "role": "user", "content": "x" }], "stream": true });
    assert!(server.post(CHAT, &stream).await.text().contains("\"model\":\"fake\""));
    server.stop().await;
}

#[tokio::test]
async fn control_tokens_in_raw_prompts_are_parsed_unless_somebody_says_otherwise() {
    for (on, absent) in [(true, 3), (false, 5)] {
        let config = ServerConfig { parse_special: on, ..ServerConfig::default() };
        let server = serve(config, Arc::new(FakeProvider::new("fake"))).await;
        let count = async |more: Value| {
            let mut body = json!({ "prompt": "<s>hi", "max_tokens": 1 });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let response = server.send(post(RAW, &body, "connection: close\r\n").as_bytes()).await;
            (response.status, response.json())
        };
        assert_eq!(count(json!({})).await.1["usage"]["prompt_tokens"], absent);
        assert_eq!(count(json!({ "parse_special": false })).await.1["usage"]["prompt_tokens"], 5);
        let (status, asked) = count(json!({ "parse_special": true })).await;
        if on {
            assert_eq!(asked["usage"]["prompt_tokens"], 3);
        } else {
            assert_eq!((status, &asked["error"]["param"]), (400, &json!("parse_special")));
            assert_eq!(asked["error"]["code"], "unsupported_value");
        }
        let tokens = server.post("/tokenize", &json!({ "content": "<s>hi" })).await.json();
        assert_eq!(tokens["count"], absent);
        server.stop().await;
    }
}
