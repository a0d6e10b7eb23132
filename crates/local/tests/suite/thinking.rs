//! Models that think: budgets, formats behind thinking, thinking turned off.

use levain_chat::{FinishReason, Message, Part, Provider, ReasoningEffort, ResponseFormat, Role};
use serde_json::Value;

use crate::common::{THINKER, ask, one, published, tiny};

#[tokio::test]
async fn a_budget_ends_thinking_and_is_counted() {
    let provider = tiny(Some(THINKER));
    for budget in [0, 1, 7] {
        let mut request = ask("Hello");
        request.reasoning_budget = Some(budget);
        let (answer, usage) = one(&provider, request).await;
        // The closing tag is spelled out in the tiny vocabulary: `\n</think>` has nine tokens or fewer.
        let closing = usage.reasoning_tokens - u64::from(budget);
        assert!((1..=9 + 8).contains(&closing), "{usage:?}");
        assert!(!answer.text.is_empty() && !answer.text.contains("</think>"), "{answer:?}");
        assert_eq!(answer.finish, Some(FinishReason::Length));
        assert_eq!(usage.completion_tokens, 40);
    }
    let (answer, usage) = one(&provider, ask("Hello")).await;
    assert_eq!(usage.reasoning_tokens, 40, "without a budget a random model never closes the tag");
    assert!(answer.text.is_empty() && !answer.reasoning.is_empty());
    assert!(!usage.reasoning_time.is_zero());
}

#[tokio::test]
async fn a_format_holds_behind_thinking() {
    let provider = tiny(Some(THINKER));
    for seed in 0..10 {
        let mut request = ask("Hello");
        request.sampling.seed = Some(seed);
        request.reasoning_budget = Some(10);
        request.max_tokens = Some(300);
        request.response_format = ResponseFormat::Regex("[0-9]{3}".into());
        let (answer, _) = one(&provider, request).await;
        assert!(!answer.reasoning.is_empty());
        assert_eq!(answer.finish, Some(FinishReason::Stop));
        assert!(answer.text.len() == 3 && answer.text.parse::<u32>().is_ok(), "{:?}", answer.text);
    }
}

#[tokio::test]
async fn thinking_can_be_turned_off() {
    let provider = tiny(Some(THINKER));
    let mut request = ask("Hello");
    request.reasoning_effort = Some(ReasoningEffort::None);
    let rendered = provider.render(request.clone()).await.unwrap();
    assert!(rendered.text.ends_with("<|assistant|><think>\n\n</think>\n\n"), "{}", rendered.text);
    let (answer, usage) = one(&provider, request).await;
    assert!(answer.reasoning.is_empty() && !answer.text.is_empty());
    assert_eq!(usage.reasoning_tokens, 0);
}

#[tokio::test]
async fn r1_thinks_with_every_copy_of_its_template() {
    let current = published("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B");
    let early = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}\
        {% elif m['role'] == 'assistant' %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}{% endif %}\
        {% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}";
    for template in [current.as_str(), early] {
        let provider = tiny(Some(template));
        let mut request = ask("Hi");
        let rendered = provider.render(request.clone()).await.unwrap();
        assert_eq!(rendered.text, "<s><｜User｜>Hi<｜Assistant｜><think>\n");
        // Earlier thinking is not said again.
        request.messages.push(Message {
            role: Role::Assistant,
            parts: vec![Part::Reasoning { text: "hm".into() }, Part::Text { text: "Ho".into() }],
        });
        request.messages.push(Message::text(Role::User, "Go on"));
        let rendered = provider.render(request.clone()).await.unwrap();
        assert!(
            rendered.text.contains("<｜Assistant｜>Ho") && !rendered.text.contains("hm"),
            "{}",
            rendered.text
        );
        request.reasoning_effort = Some(ReasoningEffort::None);
        let rendered = provider.render(request).await.unwrap();
        assert!(rendered.text.contains("<think>\n") && rendered.text.trim_end().ends_with("</think>"));
    }
}

#[tokio::test]
async fn v31_thinks_unless_told_not_to() {
    let provider = tiny(Some(&published("deepseek-ai-DeepSeek-V3.1")));
    let rendered = provider.render(ask("Hi")).await.unwrap();
    assert!(rendered.text.ends_with("<｜Assistant｜><think>"), "{}", rendered.text);
    let mut request = ask("Hi");
    request.reasoning_effort = Some(ReasoningEffort::None);
    let rendered = provider.render(request).await.unwrap();
    assert!(rendered.text.ends_with("<｜Assistant｜><think></think>"), "{}", rendered.text);
    for name in ["thinking", "enable_thinking"] {
        let mut request = ask("Hi");
        request.template_kwargs.insert(name.into(), Value::Bool(false));
        let rendered = provider.render(request).await.unwrap();
        assert!(rendered.text.ends_with("<think></think>"), "the request's own variable goes first");
    }
}
