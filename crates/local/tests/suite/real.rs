//! The smallest real model, where there is one: a file named by `LEVAIN_TEST_MODEL`.

use futures::future::join_all;
use levain_chat::{FinishReason, ResponseFormat, Sampling};
use levain_local::{LocalModel, LocalProvider};
use serde_json::{Value, json};

use crate::common::{ask, hot, one, options};

fn real() -> Option<LocalProvider> {
    let Some(path) = std::env::var_os("LEVAIN_TEST_MODEL") else {
        eprintln!("skipped: LEVAIN_TEST_MODEL names no model (SmolLM2-135M-Instruct as GGUF)");
        return None;
    };
    Some(LocalProvider::new("tiny", LocalModel::open(path.as_ref(), options(None)).unwrap()))
}

#[tokio::test]
async fn it_knows_the_capital_of_france() {
    let Some(provider) = real() else { return };
    let mut request = ask("What is the capital of France? Answer in one sentence.");
    request.sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
    let (answer, usage) = one(&provider, request).await;
    eprintln!("{} ({usage:?})", answer.text);
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    assert_eq!(answer.finish, Some(FinishReason::Stop));
}

#[tokio::test]
async fn its_json_follows_the_schema_even_when_hot() {
    let Some(provider) = real() else { return };
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 40},
            "population": {"type": "integer", "minimum": 0},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
        },
        "required": ["city", "population", "tags"],
        "additionalProperties": false,
    });
    let answers = (0..50).map(|seed| {
        let mut request = ask("Describe Paris as JSON with city, population and tags.");
        request.sampling = hot(seed);
        request.max_tokens = Some(120);
        request.response_format = ResponseFormat::JsonSchema { schema: schema.clone(), strict: None };
        one(&provider, request)
    });
    let mut complete = 0;
    for (answer, _) in join_all(answers).await {
        if answer.finish == Some(FinishReason::Stop) {
            let value: Value = serde_json::from_str(&answer.text).unwrap();
            assert!(value["city"].is_string() && value["population"].is_number() && value["tags"].is_array());
            complete += 1;
        }
    }
    assert!(complete >= 40, "{complete} of 50 came to an end");
}
