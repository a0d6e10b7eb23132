//! A terminal with the program in it, and models whose every token is known.

use std::io::{Read as _, Write as _};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use levain_testkit::model::{ModelSpec, TinyModel};
use pty_process::Size;
use pty_process::blocking::{Command, Pts, Pty, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{InputModes, LocalModes, tcgetattr};
use serde_json::Value;

use crate::support::Home;

/// Far beyond what anything here takes: what is waited for either comes or never will.
const PATIENCE: Duration = Duration::from_secs(120);
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// What a shell would see of a terminal's modes.
pub(super) type Modes = (InputModes, LocalModes);

/// A model that says these two bytes in some order and never ends by itself.
pub(super) fn endless(said: [u8; 2]) -> TinyModel {
    const FIRST_BYTE_TOKEN: usize = 5;
    let spec = ModelSpec { max_position_embeddings: 16_384, ..ModelSpec::llama() };
    let model = spec.build().unwrap();
    std::fs::write(model.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    // An output head of zeros, but for one row and its negative: whatever the state, one of the two is above zero.
    let path = model.path().join("model.safetensors");
    let mut file = std::fs::read(&path).unwrap();
    let header_len = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let offset = |i: usize| {
        let offset = header["lm_head.weight"]["data_offsets"][i].as_u64().unwrap();
        8 + header_len + usize::try_from(offset).unwrap()
    };
    let head = &mut file[offset(0)..offset(1)];
    let row_len = head.len() / spec.vocab_size;
    let row: Vec<u8> = head[..row_len].to_vec();
    head.fill(0);
    for (byte, sign) in said.into_iter().zip([1.0f32, -1.0]) {
        let at = (FIRST_BYTE_TOKEN + usize::from(byte)) * row_len;
        for (place, value) in head[at..at + row_len].chunks_exact_mut(4).zip(row.chunks_exact(4)) {
            let value = f32::from_le_bytes(value.try_into().unwrap());
            place.copy_from_slice(&(sign * value).to_le_bytes());
        }
    }
    std::fs::write(&path, file).unwrap();
    model
}

/// The terminal.
pub(super) struct Screen {
    pty: Arc<Pty>,
    /// Held open, so that the modes outlive the program.
    pts: Option<Pts>,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// How much of it was expected already.
    at: usize,
    /// The modes before the program began.
    pub(super) found: Modes,
}

impl Screen {
    /// The program in a terminal of 80 columns.
    pub(super) fn start(home: &Home, args: &[&str]) -> Self {
        Self::start_program(home, env!("CARGO_BIN_EXE_levain"), args)
    }

    /// A shell's commands, where `$LEVAIN` is the program.
    pub(super) fn start_shell(home: &Home, script: &str) -> Self {
        Self::start_program(home, "sh", &["-c", script])
    }

    fn start_program(home: &Home, program: &str, args: &[&str]) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(24, 80)).unwrap();
        let mut command = Command::new(program)
            .args(args)
            .env_clear()
            .env("TERM", "xterm-256color")
            .env("LEVAIN", env!("CARGO_BIN_EXE_levain"))
            .envs(home.vars())
            .current_dir(home.dir.path());
        let pty = Arc::new(pty);
        let found = modes(&pty);
        let child = command.spawn_borrowed(&pts).unwrap();
        let (sender, output) = channel();
        let reader = Arc::clone(&pty);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It fails when nothing is left and nobody has the terminal open.
            while let Ok(count @ 1..) = (&*reader).read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pty, pts: Some(pts), child, output, seen: Vec::new(), at: 0, found }
    }

    /// Presses keys.
    pub(super) fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    pub(super) fn resize(&self, columns: u16) {
        self.pty.resize(Size::new(24, columns)).unwrap();
    }

    pub(super) fn kill(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(super) fn modes(&self) -> Modes {
        modes(&self.pty)
    }

    /// Waits for the terminal to have such modes.
    #[track_caller]
    pub(super) fn expect_modes(&self, fine: impl Fn(&Modes) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fine(&self.modes()) {
            assert!(Instant::now() < deadline, "the modes stay {:?}", self.modes());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a text after what was expected before, and returns all up to its end.
    #[track_caller]
    pub(super) fn expect(&mut self, text: &str) -> String {
        self.expect_any(&[text])
    }

    /// Waits for an answer of [`endless`] with `xy`.
    #[track_caller]
    pub(super) fn expect_answer(&mut self) -> String {
        self.expect_any(&["xxxx", "yyyy", "xyxy", "yxyx", "xxyy", "yyxx", "xyyx", "yxxy", "xxxy", "yyyx"])
    }

    #[track_caller]
    fn expect_any(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = &self.seen[self.at..];
            let ends = texts.iter().filter_map(|text| {
                let at = new.windows(text.len()).position(|window| window == text.as_bytes())?;
                Some(at + text.len())
            });
            if let Some(end) = ends.min() {
                let found = String::from_utf8_lossy(&new[..end]).into_owned();
                self.at += end;
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.output.recv_timeout(left);
            assert!(more.is_ok(), "{texts:?} did not come; the screen: {:?}", self.text());
            self.seen.extend(more.unwrap_or_default());
        }
    }

    /// All that was written.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits for the program's end; the modes that it left, and all that it wrote.
    #[track_caller]
    pub(super) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end; the screen: {:?}", self.text());
            // A full terminal would hold it up.
            if let Ok(more) = self.output.recv_timeout(Duration::from_millis(10)) {
                self.seen.extend(more);
            }
        };
        let modes = self.modes();
        self.pts = None;
        while let Ok(more) = self.output.recv() {
            self.seen.extend(more);
        }
        Ended { status, modes, text: self.text() }
    }

    /// As [`Screen::end`], with what every end has in common checked: the code, and a terminal as it was.
    #[track_caller]
    pub(super) fn end_with(self, code: i32) -> String {
        let found = self.found;
        let ended = self.end();
        assert_eq!(ended.status.code(), Some(code), "{:?}", ended.text);
        assert_eq!(ended.modes, found, "{:?}", ended.text);
        assert!(!pastes_are_marked(&ended.text), "{:?}", ended.text);
        ended.text
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program's end.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) modes: Modes,
    pub(super) text: String,
}

/// True if a terminal that saw this text marks pastes.
pub(super) fn pastes_are_marked(text: &str) -> bool {
    text.rfind("\x1b[?2004").is_some_and(|at| text[at..].starts_with("\x1b[?2004h"))
}

fn modes(pty: &Pty) -> Modes {
    let modes = tcgetattr(pty).unwrap();
    (modes.input_modes, modes.local_modes)
}
