//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use levain_chat::ChatEvent;
use levain_wire::openai::{ApiError, ChatCall, ChatChunks, ChatCollector};

use crate::metrics::Meter;
use crate::reply::{self, Refusal};
use crate::state::{Call, Shared};
use crate::{body, sse};

/// Answers a conversation.
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (read, memory) = body::read(&shared, &call, request, ChatCall::from_bytes).await?;
    let ChatCall { mut request, stream, include_usage } = read;
    let place = shared.admit(&call)?;
    request.model = shared.model_or_default(&request.model)?;
    request.tenant.clone_from(&call.principal.tenant);
    let (n, logprobs) = (request.n, request.logprobs.is_some());
    let head = shared.head("chatcmpl-", &request.model);
    let mut meter = shared.meter(&call);
    let events = shared.provider.chat(request).await;
    drop(memory);
    let mut events = meter.watch(events).map_err(|error| error.about("messages"))?;
    if stream {
        let chunks = ChatChunks::new(head, n, logprobs, include_usage);
        return Ok(sse::respond(events, chunks, Arc::clone(&shared), meter, place));
    }
    let mut answer = ChatCollector::new(n, logprobs);
    let mut memory = shared.memory(&call);
    let collected = sse::collect(&mut events, &shared, |event| {
        meter.chat(&event);
        memory.grow(event.size())?;
        answer.push(event);
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

impl sse::Encoder for ChatChunks {
    type Event = ChatEvent;

    fn push(&mut self, event: ChatEvent, meter: &mut Meter, out: &mut Vec<u8>) {
        meter.chat(&event);
        Self::push(self, &event, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        Self::end(self, out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        Self::fail(self, error, out);
    }
}
