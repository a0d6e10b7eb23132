//! An orderly end.

use std::sync::Arc;
use std::time::Duration;

use levain_chat::{ChatEvent, FinishReason};
use levain_server::{Limits, ServerConfig};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{PATIENCE, head, post, read, serve, until};

const STREAMS: usize = 100;

fn text(text: &str) -> Step {
    Step::Event(ChatEvent::Text { index: 0, text: text.into() })
}

fn body(stream: bool) -> serde_json::Value {
    json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }], "stream": stream })
}

#[tokio::test]
async fn running_answers_end_and_new_work_is_refused() {
    let steps = vec![
        text("begun"),
        Step::Wait(Duration::from_millis(300)),
        text("ended"),
        Step::Event(ChatEvent::Finish { index: 0, reason: FinishReason::Stop }),
    ];
    let provider = FakeProvider::new("fake").with_script(move |_| Ok(steps.clone()));
    let gauge = provider.gauge();
    let server = serve(ServerConfig::default(), Arc::new(provider)).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut client = server.connect().await;
        client.write_all(post("/v1/chat/completions", &body(true), "").as_bytes()).await.unwrap();
        streams.push(client);
    }
    until("all streams are open", || gauge.open() == STREAMS as u64).await;
    let mut idle = server.connect().await;
    idle.write_all(head("GET", "/health", "").as_bytes()).await.unwrap();
    assert_eq!(read(&mut idle).await.status, 200);
    let address = server.address;
    let ended = server.shut_down();
    // A connection that waits is closed.
    assert_eq!(
        timeout(PATIENCE, idle.read_u8()).await.unwrap().unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    for (path, status) in [("/v1/models", 503), ("/ready", 503), ("/health", 200)] {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(head("GET", path, "").as_bytes()).await.unwrap();
        let response = read(&mut client).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(response.header("retry-after").is_some(), status == 503);
    }
    for client in &mut streams {
        let answer = read(client).await.text();
        assert!(answer.contains("ended") && answer.ends_with("data: [DONE]\n\n"), "{answer}");
    }
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "it still listens");
}

#[tokio::test]
async fn answers_without_end_are_cut_with_an_error_event() {
    let provider = FakeProvider::new("fake").with_script(|_| Ok(vec![text("begun"), Step::Hang]));
    let gauge = provider.gauge();
    let limits = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    let mut clients = Vec::new();
    for stream in [true, false] {
        let mut client = server.connect().await;
        client.write_all(post("/v1/chat/completions", &body(stream), "").as_bytes()).await.unwrap();
        clients.push(client);
    }
    until("both are running", || gauge.open() == 2).await;
    let ended = server.shut_down();
    let streamed = read(&mut clients[0]).await.text();
    assert!(streamed.contains("begun") && streamed.contains("\"code\":\"shutting_down\""), "{streamed}");
    assert!(!streamed.contains("[DONE]"));
    let whole = read(&mut clients[1]).await;
    assert_eq!((whole.status, whole.code().as_str()), (503, "shutting_down"));
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert_eq!(gauge.open(), 0);
}
