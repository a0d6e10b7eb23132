//! What the bodies of raw completions, embeddings and the small calls become.

use levain_chat::{CompletionPrompt, Pooling};
use levain_wire::openai::{
    ApiError, CompletionCall, DetokenizeCall, EmbeddingCall, EncodingFormat, TokenizeCall,
};
use serde_json::{Value, json};

fn completion(mut body: Value) -> Result<CompletionCall, ApiError> {
    body["model"] = json!("m");
    CompletionCall::from_bytes(body.to_string().as_bytes())
}

fn embedding(mut body: Value) -> Result<EmbeddingCall, ApiError> {
    body["model"] = json!("m");
    EmbeddingCall::from_bytes(body.to_string().as_bytes())
}

fn text(text: &str) -> CompletionPrompt {
    CompletionPrompt::Text(text.into())
}

fn tokens(tokens: &[u32]) -> CompletionPrompt {
    CompletionPrompt::Tokens(tokens.to_vec())
}

#[test]
fn prompts_in_all_four_forms() {
    for (prompt, expected) in [
        (json!("a"), vec![text("a")]),
        (json!(""), vec![text("")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2, 4_294_967_295u32]), vec![tokens(&[1, 2, u32::MAX])]),
        (json!([[1, 2], [3]]), vec![tokens(&[1, 2]), tokens(&[3])]),
        (json!([[1], "b"]), vec![tokens(&[1]), text("b")]),
    ] {
        let call = completion(json!({ "prompt": prompt })).unwrap();
        let prompts: Vec<_> = call.requests.into_iter().map(|request| request.prompt).collect();
        assert_eq!(prompts, expected);
    }
    for (prompt, param) in [
        (json!([]), "prompt"),
        (json!([[]]), "prompt[0]"),
        (json!({}), "prompt"),
        (json!([1, "a"]), "prompt[1]"),
        (json!([1, -2]), "prompt[1]"),
        (json!([1, 1.5]), "prompt[1]"),
        (json!(["a", 1]), "prompt[1]"),
        (json!([4_294_967_296u64]), "prompt[0]"),
        (json!(vec!["a"; 129]), "prompt"),
    ] {
        let error = completion(json!({ "prompt": prompt })).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{prompt}");
    }
}

#[test]
fn every_field_of_a_completion_arrives() {
    let call = completion(json!({
        "prompt": [5], "max_tokens": 0, "echo": true, "logprobs": 3, "return_tokens_as_token_ids": true,
        "ignore_eos": true, "n": 2, "best_of": 2, "stop": "x", "seed": 7, "temperature": 0,
        "response_format": { "type": "regex", "regex": "a" }, "stream": true, "user": "u", "suffix": "",
    }))
    .unwrap();
    assert!(call.stream && !call.include_usage && call.tokens_as_ids);
    let request = &call.requests[0];
    assert_eq!((request.max_tokens, request.n, request.logprobs), (Some(0), 2, Some(3)));
    assert!(request.echo && request.ignore_eos);
    assert_eq!((request.sampling.seed, request.sampling.temperature), (Some(7), Some(0.0)));
    assert_eq!(request.stop, ["x"]);
    assert_eq!(completion(json!({ "prompt": "x" })).unwrap().requests[0].max_tokens, Some(16));
    assert_eq!(completion(json!({ "prompt": "x", "max_tokens": -1 })).unwrap().requests[0].max_tokens, None);
}

#[test]
fn raw_prompts_may_hold_control_tokens_unless_somebody_says_otherwise() {
    let read = |more: Value| {
        let mut body = json!({ "prompt": ["<s>", "x"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let call = completion(body).unwrap();
        assert!(
            call.requests.iter().all(|request| request.parse_special == call.parse_special.unwrap_or(true))
        );
        (call.parse_special, call.requests[1].add_special_tokens)
    };
    assert_eq!(read(json!({})), (None, true));
    assert_eq!(read(json!({ "parse_special": null, "add_special_tokens": null })), (None, true));
    assert_eq!(read(json!({ "parse_special": true })), (Some(true), true));
    assert_eq!(read(json!({ "parse_special": false, "add_special_tokens": false })), (Some(false), false));
}

#[test]
fn bounds_of_a_completion() {
    for (body, param) in [
        (json!({ "prompt": "x", "max_tokens": 0 }), "max_tokens"),
        (json!({ "prompt": "x", "n": 2, "best_of": 3 }), "best_of"),
        (json!({ "prompt": "x", "suffix": "y" }), "suffix"),
        (json!({ "prompt": "x", "logprobs": true }), "logprobs"),
        (json!({ "prompt": "x", "logprobs": 21 }), "logprobs"),
        (json!({ "prompt": vec!["x"; 100], "n": 16 }), "n"),
        (json!({}), "prompt"),
    ] {
        assert_eq!(completion(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
    }
}

#[test]
fn embeddings() {
    let call = embedding(json!({ "input": ["a", [1, 2]], "encoding_format": "base64", "pooling": "last" }));
    let call = call.unwrap();
    assert_eq!(call.request.inputs, [text("a"), tokens(&[1, 2])]);
    assert_eq!((call.format, call.request.pooling), (EncodingFormat::Base64, Some(Pooling::Last)));
    let call = embedding(json!({ "input": "a", "encoding_format": null, "dimensions": null })).unwrap();
    assert_eq!((call.format, call.request.pooling), (EncodingFormat::Float, None));
    for (body, param) in [
        (json!({ "input": "" }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": "a", "encoding_format": "hex" }), "encoding_format"),
        (json!({ "input": "a", "pooling": "max" }), "pooling"),
        (json!({ "input": "a", "dimensions": 8 }), "dimensions"),
        (json!({ "input": vec!["a"; 2049] }), "input"),
    ] {
        assert_eq!(embedding(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
    }
}

#[test]
fn the_small_calls() {
    let read = |body: Value| TokenizeCall::from_bytes(body.to_string().as_bytes());
    let call = read(json!({ "model": "m", "prompt": "x", "add_special_tokens": true })).unwrap();
    assert_eq!((call.model.as_deref(), call.content.as_str()), (Some("m"), "x"));
    assert!(call.add_special && call.parse_special.is_none());
    assert_eq!(read(json!({ "content": "x", "parse_special": false })).unwrap().parse_special, Some(false));
    assert_eq!(read(json!({ "content": "x", "prompt": "x" })).unwrap_err().param.as_deref(), Some("prompt"));
    assert_eq!(read(json!({})).unwrap_err().param.as_deref(), Some("content"));
    let read = |body: Value| DetokenizeCall::from_bytes(body.to_string().as_bytes());
    assert_eq!(read(json!({ "tokens": [] })).unwrap().tokens, [0u32; 0]);
    assert_eq!(read(json!({ "tokens": [-1] })).unwrap_err().param.as_deref(), Some("tokens[0]"));
    assert_eq!(read(json!({ "tokens": "x" })).unwrap_err().param.as_deref(), Some("tokens"));
}
