//! Loaded models as a [`Provider`].

use std::{ops::ControlFlow, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use levain_chat::{
    BoxFuture, ChatRequest, ChatStream, CompletionRequest, CompletionStream, Embedding, EmbeddingInput,
    EmbeddingRequest, ModelInfo, Provider, ProviderError, ProviderLoad, RenderedPrompt,
};
use levain_engine::{Event, FinishReason, Pooling, Request, RequestKind};
use levain_tokenizer::SpecialTokens;
use tokio::sync::oneshot;

use crate::{
    chat, complete,
    error::{from_engine, from_tokenizer},
    guide::invalid,
    limits,
    model::LocalModel,
    preparing::Preparing,
};

/// Inputs of one request for embeddings.
const EMBEDDING_INPUTS_MAX: usize = 2048;
/// Inputs of one request that wait in the engine together.
const EMBEDDINGS_AT_ONCE: usize = 16;

/// Models in memory under their names. The first one added is the default: the one of requests that name none.
#[derive(Debug, Default)]
pub struct LocalProvider {
    models: Vec<Named>,
    preparing: Preparing,
}

#[derive(Debug)]
struct Named {
    id: String,
    aliases: Vec<String>,
    model: Arc<LocalModel>,
}

impl LocalProvider {
    /// A provider of one model.
    #[must_use]
    pub fn new(id: impl Into<String>, model: LocalModel) -> Self {
        let mut this = Self::default();
        this.add(id, model, Vec::new());
        this
    }

    /// Adds a model under a name and further names. Of equal names the first one added counts.
    pub fn add(&mut self, id: impl Into<String>, model: LocalModel, aliases: Vec<String>) {
        self.models.push(Named { id: id.into(), aliases, model: Arc::new(model) });
    }

    /// The model of this name; the default for an empty one.
    ///
    /// # Errors
    /// [`ProviderError::ModelNotFound`] with the nearest names.
    pub fn model(&self, name: &str) -> Result<&Arc<LocalModel>, ProviderError> {
        let found = if name.is_empty() {
            self.models.first()
        } else {
            self.models
                .iter()
                .find(|named| named.id == name || named.aliases.iter().any(|alias| alias == name))
        };
        found.map(|named| &named.model).ok_or_else(|| {
            let names = self.models.iter().flat_map(|named| {
                std::iter::once(named.id.as_str()).chain(named.aliases.iter().map(String::as_str))
            });
            ProviderError::ModelNotFound { model: name.to_owned(), nearest: levain_hub::nearest(name, names) }
        })
    }
}

impl Provider for LocalProvider {
    fn models(&self) -> Vec<ModelInfo> {
        let info = |named: &Named| ModelInfo {
            id: named.id.clone(),
            created: named.model.created,
            owned_by: "levain".to_owned(),
            context_length: Some(named.model.context_length() as u64),
        };
        self.models.iter().map(info).collect()
    }

    fn chat(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(&request.model)?);
            let (request, prepared) = {
                let model = Arc::clone(&model);
                let tenant = request.tenant.clone();
                let prepare = move |left: &dyn Fn() -> bool| {
                    chat::prepare(&model, &request, left).map(|prepared| (request, prepared))
                };
                self.preparing.of_caller(tenant.as_deref(), prepare).await?
            };
            chat::start(model, request, prepared).await
        })
    }

    fn complete(&self, request: CompletionRequest) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(&request.model)?);
            let (request, prepared) = {
                let model = Arc::clone(&model);
                let tenant = request.tenant.clone();
                let prepare = move |_: &dyn Fn() -> bool| {
                    complete::prepare(&model, &request).map(|prepared| (request, prepared))
                };
                self.preparing.of_caller(tenant.as_deref(), prepare).await?
            };
            complete::start(model, request, prepared).await
        })
    }

    fn embed(&self, request: EmbeddingRequest) -> BoxFuture<'_, Result<Vec<Embedding>, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(&request.model)?);
            let found = request.inputs.len();
            if found > EMBEDDING_INPUTS_MAX {
                return Err(invalid(
                    "input",
                    format!("{found} inputs are given and {EMBEDDING_INPUTS_MAX} may be"),
                ));
            }
            let pooling = match request.pooling {
                Some(levain_chat::Pooling::Last) => Pooling::Last,
                Some(levain_chat::Pooling::Mean) | None => Pooling::Mean,
            };
            let tenant = limits::tenant(request.tenant.as_deref());
            let prompts = {
                let model = Arc::clone(&model);
                let caller = request.tenant.clone();
                let prepare = move |_: &dyn Fn() -> bool| {
                    request.inputs.iter().map(|input| input_tokens(&model, input)).collect()
                };
                self.preparing.of_caller(caller.as_deref(), prepare).await?
            };
            let prompts: Vec<Vec<u32>> = prompts;
            stream::iter(prompts.into_iter().map(|prompt| embed_one(&model, prompt, pooling, tenant)))
                .buffered(EMBEDDINGS_AT_ONCE)
                .try_collect()
                .await
        })
    }

    fn tokenize<'a>(
        &'a self,
        model: &'a str,
        text: &'a str,
        add_special: bool,
        parse_special: bool,
        tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<u32>, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(model)?);
            let text = text.to_owned();
            self.preparing
                .of_caller(tenant, move |_| {
                    let special = if parse_special { SpecialTokens::Parse } else { SpecialTokens::AsText };
                    let tokens = if add_special {
                        model.tokenizer.encode_with_special_tokens(&text, special)
                    } else {
                        model.tokenizer.encode(&text, special)
                    };
                    tokens.map_err(|error| from_tokenizer("content", &error))
                })
                .await
        })
    }

    fn detokenize<'a>(
        &'a self,
        model: &'a str,
        tokens: &'a [u32],
        tenant: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(model)?);
            let tokens = tokens.to_vec();
            self.preparing
                .of_caller(tenant, move |_| {
                    model.tokenizer.decode(&tokens).map_err(|error| from_tokenizer("tokens", &error))
                })
                .await
        })
    }

    fn render(&self, request: ChatRequest) -> BoxFuture<'_, Result<RenderedPrompt, ProviderError>> {
        Box::pin(async move {
            let model = Arc::clone(self.model(&request.model)?);
            let tenant = request.tenant.clone();
            self.preparing
                .of_caller(tenant.as_deref(), move |left| chat::render(&model, &request, left))
                .await
        })
    }

    fn load(&self) -> ProviderLoad {
        let mut load = ProviderLoad::default();
        for named in &self.models {
            let stats = named.model.engine.stats();
            load.running += stats.running as u64;
            load.waiting += stats.waiting as u64;
            load.kv_blocks_used += stats.total_blocks.saturating_sub(stats.free_blocks) as u64;
            load.kv_blocks_total += stats.total_blocks as u64;
            load.unpacked_bytes += stats.unpacked_bytes;
            load.panics += stats.panics;
            if let Some(stats) = stats.experts {
                let experts = load.experts.get_or_insert_default();
                experts.hits += stats.hits;
                experts.misses += stats.misses;
                experts.bytes_read += stats.bytes_read;
                experts.resident_bytes += stats.resident_bytes;
            }
        }
        load
    }
}

/// What is embedded is content: the names of control tokens in it are text.
fn input_tokens(model: &LocalModel, input: &EmbeddingInput) -> Result<Vec<u32>, ProviderError> {
    match input {
        EmbeddingInput::Text(text) => model
            .tokenizer
            .encode_with_special_tokens(text, SpecialTokens::AsText)
            .map_err(|error| from_tokenizer("input", &error)),
        EmbeddingInput::Tokens(tokens) => Ok(tokens.clone()),
    }
}

async fn embed_one(
    model: &LocalModel,
    prompt: Vec<u32>,
    pooling: Pooling,
    tenant: u64,
) -> Result<Embedding, ProviderError> {
    let tokens = prompt.len() as u64;
    if prompt.is_empty() {
        return Err(invalid("input", "an input is empty; give it at least one token".to_owned()));
    }
    let (send, receive) = oneshot::channel();
    let (mut send, mut vector) = (Some(send), None);
    let mut request = Request::new(prompt, move |event| {
        match event {
            Event::Embedding(values) => vector = Some(values),
            Event::Finished { reason, .. } => {
                let result = match (reason, vector.take()) {
                    (FinishReason::Error(error), _) => Err(from_engine(&error)),
                    (_, Some(vector)) => Ok(Embedding { vector, tokens }),
                    (_, None) => Err(ProviderError::ShuttingDown),
                };
                if let Some(send) = send.take() {
                    // Nobody waits any more: nobody to tell.
                    let _ = send.send(result);
                }
            }
            Event::PromptLogprobs { .. } | Event::Token { .. } => {}
        }
        ControlFlow::Continue(())
    });
    request.kind = RequestKind::Embed(pooling);
    request.tenant = tenant;
    let _handle = model.engine.submit(request).map_err(|error| from_engine(&error))?;
    receive.await.map_err(|_| ProviderError::ShuttingDown)?
}
