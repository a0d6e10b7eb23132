//! Small vocabularies under every name of a pre-tokenizer, and llama.cpp's ids for the same texts.
//!
//! `tests/tools/make_gguf_vectors.py` makes them; `LEVAIN_GGUF_VECTORS` names another folder of its output.

mod common;

use levain_tokenizer::{SpecialTokens, Tokenizer};
use serde_json::Value;

#[test]
fn every_pre_tokenizer_gives_the_ids_of_llama_cpp() {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let folder = std::env::var_os("LEVAIN_GGUF_VECTORS").map_or(own, Into::into);
    let file: Value = serde_json::from_slice(&std::fs::read(folder.join("vectors.json")).unwrap()).unwrap();
    let texts = file["texts"].as_array().unwrap();
    let (mut wrong, mut names) = (Vec::new(), Vec::new());
    for (name, rows) in file["ids"].as_object().unwrap() {
        names.push(name.clone());
        if APPROXIMATED.iter().any(|(pre, _)| name.strip_prefix("gpt2.") == Some(pre)) {
            continue;
        }
        let rows = &file["rows"][rows.as_u64().unwrap() as usize];
        // All gpt2 vocabularies are the same but for the name of the pre-tokenizer.
        let (file, pre) = match name.strip_prefix("gpt2.") {
            Some(pre) => ("gpt2", Some(pre)),
            None => (name.as_str(), None),
        };
        let path = if folder.join(format!("{name}.gguf")).exists() { name.as_str() } else { file };
        let bytes = std::fs::read(folder.join(format!("{path}.gguf"))).unwrap();
        let mut vocab = common::read_gguf(&bytes);
        if let Some(pre) = pre {
            vocab.pre = pre.to_owned();
        }
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let mut bad = 0;
        for (text, row) in texts.iter().zip(rows.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let expected: Vec<u32> =
                row.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
            let found = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            // llama.cpp takes no Hangul and no Devanagari apart and keeps a control character, unlike BERT.
            let apart = name == "bert"
                && text
                    .chars()
                    .any(|c| matches!(c, '\u{85}' | '\u{900}'..='\u{97F}' | '\u{AC00}'..='\u{D7A3}'));
            if found != expected && !apart {
                bad += 1;
                if bad <= 2 {
                    let spell = |ids: &[u32]| {
                        ids.iter().map(|id| tokenizer.token_text(*id).unwrap().to_owned()).collect::<Vec<_>>()
                    };
                    wrong.push(format!(
                        "{name} {text:?}\n found    {:?}\n expected {:?}",
                        spell(&found),
                        spell(&expected)
                    ));
                }
            }
        }
        if bad > 0 {
            wrong.push(format!("{name}: {bad} wrong"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for pre in levain_tokenizer::gguf_pre_tokenizers() {
        assert!(names.contains(&format!("gpt2.{pre}")), "{pre} has no vectors");
    }
}

/// Names for which llama.cpp's splits differ from the published patterns, and how. The patterns themselves are held to
/// Hugging Face's library by `hf_vectors.rs`.
const APPROXIMATED: &[(&str, &str)] = &[
    ("deepseek-llm", "digits are not taken one by one; its own vocabulary has no merges of digits"),
    ("kimi-k2", "small and capital letters are not told apart"),
    ("youtu", "small and capital letters are not told apart"),
    ("tiny_aya", "a word may not go on behind digits, which ASCII rules decide"),
    ("cohere2moe", "a word may not go on behind digits, which ASCII rules decide"),
    ("superbpe", "digits are ASCII only"),
];
