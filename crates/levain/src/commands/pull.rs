//! `levain pull`

use levain_hub::bytes;

use crate::app::App;
use crate::cli::PullArgs;
use crate::error::CliError;

/// Fetches models, or brings them up to date. The path of each goes to standard output.
pub(crate) fn run(app: &App, args: &PullArgs) -> Result<(), CliError> {
    let hub = app.hub()?;
    // All names are looked at before the first byte is fetched.
    let references =
        args.models.iter().map(|model| app.reference(&hub, model)).collect::<Result<Vec<_>, _>>()?;
    for reference in references {
        let model = app.pull(&hub, &reference)?;
        if args.json {
            app.printer.json(&model)?;
        } else {
            app.printer.say(format_args!("{} is here, {}", model.reference, bytes(model.bytes)));
            app.printer.line(model.path.display())?;
        }
    }
    Ok(())
}
