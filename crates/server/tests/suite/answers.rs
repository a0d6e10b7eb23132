//! What comes back, byte for byte where it matters.

use std::sync::Arc;
use std::time::Duration;

use levain_chat::{ChatEvent, FinishReason, ProviderError, Usage};
use levain_server::{Limits, ROUTES, ServerConfig, describe};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::{Value, json};

use crate::client::{Running, head, post, serve};

fn body(stream: bool) -> Value {
    json!({ "model": "fake", "messages": [{ "role": "user", "content": "hello world" }], "stream": stream })
}

async fn plain() -> Running {
    serve(ServerConfig::default(), Arc::new(FakeProvider::new("fake"))).await
}

async fn scripted(steps: Vec<Step>) -> Running {
    let provider = FakeProvider::new("fake").with_script(move |_| Ok(steps.clone()));
    let limits = Limits { keep_alive: Duration::from_millis(40), ..Limits::default() };
    serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await
}

fn text(text: &str) -> Step {
    Step::Event(ChatEvent::Text { index: 0, text: text.into() })
}

fn finish() -> Step {
    Step::Event(ChatEvent::Finish { index: 0, reason: FinishReason::Stop })
}

#[tokio::test]
async fn chat_whole_and_streamed() {
    let server = plain().await;
    let whole = server.post("/v1/chat/completions", &body(false)).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), Some("application/json"));
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "You said: hello world");
    let streamed = server.post("/v1/chat/completions", &body(true)).await;
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    assert_eq!(streamed.header("cache-control"), Some("no-cache"));
    let events = streamed.text();
    assert!(events.ends_with("\n\ndata: [DONE]\n\n"));
    // Every event is one data line and a blank line.
    for event in events.strip_suffix("\n\n").unwrap().split("\n\n") {
        let data = event.strip_prefix("data: ").unwrap();
        assert!(!data.contains('\n'));
        assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok(), "{data}");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_event_leaves_at_once() {
    // The second event never comes, and the first is read all the same.
    let server = scripted(vec![text("first"), Step::Hang]).await;
    let mut stream = server.connect().await;
    let request = post("/v1/chat/completions", &body(true), "");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("first") {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap(), 0);
    }
    // Silence is filled with comments.
    while !String::from_utf8_lossy(&seen).contains(": keep-alive\n\n") {
        assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap(), 0);
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn comments_fill_a_long_wait_and_leave_no_trace() {
    let server = scripted(vec![Step::Wait(Duration::from_millis(150)), text("late"), finish()]).await;
    let events = server.post("/v1/chat/completions", &body(true)).await.text();
    assert!(events.starts_with(": keep-alive\n\n"), "{events}");
    assert!(events.contains("late") && events.ends_with("data: [DONE]\n\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_failure_after_the_first_event_is_an_event_itself() {
    let failure = Step::Fail(ProviderError::Transient("the upstream is gone".into()));
    let server = scripted(vec![text("kept"), failure]).await;
    let streamed = server.post("/v1/chat/completions", &body(true)).await;
    assert_eq!(streamed.status, 200);
    let events = streamed.text();
    assert!(events.contains("kept") && !events.contains("[DONE]"));
    let last: Value = serde_json::from_str(events.trim_end().rsplit("data: ").next().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_error");
    let whole = server.post("/v1/chat/completions", &body(false)).await;
    assert_eq!((whole.status, whole.code().as_str()), (503, "upstream_error"));
    server.stop().await;
}

#[tokio::test]
async fn a_bug_costs_one_request() {
    let server = scripted(vec![text("kept"), Step::Panic]).await;
    let whole = server.post("/v1/chat/completions", &body(false)).await;
    assert_eq!((whole.status, whole.code().as_str()), (500, "internal_error"));
    assert!(!whole.text().contains("scripted"), "the panic's own text stays inside");
    let events = server.post("/v1/chat/completions", &body(true)).await.text();
    assert!(events.contains("kept") && events.contains("internal_error") && !events.contains("[DONE]"));
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.metric("levain_panics_total").await, 2.0);
    server.stop().await;
}

#[tokio::test]
async fn refusals_of_the_provider_come_before_the_stream() {
    let provider = FakeProvider::new("fake").with_script(|request| match request.n {
        1 => Err(ProviderError::Overloaded),
        2 => Err(ProviderError::ContextLength { prompt_tokens: 9000, context_length: 8192 }),
        _ => Err(ProviderError::unsupported("n", "one answer only")),
    });
    let server = serve(ServerConfig::default(), Arc::new(provider)).await;
    for (n, status, code) in [
        (1, 429, "rate_limit_exceeded"),
        (2, 400, "context_length_exceeded"),
        (3, 400, "unsupported_parameter"),
    ] {
        let mut body = body(true);
        body["n"] = json!(n);
        let response = server.post("/v1/chat/completions", &body).await;
        assert_eq!((response.status, response.code().as_str()), (status, code));
        assert_eq!(response.header("retry-after").is_some(), status == 429);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_small_calls() {
    let server = plain().await;
    let tokens =
        server.post("/tokenize", &json!({ "content": "<s>hi", "parse_special": false })).await.json();
    assert_eq!(tokens, json!({ "model": "fake", "tokens": [60, 115, 62, 104, 105], "count": 5 }));
    let special = json!({ "model": "fake", "content": "<s>hi", "parse_special": true, "add_special": true });
    assert_eq!(server.post("/tokenize", &special).await.json()["tokens"], json!([256, 256, 104, 105]));
    let text = server.post("/detokenize", &json!({ "tokens": [256, 104, 105] })).await.json();
    assert_eq!(text, json!({ "model": "fake", "content": "hi" }));
    let rendered = server.post("/apply-template", &body(false)).await.json();
    assert_eq!(rendered["prompt"], "user: hello world\n");
    assert_eq!(rendered["tokens"].as_array().unwrap().len(), 18);
    let models = server.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "fake");
    assert_eq!(server.get("/v1/models/fake").await.json()["object"], "model");
    let missing = server.get("/v1/models/org/repo%3Aq4").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "model_not_found"));
    assert!(missing.json()["error"]["message"].as_str().unwrap().contains("org/repo:q4"));
    let embedded = json!({ "model": "fake", "input": ["a", [98]], "encoding_format": "float" });
    let embedded = server.post("/v1/embeddings", &embedded).await.json();
    assert_eq!(embedded["data"].as_array().unwrap().len(), 2);
    assert_eq!(embedded["usage"]["prompt_tokens"], 2);
    server.stop().await;
}

#[tokio::test]
async fn completions_of_several_prompts_run_side_by_side() {
    let server = plain().await;
    let body = json!({ "model": "fake", "prompt": ["x", [121]], "n": 2, "max_tokens": 2, "echo": true });
    let whole = server.post("/v1/completions", &body).await.json();
    let texts: Vec<&str> =
        whole["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["xab", "xab", "yab", "yab"]);
    assert_eq!(whole["usage"]["total_tokens"], 2 + 8);
    server.stop().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json() {
    let server = plain().await;
    let missing = server.get("/v1/nothing").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "unknown_url"));
    for route in ROUTES {
        let path = route.path.replace("{*id}", "fake");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if method == route.method {
                continue;
            }
            let text = head(method, &path, "connection: close\r\ncontent-length: 0\r\n");
            let response = server.send(text.as_bytes()).await;
            assert_eq!((response.status, response.code().as_str()), (405, "method_not_allowed"), "{path}");
            assert!(response.header("allow").unwrap().contains(route.method));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_carries_one_request_after_the_other() {
    use tokio::io::AsyncWriteExt;
    let server = plain().await;
    let mut stream = server.connect().await;
    for round in 0..3 {
        for (path, body, status) in [
            ("/v1/chat/completions", body(false), 200),
            ("/v1/chat/completions", json!({}), 400),
            ("/v1/chat/completions", body(true), 200),
            ("/nowhere", json!({}), 404),
        ] {
            stream.write_all(post(path, &body, "").as_bytes()).await.unwrap();
            let response = crate::client::read(&mut stream).await;
            assert_eq!(response.status, status, "{path} in round {round}");
        }
    }
    // A client that asks first is told to go on.
    let text = body(false).to_string();
    let asking = format!("content-length: {}\r\nexpect: 100-continue\r\n", text.len());
    stream.write_all(head("POST", "/v1/chat/completions", &asking).as_bytes()).await.unwrap();
    assert_eq!(crate::client::read(&mut stream).await.status, 100);
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(crate::client::read(&mut stream).await.status, 200);
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn every_response_has_an_id() {
    let server = plain().await;
    let own = server.get("/health").await;
    assert!(own.header("x-request-id").unwrap().starts_with("req_"));
    for (given, echoed) in [("abc-1_2.3", true), ("a b", false), ("<script>", false), ("", false)] {
        let lines = format!("connection: close\r\nx-request-id: {given}\r\n");
        let response = server.send(head("GET", "/nope", &lines).as_bytes()).await;
        assert_eq!(response.header("x-request-id") == Some(given), echoed, "{given:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let usage = Usage {
        prompt_tokens: 10,
        cached_tokens: 4,
        completion_tokens: 3,
        reasoning_tokens: 2,
        drafted_tokens: 5,
        accepted_tokens: 1,
        queue_time: Duration::from_millis(3),
        decode_time: Duration::from_millis(8),
        ..Usage::default()
    };
    let server = scripted(vec![text("a"), finish(), Step::Event(ChatEvent::Usage(usage))]).await;
    server.post("/v1/chat/completions", &body(false)).await;
    server.post("/v1/chat/completions", &body(true)).await;
    server.post("/v1/chat/completions", &json!({})).await;
    server.get("/nope").await;
    let page = server.get("/metrics").await;
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = page.text();
    for line in [
        "levain_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"200\"} 2",
        "levain_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"400\"} 1",
        "levain_requests_total{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
        "levain_prompt_tokens_total 20",
        "levain_cached_tokens_total 8",
        "levain_completion_tokens_total 6",
        "levain_reasoning_tokens_total 4",
        "levain_drafted_tokens_total 10",
        "levain_accepted_tokens_total 2",
        "levain_cancelled_total 0",
        "levain_queue_seconds_bucket{le=\"0.002\"} 0",
        "levain_queue_seconds_bucket{le=\"0.005\"} 2",
        "levain_queue_seconds_sum 0.006",
        "levain_first_token_seconds_count 2",
        "levain_decode_token_seconds_bucket{le=\"0.005\"} 2",
        "levain_sequences_running 0",
        "levain_kv_blocks_total 1024",
        "levain_weights_unpacked_bytes 7000000",
        "levain_expert_hits_total 30",
        "levain_expert_misses_total 10",
        "levain_expert_bytes_read_total 5000000",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing:\n{page}");
    }
    // Each line is a comment or a name, perhaps labels, and a number.
    for line in page.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && name.starts_with(|c: char| c.is_ascii_lowercase()), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_description_has_every_route() {
    let server = plain().await;
    let described = server.get("/openapi.json").await.json();
    assert_eq!(described, describe());
    assert_eq!(described["paths"].as_object().unwrap().len(), ROUTES.len());
    for route in ROUTES {
        let path = route.path.replace("{*id}", "{id}");
        let operation = &described["paths"][path][route.method.to_ascii_lowercase()];
        assert_eq!(operation["summary"], route.summary);
        assert_eq!(operation["security"] == json!([]), route.open);
        assert_eq!(operation["requestBody"].is_object(), route.body.is_some());
    }
    server.stop().await;
}

#[tokio::test]
async fn readiness_differs_from_health() {
    struct Empty;
    impl levain_chat::Provider for Empty {
        fn models(&self) -> Vec<levain_chat::ModelInfo> {
            Vec::new()
        }
        fn chat(
            &self,
            request: levain_chat::ChatRequest,
        ) -> levain_chat::BoxFuture<'_, Result<levain_chat::ChatStream, ProviderError>> {
            Box::pin(async { Err(ProviderError::ModelNotFound { model: request.model, nearest: vec![] }) })
        }
    }
    let server = serve(ServerConfig::default(), Arc::new(Empty)).await;
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/ready").await.status, 503);
    server.stop().await;
    let server = plain().await;
    assert_eq!(server.get("/ready").await.json(), json!({ "status": "ready" }));
    server.stop().await;
}
