//! The side that waits for the worker, and ends it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use levain_tokenizer::{RenderFailure, RenderJob, TemplateRenderer};

use super::frame;

/// Processes of one template that are kept for the next rendering.
const IDLE_MAX: usize = 2;
/// How often is looked whether the answer is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait for one answer: workers end themselves by the time that they compute, long before, but a machine may
/// leave them no time.
const WAIT: Duration = Duration::from_secs(60);

/// A program that calls [`run_template_worker`](super::run_template_worker) when it is started with these arguments.
#[derive(Debug, Clone)]
pub struct TemplateWorker {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Renders one template in processes that can be ended.
#[derive(Debug)]
pub(crate) struct TemplateProcesses {
    worker: TemplateWorker,
    source: String,
    idle: Mutex<Vec<Process>>,
}

impl TemplateProcesses {
    /// Compiles `source` in a first process.
    pub(crate) fn start(worker: &TemplateWorker, source: &str) -> Result<Self, RenderFailure> {
        let this = Self { worker: worker.clone(), source: source.to_owned(), idle: Mutex::default() };
        let process = this.process(&|| false)?;
        this.keep(process);
        Ok(this)
    }

    fn process(&self, cancelled: &dyn Fn() -> bool) -> Result<Process, RenderFailure> {
        let mut process = Process::spawn(&self.worker).map_err(|error| {
            RenderFailure::Failed(format!("the process that renders it can't be started: {error}"))
        })?;
        process.ask(frame::SOURCE, self.source.as_bytes(), cancelled)?;
        Ok(process)
    }

    fn keep(&self, process: Process) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(process);
        }
    }
}

impl TemplateRenderer for TemplateProcesses {
    fn render(&self, job: &RenderJob, cancelled: &dyn Fn() -> bool) -> Result<String, RenderFailure> {
        let body = serde_json::to_vec(job).map_err(|error| RenderFailure::Failed(error.to_string()))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // One that was killed from outside while it was idle is no fault of this conversation.
        let idle = idle.filter(|process| !process.has_ended());
        let mut process = idle.map_or_else(|| self.process(cancelled), Ok)?;
        let text = process.ask(frame::JOB, &body, cancelled);
        if process.is_sound {
            self.keep(process);
        }
        text
    }
}

/// A frame of the worker's, or that there are none any more.
type Answer = io::Result<Option<frame::Frame>>;

/// A worker; ended when it is dropped.
#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    input: ChildStdin,
    answers: Receiver<Answer>,
    /// It waits for the next frame.
    is_sound: bool,
}

impl Process {
    fn spawn(worker: &TemplateWorker) -> io::Result<Self> {
        let mut command = Command::new(&worker.program);
        command.args(&worker.arguments).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C in a terminal is meant for the program, which goes on after it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = child.stdin.take().ok_or_else(broken)?;
        let mut output = child.stdout.take().ok_or_else(broken)?;
        let (send, answers) = channel();
        // Reads until the process ends, as a read can't be given up.
        std::thread::Builder::new().name("template-answers".to_owned()).spawn(move || {
            loop {
                let answer = frame::read(&mut output);
                let is_last = !matches!(answer, Ok(Some(_)));
                if send.send(answer).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(Self { child: Mutex::new(child), input, answers, is_sound: true })
    }

    /// Sends a frame and waits for the answer to it.
    fn ask(&mut self, kind: u8, body: &[u8], cancelled: &dyn Fn() -> bool) -> Result<String, RenderFailure> {
        self.is_sound = false;
        // A process that has ended is found while reading: why says more than a broken pipe.
        let _ = frame::write(&mut self.input, kind, body);
        let deadline = Instant::now() + WAIT;
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(Ok(Some((frame::TEXT, text)))) => {
                    self.is_sound = true;
                    return String::from_utf8(text).map_err(|error| RenderFailure::Failed(error.to_string()));
                }
                Ok(Ok(Some((frame::FAILURE, failure)))) => {
                    self.is_sound = true;
                    return Err(serde_json::from_slice(&failure)
                        .unwrap_or_else(|error| RenderFailure::Failed(error.to_string())));
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) if cancelled() => {
                    return Err(RenderFailure::Failed("nobody waits for it any more".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    let seconds = WAIT.as_secs();
                    return Err(RenderFailure::Limit(format!("takes more than {seconds} seconds")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Why the process has closed its pipe.
    fn ended(&mut self) -> RenderFailure {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        match child.wait() {
            Ok(status) => reason(status),
            Err(error) => RenderFailure::Failed(error.to_string()),
        }
    }

    fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(unix)]
fn reason(status: ExitStatus) -> RenderFailure {
    use std::os::unix::process::ExitStatusExt as _;

    use rustix::process::Signal;
    let signal = status.signal();
    let is = |signals: &[Signal]| signals.iter().any(|known| signal == Some(known.as_raw()));
    if is(&[Signal::XCPU]) {
        RenderFailure::Limit("does not end in the time that a template has".to_owned())
    } else if is(&[Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::KILL]) {
        RenderFailure::Limit("needs more memory than a template may have, or nests too deep".to_owned())
    } else {
        RenderFailure::Failed(format!("the process that renders it ended ({status})"))
    }
}

#[cfg(not(unix))]
fn reason(status: ExitStatus) -> RenderFailure {
    RenderFailure::Failed(format!("the process that renders it ended ({status})"))
}
