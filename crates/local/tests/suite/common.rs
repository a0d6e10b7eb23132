//! Tiny models with the chat templates of real ones, and what a chat stream adds up to.

use std::path::PathBuf;

use futures::StreamExt;
use levain_chat::{
    ChatEvent, ChatRequest, FinishReason, Message, Provider, ProviderError, Role, Sampling, TokenLogprob,
    Tool, Usage,
};
use levain_engine::EngineConfig;
use levain_local::{LocalModel, LocalOptions, LocalProvider};
use levain_testkit::model::ModelSpec;
use serde_json::json;

/// Think tags that the template opens, in ChatML.
pub(crate) const THINKER: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|><think>\n{% endif %}{# </think> #}";

pub(crate) fn options(template: Option<&str>) -> LocalOptions {
    LocalOptions {
        engine: EngineConfig { threads: 1, ..EngineConfig::default() },
        chat_template: template.map(str::to_owned),
        draft: None,
        template_worker: None,
    }
}

/// A tiny model of random weights under the name `tiny`, with its own template or another.
pub(crate) fn tiny(template: Option<&str>) -> LocalProvider {
    let spec = ModelSpec { max_position_embeddings: 2048, ..ModelSpec::llama() };
    let model = spec.build().unwrap();
    LocalProvider::new("tiny", LocalModel::open(model.path(), options(template)).unwrap())
}

/// A published template, kept with the tokenizer's tests.
pub(crate) fn published(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tokenizer/tests/fixtures/chat_templates");
    std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap()
}

pub(crate) fn ask(text: &str) -> ChatRequest {
    ChatRequest {
        model: "tiny".into(),
        messages: vec![Message::text(Role::User, text)],
        max_tokens: Some(40),
        sampling: hot(1),
        ..ChatRequest::default()
    }
}

/// Sampling that finds every hole of a constraint.
pub(crate) fn hot(seed: u64) -> Sampling {
    Sampling { temperature: Some(1.5), seed: Some(seed), ..Sampling::default() }
}

pub(crate) fn weather() -> Tool {
    Tool {
        name: "get_weather".into(),
        description: Some("Weather of a city".into()),
        parameters: json!({
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city"],
        }),
        strict: None,
    }
}

/// One answer, put together.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) reasoning: String,
    pub(crate) text: String,
    /// Name, arguments and id.
    pub(crate) calls: Vec<(String, String, String)>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) finish: Option<FinishReason>,
}

/// Reads a stream to its end and checks that its events come in order.
pub(crate) async fn collect(
    provider: &LocalProvider,
    request: ChatRequest,
) -> Result<(Vec<Answer>, Usage), ProviderError> {
    let mut answers = vec![Answer::default(); request.n.max(1) as usize];
    let mut stream = provider.chat(request).await?;
    let mut usage = None;
    while let Some(event) = stream.next().await {
        assert!(usage.is_none(), "usage is last");
        match event? {
            ChatEvent::Reasoning { index, text } => {
                let answer = &mut answers[index as usize];
                assert!(answer.text.is_empty() && answer.calls.is_empty() && !text.is_empty());
                answer.reasoning.push_str(&text);
            }
            ChatEvent::Text { index, text } => {
                assert!(answers[index as usize].finish.is_none() && !text.is_empty());
                answers[index as usize].text.push_str(&text);
            }
            ChatEvent::ToolCallStart { index, call, id, name } => {
                let calls = &mut answers[index as usize].calls;
                assert_eq!(call as usize, calls.len());
                calls.push((name, String::new(), id));
            }
            ChatEvent::ToolCallArguments { index, call, fragment } => {
                let calls = &mut answers[index as usize].calls;
                assert_eq!(call as usize + 1, calls.len());
                calls[call as usize].1.push_str(&fragment);
            }
            ChatEvent::Unenforced(_) => {}
            ChatEvent::Logprobs { index, tokens } => answers[index as usize].logprobs.extend(tokens),
            ChatEvent::Finish { index, reason } => {
                assert_eq!(answers[index as usize].finish.replace(reason), None);
            }
            ChatEvent::Usage(total) => usage = Some(total),
        }
    }
    Ok((answers, usage.expect("usage comes last")))
}

/// The only answer.
pub(crate) async fn one(provider: &LocalProvider, request: ChatRequest) -> (Answer, Usage) {
    let (mut answers, usage) = collect(provider, request).await.unwrap();
    assert_eq!(answers.len(), 1);
    (answers.remove(0), usage)
}
