//! `levain rm`

use levain_hub::{HubError, bytes};
use serde_json::json;

use crate::app::App;
use crate::cli::RmArgs;
use crate::error::CliError;

/// Removes models from the store.
pub(crate) fn run(app: &App, args: &RmArgs) -> Result<(), CliError> {
    let hub = app.hub()?;
    let references =
        args.models.iter().map(|model| app.reference(&hub, model)).collect::<Result<Vec<_>, _>>()?;
    // A typing error in the second name should not cost the first model.
    for reference in &references {
        hub.require(reference).map_err(not_here)?;
    }
    for reference in &references {
        let model = hub.remove(reference)?;
        if args.json {
            app.printer.json(&json!({ "removed": model.reference, "bytes": model.bytes }))?;
        } else {
            app.printer.say(format_args!(
                "{} is removed, {} are free again",
                model.reference,
                bytes(model.bytes)
            ));
        }
    }
    Ok(())
}

/// For someone who wants a model gone, fetching it is no advice.
fn not_here(error: HubError) -> CliError {
    match error {
        HubError::NotStored { ref nearest, .. } if nearest.is_empty() => {
            CliError::input_with(error.to_string(), "`levain list` shows the models that are")
        }
        other => other.into(),
    }
}
