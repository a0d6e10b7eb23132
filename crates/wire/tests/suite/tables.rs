//! The tables of fields tell the truth: what they call honoured is read, what they call refused is refused.

use levain_wire::openai::table::{self, Field, Kind, Takes};
use levain_wire::openai::{ApiError, ChatCall, CompletionCall, DetokenizeCall, EmbeddingCall, TokenizeCall};
use serde_json::{Value, json};

type Parse = fn(&[u8]) -> Result<(), ApiError>;

/// Fields of one object, in a body where that object is whole.
struct Place {
    fields: &'static [Field],
    body: Value,
    /// Where the object lies, for example `/messages/0`.
    pointer: &'static str,
    /// The same as the errors write it, for example `messages[0].`.
    path: &'static str,
    parse: Parse,
}

impl Place {
    fn with(&self, name: &str, value: Value) -> Result<(), ApiError> {
        let mut body = self.body.clone();
        let object = body.pointer_mut(self.pointer).unwrap().as_object_mut().unwrap();
        object.insert(name.to_owned(), value);
        (self.parse)(body.to_string().as_bytes())
    }
}

fn chat(fields: &'static [Field], pointer: &'static str, path: &'static str, more: Value) -> Place {
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Place { fields, body, pointer, path, parse: |body| ChatCall::from_bytes(body).map(drop) }
}

fn message(fields: &'static [Field], message: Value) -> Place {
    chat(fields, "/messages/0", "messages[0].", json!({ "messages": [message] }))
}

fn part(fields: &'static [Field], role: &str, part: Value) -> Place {
    let messages = json!({ "messages": [{ "role": role, "content": [part] }] });
    chat(fields, "/messages/0/content/0", "messages[0].content[0].", messages)
}

fn places() -> Vec<Place> {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let calls = json!({ "messages": [{ "role": "assistant", "tool_calls": [call] }] });
    let tool = json!({ "tools": [{ "type": "function", "function": { "name": "f" } }] });
    let completion: Parse = |body| CompletionCall::from_bytes(body).map(drop);
    let whole = |fields, body, parse| Place { fields, body, pointer: "", path: "", parse };
    let url = "data:image/png;base64,AAAA";
    vec![
        chat(table::CHAT, "", "", json!({ "tools": tool["tools"], "stream": true, "logprobs": true })),
        chat(table::PEERS, "", "", json!({})),
        message(table::SPEECH, json!({ "role": "user", "content": "x" })),
        message(table::SPEECH, json!({ "role": "developer", "content": "x" })),
        message(table::ASSISTANT, json!({ "role": "assistant", "content": "x" })),
        message(table::TOOL_RESULT, json!({ "role": "tool", "tool_call_id": "c", "content": "x" })),
        part(table::TEXT_PART, "user", json!({ "type": "text", "text": "x" })),
        part(table::TEXT_PART, "assistant", json!({ "type": "output_text", "text": "x" })),
        part(table::IMAGE_PART, "user", json!({ "type": "image_url", "image_url": { "url": url } })),
        part(table::REFUSAL_PART, "assistant", json!({ "type": "refusal", "refusal": "x" })),
        part(table::THINKING_PART, "assistant", json!({ "type": "thinking", "thinking": "x" })),
        chat(
            table::IMAGE_URL,
            "/messages/0/content/0/image_url",
            "messages[0].content[0].image_url.",
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": url } }] }] }),
        ),
        chat(table::TOOL_CALL, "/messages/0/tool_calls/0", "messages[0].tool_calls[0].", calls.clone()),
        chat(
            table::CALLED,
            "/messages/0/tool_calls/0/function",
            "messages[0].tool_calls[0].function.",
            calls,
        ),
        chat(table::TOOL, "/tools/0", "tools[0].", tool.clone()),
        chat(table::FUNCTION, "/tools/0/function", "tools[0].function.", tool.clone()),
        chat(
            table::TOOL_CHOICE,
            "/tool_choice",
            "tool_choice.",
            json!({ "tools": tool["tools"], "tool_choice": { "type": "function", "function": { "name": "f" } } }),
        ),
        chat(
            table::STREAM_OPTIONS,
            "/stream_options",
            "stream_options.",
            json!({ "stream": true, "stream_options": {} }),
        ),
        chat(table::THINKING, "/thinking", "thinking.", json!({ "thinking": { "type": "enabled" } })),
        chat(table::REASONING, "/reasoning", "reasoning.", json!({ "reasoning": {} })),
        whole(table::COMPLETION, json!({ "prompt": "x", "stream": true }), completion),
        whole(table::PEERS, json!({ "prompt": "x" }), completion),
        whole(table::EMBEDDING, json!({ "input": "x" }), |body| EmbeddingCall::from_bytes(body).map(drop)),
        whole(table::TOKENIZE, json!({ "content": "x" }), |body| TokenizeCall::from_bytes(body).map(drop)),
        whole(table::DETOKENIZE, json!({ "tokens": [1] }), |body| DetokenizeCall::from_bytes(body).map(drop)),
    ]
}

#[test]
fn the_plainest_bodies_are_accepted() {
    for place in places() {
        (place.parse)(place.body.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn every_honoured_field_is_read_and_checked() {
    for place in places() {
        for field in place.fields {
            if !matches!(field.takes, Takes::Honoured(_)) {
                continue;
            }
            // A value of a type that no field takes at this place.
            let wrong = match field.kind {
                Kind::Any => json!(true),
                Kind::Object => json!(5),
                _ => json!({}),
            };
            let path = format!("{}{}", place.path, field.name);
            let error = place.with(field.name, wrong).expect_err(&path);
            assert_eq!((error.status, error.code), (400, "invalid_type"), "{path}: {}", error.message);
            let param = error.param.expect(&path);
            assert!(param.starts_with(&path), "{path}: {param}: {}", error.message);
        }
    }
}

#[test]
fn fields_without_effect_pass_and_others_are_refused_by_name() {
    for place in places() {
        for field in place.fields {
            let refused = |value: Value, code: &str| {
                let path = format!("{}{}", place.path, field.name);
                let error = place.with(field.name, value).expect_err(&path);
                assert_eq!(
                    (error.status, error.code, error.param.as_deref()),
                    (400, code, Some(path.as_str()))
                );
            };
            match field.takes {
                Takes::Honoured(_) => continue,
                Takes::Noted(_) => {
                    for value in [json!("x"), json!([]), json!({ "type": "ephemeral" }), json!(1)] {
                        place.with(field.name, value).unwrap();
                    }
                }
                Takes::Only(values, _) => {
                    for value in values {
                        place.with(field.name, serde_json::from_str(value).unwrap()).unwrap();
                    }
                    refused(json!("something else"), "unsupported_value");
                }
                Takes::Refused(_) => refused(json!({}), "unsupported_parameter"),
            }
            place.with(field.name, Value::Null).unwrap();
        }
    }
}

/// Only the way in which a required field is missed is another matter.
#[test]
fn nulls_mean_absent() {
    for place in places() {
        for field in place.fields {
            if let Err(error) = place.with(field.name, Value::Null) {
                assert_eq!(error.code, "missing_required_parameter", "{}{}", place.path, field.name);
            }
        }
    }
}

#[test]
fn numbers_are_taken_in_every_form_that_json_has_for_them() {
    for place in places() {
        for field in place.fields.iter().filter(|field| matches!(field.takes, Takes::Honoured(_))) {
            if field.kind == Kind::Integer {
                for text in ["1", "1.0", "1e0", "10e-1"] {
                    place
                        .with(field.name, serde_json::from_str(text).unwrap())
                        .unwrap_or_else(|error| panic!("{}{} {text}: {error}", place.path, field.name));
                }
                let error = place.with(field.name, json!("1")).unwrap_err();
                assert_eq!(error.code, "invalid_type");
                assert!(error.message.contains("expected an integer, but got a string instead"), "{error}");
            }
            if field.kind == Kind::Number {
                for text in ["1", "1.0", "1e0"] {
                    place.with(field.name, serde_json::from_str(text).unwrap()).unwrap();
                }
            }
        }
    }
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name() {
    for place in places() {
        let Some(known) = place.fields.iter().find(|field| field.name.len() > 3) else { continue };
        let typo = format!("{}x", known.name);
        let error = place.with(&typo, json!("x")).unwrap_err();
        assert_eq!((error.status, error.code), (400, "unknown_parameter"));
        assert_eq!(error.param, Some(format!("{}{typo}", place.path)));
        assert!(error.message.contains(&format!("did you mean {:?}?", known.name)), "{}", error.message);
        let error = place.with("zzzzzzzzzz", json!(1)).unwrap_err();
        assert!(!error.message.contains("did you mean"), "{}", error.message);
        place.with("zzzzzzzzzz", Value::Null).unwrap();
    }
}

#[test]
fn schemas_list_what_is_accepted() {
    let schema = table::schema(&[table::EMBEDDING], &["input"]);
    let properties = schema["properties"].as_object().unwrap();
    assert!(properties.contains_key("input") && properties.contains_key("user"));
    assert!(!properties.contains_key("dimensions"), "refused fields are not offered");
    assert_eq!(schema["required"], json!(["input"]));
    let chat = table::schema(&[table::CHAT, table::PEERS], &["messages"]);
    let user = &chat["properties"]["messages"]["items"]["anyOf"][0];
    assert_eq!(user["required"], json!(["role", "content"]));
    let parts = &user["properties"]["content"]["anyOf"];
    assert_eq!(parts[1]["items"]["anyOf"][0]["properties"]["text"]["type"], json!(["string", "null"]));
    assert!(chat["properties"]["stream_options"]["anyOf"][0]["properties"]["include_usage"].is_object());
}

/// `UPDATE_GOLDEN=1` writes the tables of `docs/server.md` anew.
#[test]
fn the_manual_shows_the_tables() {
    const BEGIN: &str = "<!-- the tables of crates/wire/src/openai/table.rs -->\n";
    const END: &str = "<!-- end of the tables -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let mut tables = String::new();
    let mut add = |title: &str, fields: &[Field]| {
        tables.push_str(&format!("\n#### {title}\n{}", table::markdown(&[fields])));
    };
    add("`POST /v1/chat/completions` and `/apply-template`", table::CHAT);
    for shape in [table::MESSAGES, table::PARTS, table::TOOLS, table::TOOL_CALLS].into_iter().flatten() {
        add(&format!("In {}", shape.name), shape.fields);
    }
    for (name, fields) in [
        ("The inside of `image_url`", table::IMAGE_URL),
        ("The function of a tool", table::FUNCTION),
        ("The function of a tool call", table::CALLED),
        ("`tool_choice` as an object", table::TOOL_CHOICE),
        ("`stream_options`", table::STREAM_OPTIONS),
        ("`thinking`", table::THINKING),
        ("`reasoning`", table::REASONING),
        ("`POST /v1/completions`", table::COMPLETION),
        ("Fields of other servers, in chats and raw completions", table::PEERS),
        ("`POST /v1/embeddings`", table::EMBEDDING),
        ("`POST /tokenize`", table::TOKENIZE),
        ("`POST /detokenize`", table::DETOKENIZE),
    ] {
        add(name, fields);
    }
    let (before, rest) = manual.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}{tables}\n{END}{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    assert!(manual == fresh, "run with UPDATE_GOLDEN=1 and read the difference");
}
