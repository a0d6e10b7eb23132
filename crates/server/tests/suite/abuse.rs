//! Clients that dribble, flood or never read.

use std::sync::Arc;
use std::time::Duration;

use levain_chat::ChatEvent;
use levain_server::{Limits, ServerConfig};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{PATIENCE, Running, head, post, read, serve, until};

async fn with(limits: Limits) -> Running {
    serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(FakeProvider::new("fake"))).await
}

/// Reads to the end of the connection, however it ends.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read =
        timeout(PATIENCE, async { while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {} });
    assert!(read.await.is_ok(), "the connection stays open");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn heads_that_never_end_are_cut_off() {
    let server = with(Limits { header_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let mut dribblers = Vec::new();
    for i in 0..300 {
        let mut stream = server.connect().await;
        // Nothing at all, half a line, or lines without end.
        let begun: &[u8] = [&b""[..], b"GET /heal", b"GET /health HTTP/1.1\r\nhost: localhost\r\n"][i % 3];
        stream.write_all(begun).await.unwrap();
        dribblers.push(stream);
    }
    for _ in 0..3 {
        for stream in dribblers.iter_mut().skip(2).step_by(3) {
            let _ = stream.write_all(b"x: y\r\n").await;
        }
        // An honest client is served meanwhile.
        assert_eq!(server.get("/health").await.status, 200);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for mut stream in dribblers {
        to_the_end(&mut stream).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_answer_outlives_the_time_for_heads() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        keep_alive: Duration::from_millis(20),
        ..Limits::default()
    };
    let steps = vec![
        Step::Wait(Duration::from_millis(200)),
        Step::Event(ChatEvent::Text { index: 0, text: "late".into() }),
    ];
    let provider = FakeProvider::new("fake").with_script(move |_| Ok(steps.clone()));
    let server = serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    for stream in [true, false] {
        let body =
            json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }], "stream": stream });
        assert!(server.post("/v1/chat/completions", &body).await.text().contains("late"));
    }
    server.stop().await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let server = with(Limits::default()).await;
    let many: String = (0..10_000).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    let line = format!("/{}", "z".repeat(1 << 20));
    let just_too_many: String = (0..70).map(|i| format!("x-{i}: y\r\n")).collect();
    for request in [
        head("GET", "/health", &many),
        head("GET", "/health", &long),
        head("GET", &line, ""),
        head("GET", "/health", &just_too_many),
    ] {
        let mut stream = server.connect().await;
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        // The server may close before it has read everything.
        let write = async {
            let _ = writer.write_all(request.as_bytes()).await;
        };
        let read = async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
        timeout(PATIENCE, futures::future::join(write, read)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("\"status\":\"ok\""));
    }
    let enough: String = (0..40).map(|i| format!("x-{i}: y\r\n")).collect();
    let fine = server.send(head("GET", "/health", &(enough + "connection: close\r\n")).as_bytes()).await;
    assert_eq!(fine.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn bodies_without_end_are_refused_after_the_limit() {
    let server = with(Limits { body_bytes_max: 1 << 20, ..Limits::default() }).await;
    // Announced: refused before anything is read.
    let announced = head("POST", "/v1/chat/completions", "content-length: 1073741824\r\n");
    let mut stream = server.connect().await;
    stream.write_all(announced.as_bytes()).await.unwrap();
    let response = read(&mut stream).await;
    assert_eq!((response.status, response.code().as_str()), (413, "request_too_large"));
    // In chunks: a gigabyte is on offer, and little more than the limit is taken.
    let mut stream = server.connect().await;
    let chunked = head("POST", "/v1/chat/completions", "transfer-encoding: chunked\r\n");
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut sent = 0u64;
        while sent < 1 << 30 && writer.write_all(&chunk).await.is_ok() {
            sent += 0x10000;
        }
        sent
    };
    let mut answer = Vec::new();
    let read = async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    let (sent, ()) = timeout(PATIENCE, futures::future::join(write, read)).await.unwrap();
    // What lies in the sockets' buffers counts as sent too.
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(server.get("/health").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_stop_or_dribble_are_refused() {
    let server = with(Limits {
        body_idle_timeout: Duration::from_millis(100),
        body_timeout: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let begun = head("POST", "/v1/chat/completions", "content-length: 1000\r\n") + "{\"model\":";
    let mut stopped = server.connect().await;
    stopped.write_all(begun.as_bytes()).await.unwrap();
    let response = read(&mut stopped).await;
    assert_eq!((response.status, response.code().as_str()), (408, "request_timeout"));
    let mut dribbling = server.connect().await;
    dribbling.write_all(begun.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = dribbling.split();
    let write = async {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    let read = async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    let race = futures::future::select(Box::pin(write), Box::pin(read));
    assert!(timeout(PATIENCE, race).await.is_ok());
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408") || answer.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn bodies_together_are_bounded_too() {
    let limits = Limits { body_bytes_max: 1 << 20, memory_bytes_max: 1 << 20, ..Limits::default() };
    let server = with(limits).await;
    let begun = head("POST", "/v1/chat/completions", "content-length: 1048576\r\n") + &" ".repeat(900_000);
    let hold = async || {
        let mut holder = server.connect().await;
        holder.write_all(begun.as_bytes()).await.unwrap();
        holder
    };
    let mut holder = hold().await;
    let large = json!({ "content": "x".repeat(100_000) });
    let refused = timeout(PATIENCE, async {
        loop {
            let response = server.post("/tokenize", &large).await;
            if response.status != 200 {
                return response;
            }
            // One of the requests may have taken what the holder needed before it had read so far.
            if holder.try_read(&mut [0; 1]).is_ok() {
                holder = hold().await;
            }
        }
    });
    let refused = refused.await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    drop(holder);
    let served = timeout(PATIENCE, async {
        while server.post("/tokenize", &large).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(served.await.is_ok(), "the memory is not given back");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_slot() {
    let provider = FakeProvider::new("fake").with_script(|_| {
        let text = "x".repeat(1 << 16);
        Ok(vec![Step::Event(ChatEvent::Text { index: 0, text }); 1000])
    });
    let gauge = provider.gauge();
    let limits = Limits { write_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    let body = json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }], "stream": true });
    let mut lazy = server.connect().await;
    lazy.write_all(post("/v1/chat/completions", &body, "").as_bytes()).await.unwrap();
    until("the stream is open", || gauge.opened() == 1).await;
    until("the slot is free", || gauge.open() == 0).await;
    assert_eq!(gauge.completed(), 0);
    // What was not read was not generated either, but for what the sockets hold.
    assert!(gauge.events() < 1000);
    server.stop().await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away() {
    let server = with(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(head("GET", "/health", "").as_bytes()).await.unwrap();
        assert_eq!(read(&mut stream).await.status, 200);
        held.push(stream);
    }
    let turned_away = to_the_end(&mut server.connect().await).await;
    assert!(turned_away.is_empty() || turned_away.starts_with("HTTP/1.1 503"), "{turned_away}");
    drop(held);
    let served = timeout(PATIENCE, async {
        loop {
            let mut stream = server.connect().await;
            let _ = stream.write_all(head("GET", "/health", "connection: close\r\n").as_bytes()).await;
            if to_the_end(&mut stream).await.starts_with("HTTP/1.1 200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(served.await.is_ok());
    server.stop().await;
}

/// A server whose answers are as long as no socket's buffers, and that answers one request at a time.
async fn one_at_a_time(write_timeout: Duration) -> Running {
    let provider = FakeProvider::new("fake").with_script(|_| {
        let text = "x".repeat(1 << 20);
        Ok(vec![Step::Event(ChatEvent::Text { index: 0, text }); 40])
    });
    let limits = Limits { write_timeout, requests_max: 1, ..Limits::default() };
    serve(ServerConfig { limits, ..ServerConfig::default() }, Arc::new(provider)).await
}

fn ask() -> serde_json::Value {
    json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }] })
}

#[tokio::test]
async fn a_whole_answer_holds_its_place_until_it_is_read() {
    let server = one_at_a_time(PATIENCE).await;
    let mut lazy = server.connect().await;
    lazy.write_all(post("/v1/chat/completions", &ask(), "connection: close\r\n").as_bytes()).await.unwrap();
    // It is complete as soon as its head is there.
    let mut head = [0; 12];
    timeout(PATIENCE, lazy.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    for _ in 0..20 {
        let refused = server.post("/tokenize", &json!({ "content": "x" })).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"));
    }
    assert!(to_the_end(&mut lazy).await.len() > 40 << 20);
    let served = timeout(PATIENCE, async {
        while server.post("/tokenize", &json!({ "content": "x" })).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(served.await.is_ok(), "the place is not given back");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_a_byte_now_and_then_loses_its_place() {
    let server = one_at_a_time(Duration::from_millis(300)).await;
    let mut dribbling = server.connect().await;
    dribbling.write_all(post("/v1/chat/completions", &ask(), "").as_bytes()).await.unwrap();
    let dribble = async {
        let mut byte = [0; 1];
        loop {
            let _ = dribbling.read(&mut byte).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let served = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        while server.post("/tokenize", &json!({ "content": "x" })).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let race = futures::future::select(Box::pin(dribble), Box::pin(served));
    assert!(timeout(PATIENCE, race).await.is_ok(), "it holds its place");
    server.stop().await;
}

#[tokio::test]
async fn what_a_body_becomes_counts_before_it_is_parsed() {
    let limits = Limits { body_bytes_max: 1 << 20, memory_bytes_max: 8 << 20, ..Limits::default() };
    let server = with(limits).await;
    let many = json!({ "content": "x", "more": vec![json!({}); 100_000] });
    let refused = server.post("/tokenize", &many).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "request_too_large"), "{refused:?}");
    // As long a text is no trouble, whatever it says.
    let long = json!({ "content": ",{[:".repeat(100_000) });
    assert_eq!(server.post("/tokenize", &long).await.status, 200);
    server.stop().await;
}
