//! Log lines: on standard error, coloured on a terminal only, and with nothing in them that a terminal would obey.

use std::fmt::{self, Write as _};

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::env;

/// Begins to write: warnings, unless `-v` or `LEVAIN_LOG` asks for more.
pub(crate) fn start(verbose: u8, coloured: bool) {
    let default = match verbose {
        0 => "warn",
        1 => "levain=info,levain_engine=info,levain_local=info,levain_server=info,warn",
        _ => "debug",
    };
    let wanted = env::get(env::LEVAIN_LOG).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(default));
    // A file or a pipe is to hold plain text.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .fmt_fields(fields())
        .with_writer(std::io::stderr)
        .try_init();
}

/// Writes fields as the subscriber would, which lets some control characters of values through: a file's name or an
/// answer of a server could begin a line of its own, or change the terminal.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(out, "{}=", field.name())?;
        }
        write!(Escaping(out), "{value:?}")
    })
    .delimited(" ")
}

/// Passes text on with control characters as in source code: `\n`, `\u{1b}`.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(self.0, "{}", c.escape_default()),
            false => self.0.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(coloured: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(coloured)
            .without_time()
            .fmt_fields(fields())
            .with_writer(move || writer.clone())
            .finish();
        let hostile = "a\u{1b}[31mb\nWARN forged\r\u{9b}2J\u{7}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(error = %hostile, text = hostile, n = 5, "said {hostile}");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn values_are_logged_without_what_a_terminal_would_obey() {
        let plain = logged(false);
        let line = plain.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let escaped = "a\\u{1b}[31mb\\nWARN forged\\r\\u{9b}2J\\u{7}";
        for part in [
            format!("said {escaped}"),
            format!("error={escaped}"),
            format!("text=\"{escaped}\""),
            "n=5".into(),
        ] {
            assert!(line.contains(&part), "{part} in {line}");
        }
        // Colours are the subscriber's own, and come where they are asked for only.
        let coloured = logged(true);
        assert!(coloured.contains("\u{1b}[") && !coloured.contains("\u{1b}[31mb"), "{coloured:?}");
        assert_eq!(coloured.lines().count(), 1);
    }
}
