//! What every command works with: the printer, the settings, the hub and a runtime.

use std::future::Future;
use std::path::{Path, PathBuf};

use levain_engine::{DiskCacheConfig, EngineConfig, Speculation};
use levain_hub::{Hub, HubConfig, ModelRef, StoredModel};
use tokio::runtime::Runtime;

use crate::cli::EngineArgs;
use crate::env;
use crate::error::CliError;
use crate::paths;
use crate::printer::Printer;
use crate::progress::Bars;
use crate::settings::{self, Settings};
use crate::signals::Signals;

/// What every command works with.
pub(crate) struct App {
    /// Output.
    pub(crate) printer: Printer,
    /// Configuration.
    pub(crate) settings: Settings,
    /// Ctrl-C and its like.
    pub(crate) signals: Signals,
    runtime: Runtime,
}

impl App {
    /// Reads the configuration.
    pub(crate) fn new(printer: Printer, config: Option<&Path>) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| CliError::Internal(format!("no runtime: {error}")))?;
        let signals = Signals::own(&runtime, printer)?;
        let settings = Settings::load(config)?;
        for path in settings.unreadable() {
            printer
                .warn(format_args!("{} may not be read by this user: going on without it", path.display()));
        }
        Ok(Self { printer, settings, signals, runtime })
    }

    /// The hub, as the environment sets it up.
    pub(crate) fn hub(&self) -> Result<Hub, CliError> {
        Ok(Hub::new(HubConfig::from_env(&env::with_home)?)?)
    }

    /// Runs `work` until it is done or Ctrl-C is pressed.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        let interrupted = self.signals.interrupted();
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = interrupted => Err(CliError::Interrupted),
            }
        })
    }

    /// Runs `work`, which listens to Ctrl-C itself.
    pub(crate) fn block_on_uninterrupted<T>(
        &self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        self.runtime.block_on(work)
    }

    /// Runs `work` on a thread of its own until it is done or Ctrl-C is pressed.
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
    ) -> Result<T, CliError> {
        let done = self.runtime.spawn_blocking(work);
        self.block_on(async { done.await.map_err(|error| CliError::Internal(error.to_string()))? })
    }

    /// Ends without waiting for work that was interrupted.
    pub(crate) fn shut_down(self) {
        self.runtime.shutdown_background();
    }

    /// Parses a reference and follows aliases.
    pub(crate) fn reference(&self, hub: &Hub, input: &str) -> Result<ModelRef, CliError> {
        let parsed = hub.parse(input)?;
        let mut known: Vec<String> = Vec::new();
        if matches!(parsed, ModelRef::Name(_)) {
            known.extend(self.settings.aliases().map(|(name, ..)| name.to_owned()));
            known.extend(hub.list().into_iter().map(|model| model.reference));
        }
        Ok(parsed.resolve(|name| self.settings.alias(name), &known)?)
    }

    /// The model on this disk, fetched now if it is not here yet.
    pub(crate) fn obtain(&self, hub: &Hub, input: &str) -> Result<StoredModel, CliError> {
        let reference = self.reference(hub, input)?;
        if let Some(model) = hub.find(&reference)? {
            return Ok(model);
        }
        self.printer.say(format_args!("{reference} is not on this machine yet: fetching it"));
        self.pull(hub, &reference)
    }

    /// Fetches a model, with progress.
    pub(crate) fn pull(&self, hub: &Hub, reference: &ModelRef) -> Result<StoredModel, CliError> {
        let bars = Bars::new(self.printer);
        let pulled = self.block_on(async { Ok(hub.pull(reference, &bars).await?) });
        bars.finish();
        pulled
    }

    /// The model that drafts, on this disk, where `config` asks for one.
    pub(crate) fn draft_model(
        &self,
        hub: &Hub,
        args: &EngineArgs,
        config: &EngineConfig,
    ) -> Result<Option<PathBuf>, CliError> {
        if config.speculation != Speculation::DraftModel {
            return Ok(None);
        }
        let Some(name) = args.draft_model.as_deref().or(self.settings.get("draft_model")) else {
            return Err(CliError::input_with(
                "there is no model to draft",
                "name a smaller model with the same tokens: --draft-model MODEL, or draft_model in the configuration",
            ));
        };
        Ok(Some(self.obtain(hub, name)?.path))
    }

    /// The text of a chat template of the user's own, by the command line or the configuration.
    pub(crate) fn chat_template(&self, named: Option<&Path>) -> Result<Option<String>, CliError> {
        let Some(path) = named.or(self.settings.get("chat_template").map(Path::new)) else { return Ok(None) };
        Ok(Some(levain_local::read_chat_template(path)?))
    }

    /// The engine's set-up from the command line, the environment and the files.
    pub(crate) fn engine_config(&self, args: &EngineArgs) -> Result<EngineConfig, CliError> {
        let mut config = EngineConfig::default();
        let setting = |key: &str| self.settings.get(key);
        // Values were checked when they were read.
        let number = |key: &str| setting(key).and_then(|text| settings::number(text).ok());
        if let Some(threads) = args.threads.or_else(|| number("threads")) {
            config.threads = threads;
        }
        config.context_length = args.context.or_else(|| number("context"));
        if let Some(kind) = args
            .kv_cache_type
            .or_else(|| setting("kv_cache_type").and_then(|text| settings::kv_cache_type(text).ok()))
        {
            config.kv_dtype = kind;
        }
        // A draft model on the command line says how to speculate, too.
        let implied = args.draft_model.as_ref().map(|_| Speculation::DraftModel);
        let configured = || setting("speculate").and_then(|text| settings::speculation(text).ok());
        if let Some(how) = args.speculate.or(implied).or_else(configured) {
            config.speculation = how;
        }
        config.draft_tokens = args.draft_tokens;
        if args.draft_tokens.is_some() && config.speculation == Speculation::Off {
            return Err(CliError::input("--draft-tokens goes with --speculate"));
        }
        if args.draft_model.is_some() && config.speculation != Speculation::DraftModel {
            return Err(CliError::input("--draft-model goes with --speculate draft"));
        }
        config.memory_limit =
            args.memory.or_else(|| setting("memory").and_then(|text| settings::byte_size(text).ok()));
        let kept = args.cache_disk;
        if let Some(bytes_max) =
            kept.or_else(|| setting("cache_disk").and_then(|text| settings::byte_size(text).ok()))
        {
            let named = args.cache_dir.clone().or_else(|| setting("cache_dir").map(Into::into));
            let folder = named.or_else(paths::kv_cache).ok_or_else(|| {
                CliError::input_with(
                    "there is no folder to keep the KV cache in",
                    "name one with --cache-dir",
                )
            })?;
            levain_hub::check_owners(&folder).map_err(|error| {
                CliError::input_with(
                    error.to_string(),
                    "name another folder for the KV cache with --cache-dir",
                )
            })?;
            let key = crate::seal::key()?;
            config.disk_cache = Some(DiskCacheConfig { folder, bytes_max, key, always_read: false });
        }
        Ok(config)
    }
}

/// Reads a text file that the user named, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String, CliError> {
    const TEXT_BYTES_MAX: u64 = 64 << 20;
    let shown = if path == Path::new("-") { Path::new("standard input") } else { path };
    let bytes = if path == Path::new("-") {
        read_stdin()?.into_bytes()
    } else {
        let meta = std::fs::metadata(path).map_err(|error| CliError::read(path, error))?;
        if meta.len() > TEXT_BYTES_MAX {
            return Err(CliError::input(format!("{} is longer than 64 MiB", path.display())));
        }
        std::fs::read(path).map_err(|error| CliError::read(path, error))?
    };
    String::from_utf8(bytes).map_err(|error| {
        CliError::input(format!(
            "{} is not UTF-8 at byte {}",
            shown.display(),
            error.utf8_error().valid_up_to()
        ))
    })
}

/// All of standard input, as text.
pub(crate) fn read_stdin() -> Result<String, CliError> {
    use std::io::Read as _;
    const INPUT_BYTES_MAX: u64 = 64 << 20;
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::read("standard input", error))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(CliError::input("standard input is longer than 64 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        CliError::input(format!("standard input is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })
}
