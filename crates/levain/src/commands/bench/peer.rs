//! llama.cpp, measured beside Levain through the `llama-cpp-python` package of a Python that is on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::env;
use crate::error::CliError;
use crate::paths;

/// The other side of the pipe.
const SCRIPT: &str = include_str!("peer.py");
/// An answer is a few words long.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// A process that has loaded the same file and sleeps until it is asked for a measurement.
pub(super) struct Peer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    python: PathBuf,
    /// Of the Python package.
    pub(super) version: String,
}

/// What the peer is set up for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) model: &'a Path,
    pub(super) threads: usize,
    /// Positions of one sequence.
    pub(super) context: usize,
    pub(super) sequences: usize,
}

impl Peer {
    /// Starts Python and loads the model.
    pub(super) fn start(python: &Path, setup: Setup<'_>) -> Result<Self, CliError> {
        let Setup { model, threads, context, sequences } = setup;
        let setup = json!({ "model": model, "threads": threads, "context": context, "sequences": sequences });
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, &setup.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| CliError::Input {
                message: format!("{} could not be started: {error}", python.display()),
                hint: Some("`--python PATH` names a Python that has llama-cpp-python".into()),
            })?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CliError::Internal("the peer has no pipes".into()));
        };
        let answers = BufReader::new(answers);
        let python = python.to_owned();
        let mut peer = Self { child, commands, answers, python, version: String::new() };
        let ready = peer.answer()?;
        peer.version = ready["version"].as_str().unwrap_or("unknown").to_owned();
        Ok(peer)
    }

    /// Seconds for a prompt.
    pub(super) fn prefill(&mut self, tokens: &[u32]) -> Result<f64, CliError> {
        self.ask(&json!(["prefill", [tokens]]))
    }

    /// Computes a prompt for each sequence, in place of what was there.
    pub(super) fn fill(&mut self, prompts: &[Vec<u32>]) -> Result<(), CliError> {
        self.ask(&json!(["fill", [prompts]])).map(drop)
    }

    /// Seconds for these tokens in each of the first `sequences` sequences, from `position` on.
    pub(super) fn decode(
        &mut self,
        position: usize,
        sequences: usize,
        tokens: &[u32],
    ) -> Result<f64, CliError> {
        self.ask(&json!(["decode", [position, sequences, tokens]]))
    }

    fn ask(&mut self, command: &Value) -> Result<f64, CliError> {
        // If it has ended, what it last said is still in the other pipe.
        let _ = writeln!(self.commands, "{command}").and_then(|()| self.commands.flush());
        let answer = self.answer()?;
        answer["seconds"].as_f64().ok_or_else(|| CliError::input(format!("llama.cpp answered {answer}")))
    }

    fn answer(&mut self) -> Result<Value, CliError> {
        let mut line = String::new();
        let read = self.answers.by_ref().take(ANSWER_BYTES_MAX).read_line(&mut line);
        read.map_err(|error| CliError::read("the pipe from llama.cpp", error))?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| CliError::Input {
            message: format!("{} ended or spoke out of turn: {:?}", self.python.display(), line.trim()),
            hint: Some("what it says above may tell why; `--python PATH` names another one".into()),
        })?;
        if let Some(missing) = answer["missing"].as_str() {
            let python = self.python.display();
            return Err(CliError::Input {
                message: format!("{python} has no llama-cpp-python: {missing}"),
                hint: Some(format!(
                    "`{python} -m pip install --no-binary llama-cpp-python llama-cpp-python` builds it for \
                     this machine; `--python PATH` names another Python"
                )),
            });
        }
        match answer["error"].as_str() {
            Some(error) => Err(CliError::input(format!("llama.cpp could not be measured: {error}"))),
            None => Ok(answer),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python to take: the one that was named, or else the one that is likeliest to have the package.
pub(super) fn python(named: Option<&Path>) -> PathBuf {
    let named = named.map(Path::to_owned).or_else(|| env::get(env::LEVAIN_PEER_PYTHON).map(PathBuf::from));
    let own = || paths::peer_python().filter(|path| path.exists());
    named.or_else(own).unwrap_or_else(|| PathBuf::from("python3"))
}
