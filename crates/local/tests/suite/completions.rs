//! Raw completions, embeddings and tokens.

use std::path::PathBuf;

use futures::StreamExt;
use levain_chat::{
    CompletionEvent, CompletionPrompt, CompletionRequest, EmbeddingRequest, FinishReason, Pooling, Provider,
    ProviderError, ResponseFormat, Sampling, TokenLogprob, Usage,
};
use levain_local::{LocalModel, LocalProvider};
use serde_json::Value;

use crate::common::{options, tiny};

#[derive(Debug, Default, Clone)]
struct Continuation {
    text: String,
    tokens: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

impl Continuation {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

fn greedy(prompt: CompletionPrompt) -> CompletionRequest {
    CompletionRequest {
        parse_special: true,
        add_special_tokens: true,
        model: String::new(),
        prompt,
        max_tokens: Some(24),
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        stop: Vec::new(),
        n: 1,
        logprobs: None,
        echo: false,
        ignore_eos: false,
        response_format: ResponseFormat::Text,
        tenant: None,
    }
}

async fn collect(
    provider: &LocalProvider,
    request: CompletionRequest,
) -> Result<(Vec<Continuation>, Usage), ProviderError> {
    let mut all = vec![Continuation::default(); request.n.max(1) as usize];
    let mut stream = provider.complete(request).await?;
    let mut usage = None;
    while let Some(event) = stream.next().await {
        match event? {
            CompletionEvent::Text { index, text, tokens } => {
                all[index as usize].text.push_str(&text);
                all[index as usize].tokens.extend(tokens);
            }
            CompletionEvent::Finish { index, reason } => all[index as usize].finish = Some(reason),
            CompletionEvent::Usage(total) => usage = Some(total),
        }
    }
    Ok((all, usage.expect("usage comes last")))
}

/// Hugging Face's answers to token-id prompts.
#[tokio::test]
async fn reference_models_continue_as_expected() {
    for name in ["llama-3.1", "qwen2.5"] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures").join(name);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
        let provider = LocalProvider::new(name, LocalModel::open(&folder, options(None)).unwrap());
        let mut request = greedy(CompletionPrompt::Tokens(ids("prompt")));
        request.ignore_eos = true;
        request.max_tokens = Some(u32::try_from(ids("greedy").len()).unwrap());
        request.logprobs = Some(1);
        let (all, usage) = collect(&provider, request.clone()).await.unwrap();
        assert_eq!(all[0].ids(), ids("greedy"), "{name}");
        assert_eq!(usage.prompt_tokens, ids("prompt").len() as u64, "ids are used as they are");
        assert_eq!(all[0].finish, Some(FinishReason::Length));
        // Echo gives the prompt's tokens in front, each but the first with a log-probability.
        request.echo = true;
        request.max_tokens = Some(0);
        let (all, usage) = collect(&provider, request).await.unwrap();
        assert_eq!(all[0].ids(), ids("prompt"), "{name}");
        assert_eq!(usage.completion_tokens, 0);
        let scored = all[0].tokens.iter().map(|token| token.logprob.is_some());
        assert_eq!(scored.filter(|&scored| !scored).count(), 1);
    }
}

#[tokio::test]
async fn text_prompts_echo_stop_and_several() {
    let provider = tiny(None);
    let mut request = greedy(CompletionPrompt::Text("Hello <s> there".into()));
    request.parse_special = false;
    request.echo = true;
    request.ignore_eos = true;
    let (all, usage) = collect(&provider, request.clone()).await.unwrap();
    assert!(all[0].text.starts_with("Hello <s> there"));
    assert_eq!(all[0].tokens[0].id, 0, "the token that begins a text is among the prompt's");
    assert_eq!(all[0].tokens.iter().filter(|token| token.id == 0).count(), 1, "the text's own is text");
    assert_eq!(all[0].tokens.len() as u64, usage.prompt_tokens + 24);
    let bytes: Vec<u8> = all[0].tokens.iter().flat_map(|token| token.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), all[0].text);
    request.echo = false;
    request.sampling = Sampling { temperature: Some(1.0), seed: Some(5), ..Sampling::default() };
    let (whole, _) = collect(&provider, request.clone()).await.unwrap();
    let chars: Vec<char> = whole[0].text.chars().collect();
    let stop: String = chars[6..9].iter().collect();
    request.stop = vec![stop.clone()];
    request.n = 2;
    let (all, _) = collect(&provider, request).await.unwrap();
    assert_eq!(all[0].text, whole[0].text[..whole[0].text.find(&stop).unwrap()]);
    assert_eq!(all[0].finish, Some(FinishReason::Stop));
    assert!(!all[1].text.contains(&stop));
}

#[tokio::test]
async fn raw_prompts_may_name_control_tokens() {
    let provider = tiny(None);
    let read = async |text: &str, parse_special: bool, add_special_tokens: bool| {
        let prompt = CompletionPrompt::Text(text.into());
        let (logprobs, max_tokens) = (Some(0), Some(0));
        let request = CompletionRequest {
            parse_special,
            add_special_tokens,
            echo: true,
            logprobs,
            max_tokens,
            ..greedy(prompt)
        };
        let (all, usage) = collect(&provider, request).await.unwrap();
        assert_eq!(all[0].text, text);
        assert_eq!(all[0].tokens.len() as u64, usage.prompt_tokens);
        // What the tokens spell is the text: offsets into it are right.
        let bytes: Vec<u8> = all[0].tokens.iter().flat_map(|token| token.bytes.clone()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
        all[0].ids()
    };
    let text = "<|user|>the<|assistant|>";
    let parsed = provider.tokenize("tiny", text, true, true, None).await.unwrap();
    assert!(parsed.starts_with(&[0, 3]) && parsed.ends_with(&[4]));
    assert_eq!(read(text, true, true).await, parsed);
    assert_eq!(read(text, true, false).await, parsed[1..]);
    let plain = provider.tokenize("tiny", text, true, false, None).await.unwrap();
    assert!(!plain[1..].iter().any(|id| *id < 5));
    assert_eq!(read(text, false, true).await, plain);
    // A text that begins as the model wants is not begun twice, unless that is what is written.
    assert_eq!(read(&format!("<s>{text}"), true, true).await, parsed);
    assert_eq!(read(&format!("<s>{text}"), true, false).await, parsed);
    assert_eq!(read("<s><s>the", true, false).await[..2], [0, 0]);
    // Ids are what they are.
    let ids = CompletionPrompt::Tokens(parsed[1..].to_vec());
    let (_, usage) = collect(&provider, greedy(ids)).await.unwrap();
    assert_eq!(usage.prompt_tokens, parsed.len() as u64 - 1);
}

#[tokio::test]
async fn at_top_p_0_the_likeliest_token_is_taken() {
    let provider = tiny(None);
    let prompt = CompletionPrompt::Text("Hello".into());
    let (greedy_text, _) = collect(&provider, greedy(prompt.clone())).await.unwrap();
    for top_p in [0.0, f32::MIN_POSITIVE] {
        let mut request = greedy(prompt.clone());
        request.sampling =
            Sampling { temperature: Some(1.0), top_p: Some(top_p), seed: Some(3), ..Sampling::default() };
        assert_eq!(collect(&provider, request).await.unwrap().0[0].text, greedy_text[0].text);
    }
}

#[tokio::test]
async fn what_is_embedded_is_content() {
    let provider = tiny(None);
    let inputs = vec![CompletionPrompt::Text("a<|user|>b".into())];
    let request = EmbeddingRequest { model: String::new(), inputs, pooling: None, tenant: None };
    let plain = provider.tokenize("tiny", "a<|user|>b", true, false, None).await.unwrap();
    assert_eq!(provider.embed(request).await.unwrap()[0].tokens, plain.len() as u64);
}

#[tokio::test]
async fn completions_can_be_constrained_and_refused() {
    let provider = tiny(None);
    let mut request = greedy(CompletionPrompt::Text("Hello".into()));
    request.response_format = ResponseFormat::Regex("(yes|no)".into());
    let (all, _) = collect(&provider, request.clone()).await.unwrap();
    assert!(["yes", "no"].contains(&all[0].text.as_str()));
    for (change, param) in [
        (Box::new(|r: &mut CompletionRequest| r.n = 1_000_000) as Box<dyn Fn(&mut CompletionRequest)>, "n"),
        (Box::new(|r| r.prompt = CompletionPrompt::Tokens(vec![])), "prompt"),
        (Box::new(|r| r.prompt = CompletionPrompt::Tokens(vec![u32::MAX])), "prompt"),
        (Box::new(|r| r.response_format = ResponseFormat::Grammar("no grammar".into())), "response_format"),
    ] {
        let mut request = greedy(CompletionPrompt::Text("Hello".into()));
        change(&mut request);
        assert_eq!(collect(&provider, request).await.unwrap_err().param(), Some(param));
    }
}

#[tokio::test]
async fn embeddings_have_length_one() {
    let provider = tiny(None);
    let request = |pooling| EmbeddingRequest {
        model: "tiny".into(),
        inputs: ["hello", "the other", "hello"].map(|text| CompletionPrompt::Text(text.into())).to_vec(),
        pooling,
        tenant: None,
    };
    let mean = provider.embed(request(None)).await.unwrap();
    for embedding in &mean {
        let length: f32 = embedding.vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4 && embedding.tokens > 1);
    }
    assert_eq!(mean[0], mean[2]);
    assert_ne!(mean[0].vector, mean[1].vector);
    let last = provider.embed(request(Some(Pooling::Last))).await.unwrap();
    assert_ne!(last[0].vector, mean[0].vector);
    let empty = EmbeddingRequest { inputs: vec![CompletionPrompt::Tokens(vec![])], ..request(None) };
    assert_eq!(provider.embed(empty).await.unwrap_err().param(), Some("input"));
}

#[tokio::test]
async fn tokens_and_back() {
    let provider = tiny(None);
    let tokens = provider.tokenize("tiny", "the </s> end", true, false, None).await.unwrap();
    assert_eq!(tokens[0], 0);
    assert!(!tokens.contains(&1));
    assert_eq!(provider.detokenize("tiny", &tokens, None).await.unwrap(), "the </s> end");
    let parsed = provider.tokenize("tiny", "the </s> end", false, true, None).await.unwrap();
    assert!(parsed.contains(&1) && !parsed.contains(&0));
    assert!(provider.detokenize("tiny", &[u32::MAX], None).await.is_err());
    assert!(provider.tokenize("other", "x", true, false, None).await.is_err());
}
