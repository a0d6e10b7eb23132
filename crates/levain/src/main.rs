//! The program: command line, configuration, terminal chat. It wires the other crates together and holds no
//! logic that they could hold.

mod answer;
mod app;
mod cli;
mod commands;
mod default_model;
mod env;
mod error;
mod log;
mod model;
mod paths;
mod printer;
mod progress;
mod repl;
mod seal;
mod settings;
mod signals;
mod terminal;
mod vocabulary;

use std::process::ExitCode;

use clap::Parser as _;

use crate::app::App;
use crate::cli::Cli;
use crate::error::{CliError, FAILED, OK, REFUSED};
use crate::printer::Printer;

/// First argument of the process that this program starts to render chat templates in; not for people.
const TEMPLATE_WORKER: &str = "__template-worker";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == TEMPLATE_WORKER) {
        // Whoever started it sees the pipe close and asks why.
        return levain_local::run_template_worker().map_or(ExitCode::from(FAILED), |()| ExitCode::from(OK));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints them to standard output.
            let code = if error.use_stderr() { REFUSED } else { OK };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let printer = Printer::new(cli.global.color, cli.global.quiet, cli.global.verbose);
    log::start(cli.global.verbose, printer.colours_errors());
    let outcome = App::new(printer, cli.global.config.as_deref()).and_then(|app| {
        let outcome = commands::run(&app, cli.command);
        app.shut_down();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::from(OK),
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Reads `LEVAIN_KERNELS`, `LEVAIN_PREFETCH` and `LEVAIN_BF16_DOT`, so that a value that can't be followed is refused and
/// not ignored.
fn check_kernels() -> Result<(), CliError> {
    levain_kernels::check_isa()?;
    levain_kernels::check_prefetch()?;
    levain_kernels::check_bf16()?;
    Ok(())
}
