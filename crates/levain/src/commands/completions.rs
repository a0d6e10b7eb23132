//! `levain completions`

use clap::CommandFactory as _;

use crate::app::App;
use crate::cli::{Cli, CompletionsArgs};
use crate::error::CliError;

/// Prints the script that completes `levain` in a shell.
pub(crate) fn run(app: &App, args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "levain", &mut script);
    app.printer.raw(&script)
}
