//! A provider without a model: it answers by rule or by script, counts its open streams, and its tokens are bytes.

mod answer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use levain_chat::{
    BoxFuture, ChatEvent, ChatRequest, ChatStream, CompletionEvent, CompletionPrompt, CompletionRequest,
    CompletionStream, Embedding, EmbeddingInput, EmbeddingRequest, ExpertLoad, ModelInfo, Provider,
    ProviderError, ProviderLoad, RenderedPrompt,
};

/// Token ids below this are bytes; this one begins a sequence.
pub const BOS: u32 = 256;

/// Numbers of each vector.
pub const EMBEDDING_LEN: usize = 16;

/// Positions that a prompt may use.
pub const CONTEXT_LENGTH: u64 = 8192;

/// What a scripted stream does next.
#[derive(Debug, Clone)]
pub enum Step<E = ChatEvent> {
    /// Gives an event.
    Event(E),
    /// Works silently for a while.
    Wait(Duration),
    /// Works until it is dropped.
    Hang,
    /// Fails.
    Fail(ProviderError),
    /// Panics, as a bug would.
    Panic,
}

type Script = Box<dyn Fn(&ChatRequest) -> Result<Vec<Step>, ProviderError> + Send + Sync>;

/// Counts what became of streams.
#[derive(Debug, Default)]
pub struct Gauge {
    open: AtomicU64,
    opened: AtomicU64,
    completed: AtomicU64,
    events: AtomicU64,
}

impl Gauge {
    /// Streams that hold a slot now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Streams that were ever opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Streams that were read to their end.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::SeqCst)
    }

    /// Events given out.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::SeqCst)
    }
}

/// Holds a slot until it is dropped.
struct Slot(Arc<Gauge>);

impl Slot {
    fn new(gauge: &Arc<Gauge>) -> Self {
        gauge.open.fetch_add(1, Ordering::SeqCst);
        gauge.opened.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The provider. Unless scripted, a chat answer follows from the request: it calls the first tool when tools are
/// on offer and no result is there yet, fills in a schema when one is given, reasons when told how hard to, counts
/// when the last message begins with "Count", and otherwise says what it was told.
pub struct FakeProvider {
    models: Vec<ModelInfo>,
    script: Option<Script>,
    pace: Duration,
    slots_max: u64,
    gauge: Arc<Gauge>,
}

impl FakeProvider {
    /// Offers one model of this name.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let info = ModelInfo {
            id: model.to_owned(),
            created: 1_737_331_200,
            owned_by: "levain".to_owned(),
            context_length: Some(CONTEXT_LENGTH),
        };
        Self {
            models: vec![info],
            script: None,
            pace: Duration::ZERO,
            slots_max: u64::MAX,
            gauge: Arc::default(),
        }
    }

    /// Waits this long before each event.
    #[must_use]
    pub fn with_pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Refuses more open streams than this.
    #[must_use]
    pub fn with_slots(mut self, slots_max: u64) -> Self {
        self.slots_max = slots_max;
        self
    }

    /// Answers by `script`; an error refuses the request.
    #[must_use]
    pub fn with_script(
        mut self,
        script: impl Fn(&ChatRequest) -> Result<Vec<Step>, ProviderError> + Send + Sync + 'static,
    ) -> Self {
        self.script = Some(Box::new(script));
        self
    }

    /// What became of the streams.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    fn check_model(&self, model: &str) -> Result<(), ProviderError> {
        if self.models.iter().any(|info| info.id == model) {
            return Ok(());
        }
        let nearest = self.models.iter().map(|info| info.id.clone()).collect();
        Err(ProviderError::ModelNotFound { model: model.to_owned(), nearest })
    }

    fn open<E: Send + 'static>(
        &self,
        steps: Vec<Step<E>>,
    ) -> Result<impl futures::Stream<Item = Result<E, ProviderError>> + Send + use<E>, ProviderError> {
        if self.gauge.open() >= self.slots_max {
            return Err(ProviderError::Overloaded);
        }
        let state = (VecDeque::from(steps), Slot::new(&self.gauge), self.pace);
        Ok(stream::unfold(state, |(mut steps, slot, pace)| async move {
            loop {
                match steps.pop_front() {
                    None => {
                        slot.0.completed.fetch_add(1, Ordering::SeqCst);
                        return None;
                    }
                    Some(Step::Event(event)) => {
                        if !pace.is_zero() {
                            tokio::time::sleep(pace).await;
                        }
                        slot.0.events.fetch_add(1, Ordering::SeqCst);
                        return Some((Ok(event), (steps, slot, pace)));
                    }
                    Some(Step::Wait(time)) => tokio::time::sleep(time).await,
                    Some(Step::Hang) => futures::future::pending::<()>().await,
                    Some(Step::Fail(error)) => return Some((Err(error), (VecDeque::new(), slot, pace))),
                    Some(Step::Panic) => bug(),
                }
            }
        }))
    }
}

#[expect(clippy::panic, reason = "the point of this step is to see what a panic does")]
fn bug() {
    panic!("a scripted panic")
}

impl Provider for FakeProvider {
    fn models(&self) -> Vec<ModelInfo> {
        self.models.clone()
    }

    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ProviderError>> {
        Box::pin(async move {
            self.check_model(&request.model)?;
            let steps = match &self.script {
                Some(script) => script(&request)?,
                None => answer::chat(&request).into_iter().map(Step::Event).collect(),
            };
            Ok(self.open(steps)?.boxed())
        })
    }

    fn complete(&self, request: CompletionRequest) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        Box::pin(async move {
            self.check_model(&request.model)?;
            let prompt = match &request.prompt {
                CompletionPrompt::Text(text) => encode(text, false, request.parse_special),
                CompletionPrompt::Tokens(tokens) => check_tokens(tokens).map(|()| tokens.clone())?,
            };
            let prompt_tokens = prompt.len() as u64;
            if prompt_tokens > CONTEXT_LENGTH {
                return Err(ProviderError::ContextLength { prompt_tokens, context_length: CONTEXT_LENGTH });
            }
            let events: Vec<CompletionEvent> = answer::completion(&request, &prompt);
            Ok(self.open(events.into_iter().map(Step::Event).collect())?.boxed())
        })
    }

    fn embed(&self, request: EmbeddingRequest) -> BoxFuture<'_, Result<Vec<Embedding>, ProviderError>> {
        Box::pin(async move {
            self.check_model(&request.model)?;
            request.inputs.iter().map(embedding).collect()
        })
    }

    fn tokenize<'a>(
        &'a self,
        model: &'a str,
        text: &'a str,
        add_special: bool,
        parse_special: bool,
        _tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<u32>, ProviderError>> {
        Box::pin(async move {
            self.check_model(model)?;
            Ok(encode(text, add_special, parse_special))
        })
    }

    fn detokenize<'a>(
        &'a self,
        model: &'a str,
        tokens: &'a [u32],
        _tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, ProviderError>> {
        Box::pin(async move {
            self.check_model(model)?;
            check_tokens(tokens)?;
            let bytes: Vec<u8> = tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    fn render(&self, request: ChatRequest) -> BoxFuture<'_, Result<RenderedPrompt, ProviderError>> {
        Box::pin(async move {
            self.check_model(&request.model)?;
            let text = answer::render(&request);
            let tokens = text.bytes().map(u32::from).collect();
            Ok(RenderedPrompt { text, tokens })
        })
    }

    fn load(&self) -> ProviderLoad {
        let open = self.gauge.open();
        let experts = ExpertLoad { hits: 30, misses: 10, bytes_read: 5_000_000, resident_bytes: 2_000_000 };
        ProviderLoad {
            running: open,
            waiting: 0,
            kv_blocks_used: open,
            kv_blocks_total: 1024,
            unpacked_bytes: 7_000_000,
            panics: 0,
            experts: Some(experts),
        }
    }
}

fn tokens_of(prompt: &CompletionPrompt) -> Result<Vec<u32>, ProviderError> {
    match prompt {
        CompletionPrompt::Text(text) => Ok(text.bytes().map(u32::from).collect()),
        CompletionPrompt::Tokens(tokens) => check_tokens(tokens).map(|()| tokens.clone()),
    }
}

/// Bytes, and a first token where one is named or added.
fn encode(text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
    let (begins, text) = match text.strip_prefix("<s>") {
        Some(rest) if parse_special => (true, rest),
        _ => (false, text),
    };
    let first = std::iter::repeat_n(BOS, usize::from(add_special) + usize::from(begins));
    first.chain(text.bytes().map(u32::from)).collect()
}

fn check_tokens(tokens: &[u32]) -> Result<(), ProviderError> {
    match tokens.iter().find(|token| **token > BOS) {
        None => Ok(()),
        Some(token) => Err(ProviderError::Invalid {
            param: "prompt".into(),
            message: format!("the vocabulary has {} tokens, and {token} is not one of them", BOS + 1),
        }),
    }
}

/// Counts bytes into buckets and normalises: equal texts have equal vectors.
fn embedding(input: &EmbeddingInput) -> Result<Embedding, ProviderError> {
    let tokens = tokens_of(input)?;
    let mut vector = vec![0.0f32; EMBEDDING_LEN];
    for token in &tokens {
        if let Some(bucket) = vector.get_mut(*token as usize % EMBEDDING_LEN) {
            *bucket += 1.0;
        }
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= norm);
    Ok(Embedding { vector, tokens: tokens.len() as u64 })
}
