//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use levain_chat::CompletionEvent;
use levain_wire::openai::{ApiError, CompletionCall, CompletionChunks, CompletionCollector, CompletionShape};

use crate::metrics::Meter;
use crate::reply::{self, Refusal};
use crate::state::{Call, Shared};
use crate::{body, sse};

/// Continues one text or several.
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (read, memory) = body::read(&shared, &call, request, CompletionCall::from_bytes).await?;
    let CompletionCall { requests, stream, include_usage, tokens_as_ids, parse_special } = read;
    let parse_special = shared.parse_special(parse_special)?;
    let place = shared.admit(&call)?;
    let first = requests.first().ok_or_else(|| ApiError::missing("prompt"))?;
    let model = shared.model_or_default(&first.model)?;
    let shape = CompletionShape {
        prompts: u32::try_from(requests.len()).unwrap_or(u32::MAX),
        n: first.n,
        logprobs: first.logprobs.is_some(),
        tokens_as_ids,
    };
    let head = shared.head("cmpl-", &model);
    let mut meter = shared.meter(&call);
    // All prompts run side by side; if one is refused, the others are dropped unread.
    let mut streams = Vec::with_capacity(requests.len());
    for (prompt, mut request) in (0u32..).zip(requests) {
        request.model.clone_from(&model);
        request.parse_special = parse_special;
        request.tenant.clone_from(&call.principal.tenant);
        let events = shared.provider.complete(request).await;
        let path = if shape.prompts == 1 { "prompt".to_owned() } else { format!("prompt[{prompt}]") };
        let events = meter.watch(events).map_err(|error| error.about(&path))?;
        streams.push(events.map(move |event| event.map(|event| (prompt, event))));
    }
    drop(memory);
    let mut events = futures::stream::select_all(streams);
    if stream {
        let chunks = CompletionChunks::new(head, shape, include_usage);
        return Ok(sse::respond(events, chunks, Arc::clone(&shared), meter, place));
    }
    let mut answer = CompletionCollector::new(shape);
    let mut memory = shared.memory(&call);
    let collected = sse::collect(&mut events, &shared, |(prompt, event)| {
        meter.completion(&event);
        memory.grow(event.size())?;
        answer.push(prompt, event);
        Ok(())
    })
    .await;
    meter.watch(collected)?;
    let body = answer.to_json(&head);
    drop(answer);
    let response = reply::held(body, place, memory);
    let response = meter.watch(response)?;
    meter.end("done");
    Ok(response)
}

impl sse::Encoder for CompletionChunks {
    type Event = (u32, CompletionEvent);

    fn push(&mut self, (prompt, event): Self::Event, meter: &mut Meter, out: &mut Vec<u8>) {
        meter.completion(&event);
        Self::push(self, prompt, &event, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        Self::end(self, out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        Self::fail(self, error, out);
    }
}
