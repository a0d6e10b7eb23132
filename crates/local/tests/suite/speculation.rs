//! Answers with drafts: the same text, whatever restrains or ends it, and a draft model that fits.

use std::path::Path;

use levain_chat::{ChatRequest, ResponseFormat};
use levain_engine::{EngineConfig, Speculation};
use levain_local::{LocalError, LocalModel, LocalOptions, LocalProvider};
use levain_testkit::model::{ModelSpec, TinyModel};
use serde_json::{Value, json};

use crate::common::{THINKER, ask, collect, options, published, weather};

fn spec() -> ModelSpec {
    ModelSpec { max_position_embeddings: 1024, ..ModelSpec::llama() }
}

fn drafting(template: &str, speculation: Speculation, draft: Option<&Path>) -> LocalOptions {
    let engine = EngineConfig { threads: 1, speculation, draft_tokens: Some(4), ..EngineConfig::default() };
    LocalOptions { engine, draft: draft.map(Path::to_owned), ..options(Some(template)) }
}

/// Everything that a token may end or change: stop texts, schemas, tools, a budget for thinking, several answers.
fn requests() -> Vec<ChatRequest> {
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}});
    let mut requests = Vec::new();
    for text in ["Hello", "Tell me about the theory of that and the other"] {
        let plain = ChatRequest { max_tokens: Some(90), ..ask(text) };
        requests.push(ChatRequest {
            response_format: ResponseFormat::JsonSchema { schema: schema.clone(), strict: None },
            ..plain.clone()
        });
        requests.push(ChatRequest { reasoning_budget: Some(11), n: 2, ..plain.clone() });
        requests.push(ChatRequest { stop: ["e", "th", "\u{fffd}"].map(str::to_owned).to_vec(), ..plain });
    }
    requests
}

#[tokio::test]
async fn answers_do_not_depend_on_drafts() {
    let (model, other) = (spec().build().unwrap(), ModelSpec { seed: 77, ..spec() }.build().unwrap());
    let provider = |options| LocalProvider::new("tiny", LocalModel::open(model.path(), options).unwrap());
    // One template opens a thought, the other writes tools.
    let with_tools = published("Qwen-Qwen2.5-7B-Instruct");
    let asked_with_tools =
        ChatRequest { tools: vec![weather()], max_tokens: Some(90), ..ask("Is it raining?") };
    let cases = [(THINKER, requests()), (with_tools.as_str(), vec![asked_with_tools])];
    let mut drafted = 0;
    for (speculation, draft) in [
        (Speculation::PromptLookup, None),
        (Speculation::DraftModel, Some(model.path())),
        (Speculation::DraftModel, Some(other.path())),
    ] {
        for (template, requests) in &cases {
            let plain = provider(options(Some(template)));
            let speculative = provider(drafting(template, speculation, draft));
            for request in requests {
                let (expected, plain_usage) = collect(&plain, request.clone()).await.unwrap();
                let (got, usage) = collect(&speculative, request.clone()).await.unwrap();
                let texts = |answers: &[crate::common::Answer]| {
                    answers
                        .iter()
                        .map(|a| (a.reasoning.clone(), a.text.clone(), a.finish))
                        .collect::<Vec<_>>()
                };
                assert_eq!(texts(&got), texts(&expected), "{speculation:?}");
                assert_eq!(usage.completion_tokens, plain_usage.completion_tokens, "{speculation:?}");
                assert_eq!((plain_usage.drafted_tokens, plain_usage.accepted_tokens), (0, 0));
                assert!(usage.accepted_tokens <= usage.drafted_tokens);
                drafted += usage.drafted_tokens;
            }
        }
    }
    assert!(drafted > 100, "{drafted}");
}

fn open(model: &TinyModel, draft: &TinyModel) -> Result<LocalModel, LocalError> {
    LocalModel::open(model.path(), drafting(THINKER, Speculation::DraftModel, Some(draft.path())))
}

#[test]
fn a_draft_model_has_to_have_the_same_tokens() {
    let model = spec().build().unwrap();
    let draft = ModelSpec { hidden_size: 32, seed: 5, ..spec() }.build().unwrap();
    open(&model, &draft).unwrap();
    // Rows without text do no harm.
    open(&model, &ModelSpec { vocab_size: ModelSpec::VOCAB_MIN + 64, ..spec() }.build().unwrap()).unwrap();

    let path = draft.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["x"].clone(), vocab["y"].clone());
    (vocab["x"], vocab["y"]) = (b, a);
    std::fs::write(&path, json.to_string()).unwrap();
    let error = open(&model, &draft).unwrap_err();
    let LocalError::DraftToken { model: ours, draft: theirs, .. } = &error else { panic!("{error}") };
    assert_eq!((ours.as_str(), theirs.as_str()), ("x", "y"));
    assert!(error.to_string().contains("same family"), "{error}");
}
