//! Clients that leave: the slot is free again, and nothing more is generated.

use std::sync::Arc;
use std::time::Duration;

use levain_chat::ChatEvent;
use levain_server::{Limits, ServerConfig};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{post, serve, until};

const CLIENTS: usize = 1000;
const AT_ONCE: usize = 50;

#[derive(Clone, Copy)]
enum When {
    MidStream,
    Prefill,
    NotStreamed,
}

async fn drop_clients(when: When) {
    // A stream without end, or with no beginning.
    let provider = FakeProvider::new("fake").with_script(move |_| {
        let mut steps = Vec::new();
        if !matches!(when, When::Prefill) {
            for _ in 0..64 {
                steps.push(Step::Event(ChatEvent::Text { index: 0, text: "x".into() }));
                steps.push(Step::Wait(Duration::from_millis(1)));
            }
        }
        steps.push(Step::Hang);
        Ok(steps)
    });
    let gauge = provider.gauge();
    let limits = Limits { requests_max: AT_ONCE, ..Limits::default() };
    let server = serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    let body = json!({
        "model": "fake",
        "messages": [{ "role": "user", "content": "x" }],
        "stream": !matches!(when, When::NotStreamed),
    });
    let request = post("/v1/chat/completions", &body, "");
    for round in 0..CLIENTS / AT_ONCE {
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            let mut client = server.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            clients.push(client);
        }
        let opened = ((round + 1) * AT_ONCE) as u64;
        until("all streams are open", || gauge.opened() == opened).await;
        if matches!(when, When::MidStream) {
            for client in &mut clients {
                let mut seen = Vec::new();
                while !seen.windows(5).any(|window| window == b"\"x\"},") {
                    assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
                }
            }
        }
        drop(clients);
        // No more requests are admitted than there are slots, so the next round needs all of these back.
        until("all slots are free", || gauge.open() == 0).await;
    }
    assert_eq!(gauge.opened(), CLIENTS as u64);
    assert_eq!(gauge.completed(), 0);
    let events = gauge.events();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(gauge.events(), events, "something is still generated");
    assert_eq!(server.metric("levain_cancelled_total").await, CLIENTS as f64);
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_clients_leave_in_mid_stream() {
    drop_clients(When::MidStream).await;
}

#[tokio::test]
async fn a_thousand_clients_leave_before_the_first_token() {
    drop_clients(When::Prefill).await;
}

#[tokio::test]
async fn a_thousand_clients_leave_without_a_stream() {
    drop_clients(When::NotStreamed).await;
}

#[tokio::test]
async fn a_client_that_only_closes_its_sending_half_counts_as_gone() {
    let provider = FakeProvider::new("fake").with_script(|_| Ok(vec![Step::Hang]));
    let gauge = provider.gauge();
    let server = serve(ServerConfig::default(), Arc::new(provider)).await;
    let body = json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }] });
    let mut client = server.connect().await;
    client.write_all(post("/v1/chat/completions", &body, "").as_bytes()).await.unwrap();
    until("the stream is open", || gauge.open() == 1).await;
    client.shutdown().await.unwrap();
    until("the slot is free", || gauge.open() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_come_back() {
    let provider = FakeProvider::new("fake").with_script(|_| Ok(vec![Step::Hang]));
    let gauge = provider.gauge();
    let limits = Limits { requests_max: 2, ..Limits::default() };
    let server = serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    let body = json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }] });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client.write_all(post("/v1/chat/completions", &body, "").as_bytes()).await.unwrap();
        held.push(client);
    }
    until("both are running", || gauge.open() == 2).await;
    for path in ["/v1/chat/completions", "/tokenize"] {
        let body = if path == "/tokenize" { json!({ "content": "x" }) } else { body.clone() };
        let refused = server.post(path, &body).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(server.get("/health").await.status, 200);
    drop(held);
    until("both are gone", || gauge.open() == 0).await;
    assert_eq!(server.post("/tokenize", &json!({ "content": "x" })).await.status, 200);
    server.stop().await;
}
