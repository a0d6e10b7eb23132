//! Why a command ends without success, with the exit code and a hint.

use std::path::PathBuf;

use levain_chat::{ErrorClass, ProviderError};
use levain_engine::EngineError;
use levain_hub::HubError;
use levain_local::LocalError;

/// Exit code of success.
pub(crate) const OK: u8 = 0;
/// Exit code of a refusal or of wrong input.
pub(crate) const REFUSED: u8 = 1;
/// Exit code of a failure of ours or of the machine.
pub(crate) const FAILED: u8 = 2;
/// Exit code after Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ends without success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Wrong input, with what to do about it.
    #[error("{message}")]
    Input {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The store or a server.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A checkpoint.
    #[error(transparent)]
    Weights(#[from] levain_weights::WeightsError),
    /// A vocabulary or a template.
    #[error(transparent)]
    Tokenizer(#[from] levain_tokenizer::TokenizerError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The kernels.
    #[error(transparent)]
    Kernel(#[from] levain_kernels::KernelError),
    /// The model that was asked.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The local model.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The server.
    #[error(transparent)]
    Server(#[from] levain_server::ServerError),
    /// A file could not be read or written.
    #[error("could not {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read our output has gone: that is not a failure.
    #[error("the output's reader has gone")]
    BrokenPipe,
    /// Something that should not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CliError {
    /// Wrong input without a hint.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: None }
    }

    /// Wrong input with a hint.
    pub(crate) fn input_with(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: Some(hint.into()) }
    }

    /// A failed write to standard output or error.
    pub(crate) fn output(source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Io { action: "write to", path: "standard output".into(), source },
        }
    }

    /// A file that the user named could not be read.
    pub(crate) fn read(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        if source.kind() == std::io::ErrorKind::NotFound {
            return Self::input(format!("there is no file {}", path.display()));
        }
        Self::Io { action: "read", path, source }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => OK,
            Self::Interrupted => INTERRUPTED,
            Self::Internal(_) => FAILED,
            Self::Hub(error) if error.is_failure() => FAILED,
            Self::Provider(error) if error.class() == ErrorClass::Bug => FAILED,
            Self::Engine(error) | Self::Local(LocalError::Engine(error)) if is_bug(error) => FAILED,
            // A file that is not there was named wrongly; a disk that can't be written is no fault of the input.
            Self::Io { action: "read", .. } => REFUSED,
            Self::Io { .. } => FAILED,
            _ => REFUSED,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Input { hint, .. } => hint.clone(),
            Self::Hub(error) => error.hint(),
            Self::Engine(EngineError::OutOfMemory { .. })
            | Self::Local(LocalError::Engine(EngineError::OutOfMemory { .. })) => {
                Some("`levain fit MODEL` shows what a model needs, and `--context` makes it smaller".into())
            }
            Self::Server(levain_server::ServerError::OpenWithoutKey { .. }) => {
                Some("set LEVAIN_API_KEY, or type --insecure-no-auth if everyone may use the model".into())
            }
            Self::Server(levain_server::ServerError::AddressInUse { .. }) => {
                Some("`levain serve --listen 127.0.0.1:0` takes any free port".into())
            }
            _ => None,
        }
    }
}

/// True for what the engine itself got wrong, or the system refused it.
fn is_bug(error: &EngineError) -> bool {
    matches!(error, EngineError::Panicked { .. } | EngineError::Thread(_))
}
