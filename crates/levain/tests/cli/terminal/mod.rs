//! What a person does at a real terminal while a model answers, and before and after.

mod screen;
mod stop;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;

use levain_testkit::model::TinyModel;
use rustix::process::Signal;
use rustix::termios::LocalModes;
use serde_json::Value;

use crate::support::Home;
use screen::{Screen, endless, pastes_are_marked};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_QUIT: &str = "\x1c";
const HINT: &str = "Ctrl-D or /quit leaves";

/// A conversation with a model that never ends an answer by itself, at its first prompt.
fn chat(more: &[&str]) -> (Home, TinyModel, Screen) {
    let (home, model) = (Home::new(), endless(*b"xy"));
    let path = model.path().display().to_string();
    let args = [&["chat", &path, "--temperature", "0"], more].concat();
    let mut screen = Screen::start(&home, &args);
    screen.expect(">>> ");
    (home, model, screen)
}

/// Saves the conversation; at the prompt.
fn messages(home: &Home, screen: &mut Screen) -> Vec<(String, String)> {
    screen.press("/save chat.json\r");
    screen.expect("written to");
    screen.expect(">>> ");
    let path = home.dir.path().join("chat.json");
    let saved: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(path).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let messages = saved["messages"].as_array().unwrap().iter();
    messages.map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

fn asked(home: &Home, screen: &mut Screen) -> Vec<String> {
    let all = messages(home, screen).into_iter();
    all.filter(|(role, _)| role == "user").map(|(_, content)| content).collect()
}

#[test]
fn ctrl_c_ends_an_answer_and_not_the_conversation() {
    let (home, _model, mut screen) = chat(&[]);
    for question in ["One", "Two"] {
        screen.press(&format!("{question}\r"));
        screen.expect_answer();
        screen.press(CTRL_C);
        screen.expect("stopped; /retry asks once more");
        screen.expect(">>> ");
    }
    let said = messages(&home, &mut screen);
    let roles: Vec<&str> = said.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    for (role, content) in said {
        let kept = !content.is_empty() && content.bytes().all(|byte| byte == b'x' || byte == b'y');
        assert!(role == "user" || kept, "{content}");
    }
    screen.press(CTRL_D);
    screen.end_with(0);
}

#[test]
fn ctrl_c_at_the_prompt_throws_away_what_was_typed_and_says_how_to_leave() {
    let (home, _model, mut screen) = chat(&["--max-tokens", "2"]);
    screen.press(CTRL_C);
    screen.expect(HINT);
    screen.expect(">>> ");
    screen.press("never to be asked");
    screen.press(CTRL_C);
    screen.expect(HINT);
    screen.expect(">>> ");
    screen.press(CTRL_QUIT);
    screen.expect(HINT);
    screen.expect(">>> ");
    screen.press("Hi\r");
    screen.expect(">>> ");
    assert_eq!(asked(&home, &mut screen), ["Hi"]);
    screen.press("/bye\r");
    screen.end_with(0);
}

#[test]
fn keys_pressed_during_an_answer_wait_for_the_prompt() {
    let (home, _model, mut screen) = chat(&[]);
    screen.press("One\r");
    screen.expect_answer();
    assert!(!screen.modes().1.intersects(LocalModes::ECHO | LocalModes::ICANON));
    // A whole line, one that needs mending, and half a line.
    screen.press("Tow\x7f\x7fwo\rThr");
    screen.expect_answer();
    screen.press(CTRL_C);
    let answer = screen.expect("stopped");
    assert!(!answer.contains("Tow") && !answer.contains("Thr"), "{answer:?}");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect("stopped");
    screen.expect(">>> ");
    screen.press("ee\r");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect(">>> ");
    assert_eq!(asked(&home, &mut screen), ["One", "Two", "Three"]);
    screen.press(CTRL_D);
    screen.end_with(0);
}

#[test]
fn a_marked_paste_is_one_message_whenever_it_comes() {
    let (home, _model, mut screen) = chat(&[]);
    screen.press("\x1b[200~first line\rsecond line\r\x1b[201~\r");
    screen.expect_answer();
    // The terminal marks pastes only while it is asked to.
    assert!(pastes_are_marked(&screen.text()));
    screen.press("\x1b[200~third line\n\nfourth line\x1b[201~");
    screen.press(CTRL_C);
    screen.expect(">>> ");
    screen.press("\r");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect(">>> ");
    assert_eq!(asked(&home, &mut screen), ["first line\nsecond line", "third line\n\nfourth line"]);
    screen.press(CTRL_D);
    screen.end_with(0);
}

#[test]
fn an_unmarked_paste_loses_no_line() {
    let (home, _model, mut screen) = chat(&["--max-tokens", "2"]);
    // More than is read at once.
    let long = "long ".repeat(500);
    screen.press(&format!("one\rtwo\\\rlines\r\"\"\"a\rb\"\"\"\r{long}end\r/stats\r"));
    screen.expect("answer tokens");
    screen.expect(">>> ");
    let long = format!("{long}end");
    assert_eq!(asked(&home, &mut screen), ["one", "two\nlines", "a\nb", &long]);
    screen.press(CTRL_D);
    screen.end_with(0);
}

#[test]
fn the_window_may_change_its_size_at_any_time() {
    let (home, _model, mut screen) = chat(&[]);
    let words = "word ".repeat(15);
    screen.press(&words);
    screen.expect("word word");
    screen.resize(30);
    screen.press("one\r");
    screen.expect_answer();
    screen.resize(120);
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect("stopped");
    screen.expect(">>> ");
    screen.press("two");
    screen.resize(10);
    screen.press("\r");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect(">>> ");
    assert_eq!(asked(&home, &mut screen), [format!("{words}one"), "two".to_owned()]);
    screen.press(CTRL_D);
    screen.end_with(0);
}

#[test]
fn whatever_ends_the_program_leaves_the_terminal_as_it_was() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131), (Signal::INT, 130)] {
        let (_home, _model, screen) = chat(&[]);
        screen.kill(signal);
        screen.end_with(code);
        // While an answer comes, an interrupt ends the answer only.
        if signal != Signal::INT {
            let (_home, _model, mut screen) = chat(&[]);
            screen.press("Hi\r");
            screen.expect_answer();
            screen.kill(signal);
            screen.end_with(code);
        }
    }
    let (_home, _model, mut screen) = chat(&[]);
    screen.press("Hi\r");
    screen.expect_answer();
    screen.press(CTRL_QUIT);
    screen.end_with(131);
}

#[test]
fn what_was_typed_is_remembered_however_the_program_ends() {
    let (home, _model, mut screen) = chat(&["--max-tokens", "2"]);
    screen.press("a question\r");
    screen.expect(">>> ");
    screen.kill(Signal::KILL);
    screen.end();
    let history = home.dir.path().join(".local/state/levain/chat_history");
    assert!(std::fs::read_to_string(history).unwrap().contains("a question"));
}

#[test]
fn ctrl_c_ends_a_download_and_a_single_answer() {
    // A hub that takes the question and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hub.local_addr().unwrap();
    let home = Home::new().var("HF_ENDPOINT", &format!("http://{address}"));
    for args in [&["chat", "hf:org/repo"][..], &["run", "hf:org/repo", "Hi"]] {
        let mut screen = Screen::start(&home, args);
        screen.expect("fetching it");
        let (mut asked, _) = hub.accept().unwrap();
        assert!(asked.read(&mut [0; 16]).unwrap() > 0);
        screen.press(CTRL_C);
        let text = screen.end_with(130);
        assert!(text.contains("interrupted"), "{text:?}");
    }
    let (home, model) = (Home::new(), endless(*b"xy"));
    let path = model.path().display().to_string();
    let mut screen = Screen::start(&home, &["run", &path, "Hi", "--temperature", "0"]);
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.end_with(130);
}

#[test]
fn ctrl_c_ends_a_conversation_that_is_piped_in() {
    let (home, model) = (Home::new(), endless(*b"xy"));
    let path = model.path().display().to_string();
    let mut child = home.command(&["chat", &path]).spawn().unwrap();
    // Held open: waiting for the child would close it, and so end the conversation.
    let _stdin = child.stdin.take();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("/help for commands") {
        line.clear();
        assert!(talk.read_line(&mut line).unwrap() > 0, "it ended without a word");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn data_and_plain_terminals_see_no_escape_sequences() {
    let (home, model) = (Home::new().var("MODEL", "."), endless(*b"xy"));
    let script = format!(
        "\"$LEVAIN\" chat {} --temperature 0 --max-tokens 4 > answers; echo code $?",
        model.path().display()
    );
    let mut screen = Screen::start_shell(&home, &script);
    screen.expect(">>> ");
    screen.press("One\r");
    screen.expect(">>> ");
    screen.press(CTRL_D);
    screen.expect("code 0");
    screen.end_with(0);
    let answers = std::fs::read_to_string(home.dir.path().join("answers")).unwrap();
    assert_eq!(answers.trim_end().len(), 4);
    assert!(answers.trim_end().bytes().all(|byte| byte == b'x' || byte == b'y'), "{answers:?}");

    let dumb = Home::new().var("TERM", "dumb").var("NO_COLOR", "1");
    let path = model.path().display().to_string();
    let mut screen = Screen::start(&dumb, &["chat", &path, "--temperature", "0"]);
    screen.expect(">>> ");
    screen.press("One\n");
    screen.expect_answer();
    screen.press(CTRL_C);
    screen.expect("stopped");
    screen.expect(">>> ");
    screen.press(CTRL_C);
    let text = screen.end_with(130);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_model_can_not_drive_the_terminal() {
    // Escape and bell; the two halves of what begins a C1 sequence in UTF-8; carriage return and backspace.
    for said in [[0x1b, 0x07], [0xc2, 0x9b], *b"\r\x08"] {
        let (home, model) = (Home::new().var("NO_COLOR", "1"), endless(said));
        let path = model.path().display().to_string();
        let args = ["run", &path, "Hi", "--temperature", "0", "--max-tokens", "40"];
        let text = Screen::start(&home, &args).end_with(0);
        assert!(text.contains('\u{fffd}'), "{said:?}: {text:?}");
        // The terminal itself puts a carriage return before a line's end.
        let text = text.replace("\r\n", "\n");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{said:?}: {text:?}");
    }
    // Nor can its files: templates write errors and prompts.
    let (home, model) = (Home::new().var("NO_COLOR", "1"), endless(*b"xy"));
    let path = model.path().display().to_string();
    let messages = home.file("m.json", r#"[{"role":"user","content":"Hi"}]"#).display().to_string();
    for template in ["{{ raise_exception('\\x1b]0;owned\\x07') }}", "\\x1b]0;owned\\x07"] {
        let template = template.replace("\\x1b", "\x1b").replace("\\x07", "\x07");
        std::fs::write(model.path().join("chat_template.jinja"), &template).unwrap();
        let ended = Screen::start(&home, &["render", &path, "--messages", &messages]).end();
        assert!(ended.text.contains("owned") && !ended.text.contains(['\x1b', '\x07']), "{:?}", ended.text);
    }
}
