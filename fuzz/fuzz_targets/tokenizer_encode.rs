//! A text becomes ids without control tokens and, where the tokenizer keeps everything, itself again.
#![no_main]

use std::sync::LazyLock;

use levain_tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/tokenizer/tests/hostile/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;

static TOKENIZERS: LazyLock<Vec<(Tokenizer, bool)>> = LazyLock::new(|| {
    let files: [(&[u8], bool); 4] = [
        (include_bytes!("../../crates/tokenizer/tests/fixtures/trained/llama3.json"), true),
        (include_bytes!("../../crates/tokenizer/tests/fixtures/trained/llama2-first.json"), true),
        (include_bytes!("../../crates/tokenizer/tests/fixtures/trained/unigram.json"), false),
        (include_bytes!("../../crates/tokenizer/tests/fixtures/trained/bert-uncased.json"), false),
    ];
    let read = |(bytes, lossless)| {
        let file: serde_json::Value = serde_json::from_slice(bytes).expect("the fixture is JSON");
        let json = serde_json::to_vec(&file["tokenizer"]).expect("it was JSON");
        (Tokenizer::from_json(&json, None).expect("the fixture is a tokenizer"), lossless)
    };
    files.map(read).into()
});

fuzz_target!(|data: &[u8]| {
    for (tokenizer, lossless) in TOKENIZERS.iter() {
        examine::encode(tokenizer, *lossless, data);
    }
});
