//! Embeddings and lists of models.

use levain_chat::{Embedding, ModelInfo};
use serde::Serialize;

use super::frame;
use super::prompt::EncodingFormat;

/// The answer of `POST /v1/embeddings`.
#[must_use]
pub fn embeddings_json(model: &str, embeddings: &[Embedding], format: EncodingFormat) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        object: &'static str,
        data: Vec<Entry<'a>>,
        model: &'a str,
        usage: Usage,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        object: &'static str,
        index: usize,
        embedding: Vector<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Vector<'a> {
        Numbers(&'a [f32]),
        Text(String),
    }
    #[derive(Serialize)]
    struct Usage {
        prompt_tokens: u64,
        total_tokens: u64,
    }
    let tokens = embeddings.iter().fold(0u64, |sum, embedding| sum.saturating_add(embedding.tokens));
    let entry = |index, vector| {
        let embedding = match format {
            EncodingFormat::Float => Vector::Numbers(vector),
            EncodingFormat::Base64 => Vector::Text(base64_of(vector)),
        };
        Entry { object: "embedding", index, embedding }
    };
    frame::json(&Body {
        object: "list",
        data: embeddings.iter().enumerate().map(|(index, one)| entry(index, one.vector.as_slice())).collect(),
        model,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    })
}

fn base64_of(vector: &[f32]) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
}

impl<'a> From<&'a ModelInfo> for Model<'a> {
    fn from(info: &'a ModelInfo) -> Self {
        Self {
            id: &info.id,
            object: "model",
            created: info.created,
            owned_by: &info.owned_by,
            context_length: info.context_length,
        }
    }
}

/// The answer of `GET /v1/models`.
#[must_use]
pub fn models_json(models: &[ModelInfo]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    frame::json(&Body { object: "list", data: models.iter().map(Model::from).collect() })
}

/// The answer of `GET /v1/models/{id}`.
#[must_use]
pub fn model_json(model: &ModelInfo) -> Vec<u8> {
    frame::json(&Model::from(model))
}
