//! What must hold for any bytes; shared with the fuzz targets.

use levain_tokenizer::{ChatInput, ChatTemplate, Date, Detokenizer, SpecialTokens, Tokenizer};

/// Texts that touch every step of a pipeline.
const TEXTS: &[&str] =
    &["", " ", "Hello, wörld!\n\n 12345 <s></s> 你好 e\u{301}", "\0\u{FFFD}\u{10FFFF}   \t"];

/// A `tokenizer.json` gives an error or a tokenizer whose ids are in its vocabulary. Tells whether it was read.
pub(crate) fn tokenizer_json(bytes: &[u8]) -> bool {
    let Ok(tokenizer) =
        Tokenizer::from_json(bytes, Some(bytes)).or_else(|_| Tokenizer::from_json(bytes, None))
    else {
        return false;
    };
    for text in TEXTS {
        for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
            let Ok(ids) = tokenizer.encode_with_special_tokens(text, special) else { continue };
            assert!(ids.iter().all(|id| *id < tokenizer.vocab_size()));
            assert_eq!(tokenizer.decode(&ids).ok(), Some(streamed(&tokenizer, &ids)));
        }
    }
    true
}

/// A text becomes ids without control tokens and, where the tokenizer keeps everything, itself again.
pub(crate) fn encode(tokenizer: &Tokenizer, lossless: bool, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let ids = match tokenizer.encode(&text, SpecialTokens::AsText) {
        Ok(ids) => ids,
        Err(error) => {
            assert!(!lossless, "{error}");
            return;
        }
    };
    let unk = tokenizer.unk_id();
    assert!(ids.iter().all(|id| !tokenizer.is_control(*id) || Some(*id) == unk));
    let decoded = streamed(tokenizer, &ids);
    assert!(!lossless || decoded == text, "{text:?} became {decoded:?}");
    // Any bytes are ids too: what is streamed is the text of all of them together.
    let any: Vec<u32> = bytes.iter().map(|b| u32::from(*b) * 3 % tokenizer.vocab_size()).collect();
    let all: Vec<u8> =
        any.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap_or_default()).copied().collect();
    let whole = String::from_utf8_lossy(&all).into_owned();
    let streamed = streamed(tokenizer, &any);
    assert!(whole.contains(streamed.as_str()) && whole.len() <= streamed.len() + 1, "{whole:?} {streamed:?}");
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = Detokenizer::new(tokenizer);
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text.push_str(&stream.flush());
    text
}

/// A template gives an error or a prompt of bounded size.
pub(crate) fn chat_template(source: &str) -> bool {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return false };
    let messages = serde_json::json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "<s>Hi | </s>"}]},
        {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"x": 1.5, "y": null}}}]},
        {"role": "tool", "content": "\u{10F000}", "tool_call_id": "call00001"},
    ]);
    let tools = serde_json::json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let input = ChatInput {
        messages,
        tools: Some(tools),
        add_generation_prompt: true,
        date: Date::from_ymd(2025, 1, 20),
        ..ChatInput::default()
    };
    match template.render(&input) {
        Ok(prompt) => assert!(prompt.text().len() < 16 << 20),
        Err(error) => assert!(error.to_string().len() < 1 << 20),
    }
    true
}
