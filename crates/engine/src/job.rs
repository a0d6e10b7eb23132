//! A request in progress.

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::plan::BLOCK_LEN;
use crate::request::{Event, FinishReason, Injector, Request, RequestKind, Sink, TokenLogprob, Usage};
use crate::sampling::SamplingParams;
use crate::sequence::{Sequence, SequenceId, SequenceStatus};
use crate::shares::Place;
use crate::spec::MakeDrafts;
use crate::worker::Constrained;

/// A request as it lies in the inbox: everything that takes time has been done on the caller's thread.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) job: Job,
    /// One for each answer; all but the first are held. Their job is set when they are taken in.
    pub(crate) sequences: Vec<Sequence>,
}

/// What the caller asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) kind: RequestKind,
    pub(crate) sampling: SamplingParams,
    pub(crate) seed: u64,
    /// Tokens an answer may have; bounded by the context.
    pub(crate) max_tokens: usize,
    /// Empty where stop tokens are to be ignored.
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
}

/// One answer of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `None` once it has ended.
    pub(crate) sequence: Option<SequenceId>,
    started: Option<Instant>,
    first_token: Option<Instant>,
    pub(crate) completion_tokens: usize,
}

/// A request in progress.
pub(crate) struct Job {
    pub(crate) wish: Wish,
    pub(crate) answers: Vec<Answer>,
    /// One for each answer, or none.
    pub(crate) constraints: Vec<Constrained>,
    pub(crate) injector: Injector,
    /// Prompt positions whose log-probabilities have been collected, and those not yet sent.
    pub(crate) scored: usize,
    pub(crate) scores: Vec<TokenLogprob>,
    /// Sum of hidden states for an embedding, and how many.
    pub(crate) pooled: Vec<f64>,
    pub(crate) n_pooled: usize,
    submitted: Instant,
    prompt_tokens: usize,
    cancelled: Arc<AtomicBool>,
    sink: Sink,
    sink_panicked: bool,
    /// Counted until the request is over, where tenants have shares.
    pub(crate) place: Option<Place>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("wish", &self.wish)
            .field("answers", &self.answers)
            .finish_non_exhaustive()
    }
}

impl Submission {
    pub(crate) fn new(
        request: Request,
        injector: Injector,
        cancelled: Arc<AtomicBool>,
        context_length: usize,
        drafts: Option<MakeDrafts>,
        vocab_size: usize,
    ) -> Self {
        let prompt_len = request.prompt.len();
        let room = context_length.saturating_sub(prompt_len);
        let generates = request.kind == RequestKind::Generate;
        let asked = request.max_tokens.map_or(room, |n| (n as usize).min(room));
        let max_tokens = if generates { asked } else { 0 };
        // Hidden states and logits of the prompt exist only where the prompt is computed.
        let may_reuse = generates && request.prompt_logprobs.is_none();
        let sequences = (0..request.n).map(|answer| {
            let len_max = prompt_len + max_tokens;
            let mut sequence = Sequence::new(0, answer, request.tenant, &request.prompt, len_max, BLOCK_LEN);
            sequence.may_reuse = may_reuse;
            sequence.drafts =
                drafts.filter(|_| generates && request.speculate).map(|drafts| Box::new(drafts(len_max)));
            if answer > 0 {
                sequence.status = SequenceStatus::Held;
            }
            sequence
        });
        let sequences = sequences.collect();
        let answer = |_| Answer { sequence: None, started: None, first_token: None, completion_tokens: 0 };
        let seed = request.sampling.seed.unwrap_or_else(fresh_seed);
        let job = Job {
            wish: Wish {
                kind: request.kind,
                sampling: request.sampling,
                seed,
                max_tokens,
                stop_token_ids: if request.ignore_eos { Vec::new() } else { request.stop_token_ids },
                logprobs: request.logprobs,
                prompt_logprobs: request.prompt_logprobs,
            },
            answers: (0..request.n).map(answer).collect(),
            constraints: request
                .constraints
                .into_iter()
                .map(|constraint| Constrained::new(constraint, vocab_size))
                .collect(),
            injector,
            scored: 0,
            scores: Vec::new(),
            pooled: Vec::new(),
            n_pooled: 0,
            submitted: Instant::now(),
            prompt_tokens: prompt_len,
            cancelled,
            sink: request.sink,
            sink_panicked: false,
            place: None,
        };
        Self { job, sequences }
    }
}

impl Job {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Ends the request at the next opportunity.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Notes that a row of an answer is about to be computed.
    pub(crate) fn note_started(&mut self, answer: u32, now: Instant) {
        if let Some(answer) = self.answers.get_mut(answer as usize) {
            answer.started.get_or_insert(now);
        }
    }

    /// Whether something of it has been computed.
    pub(crate) fn has_started(&self) -> bool {
        self.answers.iter().any(|answer| answer.started.is_some())
    }

    /// Counts a token of an answer and returns its index.
    pub(crate) fn count_token(&mut self, answer: u32) -> u32 {
        let Some(answer) = self.answers.get_mut(answer as usize) else { return 0 };
        answer.first_token.get_or_insert_with(Instant::now);
        answer.completion_tokens += 1;
        (answer.completion_tokens - 1) as u32
    }

    /// Tells the sink. A sink that breaks off, or panics, cancels the request.
    pub(crate) fn emit(&mut self, event: Event) {
        let sink = &mut self.sink;
        match catch_unwind(AssertUnwindSafe(|| sink(event))) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.cancel(),
            Err(_) => {
                tracing::error!("the sink of a request panicked; the request is cancelled");
                self.sink_panicked = true;
                // It is in no state to be told more.
                self.sink = Box::new(|_| ControlFlow::Break(()));
                self.cancel();
            }
        }
    }

    /// Whether the sink is gone for good.
    pub(crate) fn sink_panicked(&self) -> bool {
        self.sink_panicked
    }

    /// Sends prompt log-probabilities collected so far.
    pub(crate) fn flush_scores(&mut self) {
        if !self.scores.is_empty() {
            let entries = std::mem::take(&mut self.scores);
            let start = self.scored - entries.len();
            self.emit(Event::PromptLogprobs { start, entries });
        }
    }

    /// Tells the sink that an answer has ended. `true` if it was the last one.
    pub(crate) fn finish(&mut self, sequence: &Sequence, reason: FinishReason) -> bool {
        let (now, answer) = (Instant::now(), sequence.answer);
        let drafts = sequence.drafts.as_ref();
        if let Some(state) = self.answers.get_mut(answer as usize) {
            state.sequence = None;
            let started = state.started.unwrap_or(now);
            let first = state.first_token.unwrap_or(now);
            let usage = Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens: sequence.cached_tokens,
                completion_tokens: state.completion_tokens,
                drafted_tokens: drafts.map_or(0, |drafts| drafts.drafted_total),
                accepted_tokens: drafts.map_or(0, |drafts| drafts.accepted_total),
                queue_time: started.saturating_duration_since(self.submitted),
                prefill_time: first.saturating_duration_since(started),
                decode_time: if state.first_token.is_some() {
                    now.saturating_duration_since(first)
                } else {
                    Duration::ZERO
                },
            };
            self.emit(Event::Finished { answer, reason, usage });
        }
        self.answers.iter().all(|answer| answer.sequence.is_none())
    }
}

/// A seed for a request that brings none: from the system's entropy, by way of the standard library's hasher.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// The text of a panic, for the error that it becomes.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Runs a caller's constraint; its panics become errors of its request.
pub(crate) fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(reason)) => Err(EngineError::Constraint { reason }),
        Err(payload) => Err(EngineError::Panicked { message: panic_message(payload.as_ref()) }),
    }
}
