//! A chat template gives an error or a prompt of bounded size.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/tokenizer/tests/hostile/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;

fuzz_target!(|data: &[u8]| {
    if let Ok(source) = std::str::from_utf8(data) {
        examine::chat_template(source);
    }
});
