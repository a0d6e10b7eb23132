//! Serves a provider without a model, for the tests of official clients: `fake_server [ADDRESS]`. Prints the base
//! URL and serves until standard input ends. The key is the one in `LEVAIN_API_KEY`, if set.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use levain_server::{ApiKey, Server, ServerConfig};
use levain_testkit::provider::FakeProvider;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the base URL is this program's output")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("warn").init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let mut config = ServerConfig { listen, ..ServerConfig::default() };
    if let Ok(secret) = std::env::var("LEVAIN_API_KEY") {
        config.api_keys.push(ApiKey::new("test", &secret)?);
    }
    let provider = FakeProvider::new("fake").with_pace(Duration::from_micros(200));
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
