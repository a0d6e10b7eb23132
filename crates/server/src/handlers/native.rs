//! `POST /tokenize`, `/detokenize` and `/apply-template`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use levain_wire::openai::{
    ApiError, ChatCall, DetokenizeCall, TokenizeCall, detokenize_json, render_json, tokenize_json,
};

use crate::body;
use crate::reply::{self, Refusal};
use crate::state::{Call, Shared};

/// Text to tokens.
pub(crate) async fn tokenize(
    State(shared): State<Arc<Shared>>,
    Extension(by): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (call, memory) = body::read(&shared, &by, request, TokenizeCall::from_bytes).await?;
    let place = shared.admit(&by)?;
    let model = shared.model_or_default(call.model.as_deref().unwrap_or_default())?;
    let parse_special = shared.parse_special(call.parse_special)?;
    let (content, tenant) = (&call.content, by.principal.tenant.as_deref());
    let tokens = shared.provider.tokenize(&model, content, call.add_special, parse_special, tenant).await?;
    Ok(reply::held(tokenize_json(&model, &tokens), place, memory)?)
}

/// Tokens to text.
pub(crate) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    Extension(by): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (call, memory) = body::read(&shared, &by, request, DetokenizeCall::from_bytes).await?;
    let place = shared.admit(&by)?;
    let model = shared.model_or_default(call.model.as_deref().unwrap_or_default())?;
    let content = shared.provider.detokenize(&model, &call.tokens, by.principal.tenant.as_deref()).await;
    let content = content.map_err(|error| ApiError::from(error).about("tokens"))?;
    Ok(reply::held(detokenize_json(&model, &content), place, memory)?)
}

/// What the model would see for a chat request; what only concerns generating is checked and has no effect.
pub(crate) async fn apply_template(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let (ChatCall { mut request, .. }, memory) =
        body::read(&shared, &call, request, ChatCall::from_bytes).await?;
    let place = shared.admit(&call)?;
    request.tenant = call.principal.tenant;
    let model = shared.model_or_default(&request.model)?;
    request.model.clone_from(&model);
    let rendered =
        shared.provider.render(request).await.map_err(|error| ApiError::from(error).about("messages"))?;
    Ok(reply::held(render_json(&model, &rendered), place, memory)?)
}
