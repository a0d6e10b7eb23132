//! `levain serve`

use std::sync::Arc;

use levain_server::{ApiKey, Server, ServerConfig};
use tokio::sync::Notify;

use crate::app::App;
use crate::cli::ServeArgs;
use crate::error::CliError;
use crate::model::{self, Setup};
use crate::{default_model, settings};

/// With fewer characters a key can be found by trying.
const KEY_CHARS_ADVISED: usize = 16;

/// Serves until Ctrl-C or SIGTERM; a second one ends at once.
pub(crate) fn run(app: &App, args: &ServeArgs) -> Result<(), CliError> {
    let config = server_config(app, args)?;
    // A configuration that is refused should not cost a download first.
    Server::new(&config, Arc::new(Nobody))?;
    let chat_template = app.chat_template(args.chat_template.as_deref())?;
    let hub = app.hub()?;
    // All names are looked at before the first model is fetched.
    for name in &args.models {
        app.reference(&hub, name)?;
    }
    let mut models = Vec::new();
    for name in &args.models {
        models.push((name.clone(), app.obtain(&hub, name)?));
    }
    if models.is_empty() {
        let stored = default_model::obtain(app, &hub)?;
        models.push((stored.reference.clone(), stored));
    }
    let mut engine = app.engine_config(&args.engine)?;
    if let Some(parallel) = args.parallel {
        engine.max_num_seqs = parallel;
    }
    engine.request_bytes = (config.limits.memory_bytes_max + levain_local::UNREAD_BYTES_MAX) as u64;
    if config.api_keys.len() > 1 {
        engine.max_answers_per_tenant = Some(engine.max_queued_requests / 2);
    }
    let draft = app.draft_model(&hub, &args.engine, &engine)?;
    let provider = model::load_all(app, &models, &Setup { engine, draft, chat_template })?;
    let server = Server::new(&config, provider)?;
    let names: Vec<&str> = models.iter().map(|(_, stored)| stored.reference.as_str()).collect();
    raise_file_limit(config.limits.connections_max);
    app.block_on_uninterrupted(async {
        let bound = server.bind().await?;
        let address = bound.local_addr();
        app.printer.say(format_args!("{} at http://{address}/v1 (Ctrl-C ends)", names.join(", ")));
        let asked = Notify::new();
        let first = async {
            wait_for_signal(app).await;
            app.printer.say("ending: running answers may finish; once more ends at once");
            asked.notify_one();
        };
        let second = async {
            asked.notified().await;
            wait_for_signal(app).await;
        };
        tokio::select! {
            () = bound.serve(first) => {
                app.printer.say("ended");
                Ok(())
            }
            () = second => Err(CliError::Interrupted),
        }
    })
}

fn server_config(app: &App, args: &ServeArgs) -> Result<ServerConfig, CliError> {
    let mut config = ServerConfig::default();
    let configured = app.settings.get("serve.listen").and_then(|text| settings::address(text).ok());
    if let Some(listen) = args.listen.or(configured) {
        config.listen = listen;
    }
    if let Some(keys) = app.settings.get("serve.api_key") {
        for (n, key) in keys.split(',').map(str::trim).enumerate() {
            config.api_keys.push(ApiKey::new(format!("configured {}", n + 1), key)?);
            // Where other machines reach the server, it refuses such a key.
            if key.len() < KEY_CHARS_ADVISED && config.listen.ip().to_canonical().is_loopback() {
                app.printer.warn(format_args!(
                    "API key {} has fewer than {KEY_CHARS_ADVISED} characters and may be guessed: `openssl rand -hex \
                     32` makes a good one",
                    n + 1
                ));
            }
        }
    }
    if let Some(free) = levain_engine::free_memory() {
        // A small machine has better uses for its memory, and two of the largest bodies have to fit.
        let part = usize::try_from(free / 32).unwrap_or(usize::MAX);
        let limits = &mut config.limits;
        limits.memory_bytes_max = part.clamp(4 * limits.body_bytes_max, limits.memory_bytes_max);
    }
    config.insecure_no_auth = args.insecure_no_auth;
    config.allowed_hosts.clone_from(&args.allow_host);
    config.allowed_origins.clone_from(&args.allow_origin);
    if let Some(origins) = app.settings.get("serve.origins") {
        let origins = origins.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        config.allowed_origins.extend(origins.map(str::to_owned));
    }
    let configured = app.settings.get("serve.parse_special").and_then(|text| settings::flag(text).ok());
    config.parse_special = !args.no_parse_special && configured.unwrap_or(true);
    if config.api_keys.is_empty() && config.allowed_origins.iter().any(|origin| origin.trim() == "*") {
        app.printer
            .warn("every page in a browser on this machine may use this server: a key would keep them out");
    }
    Ok(config)
}

/// Each connection is an open file, of which a process may have 1,024 on many systems unless it asks for more.
#[cfg(unix)]
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    /// For files that are no connections.
    const OTHERS: u64 = 256;
    let wanted = connections as u64 + OTHERS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    if !raised || limit.current.is_some_and(|current| current < wanted) {
        tracing::warn!(
            "fewer files may be open than there may be connections: raise `ulimit -n` to {wanted}"
        );
    }
}

#[cfg(not(unix))]
fn raise_file_limit(_connections: usize) {}

/// Ready at the next Ctrl-C or SIGTERM.
#[cfg(unix)]
async fn wait_for_signal(app: &App) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                () = app.signals.interrupted() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => app.signals.interrupted().await,
    }
}

#[cfg(not(unix))]
async fn wait_for_signal(app: &App) {
    app.signals.interrupted().await;
}

/// A provider without a model, to check a configuration with before one is loaded.
struct Nobody;

impl levain_chat::Provider for Nobody {
    fn models(&self) -> Vec<levain_chat::ModelInfo> {
        Vec::new()
    }

    fn chat(
        &self,
        request: levain_chat::ChatRequest,
    ) -> levain_chat::BoxFuture<'_, Result<levain_chat::ChatStream, levain_chat::ProviderError>> {
        let error = levain_chat::ProviderError::ModelNotFound { model: request.model, nearest: Vec::new() };
        Box::pin(std::future::ready(Err(error)))
    }
}
