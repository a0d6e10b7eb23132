//! A process with llama.cpp in one of its modes, through the `llama-cpp-python` package of a Python on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::env;
use crate::error::CliError;
use crate::paths;

/// The other side of the pipe.
const SCRIPT: &str = include_str!("peer.py");
/// An answer is a few words long.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// How long a process may take to end once it has nothing more to say.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How llama.cpp keeps weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// As its own programs call it.
    pub(super) name: &'static str,
    /// Whether it brings them into a layout of its own where it has one (its "extra buffers").
    extra_buffers: bool,
}

/// Its modes: neither is always the faster one.
pub(super) const MODES: [Mode; 2] =
    [Mode { name: "repack", extra_buffers: true }, Mode { name: "no-repack", extra_buffers: false }];

/// A process that has loaded the same file and sleeps until it is asked for a measurement.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) mode: Mode,
    /// Of the Python package.
    pub(super) version: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What the peer is set up for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) python: &'a Path,
    pub(super) model: &'a Path,
    pub(super) threads: usize,
    /// Positions of one sequence.
    pub(super) context: usize,
    pub(super) sequences: usize,
}

/// Why there is no measurement.
#[derive(Debug)]
pub(super) enum Failure {
    /// This mode does not work here: what happened, as the rest of a sentence.
    Mode(String),
    /// No mode can work.
    All(CliError),
}

/// Whether a foreign program needs to know a variable: what finds it and its libraries, and what it is set up by. Keys
/// and tokens are none of these.
fn passes(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TMPDIR",
        "TEMP",
        "TMP",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "SYSTEMROOT",
        "USERPROFILE",
        "APPDATA",
    ];
    const BEGINNINGS: [&str; 6] = ["LC_", "PYTHON", "OMP_", "GGML_", "LLAMA_", "KMP_"];
    let name = name.to_ascii_uppercase();
    NAMES.contains(&name.as_str()) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

impl Peer {
    /// Starts Python and loads the model.
    pub(super) fn start(mode: Mode, setup: Setup<'_>) -> Result<Self, Failure> {
        let Setup { python, model, threads, context, sequences } = setup;
        let arguments = json!({
            "model": model, "threads": threads, "context": context, "sequences": sequences,
            "extra_buffers": mode.extra_buffers,
        });
        let child = Command::new(python)
            .args(["-c", SCRIPT, &arguments.to_string()])
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passes)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| {
            Failure::All(CliError::input_with(
                format!("{} could not be started: {error}", python.display()),
                "`--python PATH` names a Python that has llama-cpp-python",
            ))
        })?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::All(CliError::Internal("the peer has no pipes".into())));
        };
        let answers = BufReader::new(answers);
        let mut peer = Self { mode, version: String::new(), child, commands, answers };
        let ready = peer.answer()?;
        if let Some(missing) = ready["missing"].as_str() {
            let python = python.display();
            return Err(Failure::All(CliError::input_with(
                format!("{python} has no llama-cpp-python: {missing}"),
                format!(
                    "`{python} -m pip install --no-binary llama-cpp-python llama-cpp-python` builds it for \
                     this machine; `--python PATH` names another Python"
                ),
            )));
        }
        peer.version = ready["version"].as_str().unwrap_or("unknown").to_owned();
        Ok(peer)
    }

    /// Seconds that a command takes.
    pub(super) fn ask(&mut self, command: &Value) -> Result<f64, Failure> {
        // If it has ended, what it last said is still in the other pipe.
        let _ = writeln!(self.commands, "{command}").and_then(|()| self.commands.flush());
        let answer = self.answer()?;
        let seconds = answer["seconds"].as_f64().filter(|seconds| seconds.is_finite());
        seconds.ok_or_else(|| Failure::Mode(format!("answered {answer}")))
    }

    fn answer(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        let read = self.answers.by_ref().take(ANSWER_BYTES_MAX).read_line(&mut line);
        if let Err(error) = read {
            return Err(Failure::Mode(format!("could not be read from: {error}")));
        }
        if line.is_empty() {
            return Err(Failure::Mode(self.end()));
        }
        let answer: Value = serde_json::from_str(&line)
            .map_err(|_| Failure::Mode(format!("spoke out of turn: {:?}", line.trim())))?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::Mode(format!("could not be measured: {error}"))),
            None => Ok(answer),
        }
    }

    /// How the process ended that has nothing more to say.
    fn end(&mut self) -> String {
        let begun = Instant::now();
        while begun.elapsed() < END_PATIENCE {
            match self.child.try_wait() {
                Ok(Some(status)) => return ended(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return format!("ended: {error}"),
            }
        }
        "closed its output".to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended, as the rest of a sentence.
fn ended(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let (name, meaning) = match signal {
            4 => ("SIGILL", ": it was built with instructions that this machine refuses"),
            6 => ("SIGABRT", ""),
            7 => ("SIGBUS", ""),
            8 => ("SIGFPE", ""),
            9 => ("SIGKILL", ": perhaps memory ran out"),
            11 => ("SIGSEGV", ""),
            15 => ("SIGTERM", ""),
            other => return format!("died of signal {other}"),
        };
        return format!("died of {name}{meaning}");
    }
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "ended".to_owned(),
    }
}

/// The Python to take: the one that was named, or else the one that is likeliest to have the package.
pub(super) fn python(named: Option<&Path>) -> PathBuf {
    let named = named.map(Path::to_owned).or_else(|| env::get(env::LEVAIN_PEER_PYTHON).map(PathBuf::from));
    let own = || paths::peer_python().filter(|path| path.exists());
    named.or_else(own).unwrap_or_else(|| PathBuf::from("python3"))
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn a_foreign_program_is_told_no_secrets() {
        for name in ["PATH", "HOME", "PYTHONPATH", "GGML_CPU", "OMP_NUM_THREADS", "LC_ALL"] {
            assert!(passes(name), "{name}");
        }
        for name in [
            "LEVAIN_API_KEY",
            "OPENAI_API_KEY",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "PIP_INDEX_URL",
            "",
        ] {
            assert!(!passes(name), "{name}");
        }
    }
}
