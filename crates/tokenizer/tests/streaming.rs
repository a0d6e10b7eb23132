//! Text comes out of a stream of tokens in whole characters, and all of it is the text of all tokens.

mod common;

use levain_tokenizer::{Detokenizer, DetokenizerState, SpecialTokens, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

#[expect(clippy::unwrap_used, reason = "a fixture of another form is to fail the test")]
fn tokenizer(name: &str) -> Tokenizer {
    let file: Value = serde_json::from_slice(&common::fixture(&format!("trained/{name}.json"))).unwrap();
    Tokenizer::from_json(&serde_json::to_vec(&file["tokenizer"]).unwrap(), None).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = Detokenizer::new(tokenizer);
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    pieces.push(stream.flush());
    pieces
}

#[test]
fn no_half_character_comes_out() {
    for name in ["gpt2", "llama2-first"] {
        let tokenizer = tokenizer(name);
        let text = "a👩\u{200D}🔬é漢\u{10FFFF}";
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert!(ids.len() > 10, "the vocabulary is to spell this in bytes");
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
        assert!(pieces.iter().any(String::is_empty));
    }
}

#[test]
fn broken_characters_become_one_mark_when_that_is_certain() {
    let tokenizer = tokenizer("llama2-first");
    let byte = |b: u8| tokenizer.token_to_id(&format!("<0x{b:02X}>")).unwrap();
    assert_eq!(pieces(&tokenizer, &[byte(0xE2), byte(0x82), byte(b'x')]), ["", "", "\u{FFFD}x", ""]);
    assert_eq!(pieces(&tokenizer, &[byte(0xFF), byte(0xC3)]), ["\u{FFFD}", "", "\u{FFFD}"]);
    // A control token in between is not part of the text.
    let control = tokenizer.token_to_id("<s>").unwrap();
    assert_eq!(pieces(&tokenizer, &[byte(0xC3), control, byte(0xA9)]), ["", "", "é", ""]);
}

#[test]
fn the_blank_in_front_goes_only_at_the_beginning() {
    let tokenizer = tokenizer("llama2-first");
    let ids = tokenizer.encode("the fox", SpecialTokens::AsText).unwrap();
    assert_eq!(pieces(&tokenizer, &ids).concat(), "the fox");
    let mut middle = DetokenizerState::continuing(&tokenizer);
    let text: String = ids.iter().map(|id| middle.push(&tokenizer, *id)).collect();
    assert_eq!(text, " the fox");
}

#[test]
fn control_tokens_show_on_demand() {
    let tokenizer = tokenizer("gpt2");
    let ids = tokenizer.encode("a<|im_end|>b", SpecialTokens::Parse).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab");
    let mut stream = Detokenizer::showing_control(&tokenizer);
    let shown: String = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(shown, "a<|im_end|>b");
}

/// Made once: the properties are tried hundreds of times.
static MADE: std::sync::LazyLock<Vec<(&str, Tokenizer)>> = std::sync::LazyLock::new(|| {
    ["gpt2", "llama3", "deepseek-v3", "gpt4o", "llama2-first", "bert-uncased", "clip"]
        .map(|name| (name, tokenizer(name)))
        .into()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn texts_come_back(text in "(\\PC| |\n|\t|[0-9]|[a-z]|'s|<s>|👩‍🔬|\u{0}){0,60}") {
        for (_, tokenizer) in &MADE[..4] {
            let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_str());
        }
    }

    #[test]
    fn a_stream_of_any_ids_is_their_text(ids in proptest::collection::vec(0u32..600, 0..80)) {
        for (name, tokenizer) in MADE.iter() {
            let ids: Vec<u32> = ids.iter().map(|id| id % tokenizer.vocab_size()).collect();
            let streamed = pieces(tokenizer, &ids);
            prop_assert_eq!(streamed.concat(), tokenizer.decode(&ids).unwrap());
            if *name == "gpt2" {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).copied().collect();
                let text = String::from_utf8_lossy(&bytes);
                prop_assert_eq!(streamed.concat(), text);
            }
        }
    }
}
