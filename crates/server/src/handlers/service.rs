//! Health, readiness, metrics, the description, and paths that lead nowhere.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use levain_wire::openai::ApiError;

use crate::reply::{self, Refusal};
use crate::state::Shared;

/// Says that the process lives; wakes no model.
pub(crate) async fn health() -> Response {
    reply::json(b"{\"status\":\"ok\"}".to_vec())
}

/// Says whether requests are taken.
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    if shared.is_draining() {
        return Err(crate::state::shutting_down().into());
    }
    shared.model_or_default("")?;
    Ok(reply::json(b"{\"status\":\"ready\"}".to_vec()))
}

/// Counters and histograms.
pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let page = shared.metrics.page(shared.provider.load());
    reply::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
}

/// The description of this interface.
pub(crate) async fn openapi(State(shared): State<Arc<Shared>>) -> Response {
    reply::json(shared.description.clone())
}

/// Every other path.
pub(crate) async fn nothing_here(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(128).collect();
    let message = format!("there is nothing at {method} {path}; /openapi.json lists what there is");
    Refusal(ApiError::with_status(404, "unknown_url", message))
}
