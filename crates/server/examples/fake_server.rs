//! Serves a provider without a model, for the tests of official clients and agents:
//! `fake_server [ADDRESS [SCRIPT]]`. Prints the base URL and serves until standard input ends. The key is the one in
//! `LEVAIN_API_KEY`, if set; pages of the origin in `LEVAIN_ORIGINS` may call.
//!
//! A script is a JSON list of turns: the n-th answers a conversation with n answers in it. A turn is a text, or
//! `{"tool": NAME, "arguments": {…}}`, a call of a tool that the request must offer.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use levain_chat::{ChatEvent, ChatRequest, FinishReason, ProviderError, Role, Usage};
use levain_server::{ApiKey, Server, ServerConfig};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::Value;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the base URL is this program's output")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("warn").init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let mut config = ServerConfig { listen, ..ServerConfig::default() };
    if let Ok(secret) = std::env::var("LEVAIN_API_KEY") {
        config.api_keys.push(ApiKey::new("test", &secret)?);
    }
    config.allowed_origins.extend(std::env::var("LEVAIN_ORIGINS").ok());
    let mut provider = FakeProvider::new("fake").with_pace(Duration::from_micros(200));
    if let Some(path) = std::env::args().nth(2) {
        let turns: Vec<Value> = serde_json::from_slice(&std::fs::read(path)?)?;
        provider = provider.with_script(move |request| scripted(&turns, request));
    }
    let server = Server::new(&config, Arc::new(provider))?.bind().await?;
    println!("http://{}/v1", server.local_addr());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    server
        .serve(async {
            let _ = ended.await;
        })
        .await;
    Ok(())
}

fn scripted(turns: &[Value], request: &ChatRequest) -> Result<Vec<Step>, ProviderError> {
    let refused = |message: String| ProviderError::Invalid { param: "messages".into(), message };
    let said = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
    let turn = turns.get(said).ok_or_else(|| refused(format!("the script has no turn {said}")))?;
    let mut events = Vec::new();
    let reason = if let Some(text) = turn.as_str() {
        let pieces = text.split_inclusive(' ');
        events.extend(pieces.map(|piece| ChatEvent::Text { index: 0, text: piece.to_owned() }));
        FinishReason::Stop
    } else {
        let name = turn["tool"].as_str().unwrap_or_default().to_owned();
        if !request.tools.iter().any(|tool| tool.name == name) {
            return Err(refused(format!("the request offers no tool {name:?}")));
        }
        let fragment = turn["arguments"].to_string();
        events.push(ChatEvent::ToolCallStart { index: 0, call: 0, id: format!("call_{said}"), name });
        events.push(ChatEvent::ToolCallArguments { index: 0, call: 0, fragment });
        FinishReason::ToolCalls
    };
    events.push(ChatEvent::Finish { index: 0, reason });
    events.push(ChatEvent::Usage(Usage { prompt_tokens: 9, completion_tokens: 9, ..Usage::default() }));
    Ok(events.into_iter().map(Step::Event).collect())
}
