//! What a caller asks for and what comes back.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::EngineError;
use crate::sampling::{SamplingParams, TokenMask};

/// The most answers one request may ask for.
pub const ANSWERS_MAX: u32 = 16;
/// The most alternatives that may be reported beside a token.
pub const TOP_LOGPROBS_MAX: usize = 128;

/// Receives the events of one request.
///
/// It is called on the engine's thread between two steps, so it must not block: everything waits for it.
/// [`ControlFlow::Break`] cancels the request.
pub type Sink = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// One request: a prompt, what to do with it, and where the results go.
pub struct Request {
    /// Token ids of the prompt, the beginning-of-text token included where the model wants one.
    pub prompt: Vec<u32>,
    /// What to do with the prompt.
    pub kind: RequestKind,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The most tokens to generate for each answer; `None` goes on to the end of the context. 0 scores the prompt only.
    pub max_tokens: Option<u32>,
    /// Tokens that end an answer. They are not reported as tokens.
    pub stop_token_ids: Vec<u32>,
    /// Generate through stop tokens, reporting them like any other; for measurements.
    pub ignore_eos: bool,
    /// Report each token's log-probability and those of this many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// Report the same for each token of the prompt. Switches prefix reuse off for this request.
    pub prompt_logprobs: Option<usize>,
    /// Number of answers, 1 to [`ANSWERS_MAX`]. They share the prompt's blocks.
    pub n: u32,
    /// Restricts what may be generated; one for each answer, or none at all.
    pub constraints: Vec<Box<dyn Constraint>>,
    /// Tokens pushed here are generated next, in place of sampled ones.
    pub injector: Option<Injector>,
    /// Whether its tokens may be drafted ahead, where the engine does that. For measurements: answers do not depend
    /// on it.
    pub speculate: bool,
    /// Whose request this is: tenants share the machine fairly and never each other's cached prefixes.
    pub tenant: u64,
    /// Where events go.
    pub sink: Sink,
}

impl Request {
    /// A request that generates greedily to the end of the context or a stop token; set the other fields as needed.
    pub fn new(prompt: Vec<u32>, sink: impl FnMut(Event) -> ControlFlow<()> + Send + 'static) -> Self {
        Self {
            prompt,
            kind: RequestKind::Generate,
            sampling: SamplingParams::default(),
            max_tokens: None,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
            n: 1,
            constraints: Vec::new(),
            injector: None,
            speculate: true,
            tenant: 0,
            sink: Box::new(sink),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt_tokens", &self.prompt.len())
            .field("kind", &self.kind)
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .field("n", &self.n)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Tokens that follow the prompt.
    Generate,
    /// One vector for the prompt.
    Embed(Pooling),
}

/// How the hidden states of a prompt become one vector. Either way its Euclidean length is then made 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all positions of the state after the final norm.
    Mean,
    /// The state of the last position after the final norm.
    Last,
}

/// Restricts an answer to a language, one token at a time.
///
/// The engine knows no text, so what the language is stays with the caller. All methods run on the engine's thread.
pub trait Constraint: Send {
    /// Allows in `mask`, which arrives with nothing allowed, the tokens that may come next.
    ///
    /// Stop tokens are decided by [`Constraint::may_stop`]; what this sets for them is ignored.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String>;
    /// Takes note of the token that was chosen. Not called for stop tokens.
    fn accept(&mut self, token: u32) -> Result<(), String>;
    /// Whether the answer may end here.
    fn may_stop(&mut self) -> bool;
    /// Whether the answer ends, now that a stop token was chosen where one was allowed. `false` where something has to
    /// come first: the constraint then allows no end, and another token is chosen in its place.
    fn ends(&mut self) -> bool {
        true
    }
}

/// A handle through which tokens are forced into an answer, for instance to close a reasoning part whose budget is spent.
///
/// Pushed from inside the sink, they come right after the token that the sink was told of, so the result does not
/// depend on timing. They count as generated tokens and pass through the constraint like any other.
#[derive(Debug, Clone, Default)]
pub struct Injector {
    queue: Arc<Mutex<Vec<(u32, u32)>>>,
}

impl Injector {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues `tokens` for the answer with the given index.
    pub fn push(&self, answer: u32, tokens: &[u32]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(tokens.iter().map(|&token| (answer, token)));
    }

    /// The next token forced on `answer`, if any.
    pub(crate) fn pop(&self, answer: u32) -> Option<u32> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let index = queue.iter().position(|&(owner, _)| owner == answer)?;
        Some(queue.remove(index).1)
    }
}

/// The log-probability of a token, and of the likeliest tokens at its place.
///
/// Log-probabilities are the log-softmax of the model's own logits, before constraint, bias, penalties and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its log-probability; `None` for the first token of a prompt, which nothing predicts.
    pub logprob: Option<f32>,
    /// The likeliest tokens, best first, ties by lower id.
    pub top: Vec<(u32, f32)>,
}

/// What a request's sink is told.
#[derive(Debug)]
pub enum Event {
    /// Log-probabilities of prompt tokens. They come in order, a part for each chunk of the prompt.
    PromptLogprobs {
        /// Position of the first entry.
        start: usize,
        /// One entry a position.
        entries: Vec<TokenLogprob>,
    },
    /// A generated token.
    Token {
        /// Which of the request's `n` answers it belongs to.
        answer: u32,
        /// Its number in the answer, from 0.
        index: u32,
        /// The token.
        id: u32,
        /// Its log-probability where [`Request::logprobs`] is set.
        logprob: Option<f32>,
        /// The likeliest tokens at its place, best first.
        top: Vec<(u32, f32)>,
    },
    /// The vector of an embedding request, `[hidden_size]`.
    Embedding(Vec<f32>),
    /// The end of one answer. The last event of a request is the last answer's.
    Finished {
        /// Which answer has ended.
        answer: u32,
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
}

/// Why an answer has ended.
#[derive(Debug)]
pub enum FinishReason {
    /// A stop token was generated: this one. `None` when a constraint allowed nothing more but to stop, and when
    /// an embedding is done.
    Stop(Option<u32>),
    /// `max_tokens` or the context is used up.
    Length,
    /// The caller cancelled.
    Cancelled,
    /// Something failed.
    Error(EngineError),
}

/// Token counts and times of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values came from the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, the stop token included.
    pub completion_tokens: usize,
    /// Tokens that speculation drafted for it.
    pub drafted_tokens: usize,
    /// Those of them that were accepted; each saved a step.
    pub accepted_tokens: usize,
    /// Time from submission to the first computed row.
    pub queue_time: Duration,
    /// Time from there to the first token.
    pub prefill_time: Duration,
    /// Time from there to the end.
    pub decode_time: Duration,
}
