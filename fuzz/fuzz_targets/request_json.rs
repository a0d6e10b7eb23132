//! The body of any request gives a call or a refusal with status 400 and a sentence.
#![no_main]

use levain_wire::openai::{ChatCall, CompletionCall, DetokenizeCall, EmbeddingCall, TokenizeCall};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let refusals = [
        ChatCall::from_bytes(data).err(),
        CompletionCall::from_bytes(data).err(),
        EmbeddingCall::from_bytes(data).err(),
        TokenizeCall::from_bytes(data).err(),
        DetokenizeCall::from_bytes(data).err(),
    ];
    for refusal in refusals.into_iter().flatten() {
        assert!(refusal.status == 400 && !refusal.message.is_empty() && refusal.message.len() < 1024);
    }
});
