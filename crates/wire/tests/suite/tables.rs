//! The tables of fields tell the truth: what they call honoured is read, what they call refused is refused.

use levain_wire::openai::table::{self, Field, Kind, Takes};
use levain_wire::openai::{ApiError, ChatCall, CompletionCall, DetokenizeCall, EmbeddingCall, TokenizeCall};
use serde_json::{Value, json};

type Parse = fn(&[u8]) -> Result<(), ApiError>;

fn calls() -> Vec<(&'static [Field], Value, Parse)> {
    vec![
        (table::CHAT, json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }] }), |body| {
            ChatCall::from_bytes(body).map(drop)
        }),
        (table::COMPLETION, json!({ "model": "m", "prompt": "x" }), |body| {
            CompletionCall::from_bytes(body).map(drop)
        }),
        (table::EMBEDDING, json!({ "model": "m", "input": "x" }), |body| {
            EmbeddingCall::from_bytes(body).map(drop)
        }),
        (table::TOKENIZE, json!({ "content": "x" }), |body| TokenizeCall::from_bytes(body).map(drop)),
        (table::DETOKENIZE, json!({ "tokens": [1] }), |body| DetokenizeCall::from_bytes(body).map(drop)),
    ]
}

fn with(base: &Value, name: &str, value: Value) -> Vec<u8> {
    let mut body = base.clone();
    body.as_object_mut().unwrap().insert(name.to_owned(), value);
    body.to_string().into_bytes()
}

#[test]
fn the_plainest_bodies_are_accepted() {
    for (_, base, parse) in calls() {
        parse(base.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn every_honoured_field_is_read_and_checked() {
    for (fields, base, parse) in calls() {
        for field in fields {
            if !matches!(field.takes, Takes::Honoured(_)) {
                continue;
            }
            // A value of a type that no field takes at this place.
            let wrong = match field.kind {
                Kind::Any => json!({ "wrong": true }),
                Kind::Object => json!(5),
                _ => json!({}),
            };
            let error = parse(&with(&base, field.name, wrong)).expect_err(field.name);
            assert_eq!(error.status, 400);
            let param = error.param.expect(field.name);
            assert!(param.starts_with(field.name), "{}: {param}: {}", field.name, error.message);
            assert_ne!(error.code, "unknown_parameter", "{} is not read", field.name);
        }
    }
}

#[test]
fn fields_without_effect_pass_and_others_are_refused_by_name() {
    for (fields, base, parse) in calls() {
        for field in fields {
            match field.takes {
                Takes::Honoured(_) => {}
                Takes::Noted(_) => parse(&with(&base, field.name, json!("x"))).unwrap(),
                Takes::Only(values, _) => {
                    for value in values {
                        let value = serde_json::from_str(value).unwrap();
                        parse(&with(&base, field.name, value)).unwrap();
                    }
                    refused(parse, &base, field, json!("something else"));
                }
                Takes::Refused(_) => refused(parse, &base, field, json!({})),
            }
        }
    }
}

fn refused(parse: Parse, base: &Value, field: &Field, value: Value) {
    let error = parse(&with(base, field.name, value)).expect_err(field.name);
    assert_eq!((error.status, error.code), (400, "unsupported_parameter"));
    assert_eq!(error.param.as_deref(), Some(field.name));
    parse(&with(base, field.name, Value::Null)).unwrap();
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name() {
    for (_, base, parse) in calls() {
        let error = parse(&with(&base, "modle", json!("x"))).unwrap_err();
        assert_eq!((error.status, error.code), (400, "unknown_parameter"));
        assert_eq!(error.param.as_deref(), Some("modle"));
        assert!(error.message.contains("did you mean \"model\"?"), "{}", error.message);
        let error = parse(&with(&base, "zzzzzzzzzz", json!(1))).unwrap_err();
        assert!(!error.message.contains("did you mean"), "{}", error.message);
        parse(&with(&base, "zzzzzzzzzz", Value::Null)).unwrap();
    }
}

#[test]
fn schemas_list_what_is_accepted() {
    let schema = table::schema(table::EMBEDDING, &["model", "input"]);
    let properties = schema["properties"].as_object().unwrap();
    assert!(properties.contains_key("input") && properties.contains_key("user"));
    assert!(!properties.contains_key("dimensions"), "refused fields are not offered");
    assert_eq!(schema["required"], json!(["model", "input"]));
}
