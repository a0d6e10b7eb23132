//! Raw completions: text or tokens in, text with its tokens out.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use levain_chat::{
    CompletionEvent, CompletionPrompt, CompletionRequest, CompletionStream, FinishReason, ProviderError,
    TokenLogprob,
};
use levain_engine::{Constraint, Event, Request, SamplingParams};
use levain_tokenizer::{DetokenizerState, SpecialTokens, Tokenizer};

use crate::{
    answer::token_logprob,
    chat::Stoppable,
    constraint::{AnswerConstraint, Body},
    error::{from_engine, from_tokenizer},
    guide::{Source, invalid},
    limits,
    model::LocalModel,
    stop::StopMatcher,
    stream::{Bill, Sender, channel, finish_reason},
};

/// Everything about a request that takes no waiting.
pub(crate) struct Prepared {
    tokens: Vec<u32>,
    /// How many of them come before the prompt's own.
    added: usize,
    sampling: SamplingParams,
    grammar: Option<Source>,
}

/// Checks and tokenizes a request. Takes time: not for an async thread.
pub(crate) fn prepare(model: &LocalModel, request: &CompletionRequest) -> Result<Prepared, ProviderError> {
    limits::check_n(request.n)?;
    limits::check_stops(&request.stop)?;
    limits::check_logprobs(request.logprobs)?;
    let (tokens, added) = prompt_tokens(model, request)?;
    Ok(Prepared {
        tokens,
        added,
        sampling: model.sampling.resolve(&request.sampling)?,
        grammar: Source::of_format(&request.response_format)?,
    })
}

/// The tokens of a prompt, and how many were put before its own: a text is read as the request says, ids are taken as
/// they are.
fn prompt_tokens(
    model: &LocalModel,
    request: &CompletionRequest,
) -> Result<(Vec<u32>, usize), ProviderError> {
    let text = match &request.prompt {
        CompletionPrompt::Text(text) => text,
        CompletionPrompt::Tokens(tokens) => return Ok((tokens.clone(), 0)),
    };
    let tokenizer = &model.tokenizer;
    let special = if request.parse_special { SpecialTokens::Parse } else { SpecialTokens::AsText };
    let mut tokens = if request.add_special_tokens {
        tokenizer.encode_with_special_tokens(text, special)
    } else {
        tokenizer.encode(text, special)
    }
    .map_err(|error| from_tokenizer("prompt", &error))?;
    if !request.add_special_tokens || !tokenizer.adds_bos() {
        return Ok((tokens, 0));
    }
    // A prompt in the model's own format often begins with the first token itself; twice it only confuses the model.
    if let Some(bos) = tokenizer.bos_id()
        && tokens.starts_with(&[bos, bos])
    {
        tokens.remove(0);
        return Ok((tokens, 0));
    }
    Ok((tokens, 1))
}

/// Compiles what is to be compiled and hands the request to the engine.
pub(crate) async fn start(
    model: Arc<LocalModel>,
    request: CompletionRequest,
    prepared: Prepared,
) -> Result<CompletionStream, ProviderError> {
    let tenant = limits::tenant(request.tenant.as_deref());
    let body = match prepared.grammar {
        Some(source) => Body::Guided(model.guide.compile(source, request.tenant.as_deref()).await?),
        None => Body::Free,
    };
    if let Body::Guided(grammar) = &body
        && let Some(first) = grammar.unenforced.first()
    {
        // Raw completions have no place to tell what is not enforced.
        return Err(invalid("response_format", format!("{first}; `strict: false` is for chat completions")));
    }
    let n = request.n.max(1);
    let (sender, pending) = channel(&model.unread);
    let flags = if n > 1 && !request.stop.is_empty() { n } else { 0 };
    let flags: Vec<Arc<AtomicBool>> = (0..flags).map(|_| Arc::default()).collect();
    let mut constraints: Vec<Box<dyn Constraint>> = Vec::new();
    for at in 0..n as usize {
        let inner = AnswerConstraint::new(&model.table, None, body.clone());
        constraints.extend(Stoppable::wrap(flags.get(at), inner));
    }
    let score_prompt = request.echo.then_some(request.logprobs).flatten();
    let mut sink = Sink {
        continuations: (0..n)
            .map(|index| Continuation::new(index, &model.tokenizer, &request.stop))
            .collect(),
        tokenizer: Arc::clone(&model.tokenizer),
        flags,
        sender,
        bill: Bill::default(),
        failure: None,
        echo: request.echo.then(|| Echo {
            text: match &request.prompt {
                CompletionPrompt::Text(text) => Some(text.clone()),
                CompletionPrompt::Tokens(_) => None,
            },
            tokens: prepared.tokens.clone(),
            added: prepared.added,
            scored: score_prompt.map(|_| Vec::with_capacity(prepared.tokens.len())),
        }),
        events: Vec::new(),
    };
    let mut engine_request = Request::new(prepared.tokens, move |event| sink.event(event));
    engine_request.sampling = prepared.sampling;
    engine_request.max_tokens = request.max_tokens;
    engine_request.stop_token_ids.clone_from(&model.stop_ids);
    engine_request.ignore_eos = request.ignore_eos;
    engine_request.logprobs = request.logprobs.map(|top| top as usize);
    engine_request.prompt_logprobs = score_prompt.map(|top| top as usize);
    engine_request.n = n;
    engine_request.constraints = constraints;
    engine_request.tenant = tenant;
    let handle = model.engine.submit(engine_request).map_err(|error| from_engine(&error))?;
    Ok(Box::pin(pending.submitted(handle)))
}

/// One continuation.
struct Continuation {
    index: u32,
    detokenizer: DetokenizerState,
    stop: StopMatcher,
    offset: u64,
    stopped: bool,
}

impl Continuation {
    fn new(index: u32, tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Self {
            index,
            detokenizer: DetokenizerState::continuing(tokenizer),
            stop: StopMatcher::new(stops),
            offset: 0,
            stopped: false,
        }
    }

    fn text(&mut self, text: &str, tokens: Vec<TokenLogprob>) -> CompletionEvent {
        let certain = self.stop.push(self.offset, text);
        self.offset += text.len() as u64;
        self.stopped |= certain.stopped;
        CompletionEvent::Text { index: self.index, text: certain.text, tokens }
    }
}

/// The prompt, to be given back in front.
struct Echo {
    /// As the caller wrote it, if as text.
    text: Option<String>,
    tokens: Vec<u32>,
    /// How many of them come before the text.
    added: usize,
    /// The tokens' log-probabilities as they come, if they were asked for.
    scored: Option<Vec<levain_engine::TokenLogprob>>,
}

impl Echo {
    fn into_event(self, tokenizer: &Tokenizer) -> (String, Vec<TokenLogprob>) {
        // Control tokens that stand in the caller's text are spelt there; others have no text.
        let spelt_from = if self.text.is_some() { self.added } else { usize::MAX };
        let text = self.text.unwrap_or_else(|| {
            let mut detokenizer = DetokenizerState::new(tokenizer);
            let mut text: String = self.tokens.iter().map(|&id| detokenizer.push(tokenizer, id)).collect();
            text.push_str(&detokenizer.flush());
            text
        });
        let mut tokens: Vec<TokenLogprob> = match self.scored {
            Some(scored) => scored
                .into_iter()
                .map(|entry| token_logprob(tokenizer, entry.id, entry.logprob, &entry.top))
                .collect(),
            None => self.tokens.iter().map(|&id| token_logprob(tokenizer, id, None, &[])).collect(),
        };
        for token in tokens.iter_mut().skip(spelt_from) {
            if let Some(bytes) = tokenizer.token_bytes_with_control(token.id) {
                token.bytes = bytes.to_vec();
            }
        }
        (text, tokens)
    }
}

/// What the engine tells its events to.
struct Sink {
    continuations: Vec<Continuation>,
    tokenizer: Arc<Tokenizer>,
    flags: Vec<Arc<AtomicBool>>,
    sender: Sender<CompletionEvent>,
    bill: Bill,
    failure: Option<ProviderError>,
    echo: Option<Echo>,
    events: Vec<CompletionEvent>,
}

impl Sink {
    fn event(&mut self, event: Event) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        match event {
            Event::PromptLogprobs { entries, .. } => {
                if let Some(scored) = self.echo.as_mut().and_then(|echo| echo.scored.as_mut()) {
                    scored.extend(entries);
                }
            }
            Event::Token { answer, id, logprob, top, .. } => {
                self.echo();
                let Some(state) = self.continuations.get_mut(answer as usize) else { return flow };
                if state.stopped {
                    return flow;
                }
                let token = token_logprob(&self.tokenizer, id, logprob, &top);
                let text = state.detokenizer.push(&self.tokenizer, id);
                let event = state.text(&text, vec![token]);
                self.events.push(event);
                if state.stopped {
                    if let Some(flag) = self.flags.get(answer as usize) {
                        flag.store(true, Ordering::Relaxed);
                    }
                    if self.continuations.iter().all(|state| state.stopped) {
                        flow = ControlFlow::Break(());
                    }
                }
            }
            Event::Finished { answer, reason, usage } => {
                self.echo();
                self.finished(answer, &reason, &usage);
            }
            Event::Embedding(_) => {}
        }
        for event in self.events.drain(..) {
            if !self.sender.send(event) {
                flow = ControlFlow::Break(());
            }
        }
        if let Some(error) = self.failure.take() {
            self.sender.fail(error);
        }
        flow
    }

    /// Gives the prompt back, once, before anything else.
    fn echo(&mut self) {
        let Some(echo) = self.echo.take() else { return };
        let (text, tokens) = echo.into_event(&self.tokenizer);
        for state in &self.continuations {
            let (text, tokens) = (text.clone(), tokens.clone());
            self.events.push(CompletionEvent::Text { index: state.index, text, tokens });
        }
    }

    fn finished(&mut self, answer: u32, reason: &levain_engine::FinishReason, usage: &levain_engine::Usage) {
        let n = u32::try_from(self.continuations.len()).unwrap_or(u32::MAX);
        let Some(state) = self.continuations.get_mut(answer as usize) else { return };
        if !state.stopped {
            let rest = state.detokenizer.flush();
            let CompletionEvent::Text { mut text, .. } = state.text(&rest, Vec::new()) else { return };
            if !state.stopped {
                text.push_str(&state.stop.flush().text);
            }
            if !text.is_empty() {
                self.events.push(CompletionEvent::Text { index: state.index, text, tokens: Vec::new() });
            }
        }
        match finish_reason(reason, state.stopped) {
            Ok(reason) => self.events.push(CompletionEvent::Finish { index: state.index, reason }),
            // A continuation of several may fail alone; a request of one fails with it.
            Err(error) if n == 1 => self.failure = Some(error),
            Err(error) => {
                tracing::warn!(%error, "a continuation broke off");
                self.events.push(CompletionEvent::Finish { index: state.index, reason: FinishReason::Error });
            }
        }
        if self.bill.add(usage, n) && self.failure.is_none() {
            self.events.push(CompletionEvent::Usage(self.bill.usage));
        }
    }
}
