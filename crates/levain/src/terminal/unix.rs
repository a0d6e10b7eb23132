//! Terminal modes, and stopping with Ctrl-Z.

use std::io::{stdin, stdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpgrp, getpid, getppid, getsid, kill_process, kill_process_group};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// Marks of a paste, so that its line ends are told from Enter.
const PASTE_MARKS_ON: &[u8] = b"\x1b[?2004h";
const PASTE_MARKS_OFF: &[u8] = b"\x1b[?2004l";
/// How long a terminal that is full of an answer may take to make room for them.
const FULL: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The terminal at standard input and output.
#[derive(Debug, Clone)]
pub(crate) struct Terminal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    modes: Mutex<Modes>,
    resumed: Condvar,
}

#[derive(Debug)]
struct Modes {
    /// As the shell set them.
    found: Termios,
    /// What to go back to when the program is resumed; `None` while it has no modes of its own to keep.
    own: Option<Termios>,
    /// Stopped at the prompt, and not resumed yet.
    stopped: bool,
}

/// The one terminal that was ever opened.
static OPENED: OnceLock<Terminal> = OnceLock::new();

impl Terminal {
    /// `None` where lines can't be edited.
    pub(crate) fn open() -> Option<Self> {
        if !super::is_interactive() {
            return None;
        }
        let found = tcgetattr(stdin()).ok()?;
        let modes = Mutex::new(Modes { found, own: None, stopped: false });
        Some(OPENED.get_or_init(|| Self(Arc::new(Shared { modes, resumed: Condvar::new() }))).clone())
    }

    /// The key that stops the program; `None` if there is none.
    pub(crate) fn stop_key(&self) -> Option<char> {
        let code = self.modes().found.special_codes[SpecialCodeIndex::VSUSP];
        (code != 0).then_some(char::from(code))
    }

    fn modes(&self) -> MutexGuard<'_, Modes> {
        self.0.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep_keys(&self) {
        let mut modes = self.modes();
        let Ok(found) = tcgetattr(stdin()) else { return };
        let mut own = found.clone();
        own.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // Keys that were typed before Ctrl-C are kept, too.
        own.local_modes.insert(LocalModes::ISIG | LocalModes::NOFLSH);
        // As the line editor has it: Enter stays what it is.
        own.input_modes.remove(InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR);
        own.special_codes[SpecialCodeIndex::VMIN] = 1;
        own.special_codes[SpecialCodeIndex::VTIME] = 0;
        modes.found = found;
        set(&own, PASTE_MARKS_ON);
        modes.own = Some(own);
    }

    pub(super) fn release_keys(&self) {
        let mut modes = self.modes();
        if modes.own.take().is_some() {
            set(&modes.found, PASTE_MARKS_OFF);
        }
    }

    /// Ctrl-Z while keys are kept: stops until the shell resumes the program.
    pub(crate) fn stop(&self) {
        if can_be_resumed() {
            set(&self.modes().found, PASTE_MARKS_OFF);
            let _ = kill_process_group(getpgrp(), Signal::STOP);
        }
    }

    /// Ctrl-Z at the prompt: stops, and returns when the program was resumed.
    pub(crate) fn stop_at_prompt(&self) {
        let mut modes = self.modes();
        let Ok(own) = tcgetattr(stdin()) else { return };
        if !can_be_resumed() {
            return;
        }
        modes.own = Some(own);
        modes.stopped = true;
        set(&modes.found, PASTE_MARKS_OFF);
        let _ = kill_process_group(getpgrp(), Signal::STOP);
        // Threads stop one after the other: this one may run on for a moment, and must not touch the modes.
        while modes.stopped {
            modes = self.0.resumed.wait(modes).unwrap_or_else(PoisonError::into_inner);
        }
        drop(modes);
        // The window may have another size by now.
        let _ = kill_process(getpid(), Signal::WINCH);
    }

    /// The shell resumed the program.
    pub(crate) fn resume(&self) {
        let mut modes = self.modes();
        if let Ok(now) = tcgetattr(stdin())
            && now.local_modes.contains(LocalModes::ICANON)
        {
            modes.found = now;
        }
        if let Some(own) = &modes.own {
            // In the background this stops the program until it is in the foreground.
            set(own, PASTE_MARKS_ON);
        }
        if modes.stopped {
            modes.stopped = false;
            modes.own = None;
        }
        self.0.resumed.notify_all();
    }
}

/// Restores the modes that were found.
pub(crate) fn restore() {
    if let Some(terminal) = OPENED.get() {
        set(&terminal.modes().found, PASTE_MARKS_OFF);
    }
}

/// Restores the modes that were found, and ends the program at once.
pub(crate) fn end(code: u8) -> ! {
    // Held to the end, so that no other thread sets modes again.
    let modes = OPENED.get().map(Terminal::modes);
    if let Some(modes) = &modes {
        set(&modes.found, PASTE_MARKS_OFF);
    }
    std::process::exit(i32::from(code))
}

/// Sets modes, and whether pastes are marked. A terminal that is gone or takes no more output is left alone.
fn set(modes: &Termios, paste_marks: &[u8]) {
    let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
    let out = stdout();
    let mut ready = [PollFd::new(&out, PollFlags::OUT)];
    if poll(&mut ready, Some(&FULL)).is_ok_and(|count| count > 0) {
        // Past the lock of standard output, which may be held by a thread that will never write again.
        let _ = rustix::io::write(&out, paste_marks);
    }
}

/// False if no shell is there that could: a group of processes whose parents are all in other sessions.
fn can_be_resumed() -> bool {
    let Ok(session) = getsid(None) else { return false };
    getpgrp() != session && getppid().is_some_and(|parent| getsid(Some(parent)) == Ok(session))
}
