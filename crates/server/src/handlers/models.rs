//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use levain_chat::ProviderError;
use levain_wire::openai::{model_json, models_json};

use crate::reply::{self, Refusal};
use crate::state::Shared;

/// Lists the models.
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    reply::json(models_json(&shared.provider.models()))
}

/// Describes a model. Names may have slashes in them.
pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    let models = shared.provider.models();
    match models.iter().find(|info| info.id == model) {
        Some(info) => Ok(reply::json(model_json(info))),
        None => {
            let model = model.chars().take(256).collect();
            Err(ProviderError::ModelNotFound { model, nearest: Vec::new() }.into())
        }
    }
}
