//! The process that renders: it reads a source and jobs, and writes texts.

use std::io::{Error, ErrorKind, Result};

use levain_tokenizer::{CompiledTemplate, RenderFailure, RenderJob, TemplateRenderer as _};

use super::frame;

/// Memory that a worker may have, in bytes of addresses: the program itself, a stack to compile on, and what
/// templates work with.
const MEMORY_BYTES_FREE: u64 = 384 << 20;
/// Further bytes for each byte of a job: as JSON, as values, and as text.
const MEMORY_PER_JOB_BYTE: u64 = 24;
/// Seconds of computing that a job may take, and how many bytes of it give another one.
const SECONDS_FREE: u64 = 1;
const BYTES_PER_SECOND: u64 = 1 << 20;

/// Renders what comes by standard input until that ends.
///
/// # Errors
/// If a pipe breaks or carries something else than frames, or if limits can't be set.
pub fn run_template_worker() -> Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    limits::start(MEMORY_BYTES_FREE)?;
    let mut template = None;
    while let Some((kind, body)) = frame::read(&mut input)? {
        let bytes = body.len() as u64;
        limits::memory(MEMORY_BYTES_FREE.saturating_add(bytes.saturating_mul(MEMORY_PER_JOB_BYTE)))?;
        limits::seconds(SECONDS_FREE + bytes / BYTES_PER_SECOND)?;
        let invalid = |problem: String| Error::new(ErrorKind::InvalidData, problem);
        let done = match (kind, &template) {
            (frame::SOURCE, None) => {
                let source = String::from_utf8(body).map_err(|error| invalid(error.to_string()))?;
                CompiledTemplate::new(&source).map(|compiled| {
                    template = Some(compiled);
                    String::new()
                })
            }
            (frame::JOB, Some(template)) => {
                let job: RenderJob =
                    serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
                drop(body);
                template.render(&job, &|| false)
            }
            (kind, _) => return Err(invalid(format!("a frame of kind {kind}"))),
        };
        match done {
            Ok(text) => frame::write(&mut output, frame::TEXT, text.as_bytes())?,
            Err(failure) => frame::write(&mut output, frame::FAILURE, &told(failure)?)?,
        }
    }
    Ok(())
}

fn told(failure: RenderFailure) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&failure)?)
}

#[cfg(unix)]
mod limits {
    use std::io::Result;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    /// Nothing is left behind by a crash, and no file can be opened or written.
    pub(super) fn start(bytes: u64) -> Result<()> {
        set(Resource::Core, 0)?;
        set(Resource::Fsize, 0)?;
        memory(bytes)
    }

    pub(super) fn memory(bytes: u64) -> Result<()> {
        // macOS knows the limit but does not take it.
        if cfg!(target_os = "linux") { set(Resource::As, bytes) } else { Ok(()) }
    }

    /// The system ends the process after so many further seconds of computing.
    pub(super) fn seconds(seconds: u64) -> Result<()> {
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        set(Resource::Cpu, u64::try_from(used).unwrap_or(0) + 1 + seconds)
    }

    /// Sets the soft limit, which may be raised again for the next job, as far as the hard one allows.
    fn set(resource: Resource, value: u64) -> Result<()> {
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(value, |maximum| value.min(maximum)));
        Ok(setrlimit(resource, Rlimit { current, maximum })?)
    }
}

#[cfg(not(unix))]
mod limits {
    use std::io::Result;

    pub(super) fn start(_bytes: u64) -> Result<()> {
        Ok(())
    }

    pub(super) fn memory(_bytes: u64) -> Result<()> {
        Ok(())
    }

    pub(super) fn seconds(_seconds: u64) -> Result<()> {
        Ok(())
    }
}
