//! The modes of the terminal that a conversation is held in. The line editor sets its own while it reads a line;
//! in between, keys are kept for the next line and not shown. Whatever ends or stops the program restores the modes
//! that it found.

#[cfg_attr(not(unix), path = "terminal/other.rs")]
#[cfg_attr(unix, path = "terminal/unix.rs")]
mod system;

use std::io::IsTerminal as _;

pub(crate) use system::{Terminal, end, restore};

/// Terminals that can't move the cursor.
const WITHOUT_EDITING: [&str; 3] = ["dumb", "cons25", "emacs"];

/// True if lines can be edited: somebody types here and sees here what is typed.
fn is_interactive() -> bool {
    let named = std::env::var("TERM").unwrap_or_default();
    let can_edit = !WITHOUT_EDITING.iter().any(|name| named.eq_ignore_ascii_case(name));
    can_edit && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// While this is held, keys are kept for the next line and not shown. Ctrl-C and Ctrl-Z work.
pub(crate) struct Quiet(Terminal);

impl Quiet {
    pub(crate) fn new(terminal: &Terminal) -> Self {
        terminal.keep_keys();
        Self(terminal.clone())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.release_keys();
    }
}
