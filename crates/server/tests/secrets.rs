//! What callers say and how they prove who they are stays out of logs and metrics. A program of its own, because it
//! reads all that is logged.

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use levain_chat::ProviderError;
use levain_server::{ApiKey, Server, ServerConfig};
use levain_testkit::provider::FakeProvider;
use serde_json::json;
use tower::ServiceExt;
use tracing_subscriber::filter::LevelFilter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn keys_and_prompts_are_never_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let provider = FakeProvider::new("fake").with_script(|request| match request.n {
        1 => Err(ProviderError::Internal("a plain failure".into())),
        _ => Ok(vec![]),
    });
    let api_keys = vec![ApiKey::new("one", "marker-key-good").unwrap()];
    let config = ServerConfig { api_keys, ..ServerConfig::default() };
    let router = Server::new(&config, Arc::new(provider)).unwrap().router();
    let ask = async |request: Request<Body>| {
        let response = router.clone().oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    };
    for key in ["marker-key-good", "marker-key-bad"] {
        for n in [1, 2, 99] {
            let body = json!({
                "model": "fake", "n": n, "user": "marker-user",
                "messages": [{ "role": "user", "content": "marker-prompt" }],
            });
            let request = Request::post("/v1/chat/completions?marker-query")
                .header("host", "localhost")
                .header("authorization", format!("Bearer {key}"))
                .header("cookie", "marker-cookie")
                .body(Body::from(body.to_string()));
            let answer = ask(request.unwrap()).await;
            assert!(!answer.contains("marker"), "{answer}");
        }
    }
    let request = Request::get("/metrics").header("host", "localhost").header("x-api-key", "marker-key-good");
    let page = ask(request.body(Body::empty()).unwrap()).await;
    assert!(page.contains("status=\"500\"") && !page.contains("marker"), "{page}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a plain failure") && log.contains("status=401"), "{log}");
    assert!(!log.contains("marker"), "{log}");
}
