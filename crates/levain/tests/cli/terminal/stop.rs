//! Ctrl-Z and `fg`, under a shell that sets no modes itself.

use rustix::termios::LocalModes;

use super::screen::{Screen, endless, pastes_are_marked};
use super::{CTRL_C, CTRL_D};
use crate::support::Home;

const CTRL_Z: &str = "\x1a";
/// Stops by the program are told from its end by `fg`, which only then finds a job.
const SHELL: &str = "set -m; \"$LEVAIN\" chat \"$MODEL\" --temperature 0; echo stopped once; read word; \
                     fg; echo stopped twice; read word; fg; echo ended $?";

#[test]
fn the_program_stops_and_resumes_during_an_answer_and_at_the_prompt() {
    let model = endless(*b"xy");
    let home = Home::new().var("MODEL", &model.path().display().to_string());
    let mut screen = Screen::start_shell(&home, SHELL);
    screen.expect(">>> ");
    screen.press("One\r");
    screen.expect_answer();
    screen.press(CTRL_Z);
    screen.expect("stopped once");
    assert_eq!(screen.modes(), screen.found);
    assert!(!pastes_are_marked(&screen.text()));
    screen.press("go\n");
    screen.expect_answer();
    // Its modes come back, and its keys. The thread that writes may be quicker than the one that sets them.
    screen.expect_modes(|modes| !modes.1.intersects(LocalModes::ECHO | LocalModes::ICANON));
    screen.press(CTRL_C);
    screen.expect("stopped; /retry");
    screen.expect(">>> ");
    screen.press("half a li");
    screen.expect("half a li");
    screen.press(CTRL_Z);
    screen.expect("stopped twice");
    assert_eq!(screen.modes(), screen.found);
    assert!(!pastes_are_marked(&screen.text()));
    screen.press("go\n");
    screen.expect("half a li");
    screen.press("ne\r");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect(">>> ");
    screen.press("/history\r");
    screen.expect("half a line");
    screen.expect(">>> ");
    screen.press(CTRL_D);
    screen.expect("ended 0");
    screen.end_with(0);
}

#[test]
fn a_program_without_a_shell_does_not_stop() {
    let model = endless(*b"xy");
    let home = Home::new();
    let path = model.path().display().to_string();
    let mut screen = Screen::start(&home, &["chat", &path, "--temperature", "0"]);
    screen.expect(">>> ");
    screen.press(CTRL_Z);
    screen.press("One\r");
    screen.expect_answer();
    screen.press(CTRL_Z);
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect(">>> ");
    screen.press(CTRL_D);
    screen.end_with(0);
}
