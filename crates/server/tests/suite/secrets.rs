//! What callers say and how they prove who they are stays out of logs and metrics.

use std::io::Write;
use std::sync::{Arc, Mutex};

use levain_chat::ProviderError;
use levain_server::{ApiKey, ServerConfig};
use levain_testkit::provider::FakeProvider;
use serde_json::json;

use crate::client::{post, serve};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
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
    // For this thread only, which is the one that serves: other tests log elsewhere.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let provider = FakeProvider::new("fake").with_script(|request| match request.n {
        1 => Err(ProviderError::Internal("a plain failure".into())),
        _ => Ok(vec![]),
    });
    let api_keys = vec![ApiKey::new("one", "marker-key-good").unwrap()];
    let server = serve(ServerConfig { api_keys, ..ServerConfig::default() }, Arc::new(provider)).await;
    for key in ["marker-key-good", "marker-key-bad"] {
        for n in [1, 2, 99] {
            let body = json!({
                "model": "fake", "n": n, "user": "marker-user",
                "messages": [{ "role": "user", "content": "marker-prompt" }],
            });
            let lines =
                format!("connection: close\r\nauthorization: Bearer {key}\r\ncookie: marker-cookie\r\n");
            let response =
                server.send(post("/v1/chat/completions?marker-query", &body, &lines).as_bytes()).await;
            assert!(!response.text().contains("marker"), "{}", response.text());
        }
    }
    let lines = "connection: close\r\nx-api-key: marker-key-good\r\n";
    let page = server.send(crate::client::head("GET", "/metrics", lines).as_bytes()).await.text();
    assert!(page.contains("status=\"500\"") && !page.contains("marker"));
    server.stop().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a plain failure") && log.contains("status=401"), "{log}");
    assert!(!log.contains("marker"), "{log}");
}
