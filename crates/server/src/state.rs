//! What all requests share.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use levain_chat::{Place, Places, Provider};
use levain_wire::openai::{ApiError, Head};
use tokio::sync::watch;

use crate::access::{Access, Principal};
use crate::config::{Limits, ServerConfig};
use crate::memory::Memory;
use crate::metrics::{Meter, Metrics};

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) access: Access,
    pub(crate) limits: Limits,
    parse_special: bool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) description: Vec<u8>,
    /// One for each request that may be answered at a time, until its last byte is written.
    pub(crate) work: Places,
    /// One for each KiB that requests may hold outside the engine.
    pub(crate) memory: Arc<Places>,
    /// One for each body that may be parsed at a time.
    pub(crate) parsing: Places,
    draining: AtomicBool,
    cut: watch::Sender<bool>,
    ids: Ids,
}

impl Shared {
    pub(crate) fn new(
        provider: Arc<dyn Provider>,
        access: Access,
        config: &ServerConfig,
        description: Vec<u8>,
    ) -> Self {
        let limits = config.limits;
        // Where there are several callers, none can have more than half of what all share.
        let share = |n: usize| if config.api_keys.len() > 1 { n / 2 } else { n };
        let (kib, cores) =
            (limits.memory_bytes_max >> 10, std::thread::available_parallelism().map_or(1, NonZero::get));
        Self {
            provider,
            access,
            limits,
            parse_special: config.parse_special,
            metrics: Arc::default(),
            description,
            work: Places::new(limits.requests_max, share(limits.requests_max)),
            memory: Arc::new(Places::new(kib, share(kib))),
            parsing: Places::new(cores.max(2), (cores / 2).max(1)),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            ids: Ids::default(),
        }
    }

    /// The right to be answered, held for as long as the answer takes.
    pub(crate) fn admit(&self, call: &Call) -> Result<Place, ApiError> {
        if self.is_draining() {
            return Err(shutting_down());
        }
        self.work.try_take(call.principal.tenant.as_deref(), 1).ok_or_else(|| {
            ApiError::with_status(
                429,
                "rate_limit_exceeded",
                "the server is busy with as many requests as it may hold; try again in a moment",
            )
        })
    }

    /// Memory for an answer to this call, none yet.
    pub(crate) fn memory(&self, call: &Call) -> Memory {
        Memory::new(&self.memory, call.principal.tenant.as_deref())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// From now on no new work is taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Ends the answers that still run.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Tells when answers must end.
    pub(crate) fn cutter(&self) -> Cutter {
        Cutter(self.cut.subscribe())
    }

    pub(crate) fn meter(&self, call: &Call) -> Meter {
        Meter::new(&self.metrics, &call.id, call.started)
    }

    /// A new id with this prefix.
    pub(crate) fn id(&self, prefix: &str) -> String {
        self.ids.next(prefix)
    }

    pub(crate) fn head(&self, prefix: &str, model: &str) -> Head {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Head { id: self.id(prefix), created, model: model.to_owned() }
    }

    /// The named model, or the first on offer where there is no name.
    pub(crate) fn model_or_default(&self, model: &str) -> Result<String, ApiError> {
        if !model.is_empty() {
            return Ok(model.to_owned());
        }
        self.provider.models().into_iter().next().map(|info| info.id).ok_or_else(|| {
            ApiError::with_status(503, "no_model", "no model is loaded yet; try again in a moment")
        })
    }

    /// Whether the names of control tokens in a raw prompt become these tokens.
    pub(crate) fn parse_special(&self, asked: Option<bool>) -> Result<bool, ApiError> {
        match asked {
            Some(true) if !self.parse_special => Err(ApiError::unsupported_value(
                "parse_special",
                "this server takes prompts for plain text: send false, or token ids",
            )),
            asked => Ok(asked.unwrap_or(self.parse_special)),
        }
    }
}

pub(crate) fn shutting_down() -> ApiError {
    ApiError::with_status(503, "shutting_down", "the server is shutting down; try again in a moment")
}

/// Waits for the moment when answers must end.
pub(crate) struct Cutter(watch::Receiver<bool>);

impl Cutter {
    pub(crate) async fn cut(&mut self) {
        if self.0.wait_for(|cut| *cut).await.is_err() {
            // The server is gone, and with it everything that could be cut.
            std::future::pending::<()>().await;
        }
    }
}

/// What the guard found out about a request; handlers take it from the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) principal: Principal,
    pub(crate) id: String,
    pub(crate) started: Instant,
}

/// Makes ids that are unique here and hard to guess elsewhere: a counter, hashed with the process's random keys.
#[derive(Debug, Default)]
struct Ids {
    counter: AtomicU64,
    keys: [RandomState; 2],
}

impl Ids {
    fn next(&self, prefix: &str) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let [a, b] = self.keys.each_ref().map(|keys| {
            let mut hasher = keys.build_hasher();
            hasher.write_u64(count);
            hasher.finish()
        });
        format!("{prefix}{a:016x}{b:016x}")
    }
}
