//! `levain chat`

use crate::app::App;
use crate::cli::ChatArgs;
use crate::error::CliError;
use crate::model::{self, Setup};
use crate::repl::Session;
use crate::terminal::{Quiet, Terminal};
use crate::{default_model, repl};

/// Loads a model and begins a conversation.
pub(crate) fn run(app: &App, args: &ChatArgs) -> Result<(), CliError> {
    let chat_template = app.chat_template(args.chat_template.as_deref())?;
    let terminal = Terminal::open();
    if let Some(terminal) = &terminal {
        app.signals.guard(terminal)?;
    }
    // What is typed while the model loads is for the first prompt.
    let quiet = terminal.as_ref().map(Quiet::new);
    let hub = app.hub()?;
    let stored = match &args.model {
        Some(name) => app.obtain(&hub, name)?,
        None => default_model::obtain(app, &hub)?,
    };
    let mut engine = app.engine_config(&args.engine)?;
    engine.max_num_seqs = 1;
    let draft = app.draft_model(&hub, &args.engine, &engine)?;
    let setup = Setup { engine, draft, chat_template };
    let loaded = model::load(app, &stored, &setup)?;
    let mut answer = args.answer.clone();
    if answer.system.is_none() {
        answer.system = app.settings.get("chat.system").map(str::to_owned);
    }
    drop(quiet);
    repl::run(app, terminal.as_ref(), Session::new(hub, loaded, stored, setup, answer))
}
