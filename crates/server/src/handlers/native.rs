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
    request: Request,
) -> Result<Response, Refusal> {
    let bytes = body::read(&shared, request).await?;
    let call = TokenizeCall::from_bytes(&bytes.bytes)?;
    let _permit = shared.admit()?;
    let model = shared.model_or_default(call.model.as_deref().unwrap_or_default())?;
    let parse_special = shared.parse_special(call.parse_special)?;
    let tokens = shared.provider.tokenize(&model, &call.content, call.add_special, parse_special).await?;
    Ok(reply::json(tokenize_json(&model, &tokens)))
}

/// Tokens to text.
pub(crate) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refusal> {
    let bytes = body::read(&shared, request).await?;
    let call = DetokenizeCall::from_bytes(&bytes.bytes)?;
    let _permit = shared.admit()?;
    let model = shared.model_or_default(call.model.as_deref().unwrap_or_default())?;
    let content = shared.provider.detokenize(&model, &call.tokens).await;
    let content = content.map_err(|error| ApiError::from(error).about("tokens"))?;
    Ok(reply::json(detokenize_json(&model, &content)))
}

/// What the model would see for a chat request; what only concerns generating is checked and has no effect.
pub(crate) async fn apply_template(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Refusal> {
    let bytes = body::read(&shared, request).await?;
    let ChatCall { mut request, .. } = ChatCall::from_bytes(&bytes.bytes)?;
    let _permit = shared.admit()?;
    request.tenant = call.principal.tenant;
    let model = shared.model_or_default(&request.model)?;
    request.model.clone_from(&model);
    let rendered =
        shared.provider.render(request).await.map_err(|error| ApiError::from(error).about("messages"))?;
    Ok(reply::json(render_json(&model, &rendered)))
}
