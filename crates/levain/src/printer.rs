//! The one place that writes to the terminal: data to standard output, talk to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Effects, Style};
use serde::Serialize;

use crate::answer::printable;
use crate::env;
use crate::error::CliError;

/// Dimmed text: reasoning, figures.
pub(crate) const DIM: Style = Style::new().effects(Effects::DIMMED);
/// What stands out.
pub(crate) const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default().bold();

/// How much to say and in which colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    color: ColorChoice,
    quiet: bool,
    verbose: u8,
}

impl Printer {
    /// `quiet` leaves errors only, `verbose` adds details.
    pub(crate) fn new(color: clap::ColorChoice, quiet: bool, verbose: u8) -> Self {
        let color = match color {
            clap::ColorChoice::Auto => ColorChoice::Auto,
            clap::ColorChoice::Always => ColorChoice::Always,
            clap::ColorChoice::Never => ColorChoice::Never,
        };
        Self { color, quiet, verbose }
    }

    /// Whether what goes to standard error may have colours.
    pub(crate) fn colours_errors(&self) -> bool {
        match self.color {
            ColorChoice::Auto => AutoStream::choice(&std::io::stderr()) != ColorChoice::Never,
            choice => choice != ColorChoice::Never,
        }
    }

    /// True if only errors are to be said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// True if progress may move on standard error.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal() && !env::is_set(env::LEVAIN_NO_PROGRESS)
    }

    /// Data, as it is.
    pub(crate) fn data(&self, text: impl Display) -> Result<(), CliError> {
        let mut out = AutoStream::new(std::io::stdout().lock(), self.color);
        write!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::output)
    }

    /// Bytes of data that no style may touch, such as a rendered prompt.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::output)
    }

    /// A model's text: on a terminal without what the terminal would obey, elsewhere as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        if std::io::stdout().is_terminal() {
            return self.raw(printable(text).as_bytes());
        }
        self.raw(text.as_bytes())
    }

    /// Data and the end of its line.
    pub(crate) fn line(&self, text: impl Display) -> Result<(), CliError> {
        self.data(format_args!("{text}\n"))
    }

    /// One JSON value on one line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::Internal(error.to_string()))?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Talk, unless it is to be quiet.
    pub(crate) fn say(&self, text: impl Display) {
        if !self.quiet {
            self.err(format_args!("{text}\n"));
        }
    }

    /// Talk without the end of the line, for streams of text.
    pub(crate) fn say_part(&self, text: impl Display) {
        if !self.quiet {
            self.err(text);
        }
    }

    /// Talk for those who asked for details.
    pub(crate) fn detail(&self, text: impl Display) {
        if self.verbose > 0 {
            self.say(format_args!("{DIM}{text}{DIM:#}"));
        }
    }

    /// Something that may surprise.
    pub(crate) fn warn(&self, text: impl Display) {
        self.say(format_args!("{YELLOW}warning:{YELLOW:#} {text}"));
    }

    /// Why it went wrong, and what to do. Said even when quiet.
    pub(crate) fn error(&self, error: &CliError) {
        if matches!(error, CliError::BrokenPipe) {
            return;
        }
        // A template, a file or a server may have worded it.
        self.err(format_args!("{RED}error:{RED:#} {}\n", printable(&error.to_string())));
        if let Some(hint) = error.hint() {
            self.err(format_args!("\n{CYAN}hint:{CYAN:#} {}\n", printable(&hint)));
        }
    }

    fn err(&self, text: impl Display) {
        // If standard error can't be written, there is nobody left to tell.
        let mut err = AutoStream::new(std::io::stderr().lock(), self.color);
        let _ = write!(err, "{text}").and_then(|()| err.flush());
    }
}

/// A table with aligned columns; the last one is not padded. Widths count characters. Cells may come from a model's
/// files, so that they hold nothing that a terminal would obey.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width - cell.chars().count();
            line.push_str(cell);
            line.push_str(&" ".repeat(padding + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_end_without_blanks() {
        let rows = [vec!["é".into(), "1".into()], vec!["long".into(), String::new()]];
        assert_eq!(table(&rows), "é     1\nlong\n");
    }
}
