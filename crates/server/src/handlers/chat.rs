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
    let bytes = body::read(&shared, request).await?;
    let ChatCall { mut request, stream, include_usage } = ChatCall::from_bytes(&bytes.bytes)?;
    drop(bytes);
    let permit = shared.admit()?;
    request.model = shared.model_or_default(&request.model)?;
    request.tenant.clone_from(&call.principal.tenant);
    let (n, logprobs) = (request.n, request.logprobs.is_some());
    let head = shared.head("chatcmpl-", &request.model);
    let mut meter = shared.meter(&call);
    let events = shared.provider.chat(request).await;
    let mut events = meter.watch(events).map_err(|error| error.about("messages"))?;
    if stream {
        let chunks = ChatChunks::new(head, n, logprobs, include_usage);
        return Ok(sse::respond(events, chunks, Arc::clone(&shared), meter, permit));
    }
    let mut answer = ChatCollector::new(n, logprobs);
    let collected = sse::collect(&mut events, &shared, |event| {
        meter.chat(&event);
        answer.push(event);
    })
    .await;
    meter.watch(collected)?;
    meter.end("done");
    Ok(reply::json(answer.to_json(&head)))
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
