//! Where lines come from: the editor on a terminal, else standard input as it is. Keeps the history.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use super::input::{Helper, is_complete};
use crate::app::App;
use crate::error::CliError;
use crate::paths;
use crate::terminal::Terminal;

/// Lines of history that are kept.
const HISTORY_LINES_MAX: usize = 2000;
const PROMPT: &str = ">>> ";

/// What was typed.
pub(super) enum Typed {
    /// A turn or a command.
    Line(String),
    /// Ctrl-C at the prompt: what was typed so far is thrown away.
    Interrupted,
    /// Ctrl-D, or the input's end.
    End,
}

/// The source of lines.
pub(super) struct Lines {
    editor: Editor<Helper, FileHistory>,
    is_edited: bool,
    history: Option<PathBuf>,
}

impl Lines {
    /// Edited lines on a terminal, plain ones without.
    pub(super) fn new(terminal: Option<&Terminal>) -> Result<Self, CliError> {
        let config = rustyline::Config::builder()
            .max_history_size(HISTORY_LINES_MAX)
            .map_err(failed)?
            .history_ignore_dups(true)
            .map_err(failed)?
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Helper));
        let new_line = rustyline::KeyEvent::new('\r', rustyline::Modifiers::ALT);
        editor.bind_sequence(new_line, rustyline::Cmd::Newline);
        #[cfg(unix)]
        if let Some(terminal) = terminal {
            stop::bind(&mut editor, terminal);
        }
        let history = paths::history();
        if let Some(path) = &history {
            // The first conversation of all has none.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, is_edited: terminal.is_some(), history })
    }

    /// The next line, which may hold line ends.
    pub(super) fn next(&mut self, app: &App) -> Result<Typed, CliError> {
        let read = if self.is_edited { self.editor.readline(PROMPT) } else { self.plain(app) };
        match read {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                if self.is_edited {
                    app.printer.warn("what was typed is not UTF-8; it was thrown away");
                    return Ok(Typed::Line(String::new()));
                }
                Err(CliError::input("standard input is not UTF-8"))
            }
            Err(error) if is_hung_up(&error) => Ok(Typed::End),
            Err(error) => Err(failed(error)),
        }
    }

    /// A line without an editor. Only a person is shown the prompt, and never among the data.
    fn plain(&self, app: &App) -> Result<String, ReadlineError> {
        let is_typed = std::io::stdin().is_terminal();
        if is_typed {
            app.printer.say_part(PROMPT);
        }
        let mut input = String::new();
        loop {
            if std::io::stdin().read_line(&mut input)? == 0 {
                if !input.is_empty() {
                    app.printer.warn("the input ended within a block of lines; it is not sent");
                }
                return Err(ReadlineError::Eof);
            }
            let line = input.strip_suffix('\n').unwrap_or(&input);
            let line = line.strip_suffix('\r').unwrap_or(line);
            if is_complete(line) {
                return Ok(line.to_owned());
            }
        }
    }

    /// Remembers a line at once, so that it is kept however the program ends.
    pub(super) fn remember(&mut self, app: &App, line: &str) {
        if !matches!(self.editor.add_history_entry(line), Ok(true)) {
            return;
        }
        let Some(path) = &self.history else { return };
        let saved = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from)
            .and_then(|()| self.editor.append_history(path));
        if let Err(error) = saved {
            app.printer.detail(format_args!("the history could not be kept: {error}"));
            return;
        }
        // It may hold anything that a person types, so it is theirs alone to read.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
        }
    }
}

fn failed(error: ReadlineError) -> CliError {
    CliError::Internal(format!("the terminal: {error}"))
}

/// True if the terminal is gone.
#[cfg(unix)]
fn is_hung_up(error: &ReadlineError) -> bool {
    let code = match error {
        ReadlineError::Io(error) => error.raw_os_error(),
        ReadlineError::Errno(error) => std::io::Error::from(*error).raw_os_error(),
        _ => None,
    };
    code == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(not(unix))]
fn is_hung_up(_error: &ReadlineError) -> bool {
    false
}

/// Ctrl-Z. The editor's own way relies on a stop signal that has no handler.
#[cfg(unix)]
mod stop {
    use rustyline::history::FileHistory;
    use rustyline::{
        Cmd, ConditionalEventHandler, Editor, Event, EventContext, EventHandler, KeyEvent, Modifiers,
        RepeatCount,
    };

    use super::Helper;
    use crate::terminal::Terminal;

    struct Stop(Terminal);

    impl ConditionalEventHandler for Stop {
        fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
            self.0.stop_at_prompt();
            Some(Cmd::Repaint)
        }
    }

    pub(super) fn bind(editor: &mut Editor<Helper, FileHistory>, terminal: &Terminal) {
        if let Some(key) = terminal.stop_key() {
            let stop = EventHandler::Conditional(Box::new(Stop(terminal.clone())));
            editor.bind_sequence(KeyEvent::new(key, Modifiers::NONE), stop);
        }
    }
}
