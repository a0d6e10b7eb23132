//! A chat request: checked, rendered, constrained, handed to the engine, and read again.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use levain_chat::{
    ChatEvent, ChatRequest, ChatStream, FinishReason, ProviderError, ReasoningEffort, RenderedPrompt, Tool,
    ToolChoice,
};
use levain_engine::{Constraint, Event, Request, SamplingParams, TokenMask};
use levain_tokenizer::Tokenizer;

use crate::{
    answer::{Answer, AnswerShape},
    constraint::{AnswerConstraint, Body, Thinking},
    error::from_engine,
    guide::{Source, invalid},
    limits,
    model::LocalModel,
    stream::{Bill, Sender, channel, finish_reason},
    table::Gate,
    template::{self, Prompt, is_formatted, offered_tools},
    tools::{From, ToolSyntax, call_grammar, trigger},
};

/// Thinking tokens that a low and a medium effort stand for, unless a budget is given.
const LOW_EFFORT_TOKENS: u32 = 1024;
const MEDIUM_EFFORT_TOKENS: u32 = 8192;

/// Renders a conversation without answering it.
pub(crate) fn render(
    model: &LocalModel,
    request: &ChatRequest,
    cancelled: &dyn Fn() -> bool,
) -> Result<RenderedPrompt, ProviderError> {
    let prompt = prompt(model, request, cancelled)?;
    Ok(RenderedPrompt { text: prompt.text, tokens: prompt.tokens })
}

/// Everything about a request that takes no waiting.
pub(crate) struct Prepared {
    prompt: Prompt,
    sampling: SamplingParams,
    grammar: Plan,
}

/// What the answer is held to, before its grammar is compiled.
enum Plan {
    Free,
    Guided(Source),
    Triggered { syntax: ToolSyntax, source: Source, once: bool },
}

/// Checks and renders a request. Takes time: not for an async thread.
pub(crate) fn prepare(
    model: &LocalModel,
    request: &ChatRequest,
    cancelled: &dyn Fn() -> bool,
) -> Result<Prepared, ProviderError> {
    limits::check_n(request.n)?;
    limits::check_stops(&request.stop)?;
    limits::check_logprobs(request.logprobs)?;
    let sampling = model.sampling.resolve(&request.sampling)?;
    check_budget(model, request)?;
    let prompt = prompt(model, request, cancelled)?;
    let grammar = plan(request, prompt.syntax)?;
    Ok(Prepared { prompt, sampling, grammar })
}

fn prompt(
    model: &LocalModel,
    request: &ChatRequest,
    cancelled: &dyn Fn() -> bool,
) -> Result<Prompt, ProviderError> {
    template::prompt(model.template.as_ref(), &model.tokenizer, request, template::today(), cancelled)
}

/// The grammar that a request's tools and response format add up to.
fn plan(request: &ChatRequest, syntax: Option<ToolSyntax>) -> Result<Plan, ProviderError> {
    let content = Source::of_format(&request.response_format)?;
    let Some(syntax) = syntax else { return Ok(content.map_or(Plan::Free, Plan::Guided)) };
    let offered = offered_tools(request)?;
    let several = request.parallel_tool_calls != Some(false);
    let rules = |tools: &[&Tool], exact: &dyn Fn(&Tool) -> bool, from| {
        call_grammar(syntax, tools, exact, several, from).map(|grammar| (grammar.rules, grammar.schemas))
    };
    let all: Vec<&Tool> = offered.iter().collect();
    match &request.tool_choice {
        ToolChoice::Required | ToolChoice::Named(_) => {
            let wanted: Vec<&Tool> = match &request.tool_choice {
                ToolChoice::Named(name) => all.into_iter().filter(|tool| tool.name == *name).collect(),
                _ => all,
            };
            let (rules, schemas) = rules(&wanted, &|_| true, From::Mark)?;
            Ok(Plan::Guided(Source::of_rules("tools", format!("start: calls\n{rules}"), schemas, None)))
        }
        ToolChoice::Auto | ToolChoice::None if is_formatted(&request.response_format) => {
            let (rules, schemas) = rules(&all, &|tool| tool.strict.is_some(), From::Mark)?;
            let rules = format!("start: calls | content\n{rules}content: @content\n");
            Ok(Plan::Guided(Source::of_rules("tools", rules, schemas, content)))
        }
        ToolChoice::Auto | ToolChoice::None => {
            // A bare object may be meant as an answer, so that it is held to a call only where that was asked for.
            if syntax == ToolSyntax::Llama3 && several && !offered.iter().any(|tool| tool.strict.is_some()) {
                return Ok(Plan::Free);
            }
            let (rules, schemas) = rules(&all, &|tool| tool.strict.is_some(), From::Trigger)?;
            let mut source = Source::of_rules("tools", format!("start: calls\n{rules}"), schemas, None);
            source.opening = trigger(syntax);
            Ok(Plan::Triggered { syntax, source, once: !several })
        }
    }
}

/// Compiles what is to be compiled and hands the request to the engine.
pub(crate) async fn start(
    model: Arc<LocalModel>,
    request: ChatRequest,
    prepared: Prepared,
) -> Result<ChatStream, ProviderError> {
    let Prepared { prompt, sampling, grammar } = prepared;
    let tenant = limits::tenant(request.tenant.as_deref());
    let body = match grammar {
        Plan::Free => Body::Free,
        Plan::Guided(source) => Body::Guided(model.guide.compile(source, request.tenant.as_deref()).await?),
        Plan::Triggered { syntax, source, once } => Body::Triggered {
            gate: Gate::new(trigger(syntax), syntax == ToolSyntax::Llama3),
            grammar: model.guide.compile(source, request.tenant.as_deref()).await?,
            once,
        },
    };
    let n = request.n.max(1);
    let tags = model.template.as_ref().and_then(|template| template.tags.clone());
    let thinking = tags.clone().map(|tags| Thinking {
        tags,
        prompt: prompt.state,
        budget: budget(&request),
        closing: Arc::clone(&model.closing),
    });
    let names = || request.tools.iter().map(|tool| tool.name.clone()).collect();
    let shape = AnswerShape {
        tags,
        prompt: prompt.state,
        said: prompt.said.clone(),
        tools: prompt.syntax.map(|syntax| (syntax, names())),
        stops: request.stop.clone(),
        logprobs: request.logprobs.is_some(),
        marks: marks(&model, prompt.syntax),
    };
    let (sender, pending) = channel(&model.unread);
    let mut sink = Sink::new(n, &model.tokenizer, &shape, sender);
    if let Body::Guided(grammar) | Body::Triggered { grammar, .. } = &body {
        sink.unenforced = grammar.unenforced.to_vec();
    }
    let constraints = constraints(&model, thinking.as_ref(), &body, &prompt.said, &sink)?;
    let mut engine_request = Request::new(prompt.tokens, move |event| sink.event(event));
    engine_request.sampling = sampling;
    engine_request.max_tokens = request.max_tokens;
    engine_request.stop_token_ids.clone_from(&model.stop_ids);
    engine_request.logprobs = request.logprobs.map(|top| top as usize);
    engine_request.n = n;
    engine_request.constraints = constraints;
    engine_request.tenant = tenant;
    let handle = model.engine.submit(engine_request).map_err(|error| from_engine(&error))?;
    Ok(Box::pin(pending.submitted(handle)))
}

/// Control tokens that are read as text: the think tags always, the tool syntax only where tools are on offer.
fn marks(model: &LocalModel, syntax: Option<ToolSyntax>) -> Arc<[u32]> {
    let is_tool_mark = |id: u32| {
        let text = model.tokenizer.token_text(id).unwrap_or_default();
        ToolSyntax::ALL.iter().any(|syntax| syntax.marks().contains(&text))
    };
    model.marks.iter().copied().filter(|&id| syntax.is_some() || !is_tool_mark(id)).collect()
}

/// Thinking tokens that a request allows.
fn budget(request: &ChatRequest) -> Option<u32> {
    request.reasoning_budget.or(match request.reasoning_effort {
        Some(ReasoningEffort::Low) => Some(LOW_EFFORT_TOKENS),
        Some(ReasoningEffort::Medium) => Some(MEDIUM_EFFORT_TOKENS),
        Some(ReasoningEffort::High | ReasoningEffort::None) | None => None,
    })
}

fn constraints(
    model: &LocalModel,
    thinking: Option<&Thinking>,
    body: &Body,
    said: &str,
    sink: &Sink,
) -> Result<Vec<Box<dyn Constraint>>, ProviderError> {
    let mut constraints = Vec::new();
    for at in 0..sink.answers.len() {
        let mut inner = AnswerConstraint::new(&model.table, thinking.cloned(), body.clone());
        if let Some(inner) = inner.as_mut().filter(|_| !said.is_empty()) {
            inner.resume(said).map_err(|reason| {
                let message = format!(
                    "the last one can't be continued as the request asks: {reason}; change it, or begin a new turn with \
                     add_generation_prompt"
                );
                invalid("messages", message)
            })?;
        }
        constraints.extend(Stoppable::wrap(sink.flags.get(at), inner));
    }
    Ok(constraints)
}

/// Ends one answer of several when its sink has met a stop text: the engine cancels whole requests only.
pub(crate) struct Stoppable {
    stopped: Arc<AtomicBool>,
    inner: Option<AnswerConstraint>,
}

impl Stoppable {
    /// A constraint that `stopped` can end, if there is such a flag; `None` if nothing is constrained.
    pub(crate) fn wrap(
        stopped: Option<&Arc<AtomicBool>>,
        inner: Option<AnswerConstraint>,
    ) -> Option<Box<dyn Constraint>> {
        match (stopped, inner) {
            (Some(stopped), inner) => Some(Box::new(Self { stopped: Arc::clone(stopped), inner })),
            (None, Some(inner)) => Some(Box::new(inner)),
            (None, None) => None,
        }
    }
}

impl Constraint for Stoppable {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        match &mut self.inner {
            _ if self.stopped.load(Ordering::Relaxed) => Ok(()),
            Some(inner) => inner.allowed(mask),
            None => {
                mask.allow_all();
                Ok(())
            }
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.inner.as_mut().map_or(Ok(()), |inner| inner.accept(token))
    }

    fn may_stop(&mut self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.inner.as_mut().is_none_or(Constraint::may_stop)
    }

    fn ends(&mut self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.inner.as_mut().is_none_or(Constraint::ends)
    }
}

/// What the engine tells its events to.
struct Sink {
    answers: Vec<Answer>,
    /// One for each answer that a stop text may end alone; empty where a stop ends the whole request.
    flags: Vec<Arc<AtomicBool>>,
    sender: Sender<ChatEvent>,
    bill: Bill,
    failure: Option<ProviderError>,
    /// What the schema asked for and the answers are not held to, until that is told.
    unenforced: Vec<String>,
    events: Vec<ChatEvent>,
}

impl Sink {
    fn new(n: u32, tokenizer: &Arc<Tokenizer>, shape: &AnswerShape, sender: Sender<ChatEvent>) -> Self {
        let flags = if n > 1 && !shape.stops.is_empty() { n } else { 0 };
        Self {
            answers: (0..n).map(|index| Answer::new(index, tokenizer, shape)).collect(),
            flags: (0..flags).map(|_| Arc::default()).collect(),
            sender,
            bill: Bill::default(),
            failure: None,
            unenforced: Vec::new(),
            events: Vec::new(),
        }
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        match event {
            Event::Token { answer, id, logprob, top, .. } => {
                if let Some(state) = self.answers.get_mut(answer as usize) {
                    state.push(id, logprob, &top, &mut self.events);
                    if state.stopped() {
                        if let Some(flag) = self.flags.get(answer as usize) {
                            flag.store(true, Ordering::Relaxed);
                        }
                        if self.answers.iter().all(Answer::stopped) {
                            flow = ControlFlow::Break(());
                        }
                    }
                }
            }
            Event::Finished { answer, reason, usage } => {
                let n = u32::try_from(self.answers.len()).unwrap_or(u32::MAX);
                if let Some(state) = self.answers.get_mut(answer as usize) {
                    let reason = finish_reason(&reason, state.stopped()).unwrap_or_else(|error| {
                        // An answer of several may fail alone; a request of one fails with it.
                        if n == 1 {
                            self.failure = Some(error);
                        } else {
                            tracing::warn!(%error, "an answer broke off");
                        }
                        FinishReason::Error
                    });
                    if !self.unenforced.is_empty() {
                        self.events.push(ChatEvent::Unenforced(std::mem::take(&mut self.unenforced)));
                    }
                    state.finish(reason, &mut self.events);
                    self.bill.add_reasoning(state.reasoning_tokens(), state.reasoning_time());
                }
                if self.failure.is_some() {
                    // The error stands in place of the end.
                    self.events.pop();
                } else if self.bill.add(&usage, n) {
                    self.events.push(ChatEvent::Usage(self.bill.usage));
                }
            }
            Event::PromptLogprobs { .. } | Event::Embedding(_) => {}
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
}

/// Refuses a budget where nothing could keep it.
fn check_budget(model: &LocalModel, request: &ChatRequest) -> Result<(), ProviderError> {
    let tags = model.template.as_ref().and_then(|template| template.tags.as_ref());
    let Some(tags) = tags.filter(|_| budget(request).is_some()) else { return Ok(()) };
    let text: Vec<u8> = model.closing.iter().flat_map(|&id| model.table.bytes(id)).copied().collect();
    if String::from_utf8_lossy(&text).contains(&tags.close) {
        return Ok(());
    }
    Err(invalid(
        "reasoning_budget",
        "this model's vocabulary can't spell the tag that closes thinking".to_owned(),
    ))
}
