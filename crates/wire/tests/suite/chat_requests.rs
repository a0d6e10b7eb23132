//! What chat bodies become, and what is refused in which words.

use levain_chat::{Message, Part, ReasoningEffort, ResponseFormat, Role, ToolCall, ToolChoice, Turn};
use levain_wire::openai::{ApiError, ChatCall};
use serde_json::{Value, json};

fn parse(more: Value) -> Result<ChatCall, ApiError> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }] });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    ChatCall::from_bytes(body.to_string().as_bytes())
}

fn messages(messages: Value) -> Vec<Message> {
    parse(json!({ "messages": messages })).unwrap().request.messages
}

#[test]
fn every_field_arrives() {
    let call = parse(json!({
        "stream": true, "stream_options": { "include_usage": true },
        "tools": [{ "type": "function", "function": {
            "name": "f", "description": "d", "parameters": { "type": "object" }, "strict": true,
        } }],
        "tool_choice": "required", "parallel_tool_calls": false,
        "response_format": { "type": "json_schema", "json_schema": {
            "name": "n", "strict": false, "schema": { "type": "object" },
        } },
        "max_completion_tokens": 5, "n": 3, "stop": ["a", "b"],
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "frequency_penalty": -1, "presence_penalty": 1, "logit_bias": { "5": -100, "7": 0.5 }, "seed": -1,
        "logprobs": true, "top_logprobs": 4, "reasoning_effort": "high", "max_reasoning_tokens": 9,
        "chat_template_kwargs": { "enable_thinking": true },
    }))
    .unwrap();
    assert!(call.stream && call.include_usage);
    let request = call.request;
    assert_eq!(request.tools[0].name, "f");
    assert_eq!(request.tools[0].description.as_deref(), Some("d"));
    assert_eq!(request.tools[0].strict, Some(true));
    assert_eq!(request.tool_choice, ToolChoice::Required);
    assert_eq!(request.parallel_tool_calls, Some(false));
    assert_eq!(
        request.response_format,
        ResponseFormat::JsonSchema { schema: json!({ "type": "object" }), strict: Some(false) }
    );
    assert_eq!((request.max_tokens, request.n), (Some(5), 3));
    assert_eq!(request.stop, ["a", "b"]);
    let sampling = request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(40)));
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (Some(0.1), Some(1.1)));
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (Some(-1.0), Some(1.0)));
    assert_eq!(sampling.logit_bias.into_iter().collect::<Vec<_>>(), [(5, -100.0), (7, 0.5)]);
    assert_eq!(sampling.seed, Some(u64::MAX));
    assert_eq!(request.logprobs, Some(4));
    assert_eq!(request.reasoning_effort, Some(ReasoningEffort::High));
    assert_eq!(request.reasoning_budget, Some(9));
    assert_eq!(request.template_kwargs["enable_thinking"], json!(true));
    assert_eq!(request.tenant, None);
}

#[test]
fn absent_fields_and_nulls_mean_the_models_own() {
    for body in
        [json!({}), json!({ "temperature": null, "stop": null, "tools": null, "n": null, "seed": null })]
    {
        let call = parse(body).unwrap();
        assert!(!call.stream && !call.include_usage);
        assert_eq!(call.request.n, 1);
        assert_eq!(call.request.max_tokens, None);
        assert_eq!(call.request.sampling, levain_chat::Sampling::default());
        assert_eq!(call.request.logprobs, None);
    }
}

#[test]
fn messages_of_all_roles_and_forms() {
    let text = |role, text: &str| Message::text(role, text);
    assert_eq!(
        messages(json!([
            { "role": "system", "content": "s" },
            { "role": "developer", "content": [{ "type": "text", "text": "d" }] },
            { "role": "user", "content": "u" },
            { "role": "assistant", "content": "a" },
        ])),
        [text(Role::System, "s"), text(Role::System, "d"), text(Role::User, "u"), text(Role::Assistant, "a")]
    );
    assert_eq!(
        messages(json!([
            { "role": "assistant", "content": null, "refusal": null, "audio": null, "annotations": [],
              "reasoning_content": "r", "function_call": null,
              "tool_calls": [{ "index": 0, "id": "c", "type": "function",
                               "function": { "name": "f", "arguments": "{" } }] },
            { "role": "tool", "tool_call_id": "c", "name": "f",
              "content": [{ "type": "text", "text": "1" }, { "type": "text", "text": "2" }] },
        ])),
        [
            Message {
                role: Role::Assistant,
                parts: vec![
                    Part::Reasoning { text: "r".into() },
                    Part::ToolCall(ToolCall { id: "c".into(), name: "f".into(), arguments: "{".into() }),
                ],
            },
            Message {
                role: Role::Tool,
                parts: vec![Part::ToolResult {
                    call_id: "c".into(),
                    name: Some("f".into()),
                    text: "12".into()
                }],
            },
        ]
    );
    for alias in ["reasoning", "reasoning_content"] {
        let read = messages(json!([{ "role": "assistant", "content": "a", alias: "r" }]));
        assert_eq!(read[0].parts[0], Part::Reasoning { text: "r".into() });
    }
}

#[test]
fn images_come_as_data_urls_only() {
    let image = |url: &str| {
        json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "see" },
        { "type": "image_url", "image_url": { "url": url, "detail": "auto" } },
    ] }] })
    };
    let call = parse(image("data:image/png;base64,iVBORw==")).unwrap();
    let expected = Part::Image { media_type: "image/png".into(), data: vec![0x89, 0x50, 0x4e, 0x47] };
    assert_eq!(call.request.messages[0].parts[1], expected);
    for url in [
        "https://example.com/a.png",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png,raw",
        "",
    ] {
        let error = parse(image(url)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content[1].image_url"), "{url}");
    }
}

#[test]
fn thinking_has_one_meaning_in_several_words() {
    let read = |body| parse(body).map(|call| (call.request.reasoning_effort, call.request.reasoning_budget));
    use ReasoningEffort::{High, Low, None as Off};
    assert_eq!(read(json!({ "reasoning_effort": "minimal" })), Ok((Some(Low), None)));
    assert_eq!(read(json!({ "reasoning_effort": "max" })), Ok((Some(High), None)));
    assert_eq!(read(json!({ "enable_thinking": false })), Ok((Some(Off), None)));
    assert_eq!(read(json!({ "thinking": { "type": "disabled" } })), Ok((Some(Off), None)));
    let budget = json!({ "thinking": { "type": "enabled", "budget_tokens": 7 }, "thinking_budget": 7 });
    assert_eq!(read(budget), Ok((None, Some(7))));
    for contradiction in [
        json!({ "enable_thinking": false, "reasoning_effort": "high" }),
        json!({ "enable_thinking": true, "reasoning_effort": "none" }),
        json!({ "enable_thinking": true, "thinking": { "type": "disabled" } }),
        json!({ "thinking_budget": 1, "max_reasoning_tokens": 2 }),
    ] {
        assert_eq!(read(contradiction).unwrap_err().status, 400);
    }
}

#[test]
fn response_formats() {
    let read = |format| parse(json!({ "response_format": format })).map(|call| call.request.response_format);
    assert_eq!(read(json!({ "type": "text" })), Ok(ResponseFormat::Text));
    assert_eq!(read(json!({ "type": "json_object" })), Ok(ResponseFormat::JsonObject));
    assert_eq!(read(json!({ "type": "regex", "regex": "a+" })), Ok(ResponseFormat::Regex("a+".into())));
    let grammar = "start: \"a\"";
    assert_eq!(
        read(json!({ "type": "grammar", "grammar": grammar })),
        Ok(ResponseFormat::Grammar(grammar.into()))
    );
    let nested = |levels: usize| {
        let mut schema = json!({ "type": "string" });
        for _ in 0..levels {
            schema = json!({ "items": schema });
        }
        json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } })
    };
    assert!(read(nested(31)).is_ok());
    assert!(read(nested(32)).unwrap_err().message.contains("levels deep"));
    let long = json!({ "description": "x".repeat(70_000) });
    let error = read(json!({ "type": "json_schema", "json_schema": { "schema": long } })).unwrap_err();
    assert!(error.message.contains("65536 are the most"), "{}", error.message);
}

/// Each line of the golden file holds what to change in a plain body, and the error object that follows.
/// `UPDATE_GOLDEN=1` writes it anew from the first column.
#[test]
fn refusals_name_the_field_and_say_what_to_do() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat_refusals.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut fresh = String::new();
    for line in text.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let error = parse(pair["send"].clone()).expect_err(line);
        assert_eq!(error.status, 400, "{line}");
        let got: Value = serde_json::from_slice(&error.to_json()).unwrap();
        fresh.push_str(&json!({ "send": pair["send"], "error": got["error"] }).to_string());
        fresh.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    assert!(text.lines().eq(fresh.lines()), "run with UPDATE_GOLDEN=1 and read the difference:\n{fresh}");
}

#[test]
fn bodies_that_are_no_json_objects() {
    for body in [&b""[..], b"[]", b"\"x\"", b"{", b"{\"model\":\"m\",\"model\":\"m\"}", b"\xff", b"{}{}"] {
        let error = ChatCall::from_bytes(body).unwrap_err();
        assert_eq!((error.status, error.code), (400, "invalid_json"), "{body:?}");
    }
    for field in ["model", "role", "content", "name"] {
        // Invalid UTF-8 and half a surrogate pair in every text.
        for bad in [&b"\"\xc3\""[..], b"\"\\ud800x\"", b"\"\\udfff\""] {
            let mut body = br#"{"messages":[{"role":"user","content":"x"}],""#.to_vec();
            body.extend_from_slice(field.as_bytes());
            body.extend_from_slice(b"\":");
            body.extend_from_slice(bad);
            body.push(b'}');
            assert_eq!(ChatCall::from_bytes(&body).unwrap_err().code, "invalid_json");
        }
    }
}

#[test]
fn an_answer_goes_on_in_the_words_of_several_dialects() {
    let turn = |more: Value, last: Value| {
        let mut body = more;
        body["messages"] = json!([{ "role": "user", "content": "x" }, last]);
        parse(body)
    };
    let said = json!({ "role": "assistant", "content": "It" });
    for (more, expected) in [
        (json!({}), Turn::Auto),
        (json!({ "continue_final_message": null, "add_generation_prompt": null }), Turn::Auto),
        (json!({ "continue_final_message": true }), Turn::Continue),
        (json!({ "continue_final_message": true, "add_generation_prompt": false }), Turn::Continue),
        (json!({ "continue_final_message": false }), Turn::New),
        (json!({ "continue_final_message": false, "add_generation_prompt": true }), Turn::New),
        (json!({ "add_generation_prompt": true }), Turn::New),
        (json!({ "add_generation_prompt": false }), Turn::None),
        (json!({ "continue_final_message": false, "add_generation_prompt": false }), Turn::None),
    ] {
        assert_eq!(turn(more.clone(), said.clone()).unwrap().request.turn, expected, "{more}");
    }
    for name in ["prefix", "partial"] {
        let mut marked = said.clone();
        marked[name] = json!(true);
        let call = turn(json!({}), marked.clone()).unwrap();
        assert_eq!(call.request.turn, Turn::Continue);
        assert_eq!(call.request.messages[1], Message::text(Role::Assistant, "It"));
        marked[name] = json!(false);
        assert_eq!(turn(json!({}), marked).unwrap().request.turn, Turn::Auto);
    }
}

#[test]
fn contradictions_about_the_turn_are_refused() {
    let user = json!({ "role": "user", "content": "x" });
    let said = |more: Value| {
        let mut message = json!({ "role": "assistant", "content": "It" });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    let plain = said(json!({}));
    for (more, messages, param) in [
        (
            json!({ "continue_final_message": true, "add_generation_prompt": true }),
            json!([user, plain]),
            "continue_final_message",
        ),
        (json!({ "continue_final_message": true }), json!([user]), "continue_final_message"),
        (json!({ "continue_final_message": true }), json!([plain, user]), "continue_final_message"),
        (json!({ "continue_final_message": "yes" }), json!([user]), "continue_final_message"),
        (json!({ "add_generation_prompt": 1 }), json!([user]), "add_generation_prompt"),
        (json!({}), json!([said(json!({ "prefix": true })), user]), "messages[0].prefix"),
        (json!({}), json!([{ "role": "user", "content": "x", "prefix": true }]), "messages[0].prefix"),
        (json!({}), json!([{ "role": "user", "content": "x", "partial": true }]), "messages[0].partial"),
        (json!({}), json!([user, said(json!({ "prefix": "It" }))]), "messages[1].prefix"),
        (
            json!({ "add_generation_prompt": true }),
            json!([user, said(json!({ "prefix": true }))]),
            "messages[1].prefix",
        ),
        (
            json!({ "continue_final_message": false }),
            json!([user, said(json!({ "partial": true }))]),
            "messages[1].partial",
        ),
    ] {
        let mut body = more;
        body["messages"] = messages;
        let error = parse(body.clone()).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{body}: {}", error.message);
    }
}
