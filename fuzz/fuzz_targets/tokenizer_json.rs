//! A `tokenizer.json` gives an error or a tokenizer whose ids are in its vocabulary.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/tokenizer/tests/hostile/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;

fuzz_target!(|data: &[u8]| {
    examine::tokenizer_json(data);
});
