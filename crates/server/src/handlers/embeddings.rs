//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use levain_wire::openai::{EmbeddingCall, embeddings_json};

use crate::body;
use crate::reply::{self, Refusal};
use crate::sse;
use crate::state::{Call, Shared};

/// Turns texts into vectors.
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (read, memory) = body::read(&shared, &call, request, EmbeddingCall::from_bytes).await?;
    let EmbeddingCall { mut request, format } = read;
    let place = shared.admit(&call)?;
    request.tenant.clone_from(&call.principal.tenant);
    let model = shared.model_or_default(&request.model)?;
    request.model.clone_from(&model);
    let mut meter = shared.meter(&call);
    let mut embeddings = Vec::new();
    let answer = Box::pin(futures::stream::once(shared.provider.embed(request)));
    let collected = sse::collect(answer, &shared, |all| {
        embeddings = all;
        Ok(())
    })
    .await;
    meter.watch(collected).map_err(|error| error.about("input"))?;
    meter.prompt(embeddings.iter().map(|embedding| embedding.tokens).sum());
    meter.end("done");
    let body = embeddings_json(&model, &embeddings, format);
    drop(embeddings);
    Ok(reply::held(body, place, memory)?)
}
