//! Keys of a GGUF vocabulary that are absent or stand for "none": taken as llama.cpp does, or refused by name, and
//! never other tokens without a word.

use levain_tokenizer::{GgufVocab, SpecialTokens, Tokenizer};

/// A byte-level vocabulary: two control tokens, then letters and one merge.
fn gpt2() -> GgufVocab {
    let tokens = ["<|im_start|>", "<|im_end|>", "a", "b", "ab", "c"];
    GgufVocab {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: tokens.iter().map(|&token| token.into()).collect(),
        token_types: vec![3, 3, 1, 1, 1, 1],
        merges: Some(vec!["a b".into()]),
        eos: Some(1),
        ..GgufVocab::default()
    }
}

/// A SentencePiece vocabulary with its usual first tokens.
fn llama() -> GgufVocab {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b"];
    GgufVocab {
        model: "llama".into(),
        tokens: tokens.iter().map(|&token| token.into()).collect(),
        token_types: vec![2, 3, 3, 1, 1, 1],
        scores: vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0],
        ..GgufVocab::default()
    }
}

fn ids(vocab: GgufVocab, text: &str) -> Vec<u32> {
    Tokenizer::from_gguf(vocab).unwrap().encode_with_special_tokens(text, SpecialTokens::AsText).unwrap()
}

#[track_caller]
fn refused(vocab: GgufVocab, key: &str) {
    let error = Tokenizer::from_gguf(vocab).err().expect(key).to_string();
    assert!(error.starts_with(&format!("{key} is missing: ")) && error.contains("take"), "{error}");
}

#[test]
fn ids_outside_of_the_vocabulary_are_none() {
    for none in [u32::MAX, 6, 1 << 31] {
        let id = Some(none);
        let vocab = GgufVocab {
            bos: id,
            eos: Some(1),
            eot: id,
            eom: id,
            unk: id,
            pad: id,
            sep: id,
            cls: id,
            add_bos: Some(false),
            ..gpt2()
        };
        let tokenizer = Tokenizer::from_gguf(vocab.clone()).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.pad_id(), tokenizer.unk_id()), (None, None, None));
        assert_eq!((tokenizer.eos_ids(), tokenizer.bos_text()), (&[1][..], ""));
        assert_eq!(ids(vocab, "abc"), [4, 5]);
    }
}

#[test]
fn keys_that_change_the_tokens_are_asked_for_by_name() {
    refused(GgufVocab { model: String::new(), ..gpt2() }, "tokenizer.ggml.model");
    refused(GgufVocab { pre: String::new(), ..gpt2() }, "tokenizer.ggml.pre");
    refused(GgufVocab { merges: None, ..gpt2() }, "tokenizer.ggml.merges");
    refused(GgufVocab { token_types: Vec::new(), ..gpt2() }, "tokenizer.ggml.token_type");
    refused(GgufVocab { token_types: Vec::new(), ..llama() }, "tokenizer.ggml.token_type");
    refused(GgufVocab { scores: Vec::new(), ..llama() }, "tokenizer.ggml.scores");
    // The file wants a first or last token, by its own word or by its kind's custom, and does not say which.
    refused(GgufVocab { add_bos: Some(true), ..gpt2() }, "tokenizer.ggml.bos_token_id");
    refused(GgufVocab { pre: "llama-bpe".into(), ..gpt2() }, "tokenizer.ggml.bos_token_id");
    let lost = GgufVocab { bos: Some(u32::MAX), add_bos: Some(true), ..gpt2() };
    refused(lost, "tokenizer.ggml.bos_token_id");
    let tokens = gpt2().tokens.iter().map(|token| token.replace("im_", "x_")).collect();
    let endless = GgufVocab { tokens, eos: None, add_eos: Some(true), ..gpt2() };
    refused(endless, "tokenizer.ggml.eos_token_id");
}

#[test]
fn absent_keys_mean_what_llama_cpp_takes() {
    // No pre-tokenizer is needed where texts are not cut.
    let tokenizer = Tokenizer::from_gguf(llama()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.unk_id()), (Some(1), &[2][..], Some(0)));
    assert_eq!(ids(llama(), "ab"), [1, 3, 4, 5]);
    assert_eq!(ids(GgufVocab { bos: Some(u32::MAX), ..llama() }, "ab"), [1, 3, 4, 5]);
    assert_eq!(ids(GgufVocab { add_bos: Some(false), ..llama() }, "ab"), [3, 4, 5]);
    assert_eq!(ids(GgufVocab { add_eos: Some(true), ..llama() }, "ab"), [1, 3, 4, 5, 2]);
    assert_eq!(ids(GgufVocab { add_space_prefix: Some(false), ..llama() }, "ab"), [1, 4, 5]);
    assert_eq!(ids(gpt2(), "abc"), [4, 5]);
    assert_eq!(ids(GgufVocab { bos: Some(0), pre: "llama-bpe".into(), ..gpt2() }, "abc")[0], 0);
    // What is longer than the vocabulary is read as far as that goes.
    let mut longer = llama();
    longer.scores.push(9.0);
    longer.token_types.push(1);
    assert_eq!(ids(longer, "ab"), [1, 3, 4, 5]);
    let kimi = GgufVocab { pre: "kimi-k2".into(), merges: None, ..gpt2() };
    assert!(Tokenizer::from_gguf(kimi).is_ok());
}

/// Lists of named templates, and files from before `tokenizer.json`.
#[test]
fn templates_and_vocabularies_in_other_usual_forms() {
    let vocab = br#"{"a": 0, "b": 1, "ab": 2, "1": 3, "2": 4, "12": 5}"#;
    let merges = b"#version: 0.2\na b\n1 2\n";
    let read = |config: &str| Tokenizer::from_vocab_and_merges(vocab, merges, Some(config.as_bytes()));
    let list = |names: &[&str]| {
        let all: Vec<String> =
            names.iter().map(|name| format!(r#"{{"name": "{name}", "template": "T {name}"}}"#)).collect();
        format!(r#"{{"tokenizer_class": "Qwen2Tokenizer", "chat_template": [{}]}}"#, all.join(","))
    };
    let mut tokenizer = read(&list(&["tool_use", "default", "rag"])).unwrap();
    assert_eq!(tokenizer.chat_template_source(), Some("T default"));
    assert!(tokenizer.named_chat_templates().any(|named| named == ("tool_use", "T tool_use")));
    assert_eq!(read(&list(&["rag"])).unwrap().chat_template_source(), Some("T rag"));
    assert_eq!(read(&list(&["rag", "tool_use"])).unwrap().chat_template_source(), None);
    // One of the user's own goes before all of them.
    tokenizer.set_chat_template("own".into());
    assert_eq!(tokenizer.chat_template_source(), Some("own"));
    assert_eq!(tokenizer.named_chat_templates().count(), 0);
    // Qwen2 cuts digits one by one, so that the merge of two can't apply.
    assert_eq!(tokenizer.encode("ab12", SpecialTokens::AsText).unwrap(), [2, 3, 4]);
    for other in [r#"{"tokenizer_class": "GPT2Tokenizer"}"#, "{}"] {
        let error = read(other).err().unwrap().to_string();
        assert!(error.contains("tokenizer_class") && error.contains("Qwen2Tokenizer"), "{error}");
    }
}
