//! How a turn is typed: one line, or several by a block, a backslash or Alt-Enter.

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};

use super::command::NAMES;

const FENCE: &str = "\"\"\"";

/// Completes commands and knows when a turn is complete.
pub(crate) struct Helper;

impl rustyline::Helper for Helper {}
impl Hinter for Helper {
    type Hint = String;
}
impl Highlighter for Helper {}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        if !typed.starts_with('/') || typed.contains(' ') {
            return Ok((at, Vec::new()));
        }
        let fitting = NAMES.iter().filter(|(name, _)| name.starts_with(typed));
        Ok((
            0,
            fitting
                .map(|(name, _)| Pair { display: (*name).into(), replacement: format!("{name} ") })
                .collect(),
        ))
    }
}

impl Validator for Helper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

/// False within a block and behind a backslash at a line's end.
pub(crate) fn is_complete(input: &str) -> bool {
    let trimmed = input.trim();
    if let Some(rest) = trimmed.strip_prefix(FENCE) {
        return rest.ends_with(FENCE);
    }
    !input.ends_with('\\')
}

/// The turn without the marks that held its lines together.
pub(crate) fn unwrapped(input: &str) -> String {
    let trimmed = input.trim();
    match trimmed.strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE)) {
        Some(inner) => inner.trim_matches('\n').to_owned(),
        None => trimmed.replace("\\\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_backslashes_hold_lines_together() {
        for open in ["\"\"\"", "\"\"\"a\nb", "a\\", " \"\"\" x"] {
            assert!(!is_complete(open), "{open:?}");
        }
        for complete in ["a", "", "\"\"\"a\nb\"\"\"", "\"\"\"\"\"\"", "say \"\"\" now"] {
            assert!(is_complete(complete), "{complete:?}");
        }
        assert_eq!(unwrapped("\"\"\"\na\n  b\n\"\"\""), "a\n  b");
        assert_eq!(unwrapped("a\\\nb"), "a\nb");
        assert_eq!(unwrapped(" say \"x\" "), "say \"x\"");
    }
}
