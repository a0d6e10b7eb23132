//! Plain answers: counts, seeds, several answers, stop texts, log-probabilities, formats, and leaving early.

use std::time::Duration;

use futures::StreamExt;
use levain_chat::{ChatEvent, FinishReason, Provider, ResponseFormat, Sampling};
use serde_json::{Value, json};

use crate::common::{ask, collect, hot, one, tiny};

#[tokio::test]
async fn an_answer_is_counted_and_repeatable() {
    let provider = tiny(None);
    let (first, usage) = one(&provider, ask("Hello")).await;
    assert_eq!(usage.completion_tokens, 40);
    assert_eq!(first.finish, Some(FinishReason::Length));
    let rendered = provider.render(ask("Hello")).await.unwrap();
    assert_eq!(usage.prompt_tokens, rendered.tokens.len() as u64);
    assert_eq!(rendered.text, "<s><|user|>Hello<|assistant|>");
    assert_eq!((usage.reasoning_tokens, usage.reasoning_time), (0, Duration::ZERO));
    let (second, _) = one(&provider, ask("Hello")).await;
    assert_eq!(first.text, second.text);
    let mut other = ask("Hello");
    other.sampling = hot(2);
    assert_ne!(one(&provider, other).await.0.text, first.text);
}

#[tokio::test]
async fn several_answers_share_the_prompt() {
    let provider = tiny(None);
    let mut request = ask("Hello");
    request.n = 3;
    let (answers, usage) = collect(&provider, request).await.unwrap();
    // A random model may end an answer at any token.
    assert!((43..=120).contains(&usage.completion_tokens), "{usage:?}");
    let prompt = provider.render(ask("Hello")).await.unwrap().tokens.len();
    assert_eq!(usage.prompt_tokens, prompt as u64);
    assert!(answers[0].text != answers[1].text && answers[1].text != answers[2].text);
    assert_eq!(answers[0].text, one(&provider, ask("Hello")).await.0.text, "the first is that of n = 1");
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_before_it() {
    let provider = tiny(None);
    let (whole, _) = one(&provider, ask("Hello")).await;
    // Any stretch of the answer that spans tokens will do.
    let chars: Vec<char> = whole.text.chars().collect();
    let stop: String = chars[10..14].iter().collect();
    let before = &whole.text[..whole.text.find(&stop).unwrap()];
    let mut request = ask("Hello");
    request.stop = vec!["never in there".into(), stop.clone()];
    let (answer, usage) = one(&provider, request.clone()).await;
    assert_eq!(answer.text, before);
    assert_eq!(answer.finish, Some(FinishReason::Stop));
    assert!(usage.completion_tokens < 40, "the sequence ends with the stop text");
    request.n = 2;
    let (answers, usage) = collect(&provider, request).await.unwrap();
    assert_eq!(answers[0].text, before);
    assert_eq!(answers[0].finish, Some(FinishReason::Stop));
    assert!(!answers[1].text.contains(&stop));
    assert!(usage.completion_tokens < 80);
}

#[tokio::test]
async fn log_probabilities_stand_for_the_text() {
    let provider = tiny(None);
    let mut request = ask("Hello");
    request.logprobs = Some(3);
    let (answer, usage) = one(&provider, request).await;
    let bytes: Vec<u8> = answer.logprobs.iter().flat_map(|token| token.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), answer.text);
    assert!(answer.logprobs.len() as u64 <= usage.completion_tokens && !answer.logprobs.is_empty());
    for token in &answer.logprobs {
        assert!(token.logprob.is_some_and(|logprob| logprob <= 0.0));
        assert!(token.top.len() == 3 && token.top[0].logprob >= token.top[1].logprob);
    }
}

#[tokio::test]
async fn an_answer_follows_its_schema_at_any_temperature() {
    let provider = tiny(None);
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "size": {"enum": ["small", "large"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "size", "count"],
        "additionalProperties": false,
    });
    let mut complete = 0;
    for seed in 0..50 {
        let mut request = ask("Describe it.");
        request.response_format = ResponseFormat::JsonSchema { schema: schema.clone(), strict: None };
        request.sampling = hot(seed);
        request.max_tokens = Some(300);
        let (answer, _) = one(&provider, request).await;
        if answer.finish == Some(FinishReason::Length) {
            continue;
        }
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 6), "{value}");
        assert!(value["size"] == "small" || value["size"] == "large", "{value}");
        assert!(value["count"].as_u64().is_some_and(|count| count <= 99), "{value}");
        complete += 1;
    }
    assert!(complete >= 48, "{complete} of 50 came to an end");
}

#[tokio::test]
async fn objects_and_expressions_hold() {
    let provider = tiny(None);
    for seed in 0..10 {
        let mut request = ask("x");
        request.response_format = ResponseFormat::Regex("(ab|cd){1,8}!".into());
        request.sampling = hot(seed);
        let (answer, _) = one(&provider, request.clone()).await;
        assert_eq!(answer.finish, Some(FinishReason::Stop));
        assert!(answer.text.ends_with('!') && answer.text.len() % 2 == 1, "{}", answer.text);
        request.response_format = ResponseFormat::JsonObject;
        request.max_tokens = Some(200);
        let (answer, _) = one(&provider, request).await;
        assert!(answer.text.starts_with('{'));
        if answer.finish == Some(FinishReason::Stop) {
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(&answer.text).is_ok());
        }
    }
}

#[tokio::test]
async fn greedy_is_greedy() {
    let provider = tiny(None);
    let mut request = ask("Hello");
    request.sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
    request.logprobs = Some(1);
    let (answer, _) = one(&provider, request).await;
    assert!(answer.logprobs.iter().all(|token| token.top[0].id == token.id));
}

#[tokio::test]
async fn a_stream_that_is_dropped_frees_its_slot() {
    let provider = tiny(None);
    for _ in 0..20 {
        let mut request = ask("Hello");
        request.max_tokens = None;
        let mut stream = provider.chat(request).await.unwrap();
        let _ = stream.next().await;
        drop(stream);
    }
    for _ in 0..500 {
        let load = provider.load();
        if load.running + load.waiting == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", provider.load());
}

#[tokio::test]
async fn a_reader_that_waits_holds_up_nobody() {
    let provider = tiny(None);
    let mut slow = ask("Hello");
    slow.max_tokens = Some(200);
    let mut stream = provider.chat(slow).await.unwrap();
    let (answer, _) = one(&provider, ask("Hello")).await;
    assert_eq!(answer.finish, Some(FinishReason::Length));
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.unwrap());
    }
    assert!(events.len() > 30, "nothing is lost: {events:?}");
    assert!(matches!(events.last(), Some(ChatEvent::Usage(_))));
}
