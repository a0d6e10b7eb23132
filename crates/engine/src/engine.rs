//! The handle through which everyone else uses the engine.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use levain_kernels::{KvCache, Pool, PrefetchChoice};
use levain_weights::{Checkpoint, ModelConfig};

use crate::arch::{LoadOptions, Model};
use crate::config::{EngineConfig, Speculation};
use crate::disk::{self, DiskCache, DiskCacheConfig};
use crate::error::EngineError;
use crate::job::Submission;
use crate::memory::free_memory;
use crate::plan::{self, BLOCK_LEN, MemoryPlan, WeightSizes};
use crate::request::{ANSWERS_MAX, Injector, Request, RequestKind, TOP_LOGPROBS_MAX};
use crate::shares::Shares;
use crate::spec::{Drafts, MakeDrafts};
use crate::stats::EngineStats;
use crate::worker::{DraftSource, Drafter, Packing, Worker};

/// A loaded model that answers requests.
///
/// Clones share it. The last one to go cancels what is under way and waits for the engine's thread.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// How to end an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Finish what has been submitted, take nothing new.
    Drain,
    /// Cancel everything.
    Cancel,
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    model: ModelConfig,
    config: EngineConfig,
    plan: MemoryPlan,
    /// Where there is speculation.
    drafts: Option<MakeDrafts>,
    shares: Arc<Shares>,
}

/// What handles and the engine's thread share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) inbox: Mutex<Inbox>,
    /// Rung when something is put into the inbox.
    pub(crate) bell: Condvar,
    pub(crate) stats: Mutex<EngineStats>,
    pub(crate) packing: Packing,
    /// What was learnt about how to ask for weights.
    pub(crate) prefetch: Mutex<Vec<PrefetchChoice>>,
}

/// What the engine's thread has not looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) submissions: Vec<Submission>,
    /// Requests inside of which nothing has been computed, as the engine's thread last said.
    pub(crate) waiting: usize,
    /// Something has come from the disk, or gone there, or a constraint has spoken that an answer waits for.
    pub(crate) news: bool,
    pub(crate) shutdown: Option<Shutdown>,
    /// The engine's thread has ended.
    pub(crate) closed: bool,
}

/// Locks whatever a panicking thread may have left: all these hold plain values that are right at any time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Finds a checkpoint's weights and starts the engine's thread, which packs them between steps and while there is
    /// nothing to do. Requests are taken at once; until all is packed they are computed with the weights in the file,
    /// which takes longer and gives the same to the bit. Weights that turn out to be damaged end all requests with an
    /// error.
    ///
    /// Whether everything fits into memory is known and refused before any weight is read.
    pub fn load(checkpoint: &Checkpoint, config: EngineConfig) -> Result<Self, EngineError> {
        Self::load_with_draft(checkpoint, None, config)
    }

    /// As [`Engine::load`], with the checkpoint of a smaller model that drafts where the configuration says
    /// [`Speculation::DraftModel`]. Token ids mean the same to both, which is for the caller to make sure of:
    /// answers do not depend on it, but nothing is won without.
    pub fn load_with_draft(
        checkpoint: &Checkpoint,
        draft: Option<&Checkpoint>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let model_config = checkpoint.config()?;
        let mut weights = WeightSizes::of(checkpoint, &model_config);
        let draft = match (config.speculation, draft) {
            (Speculation::DraftModel, None) => return Err(EngineError::NoDraftModel),
            (Speculation::DraftModel, Some(draft)) => {
                weights = weights.with_draft(draft, &config)?;
                Some(draft)
            }
            _ => None,
        };
        let plan = plan::plan_for(&model_config, weights, &config, free_memory())?;
        let pool = Arc::new(Pool::new(config.resolved_threads()));
        let options = LoadOptions {
            rows_max: config.max_num_batched_tokens,
            logit_rows_max: plan::logit_rows(&config),
            context_length: plan.context_length,
            expert_cache_bytes: plan.expert_cache_bytes,
            mtp: plan::loads_mtp(&model_config, &config),
            expanded_from: config.expanded_from(&model_config),
            prefetch: config.prefetch,
        };
        let model = Model::load(checkpoint, &model_config, Arc::clone(&pool), &options);
        let intact = draft.iter().fold(checkpoint.intact(), |all, draft| all.and(draft.intact()));
        // What was read of a file that lost parts explains whatever else went wrong.
        intact.check()?;
        let model = model?;
        // Only now is it certain that the description is that of the weights.
        let kv = plan::allocate(&model_config, &config, &plan)?;
        let shared = Arc::new(Shared::default());
        let disk = match &config.disk_cache {
            Some(disk) if config.prefix_cache => {
                Some(open_disk_cache(disk, checkpoint, &model_config, &kv, &shared)?)
            }
            _ => None,
        };
        let all_f32 = plan.weights.all_f32;
        let (source, drafts): (_, Option<MakeDrafts>) = match (config.speculation, draft) {
            (Speculation::Off, _) => (DraftSource::Off, None),
            (_, Some(draft)) => {
                let drafter = Drafter::of_model(draft, &config, pool)?;
                (DraftSource::Drafter(Box::new(drafter)), Some(|_| Drafts::new()))
            }
            _ if options.mtp => {
                let drafter = Drafter::layer(&model_config, &config, all_f32)?;
                (DraftSource::Drafter(Box::new(drafter)), Some(|_| Drafts::new()))
            }
            _ => (DraftSource::Lookup, Some(Drafts::by_lookup)),
        };
        let mut worker = Worker::new(Arc::clone(&shared), model, kv, source, &config, &plan);
        worker.watch(intact);
        if let Some(disk) = disk {
            worker.keep_on_disk(disk);
        }
        let thread = thread::Builder::new()
            .name("levain-engine".to_owned())
            .spawn(move || worker.run())
            .map_err(EngineError::Thread)?;
        let thread = Mutex::new(Some(thread));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                thread,
                model: model_config,
                config,
                plan,
                drafts,
                shares: Arc::default(),
            }),
        })
    }

    /// Hands in a request. It is checked here; whatever happens afterwards its sink is told.
    pub fn submit(&self, request: Request) -> Result<RequestHandle, EngineError> {
        self.check(&request)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let injector = request.injector.clone().unwrap_or_default();
        let context_length = self.inner.plan.context_length;
        let flag = Arc::clone(&cancelled);
        let (tenant, answers) = (request.tenant, request.n as usize);
        let mut submission = Submission::new(
            request,
            injector.clone(),
            flag,
            context_length,
            self.inner.drafts,
            self.inner.model.vocab_size,
        );
        if let Some(from) = self.inner.config.expanded_from(&self.inner.model) {
            submission.sequences.iter_mut().for_each(|sequence| sequence.expand_prompt(from, BLOCK_LEN));
        }
        if let Some(limit) = self.inner.config.max_answers_per_tenant {
            let place = self.inner.shares.take(tenant, answers, limit);
            submission.job.place = Some(place.map_err(|queued| EngineError::Overloaded { queued, limit })?);
        }
        let limit = self.inner.config.max_queued_requests;
        let mut inbox = lock(&self.inner.shared.inbox);
        if inbox.shutdown.is_some() || inbox.closed {
            return Err(EngineError::ShutDown);
        }
        let queued = inbox.submissions.len() + inbox.waiting;
        if queued >= limit {
            return Err(EngineError::Overloaded { queued, limit });
        }
        inbox.submissions.push(submission);
        drop(inbox);
        self.inner.shared.bell.notify_one();
        Ok(RequestHandle { cancelled, injector })
    }

    /// Waits until all weights are packed, from when on steps take as long as they ever will.
    ///
    /// # Errors
    /// If weights turn out to be damaged.
    pub fn wait_until_packed(&self) -> Result<(), EngineError> {
        self.inner.shared.packing.wait()
    }

    /// What the engine is doing.
    pub fn stats(&self) -> EngineStats {
        let mut stats = *lock(&self.inner.shared.stats);
        stats.waiting += lock(&self.inner.shared.inbox).submissions.len();
        stats
    }

    /// What was learnt so far about how to ask for the weights of each format, see [`EngineConfig::prefetch`]. Formats
    /// of which the model has no large matrix, or too few steps were taken, are missing.
    pub fn prefetch_choices(&self) -> Vec<PrefetchChoice> {
        lock(&self.inner.shared.prefetch).clone()
    }

    /// The model's description.
    pub fn model_config(&self) -> &ModelConfig {
        &self.inner.model
    }

    /// How the engine was set up.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// What it takes of the memory.
    pub fn plan(&self) -> &MemoryPlan {
        &self.inner.plan
    }

    /// Tokens a sequence may have, prompt and answer.
    pub fn context_length(&self) -> usize {
        self.inner.plan.context_length
    }

    /// Ends the engine and waits until it has. Called from a sink it only asks it to end.
    pub fn shutdown(&self, how: Shutdown) {
        self.inner.shutdown(how);
    }

    fn check(&self, request: &Request) -> Result<(), EngineError> {
        let parameter = |name, value: usize, expected| {
            Err(EngineError::Parameter { name, value: value.to_string(), expected })
        };
        let vocab_size = self.inner.model.vocab_size;
        let context = self.context_length();
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        // An answer needs a place in the context; scoring and embedding do not.
        let answers = request.kind == RequestKind::Generate && request.max_tokens != Some(0);
        if request.prompt.len() + usize::from(answers) > context {
            return Err(EngineError::ContextTooLong { prompt: request.prompt.len(), context });
        }
        let stops = if request.stop_token_ids.len() > 1024 { &[] } else { request.stop_token_ids.as_slice() };
        if stops.len() != request.stop_token_ids.len() {
            return parameter("stop_token_ids", request.stop_token_ids.len(), "it has at most 1024 entries");
        }
        if let Some(&token) = request.prompt.iter().chain(stops).find(|&&token| token as usize >= vocab_size)
        {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        if request.n == 0 || request.n > ANSWERS_MAX {
            return parameter("n", request.n as usize, "it goes from 1 to 16");
        }
        let constraints = request.constraints.len();
        if constraints != 0 && constraints != request.n as usize {
            return parameter("constraints", constraints, "there is one for each answer, or none");
        }
        for (name, top) in [("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)] {
            if top.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
                return parameter(name, top.unwrap_or_default(), "it is at most 128");
            }
        }
        if request.kind != RequestKind::Generate && (request.n != 1 || request.prompt_logprobs.is_some()) {
            return parameter(
                "n",
                request.n as usize,
                "an embedding is one vector without log-probabilities",
            );
        }
        request.sampling.validate(vocab_size)
    }
}

fn open_disk_cache(
    config: &DiskCacheConfig,
    checkpoint: &Checkpoint,
    model: &ModelConfig,
    kv: &KvCache,
    shared: &Arc<Shared>,
) -> Result<DiskCache, EngineError> {
    let failed = |source| EngineError::DiskCache { folder: config.folder.clone(), source };
    let identity = disk::identity(checkpoint, model, kv.layout()).map_err(failed)?;
    let shared = Arc::clone(shared);
    let news = move || {
        lock(&shared.inbox).news = true;
        shared.bell.notify_one();
    };
    DiskCache::open(config, identity, kv.bytes_per_block(), news).map_err(failed)
}

impl Inner {
    fn shutdown(&self, how: Shutdown) {
        {
            let mut inbox = lock(&self.shared.inbox);
            // A wish to cancel overrides one to drain, not the other way round.
            if inbox.shutdown != Some(Shutdown::Cancel) {
                inbox.shutdown = Some(how);
            }
        }
        self.shared.bell.notify_all();
        let Some(thread) = lock(&self.thread).take() else { return };
        // A sink that drops the last handle runs on the engine's thread, which cannot wait for itself.
        if thread.thread().id() != thread::current().id() {
            // The engine's thread catches all panics; one that got through leaves nothing to do here.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown(Shutdown::Cancel);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model.model_type)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// A request under way. Dropping it cancels the request.
#[derive(Debug)]
pub struct RequestHandle {
    cancelled: Arc<AtomicBool>,
    injector: Injector,
}

impl RequestHandle {
    /// Ends the request at its next token or chunk; its sink is told, unless it is over already.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Forces tokens on an answer, see [`Injector`].
    pub fn inject(&self, answer: u32, tokens: &[u32]) {
        self.injector.push(answer, tokens);
    }

    /// Lets the request go on without a handle: only its sink can end it then.
    pub fn detach(mut self) {
        self.cancelled = Arc::default();
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        self.cancel();
    }
}
