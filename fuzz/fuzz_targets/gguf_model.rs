//! A whole model in a GGUF file gives an error or can be planned for, and has a vocabulary that works.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/local/tests/suite/gguf_model.rs"]
mod gguf_model;

fuzz_target!(|data: &[u8]| {
    gguf_model::examine(data);
});
