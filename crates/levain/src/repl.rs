//! The terminal chat: reads turns and commands, and keeps one conversation.

mod command;
mod input;
mod save;
mod session;

pub(crate) use session::Session;

use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use crate::app::App;
use crate::error::CliError;
use crate::paths;
use crate::printer::{BOLD, DIM};
use command::Command;
use input::Helper;

/// Lines of history that are kept.
const HISTORY_LINES_MAX: usize = 2000;

/// Talks until Ctrl-D or /quit.
pub(crate) fn run(app: &App, mut session: Session) -> Result<(), CliError> {
    let mut editor = editor()?;
    let history = paths::history();
    if let Some(path) = &history {
        // The first conversation of all has none.
        let _ = editor.load_history(path);
    }
    app.printer.say(format_args!(
        "{BOLD}{}{BOLD:#} {DIM}context of {} tokens · /help for commands · Ctrl-D leaves{DIM:#}",
        session.model_name(),
        session.context_length()
    ));
    let outcome = turns(app, &mut session, &mut editor);
    if let Some(path) = &history {
        save_history(app, &mut editor, path);
    }
    outcome
}

type Lines = Editor<Helper, FileHistory>;

fn editor() -> Result<Lines, CliError> {
    let failed = |error: ReadlineError| CliError::Internal(format!("the terminal: {error}"));
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_LINES_MAX)
        .map_err(failed)?
        .history_ignore_dups(true)
        .map_err(failed)?
        .history_ignore_space(true)
        .build();
    let mut editor = Lines::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Helper));
    let new_line = rustyline::KeyEvent::new('\r', rustyline::Modifiers::ALT);
    editor.bind_sequence(new_line, rustyline::Cmd::Newline);
    Ok(editor)
}

fn turns(app: &App, session: &mut Session, editor: &mut Lines) -> Result<(), CliError> {
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                app.printer.say(format_args!("{DIM}Ctrl-D or /quit leaves{DIM:#}"));
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(CliError::Internal(format!("the terminal: {error}"))),
        };
        if line.trim().is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line.as_str());
        let outcome = match Command::parse(&line) {
            None => session.ask(app, input::unwrapped(&line)),
            Some(Ok(Command::Quit)) => return Ok(()),
            Some(Ok(command)) => session.obey(app, command),
            Some(Err(error)) => Err(error),
        };
        match outcome {
            Ok(()) => {}
            // Nobody can read what else would be said.
            Err(error @ CliError::BrokenPipe) => return Err(error),
            // A conversation outlives a refused turn.
            Err(error) => app.printer.error(&error),
        }
    }
}

/// The history may hold anything that a person types, so it is theirs alone to read.
fn save_history(app: &App, editor: &mut Lines, path: &std::path::Path) {
    let saved = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .map_err(ReadlineError::from)
        .and_then(|()| editor.save_history(path));
    if let Err(error) = saved {
        app.printer.detail(format_args!("the history could not be kept: {error}"));
        return;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
    }
}
