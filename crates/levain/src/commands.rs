//! One file for each verb.

mod bench;
mod chat;
mod completions;
mod config;
mod doctor;
mod fit;
mod fit_decode;
mod list;
mod man;
mod pull;
mod render;
mod rm;
mod run;
mod serve;
mod show;
mod tokenize;

use crate::app::App;
use crate::cli::Command;
use crate::error::CliError;

/// The version of the JSON that listing verbs print. It grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// Does what was asked for.
pub(crate) fn run(app: &App, command: Command) -> Result<(), CliError> {
    match command {
        Command::Chat(args) => chat::run(app, &args),
        Command::Run(args) => run::run(app, args),
        Command::Serve(args) => serve::run(app, &args),
        Command::Pull(args) => pull::run(app, &args),
        Command::List(args) => list::run(app, &args),
        Command::Show(args) => show::run(app, &args),
        Command::Rm(args) => rm::run(app, &args),
        Command::Fit(args) => fit::run(app, &args),
        Command::Bench(args) => bench::run(app, &args),
        Command::Tokenize(args) => tokenize::run(app, &args),
        Command::Render(args) => render::run(app, &args),
        Command::Doctor(args) => doctor::run(app, &args),
        Command::Config(args) => config::run(app, &args),
        Command::Completions(args) => completions::run(app, &args),
        Command::Man(args) => man::run(app, &args),
    }
}
