//! The terminal chat: reads turns and commands, and keeps one conversation.

mod command;
mod input;
mod lines;
mod save;
mod session;

pub(crate) use session::Session;

use crate::app::App;
use crate::error::CliError;
use crate::printer::{BOLD, DIM};
use crate::terminal::{Quiet, Terminal};
use command::Command;
use lines::{Lines, Typed};

/// Talks until Ctrl-D or /quit. Lines are edited on `terminal`, or read as they come.
pub(crate) fn run(app: &App, terminal: Option<&Terminal>, mut session: Session) -> Result<(), CliError> {
    let mut lines = Lines::new(terminal)?;
    app.printer.say(format_args!(
        "{BOLD}{}{BOLD:#} {DIM}context of {} tokens · /help for commands · Ctrl-D leaves{DIM:#}",
        session.model_name(),
        session.context_length()
    ));
    loop {
        let line = match lines.next(app)? {
            Typed::Line(line) if line.trim().is_empty() => continue,
            Typed::Line(line) => line,
            Typed::Interrupted => {
                app.printer.say(format_args!("{DIM}Ctrl-D or /quit leaves{DIM:#}"));
                continue;
            }
            Typed::End => return Ok(()),
        };
        let _quiet = terminal.map(Quiet::new);
        lines.remember(app, &line);
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
