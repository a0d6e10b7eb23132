//! Tools through the whole way: templates of real families, calls that are forced, calls in the history.

use levain_chat::{
    ChatRequest, FinishReason, Message, Part, Provider, ProviderError, ResponseFormat, Role, ToolCall,
    ToolChoice,
};
use serde_json::Value;

use crate::common::{ask, hot, one, published, tiny, weather};

const FAMILIES: [&str; 4] = [
    "Qwen-Qwen2.5-7B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
];

fn forced(choice: ToolChoice, seed: u64) -> ChatRequest {
    let mut request = ask("What is the weather in Paris?");
    request.tools = vec![weather()];
    request.tool_choice = choice;
    request.sampling = hot(seed);
    request.max_tokens = Some(400);
    request.reasoning_budget = Some(4);
    request
}

#[tokio::test]
async fn forced_calls_follow_the_schema_in_every_family() {
    for family in FAMILIES {
        let provider = tiny(Some(&published(family)));
        let mut complete = 0;
        for seed in 0..4 {
            let choice =
                if seed % 2 == 0 { ToolChoice::Required } else { ToolChoice::Named("get_weather".into()) };
            let mut request = forced(choice, seed);
            request.parallel_tool_calls = Some(false);
            let (answer, _) = one(&provider, request).await;
            assert_eq!(answer.text, "", "{family}");
            if answer.finish == Some(FinishReason::Length) {
                continue;
            }
            complete += 1;
            assert_eq!(answer.finish, Some(FinishReason::ToolCalls), "{family}");
            let [(name, arguments, id)] = answer.calls.as_slice() else { panic!("{answer:?}") };
            assert!(name == "get_weather" && id.starts_with("call_"));
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            assert!(arguments["city"].as_str().is_some_and(|city| city.chars().count() <= 12), "{arguments}");
            let keys = arguments.as_object().unwrap().keys();
            assert!(keys.into_iter().all(|key| key == "city" || key == "days"), "{arguments}");
        }
        assert!(complete >= 3, "{family}: {complete}");
    }
}

#[tokio::test]
async fn the_model_is_told_of_the_tools() {
    for family in FAMILIES {
        let provider = tiny(Some(&published(family)));
        let mut request = ask("Weather?");
        request.tools = vec![weather()];
        let rendered = provider.render(request.clone()).await.unwrap();
        assert!(rendered.text.contains("Weather of a city"), "{family}: {}", rendered.text);
        request.tool_choice = ToolChoice::None;
        let rendered = provider.render(request).await.unwrap();
        assert!(!rendered.text.contains("Weather of a city"), "{family}: {}", rendered.text);
    }
}

#[tokio::test]
async fn calls_and_results_go_back_into_the_prompt() {
    for family in FAMILIES {
        let provider = tiny(Some(&published(family)));
        let mut request = ask("Weather?");
        request.tools = vec![weather()];
        request.messages.push(Message {
            role: Role::Assistant,
            parts: vec![Part::ToolCall(ToolCall {
                id: "call_1".into(),
                name: "get_weather".into(),
                arguments: "{\"city\": \"Orléans\"}".into(),
            })],
        });
        request.messages.push(Message {
            role: Role::Tool,
            parts: vec![Part::ToolResult { call_id: "call_1".into(), name: None, text: "21 degrees".into() }],
        });
        let rendered = provider.render(request).await.unwrap();
        assert!(rendered.text.contains("{\"city\": \"Orléans\"}"), "{family}: {}", rendered.text);
        assert!(rendered.text.contains("21 degrees"), "{family}: {}", rendered.text);
    }
}

#[tokio::test]
async fn a_free_choice_stays_free() {
    let provider = tiny(Some(&published("Qwen-Qwen2.5-7B-Instruct")));
    let mut request = forced(ToolChoice::Auto, 3);
    request.max_tokens = Some(40);
    request.parallel_tool_calls = Some(false);
    let (answer, _) = one(&provider, request).await;
    assert!(answer.calls.is_empty() && !answer.text.is_empty(), "a random model calls nothing: {answer:?}");
    // With a format, the answer is a call or follows it.
    let mut request = forced(ToolChoice::Auto, 3);
    request.response_format = ResponseFormat::Regex("[0-9]{2}".into());
    let (answer, _) = one(&provider, request).await;
    let called = answer.finish == Some(FinishReason::ToolCalls) && answer.text.is_empty();
    assert!(called || answer.text.parse::<u8>().is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_template_without_tools_refuses_them() {
    let provider = tiny(None);
    let refused = |request: ChatRequest| async {
        match provider.chat(request).await {
            Err(ProviderError::Unsupported { param, message }) => (param, message),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("accepted"),
        }
    };
    let (param, message) = refused(forced(ToolChoice::Auto, 1)).await;
    assert!(param == "tools" && message.contains("template"), "{message}");
    let mut request = ask("x");
    request.messages.push(Message {
        role: Role::Tool,
        parts: vec![Part::ToolResult { call_id: "1".into(), name: None, text: "x".into() }],
    });
    assert_eq!(refused(request).await.0, "messages");
}
